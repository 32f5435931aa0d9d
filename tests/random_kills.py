"""Kill a study at random points, by random signals, and compare what it ends with.

    python tests/random_kills.py [--kills 20] [--seed 0] [--configfile config/smoke.yaml]

Two copies of the repository run the study: one undisturbed, the other killed again and again by SIGKILL,
SIGTERM, SIGINT or SIGSTOP (after which it goes on), sent to all its processes, to Snakemake alone or to
one job. Each time the same command goes on. Both must end with the same files, byte for byte, checksums
included; of clocks only the form is compared. About 15 minutes on two idle cores; not part of the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from tiny_model import copy_tracked, environment

from tinycats.files.atomic import FOLDER, problem

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)
VICTIMS = ("all", "snakemake", "job")
#: files of the results that hold clocks or are a cache, which decide nothing
CLOCKS = re.compile(r"/(benchmarks|rewards)/|/report\.html$|/results\.md$")
RUN_CLOCKS = ("seconds", "started", "finished")


def processes(folder: Path) -> dict[int, str]:
    """Processes that work in a folder, with their commands; not those that only stand for a program."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(path / "cwd") == str(folder.resolve()):
                line = (path / "cmdline").read_text().replace("\0", " ")
                if "warm_start.py client" not in line:
                    found[int(path.name)] = line
        except OSError:  # it has ended, or is another user's
            continue
    return found


def jobs(folder: Path) -> list[int]:
    """Programs of the workflow at work."""
    return [pid for pid, line in processes(folder).items() if "workflow/scripts/" in line]


def until(there: Callable[[], object], seconds: float) -> bool:
    """Wait until something holds; whether it did."""
    deadline = time.monotonic() + seconds
    while not there():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def send(
    process: subprocess.Popen[Any], folder: Path, number: signal.Signals, victim: str = "all"
) -> None:
    """Send a signal to a run in a folder, and end what is left of it; one that was only stopped goes on."""
    targets = {
        "all": list(processes(folder)),
        "snakemake": [process.pid],
        "job": jobs(folder)[:1],
    }[victim]

    def kill(pids: list[int], number: signal.Signals) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    kill(targets, number)
    if number == signal.SIGSTOP:
        time.sleep(1)
        kill(targets, signal.SIGCONT)
        return
    until(lambda: process.poll() is not None, 60)
    while left := processes(folder):  # a job whose Snakemake is gone, too
        kill(list(left), signal.SIGKILL)
        time.sleep(0.05)
    process.communicate()


def content(folder: Path, study: str) -> dict[str, object]:
    """Models and results by file: sha256 of the bytes, of what is not a clock in training.csv and
    run.json; of a checksum file whether it fits."""
    found: dict[str, object] = {}
    results = folder / "results" / study
    for path in sorted([*results.rglob("*"), *(folder / "resources").rglob("*")]):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or CLOCKS.search(f"/{name}"):
            continue
        data = path.read_bytes()
        if path.name == "training.csv":
            data = b"\n".join(line.rsplit(b",", 2)[0] for line in data.splitlines())
        elif path.name == "run.json":
            run = json.loads(data)
            data = repr({k: v for k, v in run.items() if k not in RUN_CLOCKS}).encode()
        elif path.parent.name == FOLDER:
            sealed = path.parent.parent / path.stem
            if sealed.name in ("training.csv", "run.json", "report.html", "results.md"):
                found[name] = problem(sealed)
                continue
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def command(configfile: str) -> list[str]:
    words = ["--cores", "1", "--resources", "gpu=1", "--configfile", configfile]
    return [sys.executable, "-m", "snakemake", *words]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of signals, victims and times")
    parser.add_argument("--configfile", default="config/smoke.yaml", help="the study")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    run = command(str(Path(args.configfile).resolve()))
    study = yaml.safe_load(Path(args.configfile).read_text(encoding="utf-8"))["study"]
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        calm, killed = (copy_tracked(Path(place) / name) for name in ("calm", "killed"))

        def start() -> subprocess.Popen[Any]:
            log = open(killed / "said.log", "a")  # noqa: SIM115 (the processes hold it)
            return subprocess.Popen(
                run, cwd=killed, env=environment(), stdout=log, stderr=log, start_new_session=True
            )

        began = time.monotonic()
        subprocess.run(run, cwd=calm, env=environment(), check=True, capture_output=True)
        spread = 2 * (time.monotonic() - began) / args.kills
        process, kills = start(), 0
        while kills < args.kills:
            working = until(
                lambda: jobs(killed) or process.poll() is not None,  # noqa: B023
                300,
            )
            if working and process.poll() is None:
                until(lambda: process.poll() is not None, rng.uniform(0, spread))  # noqa: B023
            if process.poll() is None:
                number, victim = rng.choice(SIGNALS), rng.choice(VICTIMS)
                stage = re.findall(r"scripts/(\w+)", " ".join(processes(killed).values()))
                send(process, killed, number, victim)
                kills += 1
                print(f"{kills:3} {number.name:8} {victim:10} {(stage or ['-'])[-1]}", flush=True)
            if process.poll() is not None:
                if process.returncode == 0:  # it was done before all kills
                    shutil.rmtree(killed / "results")
                shutil.rmtree(killed / ".snakemake/locks", ignore_errors=True)  # as --unlock
                process = start()
        code = process.wait()
        if code:
            print((killed / "said.log").read_text()[-3000:])
            return code
        one, two = content(calm, study), content(killed, study)
        differ = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
        print(f"{kills} kills: {len(one)} files, {len(differ)} differ", *differ, sep="\n  ")
        return len(differ) > 0


if __name__ == "__main__":
    sys.exit(main())
