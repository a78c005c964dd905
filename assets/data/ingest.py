"""From landed files to stored raw rows: parse, judge by the contract, refuse or store."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from assets.data import contract
from assets.data.contract import DELIVERED_UNTIL, Judgement
from assets.data.deliveries import delivery_digest
from assets.data.digest import combined_digest, content_digest, digests_by_day
from assets.data.parse import Landed, parse
from assets.data.quarantine import accepted, quarantined
from assets.data.redelivery import with_new_versions
from assets.names import DAY, local_moment, quarantine_table, raw_table
from declare.source import DATE, EVENT_TIME, KNOWN_AT, Source
from resources.landing import ONCE

if TYPE_CHECKING:
    import polars as pl

    from declare.pipeline import Pipeline
    from resources.lake import Lake
    from resources.landing import Landing

# How many days after the day of the event a delivery is due.
DUE = {"the day before": -1, "on the day": 0, "the day after": 1, "once": 0}


class RefusedBatchError(ValueError):
    """A batch breaks its contract beyond the declared share; nothing of it was written."""


class Figures(NamedTuple):
    """A day's batch (day None: of a source that lands once).

    Rows landed, broken ones among them, those that came after they were due with the longest delay
    in days, files, the digest of what is stored, and the number of its rows.
    """

    day: date | None
    rows: int
    broken: int
    late: int
    latest: int
    files: int
    digest: str
    stored: int


class Examined(NamedTuple):
    """Batches, parsed and judged, not yet stored.

    `deliveries` names the files that each day's rows came from by one digest (day None: of a source
    that lands once). `refused` says why nothing of them may be stored; None: they may be.
    """

    source: Source
    deliveries: Mapping[date | None, str]
    rows: pl.DataFrame
    broken: pl.DataFrame
    judgement: Judgement
    figures: tuple[Figures, ...]
    refused: str | None

    @property
    def digest(self) -> str:
        """Digest of the stored content of all days."""
        return combined_digest([day.digest for day in self.figures])

    @property
    def days(self) -> list[date]:
        return [figures.day for figures in self.figures if figures.day is not None]


def collect(
    pipeline: Pipeline, source: Source, days: Sequence[date], landing: Landing
) -> list[Landed]:
    """Verified files of the delivery days (for a source that lands once, `days` do not matter).

    Raises FileNotFoundError for a day without a complete delivery, and LandingError for files that
    are not what their sidecars say.
    """
    if not source.daily:
        once = landing.once(pipeline.name, source.name)
        if not once:
            place = landing.place(pipeline.name, source.name, None)
            raise FileNotFoundError(
                f"source {source.name!r} has not landed in {place}; land its file and sidecar"
            )
        return [
            Landed(None, delivery.name, landing.read(pipeline.name, source.name, None, delivery))
            for delivery in once
        ]

    deliveries = landing.deliveries(pipeline.name, source.name, days)
    missing = [day for day in days if day not in deliveries]
    if missing:
        place = landing.place(pipeline.name, source.name, missing[0])
        raise FileNotFoundError(
            f"source {source.name!r}: {len(missing)} of {len(days)} days have not landed, "
            f"the first is {missing[0]} ({place}); land them (a delivery without rows is a file "
            "with its header alone) or choose other days"
        )

    landed = []
    for day, found in deliveries.items():
        for delivery in found:
            content = landing.read(pipeline.name, source.name, day, delivery)
            landed.append(Landed(day, delivery.name, content))
    return landed


def examine(
    pipeline: Pipeline, source: Source, landed: Sequence[Landed], days: Sequence[date]
) -> Examined:
    """Parse and judge the batches of all days in one pass.

    Raises ValueError for files that are no table of the source.
    """
    parsed = parse(source, landed)
    rows = parsed.rows
    if source.daily:
        rows = rows.with_columns(_delivered_until(pipeline.timezone))
    judgement = contract.judge(source, rows)
    stored = accepted(parsed, judgement.reasons).sort([EVENT_TIME, *source.keys, KNOWN_AT])

    batches: list[date | None] = [*sorted(days)] if source.daily else [None]
    examined = Examined(
        source=source,
        deliveries=_deliveries(landed, batches),
        rows=stored,
        broken=quarantined(source, parsed, judgement.reasons),
        judgement=judgement,
        figures=_figures(pipeline, source, landed, batches, parsed.rows, stored, judgement),
        refused=None,
    )
    return examined._replace(refused=_refusal(examined))


def _deliveries(landed: Sequence[Landed], batches: Sequence[date | None]) -> dict[date | None, str]:
    """One digest for the files of each batch."""
    read: dict[date | None, list[str]] = {day: [] for day in batches}
    for file in landed:
        read[file.day].append(hashlib.sha256(file.content).hexdigest())
    return {day: delivery_digest(digests) for day, digests in read.items()}


def _figures(
    pipeline: Pipeline,
    source: Source,
    landed: Sequence[Landed],
    batches: Sequence[date | None],
    rows: pl.DataFrame,
    stored: pl.DataFrame,
    judgement: Judgement,
) -> tuple[Figures, ...]:
    """The figures of each batch, of `rows` that landed and those of them that are `stored`."""
    counts = _counts(rows)
    broken = contract.broken_by_day(rows, judgement.reasons)
    late = _lateness(pipeline, source, stored)
    files = Counter(file.day for file in landed)
    digests = _digests(stored, batches)

    figures = []
    for day in batches:
        late_rows, latest = late.get(day, (0, 0))
        figures.append(
            Figures(
                day=day,
                rows=counts.get(day, 0),
                broken=broken.get(day, 0),
                late=late_rows,
                latest=latest,
                files=files[day],
                digest=digests[day],
                stored=counts.get(day, 0) - broken.get(day, 0),
            )
        )
    return tuple(figures)


def _digests(rows: pl.DataFrame, batches: Sequence[date | None]) -> dict[date | None, str]:
    """The content digest of each batch's rows."""
    days = [day for day in batches if day is not None]
    return dict(digests_by_day(rows, days).items()) if days else {None: content_digest(rows)}


def with_history(pipeline: Pipeline, examined: Examined, lake: Lake) -> Examined:
    """The batches with the rows that are stored of them already: a redelivery appends versions.

    What a redelivery tells anew is known from the day after the newest stored one on, so that no
    partition that has been computed changes.
    """
    import polars as pl

    source, place = examined.source, raw_table(pipeline.name, examined.source.name)
    if not lake.exists(place):
        return examined

    moment = local_moment(_newest_day(pipeline, lake) + DAY, pipeline.timezone)
    marks = lake.marks(place)

    def merged(day: date | None, delivered: pl.DataFrame, stored: pl.DataFrame) -> pl.DataFrame:
        same = examined.deliveries[day] in marks.get(_mark(day), ())
        return with_new_versions(source, stored, delivered, moment, same=same)

    if not source.daily:
        stored = lake.read(place).select(examined.rows.columns)
        return _with_rows(examined, merged(None, examined.rows, stored))

    again = sorted(set(lake.days(place)) & set(examined.days))
    if not again:
        return examined

    stored = lake.scan(place, again[0], again[-1]).select(examined.rows.columns).collect()
    parts = [examined.rows.filter(~pl.col(DATE).is_in(again))]
    for day in again:
        of_day = pl.col(DATE) == day
        parts.append(merged(day, examined.rows.filter(of_day), stored.filter(of_day)))
    return _with_rows(examined, pl.concat(parts))


def _with_rows(examined: Examined, rows: pl.DataFrame) -> Examined:
    """The batches with other rows to store."""
    counts = _counts(rows)
    digests = _digests(rows, [each.day for each in examined.figures])
    figures = tuple(
        each._replace(digest=digests[each.day], stored=counts.get(each.day, 0))
        for each in examined.figures
    )
    ordered = rows.sort([EVENT_TIME, *examined.source.keys, KNOWN_AT])
    return examined._replace(rows=ordered, figures=figures)


def _newest_day(pipeline: Pipeline, lake: Lake) -> date:
    """The newest stored day of any source: no prediction of a later day has been computed."""
    daily = (source for source in pipeline.sources if source.daily)
    stored = (lake.days(raw_table(pipeline.name, source.name)) for source in daily)
    return max(chain.from_iterable(stored), default=pipeline.start)


def _mark(day: date | None) -> str:
    return ONCE if day is None else day.isoformat()


def store(pipeline: Pipeline, examined: Examined, lake: Lake) -> None:
    """Write examined batches: broken rows to quarantine, then the accepted ones.

    Each of the two tables is written in one commit.
    Raises RefusedBatchError for batches that may not be stored.
    """
    if examined.refused is not None:
        raise RefusedBatchError(examined.refused)
    source, place = examined.source, raw_table(pipeline.name, examined.source.name)
    aside = quarantine_table(pipeline.name, source.name)
    if not source.daily:
        if examined.broken.height or lake.exists(aside):
            lake.overwrite(aside, examined.broken)
        lake.overwrite(place, examined.rows)
        lake.mark(place, {ONCE: examined.deliveries[None]})
        return

    days = examined.days
    # Most batches are clean: what was set aside before is replaced only where something was.
    set_aside = set(examined.broken.get_column(DATE).to_list())
    before = set(lake.days(aside)) & set(days)
    if set_aside | before:
        lake.write(aside, examined.broken, sorted(set_aside | before))
    lake.write(place, examined.rows, days)
    lake.mark(place, {_mark(day): examined.deliveries[day] for day in days})


def ingest(
    pipeline: Pipeline, source: Source, days: Sequence[date], landing: Landing, lake: Lake
) -> Examined:
    """Collect, examine and store in one go. Raises what these raise."""
    examined = examine(pipeline, source, collect(pipeline, source, days, landing), days)
    if examined.refused is None:
        examined = with_history(pipeline, examined, lake)
    store(pipeline, examined, lake)
    return examined


def _refusal(examined: Examined) -> str | None:
    """Why the batches may not be stored, None where they may."""
    source = examined.source
    beyond = [
        figures
        for figures in examined.figures
        if figures.broken > source.refuses_above * figures.rows
    ]
    if not beyond:
        return None

    worst = max(beyond, key=lambda figures: figures.broken / figures.rows)
    others = f" (and {len(beyond) - 1} other days)" if len(beyond) > 1 else ""
    batch = f"the batch of {worst.day}{others}" if worst.day else "the batch"
    share = worst.broken / worst.rows
    reason, count = Counter(examined.broken.get_column("reason").to_list()).most_common(1)[0]
    first = examined.broken.row(0, named=True)
    return (
        f"source {source.name!r}: {batch} is refused whole, nothing was written: "
        f"{worst.broken} of {worst.rows} rows ({share:.1%}) break the contract, "
        f"at most {source.refuses_above:.1%} may. Most often: {reason} ({count} rows); "
        f"first: file {first['file']!r}, row {first['row']}: {first['reason']}. "
        "Correct the files and deliver them again, or change the declaration."
    )


def _counts(rows: pl.DataFrame) -> dict[date | None, int]:
    """Number of rows by delivery day."""
    if DATE not in rows.columns:
        return {None: rows.height}
    return dict(rows.group_by(DATE).len().iter_rows())


def _lateness(
    pipeline: Pipeline, source: Source, rows: pl.DataFrame
) -> dict[date | None, tuple[int, int]]:
    """Late rows and their longest delay in days, by delivery day.

    Corrections of earlier rows count as late.
    """
    import polars as pl

    if not source.daily:
        return {}

    happened = pl.col(EVENT_TIME).dt.convert_time_zone(pipeline.timezone).dt.date()
    due = happened + timedelta(days=DUE[source.lands])
    delay = (pl.col(DATE) - due).dt.total_days()
    late = rows.group_by(DATE).agg(
        (delay > 0).sum().alias("late"), delay.max().clip(0).alias("latest")
    )
    return {day: (count, latest) for day, count, latest in late.iter_rows()}


def _delivered_until(timezone: str) -> pl.Expr:
    """The end of the delivery day: nothing in a delivery can have been known after it."""
    import polars as pl

    end = (
        (pl.col(DATE) + timedelta(days=1))
        .cast(pl.Datetime("us"))
        .dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null")
    )
    return end.dt.convert_time_zone("UTC").alias(DELIVERED_UNTIL)
