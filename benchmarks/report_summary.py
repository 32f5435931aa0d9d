"""The head of docs/benchmarks.md: what was aimed at, what was measured, what limits it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import report_studies
import report_training
from cells import Cell, cells, read


def speedups(about: dict[str, Any], size: str) -> dict[str, float]:
    """tinycats over the post's loop in fp32 and over TRL in both precisions, where they were measured."""
    found = cells(about.get("records", []), "size")

    def over(contestant: str, precision: str) -> float | None:
        theirs: Cell | None = found.get((contestant, precision, size))
        ours: Cell | None = found.get(("tinycats", precision, size))
        return theirs.per_sample / ours.per_sample if theirs and ours else None

    pairs = {
        "post": over("ladder-1", "fp32"),
        "fp32": over("trl", "fp32"),
        "bf16": over("trl", "bf16"),
    }
    return {name: value for name, value in pairs.items() if value is not None}


def contest(about: dict[str, Any], size: str) -> str:
    """One sentence on a contest besides the table's."""
    ratio, m = speedups(about, size), about["machine"]
    return (
        f"{m['cpu']}, {m['threads']} threads, by the code of commit {m['commit']}: tinycats takes one step"
        f" {ratio['post']:.1f} × as fast as the post's loop, and {ratio['fp32']:.1f} × as fast as TRL in fp32,"
        f" {ratio['bf16']:.1f} × in bf16."
    )


def again(about: dict[str, Any], size: str) -> list[str]:
    """One paragraph on the same contest in another run: how far the ratios vary."""
    return [f"In another run, on {contest(about, size)}", ""]


def elsewhere(about: dict[str, Any], size: str) -> list[str]:
    """One paragraph on the same contest on another processor, by earlier code."""
    return [
        f"On {contest(about, size)} torch's own float32 products, which the others use, have half of the vector"
        " width on AMD's processors; tinycats' are by oneDNN, which uses all of it.",
        "",
    ]


#: what is measured on a CPU one after another: results → title of its part of the page
ONE_RUN = {
    "cpu-load": "a busy machine",
    "cpu-studies": "a whole study, now and before",
    "cpu-nano": "nano",
    "cpu-tinystories-33m": "TinyStories-33M's shape",
}


def one_run(results: Path) -> list[str]:
    """One sentence on the parts that were measured one after another on one machine, if they were."""
    machines = [read(results, name).get("machine", {}) for name in ONE_RUN]
    if len({(m.get("cpu"), m.get("commit")) for m in machines}) > 1 or "began" not in machines[0]:
        return []
    m, last = machines[0], machines[-1]
    return [
        f"Measured one after another on one machine ({m['cpu']}, commit {m['commit']}; the first began at"
        f" {m['began']}, the last at {last['began']} UTC): {'; '.join(ONE_RUN.values())}. The other parts"
        " name their own machine and commit.",
        "",
    ]


def aims(results: Path) -> list[str]:
    """A table: what was aimed at, what was measured, and what limits it."""
    nano, there = (read(results, name) for name in ("cpu-nano", "cpu-nano-elsewhere"))
    more = read(results, "cpu-nano-again")
    gpu, studies = (read(results, name) for name in ("cuda-tinystories-33m", "cpu-studies"))
    run, load, profile = (
        read(results, name) for name in ("cuda-whole-run", "cpu-load", "cpu-training")
    )
    if not all((nano, there, gpu, studies.get("before"), run, load, profile)):
        return []
    here, other = speedups(nano, "nano"), speedups(there, "nano")
    on_gpu = speedups(gpu, "tinystories-33m")
    name = {key: about["machine"]["cpu"] for key, about in (("here", nano), ("there", there))}
    varied = speedups(more, "nano") if more else {}
    in_another = (
        f" ({varied['fp32']:.1f} × and {varied['bf16']:.1f} × in another run)" if more else ""
    )
    whole = run["records"][0]["result"]["total_seconds"]
    slowest, product = report_studies.slowdown(load)
    now, was = report_training.default_studies(studies)
    bound = report_training.bound(profile, studies)
    pairs = ""
    if found := read(results, "cpu-at-once"):
        one, two = (study["seconds"] for study in found["studies"])
        pairs = f"; two jobs at a time take {two / one:.2f} of the time of one at a time"
    rows = [
        (
            "10 × as fast as TRL at a step of nano on a CPU, in fp32 and bf16",
            f"{here['fp32']:.1f} × and {here['bf16']:.1f} × on {name['here']}{in_another};"
            f" {other['fp32']:.1f} × and {other['bf16']:.1f} × on {name['there']}",
            "the encoder, which is the same float32 for both",
        ),
        (
            "15 × as fast as the post's loop at TinyStories-33M's shape on a GPU, and faster than TRL",
            f"{on_gpu['post']:.1f} ×; TRL: {on_gpu['fp32']:.1f} × in fp32, {on_gpu['bf16']:.1f} × in bf16"
            f" ({gpu['machine']['gpu']})",
            "the host, which launches the kernels",
        ),
        ("100 steps of it on a GPU in 5 s", f"{whole:.1f} s", "the same"),
        (
            "the default study in 0.55 of the time that it took before",
            f"{now['seconds'] / was['seconds']:.2f}{pairs}",
            f"training: with every product at the processor's best rate {bound / was['seconds']:.2f}",
        ),
        (
            "beside two busy loops no stage slower by more than 2.5 × where a product of torch is by 2",
            f"{slowest:.1f} × where a product is by {product:.1f}",
            "",
        ),
    ]
    return [
        "What was aimed at, and what was measured below:",
        "",
        "| aim | measured | what limits it |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
