"""Compaction of the prediction log: each prediction once, whatever happened to the log or how often it is read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from assets.names import PREDICTIONS, asset_path
from assets.tabular.features.declared_program import program
from assets.tabular.monitoring.predictions import (
    UNSEEN,
    as_used,
    compact,
    compact_days,
    prune,
)
from bundle.features.program import FeatureProgram
from bundle.records.record import Record, Stored
from bundle.records.segments import line, segments
from bundle.records.writer import Writer
from declare.log import LogPolicy
from declare.tabular import Tabular
from resources.lake import Lake
from tests.support.tiny import FIRST, tiny

FITTED: FeatureProgram = program(tiny).fit(pl.DataFrame({"machine": ["anvil", "bellows"]}))
BUNDLE = "a" * 64
DAY = timedelta(days=1)
TABLE = asset_path("tiny", PREDICTIONS)


def record(
    number: int,
    day: date = FIRST,
    machine: int | None = 1,
    load: float | None = 44.1,
    bundle: str = BUNDLE,
) -> Record:
    event = datetime(day.year, day.month, day.day, 9, tzinfo=UTC)
    row = [None] * len(FITTED.names)
    row[FITTED.names.index("load")] = load
    row[FITTED.names.index("machine")] = machine
    return Record(
        day=day.isoformat(), id=f"id-{number:05d}", at=event + timedelta(days=400), event_time=event, pipeline="tiny", bundle=bundle,
        arm="champion", entity=f"job-{number}", request={"job_id": f"job-{number}", "machine": "anvil", "load": 44.1}, row=row, output=0.25,
        online_as_of=day.isoformat(), latency_us=120,
    )  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path / "predictions", segment_bytes=4_000)
    yield writer
    writer.close()


class Bundles:
    """Artifacts as far as compaction reads them."""

    def get(self, kind: str, digest: str) -> dict[str, bytes]:
        assert kind == "bundles"
        if digest != BUNDLE:
            raise FileNotFoundError(digest)
        return {"program.json": FITTED.encode()}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(uri=str(tmp_path / "lake"))


def test_a_day_is_stored_once_however_often_it_is_compacted(log: Writer, lake: Lake) -> None:
    log.append([record(number) for number in range(20)])
    first = compact_days(tiny, [FIRST], lake, Bundles(), [log.folder])  # type: ignore[arg-type]
    version = lake.version(TABLE)
    again = compact_days(tiny, [FIRST], lake, Bundles(), [log.folder])  # type: ignore[arg-type]
    assert (first.rows, first.new, again.rows, again.new) == (20, 20, 20, 0)
    assert first.digest == again.digest
    assert lake.version(TABLE) == version
    log.append([record(number) for number in range(15, 30)])  # five ids come twice
    later = compact_days(tiny, [FIRST], lake, Bundles(), [log.folder])  # type: ignore[arg-type]
    assert (later.rows, later.new) == (30, 10)
    assert lake.read(TABLE)["prediction_id"].n_unique() == 30


def test_a_cleared_log_takes_nothing_out_of_the_lake(log: Writer, lake: Lake) -> None:
    log.append([record(number) for number in range(7)])
    compact_days(tiny, [FIRST], lake, Bundles(), [log.folder])  # type: ignore[arg-type]
    log.close()
    for path in log.folder.iterdir():
        path.unlink()
    assert compact_days(tiny, [FIRST], lake, Bundles(), [log.folder]).rows == 7  # type: ignore[arg-type]


def test_a_day_without_predictions_is_stored_empty_and_said(tmp_path: Path, lake: Lake) -> None:
    done = compact_days(tiny, [FIRST, FIRST + DAY], lake, Bundles(), [tmp_path / "none"])  # type: ignore[arg-type]
    assert done.rows == 0
    assert "No prediction was made for events of 2 days from 2024-01-01 to 2024-01-02" in done.told
    assert lake.days(TABLE) == [FIRST, FIRST + DAY]
    assert lake.read(TABLE).height == 0


def test_the_features_arrive_when_the_first_predictions_do(log: Writer, lake: Lake) -> None:
    compact_days(tiny, [FIRST], lake, Bundles(), [log.folder])  # type: ignore[arg-type]
    log.append([record(1, FIRST + DAY)])
    compact_days(tiny, [FIRST + DAY], lake, Bundles(), [log.folder])  # type: ignore[arg-type]
    stored = lake.scan(TABLE, FIRST + DAY, FIRST + DAY).collect()
    assert stored["category_machine"].to_list() == ["anvil"]
    assert stored["machine"].to_list() == ["anvil"]


def test_torn_ends_are_tolerated_and_altered_lines_are_told(tmp_path: Path, lake: Lake) -> None:
    lines = [line(record(number)) for number in range(5)]
    folder = tmp_path / "predictions"
    folder.mkdir()
    (folder / "1-x-1.log").write_bytes(b"".join([*lines, lines[0][:50]]))
    done = compact_days(tiny, [FIRST], lake, Bundles(), [folder])  # type: ignore[arg-type]
    assert (done.rows, done.torn, done.altered) == (5, 1, 0)
    (folder / "1-x-1.log").write_bytes(b"".join([lines[0].replace(b"0.25", b"0.99"), *lines[1:]]))
    assert compact_days(tiny, [FIRST], Lake(uri=lake.uri + "2"), Bundles(), [folder]).altered == 1  # type: ignore[arg-type]


def test_only_what_the_lake_holds_leaves_the_log(tmp_path: Path, lake: Lake) -> None:
    days = [FIRST, FIRST + DAY, FIRST + 200 * DAY]
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        for day in days:
            writer = Writer(folder)
            writer.append([record(days.index(day) * 100 + folders.index(folder), day)])
            writer.close()
    for day in (FIRST, FIRST + 200 * DAY):
        compact_days(tiny, [day], lake, Bundles(), folders)  # type: ignore[arg-type]
    assert prune(tiny, lake, folders, FIRST + 183 * DAY) == (0, 0)
    # The second day was never compacted: its predictions stay, whatever their age.
    assert prune(tiny, lake, folders, FIRST + 200 * DAY) == (2, 2)
    assert [len(segments(folder)) for folder in folders] == [2, 2]
    again = compact_days(tiny, [FIRST], lake, Bundles(), folders)  # type: ignore[arg-type]
    assert (again.rows, again.new, again.segments) == (2, 0, 0)
    compact_days(tiny, [FIRST + DAY], lake, Bundles(), folders)  # type: ignore[arg-type]
    assert prune(tiny, lake, folders, FIRST + 200 * DAY) == (2, 0)
    assert lake.read(TABLE).height == 6


def test_unlogged_columns_reach_no_disk_and_no_monitor() -> None:
    discreet = tiny.model_copy(update={"log": LogPolicy(omit=("load",))})
    made = program(discreet).fit(pl.DataFrame({"machine": ["anvil", "bellows"]}))
    assert made.unlogged == {"load"}
    assert made.withheld == {"load"}
    by_key = program(tiny.model_copy(update={"log": LogPolicy(omit=("machine",)), "fairness": ()}))
    assert by_key.withheld == {
        "machine",
        "heat_degrees",
        "machines_age",
        "fails_rate_by_machine_7d",
    }
    seen = stored(record(1, load=None))
    seen = msgspec.structs.replace(
        seen, request={name: value for name, value in seen.request.items() if name != "load"}
    )
    frame = compact(discreet, [seen], lambda _: made)
    assert "feature_load" not in frame.columns
    assert frame["load"].to_list() == [None]
    used = as_used(
        pl.concat([frame, compact(tiny, [stored(record(2))], lambda _: FITTED)], how="diagonal"),
        made,
    )
    assert "load" not in used.columns
    assert {"machine", "hour"} <= set(used.columns)


@pytest.mark.parametrize(
    ("omit", "says"),
    [
        ("job_id", "pseudonym"),
        ("machine", "fairness"),
        ("weight", "names column 'weight'"),
        ("event_time", "pseudonym"),
    ],
)
def test_what_cannot_be_left_out_of_the_log_is_refused(omit: str, says: str) -> None:
    declared = {name: getattr(tiny, name) for name in type(tiny).model_fields}
    with pytest.raises(ValidationError, match=says):
        Tabular(**{**declared, "log": LogPolicy(omit=(omit,))})


def test_only_segments_that_hold_the_day_are_read(log: Writer, lake: Lake) -> None:
    for offset in range(6):
        log.append([record(number + 100 * offset, FIRST + offset * DAY) for number in range(12)])
    log.close()
    assert len(segments(log.folder)) >= 5
    done = compact_days(tiny, [FIRST + 2 * DAY], lake, Bundles(), [log.folder])  # type: ignore[arg-type]
    assert done.rows == 12
    assert done.segments <= 2


def stored(found: Record) -> Stored:
    return Stored(
        **{name: getattr(found, name) for name in found.__struct_fields__}
        | {"row": tuple(found.row)}
    )


def test_rows_are_named_and_decoded_as_the_model_used_them() -> None:
    found = compact(
        tiny,
        [
            stored(record(1)),
            stored(record(2, machine=0)),
            stored(record(3, machine=None, load=None)),
        ],
        lambda bundle: FITTED,
    )
    used = as_used(found, FITTED)
    assert used["machine"].to_list() == ["anvil", UNSEEN, None]
    assert found["machine"].to_list() == ["anvil"] * 3
    assert used.schema["load"] == pl.Float32
    assert used["load"].to_list()[2] is None
    assert found["known_at"].to_list() == [datetime(2024, 1, 1, 8, tzinfo=UTC)] * 3
    assert found["latency_ms"].to_list() == [0.12] * 3
    outside = compact(
        tiny,
        [stored(msgspec.structs.replace(record(1), ood=("load", "machine"))), stored(record(2))],
        lambda bundle: FITTED,
    )
    assert outside["ood"].to_list() == ["load,machine", None]


def test_a_row_that_does_not_fit_its_program_is_refused() -> None:
    short = stored(record(1))
    with pytest.raises(ValueError, match="row of 1 values, but its bundle"):
        compact(
            tiny,
            [
                Stored(
                    **{name: getattr(short, name) for name in short.__struct_fields__}
                    | {"row": (1.0,)}
                )
            ],
            lambda bundle: FITTED,
        )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=25), st.randoms())
def test_order_and_repetition_change_nothing(numbers: list[int], random: object) -> None:
    records = [stored(record(number)) for number in numbers]
    shuffled = list(records)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    found = compact(tiny, records, lambda bundle: FITTED)
    assert found.equals(compact(tiny, [*shuffled, *records], lambda bundle: FITTED))
    assert found["prediction_id"].to_list() == sorted({each.id for each in records})
