"""Every stage that may use a GPU, on a device apart from the CPU: same results, few waits.

There is a GPU in few of the places where these tests run. ``benchmarks/second_device.py`` stands in
for what one demands of a program; how fast one is it cannot say. On a machine with a GPU,
``TINYCATS_SECOND_DEVICE=cuda`` runs the tests on it, with wider tolerances and without counts of waits.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_classifier import write as write_classifier
from tiny_model import ROOT, encoder_folder, environment, program, write_model
from warm_start import Started

pytestmark = pytest.mark.slow
PROMPT = "Once upon a time there was"
STEPS, LEVELS = 4, 4
SECOND = os.environ.get("TINYCATS_SECOND_DEVICE", "apart")
SIMULATED = SECOND == "apart"
# a weight's step by Adam is whole however small its gradient, whose sign may be rounding's alone
ABSOLUTE = 1e-5 if SIMULATED else 1e-4

Run = Callable[..., Counter[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("devices")
    write_classifier(folder / "classifier", write_model(folder / "base"))
    embed = [*program("embed_reference"), "--encoder", encoder_folder(), "--concept", "cat"]
    embed += ["--out", folder / "cat.safetensors"]
    started = Started([*map(str, embed)], environment())
    assert (started.wait(), started.returncode) == ("", 0)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    def run(stage: str, device: str, **options: object) -> Counter[str]:
        """A stage's program on a device; how often each line made it wait."""
        command = program(stage)
        counts = folder / "counts.json"
        if device == "apart":
            device_program = str(ROOT / "benchmarks" / "second_device.py")
            command = [sys.executable, device_program, str(counts), command[1]]
        for name, value in ({"device": device, "threads": 1} | options).items():
            values = value if isinstance(value, list) else [value]
            command += [f"--{name.replace('_', '-')}", *values]
        # environment() hides all GPUs
        seen = {} if device in ("cpu", "apart") else {"CUDA_VISIBLE_DEVICES": "0"}
        started = Started(list(map(str, command)), environment(**seen))
        said = started.wait()
        assert started.returncode == 0, said
        return Counter(json.loads(counts.read_text())) if device == "apart" else Counter()

    return run


def train(run: Run, folder: Path, device: str, **options: object) -> tuple[Path, Counter[str]]:
    out = folder / f"policies-{device}" / "blog" / "kl=6000" / f"seed={len(options)}"
    settings = {
        "base_model": folder / "base",
        "encoder": encoder_folder(),
        "reference": folder / "cat.safetensors",
        "out": out,
        "kl_factor": 6000,
        "steps": STEPS,
        "batch_size": 24,
        "learning_rate": 1e-5,  # Adam turns what rounding leaves of a zero into whole steps
    }
    return out, run("train_policy", device, **(settings | options))


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def assert_alike(path: Path, other: Path) -> None:
    """Two csv files hold the same; numbers but for what another order of sums changes."""
    assert len(rows(path)) == len(rows(other))
    for ours, theirs in zip(rows(path), rows(other), strict=True):
        for column in ours.keys() - {"seconds", "samples_per_second"}:
            try:
                number = float(ours[column])
            except ValueError:
                assert theirs[column] == ours[column]
                continue
            assert float(theirs[column]) == pytest.approx(number, rel=1e-3, abs=1e-5, nan_ok=True)


def assert_same_weights(folder: Path, other: Path, **tolerance: Any) -> None:
    expected = load_file(folder / "model.safetensors")
    for name, weight in load_file(other / "model.safetensors").items():
        torch.testing.assert_close(weight, expected[name], **tolerance)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="the post's"),
        pytest.param(
            {
                "steps": 2,
                "num_tokens": 24,  # the tail below the tree
                "kl": "policy_to_base",
                "advantage": "leave_one_out",
                "micro_batch": 32,
                "snr_every": 2,
            },
            id="long",
        ),
    ],
)
def test_training(run: Run, folder: Path, options: dict[str, object]) -> None:
    ours, _ = train(run, folder, "cpu", **options)
    theirs, waits = train(run, folder, SECOND, **options)
    for name in ("training.csv", "top_completions.csv"):
        assert_alike(ours / name, theirs / name)
    assert_same_weights(ours / "model", theirs / "model", rtol=1e-4, atol=ABSOLUTE)
    if not options and SIMULATED:
        # at load, once: models, their check by a few tokens, and the cache that it makes
        once = ("tinycats/models/", "probe.py", "cache.py", "network.py", ".to(self.device)")
        ours_alone = {
            line: count for line, count in waits.items() if not any(word in line for word in once)
        }
        # once: the texts on which the encoder is checked;
        # each step: tokens of each level, measurements, rewards, the gradient's norm
        assert sum(ours_alone.values()) <= 2 + STEPS * (LEVELS + 3), "\n".join(
            f"{n} {line}" for line, n in ours_alone.items()
        )


def test_stories_completions_and_scores(run: Run, folder: Path) -> None:
    policy, _ = train(run, folder, "cpu")
    prompts = {"training": [PROMPT], "other_subjects": ["There are no cats in this story."]}
    common = {"base_model": folder / "base", "prompts": json.dumps(prompts)}
    common |= {"stories_per_training_prompt": 4, "stories_per_other_prompt": 2, "new_tokens": 14}
    outs = {device: folder / f"results-{device}" for device in ("cpu", SECOND)}
    for device, out in outs.items():
        base = out / "stories/base/seed=0.jsonl"
        run("tell_stories", device, **common, prompted_with=" a cat", seed=0, out=out / "stories")
        stories = out / "stories/blog/kl=6000/seed=0.jsonl"
        own = {"policy": policy / "model", "base_stories": base, "seed": 0, "out": stories}
        run("tell_stories", device, **common, **own)
        reward = {"encoder": encoder_folder(), "reference": folder / "cat.safetensors"}
        run(
            "sample_completions",
            device,
            **reward,
            base_model=folder / "base",
            policies=[policy],
            rewards=out / "rewards",
            prompts=json.dumps([PROMPT]),
            prompted_with=" a cat",
            num_tokens=10,
            base_completions=100,
            policy_completions=100,
            search_rewards=40,
            out=out / "completions",
        )
        run(
            "score",
            device,
            **reward,
            base_stories=[base],
            prompted_stories=[out / "stories/prompted/seed=0.jsonl"],
            policy_stories=[stories],
            forgetting=[stories.with_suffix(".base.jsonl")],
            tokenizer=folder / "base",
            concept_words=json.dumps(["cat", "cats"]),
            run=policy / "run.json",
            out=out / "scores",
        )
        judge = {"name": "happy", "classifier": str(folder / "classifier"), "label": "HAPPY"}
        run(
            "judge",
            device,
            completions=[out / "completions/base.csv"],
            stories=[base],
            story_scores=out / "scores/stories.csv",
            tokenizer=folder / "base",
            judges=json.dumps([judge]),
            out=out / "scores/judges.csv",
        )
        texts = [json.loads(line)["text"] for line in base.read_text().splitlines()]
        assert len(set(texts)) > 3
    paths = sorted(path.relative_to(outs["cpu"]) for path in outs["cpu"].rglob("*.csv"))
    assert len(paths) == 9, paths
    for path in paths:
        assert_alike(outs["cpu"] / path, outs[SECOND] / path)


def test_pretraining(run: Run, folder: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["a", "kite", "the", "river", "sang", "at", "noon", "and", "Nina", "lost", "it", "."]
    for name, count in (("train", 60), ("valid", 12)):
        stories = [" ".join(rng.choice(words, 30)) for _ in range(count)]
        (folder / f"{name}.txt").write_text("\n<|endoftext|>\n".join(stories) + "\n")
    recipe: dict[str, Any] = {
        "vocab_size": 300,
        "width": 16,
        "layers": 2,
        "heads": 2,
        "context": 32,
    }
    recipe |= {"batch_tokens": 256, "epochs": 1.0, "warmup_steps": 2, "precision": "fp32"}
    texts = {"train": folder / "train.txt", "validation": folder / "valid.txt"}
    outs = {device: folder / f"pretrained-{device}" for device in ("cpu", SECOND)}
    for device, out in outs.items():
        run("pretrain", device, **texts, **recipe, out=out)
    ours, theirs = (
        [float(row["validation_bits_per_byte"]) for row in rows(out / "curve.csv")]
        for out in outs.values()
    )
    assert ours
    assert theirs == pytest.approx(ours, rel=1e-5)
    # Adam's step is whole where a gradient is rounding alone: another order of sums on one CPU moves
    # weights by up to 4.9e-3 in these 8 steps, at a loss that is equal to 1e-6
    absolute = 1e-4 if SIMULATED else 5e-3
    assert_same_weights(outs["cpu"] / "model", outs[SECOND] / "model", rtol=1e-3, atol=absolute)
