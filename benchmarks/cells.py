"""Measurements of one implementation at one point, pooled over rounds."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

STAGES = ("sample", "reward", "gradient", "optimiser")


def read(results: Path, name: str) -> dict[str, Any]:
    """One file of benchmarks/results; empty if it is not there."""
    path = results / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


class Cell:
    """All measurements of one implementation at one point, pooled over rounds."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        results = [r["result"] for r in records]
        self.batch = records[0]["batch"]
        self.whole = self.batch == records[0]["wanted_batch"]
        self.seconds = median(x for r in results for x in r["seconds"])
        self.steps = sum(len(r["seconds"]) for r in results)
        self.rounds = len(results)
        self.per_sample = self.seconds / self.batch
        self.peak = max(r["peak_bytes"] for r in results)
        self.distinct = round(median(x for r in results for x in r["distinct"]))
        self.total = [(len(r["seconds"]), r["total_seconds"]) for r in results]
        stages = [s for r in results for s in r["stages"]]
        self.stages = {n: median(s.get(n, 0.0) for s in stages) for n in STAGES}
        spent = median(s.get("whole_step", 0.0) for s in stages) or self.seconds
        self.rest = max(0.0, spent - sum(self.stages.values()))
        self.without_reward = (self.seconds - self.stages["reward"]) / self.batch


def cells(records: list[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], Cell]:
    """Records that have a result, pooled by contestant, precision and ``keys``."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if record["result"]:
            names = ("contestant", "precision", *keys)
            groups[tuple(record[name] for name in names)].append(record)
    return {key: Cell(members) for key, members in groups.items()}
