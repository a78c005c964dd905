"""A real Dagster web server and a real headless browser."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Page, expect, sync_playwright

from tests.support.ports import free_ports

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def web_server(module: str, log: Path) -> Iterator[str]:
    """`dagster-webserver` on the current DAGSTER_HOME, loading `module`; yields its URL once it answers."""
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "dagster_webserver",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-m",
        module,
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            _wait(url, server)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextmanager
def browser_page(width: int = 1600, height: int = 1000) -> Iterator[Page]:
    """A page of headless Chromium (Debian's). Raises RuntimeError, naming the package, where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise RuntimeError(
            "chromium was not found on PATH; install it (Debian: apt-get install chromium)"
        )
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(60_000)
            expect.set_options(timeout=60_000)
            # A first visit meets an invitation to Dagster's community, over everything else; this browser has declined it.
            page.add_init_script("localStorage.setItem('communityNux', '1')")
            yield page
        finally:
            browser.close()


def _wait(url: str, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < end:
        try:
            if httpx.get(f"{url}/server_info", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise RuntimeError(f"the web server at {url} did not come up (exit {server.poll()})")
