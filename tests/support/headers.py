"""Python's headers, without which `make setup` builds no walker of trees."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

HEADER = Path(sysconfig.get_path("include")) / "Python.h"
MISSING = f"{HEADER} is missing: install Python's headers (Debian: apt-get install python3.11-dev)"

needs_headers = pytest.mark.skipif(not HEADER.exists(), reason=MISSING)


def skip_without_headers() -> None:
    """Skip the module that calls this where no walker can be built."""
    if not HEADER.exists():
        pytest.skip(MISSING, allow_module_level=True)
