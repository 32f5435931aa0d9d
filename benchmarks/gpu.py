"""Measure on one GPU, in one process: every implementation, the host's time, and correctness.

    PYTHONPATH=src python benchmarks/gpu.py --encoder FOLDER

``run.py --device cuda`` starts a process for each measurement, and a process takes 15 s to start; this
one is for a GPU that is lent by the minute. TRL is measured where it is installed. Writes
benchmarks/results/cuda-<size>.json and cuda-checks.json. Without a GPU, ``--quick`` runs everything in
tiny sizes on the CPU, as a test of this program.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import importlib.util
import json
import pstats
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_checks
import measure
import run
import shapes
import torch
from common import Stopwatch, peak_bytes

from tinycats import program
from tinycats.files.atomic import write_text

HERE = Path(__file__).parent
OURS = HERE.parent
PARTS = ("contest", "profile", "exact", "programs", "policies")
PROFILED = 5  # steps


class Bench:
    """Measurements in this process on ``args.device``."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    def work(self, size: str, contestant: str, precision: str) -> argparse.Namespace:
        """The arguments of one measurement, as ``measure.py`` takes them."""
        a = self.args
        return argparse.Namespace(
            contestant=contestant,
            precision=precision,
            model=shapes.model_folder(size, a.gpt2_tokenizer, run.NANO),
            encoder=a.encoder,
            batch=12 if a.quick else run.WHOLE,
            new_tokens=4,
            steps=2 if a.quick else a.steps,
            seconds=a.seconds,
            device=a.device,
        )

    def contest(self, size: str) -> list[dict[str, Any]]:
        """Every implementation in turn."""
        records = []
        for contestant, precision in run.CONTESTANTS:
            if contestant == "trl" and importlib.util.find_spec("trl") is None:
                continue
            if contestant not in self.args.contestants:
                continue
            work = self.work(size, contestant, precision)
            record = {
                "part": "main",
                "size": size,
                "wanted_batch": work.batch,
                **{k: getattr(work, k) for k in ("contestant", "precision", "batch")},
                **{k: getattr(work, k) for k in ("new_tokens", "steps", "seconds")},
            }
            self.free()
            try:
                record["result"] = found = measure.contestant(work)
                found["peak_bytes"] = peak_bytes(self.args.device)
                step = sorted(found["seconds"])[len(found["seconds"]) // 2]
                print(
                    f"{size} {contestant} {precision}: {step:.4f} s a step,"
                    f" {len(found['seconds'])} steps in {found['total_seconds']:.2f} s,"
                    f" {found['peak_bytes'] / 1e9:.1f} GB {found['stages'][-1]}",
                    flush=True,
                )
            except Exception as error:  # an implementation that fails does not stop the others
                traceback.print_exc()
                record |= {"result": None, "failure": f"it failed: {type(error).__name__}"}
            records.append(record)
        return records

    def free(self) -> None:
        gc.collect()
        if self.args.device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    # ------------------------------------------------------------------ where the time goes

    def profile(self, size: str, precision: str) -> dict[str, Any]:
        """Time of the host and of the device by operation, and the lines that wait."""
        self.free()
        watch = Stopwatch(self.args.device)
        watch.on = False
        step = measure.tinycats(self.work(size, "tinycats", precision), watch)
        step()
        step()
        return {
            "size": size,
            "precision": precision,
            "waits": self.waits(step),
            "python": self.python(step),
            **self.operations(step),
        }

    def operations(self, step: Callable[[], Any]) -> dict[str, Any]:
        """Times of torch's operations, in milliseconds a step."""
        from torch.profiler import ProfilerActivity

        gpu = self.args.device != "cpu"
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * gpu
        began = time.perf_counter()
        for _ in range(PROFILED):
            step()
        whole = 1000 * (time.perf_counter() - began) / PROFILED
        with torch.profiler.profile(activities=activities) as profiler:
            for _ in range(PROFILED):
                step()
        rows = [
            {
                "name": event.key,
                "calls": event.count / PROFILED,
                "host_ms": event.self_cpu_time_total / 1000 / PROFILED,
                "device_ms": event.self_device_time_total / 1000 / PROFILED,
            }
            for event in profiler.key_averages()
        ]
        launches = sum(r["calls"] for r in rows if "LaunchKernel" in r["name"])
        kernels = [r for r in rows if not r["host_ms"]]
        return {
            "step_ms": whole,
            "device_ms": sum(r["device_ms"] for r in kernels),
            "launches": launches,
            "by_host": sorted(rows, key=lambda r: -r["host_ms"])[:40],
            "by_device": sorted(kernels, key=lambda r: -r["device_ms"])[:25],
        }

    def python(self, step: Callable[[], Any]) -> list[dict[str, Any]]:
        """Python's own time by function, in milliseconds a step; the profiler slows it down."""
        profiler = cProfile.Profile()
        profiler.enable()
        for _ in range(PROFILED):
            step()
        profiler.disable()
        found = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
        rows = [
            {
                "function": f"{'/'.join(Path(file).parts[-3:])}:{line} {name}",
                "calls": calls / PROFILED,
                "own_ms": 1000 * own / PROFILED,
                "all_ms": 1000 * whole / PROFILED,
            }
            for (file, line, name), (_, calls, own, whole, _) in found.items()
        ]
        by_own = sorted(rows, key=lambda r: -r["own_ms"])[:60]
        by_all = sorted(rows, key=lambda r: -r["all_ms"])[:80]
        return by_own + [row for row in by_all if row not in by_own]

    def waits(self, step: Callable[[], Any]) -> dict[str, int]:
        """How often each line of this repository synchronises in one step."""
        if self.args.device == "cpu":
            return {}
        found: Counter[str] = Counter()

        def note(message: Any, *_: Any, **__: Any) -> None:
            if "synchroniz" in str(message):
                frames = traceback.extract_stack()
                ours = [f for f in frames if Path(f.filename).is_relative_to(OURS / "src")]
                where = ours[-1] if ours else frames[-2]
                found[f"{Path(where.filename).name}:{where.lineno} {where.line}"] += 1

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note
            torch.cuda.set_sync_debug_mode("warn")
            step()
            torch.cuda.set_sync_debug_mode("default")
        return dict(found.most_common())


def ceilings(device: str, size: int) -> dict[str, float]:
    """TFLOP/s of a large product of random matrices in float32 and bfloat16."""
    found = {}
    for kind in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
        for _ in range(2):
            a @ b
        watch = Stopwatch(device)
        began = watch.now()
        for _ in range(5):
            a @ b
        found[str(kind)] = 5 * 2 * size**3 / (watch.now() - began) / 1e12
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--encoder", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    add("--gpt2-tokenizer", type=Path, help="folder with GPT-2's vocab.json and merges.txt")
    add("--sizes", nargs="+", default=["nano", "tinystories-33m"])
    add("--parts", nargs="+", default=PARTS, choices=PARTS)
    add("--contestants", nargs="+", default=["tinycats", "ladder-1", "ladder-4", "trl"])
    add("--steps", type=int, default=100, help="steps of each implementation, at most")
    add("--seconds", type=float, default=60, help="start no step after this many seconds")
    add("--quick", action="store_true", help="tiny work on the CPU, as a test of the benchmark")
    add("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    args.device = "cpu" if args.quick else "cuda"
    args.threads, args.trl_python = torch.get_num_threads(), None
    return args


def main() -> None:
    args = parse()
    began = time.monotonic()
    bench, machine = Bench(args), run.machine(args)
    if importlib.util.find_spec("trl"):
        machine["trl"] = importlib.metadata.version("trl")
    command = f"python benchmarks/gpu.py --encoder FOLDER --seconds {args.seconds:g}"
    checks: dict[str, Any] = {"machine": machine, "command": command}

    def note(part: str, value: Any) -> None:
        checks[part] = value
        write_text(args.out / "cuda-checks.json", json.dumps(checks, sort_keys=True) + "\n")
        print(f"[{time.monotonic() - began:.0f} s] {part}", flush=True)

    def attempt(part: str, work: Callable[..., Any], *arguments: Any) -> None:
        try:
            note(part, work(*arguments))
        except Exception:  # one that fails does not stop the others
            note(part, traceback.format_exc())
            traceback.print_exc()

    attempt("ceilings", ceilings, args.device, 256 if args.quick else 8192)
    for size in args.sizes if "contest" in args.parts else ():
        records = bench.contest(size)
        about = {"machine": machine, "command": command, "records": records}
        write_text(args.out / f"cuda-{size}.json", json.dumps(about, sort_keys=True) + "\n")
    for size in args.sizes if "profile" in args.parts else ():
        for precision in ("fp32",) if args.quick else ("fp32", "bf16"):
            attempt(f"profile {size} {precision}", bench.profile, size, precision)
    if "exact" in args.parts:
        attempt("gradients", gpu_checks.gradients, args)
        attempt("rewards", gpu_checks.rewards, args)
    if "programs" in args.parts:
        attempt("programs", gpu_checks.programs, args)
    if "policies" in args.parts:
        attempt("policies", gpu_checks.policies, args)


if __name__ == "__main__":
    program.run(main)
