"""What a stage of the lifecycle is: its name, its assets by cadence, and what its code reads.

Every stage folder exports one `STAGE` from its `assets.py`. Which stages a kind of pipeline has,
and in which order, stands in `assets.lifecycles`: the stages import this module, so it cannot name
them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import dagster as dg

from declare.pipeline import Pipeline

if TYPE_CHECKING:
    from assets.kind import Kind

P = TypeVar("P", bound=Pipeline)
D = TypeVar("D", bound=Pipeline, contravariant=True)

Cadence = Literal["landed_once", "ingested", "monitored", "retrained", "released"]
"""When an asset is materialized.

`landed_once`: with the first delivery, then never again. `ingested`: for each delivered day.
`monitored`: for each day that is over. `retrained`: for each decision to retrain. `released`: after
each retrain, and for each approval or roll-back.
"""
Names = Mapping[Cadence, tuple[str, ...]]


def always(names: Names) -> Callable[[Pipeline], Names]:
    """The same asset names for every pipeline."""
    return lambda pipeline: names


def alone(
    build: Callable[[P], Sequence[dg.AssetsDefinition]],
) -> Callable[[P, Kind], Sequence[dg.AssetsDefinition]]:
    """For a stage that is built from its pipeline alone and asks nothing of the kind."""
    return lambda pipeline, kind: build(pipeline)


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[D]):
    """One stage. `build` makes its assets, and `assets` names each of them under its cadence.

    `reads(pipeline, kind, asset)` is the part of the declaration on which the results of an asset
    depend, beyond what its upstream assets bring. `version` is the version of the stage's own code:
    raise it when the stage's results change although declaration and data do not.
    """

    name: str
    group: str
    build: Callable[[D, Kind], Sequence[dg.AssetsDefinition]]
    assets: Callable[[D], Names]
    reads: Callable[[D, Kind, str], object]
    version: int = 1

    def code_version(self, pipeline: D, kind: Kind, asset: str) -> str:
        """Digest of the stage's code version and of what an asset reads of the declaration."""
        content = repr((self.name, self.version, self.reads(pipeline, kind, asset)))
        return hashlib.sha256(content.encode()).hexdigest()[:12]
