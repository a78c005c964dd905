"""Serials never go back: which desired states were seen and served here, remembered over restarts.

An older state that the platform signed once is still well signed. What tells it from the newest is
the serial, and the highest that was ever seen lies in the server's own folder, `serial.json`. The
workers of a server share it under a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bundle.desired import Desired
from bundle.files import write_atomically

logger = logging.getLogger("serving")


class Marks(msgspec.Struct, frozen=True):
    """The newest valid desired state that was seen, and the serial of the newest that was
    served."""

    serial: int
    payload: str
    served: int = 0


class OlderStateError(ValueError):
    """A desired state that is older than one seen or served before."""


class Watermark:
    """The marks of one pipeline in `folder`, which also holds `served.json`: what to go on with
    after a restart. `seen` is the newest serial that this worker knows of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file, self.served_file = folder / "serial.json", folder / "served.json"
        self.seen = 0

    def check(self, desired: Desired) -> None:
        """Let the newest state pass and remember it. Raises OlderStateError for an older one, and
        ValueError for another state of the same serial."""
        with self._marks() as marks:
            self.seen = max(self.seen, marks.serial)
            payload = desired.payload.decode()
            if desired.serial < marks.serial:
                raise OlderStateError(
                    f"serial {desired.serial} is older than serial {marks.serial}, which was seen "
                    "before; serials never go back"
                )
            if desired.serial == marks.serial and payload != marks.payload:
                raise ValueError(
                    f"serial {desired.serial} was seen before with another content; every change "
                    "needs a serial of its own"
                )
            if desired.serial > marks.serial:
                self._write(Marks(desired.serial, payload, marks.served))
                self.seen = desired.serial

    def check_served(self, desired: Desired) -> None:
        """Raises OlderStateError for a state to go on with that is not the newest that was served.

        Where the marks cannot be read the state passes: what works must not end with them.
        """
        try:
            with self._marks() as marks:
                served = marks.served
        except ValueError as error:
            logger.error("%s", error)
            return

        if desired.serial < served:
            raise OlderStateError(
                f"serial {desired.serial} is older than serial {served}, which was served before; "
                "serials never go back"
            )

    def store(self, desired: Desired, content: bytes) -> None:
        """Store what is about to be served, for a restart to go on with.

        That it cannot be stored does not keep it from being served. Raises OlderStateError where
        another worker has seen a newer state meanwhile.
        """
        with self._marks() as marks:
            if desired.serial < marks.serial:
                raise OlderStateError(
                    f"serial {marks.serial} came while serial {desired.serial} was loaded"
                )
            try:
                # The mark comes last: a kill between the two leaves a state newer than its mark.
                write_atomically(self.served_file, content)
                if desired.serial > marks.served:
                    self._write(Marks(marks.serial, marks.payload, desired.serial))
            except OSError as error:
                logger.error(
                    "%s: %s could not be written: %s",
                    desired.pipeline,
                    self.served_file.name,
                    error,
                )

    @contextlib.contextmanager
    def _marks(self) -> Iterator[Marks]:
        """The marks; no worker changes them while this lasts. Raises ValueError, OSError."""
        with open(self._folder / ".serial.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                marks = msgspec.json.decode(self._file.read_bytes(), type=Marks)
            except FileNotFoundError:
                marks = Marks(0, "")
            except msgspec.DecodeError as error:
                raise ValueError(
                    f"{self._file} is malformed ({error}); restore it, or remove it to accept the "
                    "present desired state"
                ) from error
            yield marks

    def _write(self, marks: Marks) -> None:
        write_atomically(self._file, msgspec.json.encode(marks))
