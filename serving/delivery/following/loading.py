"""Loading a bundle: verified, tried out, and never twice by a worker that it ends."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import NamedTuple

from bundle.manifest import Bundle, folder_files, from_files, verify
from serving.delivery.following.rehearsal import rehearse, try_out
from serving.options import Options
from serving.watch.identity import alive

logger = logging.getLogger("serving")


class Loaded(NamedTuple):
    """A bundle that predicts its golden rows, and the mean time of one of them in milliseconds."""

    bundle: Bundle
    golden_ms: float


class BundleRefusedError(ValueError):
    """A bundle that cannot be served; `bundle` is its digest, and the text names it and why."""

    def __init__(self, bundle: str, why: str) -> None:
        super().__init__(why if bundle in why else f"bundle {bundle}: {why}")
        self.bundle = bundle


class Loader:
    """Loads the bundles of one pipeline for one worker."""

    def __init__(
        self, pipeline: str, options: Options, public_key: bytes, worker: str, stop: threading.Event
    ) -> None:
        self._pipeline, self._options, self._worker = pipeline, options, worker
        self._key, self._stop = public_key, stop
        self._own = options.own / pipeline

    def load(self, digest: str, *, rehearsed: bool) -> Loaded:
        """Load and try out a bundle. Raises BundleRefusedError.

        `rehearsed` has a process of its own load it first, as is done for one that a worker ended
        over.
        """
        folder = self._options.root / "bundles" / digest
        with self._marked(digest) as ended_a_worker:
            try:
                files = folder_files(folder)
                if rehearsed or ended_a_worker:
                    verify(files, self._key, digest)
                    rehearse(folder, self._options.public_key, digest, self._stop)

                bundle = from_files(files, self._key, digest)
                named = bundle.manifest.pipeline
                if named != self._pipeline:
                    raise ValueError(f"it is of pipeline {named!r}, not of {self._pipeline!r}")
                golden_ms = try_out(bundle)
            except ValueError as error:
                raise BundleRefusedError(digest, str(error)) from error

        engine = bundle.model.engine
        logger.info(
            "%s: bundle %s computes up to %d rows by the %s engine",
            self._pipeline,
            digest[:12],
            engine.crossover,
            engine.name,
        )
        return Loaded(bundle, golden_ms)

    @contextlib.contextmanager
    def _marked(self, digest: str) -> Iterator[bool]:
        """A file says that a bundle is being loaded; one that is left says that a process ended."""
        prefix = f".loading-{digest}-"
        left = [
            place
            for place in self._own.glob(f"{prefix}*")
            if not alive(place.name.removeprefix(prefix))
        ]
        mine = self._own / f"{prefix}{self._worker}"
        mine.touch()
        try:
            yield bool(left)
            for place in left:
                place.unlink(missing_ok=True)
        finally:
            mine.unlink(missing_ok=True)
