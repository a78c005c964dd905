"""An entry of the ledger: its columns, its digest, its signature, and reading it back verified.

Nothing here opens a file or takes a lock; that is `store`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Literal

import msgspec

from bundle.digests import canonical_json, sha256
from resources.keys import Keys, Verifier

Kind = Literal[
    "approval",
    "rejection",
    "rollout",
    "release",
    "traffic",
    "rollback",
    "experiment",
    "retrain_request",
]
Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

# What a signature speaks of: a signed entry is never a valid checkpoint, bundle or desired state.
ENTRY, HEAD = b"evergreen ledger entry 1\n", b"evergreen ledger head 1\n"
GENESIS = "0" * 64

SCHEMA = """
CREATE TABLE entries (
    serial INTEGER PRIMARY KEY,
    pipeline TEXT NOT NULL,
    kind TEXT NOT NULL,
    bundle TEXT,
    actor TEXT NOT NULL,
    day TEXT NOT NULL,
    moment TEXT NOT NULL,
    payload TEXT NOT NULL,
    previous TEXT NOT NULL,
    digest TEXT NOT NULL,
    signature BLOB NOT NULL
) STRICT;
CREATE INDEX by_pipeline ON entries (pipeline, serial);
CREATE TRIGGER no_update BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: entries are never updated'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: entries are never deleted'); END;
CREATE TRIGGER next_serial BEFORE INSERT ON entries
    WHEN NEW.serial <> (SELECT coalesce(max(serial), 0) + 1 FROM entries)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: an entry takes the next serial'); END;
"""
COLUMNS = "serial, pipeline, kind, bundle, actor, day, moment, payload, previous, digest, signature"
_NAMES = COLUMNS.split(", ")
INSERT = f"INSERT INTO entries ({COLUMNS}) VALUES ({', '.join(f':{name}' for name in _NAMES)})"


class LedgerError(Exception):
    """The ledger was altered, cut off or lost.

    Nothing may be released or changed on its word until it is restored.
    """


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One decision or change of traffic.

    `day` is the data day it speaks of, `moment` the wall time (UTC), never earlier than that of the
    entry before. `digest` covers every other field and the digest of the entry before (`previous`).
    """

    serial: int
    pipeline: str
    kind: Kind
    bundle: str | None
    actor: str
    day: date
    moment: datetime
    payload: dict[str, Json]
    previous: str
    digest: str


class Head(msgspec.Struct, frozen=True):
    """A checkpoint: the ledger had `serial` entries, and the last one has this digest.

    Signed over all but the signature.
    """

    serial: int
    digest: str
    signature: str = ""

    @property
    def content(self) -> bytes:
        return HEAD + canonical_json({"serial": self.serial, "digest": self.digest})


def chained(said: Mapping[str, Json], last: sqlite3.Row | None, signer: Keys) -> dict[str, object]:
    """The row of a new entry that follows `last` (None: the first), with its digest and signature.

    `said` is what the entry says: all columns but those made here.
    """
    now = datetime.now(UTC)
    # The clock may have been set back; moments never go back.
    moment = max(now, datetime.fromisoformat(last["moment"])) if last else now
    fields: dict[str, Json] = {
        **said,
        "serial": last["serial"] + 1 if last else 1,
        "moment": moment.isoformat(timespec="microseconds"),
        "previous": last["digest"] if last else GENESIS,
    }
    digest = sha256(ENTRY + canonical_json(fields))
    return {**fields, "digest": digest, "signature": signer.sign(ENTRY + digest.encode())}


def read_entry(row: sqlite3.Row, verifier: Verifier) -> Entry:
    """The verified entry of a row.

    Raises LedgerError where the digest or the signature does not fit the content.
    """
    names = set(row.keys()) - {"digest", "signature"}
    fields: dict[str, Json] = {name: row[name] for name in names}
    if sha256(ENTRY + canonical_json(fields)) != row["digest"]:
        raise LedgerError(
            f"ledger entry {row['serial']} was altered: its content does not match its digest; "
            "restore the ledger from a backup"
        )
    if not verifier.valid(ENTRY + row["digest"].encode(), row["signature"]):
        raise LedgerError(
            f"ledger entry {row['serial']} was forged: it is not signed by the platform's key; "
            "restore the ledger from a backup"
        )
    return Entry(
        serial=row["serial"],
        pipeline=row["pipeline"],
        kind=row["kind"],
        bundle=row["bundle"],
        actor=row["actor"],
        day=date.fromisoformat(row["day"]),
        moment=datetime.fromisoformat(row["moment"]),
        payload=json.loads(row["payload"]),
        previous=row["previous"],
        digest=row["digest"],
    )
