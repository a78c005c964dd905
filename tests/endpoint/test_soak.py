"""The soak test in short: two minutes of what `make soak` does for ten."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.endpoint import TREE


@pytest.mark.timeout(360)
def test_a_short_soak_breaks_no_promise() -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "120", "--json"]
    result = subprocess.run(command, cwd=TREE, env={**os.environ, "PYTHONPATH": str(TREE)}, capture_output=True, text=True, timeout=340)
    assert result.returncode == 0, result.stderr + result.stdout
    found = json.loads(result.stdout)
    assert (found["problems"], found["failed"], found["missing"], found["twice"], found["not_allowed"]) == ([], 0, 0, 0, 0), result.stderr
    # It was a soak: something happened, under load.
    assert found["killed_workers"] >= 20
    assert min(found["moves"][kind] for kind in ("release", "rollout", "rollback")) >= 4
    assert found["acknowledged"] > 1_000
    assert found["bundles"] >= 2
