"""A tabular pipeline: it predicts a label from rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

import msgspec
from pydantic import Field, field_validator, model_validator

from bundle.features.expression import Expression, Feature, Join, Rolling, walk
from declare.base import DeclarationError, check_unique
from declare.features import Readable, as_feature, check_named, join_keys, sent
from declare.gates import Fairness, Gates, check_groups
from declare.label import Label, check_label
from declare.log import check_omitted
from declare.models import AnyModel, LogisticRegression, Split, XGBoost, check_directions
from declare.pipeline import Pipeline
from declare.release import check_split
from declare.source import Source, SourceColumn


class Tabular(Pipeline):
    """A pipeline that predicts from rows.

    `request` names the source whose rows are predicted: its columns are what an application sends.
    `entity` is its key. A prediction is made `lead` before a row's `event_time`. Rolling aggregates
    are refreshed once a day, `refresh` after midnight in `timezone`, and see what was known then.
    """

    request: str
    entity: str
    lead: timedelta = timedelta(hours=1)
    refresh: timedelta = timedelta(hours=4)
    label: Label
    features: tuple[Feature, ...] = Field(min_length=1)
    model: AnyModel = XGBoost()
    baseline: LogisticRegression = LogisticRegression()
    split: Split = Split()
    slices: tuple[str, ...] = ()
    fairness: tuple[Fairness, ...] = ()
    gates: Gates = Gates()

    def __init__(self, **fields: object) -> None:
        features = fields.get("features")
        if isinstance(features, Sequence):
            fields["features"] = tuple(map(as_feature, features))
        super().__init__(**fields)  # type: ignore[arg-type]

    @field_validator("features", mode="before")
    @classmethod
    def _are_named(cls, features: object) -> object:
        check_named(features)
        return features

    @property
    def tuned(self) -> bool:
        """Whether a study searches the model's parameters; else those declared are used."""
        return isinstance(self.model, XGBoost)

    @property
    def request_source(self) -> Source:
        return self.source(self.request)

    @property
    def request_columns(self) -> dict[str, SourceColumn]:
        """Columns that an application sends, by name (with `event_time`)."""
        return sent(self.request_source)

    @property
    def joins(self) -> tuple[Join, ...]:
        """The joins of all features, each once."""
        found = {_digest(node): node for node in self._nodes() if isinstance(node, Join)}
        return tuple(found.values())

    @property
    def aggregates(self) -> tuple[Rolling, ...]:
        """The rolling aggregates of all features, each once."""
        found = {_digest(node): node for node in self._nodes() if isinstance(node, Rolling)}
        return tuple(found.values())

    def join_keys(self, join: Join) -> tuple[tuple[str, str], ...]:
        """Pairs (column of the source, column of the request) by which a join finds its row."""
        return join_keys(join, self.source(join.source), self.request_source)

    def _nodes(self) -> Iterator[Expression]:
        for feature in self.features:
            yield from walk(feature.expression)

    @model_validator(mode="after")
    def _fits_together(self) -> Tabular:
        check_unique("features", "feature", [feature.name for feature in self.features])
        check_unique("slices", "slice", list(self.slices))
        check_unique("fairness", "fairness group", [group.column for group in self.fairness])
        _check_roles(self)
        _check_durations(self)
        check_label(self.label, self.source(self.label.source))

        readable = Readable(self.sources, self.request_source, self.label, self.entity)
        for feature in self.features:
            readable.check(feature)

        known = {feature.name for feature in self.features} | set(self.request_columns)
        check_groups(self.gates, self.slices, self.fairness, known)
        _check_log(self)
        check_directions(self.model, self.features)
        return self


def _check_roles(pipeline: Tabular) -> None:
    """Refuse sources that cannot be the request's or the label's."""
    names = [source.name for source in pipeline.sources]
    for field, name in (("request", pipeline.request), ("label.source", pipeline.label.source)):
        if name not in names:
            raise DeclarationError(
                field,
                name,
                f"{name!r} is no source of the pipeline; sources are {', '.join(names)}",
            )
        _check_role(field, pipeline.source(name), pipeline.entity)

    if pipeline.request == pipeline.label.source:
        raise DeclarationError(
            "request",
            pipeline.request,
            f"{pipeline.request!r} is also the label's source; "
            "what is predicted must land in a source of its own",
        )
    keys = pipeline.request_source.keys
    if keys != (pipeline.entity,):
        raise DeclarationError(
            "entity",
            pipeline.entity,
            f"source {pipeline.request!r} has keys {', '.join(keys)}; "
            f"the request's only key must be the entity {pipeline.entity!r}",
        )


def _check_role(field: str, source: Source, entity: str) -> None:
    if entity not in source.columns:
        raise DeclarationError(
            "entity",
            entity,
            f"{entity!r} is no column of {field} {source.name!r}; "
            f"its columns are {', '.join(source.columns)}",
        )
    if not source.daily:
        raise DeclarationError(
            field,
            source.name,
            f"source {source.name!r} lands once; "
            "what is predicted and what became of it must land daily",
        )


def _check_durations(pipeline: Tabular) -> None:
    durations = {
        "lead": pipeline.lead,
        "refresh": pipeline.refresh,
        "label.matures_after": pipeline.label.matures_after,
    }
    for field, value in durations.items():
        if value < timedelta(0):
            raise DeclarationError(
                field, value, f"{field}={value} is negative; give a duration of zero or more"
            )


def _check_log(pipeline: Tabular) -> None:
    """Refuse a log without what labels, fairness or the split of the traffic need."""
    request, columns, log = pipeline.request_source, pipeline.request_columns, pipeline.log
    groups = [group.column for group in pipeline.fairness]
    check_omitted(log, request, columns, pipeline.entity, groups)

    check_split("release.split_by", pipeline.release.split_by, request, columns, log)
    for each in pipeline.experiments:
        field = f"experiments.{each.name}.split_by"
        check_split(field, each.split_by, request, columns, log)


def _digest(node: Expression) -> bytes:
    return msgspec.json.encode(node)
