"""KL divergences and entropy of next-token distributions, in nats.

A tensor named ``log_p`` holds log π and ``log_p_base`` log p_base, each ``(states, vocabulary)``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rowwise_dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ over the vocabulary of a · b, ``(states,)``, without writing the products down."""
    return torch.bmm(a[:, None, :], b[:, :, None])[:, 0, 0]


def divergences(p: Tensor, log_p: Tensor, log_p_base: Tensor) -> tuple[Tensor, Tensor]:
    """KL(π‖p_base) and KL(p_base‖π) at each state in nats, ``(states,)`` each; ``p`` is exp(log_p).

    The first is what the post's formula says, the second what its code computes, times V.
    """
    ratio = log_p - log_p_base
    return rowwise_dot(p, ratio), -rowwise_dot(log_p_base.exp(), ratio)


def entropy(p: Tensor, log_p: Tensor) -> Tensor:
    """Entropy of π at each state in nats, ``(states,)``; ``p`` is exp(log_p)."""
    return -rowwise_dot(p, log_p)
