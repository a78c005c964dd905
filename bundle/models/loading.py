"""Models from the files of a bundle or a candidate: which file holds one, and who reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from bundle.models.boosted_trees import BoostedTrees
from bundle.models.model import FACTS, FILES, FORMAT, Facts, Model


def load_model(files: Mapping[str, bytes], *, threads: int = 1) -> Model:
    """The model of `model.json` and of the file that belongs to its kind.

    `threads` is the CPU quota that it may use. Raises ValueError for missing or malformed files,
    and for a model that does not fit its names.
    """
    facts = _facts(_file(files, FACTS))
    content = _file(files, FILES[facts.kind])
    if facts.kind == "xgboost":
        return BoostedTrees(content, facts.names, facts.calibration, threads=threads)

    # scikit-learn takes a second to load, and most endpoints need none of it.
    from bundle.models.scikit_learn import EstimatorModel

    return EstimatorModel(content, facts.names, facts.calibration, facts.background)


def _facts(content: bytes) -> Facts:
    try:
        facts = msgspec.json.decode(content, type=Facts)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{FACTS} does not describe a model: {error}") from error
    if facts.format != FORMAT:
        raise ValueError(f"{FACTS} has format {facts.format}; this release reads format {FORMAT}")
    if not (math.isfinite(facts.calibration.a) and math.isfinite(facts.calibration.b)):
        raise ValueError(f"{FACTS} has a calibration that is not finite")
    return facts


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise ValueError(f"a model needs the file {name!r}, which is missing")
    return files[name]
