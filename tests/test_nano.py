"""The story model that ships with the workflow, as a user's transformers sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tinycats.models.folders import load_causal_lm
from tinycats.pretrain.model_card import bits_per_byte

ROOT = Path(__file__).parents[1]
NANO = ROOT / "workflow" / "resources" / "nano"

# written for this test, in the style of the stories and in none of them
FRESH = [
    "Once upon a time, there was a small red boat named Pip. Pip lived in a bathtub with a yellow "
    'duck. One day, the duck said, "Let\'s go to the big sea!" Pip was scared, but he wanted to be '
    "brave.\n\nThey went down the drain and came out in a river. The river was fast and loud. The "
    'duck held on to Pip and said, "You are a good boat." Pip was so happy that he forgot to be '
    "scared.",
    "Anna had a blue balloon. She took it to the park to show her friend Max. The wind was strong "
    'and the balloon flew into a tree. Anna started to cry. Max said, "Do not be sad. I can climb." '
    "He climbed the tree and got the balloon. Anna gave Max a big hug and said thank you. They "
    "played together all day.",
    "One morning, Grandpa baked bread. It smelled very good. A little mouse came out of its hole "
    "and asked for some. Grandpa smiled and gave the mouse a warm piece. From that day on, the mouse "
    "came every morning, and they were best friends.",
]


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return load_causal_lm(NANO)


def test_loads_offline_without_any_code_of_ours(tmp_path: Path) -> None:
    program = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("Once upon a time there was", return_tensors="pt").input_ids
out = model.generate(ids, max_new_tokens=8, do_sample=False)
print(type(model).__name__, tokenizer.decode(out[0]))
assert not [name for name in sys.modules if name.startswith("tinycats")]
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(NANO)],
        cwd=tmp_path,
        env=environment | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    name, text = done.stdout.strip().split(" ", 1)
    assert name == "GPTNeoForCausalLM"
    assert text.startswith("Once upon a time there was ")


def test_small_safe_and_whole() -> None:
    files = [path for path in NANO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20_000_000
    assert not [path.name for path in files if path.suffix in (".bin", ".pt", ".py", ".pkl")]
    config = json.loads((NANO / "config.json").read_text())
    assert config["architectures"] == ["GPTNeoForCausalLM"]
    assert {value for key, value in config.items() if "dropout" in key} == {0.0}
    assert config["dtype"] == "float16"
    assert config["max_position_embeddings"] >= 512


def test_tokenization(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    prompt = tokenizer("Once upon a time there was").input_ids
    assert len(prompt) == 6
    assert len(tokenizer(" cat").input_ids) == 1
    assert tokenizer.decode(prompt) == "Once upon a time there was"
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id
    for text in [*FRESH, "Ça va? 猫 – 🐈\n\n\ttab  two spaces"]:
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_fresh_sentences_cost_few_bits(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    value = bits_per_byte(model, tokenizer, FRESH)
    assert 0.3 < value < 0.85
    shuffled = [" ".join(sorted(story.split())) for story in FRESH]
    assert bits_per_byte(model, tokenizer, shuffled) > 1.5 * value


def test_the_card_is_of_this_file() -> None:
    from tinycats.models.folders import sha256_file

    text = (NANO / "README.md").read_text(encoding="utf-8")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert sha256_file(NANO / name) in text
    assert (NANO / "learning_curve.svg").is_file()
    for section in ("Data and licence", "Recipe", "Learning curve", "Memorisation", "Limits"):
        assert f"\n## {section}\n" in text
    assert "CDLA-Sharing-1.0" in text
    assert "arXiv 2305.07759" in text
