"""Benchmark the trainer, the post's loop and TRL's RLOOTrainer on this machine.

    PYTHONPATH=src python benchmarks/run.py --encoder FOLDER --trl-python TRL_VENV/bin/python

Each measurement is a separate process, one at a time, implementations in turn, so that a busy machine
affects all of them. Learning rate 0 keeps the policy, and so the work, constant. Writes benchmarks/results/<device>-<size>.json, docs/benchmarks.md and its figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import report
import shapes

from tinycats import program
from tinycats.files.atomic import write_text
from tinycats.policies import record as provenance

HERE = Path(__file__).parent
NANO = HERE.parent / "workflow" / "resources" / "nano"
#: (implementation, precision) of each comparison
CONTESTANTS = (
    ("ladder-1", "fp32"),
    ("ladder-4", "fp32"),
    ("trl", "fp32"),
    ("trl", "bf16"),
    ("tinycats", "fp32"),
    ("tinycats", "bf16"),
)
WHOLE = 1000  # completions per step, if they fit into memory
BATCHES = (1000, 500, 250, 125, 60, 30, 15)
#: the same for all, since the memo makes later steps faster
STEPS = {"cpu": {"nano": 20, "tinystories-33m": 4}, "cuda": {"nano": 100, "tinystories-33m": 100}}


@dataclass(frozen=True)
class Work:
    """Settings of one measurement."""

    part: str  # main, batch, length or vocabulary
    size: str
    contestant: str
    precision: str
    batch: int
    new_tokens: int
    steps: int
    seconds: float  # start no step after this many


def main_work(device: str, size: str, rounds: int) -> Iterator[Work]:
    """Measurements of a size's table: every implementation in turn, ``rounds`` times."""
    for _ in range(rounds):
        for contestant, precision in CONTESTANTS:
            yield Work("main", size, contestant, precision, WHOLE, 4, STEPS[device][size], 600)


def scaling_work(device: str) -> Iterator[Work]:
    """Measurements of the figure: batch size, completion length and vocabulary, with nano's layers."""
    who = [c for c in CONTESTANTS if c not in (("ladder-4", "fp32"), ("trl", "bf16"))]
    points = [("batch", "nano", batch, 4) for batch in (1000, 300, 100)]
    points += [("length", "nano", 50, new) for new in (4, 32, 244)]
    points += [("vocabulary", f"vocabulary-{v}", 300, 4) for v in (4096, 16384, 50257)]
    for part, size, batch, new_tokens in points:
        for contestant, precision in who:
            yield Work(part, size, contestant, precision, batch, new_tokens, 3, 20)


def quick(work: Work) -> Work:
    """The same measurements with tiny sizes."""
    small = {"batch": min(work.batch, 12), "new_tokens": min(work.new_tokens, 8), "steps": 1}
    return Work(**{**asdict(work), **small})


class Bench:
    """Runs measurements and stores their results."""

    def __init__(self, args: argparse.Namespace, out: Path, machine: dict[str, Any]) -> None:
        self.args, self.out, self.machine = args, out, machine
        self.records: list[dict[str, Any]] = []
        self.fitting: dict[tuple[str, str, str, int], int] = {}
        self.failure = ""

    def measure(self, work: Work) -> dict[str, Any] | None:
        """Run one measurement; ``None`` if it failed, with the reason in ``self.failure``."""
        args = self.args
        python = args.trl_python if work.contestant == "trl" else sys.executable
        model = shapes.model_folder(work.size, args.gpt2_tokenizer, args.nano)
        options = {
            "contestant": work.contestant,
            "precision": work.precision,
            "model": model,
            "encoder": args.encoder,
            "batch": work.batch,
            "new-tokens": work.new_tokens,
            "steps": work.steps,
            "seconds": work.seconds,
            "device": args.device,
            "threads": args.threads,
        }
        command = [str(python), str(HERE / "measure.py")]
        command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment = {**os.environ, **offline, "PYTHONPATH": str(HERE.parent / "src")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        lines = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")]
        if done.returncode or not lines:
            no_memory = done.returncode == -9 or "out of memory" in done.stderr
            self.failure = "it ran out of memory" if no_memory else "it failed"
            print(f"{self.failure}: {work}\n{done.stderr[-1500:]}", file=sys.stderr)
            return None
        found: dict[str, Any] = json.loads(lines[0].removeprefix("RESULT "))
        return found

    def largest_batch(self, work: Work) -> int:
        """The largest batch that fits into memory, extrapolated from two small batches."""
        if work.contestant == "tinycats" or self.args.quick:
            return work.batch  # the trainer's memory use is bounded
        vocabulary = shapes.SHAPES[work.size].vocabulary if work.size in shapes.SHAPES else 4096
        if 40 * work.batch * work.new_tokens * vocabulary < 0.2 * self.args.memory_gb * 1e9:
            return work.batch  # ten copies of all logits are far below the memory
        key = (work.size, work.contestant, work.precision, work.new_tokens)
        if key not in self.fitting:
            probes = []
            sizes = max(2, work.batch // 50), max(6, work.batch // 12)
            for batch in sizes:
                probe = Work("probe", *key[:3], batch, work.new_tokens, 2, 60)
                found = self.measure(probe)
                if found is None:
                    return BATCHES[-1]
                probes.append(found["peak_bytes"])
            each = max(1.0, (probes[1] - probes[0]) / (sizes[1] - sizes[0]))
            self.fitting[key] = int((self.args.memory_gb * 1e9 - probes[0]) / each)
        if self.fitting[key] >= work.batch:
            return work.batch
        return next((b for b in BATCHES if b <= min(work.batch, self.fitting[key])), BATCHES[-1])

    def run(self, work: Work) -> None:
        batch = self.largest_batch(work)
        found = self.measure(Work(**{**asdict(work), "batch": batch}))
        record = {**asdict(work), "wanted_batch": work.batch, "batch": batch, "result": found}
        if found is None:
            record["failure"] = self.failure
        self.records.append(record)
        about = {"machine": self.machine, "command": self.args.shown, "records": self.records}
        write_text(self.out, json.dumps(about, indent=None, sort_keys=True) + "\n")
        if found:
            per_step = sorted(found["seconds"])[len(found["seconds"]) // 2]
            print(
                f"{work.part:<10} {work.size:<17} {work.contestant:<9} {work.precision} batch {batch:>4}"
                f" × {work.new_tokens:<3} {per_step:8.2f} s a step"
                f"  {found['peak_bytes'] / 1e9:5.1f} GB",
                flush=True,
            )


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """Hardware and versions of the measurements."""
    import torch
    import transformers

    about = {
        "device": args.device,
        "cpu": next(
            x.split(":")[1].strip()
            for x in Path("/proc/cpuinfo").read_text().splitlines()
            if x.startswith("model name")
        ),
        "threads": args.threads,
        "memory_gb": round(memory_bytes("MemTotal") / 1e9),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl_version(getattr(args, "trl_python", None)),
        "commit": provenance.commit(),
        "began": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),  # UTC
    }
    if args.device == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
    return about


def trl_version(python: Path | None) -> str:
    """Version of TRL in its environment."""
    if python is None:
        return "not measured"
    words = [str(python), "-c", "import importlib.metadata as m; print(m.version('trl'))"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def memory_bytes(field: str) -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith(field + ":"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--encoder", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    add("--trl-python", type=Path, help="python of an environment with requirements-trl.txt")
    add("--nano", type=Path, default=NANO, help="folder of the story model")
    add("--gpt2-tokenizer", type=Path, help="folder with GPT-2's vocab.json and merges.txt")
    add("--device", default="cpu", choices=["cpu", "cuda"])
    add("--threads", type=int, default=0)
    add("--memory-gb", type=float, help="memory limit; default 80 %% of free memory")
    add("--rounds", type=int, default=1, help="measurements of each implementation")
    add("--sizes", nargs="+", default=["nano", "tinystories-33m"])
    add("--only", nargs="+", default=["main", "scaling"], choices=["main", "scaling"])
    add("--quick", action="store_true", help="tiny work, as a test of the benchmark")
    add("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    args.shown = "python benchmarks/run.py --encoder FOLDER --trl-python PYTHON"
    if args.device != "cpu":
        args.shown += f" --device {args.device}"
    return args


def main() -> None:
    args = parse()
    from tinycats.compute.devices import set_threads

    args.threads = set_threads(args.threads)
    if args.memory_gb is None:
        if args.device == "cuda":
            import torch

            args.memory_gb = 0.8 * torch.cuda.mem_get_info()[0] / 1e9
        else:
            args.memory_gb = 0.8 * memory_bytes("MemAvailable") / 1e9
    plans: dict[str, Iterator[Work]] = {}  # by output file
    if "main" in args.only:
        plans |= {size: main_work(args.device, size, args.rounds) for size in args.sizes}
    if "scaling" in args.only:
        plans["scaling"] = scaling_work(args.device)
    about = machine(args)  # before results are written, which are changes to the commit
    for name, plan in plans.items():
        bench = Bench(args, args.out / f"{args.device}-{name}.json", about)
        for work in plan:
            if work.contestant == "trl" and args.trl_python is None:
                continue
            bench.run(quick(work) if args.quick else work)
    report.write(args.out, args.out if args.quick else HERE.parent / "docs")


if __name__ == "__main__":
    program.run(main)
