"""What is served changes only to what the platform signed and what works; nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bundle import signing
from bundle.desired import arm_name
from bundle.files import write_atomically
from bundle.manifest import Bundle
from bundle.records import reader, segments, service
from bundle.records.record import Stored
from serving.delivery.following import loading
from serving.delivery.following.reports import enlist
from serving.delivery.following.state import Served
from serving.options import Options
from serving.watch.identity import identity
from tests.support.endpoint import DAY, NAME, TREE, Place, Running, request, snapshot

URL = f"/predict/{NAME}"


class Load:
    """Clients that send requests without a pause, and remember what was answered."""

    def __init__(self, server: Running, clients: int = 3) -> None:
        self.answers: list[dict[str, str]] = []
        self.failures: list[str] = []
        self._url, self._stop = server.url, threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(clients)
        ]

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=20, trust_env=False) as client:
            while not self._stop.is_set():
                number += 10
                try:
                    answer = client.post(URL, json=request(number))
                except httpx.TransportError as error:
                    self.failures.append(repr(error))
                    return
                if answer.status_code == 200:
                    self.answers.append(answer.json())
                else:
                    self.failures.append(answer.text)

    @contextmanager
    def running(self) -> Iterator[Load]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


def served_by(place: Place, options: Options, worker: str) -> Served:
    return Served(NAME, options, place.public_key_path.read_bytes(), worker)


def logged(place: Place) -> dict[str, Stored]:
    reading = reader.read(place.predictions, DAY)
    assert all(found.torn for found in reading.damage)
    records = {record.id: record for record in reading.records}
    assert len(records) == len(reading.records), "a prediction is in the log twice"
    return records


def test_swaps_under_load_drop_nothing_and_sigterm_drains(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    digests = [place.release(seed=0)]
    with place.server("--sample-seconds", "0.5") as server:
        place.wait(digests[0])
        with Load(server).running() as load:
            for seed in (1, 2):
                digests.append(place.release(seed=seed))
                place.wait(digests[-1])
                place.publish(snapshot(DAY + timedelta(days=seed), level=9.0 + seed))
                time.sleep(0.4)
            place.desire((digests[2], 0.7), (digests[1], 0.3))
            end = time.monotonic() + 15
            while len(place.endpoint.actual(NAME).bundles) < 2:  # type: ignore[union-attr]
                assert time.monotonic() < end
                time.sleep(0.05)
            time.sleep(0.5)
        assert load.failures == []
        assert {answer["bundle"] for answer in load.answers} == set(digests)
        assert {answer["arm"] for answer in load.answers} == {"champion", arm_name(1)}
        stored = logged(place)
        assert {answer["id"] for answer in load.answers} <= set(stored)
        split = [record for record in stored.values() if record.arm != "champion"]
        chosen = {record.entity for record in split}
        both = place.endpoint.predict(NAME, [request(number) for number in range(200)])
        # An entity is always answered by the same arm.
        assert all(
            arm["arm"] == arm_name(1)
            for number, arm in enumerate(both)
            if f"order-{number}" in chosen
        )
        assert 20 <= sum(arm["arm"] == arm_name(1) for arm in both) <= 100
        with Load(server).running() as load:
            time.sleep(0.5)
            assert server.stop() == 0
        # A client that came after the port closed cannot connect; none was cut off within a request.
        assert all("ConnectError" in failure for failure in load.failures), load.failures
        assert {answer["id"] for answer in load.answers} <= set(logged(place))
    samples = service.read(place.root / "service", *_always())
    assert service.combined(samples, NAME).statuses["200"] >= len(load.answers)


def test_only_sound_signed_and_newer_states_are_served(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    good = place.release()
    with place.server() as server:
        place.wait(good)

        def still_good(words: str) -> None:
            actual = place.wait_for_error(words)
            assert (actual.ready, actual.bundles) == (True, (good,))
            assert server.client.post(URL, json=request(1)).json()["bundle"] == good

        bad = place.install(seed=1)
        folder = place.root / "bundles" / bad
        (folder / "model.ubj").write_bytes((folder / "model.ubj").read_bytes() + b"\0")
        place.desire((bad, 1.0))
        still_good("model.ubj was altered")

        other = place.install(seed=2)
        place.desire((other, 1.0), key=signing.new_key())
        still_good("not by the platform's key")
        place.desire((other, 1.0), serial=1)
        still_good("serials never go back")
        place.desire((other, 1.0), serial=2)
        still_good("with another content")
        (place.root / NAME / "desired.json").write_text("{")
        still_good("not a signed desired state")
        place.desire(("e" * 64, 1.0))
        still_good("is missing")
        forged = place.install(
            seed=3, sign=lambda content: signing.sign(signing.new_key(), content)
        )
        place.desire((forged, 1.0))
        still_good("only bundles that this platform signed")
        broken = place.install(seed=4, golden=_wrong_golden())
        place.desire((broken, 1.0))
        still_good("golden rows differ")
        (place.root / NAME / "online.msgpack").write_bytes(b"half a snapsh")
        still_good("not an online snapshot")

        # The serial of the sound state that follows is higher than all that were seen, and everything is well again.
        place.desire((other, 1.0))
        place.publish()
        assert place.wait(other).error is None
        server.kill()
    # After a restart, a state that cannot be served leaves what was served last in place.
    place.desire((bad, 1.0))
    with place.server() as server:
        actual = place.wait_for_error("model.ubj was altered")
        assert (actual.ready, actual.bundles) == (True, (other,))
        place.desire((good, 1.0), serial=1)
        place.wait_for_error("serials never go back")
        assert server.client.post(URL, json=request(1)).json()["bundle"] == other
    # Its local copy is all that it needs; with that one altered, it refuses to serve rather than serve something else.
    (place.root / NAME / "desired.json").unlink()
    shutil.rmtree(tmp_path / "keys" / "none", ignore_errors=True)
    with place.server() as server:
        assert server.client.post(URL, json=request(1)).json()["bundle"] == other
    (place.root / "bundles" / other / "golden.json").write_bytes(b"[]")
    with place.server(ready=False) as server:
        place.wait_for_error("is missing")
        assert server.client.post(URL, json=request(1)).status_code == 503
        assert server.client.get("/readyz").status_code == 503
        assert server.client.get(f"/v2/models/{NAME}/ready").status_code == 503


def test_what_a_restart_goes_on_with_is_stored_before_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place.new(tmp_path)
    served = served_by(place, Options(root=place.root, public_key=place.public_key_path), "worker")
    answering: list[tuple[str, ...]] = []

    def stored(file: Path, content: bytes, *arguments: Any, **options: Any) -> None:
        if file.name == "served.json":
            answering.append(served.actual().bundles)
        write_atomically(file, content, *arguments, **options)

    monkeypatch.setattr("serving.delivery.following.watermark.write_atomically", stored)
    try:
        first = place.release(seed=0)
        served.refresh()
        second = place.release(seed=1)
        served.refresh()
        # A kill right after either write leaves the one that answered before, or none, and the new one to go on with.
        assert answering == [(), (first,)]
        assert served.actual().bundles == (second,)
    finally:
        served.close()


def test_what_a_restart_goes_on_with_never_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker loads for so long that the next state is desired, and served by another worker, before it is done."""
    place = Place.new(tmp_path)
    options = Options(root=place.root, public_key=place.public_key_path, workers=3)
    with ExitStack() as stack:
        slow, fast, restarted = (
            stack.enter_context(closing(served_by(place, options, worker)))
            for worker in ("slow", "fast", "restarted")
        )
        place.release(seed=0)
        slow.refresh()
        fast.refresh()
        overtaken, newest = place.release(seed=1), place.install(seed=2)
        load = loading.from_files

        def slowly(
            files: Mapping[str, bytes], public_key: bytes, digest: str | None = None
        ) -> Bundle:
            if digest == overtaken:
                place.desire((newest, 1.0))
                fast.refresh()
            return load(files, public_key, digest)

        monkeypatch.setattr(loading, "from_files", slowly)
        slow.refresh()
        restarted.resume()
        assert restarted.actual().bundles == fast.actual().bundles == (newest,)
        slow.refresh()
        assert slow.actual().bundles == (newest,)


def test_nothing_counts_as_served_before_every_worker_serves_it(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    options = Options(root=place.root, public_key=place.public_key_path, workers=2)
    place.release()
    with (
        subprocess.Popen(["sleep", "60"]) as other,
        closing(served_by(place, options, identity(os.getpid()))) as served,
    ):
        enlist(options, identity(os.getpid()))
        served.refresh()
        assert served.reported().ready
        enlist(options, identity(other.pid))
        reported = served.reported()
        assert (reported.ready, reported.error) == (
            False,
            f"worker {identity(other.pid)} has not seen this pipeline yet",
        )
        # A worker that is gone does not count, nor does one whose process id has become another's.
        other.kill()
        other.wait()
        enlist(options, f"{os.getpid()}-1")
        assert served.reported().ready
        assert len([*(options.own / "workers").iterdir()]) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_kill_loses_no_acknowledged_prediction(tmp_path: Path, workers: int) -> None:
    place = Place.new(tmp_path)
    digest = place.release()
    acknowledged: set[str] = set()
    for _ in range(2 if workers == 1 else 1):
        with place.server("--segment-bytes", "60000", "--workers", str(workers)) as server:
            place.wait(digest)
            children = psutil.Process(server.process.pid).children()
            with Load(server, clients=4).running() as load:
                time.sleep(1.5)
                server.kill()
            acknowledged |= {answer["id"] for answer in load.answers}
    assert len(acknowledged) > 50
    assert acknowledged <= set(logged(place))
    # Workers notice that their supervisor died, and stop.
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert segments.seal_abandoned(place.predictions) >= 0
    reading = reader.read(place.predictions, DAY)
    assert reading.segments > 2
    # Closed segments tell by their index that they hold nothing of another day.
    assert reader.read(place.predictions, DAY + timedelta(days=1)).segments == 0
    assert reader.days(place.predictions) == {DAY: len(reading.records)}


def test_a_full_disk_is_answered_with_503_and_recovers(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    digest = place.release()
    with place.server() as server:
        place.wait(digest)
        before = [server.client.post(URL, json=request(number)) for number in range(20)]
        pid = server.process.pid
        # A limit on the size of files makes writes fail like a full disk does, in the middle of a record.
        size = sum(path.stat().st_size for path in place.predictions.glob("*.log"))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
        full = [server.client.post(URL, json=request(number)) for number in range(5)]
        assert {answer.status_code for answer in full} == {503}
        assert full[0].json()["rule"] == "log"
        assert full[0].headers["retry-after"] == "1"
        resource.prlimit(
            pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
        after = [server.client.post(URL, json=request(number)) for number in range(20)]
        assert {answer.status_code for answer in before + after} == {200}
        assert f'evergreen_requests_total{{pipeline="{NAME}"' in server.admin.get("/metrics").text
        assert 'status="503"} 5.0' in server.admin.get("/metrics").text
        assert set(logged(place)) == {answer.json()["id"] for answer in before + after}
        assert server.stop() == 0


def test_a_used_port_says_so(tmp_path: Path) -> None:
    def start(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "serving", "--root", str(tmp_path / "root"), *options]
        return subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=30)

    place = Place.new(tmp_path / "place")
    with place.server(ready=False) as server:
        used = start("--port", str(httpx.URL(server.url).port))
        assert used.returncode == 3
        assert "stop what uses it" in used.stderr


def _wrong_golden() -> object:
    from bundle.golden import GoldenRow, golden_rows
    from tests.support.endpoint import model, program

    rows = golden_rows(program(), model(4), [request(n) for n in range(3)], snapshot())
    return [GoldenRow(rows[0].request, rows[0].row, rows[0].expected + 0.01), *rows[1:]]


def _always() -> tuple[object, object]:
    from datetime import UTC, datetime

    return datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def test_helper_requests_are_plain_json() -> None:
    assert json.loads(json.dumps(request(5))) == request(5)
