"""A bundle loaded and tried out in a process of its own, before a worker that serves others loads it.

A compiled model can end the process that loads it; no `except` catches that. `python -m serving.rehearsal` ends instead.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bundle.manifest import Bundle, load

SECONDS = 60.0


def rehearse(folder: Path, public_key: Path, digest: str, seconds: float = SECONDS) -> None:
    """Load a bundle in a child process. Raises ValueError where that fails, ends by a signal, or takes longer than `seconds`."""
    command = [sys.executable, "-m", "serving.rehearsal", str(folder), str(public_key), digest]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"bundle {digest} was not loaded within {seconds:g} s, so no worker loads it") from None
    if done.returncode < 0:
        raise ValueError(f"bundle {digest} ends the process that loads it (signal {-done.returncode}), so no worker loads it")
    if done.returncode > 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(said[-1][:500] if said else f"bundle {digest} could not be loaded (exit {done.returncode})")


def try_out(bundle: Bundle) -> float:
    """Predict the golden rows, and let the engines build what they need on first use: no request should pay for it. The mean
    time of a golden row in ms; raises BundleError where they are not as expected."""
    golden = bundle.check_golden()
    bundle.model.measure(bundle.golden_matrix())
    return golden.row_ms


def main() -> int:
    made = argparse.ArgumentParser(
        "python -m serving.rehearsal", description="Load a bundle and predict its golden rows; exit 0 if that works."
    )
    made.add_argument("folder", type=Path)
    made.add_argument("public_key", type=Path)
    made.add_argument("digest")
    found = made.parse_args()
    try:
        try_out(load(found.folder, found.public_key.read_bytes(), found.digest))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    from serving.__main__ import stay_lean

    stay_lean()
    sys.exit(main())
