"""How uvicorn runs our HTTP: our connection, and none of its own logs and headers."""

from __future__ import annotations

import ssl
from typing import Any

import uvicorn

from serving.http.connection import Connection
from serving.options import Options


def configuration(
    application: Any, options: Options, context: ssl.SSLContext | None
) -> uvicorn.Config:
    """How uvicorn runs an application; without TLS where there is no context."""
    limits = {
        "header_limit": options.header_limit,
        "request_seconds": options.request_seconds,
        "idle_seconds": options.idle_seconds,
    }
    return uvicorn.Config(
        application,
        http=type("Protocol", (Connection,), limits),
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=options.connection_limit,
        timeout_graceful_shutdown=max(1, int(options.drain_seconds)),
        ssl_context_factory=None if context is None else lambda *_: context,
    )
