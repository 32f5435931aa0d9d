"""Drawing tokens by inversion, its random numbers, and slices of a range for work in parts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def uniform_generator(seed: int, step: int) -> torch.Generator:
    """Generator of the uniform numbers of one step: a function of seed and step alone."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def chunks(stop: int, size: int, start: int = 0) -> Iterator[slice]:
    """Slices of at most ``size`` that cover ``start`` … ``stop``."""
    size = max(1, size)
    for begin in range(start, stop, size):
        yield slice(begin, min(begin + size, stop))


def sections(
    ascending: Tensor, stop: int, size: int, start: int = 0
) -> Iterator[tuple[slice, slice]]:
    """:func:`chunks` of a range, each with the slice of ``ascending`` whose values lie in it.

    ``ascending`` is ``(entries,)``, sorted; a chunk and its slice are processed together.
    """
    parts = list(chunks(stop, size, start))
    bounds = torch.tensor([start, *(part.stop for part in parts)])
    places = torch.searchsorted(ascending, bounds).tolist()
    for part, begin, end in zip(parts, places, places[1:], strict=False):
        yield part, slice(begin, end)


def draw_tokens(p: Tensor, u: Tensor, state: Tensor) -> Tensor:
    """Token ids ``(entries,)`` by inversion: u[e] in the cumulative distribution of ``state[e]``.

    ``p`` is ``(states, vocabulary)``; ``u`` in [0, 1) and ``state``, rows of ``p``, are
    ``(entries,)``. Each row's cumulative distribution, in float64, is shifted above the row before,
    so that one sorted search serves all rows.
    """
    cumulative = p.cumsum(dim=-1, dtype=torch.float64)
    rows, vocabulary = cumulative.shape
    total = cumulative[:, -1].clone()  # 1 but for rounding
    lift = torch.arange(0, 2 * rows, 2, dtype=torch.float64, device=p.device)
    flat = cumulative.add_(lift[:, None]).flatten()
    token = torch.searchsorted(flat, u * total[state] + lift[state], right=True)
    return (token - state * vocabulary).clamp_(0, vocabulary - 1)
