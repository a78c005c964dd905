"""The prediction log of a real endpoint: on disk before the answer, whatever the disk and the processes do."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from bundle.records import reader, segments
from tests.serving.test_safety import URL, Load, logged
from tests.support.endpoint import DAY, Place, Running, program, request

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", f"size={16 * MIB}", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip(
            "mounting a small disk is not permitted here; test_safety has the same with a limit on the size of files"
        )
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def shed(server: Running) -> float:
    """Requests that were refused because they could not be logged."""
    found = re.search(
        r'^evergreen_shed_total\{reason="log"\} (\S+)$',
        server.admin.get("/metrics").text,
        re.MULTILINE,
    )
    return float(found.group(1)) if found else 0.0


@pytest.mark.parametrize("reserve", [4 * MIB, 0])
def test_on_a_full_disk_requests_are_shed_and_service_resumes_by_itself(
    disk: Path, reserve: int
) -> None:
    place = Place.new(disk)
    digest = place.release()
    fill = disk / "fill"
    with place.server("--reserve-bytes", str(reserve), "--segment-bytes", "20000") as server:
        place.wait(digest)

        def status(number: int) -> int:
            return server.client.post(URL, json=request(number)).status_code

        before = [server.client.post(URL, json=request(number)) for number in range(50)]
        with open(fill, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        until(lambda: {status(number) for number in range(100)} == {503})
        refused = server.client.post(URL, json=request(1))
        assert (refused.status_code, refused.json()["rule"], refused.headers["retry-after"]) == (
            503,
            "log",
            "1",
        )
        assert server.client.get("/healthz").status_code == 200
        assert shed(server) > 0
        fill.unlink()
        until(lambda: status(1) == 200)
        after = [server.client.post(URL, json=request(number)) for number in range(50)]
        assert {answer.status_code for answer in before + after} == {200}
        assert {answer.json()["id"] for answer in before + after} <= set(logged(place))
        assert server.stop() == 0
    assert {answer.json()["id"] for answer in before + after} <= set(logged(place))


def test_answers_may_wait_for_the_disk(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    digest = place.release()
    with place.server(
        "--sync-seconds", "0", "--segment-bytes", "30000", "--workers", "2"
    ) as server:
        place.wait(digest)
        with Load(server, clients=6).running() as load:
            time.sleep(1.5)
            server.kill()
    acknowledged = [answer["id"] for answer in load.answers]
    assert len(acknowledged) > 50
    assert set(acknowledged) <= set(logged(place))


def test_closed_segments_are_compressed_beside_the_requests(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    digest = place.release()
    with place.server("--segment-bytes", "20000") as server:
        place.wait(digest)
        # Every other request is large enough to be logged as one batch.
        answers = [
            server.client.post(
                URL,
                json={"instances": [request(number + k) for k in range(20 if number % 2 else 80)]},
            )
            for number in range(20)
        ]
        until(lambda: len(list(place.predictions.glob("*.log.zst"))) > 3)
        assert server.stop() == 0
    assert list(place.predictions.glob("*.log")) == []
    ids = [row["id"] for answer in answers for row in answer.json()["predictions"]]
    assert [record.id for record in reader.read(place.predictions, DAY).records] == ids


def test_what_a_pipeline_keeps_out_of_its_log_is_in_no_file(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    columns = program().request
    discreet = msgspec.structs.replace(
        program(),
        request={**columns, "amount": msgspec.structs.replace(columns["amount"], logged=False)},
    )
    digest = place.release(program=discreet)
    secret = 123.456789
    with place.server() as server:
        place.wait(digest)
        answer = server.client.post(URL, json={**request(3), "amount": secret})
        assert answer.status_code == 200
        [path] = segments.segments(place.predictions)
        assert b"123.45" not in path.read_bytes()
        record = reader.read(place.predictions, DAY).records[0]
        named = dict(zip(discreet.names, record.row, strict=True))
        assert "amount" not in record.request
        assert (named["amount"], named["amount_per_item"]) == (None, None)
        assert None not in (named["hour"], named["method"])
        assert record.output == answer.json()["prediction"]
        # What is withheld was used all the same.
        other = server.client.post(URL, json={**request(3), "amount": 900.0}).json()["prediction"]
        assert other != answer.json()["prediction"]
