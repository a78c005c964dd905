"""A bare ASGI application, for `uvicorn benchmarks.hello_asgi:app`: the floor of servers that stand on uvicorn as it is."""

from __future__ import annotations

from typing import Any

HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"5")]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Reads the body and answers five bytes."""
    if scope["type"] != "http":
        raise NotImplementedError  # no lifespan
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"hello"})
