"""The lake: whole days replaced in one commit, races retried, empty days told from missing ones."""

from __future__ import annotations

import shutil
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from resources import lake as lake_module
from resources.lake import Lake

FIRST = date(2024, 1, 1)
SCHEMA = {
    "date": pl.Date,
    "name": pl.String,
    "size": pl.Float64,
    "known_at": pl.Datetime("us", "UTC"),
}


def days(number: int, first: date = FIRST) -> list[date]:
    return [first + timedelta(days=offset) for offset in range(number)]


def rows(days: list[date], name: str = "a", count: int = 3) -> pl.DataFrame:
    moment = datetime(2024, 1, 1, 12, tzinfo=UTC)
    return pl.DataFrame(
        [(day, f"{name}{index}", float(index), moment) for day in days for index in range(count)],
        schema=SCHEMA,
        orient="row",
    )


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(uri=str(tmp_path / "lake"))


def test_a_range_of_days_is_one_commit_and_comes_back_typed(lake: Lake) -> None:
    frame = rows(days(5))
    lake.write("p/raw/s", frame, days(5))
    assert lake.version("p/raw/s") == 0
    assert lake.read("p/raw/s").sort("date", "name").equals(frame.sort("date", "name"))
    assert lake.read("p/raw/s").schema == pl.Schema(SCHEMA)
    assert lake.days("p/raw/s") == days(5)


def test_writing_days_replaces_exactly_these_days(lake: Lake) -> None:
    lake.write("t", rows(days(5), "old"), days(5))
    middle = [FIRST + timedelta(days=1), FIRST + timedelta(days=3)]
    lake.write("t", rows(middle, "new", count=1), middle)
    assert lake.version("t") == 1
    found = lake.read("t").group_by("date").agg(pl.col("name").sort()).sort("date")
    assert [names[0][:3] for names in found["name"].to_list()] == [
        "old",
        "new",
        "old",
        "new",
        "old",
    ]
    assert [len(names) for names in found["name"].to_list()] == [3, 1, 3, 1, 3]


def test_a_scan_reads_only_the_days_asked_for(lake: Lake) -> None:
    lake.write("t", rows(days(5)), days(5))
    assert set(
        lake.scan("t", FIRST + timedelta(days=1), FIRST + timedelta(days=2)).collect()["date"]
    ) == set(days(2, FIRST + timedelta(days=1)))
    assert lake.scan("t", last=FIRST).collect().height == 3
    assert lake.scan("t", first=FIRST + timedelta(days=4)).collect().height == 3


def test_days_without_rows_count_as_stored(lake: Lake) -> None:
    lake.write("t", rows([]), [FIRST])
    assert lake.exists("t")
    assert lake.days("t") == [FIRST]
    assert lake.read("t").height == 0
    lake.write("t", rows(days(1, FIRST + timedelta(days=1))), days(2, FIRST + timedelta(days=1)))
    assert lake.days("t") == days(3)
    # A day that loses its rows stays stored, and a day that gains some is read.
    lake.write("t", rows([FIRST]), days(3))
    assert lake.days("t") == days(3)
    assert set(lake.read("t")["date"]) == {FIRST}


def test_rows_of_other_days_are_refused(lake: Lake) -> None:
    with pytest.raises(
        ValueError,
        match=r"lake table 't': the frame has rows of 2024-01-02, which is not among the 1 days",
    ):
        lake.write("t", rows(days(2)), [FIRST])
    assert not lake.exists("t")
    with pytest.raises(ValueError, match="no days to write"):
        lake.write("t", rows([]), [])


def test_new_columns_need_to_be_asked_for(lake: Lake) -> None:
    lake.write("t", rows(days(2)), days(2))
    wider = rows(days(1)).with_columns(colour=pl.lit("red"))
    with pytest.raises(DeltaError):
        lake.write("t", wider, days(1))
    assert lake.version("t") == 0
    lake.write("t", wider, days(1), evolve=True)
    assert lake.read("t").sort("date")["colour"].to_list() == ["red"] * 3 + [None] * 3


def test_a_missing_table_is_named_with_the_way_out(lake: Lake) -> None:
    assert not lake.exists("p/raw/s")
    assert lake.days("p/raw/s") == []
    for read in (lake.read, lake.version, lake.scan, lake.vacuum):
        with pytest.raises(
            FileNotFoundError, match=r"lake table 'p/raw/s' .* materialize the asset"
        ):
            read("p/raw/s")


def test_unpartitioned_tables_are_replaced_whole(lake: Lake) -> None:
    lake.overwrite("once", rows([FIRST]).drop("date"))
    lake.overwrite("once", rows([FIRST], count=1).drop("date"))
    assert lake.read("once").height == 1
    lake.overwrite("once", rows([]).drop("date"))
    assert lake.read("once").height == 0
    assert lake.version("once") == 2


def test_racing_writers_of_the_same_days_leave_exactly_one_writers_rows(lake: Lake) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(4)

    def write(name: str) -> None:
        start.wait()
        try:
            for _ in range(3):
                lake.write("t", rows(days(3), name), days(3))
        except BaseException as error:  # noqa: BLE001 - a thread's error is the test's
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    names = (
        lake.read("t")
        .group_by("date")
        .agg(pl.col("name").str.slice(0, 1).n_unique().alias("writers"), pl.len())
    )
    assert names["writers"].to_list() == [1, 1, 1]
    assert names["len"].to_list() == [3, 3, 3]


def test_lost_races_are_retried_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(lake_module.time, "sleep", pauses.append)
    attempts = 0

    def lost() -> None:
        nonlocal attempts
        attempts += 1
        raise CommitFailedError("another writer was faster")

    with pytest.raises(
        CommitFailedError, match=r"lake table 't': 8 commits lost to other writers; run again"
    ):
        lake_module._retry(lost, "t")
    assert attempts == lake_module.ATTEMPTS
    assert len(pauses) == lake_module.ATTEMPTS - 1
    assert sum(pauses) < 6


def test_compact_and_vacuum_keep_the_rows_and_drop_what_nobody_reads(lake: Lake) -> None:
    for _ in range(3):
        lake.write("t", rows(days(2)), days(2))
    orphan = Path(lake.place("t")) / f"date={FIRST}" / "part-of-a-writer-that-died.parquet"
    orphan.write_bytes(b"half")
    before = lake.read("t").sort("date", "name")
    lake.compact("t")
    removed = lake.vacuum("t", keep_hours=0)
    assert len(removed) >= 4
    assert not orphan.exists()
    assert lake.read("t").sort("date", "name").equals(before)
    assert len(DeltaTable(lake.place("t")).file_uris()) == 2


def test_tidying_reaches_every_table_and_keeps_what_was_read_lately(lake: Lake) -> None:
    assert lake.tables() == []
    for _ in range(2):
        lake.write("p/features", rows(days(2)), days(2))
        lake.overwrite("p/raw/s", rows([FIRST]).drop("date"))
    before = lake.read("p/features").sort("date", "name")
    assert lake.tables() == ["p/features", "p/raw/s"]

    assert [tidied.removed for tidied in lake.tidy()] == [0, 0]
    done = lake.tidy(keep_hours=0)
    assert [tidied.table for tidied in done] == ["p/features", "p/raw/s"]
    assert all(tidied.removed > 0 for tidied in done)
    assert lake.read("p/features").sort("date", "name").equals(before)
    assert lake.read("p/raw/s").height == rows([FIRST]).height


def test_commits_of_other_writers_are_seen(lake: Lake) -> None:
    lake.write("t", rows(days(2), "old"), days(2))
    assert lake.read("t").height == 6
    DeltaTable(lake.place("t")).delete()
    assert lake.version("t") == 1
    assert lake.read("t").height == 0


def test_a_table_made_again_is_not_taken_for_the_old_one(lake: Lake) -> None:
    for name in ("a", "b", "c"):
        lake.write("t", rows(days(1), name), days(1))
    assert lake.version("t") == 2
    shutil.rmtree(lake.place("t"))
    with pytest.raises(FileNotFoundError, match="materialize the asset"):
        lake.version("t")
    lake.write("t", rows(days(2), "new"), days(2))
    assert lake.version("t") == 0
    assert lake.read("t")["name"].str.starts_with("new").all()
    assert lake.days("t") == days(2)


def test_a_fresh_process_finds_a_recent_checkpoint(lake: Lake) -> None:
    for _ in range(25):
        lake.write("t", rows(days(1)), days(1))
    assert list(Path(lake.place("t"), "_delta_log").glob("*.checkpoint.parquet"))
