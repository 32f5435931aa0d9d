"""Would the tests notice? One plausible mistake at a time, and the tests nearest to it.

tests/mutants.tsv lists mistakes: a file, a piece of its code that occurs once, what is put in its
place, the tests that should notice, and for one that changes nothing the reason. Each is made in a
copy of the repository, and its tests run until one fails. docs/reliability.md gets the share.

    python tests/mutation_run.py --jobs 2       # all, about seven minutes on two CPUs
    python tests/mutation_run.py --only 12 40   # these lines of the list; the page stays as it is
"""

from __future__ import annotations

import argparse
import csv
import gc
import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import NamedTuple

from tiny_model import ROOT, copy_tracked

LIST = ROOT / "tests" / "mutants.tsv"
PAGE = ROOT / "docs" / "reliability.md"
#: slow to import, so imported once; every run of the tests is a fork that has them
HEAVY = (
    "pytest", "numpy", "pandas", "scipy.stats", "scipy.sparse", "yaml", "safetensors.torch",
    "safetensors.numpy", "tokenizers", "torch", "torch.optim", "torch._dynamo", "transformers",
    "transformers.models.gpt_neo.modeling_gpt_neo", "transformers.models.llama.modeling_llama",
    "transformers.models.phi.modeling_phi", "transformers.models.bert.modeling_bert",
)  # fmt: skip
LINE_BREAK = "⏎"
#: seconds; a mistake may make a loop endless, which is noticed too
LONGEST = 900
NOTICED, UNNOTICED, EQUIVALENT, LOST = "noticed", "unnoticed", "equivalent", "not found"


class Mutant(NamedTuple):
    """One line of the list."""

    number: int
    file: str
    code: str
    mutant: str
    tests: list[str]
    equivalent: str  # why no test can notice it; else empty

    @property
    def place(self) -> str:
        return f"{self.number:4d} {self.file}: {self.code.strip()[:70]!r}"


def read_list() -> list[Mutant]:
    with open(LIST, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Mutant(
            number,
            row["file"],
            row["code"].replace(LINE_BREAK, "\n"),
            row["mutant"].replace(LINE_BREAK, "\n"),
            row["tests"].split(),
            (row["equivalent"] or "").strip(),
        )
        for number, row in enumerate(rows, start=1)
    ]


def fails(folder: Path, tests: list[str], log: Path) -> bool:
    """Whether a test fails in this copy; what pytest prints is appended to ``log``."""
    child = os.fork()
    if not child:
        code = 70
        try:
            os.setsid()
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.chdir(folder)
            sys.path[:] = [path for path in sys.path if Path(path) != ROOT / "tests"]
            sys.modules.pop("tiny_model", None)
            # not this program; tests that start a server of processes look for one
            sys.modules["__main__"] = ModuleType("__main__")
            pytest = importlib.import_module("pytest")
            options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-o", "addopts="]
            code = int(pytest.main([*options, *tests]))
        finally:
            sys.stdout.flush()
            os._exit(code)
    until = time.monotonic() + LONGEST
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            if code == 4:  # pytest's own: a test of the list is missing, or a mistake at import
                text = log.read_text(encoding="utf-8", errors="replace")
                if "not found: " in text.splitlines()[-1]:
                    sys.exit(f"{tests}: no such test")
            return code != 0
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.05)


def judge(mutant: Mutant, folder: Path, log: Path) -> str:
    """Make the mistake in ``folder``, run its tests, take the mistake back."""
    path = folder / mutant.file
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if before.count(mutant.code) != 1:
        return LOST
    if mutant.equivalent:
        return EQUIVALENT
    try:
        path.write_text(before.replace(mutant.code, mutant.mutant), encoding="utf-8")
        return NOTICED if fails(folder, mutant.tests, log) else UNNOTICED
    finally:
        path.write_text(before, encoding="utf-8")


def state_the_share(counts: Counter[str]) -> str:
    """Write the result into docs/reliability.md; returns the sentence."""
    effective = counts[NOTICED] + counts[UNNOTICED]
    sentence = (
        f"Of {effective} plausible single mistakes that change behaviour, the tests nearest to them"
        f" notice {counts[NOTICED]} ({100 * counts[NOTICED] / effective:.0f} %); {counts[EQUIVALENT]}"
        " more change nothing, each with its reason (`tests/mutants.tsv`)."
    )
    page = PAGE.read_text(encoding="utf-8")
    new, places = re.subn(
        r"(<!-- mutation_run -->\n).*?(\n<!-- end -->)", rf"\g<1>{sentence}\g<2>", page, flags=re.S
    )
    if places != 1:
        sys.exit(f"{PAGE}: should have one place for the result, between two comments")
    PAGE.write_text(new, encoding="utf-8")
    return sentence


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", type=int, nargs="+", help="lines of the list, from 1")
    parser.add_argument("--jobs", type=int, default=1, help="mistakes at a time, one CPU each")
    parser.add_argument("--log", type=Path, help="file for what pytest prints")
    args = parser.parse_args()
    mutants = [m for m in read_list() if not args.only or m.number in args.only]
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONDONTWRITEBYTECODE": "1",  # bytecode is known by second and size: too coarse here
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # they take longer than most of these tests
    }
    sys.dont_write_bytecode = True
    for name in HEAVY:
        importlib.import_module(name)
    gc.freeze()  # a fork need not look through what all share
    with tempfile.TemporaryDirectory() as scratch:
        folders: SimpleQueue[Path] = SimpleQueue()
        for job in range(args.jobs):
            folder = copy_tracked(Path(scratch) / f"{job}" / "copy")
            # some tests copy what git would hand out
            subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
            folders.put(folder)
        log = args.log or Path(scratch) / "log"
        sound = folders.get()
        tests = sorted({test for m in mutants for test in m.tests if not m.equivalent})
        if tests and fails(sound, tests, log):
            print(log.read_text(encoding="utf-8", errors="replace")[-3000:], file=sys.stderr)
            sys.exit("a test fails without any mistake")
        folders.put(sound)
        counts: Counter[str] = Counter()

        def one(mutant: Mutant) -> None:
            folder, begin = folders.get(), time.monotonic()
            found = judge(mutant, folder, log)
            folders.put(folder)
            counts[found] += 1
            print(f"{found:10} {time.monotonic() - begin:5.0f} s {mutant.place}", flush=True)

        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(one, mutants))
    print(", ".join(f"{number} {name}" for name, number in sorted(counts.items())))
    if not args.only and not counts[LOST]:
        print(state_the_share(counts))
    return 1 if counts[LOST] or counts[UNNOTICED] else 0


if __name__ == "__main__":
    sys.exit(main())
