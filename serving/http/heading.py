"""What the headers of a request say to the endpoint.

Every number in them is bounded before it is converted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from serving.contract.refusal import Refusal

IDENTITY = b"identity"
TIMEOUT_HEADER = b"x-request-timeout-ms"
# More digits than any sensible length has, and far fewer than Python's limit for a conversion.
LENGTH_DIGITS = 18
_TIMEOUT_DIGITS = 9


class Heading(NamedTuple):
    """What the headers say.

    `length` is that of the body, where the client said it. `seconds` is the time for an answer that
    it asks for.
    """

    host: bytes
    length: int | None
    kind: bytes
    authorization: bytes
    traceparent: bytes
    seconds: float | None


def read_heading(headers: Mapping[bytes, bytes]) -> Heading:
    """Raises Refusal for a value that makes no sense."""
    get = headers.get
    if get(b"content-encoding", IDENTITY) != IDENTITY:
        raise Refusal(415, "content_encoding", "Bodies must not be compressed.")

    length = get(b"content-length")
    timeout = get(TIMEOUT_HEADER)
    return Heading(
        get(b"host", b""),
        None
        if length is None
        else whole_number(b"content-length", length, LENGTH_DIGITS, "length", "bytes"),
        get(b"content-type", b""),
        get(b"authorization", b""),
        get(b"traceparent", b""),
        None if timeout is None else _seconds(timeout),
    )


def _seconds(timeout: bytes) -> float:
    return whole_number(TIMEOUT_HEADER, timeout, _TIMEOUT_DIGITS, "timeout", "milliseconds") / 1000


def whole_number(name: bytes, value: bytes, digits: int, rule: str, unit: str) -> int:
    """The value of a header as a number of at most so many digits. Raises Refusal."""
    if not value.isdigit() or len(value) > digits:
        field = name.decode()
        raise Refusal(
            400,
            rule,
            f"{field} must be a whole number of {unit}, of {digits} digits at most.",
            field,
        )
    return int(value)
