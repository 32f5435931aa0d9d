"""Keys and values of the tokens before: a cache that grows, and one that branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: Keys and values of each block: ``(rows, heads, tokens, head width)`` each.
Cache = list[tuple[Tensor, Tensor]]
#: The same in parts along the tokens, which attention joins with the new ones in one copy.
Past = list[tuple[list[Tensor], list[Tensor]]]


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
                self.keys, self.values = (
                    new.new_empty(*new.shape[:2], capacity, new.shape[3])
                    for new in (key_states, value_states)  # widths differ in DeepSeek's attention
                )
            assert self.keys is not None
            assert self.values is not None
            self.keys[:, :, begin : self.length] = key_states
            self.values[:, :, begin : self.length] = value_states
            return self.keys[:, :, : self.length], self.values[:, :, : self.length]

        def get_seq_length(self) -> int:
            return self.length

    return Cache(layer_class_to_replicate=Growing)


def branch(past: Past) -> Any:
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
