"""The server's own log on stderr: lines for people, or one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime


def configure(as_json: bool) -> None:
    lines = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else lines)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class JsonLines(logging.Formatter):
    """One JSON object a record, with the traceback as `error` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "at": at.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": os.getpid(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)

        return json.dumps(line, ensure_ascii=False)
