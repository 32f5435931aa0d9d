"""Shared by all test files: marks of fast and slow ones, and skipped tests in CI."""

from __future__ import annotations

import os

import pytest

#: modules whose tests take seconds: no training, no model, no workflow
FAST = ("test_metrics", "test_study", "test_tables", "test_report")
#: modules that train models or start many programs, besides those that mark themselves
SLOW = ("test_benchmarks", "test_cli", "test_pretraining")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in FAST:
            item.add_marker(pytest.mark.fast)
        elif item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """On a build server nothing may be left out: there, a skipped test is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and reporter.stats.get("skipped") and os.environ.get("CI"):
        reporter.write_line("\nskipped where CI is set: that counts as a failure", red=True)
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED
