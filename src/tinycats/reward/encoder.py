"""BERT (Devlin et al. 2018, arXiv 1810.04805) over concatenated texts, without padding.

The weights are those of transformers' ``BertModel``, and so are the results up to rounding. The
order of the work differs, since encoding takes most of a training step with a small policy:

- The tokens of all texts are rows of one matrix, the texts in order of their length. Linear maps
  and norms take these rows a fixed number at a time, wherever one text ends and another begins.
- Attention takes texts of equal length together, so it needs no mask. It also takes a fixed number
  of texts: where fewer are left, it reads past the end, and that output is overwritten.
- On a CPU, each thread takes whole passes over some of the texts (:mod:`tinycats.compute.workers`).
- The input of the first block depends on a token's word and position alone. The first block's
  queries, keys and values are therefore computed once for each (word, position).

Every product and softmax thus has a shape that depends at most on a text's own length, so the
encoding is batch-invariant, bit for bit.

This reads the parts of ``BertModel`` by name. Where another version of transformers names them
differently, :mod:`tinycats.reward.similarity` encodes by sentence-transformers instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from tinycats.compute import workers
from tinycats.compute.devices import put, suited
from tinycats.compute.linear import fuse_gelu, replace_linear_layers
from tinycats.progress import EVERY_SECONDS, progress

ROWS_AT_ONCE = {"cpu": 256, "elsewhere": 4096}
TEXTS_AT_ONCE = {"cpu": 16, "elsewhere": 64}
FUSED_ATTENTION_FROM = 32  # tokens; on a CPU shorter texts are faster as plain matrix products
TOKENS_PER_PASS = {"cpu": 6144, "elsewhere": 2**16}  # 45 and 500 MB at width 384
PASSES_PER_THREAD = 2  # so that a thread whose core is shared takes fewer
EMBEDDING = "embedding texts, part"  # in the log


class _Block(nn.Module):
    """One of transformers' ``BertLayer``, with query, key and value as one linear layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention, after = layer.attention.self, layer.attention.output
        maps = attention.query, attention.key, attention.value
        width = maps[0].in_features
        self.qkv = nn.Linear(width, 3 * width)
        with torch.no_grad():
            self.qkv.weight.copy_(torch.cat([m.weight for m in maps]))
            self.qkv.bias.copy_(torch.cat([m.bias for m in maps]))
            # the scores' factor 1/√(head width) is multiplied into the queries' weights once
            self.qkv.weight[:width] *= attention.scaling
            self.qkv.bias[:width] *= attention.scaling
        self.attended, self.attended_norm = after.dense, after.LayerNorm
        self.widen, self.activation = (
            layer.intermediate.dense,
            layer.intermediate.intermediate_act_fn,
        )
        self.narrow, self.norm = layer.output.dense, layer.output.LayerNorm

    def after_attention(self, x: Tensor, context: Tensor) -> Tensor:
        """The block's output rows from its input rows and the output of attention for them."""
        x = self.attended_norm(self.attended(context).add_(x))
        return self.norm(self.narrow(self.activation(self.widen(x))).add_(x))


class PackedBert:
    """Mean over its tokens of each text's last hidden states.

    Args:
        model: transformers' ``BertModel`` in float32; its layers are copied and it stays unchanged.
        device: where to compute.

    Raises:
        AttributeError: a part of the model has another name than expected.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self.device = device
        self.on_cpu = self.device.type == "cpu"
        self.rows_at_once = suited(ROWS_AT_ONCE, device)
        self.texts_at_once = suited(TEXTS_AT_ONCE, device)
        self.tokens_per_pass = suited(TOKENS_PER_PASS, device)
        self.width, self.heads = model.config.hidden_size, model.config.num_attention_heads
        self.longest = model.config.max_position_embeddings
        self.embeddings = deepcopy(model.embeddings).to(self.device)
        self.blocks = [_Block(deepcopy(layer)).to(self.device) for layer in model.encoder.layer]
        for block in self.blocks:
            replace_linear_layers(block, frozen=True)  # in the copies
            if model.config.hidden_act == "gelu" and fuse_gelu(block.widen):
                block.activation = nn.Identity()

    @torch.inference_mode()
    def __call__(self, token_ids: list[list[int]]) -> Tensor:
        """``(texts, width)`` float32 on the device; each text has at least one token."""
        order = sorted(range(len(token_ids)), key=lambda text: len(token_ids[text]))
        lengths = [len(ids) for ids in token_ids]
        passes = [
            [token_ids[text] for text in part]
            for part in _passes(order, lengths, self._tokens_per_pass(sum(lengths)))
        ]
        done = workers.run(self._encode, passes) if self.on_cpu else map(self._encode, passes)
        found = list(progress(done, len(passes), EMBEDDING, after=EVERY_SECONDS))
        place = torch.empty(len(order), dtype=torch.long)
        place[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(found)[put(place, self.device)]

    def _tokens_per_pass(self, tokens: int) -> int:
        """Tokens in one pass: on a CPU whole blocks of rows, and a few passes for each thread."""
        threads = torch.get_num_threads() if self.on_cpu else 1
        if threads == 1:
            return self.tokens_per_pass
        blocks = -(-tokens // (PASSES_PER_THREAD * threads * self.rows_at_once))
        # all threads' passes together take no more memory than one thread's
        most = max(1, self.tokens_per_pass // threads // self.rows_at_once)
        return self.rows_at_once * min(blocks, most)

    @torch.inference_mode()
    def _encode(self, texts: list[list[int]]) -> Tensor:
        """The same for texts in ascending order of length, in one pass."""
        groups = list(_groups(texts))
        x, pair_of = self._embed(texts)
        # attention may read past the last text, so these two are longer than x
        spare = self.texts_at_once * len(texts[-1])
        qkv = torch.zeros(len(pair_of) + spare, 3 * self.width, device=self.device)
        context = torch.zeros(len(pair_of) + spare, self.width, device=self.device)
        for depth, block in enumerate(self.blocks):
            if depth == 0:
                once = torch.cat([block.qkv(part) for part in self._parts(x)])
                qkv[: len(pair_of)] = once[pair_of]
                x = x[pair_of]
            else:
                for part, result in zip(self._parts(x), self._parts(qkv), strict=False):
                    result.copy_(block.qkv(part))
            self._attend(qkv, context, groups)
            for part, found in zip(self._parts(x), self._parts(context), strict=False):
                part.copy_(block.after_attention(part, found))
        return torch.cat([x[rows].view(-1, length, self.width).mean(1) for rows, length in groups])

    def _embed(self, texts: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Vectors of the distinct (word, position) pairs, and each row's pair; both are padded to a
        multiple of ``rows_at_once``."""
        words = torch.tensor([word for text in texts for word in text])
        positions = torch.tensor([position for text in texts for position in range(len(text))])
        pairs, pair_of = torch.unique(words * self.longest + positions, return_inverse=True)
        pairs, pair_of = self._fill(pairs), self._fill(pair_of)
        # transformers' own sum and norm, each word as a separate row
        x = self.embeddings(
            input_ids=put(pairs // self.longest, self.device)[None],
            position_ids=put(pairs % self.longest, self.device)[None],
        )[0]
        return x, put(pair_of, self.device)

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.rows_at_once)

    def _fill(self, values: Tensor) -> Tensor:
        return nn.functional.pad(values, (0, -len(values) % self.rows_at_once))

    def _attend(self, qkv: Tensor, context: Tensor, groups: list[tuple[slice, int]]) -> None:
        """Fill ``context`` (rows, width) with softmax(QKᵀ)V of each text."""
        for rows, length in groups:
            plain = self.on_cpu and length < FUSED_ATTENTION_FROM
            at_once = self.texts_at_once if plain or not self.on_cpu else 1
            for begin in range(rows.start, rows.stop, at_once * length):
                here = slice(begin, begin + at_once * length)
                shape = (at_once, length, 3, self.heads, self.width // self.heads)
                q, k, v = qkv[here].view(shape).permute(2, 0, 3, 1, 4).contiguous()
                if plain:
                    # torch's softmax over a dozen contiguous values is slow; over a strided axis it is not
                    scores = (q @ k.transpose(2, 3)).permute(0, 3, 1, 2).contiguous()
                    found = scores.softmax(1).permute(0, 2, 3, 1) @ v
                else:
                    found = nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)
                context[here].view(*shape[:2], *shape[3:]).copy_(found.transpose(1, 2))


def _groups(texts: list[list[int]]) -> Iterator[tuple[slice, int]]:
    """The rows of the texts of each length, and the length; texts ascend in length."""
    begin = 0
    for length, same in groupby(map(len, texts)):
        end = begin + sum(same)
        yield slice(begin, end), length
        begin = end


def _passes(order: list[int], lengths: list[int], most: int) -> Iterator[list[int]]:
    """``order`` in parts of at most ``most`` tokens, or of one text."""
    part: list[int] = []
    tokens = 0
    for text in order:
        if part and tokens + lengths[text] > most:
            yield part
            part, tokens = [], 0
        part.append(text)
        tokens += lengths[text]
    if part:
        yield part
