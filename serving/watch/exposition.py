"""The text of `/metrics`: the shared counters of all workers through `prometheus_client`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from bundle.records.service import BOUNDS
from serving.watch.families import FAMILIES, OUTPUT_BOUNDS, SHOWN_LATENCIES, Family
from serving.watch.regions import Labels, Region

Value = tuple[str, Labels, float]
"""A gauge that is read when it is asked for: family, labels, value."""

_PREFIX = "evergreen_"


def text(regions: Sequence[Region], known: Iterable[Value]) -> str:
    """Text exposition format 0.0.4 of all regions added up, and of the gauges in `known`."""
    for region in regions:
        region.follow()

    # A registry of its own: the library's default one adds metrics of the Python process.
    registry = CollectorRegistry()
    registry.register(_Collector(regions, list(known)))

    return generate_latest(registry).decode()


class _Collector(Collector):
    """Every family, with the numbers of this moment."""

    def __init__(self, regions: Sequence[Region], known: Sequence[Value]) -> None:
        self._regions, self._known = regions, known

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not watch for names that clash, there is one collector."""
        return ()

    def collect(self) -> Iterator[Metric]:
        for name, family in FAMILIES.items():
            yield _metric(name, family, self._values(name))

    def _values(self, name: str) -> dict[Labels, list[float]]:
        """Numbers of a family by labels, added up over the workers."""
        totals = {labels: [float(value)] for of, labels, value in self._known if of == name}

        for region in self._regions:
            for labels, values in region.values(name).items():
                earlier = totals.get(labels)
                totals[labels] = values if earlier is None else _sums(earlier, values)

        return totals


def _metric(name: str, family: Family, values: dict[Labels, list[float]]) -> Metric:
    named = f"{_PREFIX}{name}"
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(named, family.help, labels=family.labels)
        for labels, (*counts, total) in sorted(values.items()):
            histogram.add_metric(labels, _buckets(counts), total)
        return histogram

    of = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = of(named, family.help, labels=family.labels)
    for labels, (value,) in sorted(values.items()):
        metric.add_metric(labels, value)
    return metric


def _buckets(counts: Sequence[float]) -> list[tuple[str, float]]:
    """Upper bounds, as text, with cumulative counts; `counts` are those of single buckets."""
    latencies = len(counts) == len(BOUNDS)
    bounds = BOUNDS if latencies else OUTPUT_BOUNDS
    shown = SHOWN_LATENCIES if latencies else range(len(OUTPUT_BOUNDS))
    cumulative = list(accumulate(counts))

    buckets = [(f"{bounds[place]:.6g}", cumulative[place]) for place in shown]
    return [*buckets, ("+Inf", cumulative[-1])]


def _sums(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip(one, other, strict=True)]
