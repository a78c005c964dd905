"""The model that travels: a probability for rows of numbers, with the calibration of its margin. No pickle.

A model has two engines that compute the same function: one for few rows and one for many. From which number on the second is faster
is measured when a bundle is loaded. They agree within `TOLERANCE`, not always to the last bit: they add in another order.
`bundle.models.boosted_trees` holds XGBoost's models, `bundle.models.scikit_learn` those of scikit-learn.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import msgspec

from bundle.models.compiled_trees import (
    Compiled,
    CompiledTrees,
    NotCompiledError,
    Statement,
    compile_trees,
)

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
# Rows up to which few-row engines are used before that was measured. With 200 trees of depth 6, one core: treelite about 40 µs and
# 25 µs a row, XGBoost about 300 µs and 2 µs a row.
SMALL_BATCH = 8
# Compiled trees take 3 µs for a row, and a matrix for them takes as long as ten rows to make.
ONE_BY_ONE = 16
# A batch has no more rows than this; an engine that wins up to here always does.
ALWAYS = 1 << 20
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
        line = self.a * margin + self.b
        if line >= 0:
            return 1 / (1 + math.exp(-line))
        small = math.exp(line)
        return small / (1 + small)


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """model.json: what the bytes of the model do not say. `background` of a linear model is what each term adds on average over the
    training rows."""

    names: tuple[str, ...]
    calibration: Calibration
    objective: Literal["binary:logistic"] = "binary:logistic"
    format: int = FORMAT
    kind: Kind = "xgboost"
    background: tuple[float, ...] = ()


class Engine(msgspec.Struct, frozen=True):
    """What computes few rows, and up to how many (`crossover`) before the library that trained the model is faster; `because` says why
    not compiled trees."""

    name: Literal["compiled", "interpreted", "linear"]
    crossover: int
    because: str | None = None


class FewRows(Protocol):
    """An engine for few rows of k float32 numbers, NaN for missing: `margin` of one, `margins` of a matrix (n, k)."""

    def margin(self, row: Sequence[float], /) -> float: ...

    def margins(self, matrix: Matrix, /) -> NDArray[Any]: ...


class Model(ABC):
    """A model with the names of its inputs and its calibration. Up to `one_by_one` rows are faster with `predict_row` than as a matrix.

    What its parts add up to, and its engines compute, is in `unit`: log odds, or a probability for a forest, whose margin is that
    probability's log odds.
    """

    kind: ClassVar[Kind]
    unit: Literal["log odds", "probability"] = "log odds"
    explained_by: Literal["TreeSHAP", "linear SHAP"] = "TreeSHAP"
    background: tuple[float, ...] = ()

    def __init__(self, names: Sequence[str], calibration: Calibration | None = None) -> None:
        self.names = tuple(names)
        self.calibration = calibration or Calibration()
        self._compiled: CompiledTrees | None = None
        self.engine = Engine("interpreted", SMALL_BATCH, "the bundle has no compiled trees")
        self.one_by_one = 1

    @staticmethod
    def from_files(files: Mapping[str, bytes], *, threads: int = 1) -> Model:
        """The model of `model.json` and of the file that belongs to its kind; `threads` is the CPU quota that it may use.

        Raises ValueError for missing or malformed files, and for a model that does not fit its names.
        """
        content = _file(files, FACTS)
        try:
            facts = msgspec.json.decode(content, type=Facts)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{FACTS} does not describe a model: {error}") from error
        if facts.format != FORMAT:
            raise ValueError(
                f"{FACTS} has format {facts.format}; this release reads format {FORMAT}"
            )
        if not (math.isfinite(facts.calibration.a) and math.isfinite(facts.calibration.b)):
            raise ValueError(f"{FACTS} has a calibration that is not finite")
        held = _file(files, FILES[facts.kind])
        # scikit-learn takes a second to load, and most endpoints need none of it.
        if facts.kind == "xgboost":
            from bundle.models.boosted_trees import BoostedTrees

            return BoostedTrees(held, facts.names, facts.calibration, threads=threads)
        from bundle.models.scikit_learn import EstimatorModel

        return EstimatorModel(held, facts.names, facts.calibration, facts.background)

    @property
    @abstractmethod
    def trees(self) -> Any:
        """The trees as treelite reads them, None where there are none. Raises ValueError for trees that it cannot read."""

    @property
    @abstractmethod
    def portable(self) -> FewRows:
        """The engine for few rows that needs no compiler."""

    @abstractmethod
    def compute(self, matrix: Matrix) -> Array:
        """What the library that trained the model says of rows (n, k), n > 0, in `unit`."""

    @abstractmethod
    def contributions(
        self, matrix: Matrix, categorical: Sequence[bool], threads: int = 1
    ) -> tuple[Array, Array]:
        """Exact SHAP values of rows (n, k), as (n, k + 1) with the bias last, and what those of a row add up to, (n,); in `unit`.

        Raises ValueError for rows of another width.
        """

    @property
    @abstractmethod
    def content(self) -> bytes:
        """The bytes of the file that holds the model."""

    def to_files(self) -> dict[str, bytes]:
        facts = Facts(self.names, self.calibration, kind=self.kind, background=self.background)
        return {FILES[self.kind]: self.content, FACTS: msgspec.json.encode(facts, order="sorted")}

    def compiled(self) -> Compiled:
        """The trees as a shared library, to travel in a bundle. Raises NotCompiledError."""
        if self.trees is None:
            raise NotCompiledError("the model has no trees")
        return compile_trees(self.trees, len(self.names))

    def adopt(self, library: bytes, statement: Statement, sample: Matrix) -> None:
        """Use compiled trees, from bytes that were verified, if they can be used here and agree with the library that trained them on
        sample rows (n, k); else `engine` says why not."""
        import numpy as np

        try:
            found = CompiledTrees(library, statement, len(self.names))
            expected, computed = (
                self.probability(np.asarray(raw))
                for raw in (self.compute(sample), found.margins(sample))
            )
            worst = float(np.max(np.abs(expected - computed), initial=0.0))
            if not worst <= TOLERANCE:
                raise NotCompiledError(
                    f"they differ by {worst:.2g} from the model; the limit is {TOLERANCE:g}"
                )
        except NotCompiledError as error:
            logger.warning("compiled trees are not used: %s", error)
            self.engine = Engine("interpreted", self.engine.crossover, str(error))
            return
        self._compiled, self.one_by_one = found, ONE_BY_ONE
        self.__dict__.pop("_margin_of_one", None)
        self.engine = Engine("compiled", self.engine.crossover)

    def measure(self, sample: Matrix) -> None:
        """Find the number of rows from which the other engine is faster, by timing both on sample rows; takes 20 ms with compiled
        trees and XGBoost.

        Either costs a start and so much a row, hence two sizes tell where the lines cross.
        """
        import numpy as np

        many = np.resize(sample, (MEASURED_ROWS, len(self.names))).astype(np.float32)
        few_start, few_row = _line(self.margin_of_few, many)
        many_start, many_row = _line(self.margin_of_many, many)
        gain = few_row - many_row
        crossover = (
            ALWAYS if gain <= 0 else int(min(max((many_start - few_start) / gain, 1.0), ALWAYS))
        )
        self.engine = msgspec.structs.replace(self.engine, crossover=crossover)

    def margin(self, matrix: Matrix) -> Array:
        """Raw margins (log odds), shape (n,), of rows of shape (n, k): float32, NaN for missing."""
        self.check_width(matrix)
        if 0 < len(matrix) <= self.engine.crossover:
            return self.margin_of_few(matrix)
        return self.margin_of_many(matrix)

    def check_width(self, matrix: Matrix) -> None:
        """Raises ValueError for anything but rows of the model's features."""
        if matrix.ndim != 2 or matrix.shape[1] != len(self.names):
            raise ValueError(
                f"the model takes rows of {len(self.names)} features, not a matrix of shape {matrix.shape}"
            )

    def margin_of_few(self, matrix: Matrix) -> Array:
        import numpy as np

        return self._log_odds(np.asarray(self._few.margins(matrix), dtype=np.float64))

    def margin_of_many(self, matrix: Matrix) -> Array:
        import numpy as np

        return self._log_odds(self.compute(matrix)) if len(matrix) else np.empty(0)

    def predict(self, matrix: Matrix) -> Array:
        """Calibrated probabilities, shape (n,), of rows of shape (n, k): float32, NaN for missing."""
        return self.calibration.apply(self.margin(matrix))

    def probability(self, raw: Array) -> Array:
        """Calibrated probabilities of what the parts of rows add up to, any shape, in `unit`."""
        return self.calibration.apply(self._log_odds(raw))

    def predict_row(self, row: Sequence[float]) -> float:
        """The probability of one row of k numbers."""
        return self.calibration.apply_one(self._margin_of_one(row))

    @property
    def _few(self) -> FewRows:
        return self._compiled or self.portable

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

        if len(matrix):
            few, many = (
                self.calibration.apply(margin(matrix))
                for margin in (self.margin_of_few, self.margin_of_many)
            )
            worst = float(np.max(np.abs(few - many)))
            if not worst <= TOLERANCE:
                raise ValueError(
                    f"the {self.engine.name} model and the one that was trained differ by {worst:.2g} on the same rows; the limit is {TOLERANCE:g}"
                )


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise ValueError(f"a model needs the file {name!r}, which is missing")
    return files[name]


# Enough rows to tell what each costs from what a call costs, on a busy machine too.
MEASURED_ROWS, REPEATS = 512, 5


def _line(margin: Callable[[Matrix], Array], matrix: Matrix) -> tuple[float, float]:
    """Seconds of a call and of each row in it, from the fastest of some calls with one row and with all."""

    def fastest(rows: Matrix) -> float:
        found = math.inf
        for _ in range(REPEATS):
            start = perf_counter()
            margin(rows)
            found = min(found, perf_counter() - start)
        return found

    margin(matrix)
    one, all_rows = fastest(matrix[:1]), fastest(matrix)
    row = max(all_rows - one, 0.0) / (len(matrix) - 1)
    return max(one - row, 0.0), row
