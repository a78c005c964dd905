"""The measured figures as Markdown tables, and which of the limits they keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.figures import Figure

OURS, FLOOR, USUAL_FLOOR = "evergreen", "hello", "hello, uvicorn"
Results = Mapping[str, Mapping[str, Any]]
# Cases of every server; behind a colon is the encoding, where there are several.
ONE, MANY, LARGE = "1 row, c=8", "100 rows JSON", "10,000 rows JSON"
WORKERS_LIMIT = 1.8
NOT_MEASURED = "not measured"
BINARY = ("100 rows binary", "10,000 rows binary")


def tables(results: Results) -> str:
    """All tables; what was not measured is a dash, and said below."""
    if not results:
        return "Nothing was measured yet."
    found = [_one_row(results), _batches(results), _cost(results), _wanted(results)]
    failed = [
        f"- {name}, {case}: {each['errors']:.0f} of {each['answered']:.0f}"
        for name, figures in _measured(results)
        for case, each in figures["cases"].items()
        if each["errors"]
    ]
    if failed:
        found.append("Requests that failed:\n\n" + "\n".join(failed))
    missing = [
        f"- {name}: {each['unavailable']}"
        for name, each in results.items()
        if "unavailable" in each
    ]
    if missing:
        found.append("Not measured:\n\n" + "\n".join(missing))
    return "\n\n".join(found)


def in_encodings(figures: Mapping[str, Any], case: str) -> list[tuple[float, str]]:
    """Requests a second of a case in each of a server's encodings, the fastest first.

    With the encoding's name where it has one.
    """
    found = [
        (each["a_second"], name.partition(": ")[2])
        for name, each in figures.get("cases", {}).items()
        if name.partition(": ")[0] == case
    ]
    return sorted(found, reverse=True)


def rate(results: Results, name: str, case: str) -> float | None:
    """Requests a second of a case in the fastest of a server's encodings."""
    found = in_encodings(results.get(name, {}), case)
    return found[0][0] if found else None


def _one_row(results: Results) -> str:
    lines = [
        "One row of JSON, one worker. Requests a second at 1, 8 and 64 connections; "
        "p50 / p99 in ms at 8; p99 at half of the most.",
        "",
        "| server | c=1 | c=8 | c=64 | p50 / p99 | p99 at half load | evergreen / it |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, figures in _measured(results):
        cases = figures["cases"]
        eight = cases.get(ONE, {})
        half = cases.get("half load")
        lines.append(
            f"| {name} | {_number(rate(results, name, '1 row, c=1'))} "
            f"| {_number(rate(results, name, ONE))} "
            f"| {_number(rate(results, name, '1 row, c=64'))} "
            f"| {_latency(eight, 'p50_ms')} / {_latency(eight, 'p99_ms')} | {_half(half)} "
            f"| {_ratio(results, name, ONE)} |"
        )
    return "\n".join(lines)


def _batches(results: Results) -> str:
    lines = [
        "Batches, requests a second in each encoding: 100 rows at 8 connections, 10,000 rows at 2.",
        "",
        "| server | 100 rows JSON | 100 rows binary | 10,000 rows JSON | 10,000 rows binary |",
        "|---|---|---|---|---|",
    ]
    for name, figures in _measured(results):
        if name in (FLOOR, USUAL_FLOOR):
            continue
        cells = []
        for case in (MANY, BINARY[0], LARGE, BINARY[1]):
            each = [
                f"{_number(a_second)}{f' ({named})' if named else ''}"
                for a_second, named in in_encodings(figures, case)
            ]
            cells.append(", ".join(each) or "–")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cost(results: Results) -> str:
    lines = [
        "Start (process to first answer), memory of all processes after single rows and after "
        "batches, CPU time of one row.",
        "",
        "| server | set-up | start s | RSS MB, single rows | RSS MB | PSS MB | CPU µs |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, figures in _measured(results):
        lines.append(
            f"| {name} | {figures['says']} | {figures['start_seconds']:.2f} "
            f"| {figures['single_rss_mb']:.0f} | {figures['rss_mb']:.0f} "
            f"| {figures['pss_mb']:.0f} "
            f"| {figures['cases'].get(ONE, {}).get('cpu_us', 0):.0f} |"
        )
    return "\n".join(lines)


def _wanted(results: Results) -> str:
    """What is wanted, what was measured, whether it is reached."""
    lines = ["| wanted | measured | reached |", "|---|---|---|"]
    for figure in figures(results):
        shown = "–"
        if figure.value is not None:
            shown = f"{figure.value:.2f}" if figure.value < 100 else f"{figure.value:,.0f}"
        reached = {None: figure.unjudged, True: "yes", False: "no"}[figure.kept]
        lines.append(f"| {figure.name} | {shown} | {reached} |")
    ours = results.get(OURS, {})
    two = ours.get("two_workers")
    if two is not None:
        how = (
            "client on a core of its own"
            if two["client_apart"]
            else "the client shares their cores, so only CPU time tells"
        )
        lines += [
            "",
            f"Two workers ({how}): {two['a_second']:,.0f} requests a second, "
            f"{two['cpu_us']:.1f} µs of CPU a request against {two['one_cpu_us']:.1f} µs with "
            "one.",
        ]
    logged = ours.get("missing")
    if logged is not None:
        lines += [
            "",
            f"Of {ours['answered']:,} answers that the client counted with one worker, {logged} "
            "are missing in the prediction log.",
        ]
    return "\n".join(lines)


def figures(results: Results) -> list[Figure]:
    """What is judged of the endpoint and its peers. What was not measured is not judged."""

    def against(name: str, case: str = ONE) -> float | None:
        ours, theirs = rate(results, OURS, case), rate(results, name, case)
        return ours / theirs if ours and theirs else None

    def best_peer(case: str) -> float | None:
        peers = [name for name in results if name not in (OURS, FLOOR, USUAL_FLOOR)]
        ratios = [found for name in peers if (found := against(name, case)) is not None]
        return min(ratios, default=None)

    ours = results.get(OURS, {})
    half = ours.get("cases", {}).get("half load")
    found = [
        _at_least("one row, 8 connections: ≥ 10 × MLServer", against("mlserver"), 10),
        _at_least("≥ 20 × BentoML", against("bentoml"), 20),
        _at_least("≥ 70 × mlflow", against("mlflow"), 70),
        _at_least("≥ 0.6 × hello on uvicorn as it is", against(USUAL_FLOOR), 0.6),
    ]
    batches = [
        _at_least(f"{case}: ≥ 1.5 × the best peer", best_peer(case), 1.5)
        for case in (MANY, LARGE, *BINARY)
    ]
    return [
        *found,
        *batches,
        _at_most("p99 at half load ≤ 5 ms", half["p99_ms"] if half else None, 5, "ms"),
        _at_most("start with a verified bundle ≤ 3 s", ours.get("start_seconds"), 3, "s"),
        _at_most("memory with single rows ≤ 300 MB (RSS)", ours.get("single_rss_mb"), 300, "MB"),
        _at_most("memory after batches ≤ 300 MB (RSS)", ours.get("rss_mb"), 300, "MB"),
        *of_two_workers(ours.get("two_workers")),
    ]


def of_two_workers(two: Mapping[str, Any] | None) -> list[Figure]:
    """What two workers do for one: by CPU time, and by requests a second where that tells.

    It does not with fewer than three cores: the client takes away what is measured.
    """
    apart = two is not None and two["client_apart"]
    by_cpu = 2 * two["one_cpu_us"] / two["cpu_us"] if two else None
    return [
        Figure(
            "two workers ≥ 1.8 × one, requests a second",
            two["ratio"] if two is not None and apart else None,
            WORKERS_LIMIT,
            "x",
            at_least=True,
            unjudged="the client needs a third core" if two and not apart else NOT_MEASURED,
        ),
        _at_least("two workers ≥ 1.8 × one, by CPU time", by_cpu, WORKERS_LIMIT),
    ]


def _at_least(name: str, value: float | None, limit: float) -> Figure:
    return Figure(name, value, limit, "x", at_least=True, unjudged=NOT_MEASURED)


def _at_most(name: str, value: float | None, limit: float, unit: str) -> Figure:
    return Figure(name, value, limit, unit, unjudged=NOT_MEASURED)


def _measured(results: Results) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, figures) for name, figures in results.items() if "cases" in figures)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _latency(figures: Mapping[str, float], which: str) -> str:
    return f"{figures[which]:.2f}" if which in figures else "–"


def _half(figures: Mapping[str, float] | None) -> str:
    return "–" if figures is None else f"{figures['p99_ms']:.2f} ms at {figures['a_second']:,.0f}"


def _ratio(results: Results, name: str, case: str) -> str:
    ours, theirs = rate(results, OURS, case), rate(results, name, case)
    if name == OURS or ours is None or not theirs:
        return "–"
    return f"{ours / theirs:.1f}" if ours > theirs else f"{ours / theirs:.2f}"
