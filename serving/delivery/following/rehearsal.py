"""A bundle loaded and tried out in a process of its own, before a worker that serves others loads
it.

The libraries that read a model are native code: a fault in one ends the process that loads it, and
no `except` catches that. `python -m serving.delivery.following.rehearsal` ends instead.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

from bundle.golden import golden_matrix
from bundle.manifest import Bundle, load
from serving.lean import stay_lean

SECONDS = 60.0


def rehearse(
    folder: Path, public_key: Path, digest: str, stopping: threading.Event, seconds: float = SECONDS
) -> None:
    """Load a bundle in a child process. Raises ValueError where that fails, ends by a signal, takes
    longer than `seconds`, or is still going on when the server is `stopping`."""
    command = [
        sys.executable,
        "-m",
        "serving.delivery.following.rehearsal",
        str(folder),
        str(public_key),
        digest,
    ]
    end = time.monotonic() + seconds
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        while True:
            try:
                _, errors = child.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if stopping.is_set() or time.monotonic() > end:
                    child.kill()
                    limit = (
                        "before the server stopped"
                        if stopping.is_set()
                        else f"within {seconds:g} s"
                    )
                    raise ValueError(
                        f"bundle {digest} was not loaded {limit}, so no worker loads it"
                    ) from None
    if child.returncode < 0:
        raise ValueError(
            f"bundle {digest} ends the process that loads it (signal {-child.returncode}), so no "
            "worker loads it"
        )
    if child.returncode > 0:
        said = errors.decode(errors="replace").strip().splitlines()
        raise ValueError(
            said[-1][:500]
            if said
            else f"bundle {digest} could not be loaded (exit {child.returncode})"
        )


def try_out(bundle: Bundle) -> float:
    """Predict the golden rows, and let the engines build what they need on first use: no request
    should pay for it. The mean time of a golden row in ms; raises BundleError where they are not as
    expected."""
    golden = bundle.check_golden()
    bundle.model.measure(golden_matrix(bundle.golden))
    return golden.row_ms


def main() -> int:
    made = argparse.ArgumentParser(
        "python -m serving.delivery.following.rehearsal",
        description="Load a bundle and predict its golden rows; exit 0 if that works.",
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
    stay_lean()
    sys.exit(main())
