"""The profile for SGE, PBS and LSF, with stubs of the schedulers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from stub_scheduler import COMMANDS, Scheduler
from warm_start import interpreter

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "profiles/cluster-generic"
SNAKEFILE = """
rule all:
    input: "good", "bad"
rule good:
    output: "good"
    threads: 2
    resources: gpu=1, runtime=lambda wildcards, attempt: 90 * attempt
    shell: "touch {output}"
rule bad:
    output: "bad"
    retries: 1
    shell: "exit 3"
"""


def profile_for(kind: str, folder: Path) -> Path:
    """The profile as a user edits it: one scheduler's two commands, the others taken out."""
    text = (PROFILE / "config.yaml").read_text()
    start, end = text.index("\n# SGE and"), text.index("\n# Asks the scheduler")
    blocks = re.split(r"\n\n", text[start:end].strip("\n"))
    (own,) = (block for block in blocks if block.startswith(f"# {kind}"))
    lines = own.splitlines()[1:]
    own = "\n".join(line.removeprefix("# ") for line in lines)
    shutil.copytree(PROFILE, folder / "profiles/cluster-generic")
    path = folder / "profiles/cluster-generic/config.yaml"
    path.write_text(f"{text[:start]}\n{own}\n{text[end:]}")
    assert yaml.safe_load(path.read_text())["cluster-generic-cancel-cmd"] in COMMANDS[kind]
    return path.parent


@contextmanager
def scheduler(*words: Any) -> Iterator[Scheduler]:
    made = Scheduler(*words)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(COMMANDS))
def test_jobs_wait_in_a_queue_succeed_fail_and_are_killed(tmp_path: Path, kind: str) -> None:
    profile = profile_for(kind, tmp_path)
    (tmp_path / "Snakefile").write_text(SNAKEFILE)

    def out_of_time(job: dict[str, Any]) -> bool:
        """The first try of `good`, whichever job is first in the queue."""
        if "tc-good" not in " ".join(job["words"]):
            return False
        tries.add(job["number"])
        return len(tries) == 1

    tries: set[Any] = set()

    with scheduler(tmp_path / "stub", kind, out_of_time) as stub:
        done = subprocess.run(
            [
                *(interpreter(), "-m", "snakemake", "--workflow-profile", profile),
                *("--seconds-between-status-checks", "1", "--latency-wait", "1", "good", "bad"),
            ],
            cwd=tmp_path,
            env={**os.environ, **stub.environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        jobs = stub.jobs()
    said = done.stdout + done.stderr
    assert done.returncode == 1, said  # of `bad`
    assert (tmp_path / "good").exists(), said
    submitted = [" ".join(job["words"][:-1]) for job in jobs]
    assert sum("tc-good" in words for words in submitted) == 2
    assert sum("tc-bad" in words for words in submitted) == 2
    time = {"SGE": "h_rt={}", "PBS": "walltime={}", "LSF": "-W {}"}[kind]
    minute = 1 if kind == "LSF" else 60
    first, second = (words for words in submitted if "tc-good" in words)
    assert time.format(90 * minute) in first
    assert time.format(180 * minute) in second
    assert {"SGE": "gpu=1", "PBS": "ngpus=1", "LSF": "ngpus_physical=1"}[kind] in first


@pytest.mark.parametrize(
    ("kind", "said", "verdict"),
    [
        ("qacct", "failed 0\nexit_status 0", "success"),
        ("qacct", "failed 0\nexit_status 1", "failed"),
        ("qacct", "failed 100 : assumedly after job\nexit_status 137", "failed"),
        ("qacct", "", "running"),  # accounting comes a little later
        ("qstat", "job_state = Q", "running"),
        ("qstat", "job_state = F\nExit_status = 0", "success"),
        ("qstat", "job_state = C\n    exit_status = 0", "success"),
        ("qstat", "job_state = F\nExit_status = 271", "failed"),
        ("qstat", "job_state = F\nExit_status = -29", "failed"),
        ("qstat", "job_state = F", "failed"),  # deleted before it ran
        *(("bjobs", state, "running") for state in ("PEND", "RUN", "USUSP", "UNKWN")),
        *(("bjobs", state, "failed") for state in ("EXIT", "")),
        ("bjobs", "DONE", "success"),
    ],
)
def test_what_a_scheduler_says_of_a_job(tmp_path: Path, kind: str, said: str, verdict: str) -> None:
    (tmp_path / kind).write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")
    if kind == "qacct":
        (tmp_path / "qstat").write_text("#!/bin/sh\nexit 1\n")
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    words = ["bash", str(PROFILE / "status.sh"), "7"]
    places = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(words, env=places, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{verdict}\n", "")
