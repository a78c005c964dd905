"""Which process a file belongs to.

Process ids are used again, in containers at once, so an identity holds the start time, too.
"""

from __future__ import annotations

from pathlib import Path

STARTED = 22
"""Field of /proc/<pid>/stat: clock ticks from boot to the start of the process."""


def identity(pid: int) -> str:
    """`<pid>-<start>` of a living process. Raises OSError where there is none."""
    # The second field, a name in parentheses, may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"{pid}-{fields[STARTED - 3]}"


def alive(process: str) -> bool:
    """Whether the process of that identity lives."""
    try:
        return identity(int(process.partition("-")[0])) == process
    except (OSError, ValueError):
        return False
