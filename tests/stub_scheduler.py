"""Stands in for SGE, PBS or LSF: their commands over a queue that runs one job at a time.

A folder holds a link to this file for each command of the scheduler, and the state of each job. What the
commands print is after each scheduler's manual pages.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMANDS = {
    "SGE": ("qsub", "qstat", "qacct", "qdel"),
    "PBS": ("qsub", "qstat", "qdel"),
    "LSF": ("bsub", "bjobs", "bkill"),
}


class Scheduler:
    """A scheduler whose commands are in ``folder``; runs queued jobs until it is closed.

    Args:
        kind: SGE, PBS or LSF.
        out_of_time: whether a running job, by its words and number, is to be killed.
    """

    def __init__(
        self, folder: Path, kind: str, out_of_time: Callable[[dict[str, Any]], bool] | None = None
    ) -> None:
        self.folder, self.out_of_time = folder, out_of_time or (lambda _: False)
        folder.mkdir()
        for name in COMMANDS[kind]:
            path = folder / name
            path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {kind} {name} "$@"\n')
            path.chmod(0o755)
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.folder}:{os.environ['PATH']}"}

    def jobs(self) -> list[dict[str, Any]]:
        found = [json.loads(path.read_text()) for path in self.folder.glob("*.json")]
        return sorted(found, key=lambda job: int(job["number"]))

    def run(self) -> None:
        while not self.closed.wait(0.05):
            for job in self.jobs():
                if job["state"] == "queued":
                    self.run_one(job)

    def run_one(self, job: dict[str, Any]) -> None:
        time.sleep(0.5)  # in the queue
        write(self.folder, {**job, "state": "running"})
        with open(self.folder / f"{job['number']}.out", "w") as out:
            process = subprocess.Popen(
                ["bash", job["words"][-1]],
                cwd=job["folder"],
                env=job["environment"],
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            while process.poll() is None:
                if self.closed.is_set() or self.out_of_time(job):
                    os.killpg(process.pid, signal.SIGKILL)
                time.sleep(0.05)
        write(self.folder, {**job, "state": "ended", "code": process.returncode})

    def close(self) -> None:
        self.closed.set()
        self.thread.join()


def write(folder: Path, job: dict[str, Any]) -> None:
    path = folder / f"{job['number']}.json"
    path.with_suffix(".new").write_text(json.dumps(job))
    path.with_suffix(".new").rename(path)


def main(kind: str, name: str, *words: str) -> int:
    folder = Path(os.environ["PATH"].partition(":")[0])
    if name in ("qsub", "bsub"):
        number = str(100 + len(list(folder.glob("*.json"))))
        job = {"number": number, "words": words, "folder": os.getcwd(), "state": "queued"}
        write(folder, {**job, "environment": dict(os.environ)})
        said = {
            "SGE": number,
            "PBS": f"{number}.host",
            "LSF": f"Job <{number}> is submitted to queue <q>.",
        }
        print(said[kind])
        return 0
    if name in ("qdel", "bkill"):
        return 0
    path = folder / f"{words[-1].partition('.')[0]}.json"
    if not path.exists():
        return 1
    job = json.loads(path.read_text())
    state, code = job["state"], job.get("code")
    if kind == "LSF":
        ended = "EXIT" if code else "DONE"
        print({"queued": "PEND", "running": "RUN", "ended": ended}[state])
    elif kind == "PBS":
        letter = {"queued": "Q", "running": "R", "ended": "F"}[state]
        print(f"Job Id: {words[-1]}\n    Job_Name = tc\n    job_state = {letter}")
        if state == "ended":
            print(f"    Exit_status = {code}")
    elif name == "qstat":
        return state == "ended"
    else:
        killed = (code or 0) < 0
        print("qname        all.q\nowner        me")
        print(f"failed       {100 if killed else 0}\nexit_status  {137 if killed else code}")
        return state != "ended"
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
