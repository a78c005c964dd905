"""Tests in a real browser are skipped, with the reason, where none is installed."""

from __future__ import annotations

import shutil

import pytest

BROWSERS = ("chromium", "chromium-browser")


@pytest.fixture(autouse=True, scope="session")
def chromium() -> None:
    """Skip where Debian's Chromium is missing."""
    if not any(shutil.which(name) for name in BROWSERS):
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
