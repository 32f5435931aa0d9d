"""What every test file shares."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "slow: runs programs of their own; leave out with -m 'not slow'"
    )
