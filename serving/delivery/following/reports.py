"""What the workers of a server say they serve: written where the platform and other workers read
it."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import msgspec

from bundle.desired import Actual
from bundle.files import write_atomically
from serving.options import Options
from serving.watch.identity import alive

logger = logging.getLogger("serving")

WORKERS = "workers"


class Reports:
    """The reports of one pipeline: `actual.json`, and with several workers one file for each.

    The state of a server is that of the worker furthest behind.
    """

    def __init__(self, pipeline: str, options: Options, worker: str) -> None:
        self._pipeline, self._options, self._worker = pipeline, options, worker
        self._folder = options.own / pipeline
        self._written: Actual | None = None

    def combined(self, own: Actual) -> Actual:
        """The state of the server, where this worker's is `own`."""
        if self._options.workers == 1:
            return own

        states = {self._worker: own} | self._others()
        for worker in _living(self._options.own / WORKERS, "*"):
            if worker.name not in states:
                # It answers requests and has reported nothing, so it is behind them all.
                states[worker.name] = Actual(
                    pipeline=self._pipeline,
                    ready=False,
                    error=f"worker {worker.name} has not seen this pipeline yet",
                    workers=self._options.workers,
                )

        return min(states.values(), key=_progress)

    def write(self, own: Actual) -> None:
        """Write this worker's state if it changed, and the server's."""
        if own == self._written:
            return

        try:
            if self._options.workers > 1:
                self._write(self._own_file, own)
            self._write(self._folder / "actual.json", self.combined(own))
        except OSError as error:
            logger.error("%s: actual.json could not be written: %s", self._pipeline, error)
            return

        self._written = own

    def remove(self) -> None:
        """Take this worker's own file away: the worker stops."""
        self._own_file.unlink(missing_ok=True)

    @property
    def _own_file(self) -> Path:
        return self._folder / WORKERS / f"{self._worker}.json"

    def _others(self) -> dict[str, Actual]:
        """What the other living workers reported, by worker."""
        states = {}
        for place in _living(self._folder / WORKERS, "*.json"):
            if place.stem != self._worker:
                with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
                    states[place.stem] = msgspec.json.decode(place.read_bytes(), type=Actual)

        return states

    def _write(self, place: Path, state: Actual) -> None:
        write_atomically(place, msgspec.json.encode(state), durable=False)


def enlist(options: Options, worker: str) -> None:
    """From now on, no pipeline counts as served until this worker serves it, too.

    Where there is no room for its file it is not counted; nothing is served there either.
    """
    if options.workers == 1:
        return

    place = options.own / WORKERS / worker
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    except OSError as error:
        logger.error("%s could not be written: %s", place, error)


def _living(folder: Path, pattern: str) -> list[Path]:
    """Files of living workers; those of dead ones are removed."""
    living = []
    for place in folder.glob(pattern):
        if alive(place.name.removesuffix(".json")):
            living.append(place)
        else:
            place.unlink(missing_ok=True)

    return living


def _progress(state: Actual) -> tuple[bool, int, str, bool]:
    """How far a worker has come: of equal ones, the one with an error is behind."""
    return state.ready, state.serial, state.snapshot_as_of or "", state.error is None
