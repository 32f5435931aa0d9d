"""``tinycats watch``: what it shows of a study that runs, is finished, was stopped or is odd."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from tinycats import watch
from tinycats.policies.record import describe_step
from tinycats.program import UserError
from tinycats.progress import line

pytestmark = pytest.mark.fast
CONFIG = {
    "study": "mine",
    "variants": {"blog": {}},
    "training": {"kl_factors": [0, 6000], "seeds": [0]},
}


def steps(count: int) -> str:
    """A training job's log after so many steps."""
    row = {"distinct_completions": 388, "top_1_mass": 0.04}
    lines = []
    for step in range(1, count + 1):
        row |= {"reward_mean": 0.1 * step, "kl_policy_to_base_nats": 0.5 * step}
        lines.append(f"12:00:0{step} {line('step', step, 9, 70, describe_step(row, ' a'))}\n")
    return "".join(lines)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One policy is trained, the other is in training; returns the other's log."""
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results/mine"
    done = results / "policies/blog/kl=0/seed=0"
    done.mkdir(parents=True)
    (results / "config.yaml").write_text(json.dumps(CONFIG))
    (done / "run.json").write_text("{}")
    benchmark = results / "benchmarks/policies/blog/kl=0/seed=0.jsonl"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text(json.dumps({"s": 130.0}))
    log = tmp_path / "logs/mine/policies/blog/kl=6000/seed=0.log"
    log.parent.mkdir(parents=True)
    log.write_text(steps(3))
    return log


def shown(study: str = "mine") -> list[str]:
    out = io.StringIO()
    watch.watch(study, Console(file=out, width=120))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_a_running_study_in_a_pipe(study: Path) -> None:
    said = shown()
    assert "policies 1 of 2 step 3 of 9, 1 min 10 s left 2 min 10 s" in said
    assert "stories 0 of 3" in said
    assert "blog, KL factor 6000, seed 0 3 0.300 ▁▅█ 1.50 ▁▅█" in said


def test_a_growing_table_comes_before_the_log(study: Path) -> None:
    table = Path("results/mine/policies/blog/kl=6000/seed=0/training.csv")
    table.parent.mkdir(parents=True)
    table.write_text("step,reward_mean,kl_policy_to_base_nats\n1,0.1,0\n2,0.25,1\n3,0.")
    assert any("seed 0 2 0.250 ▁█ 1.00 ▁█" in line for line in shown())


def test_a_failed_job_shows_its_error_and_a_silent_one_that_it_is(study: Path) -> None:
    study.write_text(steps(2) + "error: no memory\n")
    assert "logs/mine/policies/blog/kl=6000/seed=0.log: error: no memory" in shown()
    study.write_text(steps(2))
    os.utime(study, (time.time() - 999,) * 2)
    assert any("seed=0.log: no line for two minutes" in line for line in shown())


@pytest.mark.parametrize("text", ["[1]", "{}", "training: 3", "variants: {a: {}}", "a: ["])
def test_an_odd_study_is_one_line(study: Path, text: str) -> None:
    Path("results/mine/config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"results/mine/config\.yaml"):
        shown()


def test_a_missing_study_names_those_that_are_there(study: Path) -> None:
    with pytest.raises(UserError, match="begun here: mine"):
        shown("other")


def test_in_a_terminal_it_follows_the_files_until_the_report(study: Path) -> None:
    ours, theirs = pty.openpty()
    source = str(Path(watch.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "tinycats.stories.tell", "watch", "mine"]
    child = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    said = ""

    def read_until(words: str) -> None:
        nonlocal said
        ends = time.monotonic() + 60
        while words not in said:
            assert time.monotonic() < ends, said
            if select.select([ours], [], [], 1)[0]:
                said += os.read(ours, 65536).decode(errors="replace")

    read_until("step 3 of 9")
    study.write_text(steps(5))
    read_until("step 5 of 9")
    for stage in watch.stages("mine"):
        for job in stage.jobs:
            job.output.parent.mkdir(parents=True, exist_ok=True)
            job.output.touch()
    read_until("The report: results/mine/report.html")
    assert child.wait(30) == 0
    os.close(ours)
