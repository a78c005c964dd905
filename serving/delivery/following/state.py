"""What is served of each pipeline: follows the desired state on disk.

A new desired state is served only after its signature, its serial, every file of every bundle and
the golden rows were checked. Until then, and for good if a check fails, the one before is served
on, and the reason is reported. The swap is one assignment of an immutable `View`: a request sees
the old one or the new one, whole.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

from bundle import online_file
from bundle.desired import (
    NOT_PIPELINES,
    SHADOW,
    Actual,
    ArmState,
    Desired,
    RefusedBundle,
    arm_name,
    unseal,
)
from bundle.features.online import Snapshot
from bundle.files import Stamp, stamp
from bundle.records.writer import Writer
from serving.contract.contract import Contract
from serving.contract.refusal import unlogged
from serving.delivery.failures import FailureLog
from serving.delivery.following.loading import BundleRefusedError, Loaded, Loader
from serving.delivery.following.reports import Reports
from serving.delivery.following.watermark import Watermark
from serving.delivery.shadow import Trials
from serving.delivery.view import Arm, View, local_day
from serving.options import Options

logger = logging.getLogger("serving")

PIPELINE_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
UNSEEN: Stamp = (-1, -1, -1)
"""No file's, and not that of a missing one."""


class Served:
    """One pipeline.

    `resume`, once, and `refresh` run in one thread at a time; the event loop reads `view`.
    """

    def __init__(self, name: str, options: Options, public_key: bytes, worker: str) -> None:
        self.name = name
        self.folder, own = options.root / name, options.own / name
        self.view: View | None = None
        self.log = Writer(
            own / "predictions",
            segment_bytes=options.segment_bytes,
            segment_seconds=options.segment_seconds,
            sync_seconds=options.sync_seconds,
            reserve_bytes=options.reserve_bytes,
        )
        self.trials = Trials(own / "trials", options)
        self.online_published: float | None = None

        self._options, self._key = options, public_key
        self._stopping = threading.Event()
        self._loader = Loader(name, options, public_key, worker, self._stopping)
        self._watermark = Watermark(own)
        self._reports = Reports(name, options, worker)

        self._failures = FailureLog(name)
        self._bundles: dict[str, Loaded] = {}
        self._desired_stamp: Stamp | None = UNSEEN
        self._error: str | None = "no desired state was seen yet"
        self._refused: RefusedBundle | None = None
        self._online: Snapshot | None = None
        self._online_stamp: Stamp | None = None
        self._online_error: str | None = None
        self._retry_at = 0.0
        self._since = _now()

    def check_room(self) -> None:
        """Raises Refusal where the prediction log has no room left."""
        if self.log.full:
            raise unlogged()

    def resume(self) -> None:
        """Serve what was served here last: it works, so nobody need wait for what is desired since.

        Twice, for the reason that `server._settle` gives.
        """
        self._follow_online(retry=False)
        for _ in range(2):
            self._go_on()
            self._reports.write(self.actual())

    def refresh(self) -> None:
        """Take over a new desired state and a new online snapshot, if they are sound."""
        wrong = self._error is not None or self._online_error is not None
        retry = wrong and time.monotonic() >= self._retry_at

        self._follow_online(retry)
        desired = stamp(self.folder / "desired.json")
        if desired != self._desired_stamp or (retry and self._error is not None):
            self._desired_stamp = desired
            self._take_desired()
        if retry:
            self._retry_at = time.monotonic() + self._options.retry_seconds

        self._failures.tell()
        self._reports.write(self.actual())

    def actual(self) -> Actual:
        """What this worker serves."""
        view = self.view
        actual = Actual(
            pipeline=self.name,
            ready=view is not None,
            desired_serial=self._watermark.seen,
            error=self._error,
            refused=self._refused,
            snapshot_error=self._online_error,
            since=self._since,
            pid=os.getpid(),
            workers=self._options.workers,
        )
        if view is None:
            return actual

        serial = view.desired.serial
        return msgspec.structs.replace(
            actual,
            serial=serial,
            desired_serial=max(self._watermark.seen, serial),
            arms=tuple(ArmState(arm.name, arm.bundle.digest, arm.share) for arm in view.arms),
            shadows=tuple(arm.bundle.digest for arm in view.shadows),
            snapshot_as_of=view.online_as_of,
            golden_ms=round(view.golden_ms, 4),
        )

    def reported(self) -> Actual:
        """What all workers serve: the state of the one furthest behind."""
        return self._reports.combined(self.actual())

    def close(self) -> None:
        self._stopping.set()
        self.trials.close()
        self.log.close()
        if self._options.workers > 1:
            self._reports.remove()

    # -- the desired state ---------------------------------------------------------------------

    def _take_desired(self) -> None:
        """Serve the desired state, or keep what is served and say why.

        Where nothing is served, go on with what was served last.
        """
        if self.view is None:
            self._go_on()

        error = self._try(self.folder / "desired.json")
        if error is not None and error != self._error:
            logger.error("%s: %s", self.name, error)
            if self.view is not None:
                logger.warning("%s: the last verified state serves on", self.name)
        self._error = error

    def _go_on(self) -> None:
        """Serve what was served here last, if it is sound and the newest that was."""
        error = self._try(self._watermark.served_file, remembered=True)
        if error is not None:
            logger.info("%s: nothing to go on with: %s", self.name, error)

    def _try(self, place: Path, remembered: bool = False) -> str | None:
        """Serve the state in `place`. None where it is served now, else what is wrong with it."""
        desired: Desired | None = None
        # Whatever is wrong with new files must not end the service of the old ones.
        try:
            content = place.read_bytes()
            desired = unseal(content, self._key, self.name)
            if remembered:
                self._watermark.check_served(desired)
            else:
                self._watermark.check(desired)
            if self.view is None or self.view.desired != desired:
                self._publish(desired, content, remembered)
        except FileNotFoundError as error:
            return f"{error.filename} is missing"
        except Exception as error:
            if isinstance(error, BundleRefusedError) and desired is not None:
                self._refused = RefusedBundle(desired.serial, error.bundle, str(error))
            if not isinstance(error, (ValueError, OSError)):
                logger.exception("%s: %s cannot be served", self.name, place)
            return f"{place.name}: {error}"

        self._refused = None
        return None

    def _publish(self, desired: Desired, content: bytes, remembered: bool) -> None:
        """Verify, try out and serve. Raises whatever is wrong, with nothing changed."""
        loaded: dict[str, Loaded] = {}
        rehearsed = self.view is not None
        for digest in (*(digest for digest, _ in desired.arms), *desired.shadows):
            known = self._bundles.get(digest)
            loaded[digest] = known or self._loader.load(digest, rehearsed=rehearsed)

        view = self._view(desired, loaded)

        # Before anyone is answered by it or told of it.
        if not remembered:
            self._watermark.store(desired, content)

        # Whoever sees the new view must not see the error of the state before.
        self._error = None
        self.view = view
        self._bundles = loaded
        self._since = _now()

        parts = [f"{arm.bundle.digest[:12]} {arm.share:g}" for arm in view.arms]
        parts += [f"{arm.bundle.digest[:12]} in the shadow" for arm in view.shadows]
        logger.info("%s: serving serial %d: %s", self.name, desired.serial, ", ".join(parts))

    def _view(self, desired: Desired, loaded: Mapping[str, Loaded]) -> View:
        """The view of a desired state. Raises ValueError for bundles that cannot share traffic."""
        arms = tuple(
            Arm(arm_name(place), loaded[digest].bundle, share)
            for place, (digest, share) in enumerate(desired.arms)
        )
        shadows = tuple(Arm(SHADOW, loaded[digest].bundle, 0.0) for digest in desired.shadows)
        _check_arms(desired, arms, shadows)

        manifest = arms[0].bundle.manifest
        online = self._online
        return View(
            desired=desired,
            arms=arms,
            shadows=shadows,
            contract=Contract(manifest, self._options.row_limit, self._options.text_limit),
            day=local_day(ZoneInfo(manifest.timezone)),
            online=online or _nothing_online(self.name),
            online_as_of=online.as_of.isoformat() if online else None,
            golden_ms=loaded[arms[0].bundle.digest].golden_ms,
            failures=self._failures,
        )

    # -- the online snapshot -------------------------------------------------------------------

    def _follow_online(self, retry: bool) -> None:
        online = stamp(self.folder / "online.msgpack")
        if online != self._online_stamp or (retry and self._online_error is not None):
            self._online_stamp = online
            self._take_online()

    def _take_online(self) -> None:
        place = self.folder / "online.msgpack"
        try:
            snapshot = online_file.unseal(place.read_bytes(), self._key, self.name)
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


def discover(options: Options, known: Mapping[str, object]) -> list[str]:
    """Names of pipelines that have a desired or a last served state and are not known yet."""
    found: set[str] = set()
    for folder, file in ((options.root, "desired.json"), (options.own, "served.json")):
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            continue
        for entry in entries:
            if entry.name not in known and _is_pipeline(entry) and (Path(entry) / file).exists():
                found.add(entry.name)

    return sorted(found)


def _is_pipeline(entry: os.DirEntry[str]) -> bool:
    named = PIPELINE_NAME.fullmatch(entry.name) and entry.name not in NOT_PIPELINES
    return bool(named) and entry.is_dir(follow_symlinks=False)


def _check_arms(desired: Desired, arms: tuple[Arm, ...], shadows: tuple[Arm, ...]) -> None:
    """Raises ValueError for bundles that cannot share the traffic of a desired state."""
    manifest = arms[0].bundle.manifest
    if desired.key and desired.key not in manifest.request:
        raise ValueError(
            f"key {desired.key!r} is no column of a request; those are "
            f"{', '.join(manifest.request)}"
        )

    for arm in (*arms[1:], *shadows):
        if arm.bundle.manifest.request != manifest.request:
            raise ValueError(
                f"bundles {manifest.pipeline} {arms[0].bundle.digest} and {arm.bundle.digest} "
                "want different requests; they cannot share traffic"
            )


def _nothing_online(pipeline: str) -> Snapshot:
    return Snapshot.empty(pipeline, date(1970, 1, 1), datetime(1970, 1, 1, tzinfo=UTC))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
