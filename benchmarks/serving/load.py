"""Load from wrk, on a core of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.serving.bodies import Body


@dataclass(frozen=True)
class Figures:
    """Latencies in milliseconds; `errors` are answers other than 2xx, broken connections and timeouts. `cpu_us` is the server's CPU
    time for one request."""

    a_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    answered: int
    connections: int
    cpu_us: float = 0.0

    def stored(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


# Requests are built once, so that the client costs little, but for their id: clients behind a gateway send another one with every
# request, and so no two heads are the same. `delay` is how long a connection waits before it asks again: exponential, so that
# requests of many connections come as independent ones do.
_SCRIPT = """
local before, after, at, number = {}, {}, 0, 0
local id = "0123456789abcdef0123456789abcdef"
local function add(place, headers)
  local file = assert(io.open(place, "rb"))
  headers["x-request-id"] = id
  local request = wrk.format("POST", %(path)s, headers, file:read("*a"))
  file:close()
  local first, last = request:find(id, 1, true)
  before[#before + 1], after[#after + 1] = request:sub(1, first - 1), request:sub(last + 1)
end
init = function(arguments)
%(bodies)s
  math.randomseed(1)
end
request = function()
  at, number = at %% #before + 1, number + 1
  return before[at] .. string.format("%%032x", number) .. after[at]
end
%(delay)s
done = function(summary, latency, all)
  local e = summary.errors
  io.write(string.format("RESULT %%f %%f %%f %%d %%d\\n", summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout, summary.requests))
end
"""
_DELAY = "delay = function() return math.floor(-%f * math.log(1 - math.random()) + 0.5) end"


def find() -> str:
    """Path of wrk. Raises FileNotFoundError with the way out."""
    found = shutil.which("wrk")
    if found is None:
        raise FileNotFoundError(
            "wrk is needed to make load and was not found; install it (Debian: apt-get install wrk)"
        )
    return found


def load(
    url: str,
    headers: Mapping[str, str],
    bodies: Sequence[Body],
    seconds: int,
    connections: int,
    cores: set[int],
    pause_ms: float = 0.0,
) -> Figures:
    """Send bodies in turn over some connections, each of which pauses for `pause_ms` on average after an answer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = []
        for number, body in enumerate(bodies):
            place = folder / f"{number}.body"
            place.write_bytes(body.content)
            given = ", ".join(
                f"[{_quoted(header)}] = {_quoted(value)}"
                for header, value in {**headers, **body.headers}.items()
            )
            lines.append(f"  add({_quoted(str(place))}, {{{given}}})")
        script = folder / "load.lua"
        path = "/" + url.split("/", 3)[3]
        delay = _DELAY % pause_ms if pause_ms else ""
        script.write_text(
            _SCRIPT % {"bodies": "\n".join(lines), "path": _quoted(path), "delay": delay}
        )
        command = [
            find(),
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--timeout",
            "60s",
            "-s",
            str(script),
            url,
        ]
        output = subprocess.run(
            command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL, timeout=seconds + 120,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        ).stdout  # fmt: skip
    found = re.search(r"^RESULT (\S+) (\S+) (\S+) (\d+) (\d+)$", output, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk said nothing of its results: {output[-300:]}")
    return Figures(
        float(found[1]), float(found[2]), float(found[3]), int(found[4]), int(found[5]), connections
    )


def _quoted(text: str) -> str:
    """A text as a Lua string. Raises ValueError for one that would need escapes."""
    if re.search(r'["\\\n]', text):
        raise ValueError(f"{text!r} cannot be given to wrk")
    return f'"{text}"'
