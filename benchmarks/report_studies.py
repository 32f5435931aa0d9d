"""Sections of docs/benchmarks.md on whole studies: their times, on a busy machine, as the work grows."""

from __future__ import annotations

from statistics import median
from typing import Any

CHAIN = (
    *("models", "reference", "policies", "stories", "completions", "scores"),
    *("judges", "frontier", "tables", "figures", "report", "playground"),
)


def studies(about: dict[str, Any]) -> list[str]:
    """Times of complete studies: one row per stage, one column per study."""
    m, found = about["machine"], about["studies"]
    gpu = m.get("gpu")
    usual = (
        "From installed packages to the report, in a fresh clone on an otherwise idle machine, measured by"
        " `PYTHONPATH=src python benchmarks/study_time.py`"
    )
    lines = [
        f"## A whole study{', on a GPU' if gpu else ''}",
        "",
        f"{about.get('how', usual)}; {gpu or m['cpu']}, {m['threads']} threads; torch {m['torch']};"
        f" commit {m['commit']}. Seconds of all jobs of a stage, and the number of jobs in brackets:",
        "",
        *side_by_side(found),
    ]
    if before := about.get("before"):
        lines += studies_before(found, before)
    return lines


def side_by_side(found: list[dict[str, Any]]) -> list[str]:
    """A table of complete studies: one row per stage, one column per study."""
    jobs = [{s["stage"]: s for s in study["stages"]} for study in found]
    whole = [divmod(round(study["seconds"]), 60) for study in found]
    lines = [
        f"| | {' | '.join('`' + study['command'] + '`' for study in found)} |",
        "|---" * (len(found) + 1) + "|",
    ]
    for stage in (stage for stage in CHAIN if any(stage in s for s in jobs)):
        cells = [
            f"{s[stage]['seconds']:.0f} ({s[stage]['jobs']})" if stage in s else "" for s in jobs
        ]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    shown = [f"**{minutes}:{seconds:02} minutes**" for minutes, seconds in whole]
    return [*lines, f"| total wall time | {' | '.join(shown)} |", ""]


def at_once(about: dict[str, Any]) -> list[str]:
    """Times of the default study with one job at a time and with several."""
    m, (one, several) = about["machine"], about["studies"]
    return [
        "## Several jobs at a time, on a CPU",
        "",
        "The default study by both commands, measured by `PYTHONPATH=src python benchmarks/study_time.py --at-once`;"
        f" {m['cpu']}, {m['threads']} threads; commit {m['commit']}. Jobs that run at the same time share the"
        " cores, so each has fewer threads, which wait less for one another, and starts while another computes:"
        f" the study takes {several['seconds'] / one['seconds']:.2f} of the time. Completions and scores are one job"
        " each, which takes all cores. The last bits of the numbers depend on the number of threads. Seconds of all jobs of a stage, and the number of jobs in brackets:",
        "",
        *side_by_side(about["studies"]),
    ]


def studies_before(now: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[str]:
    """Times of the same studies by an earlier commit, in the same run."""
    default = now[0]
    trained = sum(s["seconds"] for s in default["stages"] if s["stage"] == "policies")
    lines = [
        f"The same in the same run by the code of commit {before[0]['commit']}, whose study has fewer stories,"
        " scores and figures. The study is not faster than then; training the policies takes"
        f" {trained:.0f} of today's {default['seconds']:.0f} s:",
        "",
    ]
    for study, was in zip(now, before, strict=True):
        then = {s["stage"]: s for s in was["stages"]}
        today = {s["stage"]: s for s in study["stages"]}
        lines += [
            f"| {study['study']} | before, seconds | jobs | now, seconds | jobs | ratio |",
            "|---|---|---|---|---|---|",
        ]
        for stage in (stage for stage in CHAIN if stage in then or stage in today):
            a, b = then.get(stage), today.get(stage)
            cells = [f"{x['seconds']:.0f} | {x['jobs']}" if x else " | " for x in (a, b)]
            ratio = f"{b['seconds'] / a['seconds']:.2f}" if a and b and a["seconds"] >= 2 else ""
            lines.append(f"| {stage} | {cells[0]} | {cells[1]} | {ratio} |")
        whole = study["seconds"] / was["seconds"]
        lines += [
            f"| total wall time | **{was['seconds']:.0f}** | | **{study['seconds']:.0f}** | | **{whole:.2f}** |",
            "",
        ]
    return lines


def slowdown(about: dict[str, Any]) -> tuple[float, float]:
    """The largest of the stages' slowdowns beside busy loops, and a product's."""
    idle, loaded, *_ = about["runs"]
    before = {s["stage"]: s["seconds"] for s in idle["stages"]}
    ratios = [
        s["seconds"] / before[s["stage"]] for s in loaded["stages"] if before[s["stage"]] >= 2
    ]
    return max(ratios), loaded["product"] / idle["product"]


def load(about: dict[str, Any]) -> list[str]:
    """How much each stage of the smoke study slows down beside busy loops, with short and long waits."""
    m, runs = about["machine"], about["runs"]
    idle, loaded, *_ = runs
    seconds = [
        {"all": run["seconds"], **{s["stage"]: s["seconds"] for s in run["stages"]}} for run in runs
    ]
    products = loaded["product"] / idle["product"]
    beside = f"beside {loaded['loops']} busy loops"
    lines = [
        "## On a busy machine",
        "",
        f"The smoke study alone and {beside}, measured by `PYTHONPATH=src python benchmarks/load.py`; {m['cpu']},"
        f" {m['threads']} threads; commit {m['commit']}. A product of torch slows down by {products:.1f} ×. In"
        " the workflow's jobs, a thread that waits for another soon sleeps (GOMP_SPINCOUNT, set in"
        f" `workflow/rules/common.smk`); on the right, it spins as long as by itself ({runs[2]['spin_count']})."
        " Seconds of all jobs of a stage, where they take two and more:",
        "",
        f"| | alone | {beside} | ratio | long waits, alone | long waits, {beside} | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage in (*CHAIN, "all"):
        if seconds[0].get(stage, 0) < 2:
            continue
        a, b, c, d = (found[stage] for found in seconds)
        lines.append(
            f"| {stage} | {a:.0f} | {b:.0f} | {b / a:.1f} | {c:.0f} | {d:.0f} | {d / c:.1f} |"
        )
    return [*lines, ""]


def waits(about: dict[str, Any]) -> list[str]:
    """How long a thread that waits should spin before it sleeps: one job, alone and on a busy machine."""
    m = about["machine"]
    lines = [
        "What else was tried, by `PYTHONPATH=src python benchmarks/load.py --waits`"
        f" ({m['cpu']}, commit {m['commit']}): seconds of the job of the completions, which slows down most, by"
        " how often a thread that waits looks before it sleeps. Long waits are fast where the machine is idle, short"
        " ones and a single thread where it is busy; the workflow's 10,000 is chosen between them:",
        "",
        "| GOMP_SPINCOUNT | threads | alone | beside busy loops | ratio |",
        "|---|---|---|---|---|",
    ]
    for run in about["runs"]:
        alone, loaded = run["seconds"]
        what = f"{int(run['spin_count']):,} | {run['threads'] or m['threads']}"
        lines.append(f"| {what} | {alone:.0f} | {loaded:.0f} | {loaded / alone:.1f} |")
    return [*lines, ""]


def growth(about: dict[str, Any], gpu: dict[str, Any]) -> list[str]:
    """How cost grows with threads, training prompts and policies, and an estimate for larger machines.

    ``gpu`` has the times of policies that share one GPU (``gpu.py --parts policies``).
    """
    m = about["machine"]
    few, many = about["policies"]
    step = {run["threads"]: median(run["seconds"]) for run in about["threads"]}
    one, two = step[1], step[2]
    lines = [
        "## As the work grows",
        "",
        f"By `PYTHONPATH=src python benchmarks/growth.py --encoder FOLDER`; {m['cpu']}, {m['threads']} threads;"
        f" commit {m['commit']}. Steps of nano with {about['prompts'][0]['batch']} completions of 4 tokens,"
        f" medians of {len(about['prompts'][0]['seconds'])}; with several training prompts, each has its part"
        " of the batch, so that fewer completions are alike:",
        "",
        "| threads | training prompts | seconds a step | distinct completions |",
        "|---|---|---|---|",
        *(
            f"| {run['threads']} | {run['prompts']} | {median(run['seconds']):.2f} | {median(run['distinct']):.0f} |"
            for run in (*about["threads"][:-1], *about["prompts"])
        ),
        "",
        "Seconds of all jobs of a stage in a small study, by its number of policies"
        " (planning a thousand takes [half a minute](cluster.md#hundreds-of-policies)):",
        "",
        f"| | {few['policies']} policies | {many['policies']} policies | each further policy |",
        "|---|---|---|---|",
    ]
    seconds = [
        {**{s["stage"]: s["seconds"] for s in study["stages"]}, "all": study["seconds"]}
        for study in (few, many)
    ]
    further = many["policies"] - few["policies"]
    for stage in (stage for stage in (*CHAIN, "all") if stage in seconds[1]):
        a, b = (found.get(stage, 0.0) for found in seconds)
        lines.append(f"| {stage} | {a:.0f} | {b:.0f} | {(b - a) / further:.1f} |")
    trained = next(s for s in many["stages"] if s["stage"] == "policies")
    start = trained["seconds"] / trained["jobs"]
    parallel = 2 * (1 - two / one)
    hour = {cores: 3600 * cores / (100 * one + start) for cores in (2, 64)}
    on_gpu = 3600 * len(gpu["policies"]) / gpu["wall_seconds"]
    return [
        *lines,
        "",
        "**An estimate** for larger machines, from these times. A second thread makes a step"
        f" {one / two:.2f} × as fast, so {100 * parallel:.0f} % of its work is done in parallel (Amdahl's law); with"
        f" any number of threads it would be at most {1 / (1 - parallel):.1f} × as fast. Policies side by side"
        f" with one thread each are therefore the better use of many cores: of 100 steps each, {hour[2]:.0f} an"
        f" hour on 2 cores and {hour[64]:,.0f} on 64, if memory bandwidth allows"
        " (`--cores 64 --resources gpu=64 --config threads=1`). One"
        f" {gpu['machine']['gpu']} trains {len(gpu['policies'])} policies, {gpu['at_once']} at a time, in"
        f" {gpu['wall_seconds']:.0f} s (above), so a node of 8 would train about {round(8 * on_gpu, -2):,.0f} an hour with"
        f" {8 * gpu['at_once']} CPU cores, since the host decides a step's time.",
        "",
    ]
