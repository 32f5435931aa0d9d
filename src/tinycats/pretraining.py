"""Pretrain a small GPT-Neo on short stories: the recipe of the model that ships with the workflow.

The model is trained in a compact form that shares its parameter names with transformers'
``GPTNeoForCausalLM`` (Black et al. 2021), so that the file written here *is* a Hugging Face
model. What differs is only how the arithmetic is laid out: one product for queries, keys and
values, fused attention, the vocabulary in chunks that stay in cache, the body in bfloat16.

Recipe: one story a row, opened by end-of-text (a quarter of the rows drop it, since a prompt is
later given without it), rows of like length batched together; Muon (Jordan et al. 2024) for the
matrices of the blocks and AdamW for everything else; warm-up, constant learning rate, then a decay
to zero (Hu et al. 2024, arXiv 2404.06395): everything before the decay is the same whatever the
length of the run, so a run may be lengthened or shortened while it is under way.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

log = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
IGNORE = -100


# ---------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class Recipe:
    """Every number of the recipe; ``config/pretrain.yaml`` documents how to choose them."""

    vocab_size: int = 4096
    layers: int = 4
    width: int = 256
    heads: int = 4
    context: int = 512
    batch_tokens: int = 8192
    epochs: float = 16.0
    muon_learning_rate: float = 0.02
    adam_learning_rate: float = 3.0e-3
    muon_weight_decay: float = 0.1
    warmup_steps: int = 100
    decay_fraction: float = 0.4
    gradient_clip: float = 1.0
    open_without_end_of_text: float = 0.25
    validate_every: int = 250
    checkpoint_seconds: float = 120.0
    precision: str = "bf16"
    seed: int = 0


def learning_rate_factor(step: int, total: int, recipe: Recipe) -> float:
    """Warm-up, constant, then 1 − √(progress) to zero over the last ``decay_fraction``."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    decay_start = total - round(total * recipe.decay_fraction)
    if step < decay_start:
        return 1.0
    return max(0.0, 1.0 - math.sqrt((step - decay_start) / max(1, total - decay_start)))


# ---------------------------------------------------------------------------- text


def read_stories(path: Path) -> list[str]:
    """Stories of a UTF-8 file that separates them by a line ``<|endoftext|>``."""
    parts = path.read_text(encoding="utf-8").split(END_OF_TEXT)
    return [story for part in parts if (story := part.strip())]


def train_tokenizer(stories: list[str], folder: Path, vocab_size: int, context: int) -> None:
    """Byte-level BPE (GPT-2's splitting rule) with end-of-text as token 0, written to ``folder``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(stories, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def encode_stories(stories: list[str], tokenizer_folder: Path) -> list[np.ndarray]:
    """Token ids of each story between an opening and a closing end-of-text (token 0)."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    encoded = tokenizer.encode_batch(stories)
    return [np.array([0, *e.ids, 0], dtype=np.uint16) for e in encoded]


def windows(ids: np.ndarray, context: int) -> Iterator[tuple[np.ndarray, int]]:
    """Cut one story into windows of at most ``context`` inputs.

    Yields ``(window, first_scored)``: the window's ids (inputs and the last target) and the index of
    its first target that no earlier window has scored. A window after the first starts half a
    context back, so every scored token sees at least half a context.
    """
    start = scored = 0
    while True:
        window = ids[start : start + context + 1]
        yield window, scored - start
        scored = start + len(window) - 1
        if scored >= len(ids) - 1:
            return
        start = scored - context // 2


def batches(
    stories: list[np.ndarray], recipe: Recipe, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of one epoch: inputs and targets, each ``(rows, length)``, int64.

    Rows of like length share a batch of about ``batch_tokens``; targets that are padding or were
    scored by an earlier window are ``IGNORE``.
    """
    rng = np.random.default_rng([recipe.seed, epoch])
    widths = [w for w in (96, 128, 160, 192, 224, 256, 320, 384) if w < recipe.context]
    widths.append(recipe.context)
    waiting: dict[int, list[tuple[np.ndarray, int]]] = {width: [] for width in widths}
    ready: list[tuple[int, list[tuple[np.ndarray, int]]]] = []
    for index in rng.permutation(len(stories)):
        ids = stories[index]
        if rng.random() < recipe.open_without_end_of_text:
            ids = ids[1:]
        for window in windows(ids, recipe.context):
            width = next(w for w in widths if len(window[0]) - 1 <= w)
            waiting[width].append(window)
            if len(waiting[width]) * width >= recipe.batch_tokens:
                ready.append((width, waiting[width]))
                waiting[width] = []
    ready += [(width, rows) for width, rows in waiting.items() if rows]
    for index in rng.permutation(len(ready)):
        yield collate(ready[index][1], ready[index][0])


def collate(rows: list[tuple[np.ndarray, int]], width: int) -> tuple[Tensor, Tensor]:
    """Pad windows to ``width``: inputs and targets, each ``(rows, width)``."""
    inputs = torch.zeros(len(rows), width, dtype=torch.long)
    targets = torch.full((len(rows), width), IGNORE)
    for i, (window, first_scored) in enumerate(rows):
        ids = torch.from_numpy(window.astype(np.int64))
        inputs[i, : len(ids) - 1] = ids[:-1]
        targets[i, first_scored : len(ids) - 1] = ids[1 + first_scored :]
    return inputs, targets


# ---------------------------------------------------------------------------- model


class VocabularyLoss(torch.autograd.Function):
    """Summed cross-entropy of ``hidden @ embedding.T``, in chunks of rows that stay in cache.

    The gradient of a row's logits is softmax − one-hot, known as soon as the row's softmax is, so
    it is taken in the forward pass and the logits are never kept. ``hidden`` is ``(rows, width)``,
    ``targets`` ``(rows,)`` without ``IGNORE``.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, embedding: Tensor, targets: Tensor, chunk: int = 1024):  # type: ignore[override]
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
    def backward(ctx, scale):  # type: ignore[override]
        d_hidden, d_embedding = ctx.saved_tensors
        return d_hidden * scale, d_embedding * scale, None, None


class Block(nn.Module):
    """One GPT-Neo block (global attention, scores not divided by √d); names as in transformers."""

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
        return VocabularyLoss.apply(t.ln_f(x)[keep], t.wte.weight, targets[keep])  # type: ignore[no-any-return]


def bits_per_byte(
    model: StoryModel, stories: list[np.ndarray], bytes_total: int, context: int
) -> float:
    """−log2 p(story, closing end-of-text | opening end-of-text) over the stories' UTF-8 bytes."""
    rows = [w for ids in stories for w in windows(ids, context)]
    rows.sort(key=lambda row: len(row[0]))
    nats = 0.0
    with torch.no_grad():
        for begin in range(0, len(rows), 32):
            part = rows[begin : begin + 32]
            nats += model(*collate(part, max(len(w) for w, _ in part) - 1)).item()
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
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    config.architectures = ["GPTNeoForCausalLM"]
    config.dtype = "float16"
    config.save_pretrained(folder)
    GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0).save_pretrained(folder)
    tensors = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    temporary = folder / "model.safetensors.tmp"
    save_file(tensors, temporary, metadata={"format": "pt"})
    os.replace(temporary, folder / "model.safetensors")


# ---------------------------------------------------------------------------- training


def optimizers(model: StoryModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, norms and biases."""
    matrices = [p for p in model.transformer.h.parameters() if p.dim() == 2]
    ids = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in ids]
    return [
        torch.optim.Muon(
            matrices,
            lr=recipe.muon_learning_rate,
            weight_decay=recipe.muon_weight_decay,
            momentum=0.95,
            adjust_lr_fn="original",
        ),
        torch.optim.AdamW(
            others, lr=recipe.adam_learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        ),
    ]


def pretrain(
    train: list[np.ndarray],
    validation: list[np.ndarray],
    validation_bytes: int,
    recipe: Recipe,
    out: Path,
) -> None:
    """Train, writing ``out/curve.csv`` and the best model by validation to ``out/model``.

    Resumes from ``out/state.pt`` when that was made by the same recipe (its length aside, as long
    as the decay had not begun); the interrupted and the uninterrupted run are the same.
    """
    torch.manual_seed(recipe.seed)
    model = StoryModel(recipe)
    opts = optimizers(model, recipe)
    base_rates = [group["lr"] for opt in opts for group in opt.param_groups]
    per_epoch = sum(1 for _ in batches(train, recipe, 0))
    total = round(per_epoch * recipe.epochs)
    decay_start = total - round(total * recipe.decay_fraction)
    fixed = {k: v for k, v in asdict(recipe).items() if k not in ("epochs", "checkpoint_seconds")}
    step, epoch, in_epoch, tokens, best = 0, 0, 0, 0, math.inf
    curve: list[dict[str, float]] = []
    state_file = out / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        same = state["recipe"] == fixed
        if same and (state["epochs"] == recipe.epochs or state["step"] <= decay_start):
            model.load_state_dict(state["model"])
            for opt, saved in zip(opts, state["optimizers"], strict=True):
                opt.load_state_dict(saved)
            step, epoch, in_epoch = state["step"], state["epoch"], state["in_epoch"]
            tokens, best, curve = state["tokens"], state["best"], state["curve"]
            log.info("resumed at step %d of %d", step, total)
        else:
            state_file.rename(out / "state.other-recipe.pt")
            log.warning("%s was made by another recipe; set aside, starting over", state_file)

    def save_state() -> None:
        temporary = state_file.with_suffix(".tmp")
        torch.save(
            {
                "recipe": fixed,
                "epochs": recipe.epochs,
                "model": model.state_dict(),
                "optimizers": [opt.state_dict() for opt in opts],
                "step": step,
                "epoch": epoch,
                "in_epoch": in_epoch,
                "tokens": tokens,
                "best": best,
                "curve": curve,
            },
            temporary,
        )
        os.replace(temporary, state_file)

    saved_at = lap = time.monotonic()
    lap_tokens, nats, seen = 0, 0.0, 0
    while step < total:
        for index, (inputs, targets) in enumerate(batches(train, recipe, epoch)):
            if index < in_epoch:
                continue
            factor = learning_rate_factor(step, total, recipe)
            groups = [group for opt in opts for group in opt.param_groups]
            for group, rate in zip(groups, base_rates, strict=True):
                group["lr"] = rate * factor
            count = int((targets != IGNORE).sum())
            loss = model(inputs, targets)
            (loss / count).backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
            for opt in opts:
                opt.step()
                opt.zero_grad(set_to_none=True)
            step, in_epoch = step + 1, index + 1
            tokens, lap_tokens, seen = tokens + count, lap_tokens + count, seen + count
            nats += loss.item()
            if step % 50 == 0:
                rate = lap_tokens / (time.monotonic() - lap)
                log.info(
                    "step %d/%d  epoch %.2f  loss %.4f nats/token  %.0f tokens/s",
                    *(step, total, epoch + in_epoch / per_epoch, nats / seen, rate),
                )
                lap, lap_tokens = time.monotonic(), 0
            if step % recipe.validate_every == 0 or step == total:
                value = bits_per_byte(model, validation, validation_bytes, recipe.context)
                curve.append(
                    {
                        "step": step,
                        "tokens": tokens,
                        "train_nats_per_token": nats / seen,
                        "validation_bits_per_byte": value,
                    }
                )
                nats, seen = 0.0, 0
                log.info("step %d: validation %.4f bits per byte", step, value)
                if value < best:
                    best = value
                    save_story_model(model, recipe, out / "model")
                lap, lap_tokens = time.monotonic(), 0
            if time.monotonic() - saved_at > recipe.checkpoint_seconds or step == total:
                save_state()
                saved_at = time.monotonic()
            if step == total:
                break
        else:
            epoch, in_epoch = epoch + 1, 0
    (out / "curve.json").write_text(json.dumps(curve, indent=1))
    log.info("done: best validation %.4f bits per byte", best)
