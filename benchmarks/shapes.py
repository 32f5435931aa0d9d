"""Models for the benchmarks: nano, and random weights in other shapes.

The final norm of a random model is scaled until some 600 of 1000 completions of four tokens are
distinct, as with a story model. Otherwise the speed of methods that profit from repeated completions
would depend on the initialisation.
"""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROMPT = "Once upon a time there was"
DISTINCT = 600  # of 1000 completions of 4 tokens; about as many as with nano


@dataclass(frozen=True)
class Shape:
    layers: int
    width: int
    heads: int
    vocabulary: int
    window: int = 256  # of every second layer
    context: int = 512


SHAPES = {
    "tinystories-33m": Shape(layers=4, width=768, heads=16, vocabulary=50257, context=2048),
    # nano's layers, for the cost of the vocabulary
    "vocabulary-4096": Shape(layers=4, width=256, heads=8, vocabulary=4096),
    "vocabulary-16384": Shape(layers=4, width=256, heads=8, vocabulary=16384),
    "vocabulary-50257": Shape(layers=4, width=256, heads=8, vocabulary=50257),
}


def model_folder(name: str, gpt2_tokenizer: Path | None, nano: Path) -> Path:
    """Folder of the model ``name``, built on first use."""
    if name == "nano":
        return nano
    folder = HERE / "build" / name
    if not (folder / "shape.json").exists():
        build(folder, SHAPES[name], gpt2_tokenizer)
    return folder


def build(folder: Path, shape: Shape, gpt2_tokenizer: Path | None) -> None:
    """Write a model with random weights and its tokenizer; deterministic."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if gpt2_tokenizer is not None and shape.vocabulary == 50257:
        tokenizer, whose = gpt2(gpt2_tokenizer), "GPT-2's"
    else:
        tokenizer, whose = made_up_words(shape.vocabulary), "made-up words"
    model = random_model(shape, tokenizer.eos_token_id)
    scale, distinct = scale_final_norm(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    about = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "final_norm_scale": scale,
        "distinct_completions_of_1000": distinct,
        "tokenizer": whose,
    }
    (folder / "shape.json").write_text(json.dumps(about, indent=1) + "\n")


def random_model(shape: Shape, end_id: int) -> Any:
    """GPT-Neo of ``shape`` with alternating global and local layers."""
    import torch
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config = GPTNeoConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_layers=shape.layers,
        num_heads=shape.heads,
        max_position_embeddings=shape.context,
        window_size=shape.window,
        attention_types=[[["global", "local"], shape.layers // 2]],
        resid_dropout=0.0,
        embed_dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=end_id,
        eos_token_id=end_id,
    )
    torch.manual_seed(0)
    model = GPTNeoForCausalLM(config).eval()
    with torch.no_grad():
        # large relative to the tied embedding, or every token would predict itself
        model.transformer.wpe.weight.mul_(10)
        for block in model.transformer.h:
            block.mlp.c_proj.weight.mul_(10)
    return model


def scale_final_norm(model: Any, tokenizer: Any) -> tuple[float, int]:
    """Find by bisection the scale that gives about :data:`DISTINCT` completions of 1000."""
    import torch

    from tinycats.language_model.network import network_with_onednn
    from tinycats.policies.rollout import Sampler

    norm = model.to("cuda" if torch.cuda.is_available() else "cpu").transformer.ln_f.weight
    ids, end = tokenizer(PROMPT, add_special_tokens=False).input_ids, tokenizer.eos_token_id
    low, high = 1.0, 64.0  # a larger scale gives fewer distinct completions
    for _ in range(12):
        scale = (low * high) ** 0.5
        with torch.no_grad():
            norm.fill_(scale)
            network = network_with_onednn(model)
            sampler = Sampler(network, network, ids, 4, end)
            rollout = sampler.sample(1000, torch.Generator().manual_seed(0))
        distinct = len(rollout.counts)
        if abs(distinct - DISTINCT) <= 20:
            break
        low, high = (scale, high) if distinct > DISTINCT else (low, scale)
    model.cpu()
    return scale, distinct


def gpt2(folder: Path) -> Any:
    """GPT-2's tokenizer from its vocab.json and merges.txt."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    raw = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return PreTrainedTokenizerFast(
        tokenizer_object=raw._tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def made_up_words(vocabulary: int) -> Any:
    """A tokenizer with ``vocabulary`` words: those of the prompt, then invented ones."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprst", "aeiou")]
    words = ["<|endoftext|>", *PROMPT.split()]
    for length in (2, 3):
        words += ["".join(parts) for parts in itertools.product(syllables, repeat=length)]
    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(words[:vocabulary])}, unk_token=words[0])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=words[0], pad_token=words[0]
    )
