"""MLflow's alias of the champion: a view for people. The ledger decides; this follows."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from assets.names import RELEASE, asset_path

if TYPE_CHECKING:
    from resources.tracking import Tracking

CHAMPION = "champion"


def show_champion(log: logging.Logger, tracking: Tracking, pipeline: str, candidate: str) -> str:
    """Move MLflow's alias to a candidate; returns what became of it, for people.

    The release holds whatever MLflow does: a failure is logged and said, never raised.
    """
    try:
        version = tracking.move_alias(pipeline, CHAMPION, candidate)
    except Exception as error:  # noqa: BLE001 (a view of any kind of brokenness)
        log.warning(
            f"MLflow's alias {CHAMPION!r} of {pipeline} was not moved: {error}. The release holds; "
            f"run {asset_path(pipeline, RELEASE)} again to move it"
        )
        return f"not moved: {type(error).__name__}"

    if version is None:
        log.warning(
            f"MLflow has no version of candidate {candidate}; its alias {CHAMPION!r} was not "
            "moved. The release holds"
        )
        return "not moved: the candidate is not registered"
    return f"version {version}"
