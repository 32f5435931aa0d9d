"""Who follows training while it runs: TensorBoard events."""

from __future__ import annotations

import math
import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tinycats.policies.following import Events, stop_between_steps
from tinycats.program import UserError

pytestmark = pytest.mark.fast


def test_signals_are_noted_within_the_block_alone() -> None:
    """The second one acts at once; after the block they act as before it."""
    kinds = (signal.SIGTERM, signal.SIGINT)
    arrived: list[int] = []
    kept = {kind: signal.signal(kind, lambda number, _: arrived.append(number)) for kind in kinds}
    own = {kind: signal.getsignal(kind) for kind in kinds}
    try:
        with stop_between_steps() as asked:
            os.kill(os.getpid(), signal.SIGTERM)
            assert (asked, arrived) == ([signal.SIGTERM], [])
            os.kill(os.getpid(), signal.SIGTERM)
            assert (asked, arrived) == ([signal.SIGTERM], [signal.SIGTERM])
        assert {kind: signal.getsignal(kind) for kind in kinds} == own
        with pytest.raises(KeyError), stop_between_steps():
            raise KeyError
        assert {kind: signal.getsignal(kind) for kind in kinds} == own
    finally:
        for kind, handler in kept.items():
            signal.signal(kind, handler)


class Writer:
    """Stands for torch's SummaryWriter, which the lock file has no package for."""

    made: list[Writer]

    def __init__(self, folder: str, purge_step: int | None) -> None:
        self.folder, self.purge_step = Path(folder), purge_step
        self.folder.mkdir(parents=True, exist_ok=True)
        self.scalars: list[tuple[str, float, int]] = []
        self.flushed = 0
        Writer.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        self.flushed += 1


def row(step: int) -> dict[str, Any]:
    return {"step": step, "reward_mean": 0.1 * step, "gradient_snr": math.nan}


def test_events_are_what_was_measured_and_go_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    Writer.made = []
    events = Events(tmp_path / "events")
    events.restart([])
    events.add(row(1))
    (tmp_path / "events/of_the_killed_run").touch()
    Events(tmp_path / "events").restart([row(1), row(2)])
    assert (tmp_path / "events/of_the_killed_run").exists()
    Events(tmp_path / "events").restart([])
    assert not (tmp_path / "events/of_the_killed_run").exists(), "events of another run"
    assert [writer.purge_step for writer in Writer.made] == [None, 3, None]
    assert Writer.made[0].scalars == [("reward_mean", 0.1, 1)]
    assert Writer.made[0].flushed == 1


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="tensorboard is not installed; run pip install tensorbo"):
        Events(tmp_path / "events")
