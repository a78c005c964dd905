"""What a monitor compares with.

The bundle that served, its feature program, its drift reference and its test metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, NamedTuple

from assets.tabular.monitoring.drift.reference import Reference, reference
from assets.tabular.training.candidate import FACTS, PROGRAM, CandidateFacts
from assets.tabular.training.cpus import threads
from assets.traffic.entries import LedgerEntry, Release, Rollback
from assets.traffic.moves import candidate_of
from bundle.desired import CHAMPION
from bundle.features.program import FeatureProgram
from bundle.manifest import REFERENCE
from resources import files

if TYPE_CHECKING:
    import polars as pl

    from bundle.models.model import Model
    from declare.tabular import Tabular
    from resources.artifacts import Artifacts
    from resources.lake import Lake
    from resources.reports import Reports

# A fortnight of test rows does not show how much a day's answers vary: judged against it, 33 of 177
# real days were alarms, and against two months 4 of 177 (flights of 2013, April to September).
OUTPUT_DAYS = 60
NOBODY = "none"  # subject of a report on a day when nothing was served


class Served(NamedTuple):
    """A released bundle: its digest, its candidate, and the facts of the candidate's training."""

    bundle: str
    candidate: str
    facts: CandidateFacts
    program: FeatureProgram

    @property
    def as_of(self) -> date:
        return date.fromisoformat(self.facts.as_of)

    @property
    def test(self) -> dict[str, float]:
        return {
            name: value
            for name, value in self.facts.metrics.get("test", {}).items()
            if value is not None
        }

    @property
    def test_rows(self) -> int:
        return self.facts.rows.get("test", 0)


def released(entries: Sequence[LedgerEntry], day: date) -> Release | Rollback | None:
    """The newest release or roll-back of a data day up to `day`: what was to be served then."""
    for entry in reversed(entries):
        if isinstance(entry, (Release, Rollback)) and entry.day <= day:
            return entry
    return None


def most_served(predictions: pl.DataFrame) -> str | None:
    """The champion that answered most of a day's predictions; None on a day without any.

    Ties go to the smaller digest. A challenger's share, however great, does not make it the
    champion.
    """
    import polars as pl

    answered = predictions.filter(pl.col("arm") == CHAMPION)
    if answered.is_empty():
        return None
    counts = answered["bundle"].value_counts().sort(["count", "bundle"], descending=[True, False])
    return str(counts["bundle"][0])


def subject(predictions: pl.DataFrame, entries: Sequence[LedgerEntry], day: date) -> str:
    """Digest of the bundle that a day's reports speak of.

    What answered most, else what was released, else "none".
    """
    entry = released(entries, day)
    return most_served(predictions) or (entry.bundle if entry else NOBODY)


def load(artifacts: Artifacts, entries: Sequence[LedgerEntry], bundle: str) -> Served:
    """A released bundle's candidate.

    Raises LookupError for a bundle that the ledger never released, FileNotFoundError and ValueError
    for artifacts that are gone or altered.
    """
    candidate = candidate_of(entries, bundle)
    if candidate is None:
        raise LookupError(
            f"bundle {bundle} answered predictions but no release entry names it; the ledger or "
            "the endpoint was tampered with"
        )
    contents = artifacts.get("candidates", candidate)
    return Served(
        bundle,
        candidate,
        CandidateFacts.decode(contents[FACTS]),
        FeatureProgram.decode(contents[PROGRAM]),
    )


def load_reference(
    pipeline: Tabular, served: Served, artifacts: Artifacts, lake: Lake, reports: Reports
) -> Reference:
    """The drift reference that travels with the bundle.

    For a bundle without one it is computed once from the training set and kept beside the reports.
    """
    contents = artifacts.get("bundles", served.bundle)
    if REFERENCE in contents:
        return Reference.decode(contents[REFERENCE])
    place = f"{reports.uri}/{pipeline.name}/references/{served.bundle}.json"
    if not files.exists(place):
        files.write_atomically(place, compute_reference(pipeline, served, artifacts, lake))
    return Reference.decode(files.read(place))


def compute_reference(pipeline: Tabular, served: Served, artifacts: Artifacts, lake: Lake) -> bytes:
    """`reference.json` of a candidate.

    It is made of the rows of its training set and of its own answers on the newest of them.
    """
    from assets.tabular.training.manifest import FILE, TrainingManifest, load_rows
    from bundle.models.loading import load_model

    manifest = TrainingManifest.decode(
        artifacts.get("training_sets", served.facts.training_set)[FILE]
    )
    rows = load_rows(pipeline, manifest, lake)
    model = load_model(artifacts.get("candidates", served.candidate), threads=threads())
    return candidate_reference(rows.frame, served.program, model)


def candidate_reference(frame: pl.DataFrame, program: FeatureProgram, model: Model) -> bytes:
    """`reference.json` from the rows of a training set (columns: features and `date`).

    And from the model's answers on those of its newest `OUTPUT_DAYS` days, test split included.
    """
    import polars as pl

    recent = frame.filter(pl.col("date") > pl.col("date").max() - timedelta(days=OUTPUT_DAYS))
    outputs = pl.DataFrame(
        {"output": model.predict(program.matrix(recent)), "date": recent["date"]}
    )
    return reference(frame, program.names, outputs)
