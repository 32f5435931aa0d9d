"""A causal language model in parts: its body and its head."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from tinycats.compute.devices import put
from tinycats.compute.linear import replace_linear_layers
from tinycats.language_model import probe
from tinycats.language_model.cache import Cache, Past, branch
from tinycats.language_model.gpt_neo import GptNeoBody
from tinycats.language_model.head import Head


class Network:
    """A causal language model, the policy or the base, whose body and head are called separately.

    Args:
        model: any ``AutoModelForCausalLM`` that keeps past tokens as keys and values and whose
            logits are a linear map of its last hidden state, scaled or with a soft cap or neither.
        precision: ``fp32``, or ``bf16`` for the body; logits, softmax and KL are always float32.

    Raises:
        UserError: the model's log-probabilities would be wrong (:mod:`tinycats.language_model.probe`).
    """

    def __init__(self, model: Any, precision: str = "fp32") -> None:
        self.model = model
        body = model.base_model
        self.body = body if body is not model else model.get_decoder()  # Llama 4 names no body
        self.device = next(model.parameters()).device
        self.fast = GptNeoBody.of(self.body)  # on GPUs
        self.precision = "fp32"  # the check is of the arithmetic, not of its rounding
        self.head: Head = probe.check(self)
        self.precision = precision

    def forward(self, inputs: Tensor, past: Past) -> tuple[Tensor, Cache]:
        """Hidden states ``(rows, length, width)`` and the new keys and values of each block.

        ``inputs`` is ``(rows, length)``; ``past`` holds for each block keys and values of the
        tokens before, ``(rows, heads, tokens, head width)`` each part, and is empty for a prompt.
        """
        device = self.device.type
        low = torch.autocast(device, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        # not in bf16, where cuDNN's attention is planned again for each number of rows
        if self.fast is not None and self.precision == "fp32" and self.fast.serves(inputs, past):
            return self.fast(inputs, past)
        cache = branch(past)
        with low:
            hidden = self.body(
                input_ids=inputs, past_key_values=cache, use_cache=True
            ).last_hidden_state
        return hidden.float(), [layer.new for layer in cache.layers]

    def next_log_probabilities(self, fed: Tensor, cache: Any) -> Tensor:
        """log π of the token after ``fed`` (rows, length), ``(rows, vocabulary)``; extends ``cache``."""
        device = self.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16"):
            out = self.body(input_ids=put(fed, self.device), past_key_values=cache, use_cache=True)
        return self.log_probabilities(out.last_hidden_state[:, -1].float())

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """log π at each state, ``(states, vocabulary)`` float32, of ``hidden`` ``(states, width)``."""
        return torch.log_softmax(self.head(hidden), dim=-1)


def network_with_onednn(model: Any, precision: str = "fp32") -> Network:
    """:class:`Network` of a model whose linear layers are replaced first, in place.

    The layers compute by oneDNN where that works (:func:`replace_linear_layers`); weights and names
    stay the same.
    """
    replace_linear_layers(model)
    return Network(model, precision)
