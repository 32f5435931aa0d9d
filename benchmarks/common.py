"""Shared by all benchmarked implementations: arguments, stopwatch, output of a result."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT, CONCEPT, KL_FACTOR = "Once upon a time there was", "cat", 6000.0


class Stopwatch:
    """Seconds of each stage of the current step; ``wrap`` times the calls of a function."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.on = True
        self.seconds: dict[str, float] = defaultdict(float)

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not self.on:
                return function(*args, **kwargs)
            began = self.now()
            result = function(*args, **kwargs)
            self.seconds[stage] += self.now() - began
            return result

        return timed

    def now(self) -> float:
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()


class CurrentStage:
    """The stage that runs now, for counters: ``wrap`` sets it for the calls of a function."""

    stage = "rest"

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            before, self.stage = self.stage, stage
            try:
                return function(*args, **kwargs)
            finally:
                self.stage = before

        return counted


def peak_bytes(device: str) -> int:
    """Peak memory of this process in bytes: allocated on the GPU, or resident on the CPU."""
    if device != "cpu":
        import torch

        return int(torch.cuda.max_memory_allocated())
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) * 1024


def finish(result: dict[str, Any], device: str) -> None:
    """Print the result as one line for ``run.py``."""
    print("RESULT " + json.dumps({**result, "peak_bytes": peak_bytes(device)}), flush=True)


def reward_model(encoder: Path, device: str) -> Any:
    """The library's reward with an empty memo, for tinycats and for TRL."""
    from tinycats.reward.model import RewardModel
    from tinycats.reward.similarity import RewardEncoder, Similarity

    network = RewardEncoder(encoder, device)
    return RewardModel(Similarity(network, network.embed([CONCEPT])[0], CONCEPT))
