"""How the cost of a study grows with threads, training prompts and policies, on a CPU.

    PYTHONPATH=src python benchmarks/growth.py --encoder FOLDER

measures training steps of nano with 1 and with 2 threads, and with 1 to 8 training prompts of
config/prompts.yaml at the same batch size, each in a separate process; then small studies of 4 and of 16
policies in a fresh clone of this repository's last commit. Writes benchmarks/results/cpu-growth.json and with
it docs/benchmarks.md. Batch size, completion length and vocabulary: ``run.py --only scaling``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import report
import run
import study_time
import yaml

from tinycats import program
from tinycats.compute.devices import set_threads
from tinycats.files.atomic import write_text

HERE = Path(__file__).parent
BATCH = 960  # divides by all numbers of prompts
PROMPTS = (1, 2, 4, 8)
THREADS = (1, 2)
POLICIES = (4, 16)
#: a study of seconds a policy: what grows is the number of policies
SMALL: dict[str, Any] = yaml.safe_load("""
study: growth
training: {kl_factors: [0, 6000], steps: 2, batch_size: 50}
evaluation:
  stories_per_training_prompt: 8
  stories_per_other_prompt: 1
  new_tokens: 60
  base_completions: 2000
  policy_completions: 200
  search_rewards: 500
  bootstrap_samples: 50
""")


def steps(encoder: Path, threads: int, prompts: list[str], quick: bool) -> dict[str, Any]:
    """Times of training steps by tinycats."""
    options = {
        "contestant": "tinycats",
        "model": run.NANO,
        "encoder": encoder,
        "threads": threads,
        "batch": 16 if quick else BATCH,
        "steps": 2 if quick else 20,
    }
    command = [sys.executable, str(HERE / "measure.py")]
    command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    done = subprocess.run(
        [*command, "--prompts", *prompts], stdout=subprocess.PIPE, text=True, check=True
    )
    (line,) = (x for x in done.stdout.splitlines() if x.startswith("RESULT "))
    found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    print(f"{threads} threads, {len(prompts)} prompts: {found['total_seconds']:.1f} s", flush=True)
    return {"threads": threads, "prompts": len(prompts), "batch": options["batch"], **found}


def study(policies: int) -> dict[str, Any]:
    """Times of a small study by stage."""
    with study_time.fresh_clone() as clone:
        seeds = list(range(policies // 2))
        settings = {**SMALL, "training": {**SMALL["training"], "seeds": seeds}}
        (clone / "growth.yaml").write_text(yaml.safe_dump(settings))
        command = f"{study_time.COMMAND} --configfile growth.yaml"
        return {"policies": policies, **study_time.measure("growth", command, clone)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--quick", action="store_true", help="tiny steps and no study, as a test")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    prompts = yaml.safe_load((HERE.parent / "config/prompts.yaml").read_text())["training"][
        "prompts"
    ]
    most = set_threads(0)
    machine = run.machine(argparse.Namespace(device="cpu", threads=most))
    about: dict[str, Any] = {"machine": machine}
    about["threads"] = [steps(args.encoder, n, prompts[:1], args.quick) for n in THREADS]
    about["prompts"] = [steps(args.encoder, most, prompts[:n], args.quick) for n in PROMPTS]
    about["policies"] = [] if args.quick else [study(n) for n in POLICIES]
    write_text(args.out / "cpu-growth.json", json.dumps(about, sort_keys=True) + "\n")
    if not args.quick:
        report.write(args.out, HERE.parent / "docs")


if __name__ == "__main__":
    program.run(main)
