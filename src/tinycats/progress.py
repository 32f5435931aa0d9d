"""Progress of a long job: a bar on a terminal, a line every few seconds in a log; and reading the lines.

    12:03:04 step 37 of 100, 1 min 10 s left: reward 0.412, KL(policy‖base) 2.31 nats, …

``tinycats watch`` follows a job by these lines, so :func:`line` and :func:`read_line` agree.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger("tinycats")

#: Seconds between two lines; more in a long job, so that its log has some hundreds of lines.
EVERY_SECONDS = 5.0
#: A line then comes after this share of the time so far.
EVERY_SHARE = 1 / 200


def progress(
    items: Iterable[T],
    total: int,
    what: str,
    detail: Callable[[], str] | None = None,
    done: int = 0,
    after: float = 0.0,
) -> Iterator[T]:
    """Pass ``items`` on and report how far the work on them is.

    Args:
        items: what is left to do.
        total: number of items, those done before included.
        what: name of one item, such as ``step``.
        detail: words on the last item that was done, for the line.
        done: items done before, by an earlier run that this one continues.
        after: seconds before the first line; 0 reports the first item too.
    """
    report = Report(total, what, done, after)
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, initial=done, desc=what, leave=False, delay=after) as bar:
            for item in items:
                yield item
                if detail:
                    bar.set_postfix_str(detail(), refresh=False)
                bar.update()
        return
    for number, item in enumerate(items, start=done + 1):
        yield item
        if report.due(number):
            report.write(number, detail() if detail else "")


class Report:
    """The lines in the log of one job. Arguments: see :func:`progress`."""

    def __init__(self, total: int, what: str, done: int = 0, after: float = 0.0) -> None:
        self.total, self.what, self.done, self.after = total, what, done, after
        self.started = time.monotonic()
        self.last: float | None = None  # when the last line was written

    def due(self, number: int) -> bool:
        """Whether a line should follow item ``number``."""
        so_far = time.monotonic() - self.started
        if self.last is None:
            return so_far >= self.after
        wait = max(EVERY_SECONDS, so_far * EVERY_SHARE)
        return number == self.total or time.monotonic() - self.last >= wait

    def write(self, number: int, detail: str = "") -> None:
        """Log that ``number`` items are done."""
        self.last = time.monotonic()
        each = (self.last - self.started) / max(1, number - self.done)
        log.info("%s", line(self.what, number, self.total, each * (self.total - number), detail))


def line(what: str, number: int, total: int, seconds_left: float, detail: str = "") -> str:
    """What a log says of item ``number``."""
    left = f", {duration(seconds_left)} left" if number < total else ""
    return f"{what} {number} of {total}{left}" + (f": {detail}" if detail else "")


def duration(seconds: float) -> str:
    """Seconds for people: ``40 s``, ``1 min 10 s``, ``2 h 5 min``."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole % 60} s"


@dataclass(frozen=True)
class Line:
    """One line of a log, read back: the item, its number, all items, time left, further words."""

    what: str
    number: int
    total: int
    seconds_left: float
    detail: str


_LINE = re.compile(
    r"(?:\d\d:\d\d:\d\d )?(?P<what>[^:]+) (?P<number>\d+) of (?P<total>\d+)"
    r"(?:, (?:(?P<h>\d+) h ?)?(?:(?P<min>\d+) min ?)?(?:(?P<s>\d+) s)? ?left)?(?:: (?P<detail>.*))?"
)


def read_line(text: str) -> Line | None:
    """The progress that a line of a log reports; None if it is about something else."""
    found = _LINE.fullmatch(text.strip())
    if not found:
        return None
    hours, minutes, seconds = (int(found[unit] or 0) for unit in ("h", "min", "s"))
    return Line(
        found["what"],
        int(found["number"]),
        int(found["total"]),
        3600 * hours + 60 * minutes + seconds,
        found["detail"] or "",
    )
