"""Where the server listens, and what its workers inherit from the process that started them."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from serving.callers.limits import RateLimits
from serving.options import Options
from serving.watch.metrics import Metrics


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """A listening socket. Raises OSError naming address and way out."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot listen on {host} port {port} ({error.strerror}); stop what uses it, or give "
            f"another {option}"
        ) from error
    listener.setblocking(False)
    return listener


def tls(certificate: Path, private_key: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer, with OpenSSL's own choice of ciphers.

    Raises OSError or ssl.SSLError for files that are no certificate with its key.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, private_key)
    return context


@dataclass(frozen=True)
class Inherited:
    """What a worker gets from the process that started it.

    Two listening sockets, the memory that workers share, and the worker's place among them.
    """

    listener: socket.socket
    admin: socket.socket
    limits: int
    metrics: int
    place: int = 0

    @classmethod
    def made(cls, options: Options) -> Inherited:
        """For the first, or the only, process. Raises OSError naming address and way out."""
        listener = listen(options.host, options.port)
        admin = listen(options.admin_host, options.admin_port, "--admin-port")
        if options.grpc_port is not None:
            # Workers share this port by themselves, and would share it with a stranger too. So it
            # is tried first.
            listen(options.host, options.grpc_port, "--grpc-port").close()
        return cls(listener, admin, RateLimits.create(), Metrics.create(options.workers))

    @classmethod
    def parsed(cls, text: str) -> Inherited:
        listener, admin, limits, metrics, place = map(int, text.split(","))
        return cls(
            socket.socket(fileno=listener), socket.socket(fileno=admin), limits, metrics, place
        )

    @property
    def descriptors(self) -> tuple[int, int, int, int]:
        return self.listener.fileno(), self.admin.fileno(), self.limits, self.metrics

    def text(self, place: int) -> str:
        """The same for a worker in a place, as the word of a command line."""
        return ",".join(str(number) for number in (*self.descriptors, place))
