"""What goes on beside training: signals to stop, and whoever follows its rows as they come."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol


class Follower(Protocol):
    """Gets the rows of training.csv while it trains."""

    def restart(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The run begins after these rows; what came after them before a kill is void."""

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row."""


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
