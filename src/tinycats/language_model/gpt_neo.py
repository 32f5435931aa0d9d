"""GPT-Neo's body for GPUs: the same function as transformers', with a third of its kernels.

transformers computes GPT-Neo's attention and its GELU operation by operation, and makes a constant on
the device in every attention, for which the host waits. A step of training is so short on a GPU that
the host's work decides its time. Here, attention and GELU are one kernel each and nothing waits.
:mod:`tinycats.language_model.probe` compares the result with transformers' when a model is loaded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tinycats.language_model.cache import Cache, Past


class GptNeoBody:
    """``GPTNeoModel`` in eval mode, by the model's own weights.

    Args:
        body: transformers' ``GPTNeoModel``.
    """

    def __init__(self, body: Any) -> None:
        self.body, config = body, body.config
        self.heads, self.width = config.num_heads, config.hidden_size
        # local attention sees less than everything where more tokens come before than this
        local = "local" in config.attention_layers
        self.longest = config.window_size if local else config.max_position_embeddings
        gelus = {"gelu": "none", "gelu_new": "tanh"}
        self.gelu = gelus.get(config.activation_function)

    @classmethod
    def of(cls, body: Any) -> GptNeoBody | None:
        """The body where it is GPT-Neo's with a GELU, on a device that is not the CPU; else None."""
        if type(body).__name__ != "GPTNeoModel" or next(body.parameters()).device.type == "cpu":
            return None
        made = cls(body)
        return made if made.gelu else None

    def serves(self, inputs: Tensor, past: Past) -> bool:
        """Whether these tokens are all within the window of local attention."""
        before = sum(part.shape[2] for part in past[0][0]) if past else 0
        return before + inputs.shape[1] <= self.longest

    def __call__(self, inputs: Tensor, past: Past) -> tuple[Tensor, Cache]:
        """As :meth:`tinycats.language_model.network.Network.forward`."""
        body, (rows, length) = self.body, inputs.shape
        before = sum(part.shape[2] for part in past[0][0]) if past else 0
        positions = torch.arange(before, before + length, device=inputs.device)
        x = body.wte(inputs) + body.wpe(positions)
        mask = None
        if before and length > 1:
            ones = torch.ones(length, before + length, dtype=torch.bool, device=inputs.device)
            mask = ones.tril(before)
        shape = rows, length, self.heads, self.width // self.heads
        new = []
        for depth, block in enumerate(body.h):
            maps = block.attn.attention
            h = block.ln_1(x)
            q, k, v = (
                m(h).view(shape).transpose(1, 2) for m in (maps.q_proj, maps.k_proj, maps.v_proj)
            )
            new.append((k, v))
            if past:
                k, v = torch.cat([*past[depth][0], k], 2), torch.cat([*past[depth][1], v], 2)
            found = nn.functional.scaled_dot_product_attention(
                q, k, v, mask, is_causal=not before and length > 1, scale=1.0
            )
            x = x + maps.out_proj(found.transpose(1, 2).reshape(rows, length, self.width))
            h = block.mlp.c_fc(block.ln_2(x))
            h = nn.functional.gelu(h, approximate=self.gelu)  # type: ignore[arg-type]
            x = x + block.mlp.c_proj(h)
        return body.ln_f(x), new
