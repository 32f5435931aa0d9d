"""Measure the encoder with other sizes of its blocks on a CPU, alone and beside busy loops.

    PYTHONPATH=src python benchmarks/encoder_blocks.py --encoder FOLDER

encodes texts of random words, as long as stories and as short as completions, with the sizes of
tinycats.reward.encoder and with others, and compares the bits. Writes benchmarks/results/cpu-blocks.json and
with it docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import report
import run
import torch
from load import busy

from tinycats import program
from tinycats.compute.devices import set_threads, usable_cpus
from tinycats.files.atomic import write_text
from tinycats.reward import encoder
from tinycats.reward.similarity import FastEncoder

#: sizes that hold on a CPU; each is changed alone
SIZES = {
    "rows": encoder.ROWS_AT_ONCE,
    "texts": encoder.TEXTS_AT_ONCE,
    "tokens": encoder.TOKENS_PER_PASS,
}
FACTORS = (1 / 4, 4, 16)
#: name → number of texts, and their shortest and longest length in tokens
TEXTS = {"stories": (96, 150, 256), "completions": (1000, 10, 14)}
REPEATS = 3


def texts(number: int, shortest: int, longest: int, words: int) -> list[list[int]]:
    """Tokens of texts of random words, the same in each call."""
    draw = random.Random(0)
    return [draw.choices(range(1, words), k=draw.randint(shortest, longest)) for _ in range(number)]


def measure(folder: Path, given: dict[str, list[list[int]]], repeats: int) -> dict[str, Any]:
    """Seconds of each kind of texts, alone and beside busy loops, and their vectors, with the sizes of now."""
    bert = FastEncoder(folder, torch.device("cpu")).bert
    vectors = {kind: bert(ids) for kind, ids in given.items()}
    seconds: dict[str, list[list[float]]] = {kind: [] for kind in given}
    for loops in (0, usable_cpus()):
        with busy(loops):
            for kind, ids in given.items():
                taken = []
                for _ in range(repeats):
                    began = time.perf_counter()
                    bert(ids)
                    taken.append(time.perf_counter() - began)
                seconds[kind].append(taken)
    return {
        "sizes": {name: of["cpu"] for name, of in SIZES.items()},
        "seconds": seconds,
        "vectors": vectors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument(
        "--quick", action="store_true", help="tiny work, as a test of the benchmark"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    machine = run.machine(argparse.Namespace(device="cpu", threads=set_threads(0)))
    words = FastEncoder(args.encoder, torch.device("cpu")).tokenizer.get_vocab_size()
    given = {
        kind: texts(number // 16 if args.quick else number, shortest, longest, words)
        for kind, (number, shortest, longest) in TEXTS.items()
    }
    repeats = 1 if args.quick else REPEATS
    runs = [measure(args.encoder, given, repeats)]
    for of in SIZES.values():
        chosen = of["cpu"]
        for factor in FACTORS:
            of["cpu"] = int(chosen * factor)
            runs.append(measure(args.encoder, given, repeats))
        of["cpu"] = chosen
    first = runs[0]["vectors"]
    for found in runs:
        vectors = found.pop("vectors")
        found["same_bits"] = all(torch.equal(vectors[kind], first[kind]) for kind in given)
    about = {"machine": machine, "texts": TEXTS, "runs": runs}
    write_text(args.out / "cpu-blocks.json", json.dumps(about, indent=1) + "\n")
    report.write(args.out, args.out if args.quick else run.HERE.parent / "docs")


if __name__ == "__main__":
    program.run(main)
