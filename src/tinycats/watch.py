"""``tinycats watch``: a running study in the terminal, from its files alone.

Done is what has its output, running is what has a log that grows. Curves are of training.csv or,
while it is not there yet, of the lines that the job's log has every few seconds.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tinycats import layout
from tinycats.files.text import read_yaml
from tinycats.kinds import POLICY
from tinycats.layout import BASE, ModelFile, ModelId, canonical
from tinycats.policies.record import read_step
from tinycats.program import UserError
from tinycats.progress import duration, read_line

#: Seconds between two looks at the files.
EVERY_SECONDS = 1.0
#: A job whose log has not grown for so many seconds is taken for one that was stopped.
SILENT_SECONDS = 120.0
BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass
class Job:
    """One job: what it makes, its log, its benchmark, and the policy if it is of one."""

    output: Path
    log: Path
    benchmark: Path | None = None
    model: ModelId | None = None

    def state(self) -> str:
        """``done``, ``running``, ``stopped`` or ``to come``."""
        if self.output.exists():
            return "done"
        try:
            age = time.time() - self.log.stat().st_mtime
        except OSError:
            return "to come"
        return "running" if age < SILENT_SECONDS and not self.error() else "stopped"

    def lines(self) -> list[str]:
        try:
            return self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []

    def error(self) -> str:
        """The line with which its program ended, if that is an error."""
        last = next((line for line in reversed(self.lines()) if line.strip()), "")
        return last if last.startswith("error: ") else ""

    def now(self) -> str:
        """How far it is, by its log."""
        for text in reversed(self.lines()):
            if line := read_line(text):
                left = f", {duration(line.seconds_left)} left" if line.seconds_left else ""
                return f"{line.what} {line.number} of {line.total}{left}"
        return "starting"

    def seconds(self) -> float | None:
        """How long it took."""
        try:
            record = json.loads((self.benchmark or self.output).read_text().splitlines()[-1])
            return float(record["s"])
        except (OSError, ValueError, KeyError, IndexError, TypeError, UnicodeDecodeError):
            return None


@dataclass
class Stage:
    """A stage of the study and its jobs."""

    name: str
    jobs: list[Job] = field(default_factory=list)


def stages(study: str) -> list[Stage]:
    """The stages of a study that was begun, by the config that it recorded.

    Raises:
        UserError: there is none, or its config cannot be read.
    """
    results, logs = layout.results(study), Path("logs") / study
    path = results / layout.CONFIG
    if not path.exists():
        begun = sorted(p.parent.name for p in Path("results").glob(f"*/{layout.CONFIG}"))
        others = f"; begun here: {', '.join(begun)}" if begun else ""
        raise UserError(f"{path}: no such study was begun in this folder{others}")
    config: Any = read_yaml(path)
    try:
        training, variants = config["training"], list(config["variants"])
        seeds = [int(seed) for seed in training["seeds"]]
        policies = [
            ModelId(POLICY, str(variant), canonical(float(factor)), seed)
            for variant in variants
            for factor in training["kl_factors"]
            for seed in seeds
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not the config of a study ({error!r}); run it again") from error
    bases = [ModelId(BASE.kind, seed=seed) for seed in seeds]

    def of(file: ModelFile, name: str, models: Sequence[ModelId], end: str = "") -> Stage:
        jobs = [
            Job(
                results / f"{file.of(model)}{end}",
                logs / file.log.of(model),
                results / layout.BENCHMARKS / file.benchmark.of(model),
                model if file is layout.POLICY_FOLDER else None,
            )
            for model in models
        ]
        return Stage(name, jobs)

    def one(name: str, output: str) -> Stage:
        benchmark = results / layout.BENCHMARKS / f"{name}.jsonl"
        return Stage(name, [Job(results / output, logs / f"{name}.log", benchmark)])

    return [
        of(layout.POLICY_FOLDER, "policies", policies, f"/{layout.RUN.name}"),
        of(layout.STORIES, "stories", [*bases, *policies]),
        one("completions", layout.LOG_PROBS),
        one("scores", layout.SCORES["sets"]),
        one("frontier", layout.FRONTIER["limit"]),
        one("tables", layout.TABLES["summary"]),
        one("playground", layout.PLAYGROUND),
        one("report", layout.PAGE),
    ]


# ---------------------------------------------------------------------------- curves


def curve(job: Job) -> list[tuple[int, float, float]]:
    """Step, reward and KL(policy‖base) in nats of a policy's training so far."""
    rows = list(_table(job.output.parent / layout.TRAINING.name))
    if rows:
        return rows
    found = []
    for text in job.lines():
        line = read_line(text)
        if line and (step := read_step(line.detail)):
            found.append((line.number, step["reward_mean"], step["kl_policy_to_base_nats"]))
    return found


def _table(path: Path) -> Iterator[tuple[int, float, float]]:
    """The whole rows of a training.csv, which may still be growing."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                columns = ("reward_mean", "kl_policy_to_base_nats")
                yield int(row["step"]), *(float(row[column]) for column in columns)  # type: ignore[misc]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return


def spark(values: Sequence[float], width: int = 24) -> str:
    """Values as a line of blocks, the lowest and the highest at its ends."""
    if not values:
        return ""
    chosen = [values[i * (len(values) - 1) // max(1, width - 1)] for i in range(width)]
    chosen = list(values) if len(values) < width else chosen
    low, high = min(chosen), max(chosen)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in chosen)


# ---------------------------------------------------------------------------- the view


def view(study: str, found: Sequence[Stage]) -> Group:
    """Stages done and to come, and the curves of the policies in training, or else of all."""
    table = Table(title=f"study {study}", title_justify="left", box=None, pad_edge=False)
    for heading in ("stage", "done", "now", "time left"):
        table.add_column(heading)
    errors = []
    for stage in found:
        states = [job.state() for job in stage.jobs]
        done, total = states.count("done"), len(states)
        running = [j for j, state in zip(stage.jobs, states, strict=True) if state == "running"]
        stopped = [j for j, state in zip(stage.jobs, states, strict=True) if state == "stopped"]
        errors += [f"{job.log}: {job.error() or 'no line for two minutes'}" for job in stopped]
        words = "; ".join(job.now() for job in running) or ("stopped" if stopped else "")
        colour = "green" if done == total else "yellow" if running else "red" if stopped else "dim"
        took = [s for job in stage.jobs if job.output.exists() and (s := job.seconds())]
        left = duration(sum(took) / len(took) * (total - done)) if took and done < total else ""
        table.add_row(stage.name, f"{done} of {total}", words, left, style=colour)
    training = [job for job in found[0].jobs if job.state() == "running"] or [
        job for job in found[0].jobs if job.state() == "done"
    ]
    curves = Table(box=None, pad_edge=False)
    for heading in ("policy", "step", "reward", "", "KL(policy‖base), nats", ""):
        curves.add_column(heading)
    for job in training:
        if (rows := curve(job)) and job.model:
            name = f"{job.model.variant}, KL factor {job.model.kl_factor}, seed {job.model.seed}"
            step, reward, kl = rows[-1]
            curves.add_row(
                *(name, str(step), f"{reward:.3f}", spark([row[1] for row in rows])),
                *(f"{kl:.2f}", spark([row[2] for row in rows])),
            )
    parts: list[Any] = [table, Text(), curves] if curves.row_count else [table]
    parts += [Text(line, style="red") for line in errors]
    page = found[-1].jobs[0].output
    if page.exists():
        parts.append(Text(f"\nThe report: {page}"))
    return Group(*parts)


def watch(study: str, console: Console | None = None) -> None:
    """Show a study until its report is there (in a pipe: once).

    Raises:
        UserError: there is no such study, or its config cannot be read.
    """
    console = console or Console()
    found = stages(study)
    if not console.is_terminal:
        console.print(view(study, found))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            over = all(job.output.exists() for stage in found for job in stage.jobs)
            live.update(view(study, found), refresh=True)
            if over:
                return
            time.sleep(EVERY_SECONDS)
