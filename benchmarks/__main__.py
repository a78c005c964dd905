"""All figures, one after the other, as ratios where a peer runs side by side: `make bench`."""

from __future__ import annotations

import subprocess
import sys

ALL = ("imports", "ingest", "lifecycle", "features", "trees", "endpoint")


def main() -> int:
    """Run each benchmark in a process of its own; returns 1 when one of them broke."""
    broken = []
    for name in ALL:
        print(f"\n{name}\n{'-' * len(name)}", flush=True)
        if subprocess.run(
            [sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}"], check=False
        ).returncode:
            broken.append(name)
    if broken:
        print(f"\nbroken or over a limit: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
