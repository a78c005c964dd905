"""`python -m cli.wait HOST PORT -- COMMAND…`: become COMMAND once something listens there.

Processes that start together on a small machine starve each other; those that people wait for go first. After SECONDS the
command is started all the same: what it needs may come late.
"""

from __future__ import annotations

import os
import socket
import sys
import time

SECONDS = 60.0


def listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def main(words: list[str]) -> None:
    host, port, separator, *command = words
    assert separator == "--"
    end = time.monotonic() + SECONDS
    while not listens(host, int(port)) and time.monotonic() < end:
        time.sleep(0.2)
    os.execv(command[0], command)  # noqa: S606  no shell is meant


if __name__ == "__main__":
    main(sys.argv[1:])
