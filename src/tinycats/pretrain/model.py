"""A compact GPT-Neo for pretraining, in transformers' parameter names (Black et al. 2021).

The saved model *is* a Hugging Face GPT-Neo; only the implementation differs: one matrix product for
queries, keys and values, the loss in chunks of rows that fit in cache, and activations in bfloat16
with parameters in float32.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinycats.files.atomic import whole
from tinycats.pretrain.corpus import IGNORE, collate, windows

if TYPE_CHECKING:
    from tinycats.pretrain.recipe import Recipe


class VocabularyLoss(torch.autograd.Function):
    """Summed cross-entropy of ``hidden @ embedding.T``, in chunks of rows that stay in cache.

    The gradient of a row's logits is softmax − one-hot, known as soon as the row's softmax is, so
    it is taken in the forward pass and the logits are never kept. ``hidden`` is ``(rows, width)``,
    ``targets`` ``(rows,)`` without ``IGNORE``.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, embedding: Tensor, targets: Tensor, chunk: int = 1024):
        weight = embedding.to(hidden.dtype)
        d_hidden = torch.empty_like(hidden)
        d_embedding = torch.zeros_like(embedding)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for begin in range(0, len(hidden), chunk):
            rows = slice(begin, begin + chunk)
            h, t = hidden[rows], targets[rows, None]
            log_p = torch.log_softmax((h @ weight.T).float(), dim=-1)
            total -= log_p.gather(1, t).sum()
            d_logits = log_p.exp_().scatter_add_(1, t, torch.full_like(t, -1.0, dtype=log_p.dtype))
            d_logits = d_logits.to(hidden.dtype)
            d_hidden[rows] = d_logits @ weight
            d_embedding += d_logits.T @ h
        ctx.save_for_backward(d_hidden, d_embedding)
        return total

    @staticmethod
    def backward(ctx, scale):
        d_hidden, d_embedding = ctx.saved_tensors
        return d_hidden * scale, d_embedding * scale, None, None


class Block(nn.Module):
    """One GPT-Neo block (global attention, scores not divided by √d); names as in transformers."""

    attn: Any  # a plain container: mypy sees Tensor | Module in its attributes
    mlp: Any

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.Module()
        self.attn.attention = nn.Module()
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            projection = nn.Linear(width, width, bias=name == "out_proj")
            setattr(self.attn.attention, name, projection)
        self.mlp = nn.Module()
        self.mlp.c_fc = nn.Linear(width, 4 * width)
        self.mlp.c_proj = nn.Linear(4 * width, width)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                out = name.endswith(("out_proj.weight", "c_proj.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if out else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, x: Tensor, future: Tensor) -> Tensor:  # (rows, length, width)
        rows, length, width = x.shape
        a, m, dtype = self.attn.attention, self.mlp, x.dtype
        h = self.ln_1(x)
        qkv = torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]).to(dtype)
        q, k, v = (
            F.linear(h, qkv).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        )
        # on CPU two plain products are 2-3 times as fast as the fused kernel at these lengths
        h = torch.softmax(q @ k.transpose(2, 3) + future[:length, :length], dim=-1) @ v
        h = h.transpose(1, 2).reshape(rows, length, width)
        x = x + F.linear(h, a.out_proj.weight.to(dtype), a.out_proj.bias.to(dtype))
        h = F.linear(self.ln_2(x), m.c_fc.weight.to(dtype), m.c_fc.bias.to(dtype))
        return x + F.linear(F.gelu(h), m.c_proj.weight.to(dtype), m.c_proj.bias.to(dtype))


class StoryModel(nn.Module):
    """GPT-Neo in the layout used for pretraining; ``state_dict`` is GPTNeoForCausalLM's."""

    transformer: Any

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        self.transformer = nn.Module()
        self.transformer.wte = nn.Embedding(recipe.vocab_size, recipe.width)
        self.transformer.wpe = nn.Embedding(recipe.context, recipe.width)
        self.transformer.h = nn.ModuleList(
            Block(recipe.width, recipe.heads, recipe.layers) for _ in range(recipe.layers)
        )
        self.transformer.ln_f = nn.LayerNorm(recipe.width)
        future = torch.full((recipe.context, recipe.context), -math.inf, dtype=self.dtype).triu(1)
        self.register_buffer("future", future, persistent=False)
        for table in (self.transformer.wte, self.transformer.wpe):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Summed negative log-likelihood in nats of the targets that are not ``IGNORE``."""
        t = self.transformer
        x = (t.wte(inputs) + t.wpe.weight[: inputs.shape[1]]).to(self.dtype)
        for block in t.h:
            x = block(x, self.future)
        keep = targets != IGNORE
        return VocabularyLoss.apply(t.ln_f(x)[keep], t.wte.weight, targets[keep])


def bits_per_byte(
    model: StoryModel, stories: list[np.ndarray], bytes_total: int, context: int
) -> float:
    """−log2 p(story, closing end-of-text | opening end-of-text) over the stories' UTF-8 bytes."""
    rows = [w for ids in stories for w in windows(ids, context)]
    rows.sort(key=lambda row: len(row[0]))
    nats, device = 0.0, model.transformer.wte.weight.device
    with torch.no_grad():
        for begin in range(0, len(rows), 32):
            part = rows[begin : begin + 32]
            inputs, targets = collate(part, max(len(w) for w, _ in part) - 1)
            nats += model(inputs.to(device), targets.to(device)).item()
    return nats / math.log(2) / bytes_total


def save_story_model(model: StoryModel, recipe: Recipe, folder: Path) -> None:
    """Write ``config.json``, ``generation_config.json`` and ``model.safetensors`` (half precision)."""
    from safetensors.torch import save_file
    from transformers import GenerationConfig, GPTNeoConfig

    folder.mkdir(parents=True, exist_ok=True)
    config = GPTNeoConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.width,
        num_layers=recipe.layers,
        num_heads=recipe.heads,
        intermediate_size=4 * recipe.width,
        max_position_embeddings=recipe.context,
        attention_types=[[["global"], recipe.layers]],
        activation_function="gelu",
        resid_dropout=0.0,
        embed_dropout=0.0,
        attention_dropout=0.0,
        classifier_dropout=0.0,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    config.architectures = ["GPTNeoForCausalLM"]
    config.dtype = "float16"
    config.save_pretrained(folder)
    GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0).save_pretrained(folder)
    tensors = {k: v.detach().cpu().half().contiguous() for k, v in model.state_dict().items()}
    with whole(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
