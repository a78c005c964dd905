"""A full disk during a lake write: the write fails, the old version stays readable, and the next write works again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from resources import files
from resources.lake import Lake

FIRST = date(2024, 1, 1)
DAYS = [FIRST + timedelta(days=offset) for offset in range(3)]
LIMIT = 1 << 20


def rows(days: list[date], count: int, seed: int) -> pl.DataFrame:
    """Rows that no compression makes small."""
    noise = [os.urandom(16).hex() for _ in range(count * len(days))]
    return pl.DataFrame(
        {"date": [day for day in days for _ in range(count)], "noise": noise, "seed": seed}
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path | None]:
    """A disk of 1 MiB; None where mounting one is not permitted."""
    place = tmp_path / "disk"
    place.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    mounted = (
        mount is not None
        and umount is not None
        and subprocess.run(
            [mount, "-t", "tmpfs", "-o", f"size={LIMIT}", "tmpfs", str(place)],
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )
    try:
        yield place if mounted else None
    finally:
        if mounted and umount is not None:
            subprocess.run([umount, "-l", str(place)], check=False)


def test_the_old_version_stays_readable_on_a_full_disk(disk: Path | None, tmp_path: Path) -> None:
    lake = Lake(uri=str(disk or tmp_path / "lake"))
    lake.write("t", rows(DAYS, 100, seed=1), DAYS)
    before = lake.read("t").sort("date", "noise")
    if disk is not None:
        with pytest.raises(OSError, match=r"(?i)no space|space left|os error 28"):
            lake.write("t", rows(DAYS, 20_000, seed=2), DAYS)
    else:
        write_under_a_file_size_limit(lake)
    assert lake.version("t") == 0
    assert lake.read("t").sort("date", "noise").equals(before)
    assert lake.days("t") == DAYS
    # What the failed write left behind goes, and the lake works on.
    lake.vacuum("t", keep_hours=0)
    lake.write("t", rows(DAYS[:1], 100, seed=3), DAYS[:1])
    assert lake.read("t").group_by("seed").len().sort("seed").rows() == [(1, 200), (3, 100)]


def write_under_a_file_size_limit(lake: Lake) -> None:
    """The nearest thing to a full disk without a mount: a process whose files may not grow, as disk quotas do it."""
    script = f"""
        import resource, signal, sys
        from datetime import date, timedelta
        from tests.faults.test_full_disk import DAYS, rows
        from resources.lake import Lake
        frame = rows(DAYS, 20_000, seed=2)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT // 4}, {LIMIT // 4}))
        try:
            Lake(uri={lake.uri!r}).write("t", frame, DAYS)
        except Exception as error:
            sys.exit(f"refused: {{error}}")
    """
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "refused: " in result.stderr


def test_atomic_files_keep_their_old_content_under_a_file_size_limit(tmp_path: Path) -> None:
    place = tmp_path / "file"
    files.write_atomically(str(place), b"old")
    script = f"""
        import resource, signal, sys
        from resources import files
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            files.write_atomically({str(place)!r}, b"x" * 5000)
        except OSError as error:
            sys.exit(f"refused: {{error}}")
    """
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, "refused: " in result.stderr) == (1, True)
    assert place.read_bytes() == b"old"
    assert {file.name for file in tmp_path.iterdir()} <= {"file", "evergreen"}
