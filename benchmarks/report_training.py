"""Sections of docs/benchmarks.md on training: where its time goes, what bounds a study's time, the encoder's
blocks."""

from __future__ import annotations

from statistics import mean, median
from typing import Any

from cells import STAGES


def section(about: dict[str, Any], studies: dict[str, Any]) -> list[str]:
    """Where the time of training goes, and what it would take at the processor's full rate.

    ``studies`` has the times of the default study, now and before (``study_time.py --before``).
    """
    m, rate, start = about["machine"], about["rate"], about["start_seconds"]
    seconds = {part: mean(p[part] for p in about["seconds"]) for part in (*STAGES, "all")}
    seconds["rest"] = seconds["all"] - sum(seconds[part] for part in STAGES)
    flop = {part: mean(p.get(part, 0) for p in about["flop"]) for part in (*STAGES, "rest")}
    products = sum(flop.values())
    lines = [
        "## Where the time of training goes",
        "",
        "By `PYTHONPATH=src python benchmarks/training_profile.py --encoder FOLDER`;"
        f" {m['cpu']}, {m['threads']} threads; commit {m['commit']}. A policy's job at KL factor"
        f" {about['factor']:g}, {about['steps']} steps; means over {len(about['seconds'])} seeds, one after another"
        " with a common memo of rewards as in a study:",
        "",
        "| | seconds | GFLOP of matrix products | GFLOP/s |",
        "|---|---|---|---|",
        f"| start of the program | {start:.1f} | | |",
    ]
    for part in (*STAGES, "rest"):
        counted = f"{flop[part] / 1e9:,.0f} | {flop[part] / seconds[part] / 1e9:.0f}"
        lines.append(f"| {part} | {seconds[part]:.1f} | {counted if flop[part] else ' | '} |")
    now, was = default_studies(studies)
    job, least = start + seconds["all"], bound(about, studies)
    return [
        *lines,
        f"| all | {job:.1f} | {products / 1e9:,.0f} | |",
        "",
        f"Large float32 products reach {rate / 1e9:.0f} GFLOP/s here. With every product of training at this rate and"
        f" all else of its steps in no time, a job would take {start + products / rate:.1f} s, and the whole default"
        f" study above {least:.0f} s instead of {now['seconds']:.0f} s: {least / was['seconds']:.2f} of the"
        f" {was['seconds']:.0f} s of commit {was['commit']}. The same float32 arithmetic, done faster in training alone,"
        " cannot do better.",
        "",
    ]


def default_studies(studies: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The default study now, and of the commit before."""
    now, was = (
        next(study for study in studies[key] if study["study"] == "default")
        for key in ("studies", "before")
    )
    return now, was


def bound(about: dict[str, Any], studies: dict[str, Any]) -> float:
    """Seconds of the default study if training were its start and its products at the best rate alone."""
    now, _ = default_studies(studies)
    trained = next(s["seconds"] for s in now["stages"] if s["stage"] == "policies")
    products = mean(sum(policy.values()) for policy in about["flop"]) / about["rate"]
    steps, start = mean(policy["all"] for policy in about["seconds"]), about["start_seconds"]
    seconds: float = now["seconds"] - trained * (1 - (start + products) / (start + steps))
    return seconds


def blocks(about: dict[str, Any]) -> list[str]:
    """The encoder's time with other sizes of its blocks, alone and beside busy loops."""
    m, runs = about["machine"], about["runs"]
    (stories, *long), (completions, *short) = (
        about["texts"][k] for k in ("stories", "completions")
    )
    lines = [
        "## The encoder's blocks, on a CPU",
        "",
        "By `PYTHONPATH=src python benchmarks/encoder_blocks.py --encoder FOLDER`;"
        f" {m['cpu']}, {m['threads']} threads; commit {m['commit']}. Seconds for {stories} texts of {long[0]} to"
        f" {long[1]} tokens, as long as stories, and for {completions} of {short[0]} to {short[1]}, as"
        " completions are; the first row has the sizes of `src/tinycats/reward/encoder.py`:",
        "",
        "| rows at once | texts at once in attention | tokens in a pass | stories | beside busy loops |"
        " completions | beside busy loops | same bits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        sizes = " | ".join(f"{run['sizes'][name]:,}" for name in ("rows", "texts", "tokens"))
        times = [f"{median(t):.2f}" for k in ("stories", "completions") for t in run["seconds"][k]]
        lines.append(f"| {sizes} | {' | '.join(times)} | {'yes' if run['same_bits'] else 'no'} |")
    return [*lines, ""]
