"""Time that Snakemake takes to read the workflow and to plan a study of 10, 100 and 1000 policies.

    PYTHONPATH=src python benchmarks/dag_scaling.py

writes docs/dag_scaling.csv and the figure docs/dag_scaling.svg. No job is run. Times are CPU
seconds on one core, which do not depend on other programs on the machine.
"""

from __future__ import annotations

import csv
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
SIZES = (10, 100, 1000)
FACTORS = 10
WORK = {
    "reading": ("--list-rules", "reading the workflow"),
    "planning": ("--dry-run", "reading it and planning all jobs"),
}


def cpu_seconds(policies: int, option: str) -> tuple[float, str]:
    """CPU seconds and output of one call of Snakemake for a new study of that many policies."""
    seeds = list(range(policies // FACTORS))
    training = {"kl_factors": [500 * i for i in range(FACTORS)], "seeds": seeds}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"study": "dag-scaling", "training": training}, file)
        file.flush()
        command = [sys.executable, "-m", "snakemake", option, "--configfile", file.name, "--nolock"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*command, "--quiet", "rules"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, done.stdout + done.stderr


def measure() -> list[dict[str, str]]:
    rows = []
    for policies in SIZES:
        for work, (option, _) in WORK.items():
            spent, output = cpu_seconds(policies, option)
            jobs = ""
            if work == "planning":
                jobs = next(line for line in output.splitlines() if line.startswith("total"))
            row = {"policies": policies, "work": work, "jobs": jobs.removeprefix("total").strip()}
            rows.append({**{k: str(v) for k, v in row.items()}, "cpu_seconds": f"{spent:.2f}"})
            print(rows[-1], file=sys.stderr)
    return rows


def draw(rows: list[dict[str, str]], path: Path) -> None:
    from matplotlib import pyplot

    from tinycats.figures import style

    style.apply("dag_scaling")
    figure, axes = pyplot.subplots(figsize=(style.WIDTH, 4.4), layout="constrained")
    for (work, (_, label)), colour in zip(WORK.items(), ("#8f8f8f", "#d61a2b"), strict=True):
        x = [int(r["policies"]) for r in rows if r["work"] == work]
        y = [float(r["cpu_seconds"]) for r in rows if r["work"] == work]
        axes.plot(x, y, "o-", color=colour, label=label)
        words: dict[str, Any] = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center"}
        axes.annotate(f"{y[-1]:.0f} s", (x[-1], y[-1]), **words)
    axes.set(xlabel="policies in the study", ylabel="CPU seconds")
    axes.set_xlim(0, 1.06 * SIZES[-1])
    axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
    axes.set_xticks(SIZES, ["", *map(str, SIZES[1:])])
    axes.legend(frameon=False, loc="upper left")
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=metadata, facecolor="white")
    pyplot.close(figure)


def main() -> None:
    rows = measure()
    with open(ROOT / "docs/dag_scaling.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, ROOT / "docs/dag_scaling.svg")


if __name__ == "__main__":
    main()
