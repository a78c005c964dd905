"""Training sets: what they hold, that the future changes nothing, and that a changed past is noticed."""

from __future__ import annotations

import shutil
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import polars as pl
import pytest

from assets.tabular.training import manifest as manifests
from assets.tabular.training.manifest import TrainingManifest, assemble, load_rows
from assets.tabular.training.split import PARTS, Days, folds, split
from declare.models import Split
from resources.lake import Lake
from tests.support.stored import store_features, stored_lake
from tests.support.tiny import FIRST, tiny

DAYS = [FIRST + timedelta(days=offset) for offset in range(45)]
AS_OF = DAYS[40]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("filled")
    stored_lake(home, DAYS)
    return home


@pytest.fixture
def lake(filled: Path, tmp_path: Path) -> Lake:
    """A copy that a test may change."""
    shutil.copytree(filled / "lake", tmp_path / "lake")
    return Lake(uri=str(tmp_path / "lake"))


def test_parts_follow_each_other_without_a_gap(filled: Path) -> None:
    rows = assemble(tiny, Lake(uri=str(filled / "lake")), AS_OF)
    parts = rows.manifest.split
    assert parts.test.last == AS_OF - timedelta(
        days=1
    )  # its results come at two in the morning, the refresh is at four
    assert parts.train.last + timedelta(days=1) == parts.validation.first
    assert parts.validation.last + timedelta(days=1) == parts.test.first
    assert (parts.test.last - parts.test.first).days + 1 == tiny.split.test_days
    assert (
        sum(rows.manifest.rows.values())
        == rows.frame.height
        == sum(day.rows for day in rows.manifest.days.values())
    )
    assert (
        rows.part("train", "validation").height
        == rows.manifest.rows["train"] + rows.manifest.rows["validation"]
    )
    for part in PARTS:
        assert len(rows.labels(part)) == rows.part(part).height == rows.manifest.rows[part]


def test_labels_are_mature_and_events_are_past(filled: Path) -> None:
    rows = assemble(tiny, Lake(uri=str(filled / "lake")), AS_OF)
    assert rows.frame.get_column(manifests.LABEL_KNOWN_AT).max() <= rows.manifest.moment
    assert rows.frame.get_column("date").max() < AS_OF
    assert manifests.label_maturity(rows, timedelta(0)).passed
    # What is younger than the declared maturity is found, too.
    young = manifests.label_maturity(rows, timedelta(days=3))
    assert not young.passed
    assert 0 < young.numbers["immature"] < rows.frame.height
    late = rows.frame.with_columns(
        pl.lit(rows.manifest.moment + timedelta(seconds=1)).alias(manifests.LABEL_KNOWN_AT)
    )
    finding = manifests.label_maturity(manifests.TrainingRows(rows.manifest, late), timedelta(0))
    assert not finding.passed
    assert finding.numbers["immature"] == rows.frame.height


def test_rows_are_rebuilt_exactly_in_canonical_order(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(uri=str(filled / "lake"))
    made = assemble(tiny, lake, AS_OF)
    assert (
        load_rows(tiny, made.manifest, lake) is made
    )  # in the process that assembled them they are at hand
    monkeypatch.setattr(manifests, "_loaded", None)
    again = load_rows(tiny, TrainingManifest.decode(made.manifest.encode()), lake)
    assert again.frame.equals(made.frame)
    assert again.frame.equals(again.frame.sort("event_time", tiny.entity))
    assert again.manifest.encode() == made.manifest.encode()


def test_what_becomes_known_later_changes_no_training_set(lake: Lake) -> None:
    before = assemble(tiny, lake, AS_OF).manifest.encode()
    moment = manifests.refresh(tiny, AS_OF)
    for source, column, other in (
        ("results", "failed", ~pl.col("failed")),
        ("jobs", "load", pl.col("load") + 1),
        ("heat", "degrees", pl.col("degrees") - 9),
    ):
        table = f"tiny/raw/{source}"
        rows = lake.read(table)
        lake.write(
            table,
            rows.with_columns(
                pl.when(pl.col("known_at") > moment).then(other).otherwise(column).alias(column)
            ),
            lake.days(table),
        )
    assert (
        lake.read("tiny/raw/results").filter(pl.col("known_at") > moment).height > 100
    )  # there was a future to change
    store_features(lake, DAYS)
    assert assemble(tiny, lake, AS_OF).manifest.encode() == before


def test_a_label_that_was_corrected_before_counts_in_its_newest_version(lake: Lake) -> None:
    before = assemble(tiny, lake, AS_OF)
    corrected = before.frame.row(0, named=True)
    table, day = "tiny/raw/results", DAYS[30]
    rows = lake.scan(table, day, day).collect()
    version = lake.read(table).filter(pl.col("job_id") == corrected["job_id"]).with_columns(
        ~pl.col("failed"), pl.lit(datetime.fromisoformat(f"{day}T02:30:00+00:00")).cast(rows.schema["known_at"]).alias("known_at"), pl.lit(day).alias("date")
    )  # fmt: skip
    lake.write(table, pl.concat([rows, version.select(rows.columns)]), [day])
    after = assemble(tiny, lake, AS_OF).frame.filter(pl.col("job_id") == corrected["job_id"])
    assert after.get_column("fails").item() == 1 - corrected["fails"]


def test_an_event_moved_after_its_prediction_counts_on_the_day_it_was_moved_to(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was predicted twice, so the feature table has it on both days; it happened once."""
    before = assemble(tiny, lake, AS_OF)
    job = before.frame.filter(pl.col("date") == DAYS[20]).row(3, named=True)["job_id"]
    moved = {
        "tiny/raw/jobs": (DAYS[21], timedelta(hours=1)),
        "tiny/raw/results": (DAYS[22], timedelta(days=1, hours=10)),
    }
    for table, (delivered, known) in moved.items():
        stored = lake.read(table)
        version = stored.filter(pl.col("job_id") == job).with_columns(
            pl.col("event_time") + timedelta(days=1), (pl.col("event_time") + known).alias("known_at"), pl.lit(delivered).alias("date")
        )  # fmt: skip
        if table.endswith("results"):
            stored = stored.filter(
                pl.col("job_id") != job
            )  # nothing happened on the day it was moved from
        lake.write(table, pl.concat([stored, version.select(stored.columns)]), lake.days(table))
    store_features(lake, DAYS)
    assert (
        lake.read("tiny/features")
        .filter(pl.col("job_id") == job)
        .get_column("date")
        .sort()
        .to_list()
        == DAYS[20:22]
    )
    made = assemble(tiny, lake, AS_OF)
    assert made.frame.filter(pl.col("job_id") == job).get_column("date").to_list() == [DAYS[21]]
    assert made.frame.height == before.frame.height
    monkeypatch.setattr(manifests, "_loaded", None)
    assert load_rows(tiny, made.manifest, lake).frame.equals(made.frame)
    # As of the day between, nobody knows what became of it.
    assert assemble(tiny, lake, DAYS[21]).frame.filter(pl.col("job_id") == job).is_empty()


def test_a_changed_day_is_named(lake: Lake) -> None:
    manifest = assemble(tiny, lake, AS_OF).manifest
    day = DAYS[10]
    rows = lake.scan("tiny/features", day, day).collect()
    lake.write("tiny/features", rows.with_columns(pl.col("load") + 1e-9), [day])
    with pytest.raises(
        ValueError,
        match=rf"1 of \d+ days changed .* first is {day} .*Materialize tiny/training_set again",
    ):
        load_rows(tiny, manifest, lake)
    lake.write("tiny/features", rows.head(0), [day])
    with pytest.raises(ValueError, match=f"{day} .*now no rows"):
        load_rows(tiny, manifest, lake)
    lake.write("tiny/features", rows, [day])
    assert load_rows(tiny, manifest, lake).manifest == manifest


def test_unlabelled_rows_are_left_out(lake: Lake) -> None:
    before = assemble(tiny, lake, AS_OF).frame.height
    rows = lake.read("tiny/raw/results")
    gone = rows.get_column("job_id").unique().sort().head(25)
    nothing = (
        pl.when(pl.col("job_id").is_in(gone.implode()))
        .then(None)
        .otherwise("failed")
        .alias("failed")
    )
    lake.write("tiny/raw/results", rows.with_columns(nothing), lake.days("tiny/raw/results"))
    assert assemble(tiny, lake, AS_OF).frame.height == before - 25


def test_too_little_history_says_what_is_missing(lake: Lake) -> None:
    with pytest.raises(
        ValueError,
        match=r"needs at least 21 .*test_days=10, validation_days=10.*materialize more days",
    ):
        assemble(tiny, lake, DAYS[12])
    with pytest.raises(ValueError, match="needs features of earlier days"):
        assemble(tiny, lake, FIRST)
    with pytest.raises(ValueError, match="has no tiny/features"):
        assemble(tiny, Lake(uri=lake.uri + "-empty"))


def test_history_days_bound_the_window(lake: Lake) -> None:
    short = tiny.model_copy(
        update={"split": Split(test_days=3, validation_days=3, history_days=15, minimum_rows=10)}
    )
    rows = assemble(short, lake, AS_OF)
    assert rows.frame.get_column("date").min() == AS_OF - timedelta(days=15)


def test_minimum_rows_counts_every_part(filled: Path) -> None:
    rows = assemble(tiny, Lake(uri=str(filled / "lake")), AS_OF)
    assert manifests.minimum_rows(rows, rows.manifest.total).passed
    assert not manifests.minimum_rows(rows, rows.manifest.total + 1).passed
    empty = msgspec.structs.replace(rows.manifest, rows={**rows.manifest.rows, "test": 0})
    assert (
        "test" in manifests.minimum_rows(manifests.TrainingRows(empty, rows.frame), 1).description
    )
    assert not manifests.minimum_rows(manifests.TrainingRows(empty, rows.frame), 1).passed


def test_numeric_stability_refuses_one_class_and_what_is_not_finite(filled: Path) -> None:
    rows = assemble(tiny, Lake(uri=str(filled / "lake")), AS_OF)
    assert manifests.numeric_stability(rows).passed
    one_class = msgspec.structs.replace(
        rows.manifest, base_rate={**rows.manifest.base_rate, "train": 1.0}
    )
    assert (
        "every label of train is 1"
        in manifests.numeric_stability(manifests.TrainingRows(one_class, rows.frame)).description
    )
    for bad in (float("inf"), float("nan")):
        broken = rows.frame.with_columns(pl.lit(bad).alias("load"))
        finding = manifests.numeric_stability(manifests.TrainingRows(rows.manifest, broken))
        assert not finding.passed
        assert "load" in finding.description
    constant = rows.frame.with_columns(pl.lit(1.0).alias("load"))
    finding = manifests.numeric_stability(manifests.TrainingRows(rows.manifest, constant))
    assert finding.passed
    assert "constant in training: load" in finding.description


def test_a_manifest_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="pipeline"):
        TrainingManifest.decode(b"{}")


def test_split_counts_calendar_days() -> None:
    days = [date(2024, 1, 1), date(2024, 1, 5), date(2024, 1, 10)]
    parts = split(days, Split(test_days=2, validation_days=3))
    assert parts.test == Days(date(2024, 1, 9), date(2024, 1, 10))
    assert parts.validation == Days(date(2024, 1, 6), date(2024, 1, 8))
    assert parts.train == Days(date(2024, 1, 1), date(2024, 1, 5))
    assert parts.part_of(date(2024, 1, 7)) == "validation"
    assert parts.part_of(date(2024, 2, 1)) is None


def test_folds_move_forward_and_never_look_back() -> None:
    days = [date(2024, 1, 1) + timedelta(days=offset) for offset in range(20)]
    found = folds(days, 3, 0.15)
    assert len(found) == 3
    assert found[-1][1].last == days[-1]
    for trained, judged in found:
        assert trained.last < judged.first
    for (_, earlier), (_, later) in pairwise(found):
        assert earlier.last < later.first
    assert folds(days[:1]) == []
