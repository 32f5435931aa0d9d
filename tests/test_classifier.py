"""A reward that is one output of a classifier, against transformers' own forward pass."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_rewards import train
from tiny_model import END, copy, write_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tinycats.files.text import read_json
from tinycats.models.obtain import obtain_classifier
from tinycats.program import UserError
from tinycats.reward.classifier import ClassifierReward
from tinycats.reward.model import RewardError, RewardModel
from tinycats.reward.settings import RewardFiles, RewardSettings

TEXTS = ["", "cat", "Once upon a time there was a cat who lived", "Tom, the dog. " * 40]
LABELS = ["SAD", "HAPPY", "NEITHER"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base") / "tiny", sharpness=1.0)


@pytest.fixture(scope="module")
def classifier(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, random weights, texts of at most 64 tokens, dropout that must not act."""
    return write(tmp_path_factory.mktemp("classifier") / "three", base)


def write(folder: Path, base: Path, kind: Any = BertForSequenceClassification, **more: Any) -> Path:
    """A BERT of this class, with the tokenizer of ``base``."""
    torch.manual_seed(3)
    if "num_labels" not in more:
        more |= {
            "id2label": dict(enumerate(LABELS)),
            "label2id": {n: i for i, n in enumerate(LABELS)},
        }
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = END
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=64, hidden_dropout_prob=0.5,
        initializer_range=0.4, **more,
    )  # fmt: skip
    kind(config).save_pretrained(folder)
    return folder


def logits(folder: Path, text: str) -> torch.Tensor:
    """By transformers itself, in double precision."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
    ids = AutoTokenizer.from_pretrained(folder)(text).input_ids[:64]
    with torch.no_grad():
        return model(torch.tensor([ids], dtype=torch.long)).logits[0]


def test_the_probability_of_a_class(classifier: Path) -> None:
    texts = TEXTS[1:]
    reward = ClassifierReward(classifier, "HAPPY", "cpu")
    expected = torch.stack([logits(classifier, text).softmax(0)[1] for text in texts])
    assert expected.std() > 0.02
    found = RewardModel(reward)(texts)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    assert reward(texts[::-1]).tolist() == found.tolist()[::-1]
    assert (reward.name, reward.bounds) == ("score of “HAPPY”", (0.0, 1.0))


def test_outputs_that_are_no_softmax(base: Path, tmp_path: Path) -> None:
    text = TEXTS[2]
    several = write(tmp_path / "several", base, problem_type="multi_label_classification")
    found = ClassifierReward(several, "SAD", "cpu")([text])
    assert float(found) == pytest.approx(float(logits(several, text).sigmoid()[0]), abs=1e-6)
    one = write(tmp_path / "one", base, num_labels=1)
    reward = ClassifierReward(one, None, "cpu")
    assert float(reward([text])) == pytest.approx(float(logits(one, text)), abs=1e-5)
    assert (reward.name, reward.bounds[0]) == ("score of “one”", float("-inf"))
    assert reward.identity["classifier_label"] == "LABEL_0"


@pytest.mark.parametrize(
    ("config", "kind", "longest"),
    [(RobertaConfig, RobertaForSequenceClassification, 32), (LlamaConfig, LlamaForSequenceClassification, 34)],
)  # fmt: skip
def test_other_families(base: Path, tmp_path: Path, config: Any, kind: Any, longest: int) -> None:
    """RoBERTa has fewer places than its config says; Llama reads its score off the last token."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.save_pretrained(tmp_path)
    kind(
        config(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=34, num_labels=1, bos_token_id=0,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    reward = ClassifierReward(tmp_path, None, "cpu")
    assert reward.longest == longest
    short, cut = reward([TEXTS[2], TEXTS[3]]).tolist()
    assert short == pytest.approx(float(logits(tmp_path, TEXTS[2])), abs=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        begins = model(torch.tensor([tokenizer(TEXTS[3]).input_ids[:longest]])).logits
    assert cut == pytest.approx(float(begins), abs=1e-5)


def test_identity_is_all_that_decides_numbers(classifier: Path, tmp_path: Path) -> None:
    own = ClassifierReward(classifier, "HAPPY", "cpu").identity
    assert ClassifierReward(classifier, "SAD", "cpu").identity != own
    other = copy(classifier, tmp_path / "other")
    (other / "README.md").write_text("words")
    assert ClassifierReward(other, "HAPPY", "cpu").identity == own
    about = read_json(other / "config.json")
    (other / "config.json").write_text(json.dumps(about | {"layer_norm_eps": 1e-3}))
    assert ClassifierReward(other, "HAPPY", "cpu").identity != own


def test_a_bad_classifier_is_one_line(classifier: Path, base: Path, tmp_path: Path) -> None:
    def says(folder: Path, label: str | None) -> str:
        with pytest.raises(UserError) as error:
            ClassifierReward(folder, label, "cpu")([TEXTS[2]])
        assert "\n" not in str(error.value)
        return str(error.value)

    assert says(classifier, "happy") == (
        f'label: "happy" found, expected a class of {classifier}: SAD, HAPPY, NEITHER;'
        " did you mean HAPPY?"
    )
    assert "label: null found, expected a class of" in says(classifier, None)
    assert "lacks the weights" in says(write(tmp_path / "bert", base, BertModel), "HAPPY")
    damaged = copy(classifier, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"nothing")
    assert "is damaged or cut short" in says(damaged, "HAPPY")
    nan = BertForSequenceClassification.from_pretrained(classifier)
    nan.classifier.bias.data[0] = torch.nan
    nan.save_pretrained(copy(classifier, tmp_path / "nan"))
    assert 'nan for "Once upon a time' in says(tmp_path / "nan", "SAD")
    with pytest.raises(RewardError, match=r"cannot read \"\": "):  # no token at all
        ClassifierReward(classifier, "SAD", "cpu")([""])


def test_a_label_is_checked_with_the_config(classifier: Path, tmp_path: Path) -> None:
    def says(**keys: str) -> str:
        with pytest.raises(UserError) as error:
            RewardSettings.read(keys).check_itself()
        return str(error.value)

    folder = str(classifier)
    RewardSettings.read({"classifier": folder, "label": "SAD"}).check_itself()
    RewardSettings.read({"classifier": "organisation/on-the-hub", "label": "SAD"}).check_itself()
    assert says(classifier=folder, label="HAPY").endswith("did you mean HAPPY?")
    assert says(classifier=folder).startswith("label: null found, expected a class of")
    assert says(label="SAD") == "label: belongs to classifier, which is missing"
    assert says(classifier="nano", label="x").startswith("classifier: nano writes stories")
    assert says(classifier="no/such/folder").startswith("classifier: unknown model")
    assert says(classifier=folder, label="SAD", python="a.py:f").startswith("python and classifier")
    broken = copy(classifier, tmp_path / "broken")
    (broken / "config.json").write_text('{"id2label": [1]}')
    assert "id2label: [1] found, expected" in says(classifier=str(broken), label="SAD")
    with pytest.raises(UserError, match="--classifier with --label"):
        RewardFiles(label="SAD").check_combination()


def test_pickled_weights_are_converted(classifier: Path, tmp_path: Path) -> None:
    pickled = copy(classifier, tmp_path / "pickled")
    model = BertForSequenceClassification.from_pretrained(pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    manifest = obtain_classifier(str(pickled), tmp_path / "new", tmp_path / "pins.yaml")
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= manifest["files"].keys()
    reward = ClassifierReward(tmp_path / "new", "SAD", "cpu")
    assert (
        reward(TEXTS[1:]).tolist() == ClassifierReward(classifier, "SAD", "cpu")(TEXTS[1:]).tolist()
    )
    shutil.rmtree(tmp_path / "new")
    (pickled / "tokenizer.json").unlink()
    (pickled / "config.json").unlink()
    with pytest.raises(UserError, match="pickled cannot be obtained: folder: has no config"):
        obtain_classifier(str(pickled), tmp_path / "new", tmp_path / "pins.yaml")
    assert not (tmp_path / "new").exists()


def test_training_by_a_classifier(base: Path, classifier: Path, tmp_path: Path) -> None:
    code, said = train(base, tmp_path / "policy", f"--classifier={classifier}", "--label=HAPPY")
    assert code == 0, said
    run = json.loads((tmp_path / "policy/run.json").read_text())
    assert run["classifier_label"] == "HAPPY"
    assert len(run["classifier_identity"]) == 64
    rows = [r.split(",") for r in (tmp_path / "policy/training.csv").read_text().splitlines()]
    place = rows[0].index("reward_mean")
    assert all(0 < float(row[place]) < 1 for row in rows[1:])
