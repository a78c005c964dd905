"""XGBoost's models: gradient-boosted trees as UBJ.

The walker over the bundle's table of trees (`bundle.models.trees`) takes few rows, treelite's
interpreter where it is missing; XGBoost takes many rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bundle.models.contributions import contributions
from bundle.models.interpreted_trees import InterpretedTrees, parse
from bundle.models.model import FILES, Calibration, Model

if TYPE_CHECKING:
    import xgboost

    from bundle.models.model import Array, Matrix


class BoostedTrees(Model):
    """Trees of XGBoost. `threads` is the CPU quota that XGBoost may use.

    Raises ValueError for bytes that are no such model, or that do not fit the names.
    """

    kind = "xgboost"

    def __init__(
        self,
        ubj: bytes,
        names: Sequence[str],
        calibration: Calibration | None = None,
        *,
        threads: int = 1,
    ) -> None:
        super().__init__(names, calibration)
        self.ubj = ubj
        self._threads = threads
        if self.booster.num_features() != len(self.names):
            raise ValueError(
                f"the trees read {self.booster.num_features()} features,"
                f" but {len(self.names)} are named"
            )

    @classmethod
    def from_booster(
        cls,
        booster: xgboost.Booster,
        names: Sequence[str],
        calibration: Calibration | None = None,
        *,
        threads: int = 1,
    ) -> BoostedTrees:
        """The model of a trained booster."""
        return cls(bytes(booster.save_raw("ubj")), names, calibration, threads=threads)

    @cached_property
    def booster(self) -> xgboost.Booster:
        """The trees as XGBoost loads them. Raises ValueError for bytes that are no such model."""
        import xgboost

        # XGBoost's own error is a ValueError.
        try:
            booster = xgboost.Booster(model_file=bytearray(self.ubj))
        except ValueError as error:
            raise ValueError(
                f"{FILES[self.kind]} is no XGBoost model; build the bundle again"
            ) from error
        booster.set_param({"nthread": self._threads})
        return booster

    @cached_property
    def trees(self) -> Any:
        return parse(self.ubj, FILES[self.kind])

    @cached_property
    def portable(self) -> InterpretedTrees:
        return InterpretedTrees(self.trees, len(self.names))

    def compute(self, matrix: Matrix) -> Array:
        import numpy as np

        margins = self.booster.inplace_predict(
            matrix, predict_type="margin", validate_features=False
        )
        return np.asarray(margins, dtype=np.float64)

    def contributions(
        self, matrix: Matrix, categorical: Sequence[bool], threads: int = 1
    ) -> tuple[Array, Array]:
        return contributions(self.booster, matrix, categorical, threads)

    @property
    def content(self) -> bytes:
        return self.ubj
