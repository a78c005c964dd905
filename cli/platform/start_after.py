"""`python -m cli.platform.start_after CONDITION… -- COMMAND…`.

Become COMMAND once all conditions hold. A condition is HOST:PORT, which listens, or /a/file, which
exists. Processes that start together on a small machine starve each other; those that people wait
for go first. After SECONDS the command is started all the same: what it needs may come late.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

SECONDS = 60.0


def holds(condition: str) -> bool:
    if condition.startswith("/"):
        return Path(condition).exists()
    host, _, port = condition.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False


def main(words: list[str]) -> None:
    conditions, command = words[: words.index("--")], words[words.index("--") + 1 :]
    end = time.monotonic() + SECONDS
    while not all(map(holds, conditions)) and time.monotonic() < end:
        time.sleep(0.2)
    os.execv(command[0], command)  # noqa: S606  no shell is meant


if __name__ == "__main__":
    main(sys.argv[1:])
