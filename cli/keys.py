"""`evergreen keys`: who may ask the endpoint.

Only hashes are stored. The text of a key is shown once, when it is made.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from bundle import api_keys
from bundle.api_keys import ApiKey, KeyFile
from cli.output import REFUSED, WRONG_USE, CommandError, say, table
from resources.settings import Settings

PLATFORM = "the platform itself"


def add(
    settings: Settings,
    owner: str,
    scopes: Sequence[str],
    pipelines: Sequence[str],
    days: float | None,
    per_second: float | None,
    burst: int | None,
    as_json: bool,
) -> None:
    """Make a key.

    With the first one, also the platform's own: from then on every request needs a key.
    """
    now = datetime.now(UTC)
    expires = None if days is None else now + timedelta(days=days)
    with api_keys.editing(settings.api_keys_path) as place:
        stored = _read(settings)
        try:
            key, text = api_keys.new(
                owner,
                scopes,
                now,
                pipelines=pipelines,
                expires=expires,
                per_second=per_second,
                burst=burst,
            )
        except ValueError as error:
            raise CommandError(str(error), WRONG_USE) from None
        own = () if stored.keys else (_own(settings, now),)
        api_keys.write(place, KeyFile((*stored.keys, *own, key)))
    say(
        {**_shown(key, now), "key": text},
        as_json,
        f"{text}\n\nThis is the only time it is shown. It is key {key.id} of {key.owner}, for "
        f"{', '.join(key.scopes)}; send it as\n"
        f"Authorization: Bearer {text}",
    )


def rotate(settings: Settings, identity: str, overlap: timedelta, as_json: bool) -> None:
    """Replace a key by a new one with the same rights.

    The old one works until the overlap is over.
    """
    now = datetime.now(UTC)
    with api_keys.editing(settings.api_keys_path) as place:
        stored = _read(settings)
        try:
            changed, key, text = api_keys.rotated(stored, identity, now, overlap)
        except LookupError as error:
            raise CommandError(str(error.args[0]), REFUSED) from None
        api_keys.write(place, changed)
        if key.owner == PLATFORM:
            _keep(settings, text)
    old = api_keys.find(changed, identity)
    until = old.expires.isoformat(timespec="seconds") if old.expires else "revoked"
    say(
        {**_shown(key, now), "key": text, "replaces": identity, "until": until},
        as_json,
        f"{text}\n\nKey {identity} works until {until}.",
    )


def revoke(settings: Settings, identity: str, as_json: bool) -> None:
    """Stop a key from working, within a second."""
    now = datetime.now(UTC)
    with api_keys.editing(settings.api_keys_path) as place:
        try:
            changed = api_keys.revoked(_read(settings), identity, now)
        except LookupError as error:
            raise CommandError(str(error.args[0]), REFUSED) from None
        api_keys.write(place, changed)
    key = api_keys.find(changed, identity)
    say(_shown(key, now), as_json, f"key {identity} of {key.owner} no longer works")


def show(settings: Settings, as_json: bool) -> None:
    """All keys, those that no longer work included."""
    now = datetime.now(UTC)
    keys = _read(settings).keys
    if as_json:
        say([_shown(key, now) for key in keys], True)
        return
    if not keys:
        say(
            {},
            False,
            "no keys; requests on this machine need none. `evergreen keys add` makes the first.",
        )
        return
    table(
        ("key", "owner", "may", "pipelines", "limit", "expires", "state"),
        [
            (
                key.id, key.owner, ", ".join(key.scopes), ", ".join(key.pipelines) or "all",
                "none" if key.per_second is None else f"{key.per_second:g}/s, {key.burst} at once",
                key.expires.isoformat(" ", "minutes") if key.expires else "never", key.state(now),
            )
            for key in keys
        ],
    )  # fmt: skip


def _shown(key: ApiKey, now: datetime) -> dict[str, object]:
    """A key without its hash, JSON-ready."""
    found: dict[str, object] = msgspec.to_builtins(key)
    del found["digest"]
    return {**found, "state": key.state(now)}


def _read(settings: Settings) -> KeyFile:
    try:
        return api_keys.read(settings.api_keys_path)
    except (ValueError, OSError) as error:
        raise CommandError(str(error), REFUSED) from None


def _own(settings: Settings, now: datetime) -> ApiKey:
    """A key for the platform's own questions, kept where its private key is."""
    key, text = api_keys.new(PLATFORM, api_keys.SCOPES, now)
    _keep(settings, text)
    return key


def _keep(settings: Settings, text: str) -> None:
    """Write the platform's key for its own user alone, whole or not at all."""
    place = settings.endpoint_key_path
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, place)
