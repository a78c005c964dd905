"""Ports for the servers of tests."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress

CHOICE = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different, and below those that the kernel gives to connections of its choice: nobody
    takes them before they are used."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            while True:
                with suppress(OSError):
                    probe.bind(("127.0.0.1", CHOICE.choice(range(15_000, 32_000))))
                    break
        return [probe.getsockname()[1] for probe in probes]
