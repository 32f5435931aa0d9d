"""What a training step asks of a GPU, counted where there is none.

    PYTHONPATH=src python benchmarks/operations.py --encoder FOLDER

One step at TinyStories-33M's shape on the device of ``second_device.py``: operations of which each
is at least one kernel to launch (views are not), floating-point operations of matrix products, and
how often the host waits. Of the post's loop a few completions are done and scaled up: its products
are in proportion. What issuing the operations costs the host is measured on the CPU with ten
completions and a model as deep but 16 wide, whose arithmetic takes next to nothing. Writes benchmarks/results/operations.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import report
import run
import second_device
import shapes
import torch
from torch.utils.flop_counter import flop_registry

from tinycats import program
from tinycats.compute import devices
from tinycats.files.tables import write_text

HERE = Path(__file__).parent
SIZE = "tinystories-33m"
NARROW = shapes.Shape(layers=4, width=16, heads=2, vocabulary=512)
#: contestant → completions of its counted step
BATCHES = {"tinycats": 1000, "ladder-1": 10}


class Counter:
    """Stands where the benchmarks have their stopwatch, and counts by stage."""

    def __init__(self) -> None:
        self.stage, self.waits = "", second_device.waits.total()
        self.found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            before, self.stage = self.stage, stage
            result = function(*args, **kwargs)
            self.stage = before
            return result

        return counted

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
    """One step of a contestant, by stage."""
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
    counter.waits = second_device.waits.total()  # those of setting up are past
    second_device.listeners.append(counter)
    facts = counter.wrap("rest", step)()
    return {"contestant": contestant, "batch": batch, **facts, "stages": counter.found}


def host_seconds(args: argparse.Namespace) -> float:
    """Median of a step whose tensors are tiny, rewards aside, on one CPU thread."""
    from tinycats.compute import linear

    torch.set_num_threads(1)
    linear.available = lambda: False  # a GPU does not go that way
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
    add("--batch", type=int, help="completions of every contestant, to see that it runs")
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
