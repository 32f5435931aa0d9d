"""A causal language model in parts: its body, its head, and its cache of keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from tinycats.compute.devices import put
from tinycats.compute.linear import replace_linear_layers
from tinycats.program import UserError

#: Keys and values of each block: ``(rows, heads, tokens, head width)`` each.
Cache = list[tuple[Tensor, Tensor]]
#: The same in parts along the tokens, which attention joins with the new ones in one copy.
Past = list[tuple[list[Tensor], list[Tensor]]]


class Network:
    """A causal language model, the policy or the base, whose body and head are called separately.

    Args:
        model: any ``AutoModelForCausalLM`` whose logits are a linear map of its last hidden state.
        precision: ``fp32``, or ``bf16`` for the body; logits, softmax and KL are always float32.

    Raises:
        UserError: the model changes its logits after the head, for example by a soft cap.
    """

    def __init__(self, model: Any, precision: str = "fp32") -> None:
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

    def forward(self, inputs: Tensor, past: Past) -> tuple[Tensor, Cache]:
        """Hidden states ``(rows, length, width)`` and the new keys and values of each block.

        ``inputs`` is ``(rows, length)``; ``past`` holds for each block keys and values of the
        tokens before, ``(rows, heads, tokens, head width)`` each part, and is empty for a prompt.
        """
        cache = _branch(past)
        device = self.device.type
        low = torch.autocast(device, torch.bfloat16) if self.precision == "bf16" else nullcontext()
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


def growing_cache(capacity: int) -> Any:
    """An empty cache allocated for ``capacity`` tokens at once, so that no token copies the rest."""
    from transformers.cache_utils import Cache, DynamicLayer

    class Growing(DynamicLayer):
        length = 0

        def update(
            self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
        ) -> tuple[Tensor, Tensor]:
            begin, self.length = self.length, self.length + key_states.shape[2]
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                rows, heads, _, width = key_states.shape
                self.keys = key_states.new_empty(rows, heads, capacity, width)
                self.values = value_states.new_empty(rows, heads, capacity, width)
            assert self.keys is not None
            assert self.values is not None
            self.keys[:, :, begin : self.length] = key_states
            self.values[:, :, begin : self.length] = value_states
            return self.keys[:, :, : self.length], self.values[:, :, : self.length]

        def get_seq_length(self) -> int:
            return self.length

    return Cache(layer_class_to_replicate=Growing)


def _branch(past: Past) -> Any:
    """A cache of ``past`` that appends a pass's new keys and values, and also keeps them separate."""
    from transformers.cache_utils import Cache, DynamicLayer

    class Branch(DynamicLayer):
        new: tuple[Tensor, Tensor]

        def __init__(self, keys: Sequence[Tensor] = (), values: Sequence[Tensor] = ()) -> None:
            super().__init__()
            self.parts = keys, values

        def update(
            self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
        ) -> tuple[Tensor, Tensor]:
            self.new = key_states, value_states
            keys, values = self.parts
            return torch.cat([*keys, key_states], 2), torch.cat([*values, value_states], 2)

        def get_seq_length(self) -> int:
            return sum(part.shape[2] for part in self.parts[0])

    if not past:
        return Cache(layer_class_to_replicate=Branch)
    return Cache(layers=[Branch(keys, values) for keys, values in past])
