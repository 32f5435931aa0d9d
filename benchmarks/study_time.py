"""Measure the time of the README's command by stage, from installed packages to the report.

    PYTHONPATH=src python benchmarks/study_time.py

runs the default and the smoke study in a fresh clone of this repository's last commit, and writes
benchmarks/results/cpu-studies.json and with it docs/benchmarks.md. The machine should be idle otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import report
import run

from tinycats import program
from tinycats.compute.devices import set_threads
from tinycats.files.atomic import write_text
from tinycats.report.reading import stage_times

ROOT = Path(__file__).parents[1]
COMMAND = "snakemake --cores 1 --resources gpu=1"
STUDIES = {"default": COMMAND, "smoke": f"{COMMAND} --configfile config/smoke.yaml"}


def measure(study: str, folder: Path) -> dict[str, Any]:
    """Wall time of one study in the clone ``folder``, and of its jobs by stage, in seconds."""
    # use the packages of the current interpreter
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    started = time.monotonic()
    subprocess.run(STUDIES[study].split(), cwd=folder, env={**os.environ, "PATH": path}, check=True)
    seconds = time.monotonic() - started
    stages = [
        {"stage": name, "jobs": jobs, "seconds": spent}
        for name, spent, jobs, _ in stage_times(
            [folder / "logs/models", folder / f"results/{study}/benchmarks"], study
        )
    ]
    return {"study": study, "command": STUDIES[study], "seconds": seconds, "stages": stages}


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    machine = run.machine(argparse.Namespace(device="cpu", threads=set_threads(0)))
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary) / "tinycats"
        subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
        studies = [measure(study, clone) for study in STUDIES]
    about = {"machine": machine, "studies": studies}
    results = Path(__file__).parent / "results"
    write_text(results / "cpu-studies.json", json.dumps(about, indent=1) + "\n")
    report.write(results, ROOT / "docs")


if __name__ == "__main__":
    program.run(main)
