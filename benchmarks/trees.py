"""What a model costs in this process, beside the library that trained it: `benchmarks.trees`.

200 trees over 24 features, one thread, the best of some rounds in turn. Judged for XGBoost: one row
takes at most 5 µs, and 10,000 rows no longer than they take the library. `served` is the walker,
or the terms of a linear model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from assets.tabular.training import estimators
from benchmarks.figures import Figure, conclude
from bundle.models.boosted_trees import BoostedTrees
from bundle.models.model import Model
from bundle.models.scikit_learn import EstimatorModel
from bundle.models.trees.walker import MISSING, Walker
from declare import HistGradientBoosting, RandomForest

WIDTH, TRAINED, ROWS, SINGLES, REPEATS = 24, 8_000, 10_000, 300, 7
CATEGORIES = (3, 11, 12, 20)
ROW_LIMIT_US, BATCH_LIMIT = 5.0, 1.0


def main() -> int:
    """Print a line for each model; 1 where a limit is not kept."""
    if MISSING is not None:
        print(MISSING)
        return 1
    print(f"{'':30}{'one row':>27}{f'{ROWS:,} rows':>27}{'table':>17}")
    print(f"{'':30}" + 2 * f"{'library':>9}{'gtil':>9}{'served':>9}" + f"{'bytes':>9}{'open':>8}")
    figures: list[Figure] = []
    for name, model in models().items():
        best = measured(name, model)
        if isinstance(model, BoostedTrees):
            figures += judged(name, best)
    return conclude(figures)


def judged(name: str, best: dict[str, float]) -> list[Figure]:
    """The figures of a boosted model."""
    ratio = best["served many"] / best["library many"]
    return [
        Figure(f"{name}: one row", best["served one"] * 1e6, ROW_LIMIT_US, "µs"),
        Figure(f"{name}: {ROWS:,} rows / XGBoost", ratio, BATCH_LIMIT, "x"),
    ]


def models() -> dict[str, Model]:
    """Models trained on equal rows: numbers, some of them missing, and codes."""
    matrix = rows_of(TRAINED, seed=1)
    noise = np.random.default_rng(2).normal(size=TRAINED)
    labels = (np.nan_to_num(matrix).sum(axis=1) % 3 + noise > 1.5).astype(float)
    categorical = [place in CATEGORIES for place in range(WIDTH)]
    names = [f"f{place}" for place in range(WIDTH)]
    boosting = HistGradientBoosting(rounds=200, early_stopping=200)
    parts = {"train": matrix, "validation": matrix[:1000]}
    judged = {"train": labels, "validation": labels[:1000]}
    trained = {
        "forest, depth 10": estimators.random_forest(
            RandomForest(trees=200, max_depth=10), matrix, labels
        ),
        "boosting, 31 leaves": estimators.hist_gradient_boosting(
            boosting, [0] * WIDTH, categorical, parts, judged
        )[0],
        "logistic regression": estimators.logistic_regression(matrix, labels, categorical, 1.0)[0],
    }
    return {
        "XGBoost, depth 6": boosted(matrix, labels, names, [False] * WIDTH, 6),
        "XGBoost, depth 6, 4 categories": boosted(matrix, labels, names, categorical, 6),
        "XGBoost, depth 10": boosted(matrix, labels, names, [False] * WIDTH, 10),
        **{
            name: EstimatorModel.from_estimator(estimator, names, matrix)
            for name, estimator in trained.items()
        },
    }


def rows_of(count: int, seed: int) -> np.ndarray:
    """Rows of numbers and codes, a twentieth of the numbers missing."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(count, WIDTH)).astype(np.float32)
    matrix[random.random(matrix.shape) < 0.05] = np.nan
    for place in CATEGORIES:
        matrix[:, place] = random.integers(0, 100, count)
    return matrix


def boosted(
    matrix: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    categorical: Sequence[bool],
    depth: int,
) -> BoostedTrees:
    import xgboost

    types = ["c" if category else "q" for category in categorical]
    data = xgboost.DMatrix(matrix, label=labels, feature_types=types, enable_categorical=True)
    options = {"objective": "binary:logistic", "max_depth": depth, "nthread": 1}
    return BoostedTrees.from_booster(xgboost.train(options, data, 200), names)


def measured(name: str, model: Model) -> dict[str, float]:
    """Print what a model costs; seconds of each call."""
    matrix = rows_of(ROWS, seed=3)
    singles = matrix[:SINGLES].tolist()
    # The library is slow for single rows: a few of them tell.
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "library one": (lambda: [model.compute(matrix[i : i + 1]) for i in range(20)], 20),
        "library many": (lambda: model.compute(matrix), 1),
    }
    size = opened = 0.0
    if model.trees is not None:
        portable, table = model.portable, model.table()
        begin = perf_counter()
        Walker(table, WIDTH)
        size, opened = len(table), perf_counter() - begin
        model.adopt(table, matrix)
        calls["gtil one"] = (lambda: [portable.margin(row) for row in singles], SINGLES)
        calls["gtil many"] = (lambda: portable.margins(matrix), 1)
    calls["served one"] = (lambda: [model.predict_row(row) for row in singles], SINGLES)
    calls["served many"] = (lambda: model.margin_of_few(matrix), 1)
    best = fastest(calls)
    show(name, best, size, opened)
    return best


def fastest(calls: dict[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    """Seconds of each, the best of some rounds in which they take turns."""
    best: dict[str, float] = {}
    for _ in range(REPEATS):
        for name, (call, times) in calls.items():
            begin = perf_counter()
            call()
            taken = (perf_counter() - begin) / times
            best[name] = min(best.get(name, taken), taken)
    return best


def show(name: str, best: dict[str, float], size: float, opened: float) -> None:
    def text(column: str, unit: str, scale: float) -> str:
        found: Any = best.get(column)
        return f"{'–':>9}" if found is None else f"{f'{found * scale:.1f} {unit}':>9}"

    engines = ("library", "gtil", "served")
    one = "".join(text(f"{engine} one", "µs", 1e6) for engine in engines)
    many = "".join(text(f"{engine} many", "ms", 1e3) for engine in engines)
    print(f"{name:30}{one}{many}{size:9,.0f}{opened * 1e3:5.1f} ms", flush=True)


if __name__ == "__main__":
    sys.exit(main())
