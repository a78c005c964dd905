"""What an engineer declares: a pipeline. `pipelines.lifecycle` turns it into the whole asset graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from pydantic import Field, field_validator, model_validator

from bundle.desired import NOT_PIPELINES
from bundle.features.expression import (
    Category,
    Column,
    Expression,
    Feature,
    Join,
    Rolling,
    natural_name,
    walk,
)
from declare.base import DeclarationError, Declared
from declare.monitoring import LogPolicy, Monitors
from declare.release import Experiment, ReleasePolicy
from declare.retraining import RetrainingPolicy
from declare.source import EVENT_TIME, RESERVED, Source, SourceColumn
from declare.training import AnyModel, Directed, LogisticRegression, Split, XGBoost
from declare.validation import Fairness, Gates

Risk = Literal["minimal", "limited", "high"]


class Label(Declared):
    """What is predicted: a condition over the rows of one source; null where the condition is null.

    A label counts only once it is mature: `matures_after` has passed since its event, and its row's
    `known_at` lies in the past of the moment it is used for. Outcomes that are told early for some
    rows and late for others (a loan that defaults, say) need a `matures_after` by which nearly all
    are told; where outcomes come all at once, zero is right.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    condition: Expression
    source: str
    matures_after: timedelta = timedelta(0)

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
    model: AnyModel = XGBoost()
    baseline: LogisticRegression = LogisticRegression()
    split: Split = Split()
    slices: tuple[str, ...] = ()
    fairness: tuple[Fairness, ...] = ()
    gates: Gates = Gates()
    release: ReleasePolicy = ReleasePolicy()
    experiments: tuple[Experiment, ...] = ()
    log: LogPolicy = LogPolicy()
    monitors: Monitors = Monitors()
    retraining: RetrainingPolicy = RetrainingPolicy()
    nightly: str = "0 5 * * *"

    def __init__(self, **fields: object) -> None:
        for name in ("sources", "slices", "fairness", "experiments"):
            if isinstance(fields.get(name), list):
                fields[name] = tuple(fields[name])  # type: ignore[arg-type]
        features = fields.get("features")
        if isinstance(features, Sequence):
            fields["features"] = tuple(map(_as_feature, features))
        super().__init__(**fields)

    @field_validator("features", mode="before")
    @classmethod
    def _all_named(cls, features: object) -> object:
        for index, feature in enumerate(features if isinstance(features, tuple) else ()):
            if isinstance(feature, Expression):
                raise DeclarationError(
                    str(index),
                    None,
                    f"features[{index}] has no name of its own; write it as (...).named('...')",
                )
            if not isinstance(feature, Feature):
                raise DeclarationError(
                    str(index),
                    feature,
                    f"features[{index}] is {feature!r}, no feature; write col('...'), category('...') or another expression",
                )
        return features

    def source(self, name: str) -> Source:
        for source in self.sources:
            if source.name == name:
                return source
        raise ValueError(
            f"{name!r} is no source of pipeline {self.name!r}; sources are {', '.join(s.name for s in self.sources)}"
        )

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
        return {
            name: column
            for name, column in self.request_source.columns.items()
            if column.known == "before"
        }

    @property
    def joins(self) -> tuple[Join, ...]:
        return tuple(
            {_digest(node): node for node in self._nodes() if isinstance(node, Join)}.values()
        )

    @property
    def aggregates(self) -> tuple[Rolling, ...]:
        return tuple(
            {_digest(node): node for node in self._nodes() if isinstance(node, Rolling)}.values()
        )

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
        if self.name in NOT_PIPELINES:
            raise DeclarationError(
                "name",
                self.name,
                f"{self.name!r} is a folder of every endpoint; names that are taken so are {', '.join(sorted(NOT_PIPELINES))}",
            )
        _unique("sources", "source", [source.name for source in self.sources])
        _unique("features", "feature", [feature.name for feature in self.features])
        _unique("slices", "slice", list(self.slices))
        _unique("fairness", "fairness group", [group.column for group in self.fairness])
        _unique("experiments", "experiment", [experiment.name for experiment in self.experiments])
        self._check_sources()
        self._check_times()
        self._check_label()
        for feature in self.features:
            self._check_feature(feature)
        self._check_groups()
        self._check_split()
        self._check_log()
        self._check_directions()
        return self

    def _check_sources(self) -> None:
        names = ", ".join(source.name for source in self.sources)
        for field, name in (("request", self.request), ("label.source", self.label.source)):
            if name not in {source.name for source in self.sources}:
                raise DeclarationError(
                    field, name, f"{name!r} is no source of the pipeline; sources are {names}"
                )
        request, label = self.request_source, self.source(self.label.source)
        if self.request == self.label.source:
            raise DeclarationError(
                "request",
                self.request,
                f"{self.request!r} is also the label's source; what is predicted must land in a source of its own",
            )
        for field, source in (("request", request), ("label.source", label)):
            if self.entity not in source.columns:
                raise DeclarationError(
                    "entity",
                    self.entity,
                    f"{self.entity!r} is no column of {field} {source.name!r}; its columns are {', '.join(source.columns)}",
                )
            if not source.daily:
                raise DeclarationError(
                    field,
                    source.name,
                    f"source {source.name!r} lands once; what is predicted and what became of it must land daily",
                )
        if request.keys != (self.entity,):
            raise DeclarationError(
                "entity",
                self.entity,
                f"source {self.request!r} has keys {', '.join(request.keys)}; the request's only key must be the entity {self.entity!r}",
            )

    def _check_times(self) -> None:
        if self.end is not None and self.end < self.start:
            raise DeclarationError(
                "end",
                self.end,
                f"end={self.end} lies before start={self.start}; give a later day, or None for no end",
            )
        for field, value in (
            ("lead", self.lead),
            ("refresh", self.refresh),
            ("label.matures_after", self.label.matures_after),
        ):
            if value < timedelta(0):
                raise DeclarationError(
                    field, value, f"{field}={value} is negative; give a duration of zero or more"
                )
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise DeclarationError(
                "timezone",
                self.timezone,
                f"{self.timezone!r} is no timezone; give an IANA name such as 'UTC' or 'America/New_York'",
            ) from None
        if self.risk == "high" and self.release.approvals < 1:
            raise DeclarationError(
                "release.approvals",
                self.release.approvals,
                "release.approvals=0 with risk='high'; a high-risk pipeline needs at least one human approval",
            )

    def _check_label(self) -> None:
        source = self.source(self.label.source)
        for node in walk(self.label.condition):
            if isinstance(node, (Join, Rolling)):
                raise DeclarationError(
                    "label.condition",
                    type(node).__name__.lower(),
                    f"label {self.label.name!r} uses {type(node).__name__.lower()}; a label reads columns of its own source alone",
                )
            if isinstance(node, Column) and node.name not in source.columns:
                raise DeclarationError(
                    "label.condition",
                    node.name,
                    _unknown(f"label {self.label.name!r}", node.name, source),
                )

    def _check_groups(self) -> None:
        known = {feature.name for feature in self.features} | set(self.request_columns)
        for field, columns in (
            ("slices", self.slices),
            ("fairness", tuple(group.column for group in self.fairness)),
        ):
            for column in columns:
                if column not in known:
                    raise DeclarationError(
                        field,
                        column,
                        f"{column!r} is neither a feature nor a request column; known are {', '.join(sorted(known))}",
                    )
        for gate, declared, what in (
            ("max_slice_gap", self.slices, "slices"),
            ("max_fairness_gap", self.fairness, "fairness"),
        ):
            limit = getattr(self.gates, gate)
            if gate in self.gates.model_fields_set and limit is not None and not declared:
                raise DeclarationError(
                    f"gates.{gate}",
                    limit,
                    f"gates.{gate}={limit} is a gate over {what}, and the pipeline declares none; declare {what}=[...] or leave the gate out",
                )

    def _check_log(self) -> None:
        for column in self.log.omit:
            if column in (self.entity, EVENT_TIME):
                raise DeclarationError(
                    "log.omit",
                    column,
                    f"log.omit names {column!r}, by which predictions find their labels and their day; "
                    "leave it in the log, and send pseudonyms as entities where that matters",
                )
            if column not in self.request_columns:
                raise DeclarationError(
                    "log.omit", column, _unknown("log.omit", column, self.request_source)
                )
        for group in self.fairness:
            if group.column in self.log.omit:
                raise DeclarationError(
                    "log.omit",
                    group.column,
                    f"log.omit names {group.column!r}, by which fairness is monitored live; leave it in the log, or declare no fairness of it",
                )
        if self.log.retention < timedelta(days=1):
            raise DeclarationError(
                "log.retention",
                self.log.retention,
                f"log.retention={self.log.retention} is shorter than a day; give a day or more",
            )

    def _check_split(self) -> None:
        splits = {"release.split_by": self.release.split_by} | {
            f"experiments.{each.name}.split_by": each.split_by for each in self.experiments
        }
        for field, column in splits.items():
            if column is not None and column not in self.request_columns:
                raise DeclarationError(field, column, _unknown(field, column, self.request_source))
            if column in self.log.omit:
                raise DeclarationError(
                    field,
                    column,
                    f"{field} names {column!r}, which log.omit keeps out of the log; callers are counted by it, so leave it in",
                )

    def _check_directions(self) -> None:
        if not isinstance(self.model, Directed):
            return
        numeric = [
            feature.name
            for feature in self.features
            if not isinstance(feature.expression, Category)
        ]
        for field, names in (
            ("model.increasing", self.model.increasing),
            ("model.decreasing", self.model.decreasing),
        ):
            for name in names:
                if name not in numeric:
                    raise DeclarationError(
                        field,
                        name,
                        f"{name!r} is no numeric feature; numeric are {', '.join(numeric)}",
                    )
                if name in self.model.increasing and name in self.model.decreasing:
                    raise DeclarationError(
                        field,
                        name,
                        f"{name!r} stands in model.increasing and in model.decreasing; leave it in one of them",
                    )

    def _check_feature(self, feature: Feature) -> None:
        where, field = f"feature {feature.name!r}", f"features.{feature.name}"
        for node in walk(feature.expression):
            match node:
                case Column(name=name) if name != EVENT_TIME:
                    self._check_column(where, field, name)
                case Join():
                    self._check_join(where, field, node)
                case Rolling():
                    self._check_aggregate(where, field, node)
                case _:
                    pass
        reserved = RESERVED | {self.entity, self.label.name}
        if feature.name in reserved:
            raise DeclarationError(
                field,
                feature.name,
                f"{where} has a reserved name; {', '.join(sorted(reserved))} are taken",
            )

    def _check_column(self, where: str, field: str, name: str) -> None:
        request = self.request_source
        if name == self.label.name or (
            name in self.source(self.label.source).columns and name not in request.columns
        ):
            raise DeclarationError(
                field, name,
                f"{where} reads {name!r}, which is known only with the label; use an aggregate over earlier facts, such as rate({name!r}, by=..., over=days(7))",
            )  # fmt: skip
        if name not in request.columns:
            raise DeclarationError(field, name, _unknown(where, name, request))
        if request.columns[name].known == "after":
            raise DeclarationError(
                field,
                name,
                f"{where} reads {name!r}, which is not known when the prediction is made; known are {', '.join(self.request_columns)}",
            )

    def _check_join(self, where: str, field: str, node: Join) -> None:
        if node.source not in {source.name for source in self.sources}:
            raise DeclarationError(
                field,
                node.source,
                f"{where} joins {node.source!r}, which is no source; sources are {', '.join(source.name for source in self.sources)}",
            )
        if node.source in (self.request, self.label.source):
            raise DeclarationError(
                field,
                node.source,
                f"{where} joins {node.source!r}; join other sources, and use aggregates over facts of the label's source",
            )
        source = self.source(node.source)
        if node.column not in source.columns:
            raise DeclarationError(field, node.column, _unknown(where, node.column, source))
        keys = self.join_keys(node)
        if len(keys) != len(source.keys) or len(node.on) > len(source.keys):
            raise DeclarationError(
                field,
                list(node.on),
                f"{where}: join({node.source!r}) needs on=, the request columns that hold its keys ({', '.join(source.keys)})",
            )
        for _, column in keys:
            if column not in self.request_columns:
                raise DeclarationError(
                    field,
                    column,
                    _unknown(
                        f"{where}: join({node.source!r}, on=...)", column, self.request_source
                    ),
                )
        if node.within is not None and node.within <= 0:
            raise DeclarationError(
                field,
                node.within,
                f"{where}: join({node.source!r}, within={node.within}s) is not positive; give the greatest age that still counts",
            )

    def _check_aggregate(self, where: str, field: str, node: Rolling) -> None:
        if node.days < 1:
            raise DeclarationError(
                field,
                node.days,
                f"{where} has a window of {node.days} days; give a positive number of days, such as over=days(7)",
            )
        name = node.source or self.label.source
        if name not in {source.name for source in self.sources}:
            raise DeclarationError(
                field,
                name,
                f"{where} aggregates {name!r}, which is no source; sources are {', '.join(source.name for source in self.sources)}",
            )
        source = self.source(name)
        joined = set(self.request_columns) if self.entity in source.columns else set()
        for name in node.by:
            if name not in self.request_columns:
                raise DeclarationError(
                    field, name, _unknown(f"{where}: by=", name, self.request_source)
                )
            if name not in source.columns and name not in joined:
                raise DeclarationError(
                    field,
                    name,
                    f"{where}: by={name!r} cannot be found for rows of source {source.name!r}; group by {', '.join(source.columns)}",
                )
        for inner in walk(node.value):
            if isinstance(inner, (Join, Rolling)):
                raise DeclarationError(
                    field,
                    type(inner).__name__.lower(),
                    f"{where}: aggregates read columns of facts, not {type(inner).__name__.lower()}",
                )
            if not isinstance(inner, Column):
                continue
            if inner.name == self.label.name and source.name != self.label.source:
                raise DeclarationError(
                    field,
                    inner.name,
                    f"{where}: {inner.name!r} is a fact of source {self.label.source!r}, not of {source.name!r}",
                )
            if (
                inner.name != self.label.name
                and inner.name not in source.columns
                and inner.name not in joined
            ):
                raise DeclarationError(field, inner.name, _unknown(where, inner.name, source))


def _as_feature(feature: object) -> object:
    """An expression with a name of its own as a feature. Others stay as they are, for validation to refuse."""
    name = natural_name(feature) if isinstance(feature, Expression) else None
    return feature.named(name) if isinstance(feature, Expression) and name is not None else feature


def _unique(field: str, what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DeclarationError(
                field,
                name,
                f"{what} {name!r} is declared {names.count(name)} times; names must differ",
            )


def _unknown(where: str, column: str, source: Source) -> str:
    return f"{where} names column {column!r}, which source {source.name!r} does not have; it has {', '.join(source.columns)}"


def _digest(node: Expression) -> bytes:
    return msgspec.json.encode(node)
