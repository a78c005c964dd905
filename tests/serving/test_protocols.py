"""Both protocols answer the same, features are those of the batch, and the pages describe what is served."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import httpx
import numpy as np
import openapi_spec_validator
import polars as pl
from openapi_schema_validator import OAS31Validator

from bundle.features.polars import compile_batch
from bundle.records import reader, service
from tests.serving.conftest import Shared
from tests.support.endpoint import CONTRACT, DAY, NAME, SHOPS, model, program, request, snapshot

URL = f"/predict/{NAME}"


def batch_matrix(requests: list[dict[str, object]]) -> np.ndarray:
    """The model's rows by the batch compilation, with what the snapshot holds joined by hand."""
    online = snapshot()
    wide = []
    for found in requests:
        moment = datetime.fromisoformat(str(found["event_time"]))
        row = {
            **found,
            "event_time": moment,
            "promised": found["promised"] and datetime.fromisoformat(str(found["promised"])),
        }
        for lookup in program().lookups:
            values = online.lookup(lookup.table, (found["shop"],), moment, lookup.within) or {}
            row |= {lookup.wide(name): values.get(name) for name in lookup.values}
        wide.append(row)
    kinds = {
        "string": pl.String,
        "float": pl.Float64,
        "integer": pl.Int64,
        "boolean": pl.Boolean,
        "datetime": pl.Datetime("us", "UTC"),
    }
    schema: dict[str, object] = {name: kinds[column.kind] for name, column in CONTRACT.items()}
    schema |= {
        lookup.wide(name): pl.Float64 for lookup in program().lookups for name in lookup.values
    }
    frame = pl.DataFrame(wide, schema=schema)
    return program().matrix(frame.select(compile_batch(program())))


def test_one_row_and_batches_give_the_probability_of_the_batch_features(shared: Shared) -> None:
    requests = [request(number) for number in range(100)]
    expected = model().predict(batch_matrix(requests))
    one = [shared.server.client.post(URL, json=found) for found in requests[:10]]
    assert all(answer.status_code == 200 for answer in one)
    assert [answer.json()["prediction"] for answer in one] == _close(expected[:10])
    many = shared.server.client.post(URL, json={"instances": requests}).json()["predictions"]
    assert [found["prediction"] for found in many] == _close(expected)
    assert {found["bundle"] for found in many} == {shared.digest}
    assert {found["online_as_of"] for found in many} == {DAY.isoformat()}


def test_features_used_are_the_batch_features_row_by_row(shared: Shared) -> None:
    requests = [request(number) for number in range(1000, 1100)]
    answers = shared.server.client.post(URL, json={"instances": requests}).json()["predictions"]
    stored = {record.id: record for record in reader.read(shared.place.predictions, DAY).records}
    used = np.array(
        [[np.nan if v is None else v for v in stored[answer["id"]].row] for answer in answers],
        dtype=np.float32,
    )
    assert np.array_equal(used, batch_matrix(requests), equal_nan=True)
    first = stored[answers[0]["id"]]
    assert (first.entity, first.day, first.arm, first.bundle) == (
        "order-1000",
        DAY.isoformat(),
        "champion",
        shared.digest,
    )
    assert {**first.request, "event_time": request(1000)["event_time"]} == request(1000)


def test_inference_protocol(shared: Shared) -> None:
    client = shared.server.client
    assert (
        client.get("/v2/health/live").status_code
        == client.get("/v2/health/ready").status_code
        == 200
    )
    assert client.get("/v2").json()["name"] == "evergreen"
    metadata = client.get(f"/v2/models/{NAME}").json()
    assert metadata["versions"] == [shared.digest]
    assert {found["name"]: found["datatype"] for found in metadata["inputs"]}["items"] == "INT64"
    requests = [request(number) for number in range(70)]
    inputs = [
        {
            "name": found["name"],
            "shape": [70],
            "datatype": found["datatype"],
            "data": [r[found["name"]] for r in requests],
        }
        for found in metadata["inputs"]
    ]
    answer = client.post(f"/v2/models/{NAME}/infer", json={"id": "mine", "inputs": inputs})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["id"], found["model_version"]) == ("mine", shared.digest)
    plain = client.post(URL, json={"instances": requests}).json()["predictions"]
    assert found["outputs"][0] | {"data": None} == {
        "name": "prediction",
        "shape": [70],
        "datatype": "FP64",
        "data": None,
    }
    assert found["outputs"][0]["data"] == [one["prediction"] for one in plain]
    columns = [
        {**tensor, "shape": [70, 1], "data": [[value] for value in tensor["data"]]}
        for tensor in inputs
    ]
    version = f"/v2/models/{NAME}/versions/{shared.digest}"
    again = client.post(
        f"{version}/infer", json={"inputs": columns, "outputs": [{"name": "prediction"}]}
    ).json()
    assert [output["name"] for output in again["outputs"]] == ["prediction"]
    assert again["outputs"][0]["data"] == found["outputs"][0]["data"]
    assert client.get(f"{version}/ready").status_code == 200
    assert client.get(f"/v2/models/{NAME}/versions/{'0' * 64}/ready").status_code == 503


def test_state_golden_rows_metrics_and_samples(shared: Shared) -> None:
    actual = shared.place.endpoint.actual(NAME)
    assert actual is not None
    assert (actual.ready, actual.bundles, actual.error, actual.snapshot_as_of) == (
        True,
        (shared.digest,),
        None,
        DAY.isoformat(),
    )
    assert (
        json.loads((shared.place.root / NAME / "actual.json").read_text())["arms"][0]["bundle"]
        == shared.digest
    )
    golden = shared.place.endpoint.golden(NAME)["bundles"][0]
    assert golden["rows"] == 20
    assert golden["difference"] <= 1e-5
    assert [found["arm"] for found in shared.place.endpoint.predict(NAME, [request(1)])] == [
        "champion"
    ]
    text = shared.server.admin.get("/metrics").text
    assert f'evergreen_requests_total{{pipeline="{NAME}"' in text
    assert shared.digest in text
    assert service.percentile({"0": 1, "10": 98, "20": 1}, 0.5) == service.BOUNDS[10]


def test_the_description_is_valid_openapi_and_tells_the_truth(shared: Shared) -> None:
    client = shared.server.admin
    description = client.get("/openapi.json").json()
    openapi_spec_validator.validate(description)
    schema = description["components"]["schemas"][NAME]
    assert (description["openapi"], schema["required"]) == ("3.1.0", list(CONTRACT))
    paths = {
        path.replace("{version}", shared.digest): verbs
        for path, verbs in description["paths"].items()
    }
    for path, verbs in paths.items():
        for verb, operation in verbs.items():
            body = operation["requestBody"]["content"]["application/json"] if verb == "post" else {}
            answer = client.request(verb, path, json=body.get("example"))
            assert answer.status_code == 200, (verb, path, answer.text)
            for described, value in (
                (body.get("schema"), body.get("example")),
                (described_answer(operation), answer),
            ):
                if described:
                    whole = {**described, "components": description["components"]}
                    OAS31Validator(whole).validate(
                        value.json() if isinstance(value, httpx.Response) else value
                    )


def described_answer(operation: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of a success, where it has one."""
    found: dict[str, Any] | None = (
        operation["responses"]["200"]["content"].get("application/json", {}).get("schema")
    )
    return found


def test_the_pages_load_nothing_from_elsewhere(shared: Shared) -> None:
    for path in ("/docs", "/docs.js", "/docs.css"):
        page = shared.server.admin.get(path)
        assert page.status_code == 200
        assert "http://" not in page.text.replace("http://www.w3.org", "")
        assert "https://" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]


def test_every_answer_has_security_headers_and_no_server_name(shared: Shared) -> None:
    answers = [
        shared.server.client.get("/healthz"),
        shared.server.client.get("/nope"),
        shared.server.client.post(URL, json=request(1)),
        shared.server.client.post(URL, json={}),
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "server" not in answer.headers


def test_keep_alive_connections_are_reused(shared: Shared) -> None:
    with httpx.Client(
        base_url=shared.server.url, limits=httpx.Limits(max_connections=1), trust_env=False
    ) as client:
        streams = {
            id(client.post(URL, json=request(number)).extensions["network_stream"])
            for number in range(20)
        }
    assert len(streams) == 1


def test_unknown_shop_and_missing_rows_are_served(shared: Shared) -> None:
    answer = shared.server.client.post(
        URL, json={**request(3), "shop": "never seen", "items": None}
    )
    assert answer.status_code == 200
    record = next(
        found
        for found in reader.read(shared.place.predictions, DAY).records
        if found.id == answer.json()["id"]
    )
    by_name = dict(zip(program().names, record.row, strict=True))
    assert (by_name["shop"], by_name["stock_level"], by_name["late_rate"]) == (0.0, None, None)
    assert "never seen" not in SHOPS


def _close(expected: np.ndarray) -> object:
    import pytest

    return pytest.approx(list(expected), abs=1e-5)
