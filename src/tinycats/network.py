"""A causal language model taken apart: its body, its head and its keys and values."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from tinycats.linear import use_onednn
from tinycats.program import UserError

#: Keys and values of each block: ``(rows, heads, tokens, head width)`` each.
Cache = list[tuple[Tensor, Tensor]]


class Network:
    """The policy or the reference, as the prefix tree uses it.

    Args:
        model: any ``AutoModelForCausalLM`` whose logits are a linear map of its last hidden state.
        precision: ``fp32``, or ``bf16`` for the body; logits, softmax and KL are always float32.

    Raises:
        UserError: the model does something else to its logits, such as a soft cap.
    """

    def __init__(self, model: Any, precision: str = "fp32") -> None:
        use_onednn(model)
        self.model = model
        self.body = model.base_model
        self.head = model.get_output_embeddings()
        self.device = next(model.parameters()).device
        self.precision = precision
        with torch.inference_mode():
            ids = torch.zeros(1, 2, dtype=torch.long, device=self.device)
            hidden = self.body(input_ids=ids, use_cache=False).last_hidden_state
            if not torch.allclose(self.head(hidden), model(ids).logits, rtol=1e-4, atol=1e-4):
                raise UserError(
                    f"{type(model).__name__} changes its logits after the head; only models whose"
                    " logits are a linear map of the last hidden state can be trained"
                )

    def forward(self, inputs: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        """Hidden states ``(rows, length, width)`` and the new keys and values of each block.

        ``inputs`` is ``(rows, length)``; ``past`` holds for each block keys and values
        ``(rows, heads, tokens before, head width)``, and is empty for a prompt.
        """
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (keys, values) in enumerate(past):
            cache.update(keys, values, layer)
        device = self.device.type
        low = torch.autocast(device, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with low:
            hidden = self.body(
                input_ids=inputs, past_key_values=cache, use_cache=True
            ).last_hidden_state
        length = inputs.shape[1]
        layers: list[Any] = list(cache.layers)
        new = [(layer.keys[:, :, -length:], layer.values[:, :, -length:]) for layer in layers]
        return hidden.float(), new

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """log π at each state, ``(states, vocabulary)`` float32, of ``hidden`` ``(states, width)``."""
        return torch.log_softmax(self.head(hidden), dim=-1)
