"""The ledger tells the truth or refuses to speak."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
import stat
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from resources.keys import Keys
from resources.ledger import Entry, Ledger, LedgerError

DAY = date(2013, 4, 1)
ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path)


def open_ledger(home: Path) -> Ledger:
    return Ledger(path=str(home / "ledger" / "ledger.db"), signer=Keys(path=str(home / "keys")))


def add(
    ledger: Ledger,
    kind: str = "approval",
    bundle: str | None = ONE,
    pipeline: str = "flights",
    **payload: object,
) -> Entry:
    return ledger.append(pipeline, kind, bundle=bundle, day=DAY, actor="someone", payload=payload)  # type: ignore[arg-type]


def tamper(ledger: Ledger, *statements: str) -> None:
    """What somebody with access to the file can do."""
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as connection:
        for trigger in ("no_update", "no_delete", "next_serial"):
            connection.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            connection.execute(statement)


def test_entries_come_back_as_they_were_appended(ledger: Ledger) -> None:
    assert ledger.entries() == []
    assert ledger.verify() == 0
    first = add(ledger, bundle=ONE, evidence={"performance": "ab"}, reason="für gut befunden")
    second = add(ledger, kind="retrain_request", bundle=None, pipeline="other")
    assert [first, second] == ledger.entries()
    assert ledger.entries("flights") == [first]
    assert ledger.entries(kind="retrain_request") == [second]
    assert (first.serial, second.serial, second.previous) == (1, 2, first.digest)
    assert first.moment <= second.moment
    assert ledger.verify() == 2


def test_released_follows_releases_and_rollbacks(ledger: Ledger) -> None:
    assert ledger.released("flights") is None
    add(ledger, "release", ONE)
    add(ledger, "approval", TWO)
    assert ledger.released("flights") == ONE
    add(ledger, "release", TWO)
    assert ledger.released("flights") == TWO
    add(ledger, "rollback", ONE)
    assert ledger.released("flights") == ONE
    assert ledger.released("other") is None


def test_a_guard_makes_an_entry_once(ledger: Ledger) -> None:
    first = add(ledger, "release", ONE)
    again = ledger.append(
        "flights", "release", bundle=ONE, day=DAY, actor="x", unless=lambda entries: entries[-1]
    )
    assert again == first
    assert len(ledger.entries()) == 1


def test_sqlite_itself_refuses_changes(ledger: Ledger) -> None:
    add(ledger)
    with closing(sqlite3.connect(ledger.path)) as connection:
        for statement in (
            "UPDATE entries SET bundle = 'x'",
            "DELETE FROM entries",
            "INSERT OR REPLACE INTO entries SELECT * FROM entries",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("bundle", TWO),
        ("kind", "rejection"),
        ("actor", "mallory"),
        ("day", "2013-04-02"),
        ("payload", '{"n":9}'),
        ("pipeline", "other"),
    ],
)
def test_an_altered_entry_is_named(ledger: Ledger, column: str, value: str) -> None:
    for number in range(3):
        add(ledger, n=number)
    tamper(ledger, f"UPDATE entries SET {column} = '{value}' WHERE serial = 2")
    with pytest.raises(LedgerError, match="entry 2 was altered"):
        ledger.verify()
    with pytest.raises(LedgerError, match="entry 2 was altered"):
        ledger.entries()


def test_a_forged_entry_is_named(ledger: Ledger, tmp_path: Path) -> None:
    add(ledger)
    # Somebody who can write the file, and knows the format, but does not hold the platform's key.
    forger = open_ledger(tmp_path / "forger")
    add(forger)
    add(forger, "release", TWO)
    tamper(
        ledger,
        f"ATTACH '{forger.path}' AS forger",
        "INSERT INTO main.entries SELECT * FROM forger.entries WHERE serial = 2",
    )
    with pytest.raises(LedgerError, match="entry 2"):
        ledger.verify()
    with pytest.raises(LedgerError, match="entry 2 was forged"):
        ledger.released("flights")


def test_a_copied_decision_is_noticed(ledger: Ledger) -> None:
    add(ledger, "release", ONE)
    add(ledger, "release", TWO)
    columns = "pipeline, kind, bundle, actor, day, moment, payload, previous, digest, signature"
    tamper(ledger, f"INSERT INTO entries SELECT 3, {columns} FROM entries WHERE serial = 1")
    with pytest.raises(LedgerError, match="entry 3"):
        ledger.verify()
    with pytest.raises(LedgerError, match="entry 3 was altered"):
        ledger.released("flights")


def test_an_entry_taken_from_the_middle_is_noticed(ledger: Ledger) -> None:
    for number in range(3):
        add(ledger, n=number)
    tamper(ledger, "DELETE FROM entries WHERE serial = 2")
    with pytest.raises(LedgerError, match="entry 2 is missing"):
        ledger.verify()


def test_a_cut_off_tail_is_noticed_by_every_use(ledger: Ledger) -> None:
    for number in range(3):
        add(ledger, "release", n=number)
    tamper(ledger, "DELETE FROM entries WHERE serial = 3")
    for use in (
        ledger.verify,
        ledger.entries,
        lambda: ledger.released("flights"),
        lambda: add(ledger),
        ledger.head,
    ):
        with pytest.raises(
            LedgerError, match=r"ends at entry 2, but .* saw entry 3: its tail was cut off"
        ):
            use()


def test_a_lost_ledger_is_not_an_empty_one(ledger: Ledger) -> None:
    add(ledger, "release", ONE)
    for file in Path(ledger.path).parent.iterdir():
        file.unlink()
    for use in (ledger.verify, lambda: ledger.released("flights"), lambda: add(ledger)):
        with pytest.raises(LedgerError, match=r"is gone, but .* saw entry 1"):
            use()


def test_a_lost_or_forged_checkpoint_is_noticed(ledger: Ledger) -> None:
    add(ledger)
    place = Path(ledger.checkpoint_uri)
    content = place.read_bytes()
    place.unlink()
    with pytest.raises(LedgerError, match="is missing"):
        ledger.verify()
    place.write_bytes(json.dumps(json.loads(content) | {"serial": 0}).encode())
    with pytest.raises(LedgerError, match="not signed by the platform's key"):
        ledger.verify()
    place.write_bytes(b"")
    with pytest.raises(LedgerError, match="is no checkpoint"):
        ledger.verify()
    place.write_bytes(content)
    assert ledger.verify() == 1


def test_the_head_is_signed_and_names_the_last_entry(ledger: Ledger) -> None:
    assert ledger.head().serial == 0
    entry = add(ledger)
    head = ledger.head()
    assert (head.serial, head.digest) == (entry.serial, entry.digest)
    assert ledger.signer.verify(head.content, bytes.fromhex(head.signature))


def test_what_is_no_json_or_no_kind_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        add(ledger, n=float("nan"))
    with pytest.raises(ValueError, match="is no kind of ledger entry"):
        add(ledger, kind="wish")
    assert ledger.verify() == 0


def _append(home: str, count: int) -> None:
    ledger = open_ledger(Path(home))
    for number in range(count):
        add(ledger, n=number)


def test_four_processes_append_at_once_from_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append, args=(str(tmp_path), 15)) for _ in range(4)]
    for worker in workers:
        worker.start()
    reader = open_ledger(tmp_path)
    seen = [reader.verify() for _ in range(20)]
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert seen == sorted(seen)
    assert reader.verify() == 60
    assert json.loads(Path(reader.checkpoint_uri).read_bytes())["serial"] == 60


def _public(home: str, answers: multiprocessing.SimpleQueue[bytes]) -> None:
    answers.put(Keys(path=home).public_pem())


def test_the_key_is_made_once_between_processes_and_kept_private(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    workers = [
        context.Process(target=_public, args=(str(tmp_path / "keys"), answers)) for _ in range(6)
    ]
    for worker in workers:
        worker.start()
    public = {answers.get() for _ in workers}
    for worker in workers:
        worker.join(30)
    keys = Keys(path=str(tmp_path / "keys"))
    assert public == {keys.public_pem()} == {keys.public_path.read_bytes()}
    assert stat.S_IMODE(keys.private_path.stat().st_mode) == 0o600
    assert sorted(place.name for place in (tmp_path / "keys").iterdir()) == [
        "platform.key",
        "platform.pub",
    ]
    signature = keys.sign(b"content")
    assert signature == keys.sign(b"content")
    assert keys.verify(b"content", signature)
    assert not keys.verify(b"other content", signature)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys = Keys(path=str(tmp_path))
    keys.sign(b"content")
    keys.private_path.chmod(0o644)
    with pytest.raises(PermissionError, match="chmod 600"):
        keys.sign(b"content")
