"""Stories that begin with rewarded tokens from one distribution and are continued by the base model.

An opening is a completion of the training prompt: the tokens that the reward reads. It is drawn from
weights on a finite set of completions, such as those of the optimal policy (:class:`Openings`), or is
the beginning of a policy's story (:func:`opening_of`). The prompted base is the case of one fixed
opening that is shorter. docs/damage.md says what the stories are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tinycats.files.tables import Row
from tinycats.language_model.network import Network
from tinycats.stories.storytelling import Request, measure_stories, sample_stories, story_row

Array = npt.NDArray[np.float64]
#: Stories that are told at once, which bounds the memory of their caches.
AT_ONCE = 256


@dataclass(frozen=True)
class Opening:
    """The first tokens of a story, and what the model that chose them says of each, ``(tokens,)``."""

    token_ids: tuple[int, ...]
    log_ratio: Array  # log π − log p_base of the token, nats
    kl_policy_to_base: Array  # at the token's state, nats
    kl_base_to_policy: Array


@dataclass(frozen=True)
class _State:
    """The tokens that may follow a prefix: each is a range of completions, from ``begin`` on."""

    tokens: npt.NDArray[np.int64]
    begin: npt.NDArray[np.int64]  # one more than tokens: the last is where the state's range ends
    log_p: Array  # of each token
    log_base: Array


@dataclass
class Openings:
    """A distribution π on completions, beside the weights that make the same ones stand for the base.

    Attributes:
        token_ids: ``(completions, T)`` in lexicographic order, all different, −1 after the end.
        log_mass: ``(completions,)`` log π, up to a constant.
        log_base: ``(completions,)`` log of the base's weights, up to a constant.
    """

    token_ids: npt.NDArray[np.int64]
    log_mass: Array
    log_base: Array
    _states: dict[tuple[int, int], _State] = field(default_factory=dict)

    def draw(self, uniforms: Array) -> Opening:
        """One completion by inversion, token by token, each at its own uniform number.

        A token is the one where the distribution over the tokens that follow the prefix, in the order
        of their ids, passes its number: as a policy's tokens are drawn. So the openings of two
        distributions that are alike are mostly the same where the numbers are.
        """
        start, stop = 0, len(self.token_ids)
        taken: list[int] = []
        found: list[tuple[float, float, float]] = []
        for depth in range(self.token_ids.shape[1]):
            if self.token_ids[start, depth] < 0:  # it ended one token before
                break
            state = self._state(start, stop, depth)
            p, ratio = np.exp(state.log_p), state.log_p - state.log_base
            cumulative = p.cumsum()
            place = int(np.searchsorted(cumulative, uniforms[depth] * cumulative[-1], "right"))
            place = min(place, len(state.tokens) - 1)
            taken.append(int(state.tokens[place]))
            kl, kl_of_base = float(p @ ratio), -float(np.exp(state.log_base) @ ratio)
            found.append((float(ratio[place]), kl, kl_of_base))
            start, stop = int(state.begin[place]), int(state.begin[place + 1])
        values = np.array(found).T
        return Opening(tuple(taken), values[0], values[1], values[2])

    def _state(self, start: int, stop: int, depth: int) -> _State:
        """The state after the prefix that completions ``start`` to ``stop`` share."""
        if (start, depth) not in self._states:
            tokens, begin = np.unique(self.token_ids[start:stop, depth], return_index=True)
            log_p, log_base = (
                np.logaddexp.reduceat(weight[start:stop], begin) - np.logaddexp.reduce(weight[start:stop])
                for weight in (self.log_mass, self.log_base)
            )  # fmt: skip
            ends = np.append(begin + start, stop)
            self._states[start, depth] = _State(tokens, ends, log_p, log_base)
        return self._states[start, depth]


def opening_of(story: Row, tokens: int) -> Opening:
    """The first tokens of a policy's story, as a line of its stories file has them."""
    log_p, log_p_base, forward, backward = (
        np.array(story[name][:tokens], dtype=float)
        for name in (
            "log_prob_policy", "log_prob_base", "kl_policy_to_base_nats", "kl_base_to_policy_nats",
        )
    )  # fmt: skip
    return Opening(tuple(story["token_ids"][:tokens]), log_p - log_p_base, forward, backward)


def continue_openings(
    base: Network,
    tokenizer: Any,
    asked: Sequence[Request],
    openings: Sequence[Opening],
    new_tokens: int,
) -> list[Row]:
    """Rows of a stories file: each opening continued by the base model.

    Args:
        base: the base model.
        asked: a story each, without forced tokens; its random numbers are those of any other story
            of the same seed, prompt and index, so the two pair up.
        openings: one for each story.
        new_tokens: most tokens of a story, its opening counted.
    """
    given = [
        replace(request, forced_ids=opening.token_ids[:new_tokens])
        for request, opening in zip(asked, openings, strict=True)
    ]
    # two models often choose the same opening of a story, and then have the same story
    distinct = list(dict.fromkeys(given))
    told: dict[Request, list[int]] = {}
    measured: dict[Request, dict[str, np.ndarray]] = {}
    for begin in range(0, len(distinct), AT_ONCE):
        part = distinct[begin : begin + AT_ONCE]
        ids = sample_stories(base, part, new_tokens, tokenizer.eos_token_id)
        told.update(zip(part, ids, strict=True))
        measured.update(zip(part, measure_stories(base, None, part, ids), strict=True))
    rows = []
    for request, opening in zip(given, openings, strict=True):
        log_p_base = measured[request]["log_prob_policy"].astype(float)
        first = slice(0, len(request.forced_ids))
        found = {
            "log_prob_policy": log_p_base.copy(),
            "log_prob_base": log_p_base,
            "kl_policy_to_base_nats": np.zeros_like(log_p_base),
            "kl_base_to_policy_nats": np.zeros_like(log_p_base),
        }
        found["log_prob_policy"][first] += opening.log_ratio[first]
        found["kl_policy_to_base_nats"][first] = opening.kl_policy_to_base[first]
        found["kl_base_to_policy_nats"][first] = opening.kl_base_to_policy[first]
        rows.append(story_row(tokenizer, request, told[request], found))
    return rows
