"""API keys of an endpoint as they are stored: who may ask for what, and never the key itself.

A key is `evergreen_<id>_<secret>`: the id names it in files, logs and metrics, the secret holds 256
random bits. Stored is the SHA-256 of the whole text. Slow password hashes protect secrets that can
be guessed; 2^256 guesses cannot be made, so a slow hash would only cost the endpoint milliseconds a
request.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

import msgspec

from bundle.files import write_atomically

Scope = Literal["predict", "explain", "metadata", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
KEY = re.compile(r"evergreen_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
FILE = "api_keys.json"


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key and its rights.

    It may ask `pipelines` (none: all), `per_second` requests on average (None: no limit), `burst`
    at once. Moments are UTC.
    """

    id: str
    digest: str
    owner: str
    scopes: tuple[Scope, ...]
    created: datetime
    pipelines: tuple[str, ...] = ()
    expires: datetime | None = None
    revoked: datetime | None = None
    per_second: float | None = None
    burst: int = 1

    def state(self, moment: datetime) -> Literal["active", "expired", "revoked"]:
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= moment else "active"


class KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All keys that were ever made and not removed, oldest first.

    Once there is one, every request needs a key.
    """

    keys: tuple[ApiKey, ...] = ()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def new(
    owner: str,
    scopes: Iterable[str],
    now: datetime,
    *,
    pipelines: Iterable[str] = (),
    expires: datetime | None = None,
    per_second: float | None = None,
    burst: int | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its text, which is shown once. A burst defaults to one second's worth.

    Raises ValueError for an unknown scope, a missing owner, or a limit that admits nothing.
    """
    wanted = tuple(dict.fromkeys(scopes))
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown or not wanted:
        raise ValueError(
            f"scopes {', '.join(unknown) or 'none'} are not possible; "
            f"use one or more of {', '.join(SCOPES)}"
        )
    if not owner.strip():
        raise ValueError("a key needs an owner: whom to ask when it is misused")
    if per_second is not None and not 0 < per_second <= 1e6:
        raise ValueError(
            f"{per_second:g} requests a second is no limit; give more than 0 and at most 1,000,000"
        )
    if burst is not None and (per_second is None or not 1 <= burst <= 10**6):
        raise ValueError(
            f"a burst of {burst} is not possible; give 1 to 1,000,000, "
            "and the requests a second that it belongs to"
        )
    if expires is not None and expires <= now:
        raise ValueError(
            f"a key that expires at {expires.isoformat()} would never work; give a later moment"
        )
    identity = secrets.token_hex(6)
    text = f"evergreen_{identity}_{secrets.token_urlsafe(32)}"
    at_once = max(1, round(per_second)) if per_second is not None else 1
    key = ApiKey(
        id=identity,
        digest=digest(text),
        owner=owner,
        scopes=wanted,  # type: ignore[arg-type]
        created=now,
        pipelines=tuple(pipelines),
        expires=expires,
        per_second=per_second,
        burst=at_once if burst is None else burst,
    )
    return key, text


def rotated(
    stored: KeyFile, identity: str, now: datetime, overlap: timedelta
) -> tuple[KeyFile, ApiKey, str]:
    """The same rights under a new key, which lives as long as the old one was meant to.

    The old one works until `now + overlap`.

    Raises LookupError for a key that is not there or not active.
    """
    old = find(stored, identity)
    if old.state(now) != "active":
        raise LookupError(f"key {identity} is {old.state(now)}; add a new one instead")
    lifetime = old.expires - old.created if old.expires is not None else None
    made, text = new(
        old.owner,
        old.scopes,
        now,
        pipelines=old.pipelines,
        expires=now + lifetime if lifetime else None,
        per_second=old.per_second,
        burst=old.burst if old.per_second is not None else None,
    )
    end = now + overlap if old.expires is None else min(old.expires, now + overlap)
    return (
        KeyFile((*replaced(stored, msgspec.structs.replace(old, expires=end)).keys, made)),
        made,
        text,
    )


def revoked(stored: KeyFile, identity: str, now: datetime) -> KeyFile:
    """The keys with one revoked; a key that was revoked before stays so. Raises LookupError."""
    old = find(stored, identity)
    return stored if old.revoked else replaced(stored, msgspec.structs.replace(old, revoked=now))


def find(stored: KeyFile, identity: str) -> ApiKey:
    """Raises LookupError."""
    for key in stored.keys:
        if key.id == identity:
            return key
    raise LookupError(f"there is no key {identity}; `evergreen keys list` shows them")


def replaced(stored: KeyFile, changed: ApiKey) -> KeyFile:
    return KeyFile(tuple(changed if key.id == changed.id else key for key in stored.keys))


def read(place: Path) -> KeyFile:
    """The stored keys; none where there is no file.

    Raises ValueError for a file that is not one of keys, and OSError.
    """
    try:
        return msgspec.json.decode(place.read_bytes(), type=KeyFile)
    except FileNotFoundError:
        return KeyFile()
    except msgspec.DecodeError as error:
        raise ValueError(
            f"{place} holds no API keys ({error}); restore it from a backup"
        ) from error


def header(place: Path) -> dict[str, str]:
    """How a request shows the key whose text lies in a file; nothing where there is no file.

    Raises OSError for a file that this user may not read.
    """
    try:
        return {"authorization": f"Bearer {place.read_text().strip()}"}
    except FileNotFoundError:
        return {}


@contextmanager
def editing(place: Path) -> Iterator[Path]:
    """Hold the lock under which a key file is read, changed and written."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.with_name(f".{place.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield place


def write(place: Path, stored: KeyFile) -> None:
    """Replace the file atomically. Raises OSError."""
    write_atomically(place, msgspec.json.format(msgspec.json.encode(stored), indent=1) + b"\n")
