"""The head of a language model: from the last hidden state to logits, and its derivative.

Most models' logits are z = W h + b. Some multiply them by a number of their configuration (Cohere,
Granite), some bound them by a soft cap c, logits = c · tanh(z / c) (Gemma 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Head:
    """logits = cap · tanh(scale · (W h + b) / cap), or scale · (W h + b) without a cap.

    Args:
        linear: W and b.
        scale: what the model multiplies its logits by.
        cap: bound of the logits; None for none.
    """

    def __init__(self, linear: nn.Linear, scale: float = 1.0, cap: float | None = None) -> None:
        self.linear, self.scale, self.cap = linear, scale, cap

    @property
    def weight(self) -> Any:
        """W, ``(vocabulary, width)``."""
        return self.linear.weight

    @property
    def bias(self) -> Any:
        """b, ``(vocabulary,)``, if there is one."""
        return self.linear.bias

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits ``(…, vocabulary)`` of ``hidden`` ``(…, width)``."""
        logits: Tensor = self.linear(hidden)
        if self.scale != 1:
            logits = logits * self.scale
        if self.cap is not None:
            logits = self.cap * torch.tanh(logits / self.cap)
        return logits

    def before_scale_and_cap(self, d_logits: Tensor, hidden: Tensor) -> Tensor:
        """∂L/∂(W h + b) of ∂L/∂logits, both ``(states, vocabulary)``."""
        if self.cap is not None:
            d_logits = d_logits * (1 - (self(hidden) / self.cap) ** 2)
        return d_logits if self.scale == 1 else d_logits * self.scale


def heads(linear: nn.Linear, config: Any) -> Iterator[Head]:
    """The heads that a model with this configuration may have, the plain one first.

    Models differ in what an entry means (Granite divides by ``logits_scaling``, HyperCLOVA X
    multiplies by it), so each is tried against the model's own logits.
    """
    config = config.get_text_config(decoder=True)
    names = ("logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier")
    values = [getattr(config, name, None) for name in names]
    found = [float(value) for value in values if isinstance(value, int | float) and value]
    scales = [1.0, *found, *(1 / value for value in found)]
    cap = getattr(config, "final_logit_softcapping", None)
    for bound in (None, cap) if cap else (None,):
        for scale in scales:
            yield Head(linear, scale, bound)
