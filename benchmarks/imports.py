"""What importing the definitions costs against importing Dagster alone.

Every process of the platform pays it. The definitions must load no heavy library.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.figures import Figure, conclude

HEAVY = (
    "xgboost",
    "sklearn",
    "mlflow",
    "evidently",
    "great_expectations",
    "polars",
    "pandas",
    "matplotlib",
    "deltalake",
    "optuna",
    "treelite",
)
RATIO_LIMIT, HEAVY_LIMIT = 1.3, 0
REPEATS = 7
LOADED = f"import sys, pipelines.definitions; print(*(n for n in {HEAVY!r} if n in sys.modules))"


def main() -> int:
    """Time both in fresh processes, in turn, and judge the ratio of the medians."""
    dagster, definitions = [], []
    for _ in range(REPEATS):
        dagster.append(seconds("import dagster"))
        definitions.append(seconds("import pipelines.definitions"))
    floor, ours = statistics.median(dagster), statistics.median(definitions)
    print(f"import dagster                {floor:6.2f} s")
    print(f"import pipelines.definitions  {ours:6.2f} s   {ours / floor:.2f} x")

    command = [sys.executable, "-W", "ignore", "-c", LOADED]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    print(f"heavy libraries loaded        {', '.join(loaded) or 'none'}")
    return conclude(
        [
            Figure("import definitions / import dagster", ours / floor, RATIO_LIMIT, "x"),
            Figure("heavy libraries loaded", len(loaded), HEAVY_LIMIT),
        ]
    )


def seconds(code: str) -> float:
    """Wall seconds of a fresh interpreter that runs `code`, less those of one that runs nothing."""
    return _wall(code) - _wall("pass")


def _wall(code: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
