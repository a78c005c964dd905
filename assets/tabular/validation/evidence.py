"""What all validations look at.

The candidate with the test rows it never saw, the baseline, and the champion.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from assets.names import BASELINE, CANDIDATE, asset_path
from assets.tabular.tasks.metrics import Array
from assets.tabular.training import baseline as baselines, manifest as manifests
from assets.tabular.training.candidate import FACTS, PROGRAM, CandidateFacts
from assets.tabular.training.cpus import threads
from bundle.features.expression import Column, Feature, Join, Rolling, walk
from bundle.features.program import FeatureProgram
from bundle.models.loading import load_model
from bundle.models.model import Model
from declare.source import DATE, EVENT_TIME

if TYPE_CHECKING:
    import polars as pl

    from declare.tabular import Tabular
    from resources.artifacts import Artifacts
    from resources.lake import Lake
    from resources.ledger import Ledger

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Evidence:
    """A candidate and its test rows in canonical order.

    `frame` (feature table with label), `matrix` (n, k), `y` and `p` (n,).
    """

    pipeline: Tabular
    candidate: str
    day: date
    training_set: str
    program: FeatureProgram
    model: Model
    frame: pl.DataFrame
    matrix: Matrix
    y: Array
    p: Array

    @property
    def n(self) -> int:
        return len(self.y)

    @property
    def days(self) -> NDArray[np.int64]:
        """The rows' days, numbered from 0."""
        numbers = self.frame.get_column(DATE).rank("dense").to_numpy()
        return np.asarray(numbers, dtype=np.int64) - 1

    @property
    def period(self) -> str:
        dates: list[date] = self.frame.get_column(DATE).unique().sort().to_list()
        return f"{dates[0]} to {dates[-1]}" if dates else "no day"


@dataclass(frozen=True)
class Champion:
    """The bundle released now: its digest, and the program and model that it predicts with."""

    digest: str
    program: FeatureProgram
    model: Model


def load(pipeline: Tabular, lake: Lake, artifacts: Artifacts) -> Evidence:
    """The newest candidate of a pipeline with the test rows of its training set.

    The rows are rebuilt and verified. Raises ValueError where there is no candidate, or where its
    test rows changed since it was trained.
    """
    digest = artifacts.pointed(pipeline.name, CANDIDATE)
    if digest is None:
        raise ValueError(
            f"pipeline {pipeline.name!r} has no candidate yet; materialize "
            f"{asset_path(pipeline.name, CANDIDATE)} first"
        )
    files = artifacts.get("candidates", digest)
    facts, program, model = (
        CandidateFacts.decode(files[FACTS]),
        FeatureProgram.decode(files[PROGRAM]),
        load_model(files, threads=threads()),
    )
    frame, manifest = test_rows(pipeline, lake, artifacts, facts.training_set)
    matrix = program.matrix(frame)
    return Evidence(
        pipeline=pipeline,
        candidate=digest,
        day=manifest.as_of,
        training_set=facts.training_set,
        program=program,
        model=model,
        frame=frame,
        matrix=matrix,
        y=frame.get_column(manifest.label).to_numpy().astype(np.float64),
        p=model.predict(matrix),
    )


def test_rows(
    pipeline: Tabular, lake: Lake, artifacts: Artifacts, training_set: str
) -> tuple[pl.DataFrame, manifests.TrainingManifest]:
    """The test rows of a training set in canonical order, verified day by day against its manifest.

    Raises ValueError naming the days whose rows are no longer those that the manifest speaks of.
    """
    manifest = manifests.TrainingManifest.decode(
        artifacts.get("training_sets", training_set)[manifests.FILE]
    )
    test = manifest.split.test
    frame = manifests.labelled_rows(pipeline, lake, test.first, test.last, manifest.as_of)
    expected = {day: rows for day, rows in manifest.days.items() if date.fromisoformat(day) in test}
    manifests.verify(
        msgspec.structs.replace(manifest, days=expected),
        manifests.day_digests(frame, manifest.label),
    )
    return frame, manifest


def baseline_predictions(evidence: Evidence, artifacts: Artifacts) -> Array:
    """What the baseline of the same training set predicts for the test rows, shape (n,).

    Raises ValueError where the newest baseline was fitted on another training set: it may have seen
    these test rows.
    """
    name = evidence.pipeline.name
    digest = artifacts.pointed(name, BASELINE)
    if digest is None:
        raise ValueError(
            f"pipeline {name!r} has no baseline yet; materialize {asset_path(name, BASELINE)} first"
        )
    files = artifacts.get("baselines", digest)
    facts = msgspec.json.decode(files[baselines.FACTS], type=baselines.BaselineFacts)
    if facts.training_set != evidence.training_set:
        raise ValueError(
            f"the newest baseline was fitted on training set {facts.training_set[:12]}, "
            f"the candidate on {evidence.training_set[:12]}; materialize "
            f"{asset_path(name, BASELINE)} and {asset_path(name, CANDIDATE)} "
            "on the same training set"
        )
    matrix = FeatureProgram.decode(files[baselines.PROGRAM]).matrix(evidence.frame)
    return baselines.Baseline.decode(files[baselines.FILE]).predict(matrix)


def champion(pipeline: Tabular, ledger: Ledger, artifacts: Artifacts) -> Champion | None:
    """The bundle that the ledger says is released now, None before the first release.

    Raises FileNotFoundError or ValueError for a bundle that is lost or altered.
    """
    digest = ledger.released(pipeline.name)
    if digest is None:
        return None
    files = artifacts.get("bundles", digest)
    return Champion(
        digest, FeatureProgram.decode(files[PROGRAM]), load_model(files, threads=threads())
    )


def champion_predictions(
    champion: Champion, evidence: Evidence, lake: Lake
) -> tuple[Array, tuple[str, ...]]:
    """What the champion predicts for the test rows, shape (n,), and what was odd about it.

    It predicts with its own feature program. Where that differs from the candidate's, its features
    are computed again from the raw rows. Those that no longer can be (their source or column is
    gone) are missing for the champion, which is said.
    """
    import polars as pl

    program = champion.program
    changed = changed_features(program, evidence.program)
    if not changed:
        return champion.model.predict(program.matrix(evidence.frame)), ()
    lost = lost_features(program, evidence.pipeline)
    kept = tuple(feature for feature in program.features if feature.name not in lost)
    frame = evidence.frame.drop(
        set(program.names) & set(evidence.frame.columns) - {evidence.pipeline.entity}
    )
    again = tuple(feature for feature in kept if feature.name in changed)
    same = [feature.name for feature in kept if feature.name not in changed]
    frame = frame.with_columns(evidence.frame.select(same)) if same else frame
    if again:
        frame = frame.join(
            _computed(program, again, evidence, lake),
            on=evidence.pipeline.entity,
            how="left",
            validate="1:1",
            maintain_order="left",
        )
    frame = frame.with_columns(pl.lit(None).alias(name) for name in lost)
    notes = []
    if again:
        notes.append(
            f"The champion's program differs: {', '.join(changed)} computed from raw rows as the "
            "champion declares them."
        )
    if lost:
        notes.append(
            f"The champion's features {', '.join(lost)} can no longer be computed (source or "
            "column is gone) and were missing for it: the comparison flatters the candidate."
        )
    return champion.model.predict(program.matrix(frame)), tuple(notes)


def changed_features(own: FeatureProgram, other: FeatureProgram) -> tuple[str, ...]:
    """Features of `own` that the feature table of `other` does not hold as declared."""
    moments = [(p.timezone, p.lead_seconds, p.refresh_seconds) for p in (own, other)]
    table = (
        {feature.name: msgspec.json.encode(feature) for feature in other.features}
        if moments[0] == moments[1]
        else {}
    )
    return tuple(
        feature.name
        for feature in own.features
        if table.get(feature.name) != msgspec.json.encode(feature)
    )


def lost_features(program: FeatureProgram, pipeline: Tabular) -> tuple[str, ...]:
    """Features of a program that the pipeline's present sources cannot give any more."""
    request, sources = (
        {*pipeline.request_columns, EVENT_TIME},
        {source.name: set(source.columns) for source in pipeline.sources},
    )

    def known(feature: str) -> bool:
        for node in walk(
            next(each.expression for each in program.features if each.name == feature)
        ):
            if isinstance(node, Column) and node.name not in request:
                return False
            if isinstance(node, Join) and (
                node.column not in sources.get(node.source, ()) or not request.issuperset(node.on)
            ):
                return False
            if isinstance(node, Rolling):
                facts = (
                    sources.get(node.source, set())
                    | {pipeline.label.name, EVENT_TIME}
                    | set(pipeline.request_source.columns)
                )
                read = {inner.name for inner in walk(node.value) if isinstance(inner, Column)}
                if (
                    node.source not in sources
                    or not facts.issuperset(read)
                    or not request.issuperset(node.by)
                ):
                    return False
        return True

    return tuple(name for name in program.names if not known(name))


def _computed(
    program: FeatureProgram, wanted: tuple[Feature, ...], evidence: Evidence, lake: Lake
) -> pl.DataFrame:
    from assets.data import raw
    from assets.tabular.features.point_in_time import features
    from assets.tabular.features.versions import newest_known

    pipeline = evidence.pipeline.model_copy(
        update={
            "features": wanted,
            "timezone": program.timezone,
            "lead": timedelta(seconds=program.lead_seconds),
            "refresh": timedelta(seconds=program.refresh_seconds),
        }
    )
    days = evidence.frame.get_column(DATE).unique().sort().to_list()
    computed = newest_known(
        features(pipeline, days, raw.reader(lake, pipeline.name)), [pipeline.entity]
    )
    return computed.select(pipeline.entity, *(feature.name for feature in wanted))
