"""Progress of long jobs: lines in a log at the right times, read back as they were written."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tinycats import progress
from tinycats.policies.record import describe_step, last_step, read_step

pytestmark = pytest.mark.fast


class Clock:
    """Stands in for ``time.monotonic``."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    return clock


def lines(
    clock: Clock, caplog: pytest.LogCaptureFixture, items: int, seconds: float, **options
) -> list[str]:
    """What is logged by this many items of so many seconds each."""
    with caplog.at_level(logging.INFO):
        total = items + options.get("done", 0)
        for _ in progress.progress(range(items), total, "step", **options):
            clock.now += seconds
    return [record.getMessage() for record in caplog.records]


def test_a_line_every_few_seconds_the_first_and_the_last(clock, caplog) -> None:
    found = lines(clock, caplog, 10, 2.0)
    assert found == [
        "step 1 of 10, 18 s left",
        "step 4 of 10, 12 s left",
        "step 7 of 10, 6 s left",
        "step 10 of 10",
    ]


def test_a_resumed_job_counts_on_and_knows_its_own_speed(clock, caplog) -> None:
    found = lines(clock, caplog, 2, 10.0, done=90, detail=lambda: "reward 0.5")
    assert found == ["step 91 of 92, 10 s left: reward 0.5", "step 92 of 92: reward 0.5"]


def test_work_that_is_usually_quick_is_silent_until_it_is_not(clock, caplog) -> None:
    assert lines(clock, caplog, 4, 1.0, after=5.0) == []
    assert lines(clock, caplog, 4, 3.0, after=5.0) == ["step 2 of 4, 6 s left", "step 4 of 4"]


def test_a_day_of_work_has_some_hundreds_of_lines(clock, caplog) -> None:
    assert 300 < len(lines(clock, caplog, 86400, 1.0)) < 1500


def test_a_stopped_job_leaves_no_last_line(clock, caplog) -> None:
    def stopped() -> Iterator[int]:
        for item in progress.progress(range(9), 9, "step"):
            clock.now += 1
            yield item

    with caplog.at_level(logging.INFO):
        next(stopped())
    assert not caplog.records


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.7, "1 min 0 s"), (70, "1 min 10 s"), (7500, "2 h 5 min")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert progress.duration(seconds) == words


@pytest.mark.parametrize("seconds", [0, 9, 60, 61, 3540, 3600, 7500, 360000])
@pytest.mark.parametrize("detail", ["", 'most frequent ": 3 of 4, 5 s left: "'])
def test_a_line_is_read_back(seconds: int, detail: str) -> None:
    text = progress.line("story token", 3, 40, seconds, detail)
    expected = progress.Line("story token", 3, 40, seconds, detail)
    assert progress.read_line(text) == progress.read_line(f"12:03:04 {text}\n") == expected
    assert progress.read_line(progress.line("step", 40, 40, 0)) == progress.Line(
        "step", 40, 40, 0, ""
    )


@pytest.mark.parametrize(
    "text", ["", "error: 3 of 4", "12:00:00 going on", "step of 3", "step 1 of"]
)
def test_other_lines_are_no_progress(text: str) -> None:
    assert progress.read_line(text) is None


@pytest.mark.parametrize("text", [" a cat", 'he said "no"\n', "", "é — ", '" (3%)'])
def test_a_step_is_read_back(text: str) -> None:
    row = {
        "step": 7,
        "reward_mean": 0.41237,
        "kl_policy_to_base_nats": 2.3456,
        "distinct_completions": 388,
        "top_1_mass": 0.041,
    }
    expected = {**row, "reward_mean": 0.4124, "most_frequent": text}
    del expected["step"]
    assert read_step(describe_step(row, text)) == expected
    top = [{"step": 6, "text": "x"}, {"step": 7, "text": text}, {"step": 7, "text": "y"}]
    assert last_step([row], top) == describe_step(row, text)
    assert read_step("12 of 90 stories ended") is None


def test_a_step_without_kl_or_a_negative_reward() -> None:
    row = {
        "reward_mean": -0.1,
        "kl_policy_to_base_nats": -1e-9,
        "distinct_completions": 1,
        "top_1_mass": 1.0,
    }
    found = read_step(describe_step(row, " a"))
    assert found
    assert (found["reward_mean"], found["top_1_mass"]) == (-0.1, 1.0)
