"""Tabular pipelines, as the shared stages ask for them. What is computed stands in the stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from assets.kind import Files, ModelFacts, Watched
from assets.names import DAY, raw_name
from assets.tabular.monitoring.monitors import DATA_DRIFT, PERFORMANCE, SKEW
from assets.tabular.validation import gates

if TYPE_CHECKING:
    import polars as pl

    from assets.kind import Floats
    from assets.reporting.report import Report
    from declare.tabular import Tabular
    from resources.artifacts import Artifacts
    from resources.keys import Keys
    from resources.lake import Lake

WATCHED = Watched(
    loss=(PERFORMANCE, "log_loss"),
    drift=(DATA_DRIFT, "drift_share"),
    faults=((DATA_DRIFT, "missing_values"), (SKEW, "skew")),
)
SHIFT_BINS = 10


@dataclass(frozen=True)
class TabularKind:
    """`assets.kind.Kind` for a tabular pipeline."""

    pipeline: Tabular

    @property
    def entity(self) -> str:
        return self.pipeline.entity

    @property
    def labels_from(self) -> tuple[str, ...]:
        return (raw_name(self.pipeline.label.source),)

    @property
    def reports(self) -> tuple[str, ...]:
        return gates.REPORTS

    @property
    def watched(self) -> Watched:
        return WATCHED

    @property
    def outcome(self) -> object:
        return self.pipeline.entity, self.pipeline.label

    @property
    def bundled(self) -> object:
        return self.outcome, self.pipeline.request_columns, self.pipeline.gates

    def definition(self) -> str:
        from assets.tabular.features.declared_program import definition, program

        return definition(program(self.pipeline))

    def facts(self, candidate: Files) -> ModelFacts:
        from assets.tabular.features.declared_program import definition
        from assets.tabular.training.candidate import FACTS, PROGRAM, CandidateFacts
        from bundle.features.program import FeatureProgram

        facts = CandidateFacts.decode(candidate[FACTS])
        return ModelFacts(
            as_of=date.fromisoformat(facts.as_of),
            test_loss=facts.metrics.get("test", {}).get("log_loss"),
            test_rows=facts.rows.get("test", 0),
            definition=definition(FeatureProgram.decode(candidate[PROGRAM])),
        )

    def bundle(
        self,
        candidate: str,
        files: Files,
        reports: Mapping[str, Report | None],
        artifacts: Artifacts,
        lake: Lake,
        keys: Keys,
    ) -> dict[str, bytes]:
        from assets.tabular.bundling import assemble

        return assemble(self.pipeline, candidate, files, reports, artifacts, lake, keys)

    def refusals(
        self, reports: Mapping[str, Report | None], candidate: str, champion: str | None
    ) -> list[str]:
        return gates.refusals(self.pipeline, reports, candidate, champion)

    def labels(self, lake: Lake, first: date, last: date) -> pl.DataFrame:
        import polars as pl

        from assets.data.raw import reader
        from assets.tabular.features.moments import refresh
        from assets.tabular.features.point_in_time import labels

        read = reader(lake, self.pipeline.name)
        known = labels(self.pipeline, read, first, last, last + DAY)

        return known.filter(pl.col("known_at") <= refresh(self.pipeline, last + DAY)).select(
            pl.col(self.entity).cast(pl.String),
            pl.col(self.pipeline.label.name).cast(pl.Float64).alias("y"),
        )

    def row_losses(self, metric: str, y: Floats, output: Floats) -> Floats:
        from assets.tabular.tasks.metrics import row_metric

        return row_metric(metric, y, output)

    def output_shift(self, first: Floats, second: Floats) -> float | None:
        import numpy as np

        from assets.tabular.monitoring.drift.statistics import population_stability_index

        if min(len(first), len(second)) < SHIFT_BINS:
            return None

        edges = np.quantile(first, np.linspace(0, 1, SHIFT_BINS + 1)[1:-1])
        expected, actual = (
            np.bincount(np.searchsorted(edges, values), minlength=SHIFT_BINS).astype(np.int64)
            for values in (first, second)
        )
        return population_stability_index(expected, actual)
