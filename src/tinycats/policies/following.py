"""What goes on beside training: signals to stop, and whoever follows its rows as they come."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tinycats.program import UserError


class Follower(Protocol):
    """Gets the rows of training.csv while it trains."""

    def restart(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The run begins after these rows; what came after them before a kill is void."""

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row."""


class Events:
    """TensorBoard events: a scalar for each column of training.csv that was measured.

    Raises:
        UserError: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "training.tensorboard: true found, but the package tensorboard is not installed; run"
                " pip install tensorboard, or set false"
            ) from None
        self.folder, self._writer_of = folder, SummaryWriter
        self._writer: Any = None

    def restart(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:  # events of another run
            shutil.rmtree(self.folder, ignore_errors=True)
        purge = rows[-1]["step"] + 1 if rows else None  # hides what a killed run wrote beyond
        self._writer = self._writer_of(str(self.folder), purge_step=purge)

    def add(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and not math.isnan(value):
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()


class Terminated(SystemExit):
    """A signal to stop arrived (SIGTERM: preempted, timed out; Ctrl-C); the state was written."""


@contextmanager
def stop_between_steps() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C while the block runs, so that a step is whole or not at all.

    Yields the signals that have arrived; a second one acts at once.
    """
    asked: list[int] = []

    def note(kind: int, frame: Any) -> None:
        asked.append(kind)
        signal.signal(kind, previous[kind])

    kinds = (signal.SIGTERM, signal.SIGINT)
    previous: dict[int, Any] = {kind: signal.signal(kind, note) for kind in kinds}
    try:
        yield asked
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)
