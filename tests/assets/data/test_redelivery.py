"""A redelivery appends versions known from its own moment on; nothing that was known changes."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from assets.data.ingest import ingest
from assets.data.raw import reader
from assets.names import local_moment, raw_table
from assets.tabular.features.point_in_time import features, labels
from resources.lake import Lake
from resources.landing import Landing
from tests.support import tiny as support
from tests.support.tiny import DAY, FIRST, tiny

LAST = FIRST + 12 * DAY
DAYS = [FIRST + offset * DAY for offset in range(13)]
AGAIN = FIRST + 5 * DAY
NEXT_DAY = local_moment(LAST + DAY, tiny.timezone)


class Platform:
    """A landing folder and a lake that hold the days FIRST to LAST."""

    def __init__(self, place: Path) -> None:
        self.landing, self.lake = Landing(uri=str(place / "landing")), Lake(uri=str(place / "lake"))
        support.land(self.landing, FIRST, LAST)
        for source in tiny.sources:
            ingest(tiny, source, DAYS, self.landing, self.lake)

    def ingest(self, source: str, day: date | None = AGAIN) -> str:
        """Ingest a day again; returns the digest of what is stored of it."""
        return ingest(
            tiny, tiny.source(source), [day] if day else [], self.landing, self.lake
        ).digest

    def rows(self, source: str, day: date = AGAIN) -> pl.DataFrame:
        table = raw_table(tiny.name, source)
        return self.lake.scan(table, day, day).collect().sort("job_id", "known_at")

    def file(self, source: str, day: date = AGAIN) -> Path:
        (found,) = Path(self.landing.place(tiny.name, source, day)).glob("*.csv")
        return found

    def deliver(self, lines: list[str], source: str = "results") -> None:
        content = "\n".join([*lines, ""]).encode()
        self.landing.put(tiny.name, source, AGAIN, self.file(source).name, content)

    def lines(self, source: str = "results") -> list[str]:
        return self.file(source).read_text().splitlines()


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def turned(line: str) -> str:
    """A result that says the opposite."""
    old, new = (",true,", ",false,") if ",true," in line else (",false,", ",true,")
    return line.replace(old, new)


def test_what_is_told_anew_is_appended_and_what_was_told_stays(platform: Platform) -> None:
    before, header_and_rows = platform.rows("results"), platform.lines()
    header, first, *rest = header_and_rows
    platform.deliver([header, turned(first), *rest[1:]])
    platform.ingest("results")

    after = platform.rows("results")
    old = after.filter(pl.col("known_at") < NEXT_DAY)
    assert old.equals(before)
    new = after.filter(pl.col("known_at") >= NEXT_DAY)
    assert new["job_id"].to_list() == [first.split(",")[0]]
    assert new["failed"].item() is not before.filter(job_id=new["job_id"].item())["failed"].item()


def test_no_feature_and_no_label_of_before_changes(platform: Platform) -> None:
    read = reader(platform.lake, tiny.name)
    before = features(tiny, DAYS, read), labels(tiny, read, FIRST, LAST, LAST)
    header, *lines = platform.lines()
    platform.deliver([header, *map(turned, lines)])
    platform.ingest("results")

    assert features(tiny, DAYS, read).equals(before[0])
    assert labels(tiny, read, FIRST, LAST, LAST).equals(before[1])
    # From the next day on the correction is known.
    later = labels(tiny, read, FIRST, LAST, LAST + DAY)
    both = later.join(before[1], on="job_id", suffix="_before")
    differ = both.filter(pl.col("fails") != pl.col("fails_before"))
    assert set(differ["job_id"]) == {
        line.split(",")[0] for line in lines if ",true," in line or ",false," in line
    }


def test_the_same_files_change_nothing(platform: Platform) -> None:
    before = platform.rows("results")
    digests = {platform.ingest("results") for _ in range(2)}
    header, first, *rest = platform.lines()
    platform.deliver([header, turned(first), *rest])
    digests_after = {platform.ingest("results") for _ in range(3)}
    assert (len(digests), len(digests_after), len(digests | digests_after)) == (1, 1, 2)
    assert platform.rows("results").height == before.height + 1


def test_what_is_taken_back_is_told_a_third_time(platform: Platform) -> None:
    header, first, *rest = platform.lines()
    platform.deliver([header, turned(first), *rest])
    platform.ingest("results")
    support.land(platform.landing, LAST + DAY, LAST + DAY)
    platform.ingest("results", LAST + DAY)
    platform.deliver([header, first, *rest])
    platform.ingest("results")

    job = first.split(",")[0]
    versions = platform.rows("results").filter(job_id=job).sort("known_at")["failed"].to_list()
    assert versions[0] is versions[2] is not versions[1]


def test_an_interrupted_redelivery_ends_as_if_it_had_not_been(
    platform: Platform, tmp_path: Path
) -> None:
    header, first, *rest = platform.lines()
    platform.deliver([header, turned(first), *rest])
    stored = Path(platform.lake.uri) / "_marks" / raw_table(tiny.name, "results")
    marks = {path.name for path in stored.iterdir()}
    digest = platform.ingest("results")
    # Killed after the rows were stored, before they were marked.
    for path in stored.iterdir():
        if path.name not in marks:
            path.unlink()
    assert platform.ingest("results") == digest


def test_rows_that_a_redelivery_lacks_stay_known(platform: Platform) -> None:
    before, lines = platform.rows("results"), platform.lines()
    platform.deliver(lines[:5])
    platform.ingest("results")
    assert platform.rows("results").equals(before)


def test_a_source_that_lands_once_keeps_its_versions_too(platform: Platform) -> None:
    (place,) = Path(platform.landing.place(tiny.name, "machines", None)).glob("*.csv")
    header, first, *rest = place.read_text().splitlines()
    machine, age, *stamps = first.split(",")
    changed = ",".join([machine, str(float(age) + 50), *stamps])
    content = "\n".join([header, changed, *rest, ""]).encode()
    platform.landing.put(tiny.name, "machines", None, place.name, content)
    platform.ingest("machines", None)

    rows = platform.lake.read(raw_table(tiny.name, "machines")).filter(machine=machine)
    versions = rows.sort("known_at")
    assert versions["age"].to_list() == [float(age), float(age) + 50]
    assert versions["known_at"][1] > NEXT_DAY
