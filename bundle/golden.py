"""Golden rows: requests with the outputs expected of them, predicted before a bundle serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from bundle.features.online import Snapshot
from bundle.features.program import FeatureProgram
from bundle.features.row import compile_row
from bundle.models.model import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Scalar = bool | int | float | str | None


class GoldenRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request, the model's row for it (null for missing), and the probability expected of it."""

    request: dict[str, Scalar]
    row: tuple[float | None, ...]
    expected: float


class GoldenResult(msgspec.Struct, frozen=True):
    """What predicting golden rows gave.

    `difference` is the greatest one between an output and what was expected, `row_ms` the mean time
    of one row.
    """

    rows: int
    difference: float
    row_ms: float


def golden_rows(
    program: FeatureProgram, model: Model, requests: Sequence[Mapping[str, Any]], online: Snapshot
) -> list[GoldenRow]:
    """Golden rows of some requests, computed by the very functions that the endpoint uses."""
    import numpy as np

    row_of = compile_row(program)
    rows = []
    for request in requests:
        row = [float(value) for value in np.array(row_of(request, online), dtype=np.float32)]
        known = tuple(None if np.isnan(value) else value for value in row)
        rows.append(GoldenRow(_plain(request), known, model.predict_row(row)))
    return rows


def golden_matrix(golden: Sequence[GoldenRow]) -> NDArray[np.float32]:
    """The model's rows of all golden rows, shape (n, k), NaN for missing."""
    import numpy as np

    # NumPy makes NaN of None where the type is a float.
    return np.array([row.row for row in golden], dtype=np.float32)


def _plain(request: Mapping[str, Any]) -> dict[str, Scalar]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in request.items()
    }
