"""Measure how much each stage slows down on a busy machine: the smoke study idle, then beside busy loops.

    PYTHONPATH=src python benchmarks/load.py

runs the smoke study in a fresh clone of this repository's last commit, alone and beside as many busy loops
as the machine has CPUs, and large products of torch in the same way, which show what share of the machine is
left; then both with threads that wait as long as libgomp lets them by itself. Writes
benchmarks/results/cpu-load.json and with it docs/benchmarks.md. ``--waits`` measures the job of the
completions alone, which slows down most, with threads that wait for different times, and with one thread,
into benchmarks/results/cpu-waits.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import report
import run
import study_time
import torch

from tinycats import layout, program
from tinycats.compute.devices import set_threads, usable_cpus
from tinycats.files.atomic import write_text

PRODUCT = 1000  # rows and columns
SPIN_COUNT = "300000"  # libgomp's own; the workflow's is in workflow/rules/common.smk
#: (GOMP_SPINCOUNT, the config's threads); 0 is also what OMP_WAIT_POLICY=passive sets
WAITS = (("0", 0), ("1000", 0), ("10000", 0), ("100000", 0), (SPIN_COUNT, 0), (SPIN_COUNT, 1))


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many processes that do nothing but take a CPU."""
    found = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in found:
            process.kill()
            process.wait()


def product_seconds(seconds: float = 10.0) -> float:
    """Median time of a product of matrices in torch, as it is by default."""
    a, b = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)
    found = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        a @ b
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def measure(loops: int, spin_count: str | None = None) -> dict[str, Any]:
    """The smoke study's seconds by stage, and a product's."""
    command = study_time.STUDIES["cpu"]["smoke"]
    with study_time.fresh_clone() as clone, busy(loops):
        return {
            "loops": loops,
            "spin_count": spin_count,
            "product": product_seconds(),
            **study_time.measure("smoke", command, clone, GOMP_SPINCOUNT=spin_count or ""),
        }


def waits() -> list[dict[str, Any]]:
    """Seconds of the smoke study's job of the completions, alone and beside loops, by :data:`WAITS`."""
    smoke, found = study_time.STUDIES["cpu"]["smoke"], []
    with study_time.fresh_clone() as clone:
        study_time.measure("smoke", smoke, clone)
        for spin_count, threads in WAITS:
            command = (
                f"{smoke} --config threads={threads} --force results/smoke/{layout.FIRST_TOKEN}"
            )
            seconds = []
            for loops in (0, usable_cpus()):
                with busy(loops):
                    again = study_time.measure("smoke", command, clone, GOMP_SPINCOUNT=spin_count)
                seconds += [s["seconds"] for s in again["stages"] if s["stage"] == "completions"]
            found.append({"spin_count": spin_count, "threads": threads, "seconds": seconds})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--waits", action="store_true", help="one job, with different waits")
    args = parser.parse_args()
    machine = run.machine(argparse.Namespace(device="cpu", threads=set_threads(0)))
    if args.waits:
        runs = waits()
    else:
        pairs = itertools.product((None, SPIN_COUNT), (0, usable_cpus()))
        runs = [measure(loops, spin_count) for spin_count, loops in pairs]
    about = {"machine": machine, "runs": runs}
    results = Path(__file__).parent / "results"
    name = f"cpu-{'waits' if args.waits else 'load'}.json"
    write_text(results / name, json.dumps(about, indent=1) + "\n")
    report.write(results, study_time.ROOT / "docs")


if __name__ == "__main__":
    program.run(main)
