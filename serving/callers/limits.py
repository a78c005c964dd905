"""Rate limits of callers, exact over all workers.

The generic cell rate algorithm (ITU-T I.371, annex A) is a leaky bucket that needs one number for
each caller: the moment at which the bucket will be empty again. In any span of W seconds at most
`burst + W * per_second` requests pass, whichever workers they reach, because the number lies in
shared memory and is read and written under one lock. It counts whole nanoseconds, so that nothing
is rounded away.
"""

from __future__ import annotations

import fcntl
import hashlib
import struct
import threading
import time

from serving import memory

SLOTS = 1 << 15
"""Callers at the same time. A slot whose bucket is empty is free: a new caller's is empty too."""
PROBES = 64
_SLOT = struct.Struct("=16sq")
_UNTIL = struct.Struct("=q")


class RateLimits:
    """`descriptor` is of `RateLimits.create()`, the same for all workers."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory = memory.mapped(descriptor)
        self._thread = threading.Lock()
        self._names: dict[str, tuple[bytes, int]] = {}

    @staticmethod
    def create() -> int:
        return memory.create("limits", SLOTS * _SLOT.size)

    def take(self, caller: str, per_second: float, burst: int, now: int | None = None) -> float:
        """Admit one request of `caller` (0.0), or say after how many seconds the next one will be.

        `now` is in nanoseconds of the monotonic clock, which all processes of a machine share.
        """
        name, first = self._names.get(caller) or self._named(caller)
        interval = int(1e9 / per_second)
        with self._thread:
            # The lock belongs to the process and goes with it, however it ends.
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
            try:
                moment = time.monotonic_ns() if now is None else now
                place = self._find(name, first, moment)
                empty: int = max(moment, _SLOT.unpack_from(self._memory, place)[1])
                excess = empty - moment - (burst - 1) * interval
                if excess > 0:
                    return excess / 1e9
                _UNTIL.pack_into(self._memory, place + 16, empty + interval)
                return 0.0
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _named(self, caller: str) -> tuple[bytes, int]:
        name = hashlib.blake2b(caller.encode(), digest_size=16).digest()
        if len(self._names) >= SLOTS:
            self._names.clear()
        found = self._names[caller] = (name, int.from_bytes(name[:4], "big") % SLOTS)
        return found

    def _find(self, name: bytes, first: int, moment: int) -> int:
        """Offset of the caller's slot, or of one that is free.

        If all are busy, callers share the first: the limit is then stricter, never laxer.
        """
        free: int | None = None
        for step in range(PROBES):
            place = (first + step) % SLOTS * _SLOT.size
            owner, empty = _SLOT.unpack_from(self._memory, place)
            if owner == name:
                return place
            if empty <= moment and free is None:
                free = place
            if owner == bytes(16):
                break  # never used: the caller is not beyond it
        if free is None:
            return first * _SLOT.size
        _SLOT.pack_into(self._memory, free, name, 0)
        return free
