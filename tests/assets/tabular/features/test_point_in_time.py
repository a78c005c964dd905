"""Features, snapshots and labels see what was known, and nothing else."""

from __future__ import annotations

from datetime import date, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assets.tabular.features.declared_program import program
from assets.tabular.features.lineage import delivery_days
from assets.tabular.features.moments import refresh
from assets.tabular.features.point_in_time import feature_blocks, features, labels
from assets.tabular.features.snapshot import snapshot
from assets.tabular.features.versions import Reader
from bundle.features.online import Snapshot
from bundle.features.row import compile_row
from declare.tabular import Tabular
from tests.support import features_reference, orders as support
from tests.support.orders import FIRST, LAST, Frames, orders

DAY = timedelta(days=1)
DAYS = [FIRST + offset * DAY for offset in range((LAST - FIRST).days + 1)]
rich = Tabular(
    **{
        **{name: getattr(orders, name) for name in Tabular.model_fields},
        "features": [*orders.features, support.rich],
    }
)


def reading(
    frames: Frames, asked: list[tuple[str, date | None, date | None]] | None = None
) -> Reader:
    def read(source: str, first: date | None, last: date | None) -> pl.LazyFrame:
        if asked is not None:
            asked.append((source, first, last))
        rows = frames[source].lazy()
        if first is not None:
            rows = rows.filter(pl.col("date") >= first)
        return rows if last is None else rows.filter(pl.col("date") <= last)

    return read


@cache
def data() -> Frames:
    return support.frames()


@cache
def whole() -> pl.DataFrame:
    return features(orders, DAYS, reading(data()))


def test_features_equal_the_slow_reference() -> None:
    computed = whole().to_pandas()
    expected = features_reference.reference(
        orders, {name: frame.to_pandas() for name, frame in data().items()}, DAYS
    )
    names = [
        "order_id",
        "event_time",
        "known_at",
        "inputs_known_at",
        *(feature.name for feature in orders.features),
    ]
    differences = features_reference.compared(expected, computed, names)
    assert max(differences.values()) < 1e-12
    # The data set has what it is meant to have: entities on two days, corrections, gaps.
    assert computed["order_id"].duplicated().any()
    assert computed["rain"].isna().mean() > computed["rain_any_age"].isna().mean() > 0
    assert len(set(computed.groupby("date").size())) > 1


def slow_to_mature(matures_after: timedelta) -> Tabular:
    fields = {name: getattr(orders, name) for name in type(orders).model_fields}
    label = orders.label.model_copy(update={"matures_after": matures_after})
    return type(orders)(**{**fields, "label": label})


def test_features_over_labels_use_mature_labels_alone() -> None:
    slow = slow_to_mature(timedelta(days=3, hours=5))
    computed = features(slow, DAYS, reading(data())).to_pandas()
    expected = features_reference.reference(
        slow, {name: frame.to_pandas() for name, frame in data().items()}, DAYS
    )
    names = ["order_id", "inputs_known_at", *(feature.name for feature in slow.features)]
    differences = features_reference.compared(expected, computed, names)
    assert max(differences.values()) < 1e-12
    # What reads labels differs from what they would be at once; what reads none does not.
    at_once = whole().to_pandas()
    assert not computed["late_rate_7d"].equals(at_once["late_rate_7d"])
    assert computed["rain"].equals(at_once["rain"])


def test_a_label_counts_from_its_maturity_on() -> None:
    event, matures_after = date(2024, 3, 4), timedelta(days=5)
    slow = slow_to_mature(matures_after)
    known = {
        as_of: labels(slow, reading(data()), event, event, as_of)
        for as_of in (event + offset * DAY for offset in range(4, 8))
    }
    assert [frame.height > 0 for frame in known.values()] == [False, True, True, True]
    for as_of, frame in known.items():
        assert (frame["event_time"] + matures_after <= refresh(slow, as_of)).all()
    # Those of the late evening are not mature by the refresh of the fifth day, but by that of the sixth.
    assert known[event + 5 * DAY].height < known[event + 6 * DAY].height
    everything = labels(orders, reading(data()), event, event, event + 7 * DAY)
    assert known[event + 7 * DAY].equals(everything)


def test_a_day_alone_equals_the_day_in_the_whole_whatever_the_order_of_rows() -> None:
    shuffled = {
        name: frame.sample(fraction=1, shuffle=True, seed=3) for name, frame in data().items()
    }
    for day in (FIRST, date(2024, 3, 9), date(2024, 3, 10), date(2024, 3, 11), LAST):
        assert features(orders, [day], reading(shuffled)).equals(
            whole().filter(pl.col("date") == day)
        ), day


def test_of_versions_known_at_the_same_moment_always_the_same_one_counts() -> None:
    def doubled(frame: pl.DataFrame) -> pl.DataFrame:
        other = [
            (pl.col(name) + index).alias(name)
            for index, (name, kind) in enumerate(frame.schema.items(), 1)
            if kind.is_float()
        ]
        return pl.concat([frame, frame.with_columns(other)]) if other else frame

    frames = {name: doubled(frame) for name, frame in data().items()}
    days = DAYS[8:14]
    first, second = (
        features(
            orders,
            days,
            reading(
                {
                    name: frame.sample(fraction=1, shuffle=True, seed=seed)
                    for name, frame in frames.items()
                }
            ),
        )
        for seed in (1, 2)
    )
    assert first.equals(second)
    assert not first.equals(whole().filter(pl.col("date").is_in(days)))


def test_one_row_a_day_is_computed_in_blocks_as_well() -> None:
    few = {
        name: frame if name == "riders" else frame.unique("date", keep="first", maintain_order=True)
        for name, frame in data().items()
    }
    years = [LAST + offset * DAY for offset in range(3 * 365)]
    at_once = pl.concat([block for _, block in feature_blocks(orders, DAYS, reading(few))])
    one_by_one = pl.concat([features(orders, [day], reading(few)) for day in DAYS])
    assert at_once.equals(one_by_one)
    assert at_once.height > 10
    # After the data has ended, a day has no row at all.
    assert features(orders, years, reading(few)).height == at_once.filter(date=LAST).height


def test_blocks_equal_the_whole_and_leave_out_days_not_asked_for() -> None:
    asked = [*DAYS[3:9], *DAYS[15:20]]
    blocks = list(feature_blocks(orders, asked, reading(data()), rows=70))
    assert [day for of, _ in blocks for day in of] == asked
    assert len(blocks) > 3
    assert pl.concat([block for _, block in blocks]).equals(
        whole().filter(pl.col("date").is_in(asked))
    )


@pytest.mark.parametrize("as_of", [date(2024, 3, 3), date(2024, 3, 10), date(2024, 3, 16)])
def test_nothing_known_after_a_moment_changes_a_row_of_before(as_of: date) -> None:
    moment = refresh(orders, as_of)
    altered = {name: altered_after(frame, moment) for name, frame in data().items()}
    earlier = [day for day in DAYS if day <= as_of]
    for before, after in (
        (features(orders, earlier, reading(data())), features(orders, earlier, reading(altered))),
        (
            labels(orders, reading(data()), FIRST, as_of, as_of),
            labels(orders, reading(altered), FIRST, as_of, as_of),
        ),
    ):
        known = pl.col("known_at") <= moment
        assert before.filter(known).height > 100
        assert before.filter(known).equals(after.filter(known))
    assert not features(orders, DAYS, reading(altered)).equals(whole())


def altered_after(frame: pl.DataFrame, moment: object) -> pl.DataFrame:
    """All that was known after a moment changed: numbers, texts and flags, plus corrections of everything known before."""
    late = pl.col("known_at") > moment
    changed = [
        pl.when(late).then(pl.col(name) * -3 + 7).otherwise(pl.col(name)).alias(name) if kind.is_numeric()
        else pl.when(late).then(~pl.col(name)).otherwise(pl.col(name)).alias(name) if kind == pl.Boolean
        else pl.col(name)
        for name, kind in frame.schema.items()
    ]  # fmt: skip
    wrong = [
        pl.lit(1e6).cast(kind).alias(name)
        for name, kind in frame.schema.items()
        if kind.is_numeric()
    ]
    corrections = frame.filter(~late).with_columns(
        *wrong, pl.lit(moment).dt.offset_by("1us").cast(frame.schema["known_at"]).alias("known_at")
    )
    # Delivered when they were "known", and some as if they had been known before they came.
    backdated = corrections.with_columns((pl.col("known_at") - timedelta(days=5)).alias("known_at"))
    if "date" in frame.columns:
        corrections = corrections.with_columns(
            pl.lit(moment).dt.convert_time_zone(orders.timezone).dt.date().alias("date")
        )
        backdated = backdated.with_columns(
            (pl.lit(moment).dt.convert_time_zone(orders.timezone).dt.date() + DAY).alias("date")
        )
        return pl.concat([frame.with_columns(changed), corrections, backdated])
    return pl.concat([frame.with_columns(changed), corrections])


def test_a_day_reads_no_more_deliveries_than_its_windows_reach() -> None:
    asked: list[tuple[str, date | None, date | None]] = []
    features(orders, [LAST], reading(data(), asked))
    bounds = delivery_days(orders)
    assert {source for source, _, _ in asked} == {"orders", "weather", "results", "riders"}
    for source, first, last in asked:
        back = bounds[source]
        assert (
            (first, last) == (None, None)
            if back is None
            else first is not None
            and first >= LAST - back * DAY
            and last is not None
            and last <= LAST
        )


def test_one_request_over_the_snapshot_equals_its_row_of_the_features() -> None:
    frames, checked = data(), 0
    everything = features(rich, DAYS, reading(frames))
    fitted = program(rich).fit(everything.head(200))
    function = compile_row(fitted)
    for day in DAYS[::2]:
        online = Snapshot.decode(snapshot(rich, day, reading(frames)).encode())
        assert function.missing(online) == ()
        table = everything.filter(pl.col("date") == day)
        expected = fitted.matrix(table)
        known = frames["orders"].rows(named=True)
        for row, entity, predicted, event in zip(
            expected, table["order_id"], table["known_at"], table["event_time"], strict=True
        ):
            versions = [
                one
                for one in known
                if one["order_id"] == entity
                and one["known_at"] <= predicted
                and one["event_time"] == event
            ]
            request = max(versions, key=lambda one: one["known_at"])
            found = np.array(
                function({**request, "event_time": request["event_time"].isoformat()}, online),
                dtype=np.float32,
            )
            assert np.array_equal(np.isnan(row), np.isnan(found))
            assert np.array_equal(
                row.view(np.uint32)[~np.isnan(row)], found.view(np.uint32)[~np.isnan(found)]
            )
            checked += 1
    assert checked > 400


def test_snapshots_are_reproducible_and_age() -> None:
    first, second = (
        snapshot(orders, LAST, reading(frames))
        for frames in (data(), {name: frame.reverse() for name, frame in data().items()})
    )
    assert first.encode() == second.encode()
    assert first.created == refresh(orders, LAST)
    assert not first.stale(first.created + timedelta(hours=30))
    assert first.stale(first.created + timedelta(hours=37))


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x81\xa1a\x01", b"not a snapshot"])
def test_what_is_no_snapshot_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not an online snapshot"):
        Snapshot.decode(content)


def test_labels_mature_with_time_and_stay_null_where_unknown() -> None:
    results, day = data()["results"], date(2024, 3, 5)
    early, late = (
        labels(orders, reading(data()), day - 3 * DAY, day, as_of)
        for as_of in (day + DAY, day + 12 * DAY)
    )
    assert 0 < early.height < late.height
    assert early.columns == ["order_id", "event_time", "known_at", "late"]
    assert early.schema["late"] == pl.Int8
    assert late["late"].null_count() > 0
    newest = (
        results.sort("known_at")
        .unique("order_id", keep="last")
        .filter(pl.col("order_id").is_in(late["order_id"].to_list()))
    )
    joined = late.join(newest.select("order_id", "minutes"), on="order_id")
    assert (joined["late"].eq_missing((joined["minutes"] > 40).cast(pl.Int8))).mean() > 0.95
    assert labels(orders, reading(data()), day, day, day - DAY).is_empty()


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    """January and February of the flights, landed by the feed and parsed as the platform parses them."""
    from assets.data.parse import Landed, parse
    from pipelines.flight_delays import pipeline
    from pipelines.flight_delays.feed import Feed

    place = tmp_path_factory.mktemp("flights")
    feed = Feed(str(place))
    feed.land_once()
    for offset in range(59):
        feed.land(feed.first + offset * DAY)
    frames = {}
    for source in pipeline.sources:
        files = sorted(Path(place).rglob(f"{source.name}/*/*.csv"))
        landed = [
            Landed(
                None if file.parent.name == "once" else date.fromisoformat(file.parent.name),
                file.name,
                file.read_bytes(),
            )
            for file in files
        ]
        rows = parse(source, landed).rows
        frames[source.name] = rows.drop(name for name in rows.columns if name.startswith("_"))
    return frames


def test_a_month_of_flights_equals_the_reference(flights: Frames) -> None:
    from pipelines.flight_delays import pipeline

    month = [date(2013, 2, 1) + offset * DAY for offset in range(28)]
    computed = features(pipeline, month, reading(flights)).to_pandas()
    expected = features_reference.reference(
        pipeline, {name: frame.to_pandas() for name, frame in flights.items()}, month
    )
    names = [
        "flight_id",
        "event_time",
        "known_at",
        "inputs_known_at",
        *(feature.name for feature in pipeline.features),
    ]
    assert len(computed) > 24_000
    assert max(features_reference.compared(expected, computed, names).values()) < 1e-12
