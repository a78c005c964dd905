"""The landing folder: only files that are, byte for byte, what their sidecar says are read as data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from resources.landing import Landing, LandingError

DAY = date(2024, 1, 1)
CONTENT = b"a,b\n1,2\n"


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    return Landing(uri=str(tmp_path / "landing"))


def folder(landing: Landing) -> Path:
    return Path(landing.place("p", "s", DAY))


def test_a_complete_delivery_is_listed_and_read(landing: Landing) -> None:
    assert landing.put("p", "s", DAY, "x.csv", CONTENT)
    assert landing.put("p", "s", None, "once.csv", CONTENT)
    (delivery,) = landing.deliveries("p", "s")[DAY]
    assert (delivery.name, delivery.size, delivery.fault) == ("x.csv", len(CONTENT), None)
    assert delivery.digest == hashlib.sha256(CONTENT).hexdigest()
    assert landing.read("p", "s", DAY, delivery) == CONTENT
    assert landing.read("p", "s", None, landing.once("p", "s")[0]) == CONTENT
    assert landing.days("p", "s") == [DAY]


def test_landing_again_changes_nothing(landing: Landing) -> None:
    landing.put("p", "s", DAY, "x.csv", CONTENT)
    before = (folder(landing) / "x.csv").stat().st_ino
    assert not landing.put("p", "s", DAY, "x.csv", CONTENT)
    assert (folder(landing) / "x.csv").stat().st_ino == before
    assert landing.put("p", "s", DAY, "x.csv", b"a,b\n3,4\n")


def test_a_delivery_replaced_at_once_is_seen(landing: Landing) -> None:
    for content in (b"a,b\n1,2\n", b"a,b\n3,4\n", b"a,b\n5,6\n"):
        landing.put("p", "s", DAY, "x.csv", content)
        (delivery,) = landing.deliveries("p", "s")[DAY]
        assert landing.read("p", "s", DAY, delivery) == content


def test_nothing_has_landed_where_nothing_is(landing: Landing) -> None:
    assert landing.days("p", "s") == []
    assert landing.deliveries("p", "s") == {}
    assert landing.deliveries("p", "s", [DAY]) == {}
    assert landing.once("p", "s") == ()


def test_a_file_without_sidecar_has_not_landed_yet(landing: Landing) -> None:
    landing.put("p", "s", DAY, "x.csv", CONTENT)
    (folder(landing) / "x.csv.sha256").unlink()
    assert landing.days("p", "s") == []
    assert landing.deliveries("p", "s") == {}


@pytest.mark.parametrize(
    "name", [".x.csv.3f2a", "x.csv.part", "notes.txt", ".x.csv", ".x.csv.sha256"]
)
def test_other_files_are_no_deliveries(landing: Landing, name: str) -> None:
    folder(landing).mkdir(parents=True)
    (folder(landing) / name).write_bytes(CONTENT)
    assert landing.deliveries("p", "s") == {}


def test_folders_that_are_no_days_are_passed_over(landing: Landing) -> None:
    landing.put("p", "s", DAY, "x.csv", CONTENT)
    folder(landing).rename(folder(landing).with_name("2024-1-1"))
    assert landing.days("p", "s") == []


def half_written(folder: Path) -> None:
    (folder / "x.csv").write_bytes(CONTENT[:-3])


def emptied(folder: Path) -> None:
    (folder / "x.csv").write_bytes(b"")


def corrupt(folder: Path) -> None:
    (folder / "x.csv").write_bytes(CONTENT.replace(b"2", b"3"))


def renamed(folder: Path) -> None:
    (folder / "x.csv").rename(folder / "y.csv")


def renamed_with_its_sidecar(folder: Path) -> None:
    (folder / "x.csv").rename(folder / "y.csv")
    (folder / "x.csv.sha256").rename(folder / "y.csv.sha256")


def sidecar_cut_off(folder: Path) -> None:
    sidecar = folder / "x.csv.sha256"
    sidecar.write_bytes(sidecar.read_bytes()[:20])


def sidecar_of_another_file(folder: Path) -> None:
    (folder / "x.csv.sha256").write_text(f"{hashlib.sha256(b'other').hexdigest()}  x.csv\n")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (half_written, "half-written or corrupt"),
        (emptied, "empty"),
        (corrupt, "half-written or corrupt"),
        (renamed, "its sidecar is there, the file is not"),
        (renamed_with_its_sidecar, "renamed"),
        (sidecar_cut_off, "does not read"),
        (sidecar_of_another_file, "half-written or corrupt"),
    ],
)
def test_a_damaged_file_is_listed_and_refused_with_the_reason(
    landing: Landing, damage: Callable[[Path], None], reason: str
) -> None:
    landing.put("p", "s", DAY, "x.csv", CONTENT)
    damage(folder(landing))
    (delivery,) = landing.deliveries("p", "s")[DAY]
    with pytest.raises(
        LandingError, match=rf"2024-01-01/[xy]\.csv is refused: .*{reason}.*[Dd]eliver"
    ) as caught:
        landing.read("p", "s", DAY, delivery)
    assert "sidecar" in str(caught.value)


@pytest.mark.parametrize("name", ["x.txt", "a/x.csv", ".x.csv", "x.csv.sha256"])
def test_names_that_cannot_land_are_refused(landing: Landing, name: str) -> None:
    with pytest.raises(ValueError, match="cannot land"):
        landing.put("p", "s", DAY, name, CONTENT)
