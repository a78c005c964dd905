"""Settings of one server process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bundle.records.writer import RESERVE_BYTES, SEGMENT_BYTES, SEGMENT_SECONDS, SYNC_SECONDS

ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
"""Those that can be allowed; the first of each family is what providers use."""
DEFAULT_ALGORITHMS = ("RS256", "ES256", "EdDSA")


@dataclass(frozen=True)
class TokenRules:
    """Which tokens are accepted. `jwks` is a file, or a URL (https, or http on this machine).

    Raises ValueError for rules that would protect nothing.
    """

    jwks: str
    issuer: str
    audience: str
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS

    def __post_init__(self) -> None:
        wrong = [name for name in self.algorithms if name not in ALGORITHMS]
        if wrong or not self.algorithms:
            raise ValueError(
                f"token algorithm {', '.join(wrong) or 'none'} cannot be allowed; choose from "
                f"{', '.join(ALGORITHMS)}"
            )
        if not self.issuer or not self.audience:
            raise ValueError(
                "a key set needs the issuer and the audience that its tokens must name; give "
                "--jwt-issuer and --jwt-audience"
            )
        url = urlsplit(self.jwks)
        if url.scheme == "http" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError(
                f"the key set at {self.jwks} would travel unencrypted; "
                "give its https URL, or a file"
            )


@dataclass(frozen=True)
class Options:
    """How a server runs.

    Limits keep one client from hurting the others: bytes of a body, rows of a request, characters
    of a text, seconds until a request must have arrived and been answered, open connections,
    requests at once over all workers, bytes of headers.

    The platform writes `root`. This server writes its log, its samples and what it served last
    under `state` (default: `root`). Several servers may share one root, each with its own state.

    The prediction log closes a segment at `segment_bytes` or `segment_seconds`. `sync_seconds` is
    the longest time until an answered prediction is flushed to the disk; 0 flushes it before the
    answer. With less than `reserve_bytes` free on the log's disk, requests are refused.

    `keys` is the file of API keys. `public` says that other machines can reach the server. The
    admin port is on `admin_host`. TLS holds for `host`, and for `admin_host` where that is public.
    """

    root: Path
    public_key: Path
    state: Path | None = None
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
    segment_bytes: int = SEGMENT_BYTES
    segment_seconds: float = SEGMENT_SECONDS
    sync_seconds: float = SYNC_SECONDS
    reserve_bytes: int = RESERVE_BYTES
    admin_host: str = "127.0.0.1"
    admin_port: int = 8081
    grpc_port: int | None = None
    keys: Path = Path("api_keys.json")
    public: bool = False
    tokens: TokenRules | None = None
    token_per_second: float | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    concurrency: int = 512
    answer_seconds: float = 10.0
    traces: str | None = None
    json_logs: bool = False

    @property
    def own(self) -> Path:
        """The folder that this server writes."""
        return self.state or self.root
