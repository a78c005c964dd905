"""Atomic file writes on a local disk or object storage (fsspec)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from bundle import files as local


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URI, and the path within it."""
    import fsspec

    fs, path = fsspec.core.url_to_fs(uri)
    return fs, path


def is_local(uri: str) -> bool:
    """Whether a URI names a place on this machine's disks."""
    return "://" not in uri or uri.startswith("file://")


def write_atomically(uri: str, content: bytes) -> None:
    """Write a file so that readers see the old content or the new, whatever dies.

    Local files are written beside their place, flushed to disk and renamed; an object-storage put
    is atomic by itself. Raises OSError (disk full, say) with the old content intact.
    """
    fs, path = filesystem(uri)
    if is_local(uri):
        local.write_atomically(Path(path), content)
    else:
        fs.pipe_file(path, content)


def read(uri: str) -> bytes:
    """The content of a file. Raises FileNotFoundError."""
    fs, path = filesystem(uri)
    content: bytes = fs.cat_file(path)
    return content


def exists(uri: str) -> bool:
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


def names(uri: str) -> list[str]:
    """Names of what a folder holds, as of now. Raises FileNotFoundError."""
    if is_local(uri):
        return [entry.name for entry in Path(filesystem(uri)[1]).iterdir()]
    fs, path = filesystem(uri)
    # Object stores may answer from a listing cache; what another process wrote must be seen.
    fs.invalidate_cache(path)
    return [name.rsplit("/", 1)[-1] for name in fs.ls(path, detail=False)]


def delete(uri: str) -> None:
    """Delete a file; one that is gone already is no error."""
    fs, path = filesystem(uri)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)
