"""Lake, landing folder and reports on object storage: the same behaviour by setting alone (moto's S3, no real one)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
import s3fs

from assets.data.ingest import ingest
from assets.data.raw import reader
from assets.names import raw_table
from resources.lake import Lake
from resources.landing import Landing, LandingError
from tests.support import tiny as support
from tests.support.object_storage import bucket
from tests.support.tiny import DAY, FIRST, tiny


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with bucket(tmp_path_factory.mktemp("moto")) as uri:
        yield uri


def test_ingest_runs_on_object_storage_as_on_a_disk(s3: str, tmp_path: Path) -> None:
    landing, lake = Landing(uri=f"{s3}/landing"), Lake(uri=f"{s3}/lake")
    local_landing, local_lake = (
        Landing(uri=str(tmp_path / "landing")),
        Lake(uri=str(tmp_path / "lake")),
    )
    last = FIRST + 2 * DAY
    days = [FIRST + index * DAY for index in range(3)]
    for place in (landing, local_landing):
        support.land(place, FIRST, last, rows=10)
    assert landing.days("tiny", "jobs") == days
    for source in tiny.sources:
        there = ingest(tiny, source, days, landing, lake)
        here = ingest(tiny, source, days, local_landing, local_lake)
        assert there.digest == here.digest
        stored = reader(lake, "tiny")(source.name, None, None).collect()
        assert stored.height == there.rows.height > 0
    # Results of the first day's eve never came: the first delivery has no rows and counts all the same.
    assert lake.days(raw_table("tiny", "results")) == days
    assert lake.days(raw_table("tiny", "jobs")) == days
    ingest(tiny, tiny.source("jobs"), days[:1], landing, lake)
    assert lake.version(raw_table("tiny", "jobs")) == 1
    assert lake.scan(raw_table("tiny", "jobs"), FIRST, FIRST).collect()[
        "date"
    ].unique().to_list() == [FIRST]


def test_damaged_files_are_refused_on_object_storage_too(s3: str) -> None:
    landing = Landing(uri=f"{s3}/damaged")
    day = date(2024, 1, 1)
    landing.put("p", "s", day, "x.csv", b"a\n1\n")
    fs = s3fs.S3FileSystem()
    fs.pipe_file("evergreen/damaged/p/s/2024-01-01/x.csv", b"a\n2\n")
    (delivery,) = landing.deliveries("p", "s")[day]
    with pytest.raises(LandingError, match="half-written or corrupt"):
        landing.read("p", "s", day, delivery)
    fs.pipe_file(f"evergreen/damaged/p/s/{day + timedelta(days=1)}/y.csv", b"a\n2\n")
    assert landing.days("p", "s") == [day]
