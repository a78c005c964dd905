"""The baseline: a logistic regression fitted by scikit-learn, kept as plain numbers and predicted by NumPy alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from assets.training.calibration import sigmoid

if TYPE_CHECKING:
    from assets.training.manifest import TrainingRows
    from bundle.program import FeatureProgram

Array = NDArray[np.float64]
Matrix = NDArray[np.float32]

FILE, PROGRAM, FACTS = "baseline.json", "program.json", "facts.json"
ITERATIONS = 100


class NumberTerm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="number"):
    """A numeric feature: missing values become `fill` (the median); `weight` is per standard deviation around `mean`;
    `missing` is added where the value was missing (0 where training never saw that)."""

    fill: float
    mean: float
    scale: float
    weight: float
    missing: float


class CategoryTerm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="category"):
    """A categorical feature: the weight of each code seen in training; missing values have the weight `missing`, codes
    never seen have none."""

    codes: tuple[float, ...]
    weights: tuple[float, ...]
    missing: float


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A logistic regression over the columns of a feature program's matrix, as numbers."""

    format: int = 1
    features: tuple[str, ...]
    terms: tuple[NumberTerm | CategoryTerm, ...]
    intercept: float
    regularisation: float
    iterations: int
    converged: bool

    def encode(self) -> bytes:
        return msgspec.json.encode(self, order="sorted")

    @classmethod
    def decode(cls, content: bytes) -> Baseline:
        """Raises msgspec.ValidationError (a ValueError) for anything but a baseline."""
        return msgspec.json.decode(content, type=cls)

    def margin(self, matrix: Matrix) -> Array:
        """Log odds of rows of a feature program's matrix of shape (n, k), shape (n,)."""
        if matrix.ndim != 2 or matrix.shape[1] != len(self.terms):
            raise ValueError(f"the baseline takes rows of {len(self.terms)} features, not an array of shape {matrix.shape}")
        margin = np.full(len(matrix), self.intercept)
        for column, term in enumerate(self.terms):
            values = matrix[:, column].astype(np.float64)
            missing = np.isnan(values)
            if isinstance(term, NumberTerm):
                margin += (np.where(missing, term.fill, values) - term.mean) / term.scale * term.weight
                margin += np.where(missing, term.missing, 0.0)
            else:
                codes, weights = np.asarray(term.codes), np.asarray(term.weights)
                place = np.minimum(np.searchsorted(codes, values), max(len(codes) - 1, 0))
                if len(codes):
                    margin += np.where(codes[place] == values, weights[place], 0.0)
                margin += np.where(missing, term.missing, 0.0)
        return margin

    def predict(self, matrix: Matrix) -> Array:
        """Probabilities of shape (n,) for rows of shape (n, k)."""
        return sigmoid(self.margin(matrix))


class BaselineFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of what a baseline was made, and how good it was on each part."""

    pipeline: str
    as_of: str
    training_set: str
    program_digest: str
    rows: dict[str, int]
    metrics: dict[str, dict[str, float | None]]

    def encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1)


@dataclass(frozen=True)
class FittedBaseline:
    """A baseline with its stored files and facts."""

    files: dict[str, bytes]
    facts: BaselineFacts
    baseline: Baseline


def estimator(categorical: tuple[bool, ...], regularisation: float, seed: int) -> Any:
    """The scikit-learn pipeline: medians and missing indicators, standardised numbers, one-hot categories."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import FeatureUnion, Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = [column for column, is_category in enumerate(categorical) if not is_category]
    categories = [column for column, is_category in enumerate(categorical) if is_category]
    impute = Pipeline([("fill", SimpleImputer(strategy="median", keep_empty_features=True)), ("scale", StandardScaler())])
    both = FeatureUnion([("values", impute), ("missing", MissingIndicator(features="all", sparse=False))])
    columns = ColumnTransformer(
        [("numbers", both, numbers), ("categories", OneHotEncoder(handle_unknown="ignore", dtype=np.float64), categories)],
        sparse_threshold=1.0,
    )
    # Newton steps: a handful of them does what takes lbfgs a hundred, as there are far more rows than columns.
    regression = LogisticRegression(C=regularisation, solver="newton-cholesky", max_iter=ITERATIONS, random_state=seed)
    return Pipeline([("columns", columns), ("regression", regression)])


def fit(
    matrix: Matrix, y: Array, features: tuple[str, ...], categorical: tuple[bool, ...], regularisation: float = 1.0, seed: int = 0
) -> tuple[Baseline, Any]:
    """Fit the baseline on rows of shape (n, k) and labels of shape (n,). Returns it with the scikit-learn pipeline it was read from."""
    from sklearn.exceptions import ConvergenceWarning

    pipeline = estimator(categorical, regularisation, seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline.fit(matrix.astype(np.float64), y)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return _numbers(pipeline, features, categorical, regularisation, converged), pipeline


def _numbers(pipeline: Any, features: tuple[str, ...], categorical: tuple[bool, ...], regularisation: float, converged: bool) -> Baseline:
    regression = pipeline.named_steps["regression"]
    transformers = pipeline.named_steps["columns"].named_transformers_
    weights = [float(weight) for weight in regression.coef_[0]]
    number_count = sum(not is_category for is_category in categorical)
    number_terms, category_terms = [], []
    if number_count:
        union = dict(transformers["numbers"].transformer_list)
        fills, scaler = union["values"].named_steps["fill"].statistics_, union["values"].named_steps["scale"]
        for index in range(number_count):
            scale = float(scaler.scale_[index])
            number_terms.append(
                NumberTerm(float(fills[index]), float(scaler.mean_[index]), scale, weights[index], weights[number_count + index])
            )
    position = 2 * number_count
    if number_count < len(categorical):
        for seen in transformers["categories"].categories_:
            own = dict(zip((float(code) for code in seen), weights[position : position + len(seen)], strict=True))
            position += len(seen)
            known = sorted(code for code in own if not np.isnan(code))
            missing = next((weight for code, weight in own.items() if np.isnan(code)), 0.0)
            category_terms.append(CategoryTerm(tuple(known), tuple(own[code] for code in known), missing))
    of_numbers, of_categories = iter(number_terms), iter(category_terms)
    return Baseline(
        features=features,
        terms=tuple(next(of_categories) if is_category else next(of_numbers) for is_category in categorical),
        intercept=float(regression.intercept_[0]), regularisation=regularisation, iterations=int(regression.n_iter_[0]), converged=converged,
    )  # fmt: skip


def train(rows: TrainingRows, training_set: str, declared: FeatureProgram, regularisation: float, seed: int) -> FittedBaseline:
    """Fit the baseline on the training days and judge it on all parts."""
    from assets.training.candidate import rounded
    from assets.training.split import PARTS
    from assets.validation.metrics import metrics

    program = declared.fit(rows.part("train"))
    baseline, _ = fit(program.matrix(rows.part("train")), rows.labels("train"), program.names, program.categorical, regularisation, seed)
    judged: dict[str, dict[str, float | None]] = {
        part: rounded(metrics(rows.labels(part), baseline.predict(program.matrix(rows.part(part))))) for part in PARTS
    }
    facts = BaselineFacts(
        pipeline=rows.manifest.pipeline, as_of=rows.manifest.as_of.isoformat(), training_set=training_set,
        program_digest=declared.digest, rows=rows.manifest.rows, metrics=judged,
    )  # fmt: skip
    return FittedBaseline({FILE: baseline.encode(), PROGRAM: program.encode(), FACTS: facts.encode()}, facts, baseline)
