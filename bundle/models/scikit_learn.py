"""scikit-learn's models: logistic regressions, random forests, histogram-based gradient boosting.

scikit-learn itself says what a model answers. A row costs it milliseconds, so few rows are answered
by what says the same in microseconds: the terms of a linear model (`bundle.models.linear`), or the
trees of an ensemble, written as XGBoost's (`bundle.models.translated_trees`) and walked like those.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bundle.models import skops_files
from bundle.models.contributions import contributions
from bundle.models.crossover import ALWAYS
from bundle.models.interpreted_trees import InterpretedTrees, parse
from bundle.models.linear import Linear, linear
from bundle.models.model import FILES, Calibration, Engine, Model
from bundle.models.translated_trees import booster

if TYPE_CHECKING:
    from bundle.models.linear import Array, Matrix


class EstimatorModel(Model):
    """A fitted estimator of scikit-learn for the classes 0 and 1, from the bytes of its skops file.

    Raises ValueError for bytes that are no such estimator, or that do not fit the names.
    """

    kind = "scikit-learn"

    def __init__(
        self,
        skops: bytes,
        names: Sequence[str],
        calibration: Calibration | None = None,
        background: Sequence[float] = (),
    ) -> None:
        super().__init__(names, calibration)
        self.background = tuple(background)
        self.skops = skops
        self.estimator = skops_files.load(skops)
        read = getattr(self.estimator, "n_features_in_", None)
        if read != len(self.names):
            raise ValueError(
                f"the estimator reads {read} features, but {len(self.names)} are named"
            )
        if list(self.estimator.classes_) != [0, 1]:
            raise ValueError(
                f"the estimator tells classes {list(self.estimator.classes_)} apart, not 0 and 1"
            )

        self.linear = linear(self.estimator) if _is(self.estimator, "Pipeline") else None
        # Trees are checked here, before anything walks them.
        self.booster = None if self.linear is not None else booster(self.estimator, self.names)
        if self.linear is not None:
            self.engine = Engine("linear", ALWAYS)
            self.explained_by = "linear SHAP"
            if len(self.background) != len(self.names):
                raise ValueError(
                    f"a linear model of {len(self.names)} features needs as many averages,"
                    f" not {len(self.background)}"
                )
        elif _is(self.estimator, "RandomForestClassifier"):
            self.unit = "probability"

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        names: Sequence[str],
        matrix: Matrix,
        calibration: Calibration | None = None,
    ) -> EstimatorModel:
        """The model of an estimator that was fitted on a matrix (n, k) of a feature program."""
        background: list[float] = []
        if _is(estimator, "Pipeline"):
            background = linear(estimator).parts(matrix).mean(axis=0).tolist()
        return cls(skops_files.dump(estimator), names, calibration, background)

    @cached_property
    def trees(self) -> Any:
        if self.booster is None:
            return None
        return parse(bytes(self.booster.save_raw("ubj")), FILES[self.kind])

    @cached_property
    def portable(self) -> InterpretedTrees | Linear:
        return self.linear or InterpretedTrees(self.trees, len(self.names))

    def compute(self, matrix: Matrix) -> Array:
        import numpy as np

        if self.unit == "probability":
            return np.asarray(self.estimator.predict_proba(matrix)[:, 1], dtype=np.float64)
        return np.asarray(
            self.estimator.decision_function(matrix.astype(np.float64)), dtype=np.float64
        )

    def contributions(
        self, matrix: Matrix, categorical: Sequence[bool], threads: int = 1
    ) -> tuple[Array, Array]:
        """TreeSHAP of an ensemble's trees, or linear SHAP.

        That is how far each term of a linear model is from its average over the training rows
        (Lundberg and Lee 2017, *A unified approach to interpreting model predictions*,
        corollary 1).
        """
        import numpy as np

        self.check_width(matrix)
        if self.booster is not None:
            return contributions(self.booster, matrix, categorical, threads)
        assert self.linear is not None
        average = np.array(self.background)
        bias = np.full(len(matrix), self.linear.intercept + average.sum())
        parts = np.column_stack([self.linear.parts(matrix) - average, bias])
        return parts, self.linear.margins(matrix)

    @property
    def content(self) -> bytes:
        return self.skops


def _is(estimator: Any, name: str) -> bool:
    # By its name: the class itself would have to be imported.
    return type(estimator).__name__ == name
