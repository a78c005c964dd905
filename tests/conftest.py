"""Fixtures that every test may use: a fresh, empty platform home, and Dagster and settings that point at it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.settings import QUIET, settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An `EVERGREEN_HOME` of the test's own; nothing of the developer's settings leaks into a test."""
    for name in [name for name in os.environ if name.startswith(("EVERGREEN_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    place = tmp_path / "evergreen"
    monkeypatch.setenv("EVERGREEN_HOME", str(place))
    monkeypatch.setenv("DAGSTER_HOME", str(place / "dagster"))
    (place / "dagster").mkdir(parents=True)
    settings.cache_clear()
    yield place
    settings.cache_clear()
