"""The soak test in short: two minutes of what `make soak` does for ten; and moments of it, made to happen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.soak import Platform
from tests.support.endpoint import NAME, TREE, request


@pytest.mark.timeout(360)
def test_a_short_soak_breaks_no_promise() -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "120", "--json"]
    result = subprocess.run(
        command,
        cwd=TREE,
        env={**os.environ, "PYTHONPATH": str(TREE)},
        capture_output=True,
        text=True,
        timeout=340,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    found = json.loads(result.stdout)
    assert (
        found["problems"],
        found["failed"],
        found["missing"],
        found["twice"],
        found["not_allowed"],
    ) == ([], 0, 0, 0, 0), result.stderr
    # It was a soak: something happened, under load.
    assert found["killed_workers"] >= 20
    assert min(found["moves"][kind] for kind in ("release", "rollout", "rollback")) >= 4
    assert found["acknowledged"] > 1_000
    assert found["bundles"] >= 2


def test_a_worker_that_dies_while_the_reconciler_asks_it_holds_up_nothing(tmp_path: Path) -> None:
    """Between the reconciler and the server, a relay that ends the first connection of each route without an answer."""
    platform = Platform(tmp_path, bundles=1)
    platform.release(platform.bundles[0])
    with platform.place.server(ready=False) as server:
        asked: Counter[str] = Counter()

        class Relay(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked[self.path] += 1
                if asked[self.path] > 1:
                    answer = httpx.get(server.url + self.path, trust_env=False)
                    self.send_response(answer.status_code)
                    self.end_headers()
                    self.wfile.write(answer.content)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Relay) as relay:
            threading.Thread(target=relay.serve_forever, daemon=True).start()
            platform.place.url = f"http://127.0.0.1:{relay.server_port}"
            platform.reconcile()
            relay.shutdown()
    assert asked[f"/v2/models/{NAME}/golden"] == 2
    assert asked[f"/v2/models/{NAME}/actual"] > 1
    assert [entry.kind for entry in platform.ledger.entries(NAME)][-1] == "traffic"


def test_a_first_release_is_confirmed_when_every_worker_answers(tmp_path: Path) -> None:
    platform = Platform(tmp_path, bundles=1)
    with platform.place.server("--workers", "2", ready=False) as server:
        while len([*platform.place.root.glob("workers/*")]) < 2:
            time.sleep(0.05)
        late = psutil.Process(server.process.pid).children()[0]
        late.suspend()
        platform.release(platform.bundles[0])
        reconciling = threading.Thread(target=platform.reconcile)
        reconciling.start()
        while (actual := platform.endpoint.actual(NAME)) is None or "has not seen" not in str(
            actual.error
        ):
            time.sleep(0.05)
        assert reconciling.is_alive()
        late.resume()
        reconciling.join()
        assert platform.ledger.entries(NAME)[-1].kind == "traffic"
        # Each over a connection of its own, which any worker may take.
        answers = [
            httpx.post(f"{server.url}/predict/{NAME}", json=request(number), trust_env=False)
            for number in range(40)
        ]
        assert {answer.status_code for answer in answers} == {200}
