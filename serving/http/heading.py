"""What the headers of a request say to the endpoint. Every number in them is bounded before it is converted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serving.contract.refusal import Refusal

TIMEOUT_HEADER = b"x-request-timeout-ms"
# More digits than any length or time has that makes sense here, and far fewer than Python's limit for a conversion.
LENGTH_DIGITS = 18
_TIMEOUT_DIGITS = 9


@dataclass(slots=True)
class Heading:
    """`length` is that of the body where the client said it; `seconds` is the time for an answer that it asks for."""

    host: bytes = b""
    length: int | None = None
    kind: bytes = b""
    authorization: bytes = b""
    traceparent: bytes = b""
    seconds: float | None = None


def read_heading(headers: Iterable[tuple[bytes, bytes]]) -> Heading:
    """Raises Refusal for a value that makes no sense."""
    found = Heading()
    for name, value in headers:
        if name == b"content-length":
            found.length = whole_number(name, value, LENGTH_DIGITS, "length", "bytes")
        elif name == b"content-type":
            found.kind = value
        elif name == b"host":
            found.host = value
        elif name == b"authorization":
            found.authorization = value
        elif name == b"traceparent":
            found.traceparent = value
        elif name == TIMEOUT_HEADER:
            found.seconds = (
                whole_number(name, value, _TIMEOUT_DIGITS, "timeout", "milliseconds") / 1000
            )
        elif name == b"content-encoding" and value != b"identity":
            raise Refusal(415, "content_encoding", "Bodies must not be compressed.")
    return found


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
