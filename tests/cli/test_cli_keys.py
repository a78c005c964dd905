"""`evergreen keys`: what is shown, what is stored, and what each command leaves behind."""

from __future__ import annotations

import hashlib
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bundle import api_keys
from cli.keys import PLATFORM
from cli.main import app
from resources.settings import settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVERGREEN_HOME", str(tmp_path))
    settings.cache_clear()
    return tmp_path


def keys(*words: str, status: int = 0) -> Any:
    """What a command says with --json."""
    result = CliRunner().invoke(app, ["keys", *words, "--json"])
    assert result.exit_code == status, result.output
    return json.loads(result.stdout if status == 0 else result.stderr)


def stored() -> dict[str, api_keys.ApiKey]:
    return {key.id: key for key in api_keys.read(settings().api_keys_path).keys}


def test_a_key_is_shown_once_and_stored_as_its_hash() -> None:
    made = keys(
        "add",
        "--owner",
        "team:shop",
        "--scope",
        "predict",
        "-p",
        "toy",
        "--days",
        "30",
        "--per-second",
        "5",
    )
    assert api_keys.KEY.fullmatch(made["key"])
    key = stored()[made["id"]]
    assert key.digest == hashlib.sha256(made["key"].encode()).hexdigest()
    assert (key.owner, key.scopes, key.pipelines, key.per_second, key.burst) == (
        "team:shop",
        ("predict",),
        ("toy",),
        5.0,
        5,
    )
    assert key.expires is not None
    assert abs(key.expires - datetime.now(UTC) - timedelta(days=30)) < timedelta(hours=1)
    secret = made["key"].rsplit("_", 1)[1]
    assert not any(secret in place.read_text() for place in settings().keys_path.iterdir())
    listed = {found["id"]: found for found in keys("list")}
    assert listed[made["id"]]["state"] == "active"
    assert not {"digest", "key"} & listed[made["id"]].keys()


def test_with_the_first_key_the_platform_gets_its_own() -> None:
    assert keys("list") == []
    assert api_keys.header(settings().endpoint_key_path) == {}
    keys("add", "--owner", "first")
    keys("add", "--owner", "second")
    own = [key for key in stored().values() if key.owner == PLATFORM]
    assert [key.scopes for key in own] == [api_keys.SCOPES]
    text = settings().endpoint_key_path.read_text().strip()
    assert api_keys.digest(text) == own[0].digest
    assert api_keys.header(settings().endpoint_key_path) == {"authorization": f"Bearer {text}"}
    assert stat.S_IMODE(settings().endpoint_key_path.stat().st_mode) == 0o600
    # Rotated, the platform goes on with the new one by itself.
    made = keys("rotate", own[0].id)
    assert settings().endpoint_key_path.read_text().strip() == made["key"]


def test_a_rotated_key_overlaps_and_keeps_its_rights() -> None:
    old = keys(
        "add",
        "--owner",
        "team:shop",
        "--scope",
        "explain",
        "--per-second",
        "2",
        "--burst",
        "9",
        "--days",
        "10",
    )
    new = keys("rotate", old["id"], "--overlap", "2")
    before, after = stored()[old["id"]], stored()[new["id"]]
    assert new["key"] != old["key"]
    assert new["replaces"] == old["id"]
    for name in ("owner", "scopes", "pipelines", "per_second", "burst"):
        assert getattr(before, name) == getattr(after, name)
    now = datetime.now(UTC)
    assert before.state(now) == after.state(now) == "active"
    assert before.state(now + timedelta(hours=3)) == "expired"
    assert after.state(now + timedelta(days=9)) == "active"
    assert after.state(now + timedelta(days=11)) == "expired"
    ended = keys("rotate", new["id"], "--overlap", "0")
    assert stored()[new["id"]].state(datetime.now(UTC)) == "expired"
    assert stored()[ended["id"]].state(datetime.now(UTC)) == "active"


def test_a_revoked_key_stays_on_the_list() -> None:
    made = keys("add", "--owner", "team:shop")
    assert keys("revoke", made["id"])["state"] == "revoked"
    moment = stored()[made["id"]].revoked
    assert keys("revoke", made["id"])["state"] == "revoked"
    assert stored()[made["id"]].revoked == moment
    assert "revoked" in keys("rotate", made["id"], status=5)["error"]


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (("add", "--owner", " "), 2, "owner"),
        (("add", "--owner", "x", "--scope", "everything"), 2, "everything"),
        (("add", "--owner", "x", "--per-second", "0"), 2, "0 requests a second"),
        (("add", "--owner", "x", "--burst", "3"), 2, "burst"),
        (("add", "--owner", "x", "--days", "-1"), 2, "expires"),
        (("rotate", "0" * 12, "--overlap", "-1"), 2, "--overlap"),
        (("rotate", "0" * 12), 5, "0" * 12),
        (("revoke", "0" * 12), 5, "0" * 12),
    ],
)
def test_wrong_use_changes_nothing_and_names_the_way_out(
    words: tuple[str, ...], status: int, named: str
) -> None:
    assert named in keys(*words, status=status)["error"]
    assert stored() == {}


def test_a_damaged_file_is_never_overwritten() -> None:
    place = settings().api_keys_path
    place.parent.mkdir(parents=True)
    place.write_text('{"keys": [')
    assert "restore" in keys("add", "--owner", "x", status=5)["error"]
    assert place.read_text() == '{"keys": ['


def test_keys_made_at_once_are_all_kept() -> None:
    from cli.keys import add

    with ThreadPoolExecutor(8) as many:
        list(
            many.map(
                lambda number: add(
                    settings(), f"owner-{number}", ["predict"], [], None, None, None, True
                ),
                range(24),
            )
        )
    owners = [key.owner for key in stored().values()]
    assert sorted(owners) == sorted([PLATFORM, *(f"owner-{number}" for number in range(24))])
