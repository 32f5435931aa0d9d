"""Measure the time of the README's command by stage, from installed packages to the report.

    PYTHONPATH=src python benchmarks/study_time.py

runs the default and the smoke study in a fresh clone of this repository's last commit, and writes
benchmarks/results/cpu-studies.json and with it docs/benchmarks.md. On a machine with a GPU, the default
study alone, 8 GPU jobs at a time, into benchmarks/results/cuda-studies.json. The machine should be idle
otherwise. ``--before COMMIT`` measures the same studies of that commit first, by its own copy of this
program. ``--at-once`` measures the default study alone, by the README's command and with two jobs at a time,
into benchmarks/results/cpu-at-once.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import report
import run
import torch

from tinycats import program
from tinycats.compute.devices import set_threads
from tinycats.files.atomic import write_text
from tinycats.report.reading import stage_times

ROOT = Path(__file__).parents[1]
COMMAND = "snakemake --cores 1 --resources gpu=1"
STUDIES = {
    "cpu": {"default": COMMAND, "smoke": f"{COMMAND} --configfile config/smoke.yaml"},
    # greedy: plans without a solver, which not every machine has
    "cuda": {
        "default": "snakemake --cores 16 --resources gpu=8 --config threads=1 --scheduler greedy"
    },
}
#: the default study, one job at a time and two
AT_ONCE = (COMMAND, "snakemake --cores 2 --resources gpu=2")


@contextmanager
def fresh_clone() -> Iterator[Path]:
    """A clone of this repository's last commit, as long as it is needed."""
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary) / "tinycats"
        subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
        yield clone


def measure(study: str, command: str, folder: Path, **environment: str) -> dict[str, Any]:
    """Wall time of one study in the clone ``folder``, and of its jobs by stage, in seconds.

    ``environment`` has further variables of the command.
    """
    # use the packages of the current interpreter
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    started = time.monotonic()
    subprocess.run(
        command.split(), cwd=folder, env={**os.environ, "PATH": path, **environment}, check=True
    )
    seconds = time.monotonic() - started
    stages = [
        {"stage": name, "jobs": jobs, "seconds": spent}
        for name, spent, jobs, _ in stage_times([folder / f"results/{study}/benchmarks"], study)
    ]
    return {"study": study, "command": command, "seconds": seconds, "stages": stages}


def in_a_clone(commands: dict[str, str]) -> list[dict[str, Any]]:
    """Measurements of these studies (name → command) in a fresh clone of the last commit."""
    with fresh_clone() as clone:
        return [measure(study, command, clone) for study, command in commands.items()]


def measure_before(commit: str, device: str) -> list[dict[str, Any]]:
    """The studies of an earlier commit, measured by its own copy of this program."""
    with fresh_clone() as clone:
        subprocess.run(["git", "-C", clone, "checkout", "-q", commit], check=True)
        program_of_clone = [sys.executable, "benchmarks/study_time.py"]
        environment = {**os.environ, "PYTHONPATH": "src"}
        subprocess.run(program_of_clone, cwd=clone, env=environment, check=True)
        found = json.loads((clone / f"benchmarks/results/{device}-studies.json").read_text())
    return [{**study, "commit": commit} for study in found["studies"]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", metavar="COMMIT", help="also measure an earlier commit")
    parser.add_argument("--at-once", action="store_true", help="one job at a time against two")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = run.machine(argparse.Namespace(device=device, threads=set_threads(0)))
    before = measure_before(args.before, device) if args.before else []
    if args.at_once:
        found = [in_a_clone({"default": command})[0] for command in AT_ONCE]
        about = {"machine": machine, "studies": found}
    else:
        about = {"machine": machine, "studies": in_a_clone(STUDIES[device]), "before": before}
    results = Path(__file__).parent / "results"
    name = f"{device}-{'at-once' if args.at_once else 'studies'}.json"
    write_text(results / name, json.dumps(about, indent=1) + "\n")
    report.write(results, ROOT / "docs")


if __name__ == "__main__":
    program.run(main)
