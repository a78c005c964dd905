"""The environment of every process of the platform: where it lives, and that it dials nowhere."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from resources.settings import QUIET, Settings

HOME_MARK = "EVERGREEN_MARK"
"""Variable that every process of one platform carries. By it, processes that a killed supervisor
left behind are found.
"""


def variables(settings: Settings) -> dict[str, str]:
    """Variables that a process of this platform needs; paths are absolute, for any folder."""
    home = settings.home.absolute()
    return {
        **QUIET,
        "EVERGREEN_HOME": str(home),
        "DAGSTER_HOME": str(settings.dagster_home),
        HOME_MARK: str(home),
        "PYTHONPATH": os.pathsep.join(_import_path()),
    }


def apply(settings: Settings) -> None:
    """Give this process the same environment as its children.

    Call before Dagster, MLflow or Great Expectations load.
    """
    os.environ.update(variables(settings))
    warnings.filterwarnings("ignore", message="Parameter .* is currently in (beta|preview)")


def _import_path() -> list[str]:
    """The platform's own folder first, then what was there: children import this very tree."""
    root = str(Path(__file__).resolve().parents[2])
    present = [
        place
        for place in os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if place and place != root
    ]
    return [root, *present]
