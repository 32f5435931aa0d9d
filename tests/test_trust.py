"""Nothing that decides a number is taken on trust: checksums, identities, shared rewards, run.json."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import encoder_folder, write_model

from tinycats.files import atomic
from tinycats.files.tables import read_lines, read_table, write_lines, write_table
from tinycats.models.folders import folder_identity, load_causal_lm, write_manifest
from tinycats.policies.record import check_policy, read_run
from tinycats.policies.settings import TrainingSettings
from tinycats.policies.training import Trainer
from tinycats.program import UserError
from tinycats.reward.memo import load_memo, save_memo
from tinycats.reward.model import RewardModel
from tinycats.reward.similarity import (
    RewardEncoder,
    Similarity,
    load_reference,
    save_reference,
    vector_sha256,
)

# ---------------------------------------------------------------------------- checksums

COLUMNS = {"a": "a number"}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (Path.unlink, "is missing; delete"),
        (lambda path: path.write_text(""), "found '', expected a sha256"),
        (lambda path: path.write_text("abc  table.csv\n"), "expected a sha256"),
        (lambda path: path.write_bytes(b"\xff" * 80), "expected a sha256"),
        (lambda path: path.write_text(path.read_text().replace("table", "other")), "expected"),
    ],
    ids=["lost", "empty", "short", "bytes", "of another file"],
)
@pytest.mark.parametrize("kind", ["table", "lines", "tensors"])
def test_a_lost_or_damaged_checksum_is_an_error(
    tmp_path: Path, kind: str, damage: Any, says: str
) -> None:
    path = tmp_path / "table.csv"
    if kind == "tensors":
        vector = np.eye(8, dtype="float32")[0]
        save_reference(path, "cat", vector, "encoder")
    else:
        (write_table if kind == "table" else write_lines)(path, [{"a": 1}], COLUMNS)

    def read() -> None:
        if kind == "tensors":
            load_reference(path)
        elif kind == "table":
            read_table(path, COLUMNS)
        else:
            list(read_lines(path, COLUMNS))

    read()
    damage(atomic.checksum_file(path))
    with pytest.raises(UserError, match=says) as error:
        read()
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_of_tensors_are_the_same_each_time(tmp_path: Path) -> None:
    """Metadata of safetensors has a random order, which differs between processes and calls."""
    tensors = {name: np.arange(4, dtype="float32") for name in "cab"}
    metadata = {f"key {i}": "x" * i for i in range(12)}
    found = set()
    for order in range(20):
        path = tmp_path / f"{order}.safetensors"
        atomic.write_tensors(path, tensors, metadata)
        found.add(path.read_bytes())
    assert len(found) == 1
    from safetensors import safe_open
    from safetensors.numpy import load_file

    assert {name: array.tolist() for name, array in load_file(path).items()} == {
        name: [0, 1, 2, 3] for name in "abc"
    }
    with safe_open(path, "np") as file:
        assert file.metadata() == metadata


# ---------------------------------------------------------------------------- identities


@pytest.fixture(scope="module")
def encoder() -> RewardEncoder:
    return RewardEncoder(encoder_folder())


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    return to


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
    ],
)
def test_every_file_that_decides_numbers_is_of_an_encoder_s_identity(
    tmp_path: Path, name: str
) -> None:
    folder = copy_of(encoder_folder(), tmp_path / "encoder")
    before = folder_identity(folder)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert folder_identity(folder) != before


def test_documents_are_not_of_a_model_s_identity(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    before = folder_identity(folder)
    for name in ("README.md", "LICENSE", ".gitattributes", "curve.svg", "probe.json"):
        (folder / name).write_text("text")
    write_manifest(folder, {"source": "this test"})
    assert folder_identity(folder) == before
    (folder / "generation_config.json").write_text('{"top_k": 3}')
    assert folder_identity(folder) != before
    with pytest.raises(UserError, match="no model folder"):
        folder_identity(tmp_path / "nothing")


def test_a_reference_s_identity_is_its_values(encoder: RewardEncoder, tmp_path: Path) -> None:
    vector = encoder.embed(["cat"])[0]
    for name in ("one", "two"):
        save_reference(tmp_path / name, "cat", vector, "encoder")
    one, two = (load_reference(tmp_path / name) for name in ("one", "two"))
    assert vector_sha256(one) == vector_sha256(two) == vector_sha256(vector.astype("float64"))
    assert vector_sha256(vector) != vector_sha256(-vector)


# ---------------------------------------------------------------------------- shared rewards

TEXTS = ["a cat", "a dog", "a bird", "once upon a time"]


def rewarding(encoder: RewardEncoder, identity: str = "identity") -> RewardModel:
    about = {"encoder_identity": identity}
    return RewardModel(Similarity(encoder, encoder.embed(["cat"])[0], "cat", about))


@pytest.fixture
def memo(encoder: RewardEncoder, tmp_path: Path) -> Path:
    """A folder with one file of rewards."""
    model = rewarding(encoder)
    model(TEXTS)
    save_memo(model, tmp_path / "rewards", 0)
    return tmp_path / "rewards"


def loaded(encoder: RewardEncoder, folder: Path, identity: str = "identity") -> dict[str, Any]:
    model = rewarding(encoder, identity)
    load_memo(model, folder)
    return dict(model.memo)


def renamed(folder: Path, content: str) -> None:
    """Put a file with this content there, named as its content wants."""
    for path in folder.glob("*.json"):
        path.unlink()
    (folder / f"{hashlib.sha256(content.encode()).hexdigest()}.json").write_text(content)


def test_shared_rewards_are_read_as_they_were_written(encoder: RewardEncoder, memo: Path) -> None:
    found = loaded(encoder, memo)
    expected = rewarding(encoder)(TEXTS)
    assert [float(found[text]) for text in TEXTS] == expected.tolist()
    assert loaded(encoder, memo, "another encoder") == {}


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "7", "{}", '{"identity": {}, "rewards": []}', '{"identity": 1, "rewards": {}}'),
        *("", "[", "[" * 100_000),
    ],
    ids=["list", "number", "no keys", "no rewards", "no identity", "empty", "cut short", "deep"],
)
def test_a_file_of_another_structure_is_passed_over(
    encoder: RewardEncoder, memo: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    renamed(memo, content)
    assert loaded(encoder, memo) == {}
    assert "is damaged; its rewards will be computed again" in caplog.text


@pytest.mark.parametrize(
    "value", ["NaN", "1e400", "-Infinity", "1.5", '"0.5"', "null", "true", "[0.5]"]
)
def test_a_reward_that_is_none_is_passed_over(
    encoder: RewardEncoder, memo: Path, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = memo.glob("*.json")
    whole = json.loads(path.read_text())
    whole["rewards"]["a cat"] = "HERE"
    renamed(memo, json.dumps(whole).replace('"HERE"', value))
    assert loaded(encoder, memo) == {}
    assert "is damaged; its rewards will be computed again" in caplog.text


def test_a_changed_digit_is_passed_over(
    encoder: RewardEncoder, memo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = memo.glob("*.json")
    text = path.read_text()
    place = text.index("0.", text.index('"rewards"')) + 4
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
    assert loaded(encoder, memo) == {}
    assert f"{path} is damaged" in caplog.text


# ---------------------------------------------------------------------------- policies


def write_run(folder: Path, base: Path, **more: Any) -> None:
    model = copy_of(base, folder / "model")
    run = {
        "new_tokens": 4,
        "policy_sha256": hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest(),
        "policy_identity": folder_identity(model),
        "base_model_sha256": hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest(),
        "base_model_identity": folder_identity(base),
        **more,
    }
    atomic.write_sealed(folder / "run.json", json.dumps(run))


def test_a_policy_s_files_are_those_of_its_run(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    policy = tmp_path / "policy"
    write_run(policy, base)
    check_policy(policy, base)
    for folder, name in ((policy / "model", "policy_identity"), (base, "base_model_identity")):
        path = folder / "tokenizer.json"
        kept = path.read_text()
        path.write_text(kept + " ")
        with pytest.raises(UserError, match=name):
            check_policy(policy, base)
        path.write_text(kept)
    check_policy(policy, base)


@pytest.mark.parametrize(
    "value", ["[]", "7", '{"new_tokens": "4"}', '{"new_tokens": 0}', "{", "{}"]
)
def test_a_damaged_run_json_is_one_line(tmp_path: Path, value: str) -> None:
    atomic.write_sealed(tmp_path / "run.json", value)
    with pytest.raises(UserError, match=r"run\.json") as error:
        read_run(tmp_path / "run.json")
    assert "\n" not in str(error.value)


def test_a_changed_run_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    atomic.write_sealed(path, '{"new_tokens": 4, "seed": 1}')
    assert read_run(path)["seed"] == 1
    path.write_text('{"new_tokens": 4, "seed": 2}')
    with pytest.raises(UserError, match="not as it was written"):
        read_run(path)
    atomic.checksum_file(path).unlink()
    with pytest.raises(UserError, match="is missing"):
        read_run(path)


def test_a_run_that_resumes_elsewhere_records_both_machines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_model(tmp_path / "base")
    settings = TrainingSettings(kl_factor=0.0, steps=3, batch_size=8, prompts=("Once upon a time",))

    def trainer(**machine: Any) -> Trainer:
        policy, tokenizer = load_causal_lm(folder)
        base, _ = load_causal_lm(folder)
        return Trainer(
            *(policy, base, tokenizer, lambda texts: torch.zeros(len(texts))),
            *(settings, "identity", tmp_path / "state.pt", machine),
        )

    first = trainer(threads=1, torch="2")
    assert first.computed_on == [{"first_step": 1, "threads": 1, "torch": "2"}]
    first.save_state()
    same = trainer(threads=1, torch="2")
    same.load_state()
    assert same.computed_on == first.computed_on
    other = trainer(threads=4, torch="2")
    other.load_state()
    assert other.computed_on == [
        {"first_step": 1, "threads": 1, "torch": "2"},
        {"first_step": 1, "threads": 4, "torch": "2"},
    ]
    assert "from step 1 on, threads is 4, before it was 1" in caplog.text
