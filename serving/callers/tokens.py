"""Tokens of an identity provider (JWT, RFC 7519), verified by its key set (JWKS, RFC 7517).

Only algorithms on the list are accepted, all of them asymmetric: `none` and HMAC, with which a
public key would be a password, cannot be put on it. Issuer, audience, subject and expiry are
required. Rights come from the claim `scope` (RFC 8693: names separated by spaces) and, to narrow
them, `pipelines` (a list of names).
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bundle.files import stamp
from serving.options import TokenRules

if TYPE_CHECKING:
    from jwt import PyJWK

logger = logging.getLogger("serving")

REFRESH_SECONDS = 300.0
HASTE_SECONDS = 10.0
"""How soon a key set is fetched again because of a token whose key is not in it."""
LEEWAY_SECONDS = 10
TIMEOUT = 5.0


class TokenError(ValueError):
    """Why a token is not accepted, in words that repeat nothing of it."""


@dataclass(frozen=True)
class Claims:
    subject: str
    scopes: frozenset[str]
    pipelines: frozenset[str]
    until: float


class Tokens:
    """`verified` is called by the event loop, `refresh` beside it."""

    def __init__(self, rules: TokenRules) -> None:
        self._rules = rules
        self._keys: dict[str | None, PyJWK] = {}
        self._content = b""
        self._stamp: object = None
        self._due = 0.0
        self._hasty = 0.0
        self._problem: str | None = None

    def refresh(self) -> bool:
        """Read a changed file, or ask the URL when that is due. A failure leaves the old keys.

        Returns whether the keys changed.
        """
        now = time.monotonic()
        try:
            if urlsplit(self._rules.jwks).scheme in ("http", "https"):
                if now < self._due:
                    return False
                self._due = now + REFRESH_SECONDS
                content = _fetched(self._rules.jwks)
            else:
                place = Path(self._rules.jwks)
                found = stamp(place)
                if found == self._stamp:
                    return False
                content = place.read_bytes()
                self._stamp = found
            keys = _key_set(content, self._rules.algorithms)
        except (OSError, ValueError) as error:
            self._due = min(self._due, now + HASTE_SECONDS)
            if str(error) != self._problem:
                logger.error(
                    "key set %s: %s; the keys read before stay in force", self._rules.jwks, error
                )
            self._problem = str(error)
            return False
        changed = content != self._content
        self._problem, self._content, self._keys = None, content, keys
        return changed

    def verified(self, token: bytes) -> Claims:
        """Raises TokenError."""
        import jwt

        try:
            head = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise TokenError("it is malformed") from None
        algorithm = head.get("alg")
        if algorithm not in self._rules.algorithms:
            raise TokenError("its algorithm is not allowed")
        key = self._keys.get(head.get("kid"))
        if key is None:
            now = time.monotonic()
            if now >= self._hasty:
                # The provider may have rotated its keys: the next refresh asks it.
                self._hasty, self._due = now + HASTE_SECONDS, 0.0
            raise TokenError("the key set has no key for it")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name] if algorithm == key.algorithm_name else [],
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise TokenError("it has expired") from None
        except jwt.InvalidAudienceError:
            raise TokenError("it is for another audience") from None
        except jwt.InvalidIssuerError:
            raise TokenError("it is of another issuer") from None
        except jwt.MissingRequiredClaimError:
            raise TokenError("it lacks one of exp, iss, aud, sub") from None
        except (jwt.InvalidTokenError, ValueError, TypeError):
            raise TokenError("its signature or its claims are not valid") from None
        scope, pipelines = claims.get("scope", ""), claims.get("pipelines", [])
        if (
            not isinstance(scope, str)
            or not isinstance(pipelines, list)
            or not all(isinstance(name, str) for name in pipelines)
        ):
            raise TokenError("its claims scope or pipelines are malformed")
        if "pipelines" in claims and not pipelines:
            raise TokenError("it names no pipeline")
        return Claims(
            str(claims["sub"]),
            frozenset(scope.split()),
            frozenset(pipelines),
            float(claims["exp"]) + LEEWAY_SECONDS,
        )


def _key_set(content: bytes, algorithms: tuple[str, ...]) -> dict[str | None, PyJWK]:
    """Signing keys by id, without those that are unreadable, or for another use or algorithm.

    Raises ValueError when none is left.
    """
    import jwt

    found: dict[str | None, PyJWK] = {}
    try:
        entries = json.loads(content)["keys"]
    except (ValueError, KeyError, TypeError):
        raise ValueError("it is no JSON Web Key Set") from None
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry)
        except jwt.PyJWTError:
            continue
        if key.algorithm_name in algorithms:
            found[key.key_id] = key
    if not found:
        raise ValueError(f"it holds no signing key for {', '.join(algorithms)}")
    return found


def _fetched(url: str) -> bytes:
    """Raises OSError."""
    import httpx

    try:
        answer = httpx.get(url, timeout=TIMEOUT, follow_redirects=False)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise OSError(f"it cannot be fetched ({error})") from error
    return answer.content
