"""The model that travels: a probability for rows of numbers, with the calibration of its margin.

A model has two engines that compute the same function: one for few rows and one for many. From
which number on the second is faster is measured when a bundle is loaded. They agree within
`TOLERANCE`, not always to the last bit, because they add in another order.

Here is what all models have in common. `boosted_trees` holds XGBoost's models, `scikit_learn` those
of scikit-learn, and `loading` makes either from the files of a bundle.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import msgspec

from bundle.models.crossover import crossover
from bundle.models.trees.table import FILE, NoTableError, tree_table
from bundle.models.trees.walker import MISSING, Walker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]
    Array = NDArray[np.float64]

FACTS = "model.json"
FORMAT = 1
Kind = Literal["xgboost", "scikit-learn"]
# The file that holds the model, by its kind.
FILES: Mapping[Kind, str] = {"xgboost": "model.ubj", "scikit-learn": "model.skops"}
# Rows up to which engines for few rows are used before that was measured. With 200 trees of depth
# 6, one core: treelite about 40 µs and 15 µs a row, XGBoost about 300 µs and 3 µs a row.
SMALL_BATCH = 8
# The walker takes 1 to 3 µs for a row; to make a matrix takes as long as ten rows.
ONE_BY_ONE = 16
TOLERANCE = 1e-5
# Probabilities are kept this far from 0 and 1 where log odds are taken of them.
CERTAIN = 1e-6

logger = logging.getLogger("bundle")


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Probability = 1 / (1 + exp(-(a * margin + b))); the default is the uncalibrated model."""

    a: float = 1.0
    b: float = 0.0

    def apply(self, margin: Array) -> Array:
        """Probabilities of margins (log odds), any shape."""
        import numpy as np

        line = self.a * margin + self.b
        small = np.exp(-np.abs(line))
        return np.where(line >= 0, 1 / (1 + small), small / (1 + small))

    def apply_one(self, margin: float) -> float:
        """The probability of one margin."""
        line = self.a * margin + self.b
        if line >= 0:
            return 1 / (1 + math.exp(-line))
        small = math.exp(line)
        return small / (1 + small)


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """model.json: what the bytes of the model do not say.

    `background` of a linear model is what each term adds on average over the training rows.
    """

    names: tuple[str, ...]
    calibration: Calibration
    objective: Literal["binary:logistic"] = "binary:logistic"
    format: int = FORMAT
    kind: Kind = "xgboost"
    background: tuple[float, ...] = ()


class Engine(msgspec.Struct, frozen=True):
    """What computes few rows, and up to how many before the training library is faster.

    `walker` is the platform's own, over the bundle's table of trees; `gtil` is treelite's
    interpreter; `because` says why it is not the walker. `linear` is a sum of terms.
    """

    name: Literal["walker", "gtil", "linear"]
    crossover: int
    because: str | None = None


class FewRows(Protocol):
    """An engine for few rows of k float32 numbers, NaN for missing."""

    def margin(self, row: Sequence[float], /) -> float:
        """The margin of one row."""
        ...

    def margins(self, matrix: Matrix, /) -> NDArray[Any]:
        """The margins of a matrix (n, k), shape (n,)."""
        ...


class Model(ABC):
    """A model with the names of its inputs and its calibration.

    Up to `one_by_one` rows are faster with `predict_row` than as a matrix. What the model's parts
    add up to, and its engines compute, is in `unit`: log odds, or a probability for a forest, whose
    margin is that probability's log odds.
    """

    kind: ClassVar[Kind]
    unit: Literal["log odds", "probability"] = "log odds"
    explained_by: Literal["TreeSHAP", "linear SHAP"] = "TreeSHAP"
    background: tuple[float, ...] = ()

    def __init__(self, names: Sequence[str], calibration: Calibration | None = None) -> None:
        self.names = tuple(names)
        self.calibration = calibration or Calibration()
        self.engine = Engine("gtil", SMALL_BATCH, "the bundle has no table of trees")
        self.one_by_one = 1
        self._walker: Walker | None = None

    @property
    @abstractmethod
    def trees(self) -> Any:
        """The trees as treelite reads them, None where there are none.

        Raises ValueError for trees that treelite cannot read.
        """

    @property
    @abstractmethod
    def portable(self) -> FewRows:
        """The engine for few rows that needs no table and no extension."""

    @abstractmethod
    def compute(self, matrix: Matrix) -> Array:
        """What the library that trained the model says of rows (n, k), n > 0, in `unit`."""

    @abstractmethod
    def contributions(
        self, matrix: Matrix, categorical: Sequence[bool], threads: int = 1
    ) -> tuple[Array, Array]:
        """Exact SHAP values of rows (n, k) as (n, k + 1), bias last, and their sums (n,).

        Both are in `unit`. Raises ValueError for rows of another width.
        """

    @property
    @abstractmethod
    def content(self) -> bytes:
        """The bytes of the file that holds the model."""

    def to_files(self) -> dict[str, bytes]:
        """The files that `bundle.models.loading.load_model` reads."""
        facts = Facts(self.names, self.calibration, kind=self.kind, background=self.background)
        return {FILES[self.kind]: self.content, FACTS: msgspec.json.encode(facts, order="sorted")}

    def table(self) -> bytes:
        """The table of the model's trees, to travel in a bundle. Raises NoTableError."""
        if self.trees is None:
            raise NoTableError("the model has no trees")
        return tree_table(self.trees, len(self.names))

    def adopt(self, table: bytes, sample: Matrix) -> None:
        """Answer few rows from a table of the trees, where the walker is built.

        Raises TableError for a file that is no sound table, and ValueError where it disagrees with
        the library that trained the trees on sample rows (n, k).
        """
        import numpy as np

        if MISSING is not None:
            logger.warning("treelite walks the trees, which is slower: %s", MISSING)
            self.engine = msgspec.structs.replace(self.engine, because=MISSING)
            return
        walker = Walker(table, len(self.names))
        expected = self.probability(self.compute(sample))
        computed = self.probability(np.asarray(walker.margins(sample)))
        worst = float(np.max(np.abs(expected - computed), initial=0.0))
        if not worst <= TOLERANCE:
            raise ValueError(
                f"{FILE} differs by {worst:.2g} from the model; the limit is {TOLERANCE:g}"
            )

        self._walker, self.one_by_one = walker, ONE_BY_ONE
        self.__dict__.pop("_margin_of_one", None)
        self.engine = Engine("walker", self.engine.crossover)

    def measure(self, sample: Matrix) -> None:
        """Find the number of rows from which the other engine is faster, by timing both.

        It takes 20 ms with the walker and XGBoost.
        """
        import numpy as np

        found = crossover(self.margin_of_few, self.margin_of_many, np.asarray(sample))
        self.engine = msgspec.structs.replace(self.engine, crossover=found)

    def margin(self, matrix: Matrix) -> Array:
        """Raw margins (log odds), shape (n,), of rows (n, k): float32, NaN for missing."""
        self.check_width(matrix)
        if 0 < len(matrix) <= self.engine.crossover:
            return self.margin_of_few(matrix)
        return self.margin_of_many(matrix)

    def check_width(self, matrix: Matrix) -> None:
        """Raises ValueError for anything but rows of the model's features."""
        if matrix.ndim != 2 or matrix.shape[1] != len(self.names):
            raise ValueError(
                f"the model takes rows of {len(self.names)} features,"
                f" not a matrix of shape {matrix.shape}"
            )

    def margin_of_few(self, matrix: Matrix) -> Array:
        """Margins of rows (n, k) by the engine for few rows, whatever n."""
        import numpy as np

        return self._log_odds(np.asarray(self._few.margins(matrix), dtype=np.float64))

    def margin_of_many(self, matrix: Matrix) -> Array:
        """Margins of rows (n, k) by the library that trained the model, whatever n."""
        import numpy as np

        return self._log_odds(self.compute(matrix)) if len(matrix) else np.empty(0)

    def predict(self, matrix: Matrix) -> Array:
        """Calibrated probabilities, shape (n,), of rows (n, k): float32, NaN for missing."""
        return self.calibration.apply(self.margin(matrix))

    def probability(self, raw: Array) -> Array:
        """Calibrated probabilities of what the parts of rows add up to, any shape, in `unit`."""
        return self.calibration.apply(self._log_odds(raw))

    def predict_row(self, row: Sequence[float]) -> float:
        """The probability of one row of k numbers."""
        return self.calibration.apply_one(self._margin_of_one(row))

    @property
    def _few(self) -> FewRows:
        return self._walker or self.portable

    @cached_property
    def _margin_of_one(self) -> Callable[[Sequence[float]], float]:
        raw = self._few.margin
        if self.unit == "log odds":
            return raw

        def margin(row: Sequence[float]) -> float:
            share = min(max(raw(row), CERTAIN), 1 - CERTAIN)
            return math.log(share / (1 - share))

        return margin

    def _log_odds(self, raw: Array) -> Array:
        import numpy as np

        raw = raw.astype(np.float64, copy=False)
        if self.unit == "log odds":
            return raw
        share = np.clip(raw, CERTAIN, 1 - CERTAIN)
        return np.log(share / (1 - share))

    def check_engines(self, matrix: Matrix) -> None:
        """Raises ValueError where the engines differ by more than `TOLERANCE` on these rows."""
        import numpy as np

        if not len(matrix):
            return
        few = self.calibration.apply(self.margin_of_few(matrix))
        many = self.calibration.apply(self.margin_of_many(matrix))
        worst = float(np.max(np.abs(few - many)))
        if not worst <= TOLERANCE:
            raise ValueError(
                f"the engines of the model ({self.engine.name} and {self.kind}) differ by"
                f" {worst:.2g} on the same rows; the limit is {TOLERANCE:g}"
            )
