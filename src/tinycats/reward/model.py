"""What a reward is: a function from texts to numbers, each text's from the text alone.

:mod:`tinycats.reward.similarity`, :mod:`tinycats.reward.python` and
:mod:`tinycats.reward.classifier` each hold one form. :class:`RewardModel` remembers what a reward
gave, so that each distinct text is rewarded once; exact deduplication, the memo that jobs share and
the best achievable reward all rest on a text's reward being the same in every batch and job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tinycats.program import UserError
from tinycats.settings import shown_in_line

#: known texts that are rewarded again with new ones, where a reward has to be checked
CHECKED_AGAIN = 8


class RewardError(UserError):
    """A reward failed, or is not what a reward must be; the user can mend it."""


class Reward(Protocol):
    """A reward of one form.

    Attributes:
        name: what labels call it, such as ``similarity to “cat”``.
        bounds: the lowest and highest value that it can have.
        identity: checksums and names of all that decides it, for run.json.
        computed_with: what its last bits depend on besides: code, libraries, the machine.
        by_text_alone: whether its code ensures that a text's reward depends on nothing but the
            text. Where it does not, :class:`RewardModel` checks.
    """

    @property
    def name(self) -> str: ...

    @property
    def bounds(self) -> tuple[float, float]: ...

    @property
    def identity(self) -> Mapping[str, str]: ...

    @property
    def computed_with(self) -> Mapping[str, Any]: ...

    @property
    def by_text_alone(self) -> bool: ...

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Rewards ``(texts,)``, float32, on the CPU, of distinct texts.

        Raises:
            RewardError: there is none for a text.
        """


class RewardModel:
    """Text → reward with a memo: a reward sees only texts that are not in the memo.

    A reward that is not known to depend on the text alone is also given a few known texts each
    time, and has to repeat their rewards.
    """

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.memo: dict[str, np.float32] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Rewards ``(texts,)``, float32, on the CPU.

        Raises:
            RewardError: the reward failed, or gave a known text another value.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self.memo]
        if new:
            known = [] if self.reward.by_text_alone else self._latest()
            found = self.reward([*new, *known]).numpy()
            self._compare(known, found[len(new) :])
            if not known and not self.reward.by_text_alone:
                again = new[: -CHECKED_AGAIN - 1 : -1]
                self._compare(again, self.reward(again).numpy(), dict(zip(new, found, strict=True)))
            self.memo.update(zip(new, found[: len(new)], strict=True))
        return torch.from_numpy(np.array([self.memo[text] for text in texts], dtype=np.float32))

    def _latest(self) -> list[str]:
        return list(islice(reversed(self.memo), CHECKED_AGAIN))

    def _compare(
        self, texts: list[str], found: np.ndarray, expected: Mapping[str, Any] | None = None
    ) -> None:
        expected = self.memo if expected is None else expected
        for text, value in zip(texts, found, strict=True):
            if value != expected[text]:
                raise RewardError(
                    f"reward ({self.reward.name}): {expected[text]} and then {value} for"
                    f" {shown_in_line(text)}; a text's reward has to be the same each time: without"
                    " chance, and whatever the other texts and earlier calls are (if only the last"
                    " digits differ, round it)"
                )
