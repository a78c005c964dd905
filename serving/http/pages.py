"""The pages of the admin port, which show people what the endpoint offers.

They read `/openapi.json` and nothing else.
"""

from __future__ import annotations

from pathlib import Path

from serving.http.answers import Answer, Headers
from serving.http.headers import POLICY, SECURITY

_FOLDER = Path(__file__).parent / "docs"
_KINDS = {
    "/docs": ("docs.html", b"text/html; charset=utf-8"),
    "/docs.js": ("docs.js", b"text/javascript"),
    "/docs.css": ("docs.css", b"text/css"),
}
PATHS = frozenset(_KINDS)

_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    b"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def load() -> dict[str, Answer]:
    """The answers of all pages, by path."""
    security = [pair for pair in SECURITY if pair[0] != POLICY]
    return {
        path: Answer(
            200,
            Headers((b"content-type", kind), (POLICY, _POLICY), *security),
            (_FOLDER / name).read_bytes(),
        )
        for path, (name, kind) in _KINDS.items()
    }
