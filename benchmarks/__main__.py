"""All figures, one benchmark after the other, and whether their limits are kept: `make bench`.

Each benchmark runs in a process of its own. The last lines are one table of all figures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import FILE, Figure, read, table

BENCHMARKS: dict[str, tuple[str, ...]] = {
    "imports": (),
    "ingest": (),
    "lifecycle": (),
    "night": (),
    "features": (),
    "trees": (),
    "endpoint": (),
}
"""Arguments of each benchmark, in the order in which they run."""


def main() -> int:
    """1 when a benchmark broke or a limit is not kept."""
    figures: list[Figure] = []
    broken: list[str] = []
    begin = time.monotonic()
    for name, arguments in BENCHMARKS.items():
        print(f"\n{name}\n{'-' * len(name)}", flush=True)
        found, ended_well = run(name, arguments)
        figures += found
        if not ended_well:
            broken.append(name)

    print(f"\nall figures, in {(time.monotonic() - begin) / 60:.1f} minutes")
    for line in table(figures):
        print(line)
    if broken:
        print(f"ended with an error: {', '.join(broken)}", file=sys.stderr)
    over = any(figure.kept is False for figure in figures)
    return 1 if broken or over else 0


def run(name: str, arguments: tuple[str, ...]) -> tuple[list[Figure], bool]:
    """The figures of a benchmark, and whether it ended well but for its limits."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "figures.json"
        command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}", *arguments]
        done = subprocess.run(command, check=False, env={**os.environ, FILE: str(place)})
        found = read(place)

    if found is None:
        return [], done.returncode == 0
    over = any(figure.kept is False for figure in found)
    return found, done.returncode == 0 or over


if __name__ == "__main__":
    sys.exit(main())
