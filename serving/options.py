"""Settings of one server process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Limits keep one client from hurting the others: bytes of a body, rows of a request, characters of a text, seconds
    until a request must have arrived, open connections, bytes of headers."""

    root: Path
    public_key: Path
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    hosts: tuple[str, ...] = ()
    poll_seconds: float = 0.2
    retry_seconds: float = 2.0
    sample_seconds: float = 10.0
    notice_seconds: float = 0.3
    drain_seconds: float = 6.0
    request_seconds: float = 10.0
    idle_seconds: float = 65.0
    body_limit: int = 16 << 20
    header_limit: int = 32 << 10
    row_limit: int = 10_000
    text_limit: int = 1_000
    connection_limit: int = 2_000
    segment_bytes: int = 8 << 20
    sync_seconds: float = 0.2
