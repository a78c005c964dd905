"""Features: equal to pandas on the year of flights, and one day in a fraction of a second.

`python -m benchmarks.features` measures the year of `flight_delays` (part of `make bench`). With
`--tiles 100` it computes 33 million rows instead, the year with every flight 100 times
(`make bench-rows`, several minutes).
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.names import DAY
from benchmarks.figures import Figure, conclude

if TYPE_CHECKING:
    import polars as pl

    from assets.tabular.features.versions import Reader
    from bundle.features.online import Snapshot
    from declare.tabular import Tabular

MINUTES_LIMIT, MEMORY_LIMIT_GB = 3.0, 4.0
DAY_LIMIT_S, DIFFERENCE_LIMIT = 0.3, 1e-9


def main() -> int:
    """0 when every figure keeps its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=0, help="tile the year so often, and time it")
    parser.add_argument("--place", type=Path, help="folder for the data; kept, and used again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = options.place or Path(temporary)
        store_year(place)
        if not options.tiles:
            return conclude(in_process(year, place))

        in_process(store_tiles, place, options.tiles)
        return conclude(in_process(tiled, place, options.tiles))


def in_process(function: Any, *arguments: Any) -> Any:
    """Run in a process of its own: its peak memory is that of the function."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(
            f"{function.__name__} ended without a result, exit code {process.exitcode};"
            " see its output above"
        ) from None
    finally:
        process.join()


def _send(sender: Any, function: Any, arguments: tuple[Any, ...]) -> None:
    sender.send(function(*arguments))


def store_year(place: Path) -> None:
    """The deliveries of the year as the feed lands them, one Parquet file a source and day."""
    from assets.data.parse import Landed, parse
    from pipelines.flight_delays import pipeline
    from pipelines.flight_delays.feed import Feed

    if (place / "year").exists():
        return
    landing, year_ = place / "landing", place / "year.part"
    feed = Feed(str(landing))
    feed.land_once()
    for offset in range((feed.last - feed.first).days + 1):
        feed.land(feed.first + offset * DAY)
    for source in pipeline.sources:
        files = sorted(landing.rglob(f"{source.name}/*/*.csv"))
        landed = [
            Landed(
                None if file.parent.name == "once" else date.fromisoformat(file.parent.name),
                file.name,
                file.read_bytes(),
            )
            for file in files
        ]
        rows = parse(source, landed).rows
        rows = rows.drop(name for name in rows.columns if name.startswith("_"))
        (year_ / source.name).mkdir(parents=True)
        for day, part in rows.group_by("date") if source.daily else [((None,), rows)]:
            part.write_parquet(year_ / source.name / f"{day[0] or 'once'}.parquet")
    year_.rename(place / "year")


def store_tiles(place: Path, tiles: int) -> None:
    """The year with every flight `tiles` times, each with an identity of its own."""
    import polars as pl

    target = place / f"tiles-{tiles}"
    if target.exists():
        return
    part = place / f"tiles-{tiles}.part"
    copies = pl.DataFrame({"_copy": [f"-{copy:03d}" for copy in range(tiles)]})
    for source in ("schedule", "outcomes"):
        (part / source).mkdir(parents=True, exist_ok=True)
        for file in sorted((place / "year" / source).glob("*.parquet")):
            rows = (
                pl.read_parquet(file)
                .join(copies, how="cross")
                .with_columns(pl.col("flight_id") + pl.col("_copy"))
                .drop("_copy")
            )
            rows.write_parquet(part / source / file.name, compression="lz4", statistics=True)
    part.rename(target)


def reader(*folders: Path) -> Reader:
    """Raw rows by day of delivery, from the first folder that has the source."""
    import polars as pl

    def read(source: str, first: date | None, last: date | None) -> pl.LazyFrame:
        folder = next(folder / source for folder in folders if (folder / source).exists())
        files = sorted(
            file
            for file in folder.glob("*.parquet")
            if file.stem == "once"
            or (
                (first is None or file.stem >= str(first))
                and (last is None or file.stem <= str(last))
            )
        )
        return (
            pl.scan_parquet(files or sorted(folder.glob("*.parquet"))[:1])
            if files
            else pl.scan_parquet(sorted(folder.glob("*.parquet"))[0]).clear()
        )

    return read


def year(place: Path) -> list[Figure]:
    """The year against the pandas reference, and one day alone."""
    from assets.tabular.features.point_in_time import features, labels
    from assets.tabular.features.snapshot import snapshot
    from pipelines.flight_delays import pipeline
    from tests.support import features_reference

    read = reader(place / "year")
    days = [pipeline.start + offset * DAY for offset in range(365)]
    features(pipeline, days[:2], read)
    seconds, computed = timed(lambda: features(pipeline, days, read))
    raw = {
        source.name: read(source.name, None, None).collect().to_pandas()
        for source in pipeline.sources
    }
    slow, expected = timed(lambda: features_reference.reference(pipeline, raw, days))
    names = [
        "flight_id",
        "event_time",
        "known_at",
        "inputs_known_at",
        *(feature.name for feature in pipeline.features),
    ]
    difference = max(features_reference.compared(expected, computed.to_pandas(), names).values())
    one_early = min(timed(lambda: features(pipeline, [days[40]], read))[0] for _ in range(5))
    one_late = min(timed(lambda: features(pipeline, [days[-1]], read))[0] for _ in range(5))
    snapshot_seconds, _ = timed(lambda: snapshot(pipeline, days[-1], read))
    labels_seconds, _ = timed(lambda: labels(pipeline, read, days[0], days[-1], days[-1]))
    print(
        f"year: {computed.height:,} rows in {seconds:.1f} s; pandas reference {slow:.0f} s"
        f" ({slow / seconds:.0f} x); largest relative difference {difference:.1e}"
    )
    print(
        f"one day: {one_early:.3f} s on day 41, {one_late:.3f} s on day 365;"
        f" snapshot {snapshot_seconds:.2f} s; labels of the year {labels_seconds:.2f} s"
    )
    row = microseconds_a_row(pipeline, computed, snapshot(pipeline, days[-1], read), read)
    print(
        f"one request, {len(pipeline.features)} features: {row:.1f} µs of CPU"
        " (plain Python, parsing of its time included)"
    )
    return [
        Figure("year of features: largest difference to pandas", difference, DIFFERENCE_LIMIT),
        Figure("features of one day, day 365", one_late, DAY_LIMIT_S, "s"),
    ]


def microseconds_a_row(
    pipeline: Tabular, table: pl.DataFrame, online: Snapshot, read: Reader
) -> float:
    """CPU time of one row of the model from one request, the fastest of 30 rounds."""
    from assets.tabular.features.declared_program import program
    from bundle.features.row import compile_row

    function = compile_row(program(pipeline).fit(table))
    rows = (
        read(pipeline.request, None, None).collect().tail(500).drop("date", "known_at").to_dicts()
    )
    requests = [{**row, "event_time": row["event_time"].isoformat()} for row in rows]

    def once() -> float:
        begin = time.process_time()
        for request in requests:
            function(request, online)
        return (time.process_time() - begin) / len(requests) * 1e6

    return min(once() for _ in range(30))


def tiled(place: Path, tiles: int) -> list[Figure]:
    """The tiled year, block by block, each written to a Parquet file."""
    import polars as pl

    from assets.tabular.features.point_in_time import feature_blocks
    from pipelines.flight_delays import pipeline

    read = reader(place / f"tiles-{tiles}", place / "year")
    days = [pipeline.start + offset * DAY for offset in range(365)]
    out = place / "features.parquet"
    begin, rows, written = time.perf_counter(), 0, 0.0
    for _, block in feature_blocks(pipeline, days, read):
        rows += block.height
        seconds, _ = timed(lambda block=block: block.write_parquet(out, compression="lz4"))
        written += seconds
    wall = time.perf_counter() - begin
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = usage.ru_maxrss * 1024 / 1e9
    cpu = usage.ru_utime + usage.ru_stime
    print(
        f"{rows:,} rows in {wall:.0f} s ({written:.0f} s of it writing Parquet; {cpu:.0f} s CPU),"
        f" peak {peak:.2f} GB, {pl.thread_pool_size()} threads"
    )
    return [
        Figure(f"features of {rows:,} rows", wall / 60, MINUTES_LIMIT, "min"),
        Figure("peak memory", peak, MEMORY_LIMIT_GB, "GB"),
    ]


def timed(function: Any) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


if __name__ == "__main__":
    sys.exit(main())
