"""The online snapshot is used only as the platform signed it; what was refused is told."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families as families

from bundle import signing
from bundle.features.online import Snapshot
from bundle.online_file import SignedSnapshot, sealed
from resources.keys import Keys
from resources.online_store import OnlineStore
from tests.support.endpoint import DAY, NAME, Place, Running, request, snapshot


def predicted(server: Running, count: int = 5) -> list[float]:
    answer = server.client.post(
        f"/predict/{NAME}", json={"instances": [request(number) for number in range(count)]}
    )
    assert answer.status_code == 200, answer.text
    return [found["prediction"] for found in answer.json()["predictions"]]


def current(server: Running) -> float:
    samples = [
        sample
        for family in families(server.admin.get("/metrics").text)
        for sample in family.samples
        if sample.name == "evergreen_online_features_current"
    ]
    [sample] = samples
    return float(sample.value)


def test_one_changed_byte_is_refused_told_and_repaired_by_the_next_publication(
    tmp_path: Path,
) -> None:
    keys = Keys(path=str(tmp_path / "keys"))
    public = keys.public_path
    place = Place(tmp_path / "endpoint", keys.private_path.read_bytes(), public)
    store = OnlineStore(path=str(place.root), signer=keys)
    store.publish(snapshot(level=5.0))
    place.release()
    file = place.root / NAME / "online.msgpack"

    with place.server() as server:
        expected = predicted(server)
        assert current(server) == 1

        # A byte of a stored number: still a well-formed snapshot, with other predictions.
        content = file.read_bytes()
        at = content.index(msgspec.msgpack.encode(5.0))
        altered = content[: at + 2] + bytes([content[at + 2] ^ 0x10]) + content[at + 3 :]
        payload = msgspec.msgpack.decode(altered, type=SignedSnapshot).payload
        assert Snapshot.decode(payload).digest != snapshot(level=5.0).digest
        file.write_bytes(altered)
        actual = place.wait_for_error("is not by the platform's key")
        assert actual.snapshot_as_of == DAY.isoformat()
        assert predicted(server) == expected
        assert current(server) == 0
        assert "keeping the older online snapshot" in server.log.read_text()

        store.publish(snapshot(level=5.0))
        assert file.read_bytes() == content
        place.wait_until(lambda actual: actual.snapshot_error is None)
        assert predicted(server) == expected
        assert current(server) == 1

        store.publish(snapshot(DAY + timedelta(days=1), level=5.0))
        place.wait_until(lambda actual: actual.snapshot_as_of != DAY.isoformat())


def test_a_restart_uses_no_altered_snapshot(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    other = signing.new_key()
    content = sealed(snapshot(), lambda content: signing.sign(other, content))
    (place.root / NAME / "online.msgpack").write_bytes(content)

    with place.server() as server:
        actual = place.wait_for_error("is not by the platform's key")
        assert actual.snapshot_as_of is None
        assert current(server) == 0
        [prediction] = predicted(server, 1)
        assert 0 <= prediction <= 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not an online snapshot"),
        (snapshot().encode(), "not an online snapshot"),
        (msgspec.msgpack.encode(SignedSnapshot(snapshot().encode(), b"")), "64 bytes"),
        (msgspec.msgpack.encode(SignedSnapshot(snapshot().encode(), b"0" * 64)), "not by"),
    ],
)
def test_what_the_platform_did_not_sign_is_no_snapshot(
    tmp_path: Path, content: bytes, told: str
) -> None:
    store = OnlineStore(path=str(tmp_path / "endpoint"), signer=Keys(path=str(tmp_path / "keys")))
    place = store.publish(snapshot())
    found = store.newest(NAME)
    assert found is not None
    assert found.digest == snapshot().digest

    place.write_bytes(content)
    with pytest.raises(ValueError, match=told):
        store.newest(NAME)


def test_the_snapshot_of_another_pipeline_is_refused(tmp_path: Path) -> None:
    store = OnlineStore(path=str(tmp_path / "endpoint"), signer=Keys(path=str(tmp_path / "keys")))
    content = store.publish(snapshot()).read_bytes()
    place = store.place("other")
    place.parent.mkdir()
    place.write_bytes(content)
    with pytest.raises(ValueError, match="snapshot of pipeline 'toy', not 'other'"):
        store.newest("other")
