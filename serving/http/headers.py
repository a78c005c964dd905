"""Headers of the endpoint's answers, and refusals as answers."""

from __future__ import annotations

import math

import msgspec

from serving.contract.refusal import MethodRefusal, Refusal
from serving.http.answers import CLOSE, Answer, Headers, Pair

POLICY = b"content-security-policy"
SECURITY: tuple[Pair, ...] = (
    (b"cache-control", b"no-store"),
    (POLICY, b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
STRICT_TRANSPORT: Pair = (b"strict-transport-security", b"max-age=31536000")


def typed(kind: bytes) -> Headers:
    """Headers of an answer with a body of this media type."""
    return Headers((b"content-type", kind), *SECURITY)


JSON = typed(b"application/json")
BINARY = typed(b"application/octet-stream")

_json = msgspec.json.Encoder().encode


def refused(refusal: Refusal, *, browser: bool) -> Answer:
    """A refusal as an answer. `browser` makes a browser ask its user for a missing key."""
    headers = JSON
    if isinstance(refusal, MethodRefusal):
        headers = JSON.and_((b"allow", refusal.allowed.encode()))
    elif refusal.status == 401:
        schemes = b'Basic realm="evergreen", Bearer' if browser else b'Bearer realm="evergreen"'
        headers = JSON.and_((b"www-authenticate", schemes))
    elif refusal.status in (429, 503):
        headers = JSON.and_((b"retry-after", b"%d" % max(1, math.ceil(refusal.wait))))
    elif refusal.status in (408, 413):
        # The rest of the body is not read, so the connection cannot be used again.
        headers = JSON.and_(CLOSE)

    content = {"error": refusal.error, "field": refusal.field, "rule": refusal.rule}
    return Answer(refusal.status, headers, _json(content))
