"""The floor: the endpoint's HTTP server with an application that does nothing. `python -m benchmarks.hello PORT` prints its port."""

from __future__ import annotations

import sys

import uvicorn
import uvloop

from serving.http.answers import Answer, Headers
from serving.http.connection import Connection
from serving.http.request import Request
from serving.listening import listen

HEADERS = Headers((b"content-type", b"text/plain"))


async def app(request: Request) -> Answer:
    """Reads the body and answers five bytes."""
    await request.read(1 << 20)
    return Answer(200, HEADERS, b"hello")


def main() -> None:
    listener = listen("127.0.0.1", int(sys.argv[1]))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        app, http=Connection, ws="none", lifespan="off", interface="asgi3", access_log=False, log_config=None, server_header=False,
        date_header=False, proxy_headers=False,
    )  # fmt: skip
    uvloop.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
