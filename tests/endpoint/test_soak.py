"""The soak test in short: the same code as `make soak`, for less long."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.endpoint import TREE


@pytest.mark.timeout(200)
def test_a_short_soak_breaks_no_promise() -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "30", "--json"]
    result = subprocess.run(command, cwd=TREE, env={**os.environ, "PYTHONPATH": str(TREE)}, capture_output=True, text=True, timeout=180)
    assert result.returncode == 0, result.stderr + result.stdout
    found = json.loads(result.stdout)
    assert (found["problems"], found["failed"], found["missing"], found["twice"], found["not_allowed"]) == ([], 0, 0, 0, 0), result.stderr
    # It was a soak: something happened, under load.
    assert found["killed_workers"] >= 5
    assert (found["moves"]["release"], found["moves"]["rollout"], found["moves"]["rollback"]) == (3, 2, 3)
    assert found["acknowledged"] > 1_000
    assert found["bundles"] >= 2
