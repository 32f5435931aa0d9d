"""Shared by all test files: marks, threads, the order of files, and skipped tests in CI."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

# Tensors of tests are small: a second thread slows them down, and each worker has a core.
# Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: modules whose tests take seconds: no training, no model, no workflow
FAST = ("test_metrics", "test_study", "test_tables", "test_report")
#: modules that train models or start many programs, besides those that mark themselves
SLOW = ("test_benchmarks", "test_cli", "test_pretraining")
#: the modules that take minutes, longest first: several workers start with them
LONGEST = ("test_slurm", "test_faults", "test_workflow", "test_training", "test_places")


@pytest.fixture(autouse=True)
def same_threads_after() -> Iterator[None]:
    """A program called in a test sets torch's threads; they must not reach the next test."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else int(os.environ["OMP_NUM_THREADS"])
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in FAST:
            item.add_marker(pytest.mark.fast)
        elif item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """On a build server nothing may be left out: there, a skipped test is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and reporter.stats.get("skipped") and os.environ.get("CI"):
        reporter.write_line("\nskipped where CI is set: that counts as a failure", red=True)
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
