"""Bundles that load well and do harm afterwards, in a real server: `SABOTAGE` is JSON, a bundle's digest to what it does.

crash   ends the process that loads it      raise  raises for every request
hang    does not get loaded                 slow   takes 20 ms a request
nan     answers with no number
"""

import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle import manifest
from bundle.features.columns import Column
from bundle.features.online import Snapshot

FAULTS: dict[str, str] = json.loads(os.environ["SABOTAGE"])

from_files, predict_rows = manifest.from_files, manifest.Bundle.predict_rows
predict_columns = manifest.Bundle.predict_columns


def failing_to_load(
    files: Mapping[str, bytes], public_key: bytes, digest: str | None = None
) -> manifest.Bundle:
    if FAULTS.get(digest or "") == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if FAULTS.get(digest or "") == "hang":
        time.sleep(600)
    return from_files(files, public_key, digest)


def fault_of(bundle: manifest.Bundle) -> str | None:
    fault = FAULTS.get(bundle.digest)
    if fault == "raise":
        raise RuntimeError("sabotage")
    if fault == "slow":
        time.sleep(0.02)
    return fault


def failing(
    self: manifest.Bundle, requests: Iterable[Mapping[str, Any]], online: Snapshot
) -> tuple[list[list[float]], list[float]]:
    fault = fault_of(self)
    rows, outputs = predict_rows(self, requests, online)
    return rows, [float("nan")] * len(outputs) if fault == "nan" else outputs


def failing_columns(
    self: manifest.Bundle, columns: Mapping[str, Column], online: Snapshot
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    fault = fault_of(self)
    matrix, outputs = predict_columns(self, columns, online)
    return matrix, np.full_like(outputs, np.nan) if fault == "nan" else outputs


manifest.from_files = failing_to_load
manifest.Bundle.predict_rows = failing  # type: ignore[method-assign]
manifest.Bundle.predict_columns = failing_columns  # type: ignore[method-assign]
