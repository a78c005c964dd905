"""Who asks, and what they may: API keys from a file, or tokens (JWT) of an identity provider.

Both are looked up by the SHA-256 of what was sent: when a connection first sends it, and again when
the keys have changed. A token's signature is checked when the token is first seen. The key file and
the key set are followed: added keys work and revoked ones stop without a restart. Whatever goes
wrong with them, nobody is let in who was not let in before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bundle import api_keys
from bundle.files import stamp
from bundle.records import record
from serving.callers.tokens import TokenError, Tokens
from serving.contract.refusal import Refusal
from serving.options import Options

logger = logging.getLogger("serving")

CACHED_TOKENS = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the id of a key, or the subject of a token.

    `account` names the caller in the prediction log and in rate limits, `label` in metrics. No
    `pipelines` means all; `until` is Unix time.
    """

    account: str
    scopes: frozenset[str]
    pipelines: frozenset[str] = frozenset()
    until: float = float("inf")
    per_second: float | None = None
    burst: int = 1
    label: str = ""

    def permit(self, scope: str, pipeline: str | None = None) -> None:
        """Raises Refusal where this caller may not."""
        if scope not in self.scopes:
            raise Refusal(
                403, "scope", f"This key is not for this route; it needs the scope {scope}."
            )
        if pipeline is not None and self.pipelines and pipeline not in self.pipelines:
            raise Refusal(403, "pipeline", "This key is not for this pipeline.")


ANYONE = Caller(record.ANYONE, frozenset(api_keys.SCOPES))


class Access:
    """The callers that are let in.

    The event loop asks `caller_of` at every request. `refresh` runs in another thread and swaps
    whole dictionaries.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._place = options.keys
        self._stamp: object = ()
        self._keys: dict[bytes, Caller] = {}
        self._stored: tuple[api_keys.ApiKey, ...] = ()
        self._problem: str | None = None
        self._seen: dict[bytes, Caller] = {}
        self._tokens = Tokens(options.tokens) if options.tokens is not None else None
        self.refresh()

    @property
    def required(self) -> bool:
        """Whether a request needs a key.

        On a public address always. On loopback once there are keys, or tokens are accepted.
        """
        return bool(self._options.public or self._stored or self._problem or self._tokens)

    @property
    def stored(self) -> tuple[api_keys.ApiKey, ...]:
        """The keys of the file, in force or not, to be watched."""
        return self._stored

    def _caller(self, header: bytes) -> Caller:
        """Whoever sent this `Authorization` header. Raises Refusal 401.

        `Bearer KEY`, or what a browser sends when it asks its user: `Basic`, with the key as the
        password.
        """
        if not header:
            if self.required:
                raise Refusal(
                    401,
                    "key_missing",
                    "This route needs a key; send it as Authorization: Bearer KEY.",
                )
            return ANYONE
        kind, _, text = header.partition(b" ")
        kind = kind.lower()
        if kind == b"basic":
            text = _password(text)
        elif kind != b"bearer":
            raise Refusal(401, "key_kind", "Send the key as Authorization: Bearer KEY.")
        digest = hashlib.sha256(text).digest()
        found = self._keys.get(digest) or self._seen.get(digest)
        return found or self._token(digest, text)

    def caller_of(self, authorization: bytes) -> Caller:
        """Whoever sent this value of `Authorization` (empty: none was sent). Raises Refusal 401."""
        caller = self._caller(authorization)
        if caller.until <= time.time():
            raise Refusal(
                401, "key_expired", "This key has expired; ask its owner for the one that follows."
            )
        return caller

    def refresh(self) -> None:
        """Read a changed key file or key set. One that cannot be read is reported and not used.

        The keys read before stay in force.
        """
        if self._tokens is not None and self._tokens.refresh():
            self._seen = {}
        try:
            found = stamp(self._place)
            if found == self._stamp:
                return
            if found is None and self._stored:
                raise ValueError(
                    f"{self._place} is gone; the keys read before stay in force, and a restart "
                    "without it needs no key"
                )
            stored = api_keys.read(self._place).keys
        except (OSError, ValueError) as error:
            if str(error) != self._problem:
                logger.error("API keys: %s", error)
                self._problem = str(error)
            return
        self._stamp, self._problem = found, None
        self._keys, self._stored = _callers(stored), stored

    def _token(self, digest: bytes, text: bytes) -> Caller:
        if self._tokens is None or text.count(b".") != 2:
            raise Refusal(401, "key_unknown", "This key is unknown or revoked.")
        seen = self._seen  # a key set that changes meanwhile replaces it
        try:
            claims = self._tokens.verified(text)
        except TokenError as error:
            raise Refusal(401, "token", f"This token is not accepted: {error}.") from None
        limit = self._options.token_per_second
        found = Caller(
            account=f"token {claims.subject}",
            scopes=claims.scopes & ANYONE.scopes,
            pipelines=claims.pipelines,
            until=claims.until,
            per_second=limit,
            burst=max(1, round(limit or 1)),
            label="token",
        )
        if len(seen) >= CACHED_TOKENS:
            seen.clear()
        seen[digest] = found
        return found


def _callers(stored: Iterable[api_keys.ApiKey]) -> dict[bytes, Caller]:
    """Callers by the digest of their key, without revoked keys. Expiry is judged at a request."""
    return {bytes.fromhex(key.digest): _caller(key) for key in stored if key.revoked is None}


def _caller(key: api_keys.ApiKey) -> Caller:
    return Caller(
        account=key.id,
        scopes=frozenset(key.scopes),
        pipelines=frozenset(key.pipelines),
        until=key.expires.timestamp() if key.expires else float("inf"),
        per_second=key.per_second,
        burst=key.burst,
        label=key.id,
    )


def has_active(place: Path) -> bool:
    """Whether a key file lets anyone in now.

    Raises ValueError and OSError for one that cannot be read.
    """
    now = datetime.now(UTC)
    return any(key.state(now) == "active" for key in api_keys.read(place).keys)


def _password(text: bytes) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        raise Refusal(401, "key_kind", "Send the key as Authorization: Bearer KEY.") from None
