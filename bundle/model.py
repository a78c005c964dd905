"""The model that travels: gradient-boosted trees as UBJ, and the calibration of their margin. No pickle.

Three engines compute the same function. Compiled trees (`bundle.compiled_trees`), where a bundle has them for this platform, or else
treelite's tree interpreter take few rows; XGBoost takes many. From which number on is measured when a bundle is loaded. They
agree within `TOLERANCE`, not always to the last bit: the interpreter adds in another order.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from bundle.compiled_trees import Compiled, CompiledTrees, NotCompiledError, Statement, compile_trees

if TYPE_CHECKING:
    import numpy as np
    import xgboost
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]
    Array = NDArray[np.float64]

MODEL, FACTS = "model.ubj", "model.json"
FORMAT = 1
# Rows up to which few-row engines are used before that was measured. With 200 trees of depth 6, one core: treelite about 40 µs and
# 25 µs a row, XGBoost about 300 µs and 2 µs a row.
SMALL_BATCH = 8
# Compiled trees take 3 µs for a row, and a matrix for them takes as long as ten rows to make.
ONE_BY_ONE = 16
# A batch has no more rows than this; an engine that wins up to here always does.
ALWAYS = 1 << 20
TOLERANCE = 1e-5

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
    """model.json: what the bytes of the trees do not say."""

    names: tuple[str, ...]
    calibration: Calibration
    objective: Literal["binary:logistic"] = "binary:logistic"
    format: int = FORMAT


class Engine(msgspec.Struct, frozen=True):
    """What computes few rows, and up to how many (`crossover`) before XGBoost is faster; `because` says why not compiled trees."""

    name: Literal["compiled", "interpreted"]
    crossover: int
    because: str | None = None


class Model:
    """Trees with the names of their inputs and their calibration. `threads` is the CPU quota that XGBoost may use. Up to `one_by_one`
    rows are faster with `predict_row` than as a matrix.

    Raises ValueError for bytes that are no such model, or that do not fit the names.
    """

    def __init__(self, ubj: bytes, names: Sequence[str], calibration: Calibration | None = None, *, threads: int = 1) -> None:
        self.ubj = ubj
        self.names = tuple(names)
        self.calibration = calibration or Calibration()
        self._threads = threads
        self._compiled: CompiledTrees | None = None
        self.engine = Engine("interpreted", SMALL_BATCH, "the bundle has no compiled trees")
        self.one_by_one = 1
        if self.booster.num_features() != len(self.names):
            raise ValueError(f"the trees read {self.booster.num_features()} features, but {len(self.names)} are named")

    @classmethod
    def from_booster(
        cls, booster: xgboost.Booster, names: Sequence[str], calibration: Calibration | None = None, *, threads: int = 1
    ) -> Model:
        return cls(bytes(booster.save_raw("ubj")), names, calibration, threads=threads)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, threads: int = 1) -> Model:
        """The model of `model.ubj` and `model.json`. Raises ValueError for missing or malformed ones."""
        for name in (MODEL, FACTS):
            if name not in files:
                raise ValueError(f"a model needs the file {name!r}, which is missing")
        try:
            facts = msgspec.json.decode(files[FACTS], type=Facts)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{FACTS} does not describe a model: {error}") from error
        if facts.format != FORMAT:
            raise ValueError(f"{FACTS} has format {facts.format}; this release reads format {FORMAT}")
        if not (math.isfinite(facts.calibration.a) and math.isfinite(facts.calibration.b)):
            raise ValueError(f"{FACTS} has a calibration that is not finite")
        return cls(files[MODEL], facts.names, facts.calibration, threads=threads)

    def to_files(self) -> dict[str, bytes]:
        facts = Facts(self.names, self.calibration)
        return {MODEL: self.ubj, FACTS: msgspec.json.encode(facts, order="sorted")}

    def compiled(self) -> Compiled:
        """These trees as a shared library, to travel in a bundle. Raises NotCompiledError."""
        return compile_trees(self._trees, len(self.names))

    def adopt(self, library: bytes, statement: Statement, sample: Matrix) -> None:
        """Use compiled trees, from bytes that were verified, if they can be used here and agree with XGBoost on sample rows (n, k); else
        `engine` says why not."""
        import numpy as np

        try:
            found = CompiledTrees(library, statement, len(self.names))
            expected, computed = (
                self.calibration.apply(np.asarray(margins, dtype=np.float64))
                for margins in (self.margin_of_many(sample), found.margins(sample))
            )
            worst = float(np.max(np.abs(expected - computed), initial=0.0))
            if not worst <= TOLERANCE:
                raise NotCompiledError(f"they differ by {worst:.2g} from XGBoost; the limit is {TOLERANCE:g}")
        except NotCompiledError as error:
            logger.warning("compiled trees are not used: %s", error)
            self.engine = Engine("interpreted", self.engine.crossover, str(error))
            return
        self._compiled, self.one_by_one = found, ONE_BY_ONE
        self.__dict__.pop("_margin_of_one", None)
        self.engine = Engine("compiled", self.engine.crossover)

    def measure(self, sample: Matrix) -> None:
        """Find the number of rows from which XGBoost is faster, by timing both on sample rows; takes 20 ms with compiled trees.

        Either costs a start and so much a row, hence two sizes tell where the lines cross.
        """
        import numpy as np

        many = np.resize(sample, (MEASURED_ROWS, len(self.names))).astype(np.float32)
        few_start, few_row = _line(self.margin_of_few, many)
        many_start, many_row = _line(self.margin_of_many, many)
        gain = few_row - many_row
        crossover = ALWAYS if gain <= 0 else int(min(max((many_start - few_start) / gain, 1.0), ALWAYS))
        self.engine = msgspec.structs.replace(self.engine, crossover=crossover)

    @cached_property
    def booster(self) -> xgboost.Booster:
        import xgboost

        try:
            booster = xgboost.Booster(model_file=bytearray(self.ubj))
        except xgboost.core.XGBoostError as error:
            raise ValueError(f"{MODEL} is no XGBoost model; build the bundle again") from error
        booster.set_param({"nthread": self._threads})
        return booster

    @cached_property
    def _trees(self) -> Any:
        import treelite

        # treelite reports whatever it cannot read as its own error; what matters is that the model is refused.
        try:
            return treelite.frontend.from_xgboost_ubjson(self.ubj)
        except treelite.TreeliteError as error:
            raise ValueError(f"{MODEL} cannot be read by treelite (train on numbers and integer codes): {error}") from error

    @cached_property
    def _small(self) -> Any:
        from treelite.gtil.gtil import GTILConfig

        return GTILConfig(predict_type="raw", nthread=1)

    def margin(self, matrix: Matrix) -> Array:
        """Raw margins (log odds), shape (n,), of rows of shape (n, k): float32, NaN for missing."""
        if matrix.ndim != 2 or matrix.shape[1] != len(self.names):
            raise ValueError(f"the model takes rows of {len(self.names)} features, not a matrix of shape {matrix.shape}")
        if 0 < len(matrix) <= self.engine.crossover:
            return self.margin_of_few(matrix)
        return self.margin_of_many(matrix)

    def margin_of_few(self, matrix: Matrix) -> Array:
        import numpy as np

        if self._compiled is not None:
            return np.asarray(self._compiled.margins(matrix), dtype=np.float64)
        from treelite.gtil.gtil import _predict_impl

        # The public function builds its configuration anew for each call, which costs as much as the prediction.
        return np.asarray(_predict_impl(self._trees, matrix, config=self._small), dtype=np.float64).reshape(len(matrix))

    def margin_of_many(self, matrix: Matrix) -> Array:
        import numpy as np

        if len(matrix) == 0:
            return np.empty(0)
        margins = self.booster.inplace_predict(matrix, predict_type="margin", validate_features=False)
        return np.asarray(margins, dtype=np.float64)

    def predict(self, matrix: Matrix) -> Array:
        """Calibrated probabilities, shape (n,), of rows of shape (n, k): float32, NaN for missing."""
        return self.calibration.apply(self.margin(matrix))

    def predict_row(self, row: Sequence[float]) -> float:
        """The probability of one row of k numbers."""
        return self.calibration.apply_one(self._margin_of_one(row))

    @cached_property
    def _margin_of_one(self) -> Callable[[Sequence[float]], float]:
        """The compiled trees', or else treelite's prediction of one row without its checks of types and shapes, which cost more
        than small trees do."""
        if self._compiled is not None:
            return self._compiled.margin
        from ctypes import byref, c_char_p, c_float, c_uint64

        import numpy as np
        from treelite.core import _LIB, _check_call

        trees, configuration, width = self._trees, self._small, len(self.names)
        if trees.input_type != "float32" or trees.output_type != "float32":
            return lambda row: float(self.margin_of_few(np.array([row], dtype=np.float32))[0])
        values, predict, kind, one = c_float * width, _LIB.TreeliteGTILPredict, c_char_p(b"float32"), c_uint64(1)

        def margin(row: Sequence[float]) -> float:
            if len(row) != width:
                raise ValueError(f"the model takes rows of {width} features, not of {len(row)}")
            # Buffers of its own for each call: several threads may predict at once.
            result = c_float()
            _check_call(predict(trees.handle, values(*row), kind, one, byref(result), configuration.handle))
            return result.value

        return margin

    def check_engines(self, matrix: Matrix) -> None:
        """Raises ValueError where the engines differ by more than `TOLERANCE` on these rows."""
        import numpy as np

        if len(matrix):
            few, many = (self.calibration.apply(margin(matrix)) for margin in (self.margin_of_few, self.margin_of_many))
            worst = float(np.max(np.abs(few - many)))
            if not worst <= TOLERANCE:
                raise ValueError(
                    f"the {self.engine.name} trees and XGBoost differ by {worst:.2g} on the same rows; the limit is {TOLERANCE:g}"
                )


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
