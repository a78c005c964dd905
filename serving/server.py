"""Running the application: uvicorn's server with our HTTP, the watcher, samples and draining.

The protocol itself is in `serving.http.connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import uvicorn

from bundle.files import Stamp, stamp
from bundle.records import service as samples
from serving.callers.access import Access
from serving.callers.hosts import is_loopback
from serving.callers.limits import RateLimits
from serving.delivery.following.reports import enlist
from serving.delivery.following.state import Served, discover
from serving.http.configuration import configuration
from serving.http.connection import Connection
from serving.listening import Inherited, tls
from serving.options import Options
from serving.routes import Routes
from serving.service import Service
from serving.watch.identity import identity
from serving.watch.metrics import Metrics

if TYPE_CHECKING:
    from serving.protocols.rpc.server import GrpcServer

logger = logging.getLogger("serving")

PATIENCE_SECONDS = 5.0
"""A restarting worker tries the desired state this long before it answers with what was served
last. Nearly always it needs two seconds."""


class Server(uvicorn.Server):
    """uvicorn's server, which drains in steps.

    First every answer asks its client to leave, and the server says that it is not ready. Then it
    takes no new connections. Those just made get their answer, and the rest close. The admin port,
    a second server without limits on callers, closes last.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        admin: uvicorn.Server,
        admin_listener: socket.socket,
        rpc: GrpcServer | None,
    ) -> None:
        super().__init__(config)
        self._service, self._admin, self._admin_listener, self._rpc = (
            service,
            admin,
            admin_listener,
            rpc,
        )

    def connections(self) -> list[object]:
        return [*self.server_state.connections, *self._admin.server_state.connections]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._admin.config.load()
        self._admin.lifespan = self._admin.config.lifespan_class(self._admin.config)
        await self._admin.startup(sockets=[self._admin_listener])
        await super().startup(sockets)
        if self._rpc is not None:
            await self._rpc.start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises a caught signal again at its end, which would kill the process before the
        # log is closed.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logger.info("draining")
        self._service.draining = True
        await asyncio.sleep(self._service.options.notice_seconds)
        kept = [listener.dup() for listener in sockets or []]
        for server in self.servers:
            server.close()
        for listener in kept:
            await self._accept_waiting(listener)
            listener.close()
        await asyncio.sleep(self._service.options.notice_seconds)
        if self._rpc is not None:
            await self._rpc.stop()
        await super().shutdown(sockets)
        await self._admin.shutdown([self._admin_listener])

    async def _accept_waiting(self, listener: socket.socket) -> None:
        """Take the connections that wait in the kernel: closing the listener would reset them."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = listener.accept()
                connection.setblocking(False)
                # A client that fails its handshake must not keep the others from their answers.
                with contextlib.suppress(OSError):
                    await loop.connect_accepted_socket(
                        self._protocol, connection, ssl=self.config.ssl
                    )

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(
            config=self.config, server_state=self.server_state, app_state={}
        )  # type: ignore[call-arg]
        return made


def run(options: Options, inherited: Inherited) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Draining takes no new connections, answers open requests and flushes the log.
    """
    import uvloop

    uvloop.run(_run(options, inherited))


async def _run(options: Options, inherited: Inherited) -> None:
    worker = identity(os.getpid())
    service = await _service(options, inherited, worker)
    context = tls(options.certificate, options.private_key) if options.certificate else None
    server = _server(service, inherited, context)

    looked = asyncio.Event()
    watching = asyncio.create_task(_watch(service, options, worker, looked))
    tasks = [watching, *_background(server, service, context)]
    for task in tasks:
        task.add_done_callback(_must_not_end(server))

    try:
        # Until then connections wait in the kernel, so that a worker that replaces a killed one
        # refuses nobody.
        await asyncio.wait(
            [watching, asyncio.create_task(looked.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        await server.serve(sockets=[inherited.listener])
    finally:
        await _end(service, tasks)


async def _service(options: Options, inherited: Inherited, worker: str) -> Service:
    """The service of this worker, which serves no pipeline yet."""
    metrics = Metrics(worker, inherited.metrics, inherited.place)
    access = await asyncio.to_thread(Access, options)
    service = Service(options, metrics, access, RateLimits(inherited.limits))

    if options.traces is not None:
        from serving.watch.traces import Traces

        service.traces = Traces(options.traces, worker)
    return service


def _server(service: Service, inherited: Inherited, context: ssl.SSLContext | None) -> Server:
    """The servers over a service: the public one, which runs the admin one and gRPC beside it."""
    options = service.options
    secured = not is_loopback(options.admin_host)
    admin = uvicorn.Server(
        configuration(Routes(service, admin=True), options, context if secured else None)
    )

    rpc = None
    if options.grpc_port is not None:
        from serving.protocols.rpc.server import GrpcServer

        rpc = GrpcServer(service, options)

    public = configuration(Routes(service, admin=False), options, context)
    server = Server(public, service, admin, inherited.admin, rpc)
    service.queued = lambda: len(server.server_state.tasks) + (rpc.active if rpc else 0)
    return server


def _background(
    server: Server, service: Service, context: ssl.SSLContext | None
) -> list[asyncio.Task[None]]:
    """What runs beside the requests, apart from the watcher."""
    tasks = [
        asyncio.create_task(_sample(service, service.options)),
        asyncio.create_task(_sweep(server)),
        asyncio.create_task(_follow(service, context)),
    ]
    if service.options.workers > 1:
        tasks.append(asyncio.create_task(_follow_parent(server, os.getppid())))
    return tasks


async def _end(service: Service, tasks: list[asyncio.Task[None]]) -> None:
    """Stop what runs beside the requests, then write and close what is open."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    _write_sample(service, service.options)
    for served in service.pipelines.values():
        await asyncio.to_thread(served.close)
    if service.traces is not None:
        await asyncio.to_thread(service.traces.close)


async def _follow(service: Service, context: ssl.SSLContext | None) -> None:
    """Follow the files of keys and certificate.

    Also keeps this worker's own figures fresh for the worker that answers a scrape.
    """
    options = service.options
    before = _pair(options)
    while True:
        await asyncio.sleep(options.poll_seconds)
        await asyncio.to_thread(service.access.refresh)
        service.measure()
        if (
            context is not None
            and options.certificate is not None
            and (pair := _pair(options)) != before
        ):
            before = pair
            try:
                context.load_cert_chain(options.certificate, options.private_key)
                logger.info("the certificate %s was renewed", options.certificate)
            except (OSError, ssl.SSLError) as error:
                logger.error(
                    "keeping the older certificate: %s cannot be loaded (%s)",
                    options.certificate,
                    error,
                )


def _pair(options: Options) -> list[Stamp | None]:
    return [
        stamp(place) for place in (options.certificate, options.private_key) if place is not None
    ]


async def _watch(service: Service, options: Options, worker: str, looked: asyncio.Event) -> None:
    """Follow the desired state of every pipeline. Sets `looked` when requests may come.

    Loading happens in a thread, so that requests go on meanwhile.
    """
    public_key = await _read_key(options, worker, looked)
    await asyncio.to_thread(_load_engines)
    await _discover(service, options, public_key, worker)
    # What is desired comes before what was served last, unless it takes too long.
    newest = asyncio.create_task(_settle(service))
    await asyncio.wait(
        [newest],
        timeout=PATIENCE_SECONDS
        if any(served.view for served in service.pipelines.values())
        else None,
    )
    enlist(options, worker)
    # What the other workers were confirmed to serve before this one counted is seen now.
    await _discover(service, options, public_key, worker)
    looked.set()
    await newest
    while True:
        await _refresh(service)
        await asyncio.sleep(options.poll_seconds)
        await _discover(service, options, public_key, worker)


async def _discover(service: Service, options: Options, public_key: bytes, worker: str) -> None:
    """Add the pipelines that are new, with what was served of them last."""
    for name in discover(options, service.pipelines):
        try:
            served = await asyncio.to_thread(Served, name, options, public_key, worker)
        except OSError as error:
            logger.error("%s: its prediction log cannot be opened: %s", name, error)
        else:
            await asyncio.to_thread(served.resume)
            service.pipelines[name] = served


async def _settle(service: Service) -> None:
    """Refresh twice: to load, and to see what other workers were confirmed to serve meanwhile."""
    for _ in range(2):
        await _refresh(service)


async def _refresh(service: Service) -> None:
    for served in list(service.pipelines.values()):
        await asyncio.to_thread(served.refresh)


def _load_engines() -> None:
    """Import what the first bundle needs, so that a release does not wait for it."""
    import treelite.gtil  # noqa: F401
    import xgboost  # noqa: F401

    # What was imported lives as long as the process. The garbage collector need not walk it: that
    # would stall requests.
    gc.collect()
    gc.freeze()


async def _sample(service: Service, options: Options) -> None:
    while True:
        await asyncio.sleep(options.sample_seconds)
        _write_sample(service, options)


def _write_sample(service: Service, options: Options) -> None:
    sample = service.metrics.sample(service.about(), service.log_error())
    try:
        samples.append(options.own / "service", sample)
    except OSError as error:
        logger.error("a service sample could not be written: %s", error)


async def _sweep(server: Server) -> None:
    """Close connections whose request takes too long to arrive, and idle ones."""
    while True:
        await asyncio.sleep(1.0)
        now = time.monotonic()
        for connection in server.connections():
            if isinstance(connection, Connection):
                connection.sweep(now)


async def _follow_parent(server: Server, parent: int) -> None:
    """A worker whose supervisor was killed stops, so that a new one finds the port free."""
    while os.getppid() == parent:
        await asyncio.sleep(0.5)
    server.should_exit = True
    await asyncio.Event().wait()


def _must_not_end(server: Server) -> Callable[[asyncio.Task[None]], None]:
    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            logger.critical(
                "a background task ended, so the server stops", exc_info=task.exception()
            )
            server.should_exit = True

    return ended


async def _read_key(options: Options, worker: str, looked: asyncio.Event) -> bytes:
    """The platform's public key. Waits until it exists.

    A new platform may make it after this server started. While the server waits, it says that it
    lives and is not ready.
    """
    waiting = False
    while True:
        try:
            return options.public_key.read_bytes()
        except FileNotFoundError:
            if not waiting:
                logger.warning("waiting for the platform's public key %s", options.public_key)
                enlist(options, worker)
                looked.set()
            waiting = True
        await asyncio.sleep(0.5)
