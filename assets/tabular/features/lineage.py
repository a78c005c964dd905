"""What features are made of.

Which sources, which of their columns, and how many days of deliveries.
"""

from __future__ import annotations

import math

from assets.names import DAY
from assets.tabular.features.declared_program import program
from assets.tabular.features.versions import EARLY
from bundle.features.expression import Column, Expression, Join, Rolling, walk
from declare.source import EVENT_TIME, KNOWN_AT
from declare.tabular import Tabular


def delivery_days(pipeline: Tabular) -> dict[str, int | None]:
    """How many days of deliveries before its own a partition reads, for each source of features.

    None for a source that lands once and is read whole.
    """
    made = program(pipeline)
    early, lead = EARLY // DAY, math.ceil(pipeline.lead / DAY)
    days = {pipeline.request: early}
    for node in made.aggregates:
        # The predictions of a day may use the refresh of the day before.
        reach = node.days + lead + math.ceil(pipeline.refresh / DAY) + early
        days[node.source] = max(days.get(node.source, 0), reach)
        if not set(node.by) | _columns(node.value) <= {
            *pipeline.source(node.source).columns,
            EVENT_TIME,
        }:
            days[pipeline.request] = max(days[pipeline.request], reach + 1)
    for lookup in made.lookups:
        if lookup.kind == "latest":
            days[lookup.source] = max(
                days.get(lookup.source, 0),
                lead + math.ceil((lookup.within or 0) / DAY.total_seconds()) + early,
            )
    read = [source for source in pipeline.sources if source.name in days]
    return {source.name: days[source.name] if source.daily else None for source in read}


def column_lineage(pipeline: Tabular) -> dict[str, list[tuple[str, str]]]:
    """For each column of the feature table the (source, column) pairs that it is made of."""
    request = pipeline.request
    lineage = {name: [(request, name)] for name in pipeline.request_columns}
    lineage |= {EVENT_TIME: [(request, EVENT_TIME)], KNOWN_AT: [(request, EVENT_TIME)]}
    for feature in program(pipeline).features:
        found: dict[tuple[str, str], None] = {}
        for node in walk(feature.expression):
            for pair in _read(pipeline, node):
                found[pair] = None
        lineage[feature.name] = list(found)
    return lineage


def _read(pipeline: Tabular, node: Expression) -> list[tuple[str, str]]:
    match node:
        case Column(name=name):
            return [(pipeline.request, name)]
        case Join(source=source, column=column):
            keys = pipeline.join_keys(node)
            return [
                (source, column),
                *((source, theirs) for theirs, _ in keys),
                *((pipeline.request, ours) for _, ours in keys),
            ]
        case Rolling(source=source, value=value, by=by):
            own = {*pipeline.source(source).columns, EVENT_TIME}
            facts = [
                (source if name in own else pipeline.request, name)
                for name in [*sorted(_columns(value)), *by]
            ]
            return [*facts, *((pipeline.request, name) for name in by)]
        case _:
            return []


def _columns(tree: Expression) -> set[str]:
    return {node.name for node in walk(tree) if isinstance(node, Column)}
