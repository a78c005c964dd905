"""What `up` says of landed files without a checksum."""

from __future__ import annotations

from pathlib import Path

from cli.platform.landed import PAUSE, UnannouncedFiles
from resources.landing import Landing


def test_a_file_that_waits_at_two_looks_is_told_once(tmp_path: Path) -> None:
    now = 0.0
    landing = Landing(uri=str(tmp_path))
    looks = UnannouncedFiles(landing, ["toy"], lambda: now)
    assert looks.lines() == []

    place = tmp_path / "toy" / "jobs" / "2024-01-01"
    place.mkdir(parents=True)
    (place / "jobs.csv").write_text("id\n")
    (place / ".jobs.csv.part").write_text("id\n")
    now += PAUSE
    assert looks.lines() == [], "it may be landing just now"
    now += PAUSE / 2
    assert looks.lines() == []
    now += PAUSE
    (line,) = looks.lines()
    assert line.startswith("toy: 1 file waits for its checksum")
    assert line.endswith(str(place / "jobs.csv"))
    now += PAUSE
    assert looks.lines() == []

    landing.put("toy", "jobs", None, "other.csv", b"id\n")
    (place / "jobs.csv.sha256").write_text("0" * 64 + "  jobs.csv\n")
    assert landing.unannounced("toy") == []
