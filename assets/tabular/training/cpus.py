"""How many CPUs this process may really use.

More threads than that are several times slower, not faster.
"""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def quota(root: Path = CGROUP) -> float | None:
    """CPUs that the control group grants (version 2 or 1), None where it sets no limit."""
    try:
        granted, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            granted, period = (
                (root / "cpu" / f"cpu.cfs_{name}_us").read_text().strip()
                for name in ("quota", "period")
            )
        except OSError:
            return None
    return None if granted in ("max", "-1") else int(granted) / int(period)


def threads(root: Path = CGROUP) -> int:
    """The real CPU quota as a number of threads.

    The `EVERGREEN_THREADS` setting, or the CPUs this process may run on, no more than its control
    group grants. At least 1.
    """
    from resources.settings import settings

    if settings().threads is not None:
        return max(1, settings().threads or 1)
    available = len(os.sched_getaffinity(0))
    granted = quota(root)
    return max(1, available if granted is None else min(available, int(granted)))
