"""Memory that the workers of one server share: rate limits and counts that hold over all of them.

It is anonymous (`memfd_create`): nothing to clean up, nothing stale after a restart. Workers
inherit the descriptor.
"""

from __future__ import annotations

import mmap
import os


def create(name: str, size: int) -> int:
    """Descriptor of `size` zero bytes. Raises OSError."""
    descriptor = os.memfd_create(f"evergreen-{name}", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    return descriptor


def mapped(descriptor: int) -> memoryview:
    """The bytes behind a descriptor, shared with every process that maps it."""
    return memoryview(mmap.mmap(descriptor, os.fstat(descriptor).st_size))
