"""The Open Inference Protocol over REST: versions, parameters, mixed batches and the index, as Triton's
client sees them; and the same facts over gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from bundle.desired import Desired
from tests.serving.test_grpc import inputs as grpc_inputs
from tests.support.endpoint import NAME, Place, Running, request
from tests.support.ports import free_ports

MODEL = f"/v2/models/{NAME}"
REQUESTS = [request(number) for number in range(80)]


@dataclass
class Split:
    """A server whose traffic a champion and a challenger share."""

    server: Running
    desired: Desired
    grpc: str

    @property
    def champion(self) -> str:
        return self.desired.arms[0][0]

    @property
    def challenger(self) -> str:
        return self.desired.arms[1][0]

    def expected(self, rows: list[dict[str, Any]]) -> list[str]:
        """The bundle of each row."""
        return [self.desired.arms[self.desired.arm(row["order_id"])][0] for row in rows]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Split]:
    place = Place.new(tmp_path_factory.mktemp("split"))
    champion, challenger = place.release(seed=0), place.install(seed=1)
    [port] = free_ports(1)
    with place.server("--grpc-port", str(port)) as server:
        desired = place.desire((champion, 0.5), (challenger, 0.5))
        place.wait_for_serial()
        yield Split(server, desired, f"127.0.0.1:{port}")


def body(server: Running, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    columns = server.client.get(MODEL).json()["inputs"]
    tensors = [
        {
            "name": column["name"],
            "datatype": column["datatype"],
            "shape": [len(rows)],
            "data": [row[column["name"]] for row in rows],
        }
        for column in columns
    ]
    return {"inputs": tensors, **more}


def infer(server: Running, rows: list[dict[str, Any]], **more: Any) -> httpx.Response:
    return server.client.post(f"{MODEL}/infer", json=body(server, rows, **more))


def output(answer: dict[str, Any], name: str) -> list[Any]:
    [found] = [output["data"] for output in answer["outputs"] if output["name"] == name]
    return found


def test_a_mixed_batch_says_the_bundle_of_each_row(split: Split) -> None:
    expected = split.expected(REQUESTS)
    assert set(expected) == {split.champion, split.challenger}, "the batch is mixed"

    answer = infer(split.server, REQUESTS).json()
    assert output(answer, "bundle") == expected
    assert "model_version" not in answer, "no single version answered"
    alone = infer(split.server, REQUESTS, outputs=[{"name": "prediction"}]).json()
    assert "model_version" not in alone

    with triton_grpc.InferenceServerClient(split.grpc) as client:
        mixed = client.infer(NAME, grpc_inputs(REQUESTS))
    assert [found.decode() for found in mixed.as_numpy("bundle")] == expected
    assert mixed.get_response().model_version == ""

    for row, bundle in zip(REQUESTS[:10], expected, strict=False):
        one = infer(split.server, [row]).json()
        assert (one["model_version"], output(one, "bundle")) == (bundle, [bundle])


def test_every_listed_version_can_be_asked_for_and_no_other(split: Split) -> None:
    metadata = split.server.client.get(MODEL).json()
    assert metadata["versions"] == [split.champion]
    assert metadata["platform"] == "evergreen_xgboost"
    [model] = split.server.client.post("/v2/repository/index").json()
    assert (model["version"], model["state"]) == (split.champion, "READY")

    for version, status in ((split.champion, 200), (split.challenger, 404), ("0" * 64, 404)):
        place = f"{MODEL}/versions/{version}"
        asked = split.server.client.post(f"{place}/infer", json=body(split.server, REQUESTS[:1]))
        ready = split.server.client.get(f"{place}/ready").status_code
        assert asked.status_code == split.server.client.get(place).status_code == status
        assert (ready == 200) == (status == 200)

    with triton_grpc.InferenceServerClient(split.grpc) as client:
        assert list(client.get_model_metadata(NAME).versions) == [split.champion]
        assert client.is_model_ready(NAME, split.champion)
        assert not client.is_model_ready(NAME, split.challenger)
        client.infer(NAME, grpc_inputs(REQUESTS[:1]), model_version=split.champion)
        with pytest.raises(InferenceServerException, match="not the champion"):
            client.infer(NAME, grpc_inputs(REQUESTS[:1]), model_version=split.challenger)


@pytest.mark.parametrize(
    ("more", "rule", "field"),
    [
        ({"parameters": {"sequence_id": 3}}, "parameter", "parameters.sequence_id"),
        ({"parameters": {"timeout": "soon"}}, "timeout", "parameters.timeout"),
        ({"parameters": {"timeout": -1}}, "timeout", "parameters.timeout"),
        (
            {"outputs": [{"name": "prediction", "parameters": {"classification": 2}}]},
            "parameter",
            "outputs[0].parameters.classification",
        ),
    ],
)
def test_parameters_that_would_change_the_answer_are_refused(
    split: Split, more: dict[str, Any], rule: str, field: str
) -> None:
    answer = infer(split.server, REQUESTS[:2], **more)
    assert answer.status_code == 422
    assert (answer.json()["rule"], answer.json()["field"]) == (rule, field)


def test_parameters_say_how_long_an_answer_may_take(split: Split) -> None:
    late = infer(split.server, REQUESTS[:2], parameters={"timeout": 1})
    assert (late.status_code, late.json()["rule"]) == (504, "deadline")
    soon = infer(split.server, REQUESTS[:2], parameters={"timeout": 10_000_000, "priority": 1})
    assert soon.status_code == 200


def test_a_length_of_too_many_digits_is_refused(split: Split) -> None:
    for digits in ("9" * 5000, "9" * 11, "²"):
        answer = split.server.client.post(
            f"{MODEL}/infer",
            content=b"{}",
            headers={"inference-header-content-length": digits.encode()},
        )
        assert (answer.status_code, answer.json()["rule"]) == (400, "header_length")


def test_tritons_client_reads_the_index_and_sends_raw_tensors(split: Split) -> None:
    address = split.server.url.removeprefix("http://")
    with triton_http.InferenceServerClient(address) as client:
        [model] = client.get_model_repository_index()
        assert (model["name"], model["state"]) == (NAME, "READY")
        with pytest.raises(InferenceServerException):
            client.load_model(NAME)

    for content, status in ((b"{", 422), (b'{"ready":1}', 422), (b'{"ready":true}', 200)):
        answer = split.server.client.post("/v2/repository/index", content=content)
        assert answer.status_code == status
    refused = split.server.client.get("/v2/repository/index")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


def test_raw_outputs_hold_the_same_values(split: Split) -> None:
    plainly = infer(split.server, REQUESTS).json()
    answer = infer(split.server, REQUESTS, parameters={"binary_data_output": True})
    size = int(answer.headers["inference-header-content-length"])
    raw = answer.content[size:]
    assert np.frombuffer(raw[: 8 * len(REQUESTS)]).tolist() == output(plainly, "prediction")
    assert raw.endswith(split.expected(REQUESTS)[-1].encode())
