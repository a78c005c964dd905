"""What features may read: the words of `bundle.features`, held against a pipeline's sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bundle.features.expression import (
    Column,
    Expression,
    Feature,
    Join,
    Rolling,
    natural_name,
    walk,
)
from declare.base import DeclarationError
from declare.label import Label
from declare.source import EVENT_TIME, RESERVED, Source, SourceColumn, unknown_column


def as_feature(feature: object) -> object:
    """An expression with a name of its own as a feature. Anything else stays, to be refused."""
    if not isinstance(feature, Expression):
        return feature
    name = natural_name(feature)
    return feature if name is None else feature.named(name)


def check_named(features: object) -> None:
    """Refuse expressions without a name, and what is no feature at all."""
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
                f"features[{index}] is {feature!r}, no feature; "
                "write col('...'), category('...') or another expression",
            )


def sent(request: Source) -> dict[str, SourceColumn]:
    """Columns of the request that are known when the prediction is made, by name."""
    return {name: column for name, column in request.columns.items() if column.known == "before"}


def join_keys(join: Join, source: Source, request: Source) -> tuple[tuple[str, str], ...]:
    """Pairs (column of the source, column of the request) by which a join finds its row."""
    if join.on:
        return tuple(zip(source.keys, join.on, strict=False))
    known = sent(request)
    return tuple((key, key) for key in source.keys if key in known)


@dataclass(frozen=True)
class Readable:
    """All that features may refer to. `check` refuses a feature that reads anything else."""

    sources: Sequence[Source]
    request: Source
    label: Label
    entity: str

    def check(self, feature: Feature) -> None:
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

    def _source(self, field: str, name: str, where: str) -> Source:
        for source in self.sources:
            if source.name == name:
                return source
        names = ", ".join(source.name for source in self.sources)
        raise DeclarationError(
            field, name, f"{where} {name!r}, which is no source; sources are {names}"
        )

    @property
    def _outcomes(self) -> Source:
        return next(each for each in self.sources if each.name == self.label.source)

    def _check_column(self, where: str, field: str, name: str) -> None:
        columns = self.request.columns
        told_later = name in self._outcomes.columns and name not in columns
        if name == self.label.name or told_later:
            raise DeclarationError(
                field,
                name,
                f"{where} reads {name!r}, which is known only with the label; use an aggregate "
                f"over earlier facts, such as rate({name!r}, by=..., over=days(7))",
            )
        if name not in columns:
            raise DeclarationError(field, name, unknown_column(where, name, self.request))
        if columns[name].known == "after":
            raise DeclarationError(
                field,
                name,
                f"{where} reads {name!r}, which is not known when the prediction is made; "
                f"known are {', '.join(sent(self.request))}",
            )

    def _check_join(self, where: str, field: str, node: Join) -> None:
        source = self._source(field, node.source, f"{where} joins")
        if source.name in (self.request.name, self.label.source):
            raise DeclarationError(
                field,
                node.source,
                f"{where} joins {node.source!r}; join other sources, "
                "and use aggregates over facts of the label's source",
            )
        if node.column not in source.columns:
            raise DeclarationError(field, node.column, unknown_column(where, node.column, source))

        self._check_keys(f"{where}: join({node.source!r}", field, node, source)
        if node.within is not None and node.within <= 0:
            raise DeclarationError(
                field,
                node.within,
                f"{where}: join({node.source!r}, within={node.within}s) is not positive; "
                "give the greatest age that still counts",
            )

    def _check_keys(self, join: str, field: str, node: Join, source: Source) -> None:
        keys = join_keys(node, source, self.request)
        if len(keys) != len(source.keys) or len(node.on) > len(source.keys):
            raise DeclarationError(
                field,
                list(node.on),
                f"{join}) needs on=, the request columns that hold its keys "
                f"({', '.join(source.keys)})",
            )
        for _, column in keys:
            if column not in sent(self.request):
                raise DeclarationError(
                    field, column, unknown_column(f"{join}, on=...)", column, self.request)
                )

    def _check_aggregate(self, where: str, field: str, node: Rolling) -> None:
        if node.days < 1:
            raise DeclarationError(
                field,
                node.days,
                f"{where} has a window of {node.days} days; "
                "give a positive number of days, such as over=days(7)",
            )
        source = self._source(field, node.source or self.label.source, f"{where} aggregates")
        # Rows of a source that holds the entity find the request's columns through it.
        joined = set(sent(self.request)) if self.entity in source.columns else set()

        for name in node.by:
            self._check_group(where, field, name, source, joined)
        for inner in walk(node.value):
            self._check_fact(where, field, inner, source, joined)

    def _check_group(
        self, where: str, field: str, name: str, source: Source, joined: set[str]
    ) -> None:
        if name not in sent(self.request):
            raise DeclarationError(field, name, unknown_column(f"{where}: by=", name, self.request))
        if name not in source.columns and name not in joined:
            raise DeclarationError(
                field,
                name,
                f"{where}: by={name!r} cannot be found for rows of source {source.name!r}; "
                f"group by {', '.join(source.columns)}",
            )

    def _check_fact(
        self, where: str, field: str, node: Expression, source: Source, joined: set[str]
    ) -> None:
        if isinstance(node, (Join, Rolling)):
            word = type(node).__name__.lower()
            raise DeclarationError(
                field, word, f"{where}: aggregates read columns of facts, not {word}"
            )
        if not isinstance(node, Column):
            return
        if node.name == self.label.name:
            if source.name != self.label.source:
                raise DeclarationError(
                    field,
                    node.name,
                    f"{where}: {node.name!r} is a fact of source {self.label.source!r}, "
                    f"not of {source.name!r}",
                )
        elif node.name not in source.columns and node.name not in joined:
            raise DeclarationError(field, node.name, unknown_column(where, node.name, source))
