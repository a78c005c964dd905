"""What importing the definitions costs against importing Dagster alone: every process of the platform pays it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

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
LIMIT = 1.3


def main(repeats: int = 7) -> None:
    """Time both in fresh processes, in turn, and print the medians and their ratio."""
    dagster, definitions = [], []
    for _ in range(repeats):
        dagster.append(seconds("import dagster"))
        definitions.append(seconds("import pipelines.definitions"))
    ratio = statistics.median(definitions) / statistics.median(dagster)
    print(f"import dagster                {statistics.median(dagster):6.2f} s")
    print(
        f"import pipelines.definitions  {statistics.median(definitions):6.2f} s   {ratio:.2f} x   (wanted: at most {LIMIT} x)"
    )
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import sys, pipelines.definitions; print(*(name for name in {HEAVY!r} if name in sys.modules))"],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    print(f"heavy libraries loaded        {', '.join(loaded) or 'none'}")


def seconds(code: str) -> float:
    """Wall seconds of a fresh interpreter that runs `code`, less those of one that runs nothing."""
    return _wall(code) - _wall("pass")


def _wall(code: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
