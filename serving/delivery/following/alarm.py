"""The platform's alarm: why it changes nothing any more. The endpoint serves on, and tells of
it."""

from __future__ import annotations

import logging
from pathlib import Path

from bundle.desired import alarm_in

logger = logging.getLogger("serving")


class AlarmWatch:
    """The alarm in the folder that the platform writes; what changes is logged once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._reason: str | None = None

    def look(self) -> str | None:
        """Why the platform changes nothing now; None where all is well."""
        alarm = alarm_in(self._root)
        reason = alarm.reason if alarm is not None else None
        if reason == self._reason:
            return reason

        self._reason = reason
        if reason is None:
            logger.info("the platform's alarm is over")
        else:
            logger.error("the platform changes nothing any more: %s", reason)
        return reason
