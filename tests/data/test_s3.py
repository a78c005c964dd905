"""Lake, landing folder and reports on object storage: the same behaviour by setting alone (moto's S3, no real one)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import httpx
import pytest
import s3fs

from assets.data.ingest import ingest
from assets.data.raw import reader, table
from resources.lake import Lake
from resources.landing import Landing, LandingError
from tests.support import tiny as support
from tests.support.tiny import DAY, FIRST, tiny


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket on a moto server; the environment points at it, as an operator's would."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("moto") / "log").open("wb")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in environment}
    try:
        wait_for(url, server)
        os.environ.update(environment)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("evergreen")
        yield "s3://evergreen"
    finally:
        server.kill()
        server.wait()
        log.close()
        s3fs.S3FileSystem.clear_instance_cache()
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "moto_server died"
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"moto_server did not answer at {url} within 60 s")


def test_ingest_runs_on_object_storage_as_on_a_disk(s3: str, tmp_path: Path) -> None:
    landing, lake = Landing(uri=f"{s3}/landing"), Lake(uri=f"{s3}/lake")
    local_landing, local_lake = Landing(uri=str(tmp_path / "landing")), Lake(uri=str(tmp_path / "lake"))
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
    assert lake.days(table("tiny", "results")) == days
    assert lake.days(table("tiny", "jobs")) == days
    ingest(tiny, tiny.source("jobs"), days[:1], landing, lake)
    assert lake.version(table("tiny", "jobs")) == 1
    assert lake.scan(table("tiny", "jobs"), FIRST, FIRST).collect()["date"].unique().to_list() == [FIRST]


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
