"""What an engineer declares: a pipeline. `pipelines.lifecycle` turns it into the whole asset graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Literal

import msgspec
from pydantic import Field, model_validator

from assets.data.source import EVENT_TIME, RESERVED, Source, SourceColumn
from assets.declared import Declared
from assets.monitoring.options import Monitors
from assets.release.options import ReleasePolicy
from assets.retraining.options import RetrainingPolicy
from assets.training.options import LogisticRegression, Split, XGBoost
from assets.validation.options import Fairness, Gates
from bundle.expression import (
    Column, Expression, Feature, Join, Literal as LiteralNode, Operation, Rolling, natural_name, walk,
)  # fmt: skip

Risk = Literal["minimal", "limited", "high"]


class Label(Declared):
    """What is predicted: a condition over the rows of one source; null where the condition is null.

    `matures_after` is how long after the day of the event the label is normally known; a label counts only once its
    row's `known_at` lies in the past of the moment it is used for.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    condition: Expression
    source: str
    matures_after: timedelta = timedelta(days=1)

    def __init__(self, name: str, condition: Expression, **fields: object) -> None:
        super().__init__(name=name, condition=condition, **fields)


class Pipeline(Declared):
    """One ML use case with its whole lifecycle.

    `request` names the source whose rows are predicted: its columns are what an application sends. `entity` is its key.
    A prediction is made `lead` before a row's `event_time`. Rolling aggregates are refreshed once a day, `refresh` after
    midnight in `timezone`, and see what was known then.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    owner: str = Field(pattern=r"^(team:.+|[^@\s]+@[^@\s]+)$")
    purpose: str = Field(min_length=10)
    risk: Risk
    start: date
    end: date | None = None
    timezone: str = "UTC"
    sources: tuple[Source, ...] = Field(min_length=2)
    request: str
    entity: str
    lead: timedelta = timedelta(hours=1)
    refresh: timedelta = timedelta(hours=4)
    label: Label
    features: tuple[Feature, ...] = Field(min_length=1)
    model: XGBoost = XGBoost()
    baseline: LogisticRegression = LogisticRegression()
    split: Split = Split()
    slices: tuple[str, ...] = ()
    fairness: tuple[Fairness, ...] = ()
    gates: Gates = Gates()
    release: ReleasePolicy = ReleasePolicy()
    monitors: Monitors = Monitors()
    retraining: RetrainingPolicy = RetrainingPolicy()
    nightly: str = "0 5 * * *"

    def __init__(self, **fields: object) -> None:
        for name in ("sources", "slices", "fairness"):
            if isinstance(fields.get(name), list):
                fields[name] = tuple(fields[name])  # type: ignore[arg-type]
        features = fields.get("features")
        if isinstance(features, Sequence):
            fields["features"] = tuple(_as_feature(feature, index) for index, feature in enumerate(features))
        super().__init__(**fields)

    def source(self, name: str) -> Source:
        for source in self.sources:
            if source.name == name:
                return source
        raise ValueError(f"{name!r} is no source of pipeline {self.name!r}; sources are {', '.join(s.name for s in self.sources)}")

    @property
    def request_source(self) -> Source:
        return self.source(self.request)

    @property
    def request_columns(self) -> dict[str, SourceColumn]:
        """Columns that an application sends, by name (with `event_time`)."""
        return {name: column for name, column in self.request_source.columns.items() if column.known == "before"}

    @property
    def joins(self) -> tuple[Join, ...]:
        return tuple({_digest(node): node for node in self._nodes() if isinstance(node, Join)}.values())

    @property
    def aggregates(self) -> tuple[Rolling, ...]:
        return tuple({_digest(node): node for node in self._nodes() if isinstance(node, Rolling)}.values())

    def join_keys(self, join: Join) -> tuple[tuple[str, str], ...]:
        """Pairs (column of the source, column of the request) by which a join finds its row."""
        source = self.source(join.source)
        if join.on:
            return tuple(zip(source.keys, join.on, strict=False))
        return tuple((key, key) for key in source.keys if key in self.request_columns)

    def _nodes(self) -> Iterator[Expression]:
        for feature in self.features:
            yield from walk(feature.expression)

    @model_validator(mode="after")
    def _fits_together(self) -> Pipeline:
        _unique("source", [source.name for source in self.sources])
        _unique("feature", [feature.name for feature in self.features])
        self.request_source
        label_source = self.source(self.label.source)
        if self.request == self.label.source:
            raise ValueError(f"request={self.request!r} is also the label's source; what is predicted must land in a source of its own")
        for field, source in (("request", self.request_source), ("label.source", label_source)):
            if self.entity not in source.columns:
                raise ValueError(f"entity={self.entity!r} is no column of {field} {source.name!r}; its columns are {', '.join(source.columns)}")
        if self.request_source.keys != (self.entity,):
            raise ValueError(f"source {self.request!r} has keys {self.request_source.keys}; the request's key must be the entity ({self.entity!r},)")
        if not self.request_source.daily or not label_source.daily:
            raise ValueError(f"sources {self.request!r} and {label_source.name!r} must land daily, not once")
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end={self.end} lies before start={self.start}")
        for field, value in (("lead", self.lead), ("refresh", self.refresh), ("label.matures_after", self.label.matures_after)):
            if value < timedelta(0):
                raise ValueError(f"{field}={value} is negative; give a duration of zero or more")
        if self.risk == "high" and self.release.approvals < 1:
            raise ValueError("release.approvals=0 with risk='high'; a high-risk pipeline needs at least one human approval")
        for node in walk(self.label.condition):
            if isinstance(node, (Join, Rolling)):
                raise ValueError(f"label {self.label.name!r} uses {type(node).__name__.lower()}; a label reads columns of its own source alone")
            if isinstance(node, Column) and node.name not in label_source.columns:
                raise ValueError(_unknown(f"label {self.label.name!r}", node.name, label_source))
        for feature in self.features:
            self._check_feature(feature)
        known = {feature.name for feature in self.features} | set(self.request_columns)
        for field, columns in (("slices", self.slices), ("fairness", tuple(group.column for group in self.fairness))):
            for column in columns:
                if column not in known:
                    raise ValueError(f"{field}: {column!r} is neither a feature nor a request column; known are {', '.join(sorted(known))}")
        return self

    def _check_feature(self, feature: Feature) -> None:
        where = f"feature {feature.name!r}"
        if feature.name in RESERVED | {self.entity, self.label.name}:
            raise ValueError(f"{where} has a reserved name; {', '.join(sorted(RESERVED | {self.entity, self.label.name}))} are taken")
        for node in walk(feature.expression):
            match node:
                case Column(name=name) if name != EVENT_TIME:
                    if name == self.label.name or (name in self.source(self.label.source).columns and name not in self.request_source.columns):
                        raise ValueError(
                            f"{where} reads {name!r}, which is known only with the label; "
                            f"use an aggregate over earlier facts, such as rate({name!r}, by=..., over=days(7))"
                        )
                    if name not in self.request_source.columns:
                        raise ValueError(_unknown(where, name, self.request_source))
                    if self.request_source.columns[name].known == "after":
                        raise ValueError(f"{where} reads {name!r}, which is not known when the prediction is made; known are {', '.join(self.request_columns)}")
                case Join(source=name, column=column, within=within):
                    source = self.source(name)
                    if name in (self.request, self.label.source):
                        raise ValueError(f"{where} joins {name!r}; join other sources, and use aggregates over facts of the label's source")
                    if column not in source.columns:
                        raise ValueError(_unknown(where, column, source))
                    keys = self.join_keys(node)
                    if not keys or len(node.on) > len(source.keys):
                        raise ValueError(f"{where}: join({name!r}) needs on=, request columns that hold its keys ({', '.join(source.keys)})")
                    for _, column in keys:
                        if column not in self.request_columns:
                            raise ValueError(_unknown(f"{where}: join({name!r}, on=...)", column, self.request_source))
                    if within is not None and within <= 0:
                        raise ValueError(f"{where}: join({name!r}, within={within}s) is not positive; give the greatest age that still counts")
                case Rolling():
                    self._check_aggregate(where, node)
                case LiteralNode() | Operation():
                    pass
                case _:
                    pass

    def _check_aggregate(self, where: str, node: Rolling) -> None:
        if node.days < 1:
            raise ValueError(f"{where}: window of {node.days} days; give a positive number of days")
        source = self.source(node.source or self.label.source)
        joined = set(self.request_columns) if self.entity in source.columns else set()
        for name in node.by:
            if name not in self.request_columns:
                raise ValueError(_unknown(f"{where}: by=", name, self.request_source))
            if name not in source.columns and name not in joined:
                raise ValueError(f"{where}: by={name!r} cannot be found for rows of source {source.name!r}")
        for inner in walk(node.value):
            if isinstance(inner, (Join, Rolling)):
                raise ValueError(f"{where}: aggregates read columns of facts, not {type(inner).__name__.lower()}")
            if isinstance(inner, Column) and inner.name != self.label.name and inner.name not in source.columns and inner.name not in joined:
                raise ValueError(_unknown(where, inner.name, source))
            if isinstance(inner, Column) and inner.name == self.label.name and source.name != self.label.source:
                raise ValueError(f"{where}: {inner.name!r} is a fact of source {self.label.source!r}, not of {source.name!r}")


def _as_feature(feature: object, index: int) -> object:
    if isinstance(feature, Expression):
        name = natural_name(feature)
        if name is None:
            raise ValueError(f"features[{index}] has no name of its own; write it as (...).named('...')")
        return feature.named(name)
    return feature


def _unique(what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{what} {name!r} is declared {names.count(name)} times; names must differ")


def _unknown(where: str, column: str, source: Source) -> str:
    return f"{where} names column {column!r}, which source {source.name!r} does not have; it has {', '.join(source.columns)}"


def _digest(node: Expression) -> bytes:
    return msgspec.json.encode(node)
