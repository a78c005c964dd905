"""The floor: the endpoint's HTTP server with an application that does nothing. `python -m benchmarks.hello PORT` prints its port."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
import uvloop

from serving.http1 import Connection
from serving.listening import listen

HEADERS = ((b"content-type", b"text/plain"), (b"content-length", b"5"))


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Reads the body and answers five bytes."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"hello"})


def main() -> None:
    listener = listen("127.0.0.1", int(sys.argv[1]))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        app, http=Connection, ws="none", lifespan="off", access_log=False, log_config=None, server_header=False, date_header=False
    )
    uvloop.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
