"""Training a policy cannot lose a run: killed, damaged, full, read-only, not finite, two at once.

A real (tiny) model, the real reward, the real program in a process of its own.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small_disk import Disk, small_disk
from tiny_model import ROOT, encoder_folder, environment, program, write_model
from warm_start import Started

from tinycats.files.atomic import verify

pytestmark = pytest.mark.slow
STEPS = 12
NOT_COMPARED = ("seconds", "samples_per_second")


@dataclass
class World:
    """A base model, the encoder, the embedding of `cat`, and one undisturbed run of ``STEPS``."""

    folder: Path
    model: Path
    reference: Path
    undisturbed: Path

    def command(self, out: Path, **more: object) -> list[str]:
        settings: dict[str, object] = {
            "base_model": self.model,
            "encoder": encoder_folder(),
            "reference": self.reference,
            "out": out,
            "kl_factor": 6000,
            "steps": STEPS,
            "batch_size": 24,
            "learning_rate": 1e-3,
            "checkpoint_seconds": 0,
            "device": "cpu",
            "threads": 1,
        }
        words = program("train_policy")
        for name, value in (settings | more).items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        return words

    def start(self, out: Path, **more: object) -> Started:
        return Started(self.command(out, **more), environment())

    def train(self, out: Path, **more: object) -> str:
        """Train to the end; returns what was said on the way."""
        (said,) = self.train_all((out, more))
        return said

    def train_all(self, *runs: tuple[Path, dict[str, Any]]) -> list[str]:
        """Several runs side by side."""
        waiting = [self.start(out, **more) for out, more in runs]
        said = [process.wait() for process in waiting]
        for process, text in zip(waiting, said, strict=True):
            assert process.returncode == 0, text
        return said

    def refused(self, *runs: tuple[Path, dict[str, Any]]) -> list[str]:
        """Start runs that should fail; returns the one line of each."""
        lines = []
        waiting = [self.start(out, **more) for out, more in runs]
        for process in waiting:
            said = process.wait()
            assert process.returncode == 1, said
            assert "Traceback" not in said
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1, said
            lines += errors
        return lines


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("training")
    reference = folder / "cat.safetensors"
    embed = [*program("embed_reference"), "--encoder", encoder_folder(), "--concept", "cat"]
    started = Started([*map(str, embed), "--out", str(reference)], environment())
    assert (started.wait(), started.returncode) == ("", 0)
    made = World(folder, write_model(folder / "model"), reference, folder / "undisturbed")
    made.train(made.undisturbed)
    return made


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "training.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def results(folder: Path) -> dict[str, object]:
    """What must not depend on how often a run was interrupted."""
    return {
        "weights": (folder / "model/model.safetensors").read_bytes(),
        "top": (folder / "top_completions.csv").read_bytes(),
        "training": [{k: v for k, v in r.items() if k not in NOT_COMPARED} for r in rows(folder)],
    }


def assert_same_results(folder: Path, other: Path) -> None:
    ours, theirs = results(folder), results(other)
    assert ours["training"] == theirs["training"]
    assert ours["top"] == theirs["top"]
    assert ours["weights"] == theirs["weights"]
    assert not (folder / "state.pt").exists()


def saved_step(state: Path) -> int:
    return torch.load(state, weights_only=True)["step"] if state.exists() else 0


def wait_until(true: Callable[[], bool], process: Started) -> None:
    deadline = time.monotonic() + 600
    while not true() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def interrupt(process: Started, number: int) -> str:
    process.send_signal(number)
    return process.wait()


def rows_so_far(folder: Path) -> int:
    """Rows of the table that grows while a policy is trained; 0 before its first step."""
    table = folder / "training.csv"
    return max(table.read_bytes().count(b"\n") - 1, 0) if table.exists() else 0


# ---- the run itself ------------------------------------------------------------------------------


def test_a_run_trains_and_records(world: World) -> None:
    training = rows(world.undisturbed)
    assert [row["step"] for row in training] == [str(i + 1) for i in range(STEPS)]
    assert float(training[0]["kl_policy_to_base_nats"]) == pytest.approx(0, abs=1e-6)
    assert float(training[-1]["kl_policy_to_base_nats"]) > 1e-4
    assert all(float(row["gradient_norm"]) > 0 for row in training)
    assert all(row["gradient_snr"] == "" for row in training)
    run = json.loads((world.undisturbed / "run.json").read_text())
    assert run["new_tokens"] == 4
    assert run["steps_taken"] == STEPS
    assert run["kl_coefficient_per_nat"] == 6000 / 50257 == run["last_kl_coefficient_per_nat"]
    assert run["settings"]["learning_rate"] == 1e-3
    base = (world.model / "model.safetensors").read_bytes()
    assert results(world.undisturbed)["weights"] != base


def test_options_change_the_result_and_snr_is_measured(world: World, tmp_path: Path) -> None:
    options: dict[str, dict[str, object]] = {
        "mean": {"advantage": "mean"},
        "leave_one_out": {"advantage": "leave_one_out", "snr_every": 2},
        "reverse": {"kl": "policy_to_base"},
        "bf16": {"precision": "bf16"},
    }
    world.train_all(*((tmp_path / name, {"steps": 4, **o}) for name, o in options.items()))
    first = {name: rows(tmp_path / name)[0] for name in options}
    plain = rows(world.undisturbed)[0]
    for name, row in first.items():  # the same batch of the same base
        assert float(row["reward_mean"]) == pytest.approx(float(plain["reward_mean"]), abs=0.05)
        assert float(row["gradient_norm"]) > 0
        if name != "bf16":
            assert row["distinct_completions"] == plain["distinct_completions"]
    assert float(first["mean"]["gradient_norm"]) < float(plain["gradient_norm"])
    assert len({results(tmp_path / name)["weights"] for name in options}) == len(options)
    measured = [row["gradient_snr"] for row in rows(tmp_path / "leave_one_out")]
    assert [value != "" for value in measured] == [True, False, True, False]
    assert all(float(value) >= 0 for value in measured if value)


def test_micro_batch_bounds_memory_and_changes_only_rounding(world: World, tmp_path: Path) -> None:
    world.train(tmp_path / "out", micro_batch=7, steps=4)
    for row, plain in zip(rows(tmp_path / "out"), rows(world.undisturbed), strict=False):
        assert float(row["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-3)


# ---- interrupted ---------------------------------------------------------------------------------


def test_killed_at_several_points_ends_as_if_undisturbed(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    state = out / "state.pt"
    points: list[Callable[[], bool]] = [
        lambda: out.exists(),  # before the first step
        lambda: saved_step(state) >= 2,
        lambda: saved_step(state) >= 7,
        lambda: any(out.glob("*model*")) or any(out.glob(".model*")),  # while the policy is saved
    ]
    went_on = []
    for point in points:
        process = world.start(out)
        wait_until(point, process)
        went_on.append("resuming after step" in interrupt(process, signal.SIGKILL))
    assert went_on[2:] == [True, True]
    world.train(out)
    assert_same_results(out, world.undisturbed)


def test_a_table_grows_by_whole_rows_and_is_cut_back_to_the_checkpoint(
    world: World, tmp_path: Path
) -> None:
    """With a checkpoint only at the stop, a kill after it leaves rows that are drawn again."""
    out, grown = tmp_path / "out", tmp_path / "out/training.csv"

    def lines() -> list[bytes]:
        return grown.read_bytes().splitlines(keepends=True) if grown.exists() else []

    process = world.start(out, checkpoint_seconds=3600)
    wait_until(lambda: len(lines()) >= 3, process)
    interrupt(process, signal.SIGTERM)
    saved = saved_step(out / "state.pt")
    kept = lines()
    assert len(kept) == 1 + saved
    assert not (out / ".sha256/training.csv.sha256").exists()  # not taken for finished
    process = world.start(out, checkpoint_seconds=3600)
    wait_until(lambda: len(lines()) >= saved + 3, process)
    interrupt(process, signal.SIGKILL)
    assert saved_step(out / "state.pt") == saved
    assert lines()[: 1 + saved] == kept
    assert all(line.endswith(b"\n") for line in lines())
    grown.write_bytes(grown.read_bytes() + b"half a li")  # as a machine that lost power may
    seen: list[int] = []
    process = world.start(out, checkpoint_seconds=3600)
    while process.poll() is None:
        seen.append(len(lines()))
        time.sleep(0.002)
    assert process.wait().count("Traceback") == 0
    assert min(seen) == 1 + saved, "cut back to the checkpoint, and never empty"
    assert lines()[: 1 + saved] == kept
    assert_same_results(out, world.undisturbed)
    verify(grown)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_writes_a_state_within_seconds(
    world: World, tmp_path: Path, number: int, code: int
) -> None:
    """A preempted or timed-out job, and Ctrl-C."""
    out = tmp_path / "out"
    process = world.start(out, checkpoint_seconds=3600)
    wait_until(lambda: rows_so_far(out) > 0, process)  # not sooner: it may catch one signal of two
    assert not (out / "state.pt").exists()
    begin = time.monotonic()
    said = interrupt(process, number)
    assert time.monotonic() - begin < 20
    assert process.returncode == code, said
    assert "stopped as asked after step" in said
    assert "Traceback" not in said
    step = saved_step(out / "state.pt")
    assert not (out / "model").exists()
    assert f"resuming after step {step} of {STEPS}" in world.train(out)
    assert_same_results(out, world.undisturbed)


# ---- a state that must not be used ---------------------------------------------------------------


@pytest.fixture(scope="module")
def state(world: World) -> Path:
    """State of a run that was stopped half-way."""
    out = world.folder / "stopped"
    process = world.start(out)
    wait_until(lambda: saved_step(out / "state.pt") >= 4, process)
    interrupt(process, signal.SIGTERM)
    return out / "state.pt"


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change_one_byte(path: Path) -> None:
    """Of a weight, where a file format alone notices nothing."""
    data = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["policy"]
    name = next(name for name in weights if name.endswith("c_fc.weight"))
    place = data.find(weights[name].numpy().tobytes())
    assert place > 0
    data[place + 2] ^= 0x10
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_a_damaged_state_is_set_aside(world: World, state: Path, tmp_path: Path) -> None:
    damages = {"cut-short": cut_short, "one-byte": change_one_byte, "empty": empty}
    for name, damage in damages.items():
        (tmp_path / name).mkdir()
        shutil.copy(state, tmp_path / name / "state.pt")
        damage(tmp_path / name / "state.pt")
    heard = world.train_all(*((tmp_path / name, {}) for name in damages))
    for name, said in zip(damages, heard, strict=True):
        aside = tmp_path / name / "state.pt.set-aside"
        assert f"state set aside as {aside}, starting over: " in said
        assert aside.exists()
        assert_same_results(tmp_path / name, world.undisturbed)


def test_a_state_of_other_parameters_is_set_aside(
    world: World, state: Path, tmp_path: Path
) -> None:
    for name in ("changed", "fresh"):
        (tmp_path / name).mkdir()
    shutil.copy(state, tmp_path / "changed/state.pt")
    said, _ = world.train_all(
        *((tmp_path / name, {"learning_rate": 2e-3}) for name in ("changed", "fresh"))
    )
    assert "starting over: it was made from other parameters, code or data" in said
    assert_same_results(tmp_path / "changed", tmp_path / "fresh")
    assert results(tmp_path / "fresh")["weights"] != results(world.undisturbed)["weights"]


def test_a_state_of_another_encoder_s_code_is_set_aside(
    world: World, state: Path, tmp_path: Path
) -> None:
    """An edit between the kill and the next start; of a comment, it would not matter."""
    edits = {"comment": "# edited\n", "code": "EDITED = True\n"}
    runs = {}
    for name, edit in edits.items():
        root, out = tmp_path / name, tmp_path / name / "out"
        for folder in ("src", "workflow/scripts"):
            shutil.copytree(ROOT / folder, root / folder)
        with open(root / "src/tinycats/reward/encoder.py", "a", encoding="utf-8") as file:
            file.write(edit)
        out.mkdir()
        shutil.copy(state, out / "state.pt")
        command = [str(word) for word in world.command(out)]
        command[1] = str(root / "workflow/scripts/train_policy.py")
        started = Started(command, environment(PYTHONPATH=str(root / "src")))
        runs[name] = started.wait()
        assert started.returncode == 0, runs[name]
        assert_same_results(out, world.undisturbed)
    assert "resuming after step" in runs["comment"]
    assert "starting over: it was made from other parameters, code or data" in runs["code"]


# ---- disks ---------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk", "1m") as disk:
        yield disk


def test_a_full_disk_keeps_the_last_good_state(world: World, disk: Disk) -> None:
    out = disk.folder / "out"
    disk.remount(f"size={int(1.5 * size_of_a_state(world))}")
    (line,) = world.refused((out, {}))
    assert f"{out / 'state.pt'}: the state cannot be written" in line
    assert "No space left" in line or "the last good one is kept" in line
    assert saved_step(out / "state.pt") == 1  # there is room for one, not for two
    assert sorted(p.name for p in out.iterdir()) == ["state.pt", "training.csv"]
    disk.remount("size=30m")
    assert "resuming after step 1" in world.train(out)
    assert_same_results(out, world.undisturbed)


def size_of_a_state(world: World) -> int:
    """Bytes: weights and AdamW's two averages of each, and a little."""
    return 3 * (world.model / "model.safetensors").stat().st_size + 40_000


def test_a_disk_too_full_for_the_policy(world: World, disk: Disk) -> None:
    out = disk.folder / "out"
    disk.remount("size=120k")
    (line,) = world.refused((out, {"checkpoint_seconds": 3600, "steps": 2}))
    assert str(out / "model") in line
    assert "cannot be" in line
    assert "space" in line
    assert not (out / "model").exists()
    assert not (out / "run.json").exists()
    assert not list(out.glob(".model*"))


def test_a_read_only_folder_is_said_at_once(world: World, disk: Disk) -> None:
    (disk.folder / "there").mkdir()
    disk.remount("ro")
    folders = [disk.folder / "there", disk.folder / "not-there"]
    endless = {"steps": 10**9, "checkpoint_seconds": 3600}
    lines = world.refused(*((out, endless) for out in folders))
    for out, line in zip(folders, lines, strict=True):
        assert str(out) in line
        assert "Read-only file system" in line


def test_too_little_memory_is_one_line(world: World, tmp_path: Path) -> None:
    limit = 16 * 2**30  # of addresses, most of which torch and its threads only reserve
    words = [str(word) for word in world.command(tmp_path / "out", batch_size=10**9)]
    done = subprocess.run(
        words,
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if not line[:2].isdigit()]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: out of memory (")
    assert "make training.micro_batch, training.batch_size" in errors[0]
    assert not (tmp_path / "out" / "model").exists()


# ---- numbers -------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (line,) = world.refused((out, {"learning_rate": 1e30}))
    assert "training.learning_rate: 1e+30 gave a loss of" in line
    assert "try a smaller rate" in line
    assert str(out / "state.pt") in line
    kept = torch.load(out / "state.pt", weights_only=True)
    assert kept["step"] >= 1
    assert all(torch.isfinite(w).all() for w in kept["policy"].values())
    assert not (out / "model").exists()


def test_requests_that_cannot_be_met_are_one_line(
    world: World, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    short = write_model(tmp_path_factory.mktemp("short") / "model", context=8)
    asked: dict[str, dict[str, object]] = {
        "training.num_tokens: 6 leaves no token to generate": {"num_tokens": 6},
        "is more than the model's context of 8": {"base_model": short},
        '--prompts.0: "" found, expected text, not blank': {"prompts": '[""]'},
        '--advantage: "best" found, expected one of reward,': {"advantage": "best"},
        "kl: none found with advantage reward, expected none with": {"kl": "none"},
        '--kl: "sideways" found, expected one of base_to_policy,': {"kl": "sideways"},
        '--precision: "fp8" found, expected one of fp32, bf16': {"precision": "fp8"},
        "no such model folder": {"base_model": tmp_path / "nowhere"},
        "nowhere.safetensors": {"reference": tmp_path / "nowhere.safetensors"},
    }
    for begin in range(0, len(asked), 4):
        some = list(asked)[begin : begin + 4]
        runs = [(tmp_path / str(i), asked[part]) for i, part in enumerate(some)]
        for part, line in zip(some, world.refused(*runs), strict=True):
            assert part in line


# ---- rewards shared between jobs -----------------------------------------------------------------


def test_shared_rewards_change_nothing_and_damaged_ones_are_passed_over(
    world: World, tmp_path: Path
) -> None:
    rewards = tmp_path / "rewards"
    world.train(tmp_path / "first", rewards=rewards)
    (memo,) = rewards.glob("*.json")
    assert len(json.loads(memo.read_text())["rewards"]) > 20
    (tmp_path / "damaged").mkdir()
    damaged = tmp_path / "damaged" / memo.name
    damaged.write_text(memo.read_text()[:1000])
    _, said = world.train_all(
        (tmp_path / "second", {"rewards": rewards}),
        (tmp_path / "third", {"rewards": damaged.parent}),
    )
    assert list(rewards.glob("*.json")) == [memo]  # there was nothing new to add
    assert f"{damaged} is damaged; its rewards will be computed again" in said
    for name in ("first", "second", "third"):
        assert_same_results(tmp_path / name, world.undisturbed)


# ---- several GPUs --------------------------------------------------------------------------------

CLAIM = """
import sys, time
from pathlib import Path
from tinycats.compute.devices import claim_gpu
print(claim_gpu("ab", Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


def test_two_jobs_never_claim_the_same_gpu(tmp_path: Path) -> None:
    jobs: list[subprocess.Popen[str]] = []

    def claim() -> str:
        job = subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(tmp_path / "locks")],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        jobs.append(job)
        assert job.stdout is not None
        return job.stdout.readline().strip()

    try:
        assert [claim(), claim()] == ["0", "1"]
        jobs[0].kill()
        jobs[0].wait()
        assert claim() == "0"  # a killed job leaves no claim behind
        assert claim() == "0"  # all are taken: shared, with a warning
        jobs[-1].kill()
        assert "all 2 GPUs are claimed" in jobs[-1].communicate()[1]
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def test_gpus_are_told_apart_by_their_own_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two jobs may see one GPU under different numbers."""
    from tinycats.compute import devices

    monkeypatch.setattr(devices, "_held", [])
    assert devices.claim_gpu(["GPU-3", "GPU-5"], tmp_path) == 0
    assert devices.claim_gpu(["GPU-5", "GPU-3"], tmp_path) == 0
    assert not caplog.text
    assert devices.claim_gpu(["GPU-3"], tmp_path) == 0
    assert "all 1 GPUs are claimed" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gpu-GPU-3.lock", "gpu-GPU-5.lock"]
