"""The ledger as a resource: appending under a lock, reading what is verified, the checkpoint.

What an entry is, and what its digest and signature cover, stands in `entry`.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from typing import get_args

import dagster as dg
import msgspec

from bundle.digests import canonical_json
from bundle.files import sync_folder
from resources import files
from resources.keys import Keys, Verifier
from resources.ledger.entry import (
    COLUMNS,
    GENESIS,
    INSERT,
    SCHEMA,
    Entry,
    Head,
    Json,
    Kind,
    LedgerError,
    chained,
    read_entry,
)

# Decisions that say which bundle is the champion.
SERVING: tuple[Kind, ...] = ("release", "rollback")
Guard = Callable[[Sequence[Entry]], Entry | None]


class Ledger(dg.ConfigurableResource):
    """The ledger in the SQLite file `path`, signed by `signer`.

    A hash chain alone does not notice a cut-off tail, so the newest head is also kept, signed, in a
    second place: the file or object `checkpoint` (any fsspec URI; default `<folder of the
    key>/ledger.head`).
    """

    path: str
    signer: Keys
    checkpoint: str | None = None

    @property
    def checkpoint_uri(self) -> str:
        return self.checkpoint or str(Path(self.signer.path) / "ledger.head")

    def append(
        self,
        pipeline: str,
        kind: Kind,
        *,
        bundle: str | None,
        day: date,
        actor: str,
        payload: Mapping[str, Json] | None = None,
        unless: Guard | None = None,
    ) -> Entry:
        """Sign and store one entry; it is on the disk when this returns.

        `unless` sees the pipeline's entries under the same write lock: if it returns one, nothing
        is appended and that one is returned, so "once" holds between processes. It may raise to
        refuse. Raises LedgerError where the ledger ends before its checkpoint, ValueError for a
        payload that is no JSON, sqlite3.OperationalError after 30 s without the write lock.
        """
        if kind not in get_args(Kind):
            raise ValueError(
                f"kind={kind!r} is no kind of ledger entry; kinds are {', '.join(get_args(Kind))}"
            )
        body = canonical_json(payload or {}).decode()
        said: dict[str, Json] = {
            "pipeline": pipeline,
            "kind": kind,
            "bundle": bundle,
            "actor": actor,
            "day": day.isoformat(),
            "payload": body,
        }
        verifier = self.signer.verifier()
        self._initialise()
        with closing(self._connect()) as connection:
            with _writing(connection):
                last = _last(connection)
                self._check_tail(connection, verifier)
                if unless is not None:
                    known = unless(_read(connection, verifier, pipeline))
                    if known is not None:
                        return known

                row = chained(said, last, self.signer)
                connection.execute(INSERT, row)

            self._advance_head(connection)
            stored = connection.execute(
                f"SELECT {COLUMNS} FROM entries WHERE serial = ?", (row["serial"],)
            ).fetchone()
            return read_entry(stored, verifier)

    def _advance_head(self, connection: sqlite3.Connection) -> None:
        """Write the head of the newest entry.

        Another process may have appended since, so it is read under the write lock: checkpoints
        never go back.
        """
        with _writing(connection):
            newest = _last(connection)
            if newest is not None:
                self._write_head(newest["serial"], newest["digest"])

    def entries(self, pipeline: str | None = None, kind: Kind | None = None) -> list[Entry]:
        """Entries in order, of one pipeline and kind or of all; each one's digest and signature is
        verified.

        Raises LedgerError naming the first altered or forged entry, or where the ledger ends before
        its checkpoint.
        """
        verifier = self.signer.verifier()
        with self._reading(verifier) as connection:
            return _read(connection, verifier, pipeline, kind) if connection else []

    def verify(self) -> int:
        """Verify the whole chain against its signatures and its checkpoint; the number of entries.

        Raises LedgerError naming the first bad entry.
        """
        verifier = self.signer.verifier()
        with self._reading(verifier) as connection:
            if connection is None:
                return 0
            previous, moment, count = GENESIS, "", 0
            for row in connection.execute(f"SELECT {COLUMNS} FROM entries ORDER BY serial"):
                count += 1
                if row["serial"] != count:
                    raise LedgerError(
                        f"{self.path}: entry {count} is missing (the next one is {row['serial']}); "
                        "restore the ledger from a backup"
                    )
                if row["previous"] != previous:
                    raise LedgerError(
                        f"{self.path}: entry {count} does not follow entry {count - 1}; restore "
                        "the ledger from a backup"
                    )
                entry = read_entry(row, verifier)
                if row["moment"] < moment:
                    raise LedgerError(
                        f"{self.path}: entry {count} is dated {row['moment']}, before the entry it "
                        f"follows ({moment})"
                    )
                previous, moment = entry.digest, row["moment"]
            return count

    def released(self, pipeline: str) -> str | None:
        """Digest of the bundle that the newest release or rollback names; None before the first
        release.
        """
        entry = self.newest(pipeline, *SERVING)
        return entry.bundle if entry else None

    def newest(self, pipeline: str, *kinds: Kind) -> Entry | None:
        """The newest entry of these kinds, verified."""
        verifier = self.signer.verifier()
        with self._reading(verifier) as connection:
            if connection is None:
                return None
            marks = ", ".join("?" for _ in kinds)
            row = connection.execute(
                f"SELECT {COLUMNS} FROM entries WHERE pipeline = ? AND kind IN ({marks}) ORDER BY "
                "serial DESC LIMIT 1",
                (pipeline, *kinds),
            ).fetchone()
            return read_entry(row, verifier) if row else None

    def head(self) -> Head:
        """The signed head of the ledger as it stands (serial 0 while it is empty)."""
        with self._reading(self.signer.verifier()) as connection:
            last = _last(connection) if connection else None
            return (
                self._signed_head(last["serial"], last["digest"])
                if last
                else self._signed_head(0, GENESIS)
            )

    def _signed_head(self, serial: int, digest: str) -> Head:
        head = Head(serial, digest)
        return Head(serial, digest, self.signer.sign(head.content).hex())

    def _write_head(self, serial: int, digest: str) -> None:
        files.write_atomically(
            self.checkpoint_uri, msgspec.json.encode(self._signed_head(serial, digest))
        )

    def _read_head(self, verifier: Verifier) -> Head | None:
        try:
            head = msgspec.json.decode(files.read(self.checkpoint_uri), type=Head)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise LedgerError(
                f"{self.checkpoint_uri} is no checkpoint of the ledger ({error}); restore it from "
                "a backup"
            ) from error
        if not verifier.valid(head.content, bytes.fromhex(head.signature)):
            raise LedgerError(
                f"{self.checkpoint_uri} is not signed by the platform's key; restore it, or the "
                "key, from a backup"
            )
        return head

    def _check_tail(self, connection: sqlite3.Connection | None, verifier: Verifier) -> None:
        """Raises LedgerError where the ledger (None: no file) does not reach, or does not contain,
        what its checkpoint names.
        """
        # The checkpoint is read first: an entry that another process appends meanwhile only makes
        # the ledger longer.
        head = self._read_head(verifier)
        if connection is None:
            if head is not None and head.serial > 0 and not Path(self.path).exists():
                raise LedgerError(
                    f"{self.path} is gone, but {self.checkpoint_uri} saw entry {head.serial}; "
                    "restore the ledger from a backup"
                )
            return
        if head is None:
            raise LedgerError(
                f"{self.checkpoint_uri}, the checkpoint of {self.path}, is missing; restore it "
                "from a backup"
            )
        last = _last(connection)
        if (last["serial"] if last else 0) < head.serial:
            raise LedgerError(
                f"{self.path} ends at entry {last['serial'] if last else 0}, but "
                f"{self.checkpoint_uri} saw entry {head.serial}: "
                "its tail was cut off; restore the ledger from a backup"
            )
        if head.serial == 0:
            return
        row = connection.execute(
            "SELECT digest FROM entries WHERE serial = ?", (head.serial,)
        ).fetchone()
        if row is None or row["digest"] != head.digest:
            raise LedgerError(
                f"{self.path}: entry {head.serial} is not the one that {self.checkpoint_uri} saw; "
                "restore the ledger from a backup"
            )

    @contextmanager
    def _reading(self, verifier: Verifier) -> Iterator[sqlite3.Connection | None]:
        """A consistent snapshot of the ledger whose tail was checked; None while there is no ledger
        at all.
        """
        if not Path(self.path).exists():
            self._check_tail(None, verifier)
            if not Path(self.path).exists():
                yield None
                return
        with self._undamaged(), closing(self._connect()) as connection:
            connection.execute("BEGIN")
            self._check_tail(connection, verifier)
            yield connection

    @contextmanager
    def _undamaged(self) -> Iterator[None]:
        """Turn what SQLite says of a damaged file into a LedgerError."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            # Locked for too long, or refused by a trigger: the file itself is whole.
            if isinstance(error, (sqlite3.OperationalError, sqlite3.IntegrityError)):
                raise
            raise LedgerError(
                f"{self.path} is damaged ({error}); restore the ledger from a backup"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _initialise(self) -> None:
        """Make the empty ledger and its checkpoint, once between processes.

        A file that exists is a complete ledger.
        """
        target = Path(self.path)
        if target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target.with_name(f".{target.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                return
            self._check_tail(None, self.signer.verifier())
            temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
            try:
                with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.executescript(SCHEMA)
                self._write_head(0, GENESIS)
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(target.parent)


@contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _last(connection: sqlite3.Connection) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT serial, digest, moment FROM entries ORDER BY serial DESC LIMIT 1"
    ).fetchone()
    return row


def _read(
    connection: sqlite3.Connection,
    verifier: Verifier,
    pipeline: str | None,
    kind: Kind | None = None,
) -> list[Entry]:
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM entries WHERE (?1 IS NULL OR pipeline = ?1) AND (?2 IS NULL OR "
        "kind = ?2) ORDER BY serial",
        (pipeline, kind),
    )
    return [read_entry(row, verifier) for row in rows]
