"""Count the GPU work of a training step on a simulated device; no GPU is needed.

    PYTHONPATH=src python benchmarks/operations.py --encoder FOLDER

One step at TinyStories-33M's shape on the device of ``second_device.py``: operations, each of which
launches at least one kernel (views do not count), floating-point operations of matrix products, and
synchronisations with the host. The post's loop runs with a few completions and is scaled up, since its
products are proportional to their number. The host's time to issue the operations is measured on the
CPU with ten completions and a model of the same depth but width 16, which needs almost no arithmetic.
Writes benchmarks/results/operations.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import measure
import report
import run
import second_device
import shapes
import torch
from common import CurrentStage
from torch.utils.flop_counter import flop_registry

from tinycats import program
from tinycats.compute import devices
from tinycats.files.atomic import write_text

HERE = Path(__file__).parent
SIZE = "tinystories-33m"
NARROW = shapes.Shape(layers=4, width=16, heads=2, vocabulary=512)
#: implementation → completions of its counted step
BATCHES = {"tinycats": 1000, "ladder-1": 10}


class Counter(CurrentStage):
    """Replaces the benchmarks' stopwatch and counts by stage."""

    def __init__(self) -> None:
        self.waits = second_device.waits.total()
        self.found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def __call__(self, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        packet = function.overloadpacket
        free = function.is_view or "empty" in packet.__name__ or packet.__name__ == "_unsafe_view"
        found = self.found[self.stage]
        found["operations"] += not free
        found["waits"] += second_device.waits.total() - self.waits
        self.waits = second_device.waits.total()
        if packet in flop_registry:
            found["flop"] += flop_registry[packet](*args, **kwargs, out_val=result)


def count(contestant: str, args: argparse.Namespace) -> dict[str, Any]:
    """Count one step of an implementation, by stage."""
    counter = Counter()
    second_device.listeners.clear()
    batch = args.batch or BATCHES[contestant]
    work = argparse.Namespace(
        device=second_device.NAME,
        model=args.model,
        encoder=args.encoder,
        batch=batch,
        new_tokens=4,
        steps=1,
        precision="fp32",
    )
    step: Any
    if contestant == "tinycats":
        step = measure.tinycats(work, counter)  # type: ignore[arg-type]
    else:
        step = measure.ladder(int(contestant.removeprefix("ladder-")), work, counter)  # type: ignore[arg-type]
    counter.waits = second_device.waits.total()  # without those of the set-up
    second_device.listeners.append(counter)
    facts = step()
    return {"contestant": contestant, "batch": batch, **facts, "stages": counter.found}


def host_seconds(args: argparse.Namespace) -> float:
    """Median seconds of a step with tiny tensors, without rewards, on one CPU thread."""
    from tinycats.compute import linear

    torch.set_num_threads(1)
    linear.available = lambda: False  # type: ignore[assignment]  # not used on a GPU
    folder = HERE / "build" / "narrow"
    if not (folder / "shape.json").exists():
        shapes.build(folder, NARROW, None)
    watch = measure.Stopwatch("cpu")
    work = argparse.Namespace(device="cpu", model=folder, encoder=args.encoder, steps=0)
    work.batch, work.new_tokens, work.precision = 10, 4, "fp32"
    step = measure.tinycats(work, watch)
    seconds = []
    for _ in range(30):
        watch.seconds.clear()
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began - watch.seconds["reward"])
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--encoder", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    add("--model", type=Path, help="folder of a model; default TinyStories-33M's shape")
    add("--batch", type=int, help="completions per step of each implementation, for a quick test")
    add("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    args.model = args.model or shapes.model_folder(SIZE, None, run.NANO)
    args.device, args.threads = "cpu", devices.usable_cpus()
    with second_device.plugged_in():  # before the library is imported
        found = [count(contestant, args) for contestant in BATCHES]
    second_device.listeners.clear()
    seconds = host_seconds(args)
    about = {"machine": run.machine(args), "host_seconds": seconds, "steps": found}
    write_text(args.out / "operations.json", json.dumps(about, sort_keys=True) + "\n")
    if args.out == HERE / "results":
        report.write(args.out, HERE.parent / "docs")


if __name__ == "__main__":
    program.run(main)
