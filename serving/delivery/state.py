"""What is served of each pipeline: follows the desired state on disk, and never gives up what works for what does not.

A new desired state is served only after its signature, its serial, every file of every bundle and the golden rows were
checked. Until then, and for good if a check fails, the one before goes on; the reason is reported. The swap is one
assignment of an immutable `View`: a request sees the old one or the new one, whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

from bundle.desired import NOT_PIPELINES, SHADOW, Actual, ArmState, Desired, arm_name, unseal
from bundle.features.online import Snapshot
from bundle.files import Stamp, stamp, write_atomically
from bundle.manifest import Bundle, folder_files, from_files, verify
from bundle.records.log import Writer
from serving.contract.contract import Contract
from serving.contract.refusal import unlogged
from serving.delivery.rehearsal import rehearse, try_out
from serving.delivery.shadow import Trials
from serving.delivery.view import Arm, View, local_day
from serving.options import Options
from serving.watch.identity import alive

logger = logging.getLogger("serving")

PIPELINE_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
UNSEEN: Stamp = (-1, -1, -1)
"""No file's, and not that of a missing one."""


class Serial(msgspec.Struct, frozen=True):
    """The newest valid desired state that was ever seen here, remembered over restarts."""

    serial: int
    payload: str


class Served:
    """One pipeline. `resume`, once, and `refresh` run in one thread at a time; `view` is read by the event loop."""

    def __init__(self, name: str, options: Options, public_key: bytes, worker: str) -> None:
        self.name = name
        self.folder, self.own = options.root / name, options.own / name
        self._serial_file, self._served_file = self.own / "serial.json", self.own / "served.json"
        self.view: View | None = None
        self.log = Writer(
            self.own / "predictions", segment_bytes=options.segment_bytes, segment_seconds=options.segment_seconds,
            sync_seconds=options.sync_seconds, reserve_bytes=options.reserve_bytes,
        )  # fmt: skip
        self.trials = Trials(self.own / "trials", options)
        self._options, self._key, self._worker = options, public_key, worker
        self._bundles: dict[str, tuple[Bundle, float]] = {}
        self._stopping = threading.Event()
        self._desired_stamp: Stamp | None = UNSEEN
        self._online_stamp: Stamp | None = None
        self._online: Snapshot | None = None
        self.online_published: float | None = None
        self._retry_at = 0.0
        self._since = _now()
        self._seen_serial = 0
        self._error: str | None = "no desired state was seen yet"
        self._online_error: str | None = None
        self._written: Actual | None = None

    def check_room(self) -> None:
        """Raises Refusal where the prediction log has no room left."""
        if self.log.full:
            raise unlogged()

    def resume(self) -> None:
        """Serve what was served here last, if anything was: it has proven that it works, so nobody need wait for what is desired since.

        Twice, for the reason that `server._settle` gives."""
        self._follow_online(retry=False)
        for _ in range(2):
            self._try(self._served_file, remembered=True)
            self._report()

    def refresh(self) -> None:
        """Look for a new desired state and a new online snapshot, and take them over if they are sound."""
        retry = (
            self._error is not None or self._online_error is not None
        ) and time.monotonic() >= self._retry_at
        self._follow_online(retry)
        desired = stamp(self.folder / "desired.json")
        if desired != self._desired_stamp or (retry and self._error is not None):
            self._desired_stamp = desired
            self._take_desired()
        if retry:
            self._retry_at = time.monotonic() + self._options.retry_seconds
        self._report()

    def actual(self) -> Actual:
        """What this worker serves."""
        view = self.view
        if view is None:
            return Actual(
                pipeline=self.name, ready=False, desired_serial=self._seen_serial, error=self._error, since=self._since, pid=os.getpid(),
                snapshot_error=self._online_error, workers=self._options.workers,
            )  # fmt: skip
        return Actual(
            pipeline=self.name, ready=True, serial=view.desired.serial, desired_serial=max(self._seen_serial, view.desired.serial),
            arms=tuple(ArmState(arm.name, arm.bundle.digest, arm.share) for arm in view.arms),
            shadows=tuple(arm.bundle.digest for arm in view.shadows), error=self._error,
            snapshot_as_of=view.online_as_of, snapshot_error=self._online_error, golden_ms=round(view.golden_ms, 4),
            since=self._since, pid=os.getpid(), workers=self._options.workers,
        )  # fmt: skip

    def reported(self) -> Actual:
        """What all workers serve: the state of the one furthest behind."""
        own = self.actual()
        return own if self._options.workers == 1 else self._combined(own)

    def _combined(self, own: Actual) -> Actual:
        """Of the states of all living workers, the one furthest behind. One that answers requests and has reported none is behind them all."""
        states = {self._worker: own}
        for place in (self.own / "workers").glob("*.json"):
            if not alive(place.stem):
                place.unlink(missing_ok=True)
            elif place.stem != self._worker:
                with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
                    states[place.stem] = msgspec.json.decode(place.read_bytes(), type=Actual)
        for place in (self._options.own / "workers").glob("*"):
            if not alive(place.name):
                place.unlink(missing_ok=True)
            elif place.name not in states:
                unseen = f"worker {place.name} has not seen this pipeline yet"
                states[place.name] = Actual(
                    pipeline=self.name, ready=False, error=unseen, workers=self._options.workers
                )
        return min(
            states.values(),
            key=lambda state: (state.ready, state.serial, state.snapshot_as_of or ""),
        )

    def _take_desired(self) -> None:
        """Serve the desired state, or keep what is served and say why; where nothing is, what was served last."""
        if (
            self.view is None
            and (served := self._try(self._served_file, remembered=True)) is not None
        ):
            logger.info("%s: nothing to go on with: %s", self.name, served)
        error = self._try(self.folder / "desired.json")
        if error is not None and self.view is not None and error != self._error:
            logger.warning("%s: the last verified state serves on", self.name)
        if error is not None and error != self._error:
            logger.error("%s: %s", self.name, error)
        self._error = error

    def _try(self, place: Path, remembered: bool = False) -> str | None:
        """None when the state in `place` is now served, else what is wrong with it."""
        # Whatever is wrong with new files must not end the service of the old ones.
        try:
            content = place.read_bytes()
            desired = unseal(content, self._key, self.name)
            if not remembered:
                self._check_serial(desired)
            if self.view is None or self.view.desired != desired:
                self._publish(desired, content, remembered)
        except FileNotFoundError as error:
            return f"{error.filename} is missing"
        except Exception as error:
            if not isinstance(error, (ValueError, OSError)):
                logger.exception("%s: %s cannot be served", self.name, place)
            return f"{place.name}: {error}"
        return None

    @contextlib.contextmanager
    def _newest_seen(self) -> Iterator[Serial]:
        """The newest state that any worker has seen; none sees a newer one while this lasts."""
        with open(self.own / ".serial.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                seen = msgspec.json.decode(self._serial_file.read_bytes(), type=Serial)
            except FileNotFoundError:
                seen = Serial(0, "")
            except msgspec.DecodeError as error:
                raise ValueError(
                    f"{self._serial_file} is malformed ({error}); restore it, or remove it to accept the present desired state"
                ) from error
            yield seen

    def _check_serial(self, desired: Desired) -> None:
        """Raises ValueError for a state older than one that was seen before, remembers newer ones."""
        with self._newest_seen() as seen:
            self._seen_serial = max(self._seen_serial, seen.serial)
            payload = desired.payload.decode()
            if desired.serial < seen.serial:
                raise ValueError(
                    f"serial {desired.serial} is older than serial {seen.serial}, which was seen before; serials never go back"
                )
            if desired.serial == seen.serial and payload != seen.payload:
                raise ValueError(
                    f"serial {desired.serial} was seen before with another content; every change needs a serial of its own"
                )
            if desired.serial > seen.serial:
                write_atomically(
                    self._serial_file, msgspec.json.encode(Serial(desired.serial, payload))
                )
                self._seen_serial = desired.serial

    def _store(self, desired: Desired, content: bytes) -> None:
        """Store what is about to be served for a restart to go on with; that it cannot be does not keep it from being served. Raises
        ValueError where another worker has seen a newer state meanwhile: what is stored never goes back."""
        with self._newest_seen() as seen:
            if desired.serial < seen.serial:
                raise ValueError(
                    f"serial {seen.serial} came while serial {desired.serial} was loaded"
                )
            try:
                write_atomically(self._served_file, content)
            except OSError as error:
                logger.error(
                    "%s: %s could not be written: %s", self.name, self._served_file.name, error
                )

    def _publish(self, desired: Desired, content: bytes, remembered: bool) -> None:
        """Verify, try out and serve. Raises whatever is wrong, with nothing changed."""
        bundles: dict[str, tuple[Bundle, float]] = {}
        for digest in (*(digest for digest, _ in desired.arms), *desired.shadows):
            bundles[digest] = self._bundles.get(digest) or self._load(digest)
        arms = tuple(
            Arm(arm_name(i), bundles[digest][0], share)
            for i, (digest, share) in enumerate(desired.arms)
        )
        shadows = tuple(Arm(SHADOW, bundles[digest][0], 0.0) for digest in desired.shadows)
        manifest = arms[0].bundle.manifest
        if desired.key and desired.key not in manifest.request:
            raise ValueError(
                f"key {desired.key!r} is no column of a request; those are {', '.join(manifest.request)}"
            )
        for arm in (*arms[1:], *shadows):
            if arm.bundle.manifest.request != manifest.request:
                raise ValueError(
                    f"bundles {manifest.pipeline} {arms[0].bundle.digest} and {arm.bundle.digest} want different requests; they cannot share traffic"
                )
        online = self._online or Snapshot.empty(
            self.name, date(1970, 1, 1), datetime(1970, 1, 1, tzinfo=UTC)
        )
        view = View(
            desired, arms, shadows, Contract(manifest, self._options.row_limit, self._options.text_limit),
            local_day(ZoneInfo(manifest.timezone)),
            online, self._online.as_of.isoformat() if self._online else None, bundles[desired.arms[0][0]][1],
        )  # fmt: skip
        # Before anyone is answered by it or told of it.
        if not remembered:
            self._store(desired, content)
        # Whoever sees the new view must not see the error of the state before.
        self._error = None
        self.view = view
        self._bundles = bundles
        self._since = _now()
        told = [f"{arm.bundle.digest[:12]} {arm.share:g}" for arm in arms] + [
            f"{arm.bundle.digest[:12]} in the shadow" for arm in shadows
        ]
        logger.info("%s: serving serial %d: %s", self.name, desired.serial, ", ".join(told))

    def _load(self, digest: str) -> tuple[Bundle, float]:
        folder = self._options.root / "bundles" / digest
        with self._loading(digest) as ended_a_worker:
            try:
                files = folder_files(folder)
                if self.view is not None or ended_a_worker:
                    verify(files, self._key, digest)
                    rehearse(folder, self._options.public_key, digest, self._stopping)
                bundle = from_files(files, self._key, digest)
                if bundle.manifest.pipeline != self.name:
                    raise ValueError(
                        f"it is of pipeline {bundle.manifest.pipeline!r}, not of {self.name!r}"
                    )
                row_ms = try_out(bundle)
            except ValueError as error:
                raise ValueError(
                    str(error) if digest in str(error) else f"bundle {digest}: {error}"
                ) from error
        engine = bundle.model.engine
        logger.info(
            "%s: bundle %s computes up to %d rows with %s trees",
            self.name,
            digest[:12],
            engine.crossover,
            engine.name,
        )
        return bundle, row_ms

    @contextlib.contextmanager
    def _loading(self, digest: str) -> Iterator[bool]:
        """While a bundle is loaded a file says so; one that a process left tells that the process ended over it."""
        named = f".loading-{digest}-"
        left = [
            place
            for place in self.own.glob(f"{named}*")
            if not alive(place.name.removeprefix(named))
        ]
        mine = self.own / f"{named}{self._worker}"
        mine.touch()
        try:
            yield bool(left)
            for place in left:
                place.unlink(missing_ok=True)
        finally:
            mine.unlink(missing_ok=True)

    def _follow_online(self, retry: bool) -> None:
        online = stamp(self.folder / "online.msgpack")
        if online != self._online_stamp or (retry and self._online_error is not None):
            self._online_stamp = online
            self._take_online()

    def _take_online(self) -> None:
        place = self.folder / "online.msgpack"
        try:
            snapshot = Snapshot.decode(place.read_bytes())
            if snapshot.pipeline != self.name:
                raise ValueError(f"it is the snapshot of pipeline {snapshot.pipeline!r}")
        except FileNotFoundError:
            self._online_error = f"{place} is missing; features that are looked up are null"
            return
        except Exception as error:
            if not isinstance(error, (ValueError, OSError)):
                logger.exception("%s: %s cannot be read", self.name, place)
            self._online_error = f"{place.name}: {error}"
            logger.error("%s: keeping the older online snapshot: %s", self.name, self._online_error)
            return
        self._online, self._online_error = snapshot, None
        self.online_published = self._online_stamp[0] / 1e9 if self._online_stamp else None
        if self.view is not None:
            self.view = replace(self.view, online=snapshot, online_as_of=snapshot.as_of.isoformat())

    def _report(self) -> None:
        """Write this worker's actual state when it changed, and with several workers the one furthest behind."""
        actual = self.actual()
        if actual == self._written:
            return
        try:
            if self._options.workers == 1:
                write_atomically(
                    self.own / "actual.json", msgspec.json.encode(actual), durable=False
                )
            else:
                workers = self.own / "workers"
                write_atomically(
                    workers / f"{self._worker}.json", msgspec.json.encode(actual), durable=False
                )
                write_atomically(
                    self.own / "actual.json",
                    msgspec.json.encode(self._combined(actual)),
                    durable=False,
                )
        except OSError as error:
            logger.error("%s: actual.json could not be written: %s", self.name, error)
            return
        self._written = actual

    def close(self) -> None:
        self._stopping.set()
        self.trials.close()
        self.log.close()
        if self._options.workers > 1:
            (self.own / "workers" / f"{self._worker}.json").unlink(missing_ok=True)


def enlist(options: Options, worker: str) -> None:
    """From now on, no pipeline counts as served until this worker serves it, too. It is not counted where there is no room for its file:
    nothing is served there either."""
    if options.workers > 1:
        place = options.own / "workers" / worker
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        except OSError as error:
            logger.error("%s could not be written: %s", place, error)


def discover(options: Options, known: Mapping[str, object]) -> list[str]:
    """Names of pipelines that have a desired or a last served state and are not known yet."""
    found: set[str] = set()
    for folder, file in ((options.root, "desired.json"), (options.own, "served.json")):
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            continue
        for entry in entries:
            name = entry.name
            if (
                name in known
                or name in NOT_PIPELINES
                or not PIPELINE_NAME.fullmatch(name)
                or not entry.is_dir(follow_symlinks=False)
            ):
                continue
            if (folder / name / file).exists():
                found.add(name)
    return sorted(found)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
