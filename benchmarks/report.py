"""Turn benchmarks/results/*.json into docs/benchmarks.md and docs/benchmarks.svg and .png.

PYTHONPATH=src python benchmarks/report.py
"""

from __future__ import annotations

import itertools
from pathlib import Path
from statistics import median
from typing import Any

import report_studies
import report_summary
import report_training
import scaling_figure
from cells import STAGES, Cell, cells, read

from tinycats.files.atomic import write_text

HERE = Path(__file__).parent
NAMES = {
    "ladder-1": "the post's loop",
    "ladder-4": "one pass and a cache",
    "trl": "TRL RLOOTrainer",
    "tinycats": "tinycats",
}
SIZES = {"nano": "Nano", "tinystories-33m": "TinyStories-33M's shape"}
ORDER = [
    ("ladder-1", "fp32"),
    ("ladder-4", "fp32"),
    ("trl", "fp32"),
    ("trl", "bf16"),
    ("tinycats", "fp32"),
    ("tinycats", "bf16"),
]


def ratio(of: Cell | None, to: Cell, attribute: str = "per_sample") -> str:
    return "" if of is None else f"{getattr(of, attribute) / getattr(to, attribute):.1f} ×"


def table(found: dict[tuple[Any, ...], Cell], size: str) -> list[str]:
    """Rows of one size: seconds, ratios, stages, memory."""
    lines = [
        "| | batch | seconds per 1000 completions | speed-up over the post's loop | speed-up over TRL, same"
        " precision | … without rewards | peak memory, GB | distinct |",
        "|---|---|---|---|---|---|---|---|",
    ]
    post = found.get(("ladder-1", "fp32", size))
    for contestant, precision in ORDER:
        cell = found.get((contestant, precision, size))
        if cell is None:
            continue
        trl = found.get(("trl", precision, size))
        is_ours = contestant == "tinycats"
        lines.append(
            f"| {NAMES[contestant]}, {precision} | {cell.batch} | {1000 * cell.per_sample:.2f}"
            f" | {ratio(post, cell)} | {ratio(trl, cell) if is_ours else ''}"
            f" | {ratio(trl, cell, 'without_reward') if is_ours else ''}"
            f" | {cell.peak / 1e9:.1f} | {cell.distinct} |"
        )
    lines += [
        "",
        "Seconds per 100 steps of 1000 completions, by stage (medians; TRL's rest is its"
        " log-probabilities, loss, gradient and update):",
        "",
        "| | sample | reward | gradient | optimiser | rest |",
        "|---|---|---|---|---|---|",
    ]
    for contestant, precision in ORDER:
        cell = found.get((contestant, precision, size))
        if cell is None:
            continue
        scale = 100 * 1000 / cell.batch
        parts = [scale * cell.stages[n] for n in STAGES] + [scale * cell.rest]
        shown = " | ".join(f"{p:.1f}" if p else "" for p in parts)
        lines.append(f"| {NAMES[contestant]}, {precision} | {shown} |")
    return lines + bound(found, size)


def bound(found: dict[tuple[Any, ...], Cell], size: str) -> list[str]:
    """Upper bound of the speed-up over TRL, where rewards take most of tinycats' step."""
    most = []
    for precision in ("fp32", "bf16"):
        trl, ours = (found.get((who, precision, size)) for who in ("trl", "tinycats"))
        if trl and ours and ours.stages["reward"] > sum(ours.stages.values()) / 2:
            free = trl.per_sample * ours.batch / ours.stages["reward"]
            most.append(f"{free:.1f} × in {precision}")
    if not most:
        return []
    return [
        "",
        "Rewards are float32 in both precisions, since bfloat16 moves the cosines of short stories by"
        " more than 1e-3 (`tests/test_reward.py`). If all other stages took no time,"
        f" the speed-up over TRL would be {' and '.join(most)}.",
    ]


def section(device: str, size: str, about: dict[str, Any]) -> list[str]:
    """The section for one device and size."""
    found = cells(about["records"], "size")
    m = about["machine"]
    on = m.get("gpu") or f"{m['cpu']}, {m['threads']} threads"
    lines = [
        f"## {SIZES[size]}, on a {'GPU' if device == 'cuda' else 'CPU'}",
        "",
        f"{on}, {m['memory_gb']} GB of memory; torch {m['torch']}, transformers {m['transformers']},"
        f" TRL {m['trl']}; commit {m['commit']}.",
        "",
        *table(found, size),
        "",
    ]
    for precision in ("fp32", "bf16"):
        ours = found.get(("tinycats", precision, size))
        whole = [t for n, t in ours.total if n == 100] if ours else []
        if whole:
            lines += [
                f"100 steps of 1000 completions in {precision}, with rewards and an initially empty"
                f" memo: {median(whole):.1f} s.",
                "",
            ]
    return lines


def policies(about: dict[str, Any], whole: dict[str, Any]) -> list[str]:
    """The default study's policies and one whole run of the larger shape, on a GPU."""
    gpu, trained = about["machine"]["gpu"], about["policies"]
    run = whole["records"][0]["result"]
    factors = sorted({p["kl_factor"] for p in trained})

    def ends(key: str, factor: float) -> str:
        return ", ".join(f"{p[key]:.3g}" for p in trained if p["kl_factor"] == factor)

    return [
        "## Whole runs, on a GPU",
        "",
        f"{gpu}, commit {about['machine']['commit']}; the encoder's weights were stored in 16 bits.",
        "",
        f"`PYTHONPATH=src {about['command']}`: the default study's {len(trained)} policies, {about['at_once']}"
        f" at a time, take {about['wall_seconds']:.0f} s in all, and a policy's 100 steps"
        f" {min(p['seconds'] for p in trained):.1f} to {max(p['seconds'] for p in trained):.1f} s; the"
        " rest is the start of their programs. Last step of each:",
        "",
        "| KL factor | mean reward, by seed | KL(policy‖base), nats |",
        "|---|---|---|",
        *(
            f"| {f:g} | {ends('reward_mean', f)} | {ends('kl_policy_to_base_nats', f)} |"
            for f in factors
        ),
        "",
        f"`PYTHONPATH=src {whole['command']}`: {len(run['seconds'])} steps at TinyStories-33M's shape in fp32,"
        f" with rewards and an initially empty memo, take {run['total_seconds']:.1f} s.",
        "",
        "`TINYCATS_SECOND_DEVICE=cuda pytest tests/test_second_device.py` on this card: training is as on"
        " the CPU, in `training.csv` within 0.1 % and in weights within 1e-4. In pretraining, weights"
        " differ by up to 2.6e-3 after 8 steps of Adam; another order of sums on one CPU moves them by up to"
        " 4.9e-3, with a validation loss that is equal to 1e-6 bits per byte. Stories, completions and scores"
        " are as on the CPU.",
        "",
    ]


def operations(about: dict[str, Any]) -> list[str]:
    """GPU work of a step: operations, synchronisations and products by stage, and the bounds they imply."""
    steps = {step["contestant"]: step for step in about["steps"]}
    ours, post = steps["tinycats"]["stages"], steps["ladder-1"]["stages"]
    stages = [*STAGES, "rest"]
    waits = [ours[stage]["waits"] for stage in stages]
    issued = [ours[stage]["operations"] for stage in stages]

    def products(contestant: str, found: dict[str, Any]) -> list[float]:
        """TFLOP for 1000 completions."""
        scale = 1000 / steps[contestant]["batch"] / 1e12
        return [scale * found[stage].get("flop", 0) for stage in stages]

    def row(name: str, values: list[Any], shown: str) -> str:
        cells = [format(value, shown) if value else "" for value in [*values, sum(values)]]
        return f"| {name} | {' | '.join(cells)} |"

    mine, theirs = products("tinycats", ours), products("ladder-1", post)
    reward = stages.index("reward")
    without = (sum(theirs) - theirs[reward]) / (sum(mine) - mine[reward])
    host = about["host_seconds"]
    return [
        "## GPU work of a step",
        "",
        "Counted, not timed, by `PYTHONPATH=src python benchmarks/operations.py --encoder FOLDER` on"
        " a device simulated in Python: TinyStories-33M's shape, 1000 completions, fp32; commit"
        f" {about['machine']['commit']}.",
        "",
        "| | sample | reward | gradient | optimiser | rest | total |",
        "|---|---|---|---|---|---|---|",
        row("operations", issued, ",d"),
        row("synchronisations with the host", waits, "d"),
        row("TFLOP of matrix products", mine, ".2f"),
        row("TFLOP in the post's loop", theirs, ".2f"),
        "",
        f"The post's loop has {sum(theirs) / sum(mine):.0f} × as many floating-point operations in matrix"
        f" products, and {without:.0f} × without rewards. This bounds the speed-up in fp32 on"
        " a GPU that is fully used. Issuing the operations of a step takes one core of"
        f" {about['machine']['cpu']} {host:.3f} s (measured on the CPU with almost no arithmetic: ten"
        " completions, a model of the same depth but width 16, without rewards): about"
        f" {100 * host:.0f} s of 100 steps do not depend on the speed of the GPU.",
        "",
    ]


def host(about: dict[str, Any], size: str) -> list[str]:
    """Where the time of a step on a GPU goes, and how exact the step is."""
    p = about[f"profile {size} fp32"]
    top = sorted(p["by_host"], key=lambda row: -row["host_ms"])[:8]
    waits = sum(p["waits"].values())
    gradients = about["gradients"]
    return [
        "## Time of the host, on a GPU",
        "",
        f"{about['machine']['gpu']}, {SIZES[size]}, fp32, after two steps: a step takes"
        f" {p['step_ms']:.0f} ms, in which kernels run for {p['device_ms']:.0f} ms; {p['launches']:,.0f}"
        f" kernels are launched, and the host waits {waits} times. The host decides the time: the target of 5 s"
        " for 100 steps, or 15 × the plain loop, is not reached."
        " Milliseconds a step of the host's own time, by operation, while torch's profiler runs:",
        "",
        "| operation | calls | ms |",
        "|---|---|---|",
        *(f"| `{r['name']}` | {r['calls']:.0f} | {r['host_ms']:.1f} |" for r in top),
        "",
        f"Large products of random matrices reach {about['ceilings']['torch.float32']:.0f} TFLOP/s in fp32"
        f" and {about['ceilings']['torch.bfloat16']:.0f} in bf16. Against float64 on a CPU, nano's gradient"
        f" of 1000 completions is off by {gradients['base_to_policy']:.0e} of its length with the KL of the"
        f" post's code and by {gradients['policy_to_base']:.0e} with that of its formula. Rewards differ"
        f" from the CPU's by {about['rewards']['cpu']:.0e} at most, and not at all between a text alone and"
        " in a batch. The encoder's weights were stored in 16 bits for this run.",
        "",
    ]


INTRODUCTION = """# Benchmarks

One step samples 1000 completions of 4 tokens of "Once upon a time there was", computes their rewards (all-MiniLM-L6-v2), and takes one AdamW step on the loss with a KL term. Implementations run one after another, on a CPU in separate processes, with learning rate 0, so that the work stays the same:

- **the post's loop**: `ladder/1_post.py`, at the largest batch that fits into memory, compared per completion; it encodes every text, as the post does.
- **one pass and a cache**: `ladder/4_one_pass_and_a_cache.py`, in the same way: a careful rewrite without a prefix tree.
- **TRL RLOOTrainer**: no gradient checkpointing, logging or saving; it uses tinycats' reward function with its memo.
- **tinycats**: this repository's trainer as in a study, with everything that it records; the memo of rewards is empty at the start.

The reward memo makes later steps faster than early ones; the seconds are medians over the first steps (20 of nano, 4 of the larger shape on a CPU), the same number for each implementation; on a GPU over as many of 100 steps as fit into ten seconds. TinyStories-33M's shape has random weights; its final norm is scaled so that about as many of 1000 completions are distinct as with a story model.

```sh
python3 -m venv TRL_VENV && TRL_VENV/bin/pip install -e . -r benchmarks/requirements-trl.txt
PYTHONPATH=src python benchmarks/run.py --encoder FOLDER --trl-python TRL_VENV/bin/python
PYTHONPATH=src python benchmarks/gpu.py --encoder FOLDER --seconds 10
```

The second command measures on the CPU, the third on a GPU; `PYTHONPATH=src python benchmarks/report.py` writes this page and its figure from `benchmarks/results/`. `+changes` after a commit: with files that were not committed, such as the results of a measurement before.
"""


def write(results: Path, docs: Path) -> None:
    """Write docs/benchmarks.md and the figure from what is in ``results``."""
    lines = [INTRODUCTION, *report_summary.aims(results), *report_summary.one_run(results)]
    for device, size in itertools.product(("cuda", "cpu"), SIZES):
        if about := read(results, f"{device}-{size}"):
            lines += section(device, size, about)
        if more := read(results, f"{device}-{size}-again"):
            lines += report_summary.again(more, size)
        if other := read(results, f"{device}-{size}-elsewhere"):
            lines += report_summary.elsewhere(other, size)
    if about := read(results, "cuda-checks"):
        lines += host(about, "tinystories-33m")
    trained, whole = (read(results, f"cuda-{name}") for name in ("policies", "whole-run"))
    if trained and whole:
        lines += policies(trained, whole)
    if about := read(results, "operations"):
        lines += operations(about)
    for device in ("cpu", "cuda"):
        if about := read(results, f"{device}-studies"):
            lines += report_studies.studies(about)
    profile, studies = (read(results, f"cpu-{name}") for name in ("training", "studies"))
    if profile and studies.get("before"):
        lines += report_training.section(profile, studies)
    if about := read(results, "cpu-blocks"):
        lines += report_training.blocks(about)
    if about := read(results, "cpu-at-once"):
        lines += report_studies.at_once(about)
    if about := read(results, "cpu-load"):
        lines += report_studies.load(about)
    if about := read(results, "cpu-waits"):
        lines += report_studies.waits(about)
    figure_of = read(results, "cpu-scaling") or read(results, "cuda-scaling")
    if figure_of:
        scaling_figure.draw(figure_of, docs)
        m = figure_of["machine"]
        lines += [
            "## Scaling",
            "",
            f"On {m.get('gpu') or m['cpu']}, commit {m['commit']}; random weights of nano's width and depth for the vocabularies, otherwise nano.",
            "",
            "![Seconds per completion against batch size, completion length and vocabulary:"
            f" {scaling_figure.finding(figure_of)}](benchmarks.svg)",
            "",
            scaling_figure.finding(figure_of),
            "",
        ]
    if about := read(results, "cpu-growth"):
        lines += report_studies.growth(about, trained)
    write_text(docs / "benchmarks.md", "\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    write(HERE / "results", HERE.parent / "docs")
