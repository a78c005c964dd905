"""Files of the endpoint: written whole or not at all, read without following links."""

from __future__ import annotations

import os
import re
import stat
import uuid
from pathlib import Path

Stamp = tuple[int, int, int]
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def write_atomically(target: Path, content: bytes, *, durable: bool = True) -> None:
    """Readers see the old content or the new, whatever dies. `durable` also survives a power cut.

    Raises OSError (disk full, say) with the old content intact and nothing left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(target.parent)


def stamp(path: Path) -> Stamp | None:
    """Changes with every atomic replacement of the file; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_folder(folder: Path, limit: int) -> dict[str, bytes]:
    """All files of a flat folder by name.

    Raises FileNotFoundError, and ValueError for anything but regular files with plain names (links,
    folders, devices, names that lead elsewhere) and for more than `limit` bytes in all.
    """
    contents: dict[str, bytes] = {}
    room = limit
    for name in sorted(path.name for path in folder.iterdir()):
        check_name(name)
        path = folder / name
        # Opened without following a link and without waiting for a pipe. What was opened is what is
        # checked and read.
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ValueError(
                f"{path} is no regular file ({error.strerror}); a bundle holds regular files alone"
            ) from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ValueError(f"{path} is no regular file; a bundle holds regular files alone")
        with open(descriptor, "rb") as file:
            content = file.read(room + 1)
        room -= len(content)
        if room < 0:
            raise ValueError(f"{folder} holds more than {limit} bytes, the limit of a bundle")
        contents[name] = content
    return contents


def check_name(name: str) -> None:
    """Raises ValueError for a file name that is not plain."""
    if not FILE_NAME.fullmatch(name):
        raise ValueError(
            f"file name {name!r} is not allowed; use up to 100 letters, digits, dots, dashes "
            "and underscores, no folders"
        )
