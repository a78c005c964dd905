"""From a declaration to its feature program.

Every join and aggregate resolved to the lookup that finds it.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache

import msgspec

from bundle.features.checking import Types, show
from bundle.features.expression import Column, Feature, Join, Node, Rolling, as_node, mapped
from bundle.features.operators import Type
from bundle.features.program import (  # fmt: skip
    TYPE_OF_KIND,
    FeatureProgram,
    Kind,
    Lookup,
    RequestColumn,
    aggregate_name,
    aggregate_table,
    latest_table,
    lookup_name,
    value_name,
)
from declare.source import EVENT_TIME
from declare.tabular import Tabular

# How long a row of a daily source counts for a join without `within`: a feature must not have to
# read all history.
JOIN_HORIZON = timedelta(days=35)


def program(pipeline: Tabular) -> FeatureProgram:
    """The feature program of a pipeline, without vocabularies.

    Raises ValueError, naming the feature and the part, where an expression mixes types (text +
    number).
    """
    return _programs(_Identity(pipeline))


def definition(program: FeatureProgram) -> str:
    """Digest of what a program was declared to compute, whatever vocabularies it learned."""
    return msgspec.structs.replace(program, vocabularies={}).digest


def check_label(pipeline: Tabular) -> None:
    """Raises ValueError where the label is no condition over its source's columns."""
    try:
        found = Types(columns(pipeline, pipeline.label.source)).of(pipeline.label.condition)
    except ValueError as error:
        raise ValueError(f"label {pipeline.label.name!r}: {error}") from error
    if found != "boolean":
        raise ValueError(
            f"label {pipeline.label.name!r}: {show(pipeline.label.condition)} is no condition; "
            "write one, such as col('x') >= 1"
        )


def columns(pipeline: Tabular, source: str) -> dict[str, Type]:
    """Types of the columns of a source's rows, as expressions read them."""
    types = {
        name: TYPE_OF_KIND[column.kind] for name, column in pipeline.source(source).columns.items()
    }
    return {**types, EVENT_TIME: "datetime"}


def fact_columns(pipeline: Tabular, source: str) -> dict[str, Type]:
    """Types of the columns of a source's facts.

    Its own, and the request's where the entity leads to them.
    """
    own = columns(pipeline, source)
    if pipeline.entity not in own:
        return own
    return {
        **{name: TYPE_OF_KIND[column.kind] for name, column in pipeline.request_columns.items()},
        **own,
    }


class _Identity:
    """A pipeline as a cache key.

    Declarations are frozen, but hold dictionaries and have no hash.
    """

    def __init__(self, pipeline: Tabular) -> None:
        self.pipeline = pipeline

    def __hash__(self) -> int:
        return id(self.pipeline)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.pipeline is self.pipeline


@lru_cache(maxsize=32)
def _programs(identity: _Identity) -> FeatureProgram:
    pipeline = identity.pipeline
    check_label(pipeline)
    lookups: dict[str, Lookup] = {}
    features = []
    for feature in pipeline.features:
        try:
            features.append(Feature(feature.name, _resolve(pipeline, feature.expression, lookups)))
        except ValueError as error:
            raise ValueError(f"feature {feature.name!r}: {error}") from error
    request = {
        name: RequestColumn(column.kind, column.nullable, name not in pipeline.log.omit)
        for name, column in pipeline.request_columns.items()
    }
    made = FeatureProgram(
        pipeline=pipeline.name,
        timezone=pipeline.timezone,
        entity=pipeline.entity,
        lead_seconds=int(pipeline.lead.total_seconds()),
        refresh_seconds=int(pipeline.refresh.total_seconds()),
        request={EVENT_TIME: RequestColumn("datetime"), **request},
        features=tuple(features),
        lookups=tuple(lookups.values()),
    )
    made.check()
    return made


def _resolve(pipeline: Tabular, node: Node, lookups: dict[str, Lookup]) -> Node:
    """The tree with joins and aggregates spelled out; adds what they look up to `lookups`."""
    if isinstance(node, Join):
        return _resolve_join(pipeline, node, lookups)
    if isinstance(node, Rolling):
        return _resolve_aggregate(pipeline, node, lookups)
    return mapped(node, lambda operand: _resolve(pipeline, operand, lookups))


def _resolve_join(pipeline: Tabular, node: Join, lookups: dict[str, Lookup]) -> Join:
    source = pipeline.source(node.source)
    pairs = pipeline.join_keys(node)
    within = (
        node.within
        if node.within is not None or not source.daily
        else int(JOIN_HORIZON.total_seconds())
    )
    resolved = Join(node.source, node.column, tuple(name for _, name in pairs), within)
    for theirs, ours in pairs:
        kinds = (
            columns(pipeline, node.source)[theirs],
            TYPE_OF_KIND[pipeline.request_columns[ours].kind],
        )
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"join({node.source!r}) compares its {theirs!r} (a {kinds[0]}) with the request's "
                f"{ours!r} (a {kinds[1]}); name columns of one type"
            )
    keys = tuple(name for name, _ in pairs)
    template = Lookup(
        lookup_name(resolved),
        latest_table(node.source, keys),
        "latest",
        node.source,
        resolved.on,
        keys,
        (),
        (),
        within,
    )
    _add(lookups, template, value_name(resolved), source.columns[node.column].kind)
    return resolved


def _resolve_aggregate(pipeline: Tabular, node: Rolling, lookups: dict[str, Lookup]) -> Rolling:
    source = node.source or pipeline.label.source
    value = _with_label(pipeline, node.value) if source == pipeline.label.source else node.value
    types = fact_columns(pipeline, source)
    found = Types(types).of(value)
    what = f"{node.function}({show(node.value)})"
    if node.function == "rate" and found != "boolean":
        raise ValueError(
            f"{what} is no share: it needs a condition, such as col('x') >= 1; use mean() for a "
            "number"
        )
    if node.function not in ("rate", "count") and found not in ("number", "boolean"):
        raise ValueError(f"{what} needs a number, not {found}")
    resolved = Rolling(node.function, value, node.by, node.days, source)
    for name in node.by:
        if pipeline.request_columns[name].kind == "float":
            raise ValueError(
                f"{what} is grouped by {name!r}, a float; equality of floats is no key, use text "
                "or an integer"
            )
        if types[name] != TYPE_OF_KIND[pipeline.request_columns[name].kind]:
            raise ValueError(
                f"{what} is grouped by {name!r}, which is a {types[name]} in {source!r} and "
                "another type in the request"
            )
    table = aggregate_table(source, node.by)
    _add(
        lookups,
        Lookup(table, table, "aggregate", source, node.by, node.by, (), ()),
        aggregate_name(resolved),
        "float",
    )
    return resolved


def _with_label(pipeline: Tabular, node: Node) -> Node:
    """The tree with the label's name replaced by its condition."""
    if isinstance(node, Column) and node.name == pipeline.label.name:
        condition: Node = as_node(pipeline.label.condition)
        return condition
    return mapped(node, lambda operand: _with_label(pipeline, operand))


def _add(lookups: dict[str, Lookup], template: Lookup, value: str, kind: Kind) -> None:
    lookup = lookups.get(template.name, template)
    if value not in lookup.values:
        lookup = msgspec.structs.replace(
            lookup, values=(*lookup.values, value), kinds=(*lookup.kinds, kind)
        )
    lookups[template.name] = lookup
