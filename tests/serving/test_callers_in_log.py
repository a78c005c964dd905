"""Every prediction record says who asked, on every transport."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton

from bundle.records import reader
from tests.serving.test_access import bearer, keyed
from tests.serving.test_grpc import inputs
from tests.serving.test_transports import ARROW, frame, stream
from tests.support.endpoint import DAY, NAME, Place, Running, request
from tests.support.ports import free_ports

URL = f"/predict/{NAME}"
# Fewer rows are logged one by one, more as one batch.
ROWS = (1, 3, 70)
Rows = list[dict[str, Any]]
Ask = Callable[[Running, int, Rows, dict[str, str]], None]


def as_row(server: Running, port: int, rows: Rows, headers: dict[str, str]) -> None:
    for row in rows:
        assert server.client.post(URL, json=row, headers=headers).status_code == 200


def as_json(server: Running, port: int, rows: Rows, headers: dict[str, str]) -> None:
    answer = server.client.post(URL, json={"instances": rows}, headers=headers)
    assert answer.status_code == 200, answer.text


def as_arrow(server: Running, port: int, rows: Rows, headers: dict[str, str]) -> None:
    answer = server.client.post(
        URL, content=stream(frame(rows)), headers={**headers, "content-type": ARROW}
    )
    assert answer.status_code == 200, answer.text


def as_grpc(server: Running, port: int, rows: Rows, headers: dict[str, str]) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        client.infer(NAME, inputs(rows), headers=headers)


@pytest.mark.parametrize("with_keys", [True, False])
def test_records_say_who_asked(tmp_path: Path, with_keys: bool) -> None:
    place = Place.new(tmp_path)
    place.release()
    keys = {"anyone": ""}
    if with_keys:
        texts = [keyed(place), keyed(place)]
        keys = {text.split("_")[1]: text for text in texts}
    [port] = free_ports(1)

    asked: dict[str, str] = {}
    with place.server("--grpc-port", str(port)) as server:
        number = 0
        for caller, key in keys.items():
            for ask in (as_row, as_json, as_arrow, as_grpc):
                for count in ROWS:
                    rows = [request(number + place) for place in range(count)]
                    number += count
                    ask(server, port, rows, bearer(key) if key else {})
                    asked |= {row["order_id"]: caller for row in rows}

    records = reader.read(place.predictions, DAY).records
    assert {str(record.entity): record.caller for record in records} == asked
