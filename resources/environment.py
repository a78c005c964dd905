"""The environment of every process of the platform: where it lives, and that nothing in it dials out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from resources.settings import Settings

HOME_MARK = "EVERGREEN_MARK"
"""Variable that every process of one platform carries, so that what a killed supervisor left behind can be found."""

QUIET: Mapping[str, str] = MappingProxyType(
    {
        "DO_NOT_TRACK": "1",
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "DAGSTER_UI_NUX_DISABLED": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_MODEL_CATALOG_URI": "",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "GX_ANALYTICS_ENABLED": "false",
        "GIT_PYTHON_REFRESH": "quiet",
        "MPLBACKEND": "Agg",
        # What a run plans, and what it tells of the days of a range, is stored in one transaction.
        "DAGSTER_EVENT_BATCH_SIZE": "1000",
        # Threads of XGBoost and scikit-learn sleep while they wait. Spinning, they take the processor from each other: ten
        # times slower as soon as anything else runs.
        "OMP_WAIT_POLICY": "PASSIVE",
        # Dagster says of every use of a beta parameter that it is one.
        "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore:Parameter",
    }
)
"""No telemetry, no look-ups elsewhere, no drawing on screens, no spinning, events in batches."""


def variables(settings: Settings) -> dict[str, str]:
    """Variables that a process of this platform needs, absolute, so that it may run in any folder."""
    home = settings.home.absolute()
    return {
        **QUIET,
        "EVERGREEN_HOME": str(home),
        "DAGSTER_HOME": str(settings.dagster_home),
        HOME_MARK: str(home),
        "PYTHONPATH": os.pathsep.join(_import_path()),
    }


def apply(settings: Settings) -> None:
    """Give this process the same environment as its children. Call before Dagster, MLflow or Great Expectations load."""
    os.environ.update(variables(settings))
    warnings.filterwarnings("ignore", message="Parameter .* is currently in (beta|preview)")


def _import_path() -> list[str]:
    """The platform's own folder first, then what was there: children import this very tree."""
    root = str(Path(__file__).resolve().parent.parent)
    present = [
        place
        for place in os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if place and place != root
    ]
    return [root, *present]
