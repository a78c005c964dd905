"""Several servers on one shared folder, as the pods of the Helm chart are: all follow, each keeps its own log."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from bundle import signing
from bundle.desired import Actual, Desired
from bundle.digests import folder_digest
from bundle.records import reader, segments
from resources.endpoint import ReplicatedEndpoint
from tests.support.endpoint import DAY, NAME, TREE, Place, files, request
from tests.support.ports import free_ports

HOST = "replicas.test"
ADDRESSES = ("127.0.0.2", "127.0.0.3")


def wait(target: ReplicatedEndpoint, digest: str) -> Actual:
    """What is served, once every replica serves a bundle."""
    end = time.monotonic() + 30
    while (actual := target.actual(NAME)) is None or actual.bundles != (digest,):
        assert time.monotonic() < end, actual
        time.sleep(0.05)
    return actual


@contextmanager
def replica(place: Place, address: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that may not write the shared folder but for its own state."""
    state = place.root / "replicas" / f"pod-{address[-1]}"
    command = [
        sys.executable, "-m", "serving", "--root", str(place.root), "--state", str(state), "--public-key", str(place.public_key_path),
        "--host", address, "--port", str(port), "--admin-host", address, "--admin-port", str(free_ports(1)[0]), "--allow-host", HOST,
    ]  # fmt: skip
    with open(place.root.parent / f"{address}.log", "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": str(TREE)}
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(15)


def test_every_replica_follows_and_no_log_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place.new(tmp_path)
    [port] = free_ports(1)
    there = list(ADDRESSES)
    real = socket.getaddrinfo

    def resolve(host: str, *arguments: object, **options: object) -> list[tuple[object, ...]]:
        if host != HOST:
            return real(host, *arguments, **options)  # type: ignore[arg-type]
        if not there:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in there]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    target = ReplicatedEndpoint(
        path=str(place.root), url=f"http://{ADDRESSES[0]}:{port}", replicas=f"http://{HOST}:{port}"
    )
    place.publish()

    def release(seed: int, serial: int) -> str:
        contents = files(place.private_key, seed)
        digest = folder_digest(contents)
        target.install(digest, contents)
        desired = Desired(
            pipeline=NAME,
            serial=serial,
            arms=((digest, 1.0),),
            ledger_entry=str(serial),
            issued="2024-01-10T00:00:00Z",
        )
        target.desire(desired, signing.sign(place.private_key, desired.content))
        return digest

    with ExitStack() as stack:
        processes = [stack.enter_context(replica(place, address, port)) for address in ADDRESSES]
        first = release(0, serial=1)
        wait(target, first)
        assert {answers(address, port, 1)["bundle"] for address in ADDRESSES} == {first}
        assert [found["bundle"] for found in target.golden(NAME)["bundles"]] == [first]
        # One that is asked and does not follow holds up the confirmation; one that does not answer, too.
        second = release(1, serial=2)
        assert wait(target, second).serial == 2
        ids = {
            answers(address, port, number)["id"] for number in range(20) for address in ADDRESSES
        }
        processes[1].kill()
        processes[1].wait()
        assert target.actual(NAME) is None
        assert target.golden(NAME) is None
        there.remove(ADDRESSES[1])
        third = release(2, serial=3)
        assert wait(target, third).bundles == (third,)
        there.clear()
        assert target.actual(NAME) is None
        assert target.golden(NAME) is None
        folders = target.predictions(NAME)
        assert len(folders) == 2
        logged = [record.id for folder in folders for record in reader.read(folder, DAY).records]
        assert ids <= set(logged)
        assert len(set(logged)) == len(logged)
        assert len(target.samples()) <= 2
        # The killed one comes again, with its old state, and finishes its log.
        stack.enter_context(replica(place, ADDRESSES[1], port))
        there.extend(ADDRESSES)
        assert wait(target, third).bundles == (third,)
        assert answers(ADDRESSES[1], port, 1)["bundle"] == third
        end = time.monotonic() + 20
        while list(folders[1].glob("*.log")) not in ([], [segments.segments(folders[1])[-1]]):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert ids <= {
            record.id for folder in folders for record in reader.read(folder, DAY).records
        }
    assert sorted(path.name for path in place.root.iterdir()) == ["bundles", "replicas", NAME]
    assert sorted(path.name for path in (place.root / NAME).iterdir()) == [
        "desired.json",
        "online.msgpack",
    ]


def test_installed_bundles_go_but_for_those_kept(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    digests = [place.release(seed=seed) for seed in range(3)]
    other = place.root / "bundles" / ("f" * 64)
    shutil.copytree(place.root / "bundles" / digests[0], other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "pipeline": "another"}))
    with place.server() as server:
        place.wait(digests[2])
        assert place.endpoint.prune(NAME, [digests[1], digests[2]]) == [digests[0]]
        assert server.client.post(f"/predict/{NAME}", json=request(1)).status_code == 200
    assert {path.name for path in (place.root / "bundles").iterdir()} == {
        digests[1],
        digests[2],
        "f" * 64,
    }


def answers(address: str, port: int, number: int) -> dict[str, str]:
    answer = httpx.post(
        f"http://{address}:{port}/predict/{NAME}",
        json=request(number),
        trust_env=False,
        headers={"host": HOST},
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())
