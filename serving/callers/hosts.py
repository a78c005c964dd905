"""Host names: which addresses are this machine's own, and which names a request may give."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from serving.contract.refusal import Refusal

# So many spellings of allowed hosts are remembered; a client sends one or two.
_REMEMBERED = 100


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone, in whatever spelling."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


class HostCheck:
    """Refuses hosts that a server on loopback does not answer for.

    A web page from elsewhere can resolve its own name to 127.0.0.1, but its requests still name
    that host. A server on another address is reached by names that it cannot know, so it takes any.
    """

    def __init__(self, address: str, allowed: Collection[str]) -> None:
        self._limited = is_loopback(address)
        self._allowed = frozenset(name.lower() for name in allowed)
        self._passed: set[bytes] = set()

    def check(self, host: bytes) -> None:
        """Raises Refusal for the value of a `Host` header that is not allowed."""
        if not self._limited or host in self._passed:
            return
        name = _name(host)
        if name is None or not (name in self._allowed or is_loopback(name)):
            raise Refusal(
                421,
                "host",
                "This server answers for local names only; start it with --allow-host to add one.",
            )
        if len(self._passed) < _REMEMBERED:
            self._passed.add(host)


def _name(host: bytes) -> str | None:
    """The name in a `Host` header, without port and brackets; None where there is none."""
    try:
        return urlsplit(f"//{host.decode('ascii')}").hostname
    except ValueError:
        return None
