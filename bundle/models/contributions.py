"""Why the trees answer what they do: exact TreeSHAP contributions.

They are in units of the margin (log odds before calibration). See Lundberg et al. 2020, *From local
explanations to global understanding with explainable AI for trees*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import xgboost
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def contributions(
    booster: xgboost.Booster,
    matrix: NDArray[np.float32],
    categorical: Sequence[bool],
    threads: int = 1,
) -> tuple[Array, Array]:
    """TreeSHAP contributions (n, k + 1; the last column is the bias) and margins (n,) of a matrix.

    The contributions of a row add up to its margin. Raises ValueError for a matrix (n, k) of
    another number of features than the trees read.
    """
    import numpy as np
    import xgboost

    if booster.num_features() != matrix.shape[1]:
        raise ValueError(
            f"the model has {booster.num_features()} features, the matrix {matrix.shape[1]};"
            " use the program stored with the model"
        )

    data = xgboost.DMatrix(
        matrix,
        feature_types=["c" if is_category else "q" for is_category in categorical],
        feature_names=booster.feature_names,
        enable_categorical=True,
        nthread=threads,
    )
    parts = booster.predict(data, pred_contribs=True, strict_shape=False)
    margins = booster.predict(data, output_margin=True)
    return np.asarray(parts, dtype=np.float64), np.asarray(margins, dtype=np.float64)
