"""Every transport gives the same answers: plain JSON, tensors as JSON and as raw bytes (by Triton's client), Arrow; and
explanations add up to what they explain."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import tritonclient.http as triton

from bundle.features.expression import days, rate
from bundle.features.online import AggregateTable, Refresh, Snapshot
from bundle.features.program import Lookup, aggregate_name, aggregate_table
from bundle.golden import golden_rows
from bundle.models.model import TOLERANCE
from bundle.records import reader
from tests.serving.conftest import Shared
from tests.support.endpoint import (
    CONTRACT,
    DAY,
    NAME,
    Place,
    model,
    program,
    request,
    snapshot,
)

URL = f"/predict/{NAME}"
ARROW = "application/vnd.apache.arrow.stream"
KINDS = {
    "string": "BYTES",
    "datetime": "BYTES",
    "float": "FP64",
    "integer": "INT64",
    "boolean": "BOOL",
}
REQUESTS = [request(number) for number in range(70)]


def plain(shared: Shared, requests: list[dict[str, Any]]) -> list[float]:
    answer = shared.server.client.post(URL, json={"instances": requests})
    assert answer.status_code == 200, answer.text
    return [found["prediction"] for found in answer.json()["predictions"]]


def tensors(requests: list[dict[str, Any]], kind: Any = triton, binary: bool = True) -> list[Any]:
    """Inputs of Triton's client, with `.is_null` beside the columns that may be null."""
    made = []
    for name, field in CONTRACT.items():
        values = [found[name] for found in requests]
        columns = {name: (KINDS[field.kind], values)}
        if field.nullable:
            filler = 0 if field.kind == "integer" else f"{DAY}T00:00:00Z"
            columns = {
                name: (KINDS[field.kind], [filler if value is None else value for value in values])
            }
            columns[f"{name}.is_null"] = ("BOOL", [value is None for value in values])
        for column, (datatype, plain_values) in columns.items():
            array = (
                np.array([str(value).encode() for value in plain_values], dtype=object)
                if datatype == "BYTES"
                else np.array(plain_values)
            )
            tensor = kind.InferInput(column, [len(requests)], datatype)
            if kind is triton:
                tensor.set_data_from_numpy(array, binary_data=binary)
            else:
                tensor.set_data_from_numpy(array)
            made.append(tensor)
    return made


@pytest.fixture
def client(shared: Shared) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(shared.server.url.removeprefix("http://"))
    yield made
    made.close()


def test_tritons_http_client_reads_state_and_metadata(
    client: triton.InferenceServerClient, shared: Shared
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, shared.digest)
    assert not client.is_model_ready(NAME, "0" * 64)
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(NAME)
    assert {found["name"]: found["datatype"] for found in metadata["inputs"]} == {
        name: KINDS[field.kind] for name, field in CONTRACT.items()
    }


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_http_client_gets_the_plain_answers(
    client: triton.InferenceServerClient, shared: Shared, binary: bool
) -> None:
    # Without outputs the client asks for all of them as raw bytes; with some, each says how.
    asked = (
        None
        if binary
        else [
            triton.InferRequestedOutput(name, binary_data=name == "ood")
            for name in ("prediction", "prediction_id", "ood")
        ]
    )
    inputs = tensors(REQUESTS, binary=binary)
    answer = client.infer(NAME, inputs, request_id="mine", outputs=asked)
    assert answer.get_response()["id"] == "mine"
    assert answer.as_numpy("prediction").tolist() == plain(shared, REQUESTS)
    ids = [
        found.decode() if isinstance(found, bytes) else found
        for found in answer.as_numpy("prediction_id").tolist()
    ]
    stored = {record.id: record for record in reader.read(shared.place.predictions, DAY).records}
    assert [stored[found].entity for found in ids] == [found["order_id"] for found in REQUESTS]
    assert [found.decode() for found in answer.as_numpy("ood").tolist()] == [
        ",".join(stored[found].ood) for found in ids
    ]


def test_smaller_numbers_and_columns_of_one_are_taken(
    client: triton.InferenceServerClient, shared: Shared
) -> None:
    requests = [{**found, "amount": 12.5, "items": 3} for found in REQUESTS[:5]]
    inputs = [
        tensor
        for tensor in tensors(requests)
        if tensor.name() not in ("amount", "items", "items.is_null")
    ]
    for name, datatype, values in (
        ("amount", "FP16", np.full((5, 1), 12.5, np.float16)),
        ("items", "UINT8", np.full((5, 1), 3, np.uint8)),
    ):
        tensor = triton.InferInput(name, [5, 1], datatype)
        inputs.append(tensor.set_data_from_numpy(values))
    assert client.infer(NAME, inputs).as_numpy("prediction").tolist() == plain(shared, requests)


def frame(requests: list[dict[str, Any]]) -> pa.Table:
    kinds = {
        "string": pa.string(),
        "float": pa.float64(),
        "integer": pa.int64(),
        "boolean": pa.bool_(),
        "datetime": pa.timestamp("us", "UTC"),
    }
    columns = {}
    for name, field in CONTRACT.items():
        values = [found[name] for found in requests]
        if field.kind == "datetime":
            values = [value and datetime.fromisoformat(value) for value in values]
        columns[name] = pa.array(values, kinds[field.kind])
    return pa.table(columns)


def stream(table: pa.Table, rows: int | None = None, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
    ) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue().to_pybytes()


def send(shared: Shared, content: bytes) -> httpx.Response:
    return shared.server.client.post(URL, content=content, headers={"content-type": ARROW})


def test_arrow_batches_get_the_plain_answers(shared: Shared) -> None:
    table, expected = frame(REQUESTS), plain(shared, REQUESTS)
    changed = table.set_column(1, "shop", table["shop"].dictionary_encode())
    changed = changed.set_column(3, "amount", table["amount"].cast(pa.float64())).set_column(
        4, "items", table["items"].cast(pa.int16())
    )
    changed = changed.set_column(
        7, "event_time", pa.array([found["event_time"] for found in REQUESTS])
    )
    polars = pl.from_arrow(table)
    assert isinstance(polars, pl.DataFrame)
    views = pa.ipc.open_stream(
        polars.with_columns(pl.col("method").cast(pl.Categorical)).write_ipc_stream(None).getvalue()
    ).read_all()
    for content in (stream(table), stream(table, rows=9), stream(changed), stream(views)):
        answer = send(shared, content)
        assert (answer.status_code, answer.headers["content-type"]) == (200, ARROW), answer.text
        found = pa.ipc.open_stream(answer.content).read_all()
        assert found["prediction"].to_pylist() == expected
        assert set(found["bundle"].to_pylist()) == {shared.digest}


@pytest.fixture(scope="module")
def without_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """A server whose bundle looks up the rate of all shops together: a lookup without keys."""
    rolling = rate("late", over=days(7), source="orders")
    table = aggregate_table("orders", ())
    lookup = Lookup(
        table, table, "aggregate", "orders", (), (), (aggregate_name(rolling),), ("float",)
    )
    features = (*program().features[:-1], rolling.named(program().names[-1]))
    changed = msgspec.structs.replace(
        program(), features=features, lookups=(program().lookups[0], lookup)
    )

    online = snapshot()
    refreshes = tuple(
        Refresh(online.created - age * timedelta(hours=1), (((), (0.1 * (1 + age),)),))
        for age in (24, 0)
    )
    online = Snapshot(
        NAME,
        DAY,
        online.created,
        {**online.tables, table: AggregateTable((), lookup.values, refreshes)},
    )

    place = Place.new(tmp_path_factory.mktemp("without_keys"))
    place.publish(online)
    golden = golden_rows(changed, model(), REQUESTS[:20], online)
    digest = place.release(program=changed, golden=golden, golden_online=online)
    with place.server() as server:
        yield Shared(place, server, digest)


@pytest.mark.parametrize("rows", [63, 64, 70])
def test_a_lookup_without_keys_is_found_for_every_row_of_a_batch(
    without_keys: Shared, rows: int
) -> None:
    """On both sides of the number of rows from which a request is computed as columns."""
    asked = REQUESTS[:rows]
    alone = [prediction for row in asked for prediction in plain(without_keys, [row])]
    # The engine of few rows and that of many differ in the last bits.
    expected = pytest.approx(alone, abs=TOLERANCE)

    assert plain(without_keys, asked) == expected

    answer = send(without_keys, stream(frame(asked)))
    assert answer.status_code == 200, answer.text
    answered = pa.ipc.open_stream(answer.content).read_all()
    assert answered["prediction"].to_pylist() == expected

    with triton.InferenceServerClient(without_keys.server.url.removeprefix("http://")) as protocol:
        assert protocol.infer(NAME, tensors(asked)).as_numpy("prediction").tolist() == expected


def test_refused_arrow_bodies_name_column_and_rule(shared: Shared) -> None:
    table = frame(REQUESTS)
    long = pa.array(["west", "x" * 1001] * 35)
    changes: list[tuple[bytes, int, str | None, str]] = [
        (b"", 400, None, "arrow"),
        (b"nonsense", 400, None, "arrow"),
        (stream(table)[:400], 400, None, "arrow"),
        (stream(table).replace(b"order_id", b"order\xb3id"), 400, None, "arrow"),
        (stream(table).replace(b"UTC", b"U\xb3C"), 400, None, "arrow"),
        (stream(table).replace(b"shop", b"sh\xafp"), 400, None, "arrow"),
        (stream(table).replace(b"UTC", b"U\xafC"), 400, None, "arrow"),
        (stream(table, compression="zstd"), 415, None, "compression"),
        (stream(table.slice(0, 0)), 422, "instances", "rows"),
        (stream(pa.concat_tables([table] * 5)), 413, "instances", "rows"),
        (stream(pa.table({"order_id": pa.nulls(2**22)})), 413, "instances", "rows"),
        (stream(table.drop_columns(["amount"])), 422, "amount", "missing_field"),
        (stream(table.append_column("extra", table["amount"])), 422, None, "unknown_field"),
        (stream(table.append_column("amount", table["amount"])), 422, "amount", "duplicate_field"),
        (stream(table.set_column(3, "amount", table["shop"])), 422, "amount", "type"),
        (
            stream(table.set_column(3, "amount", pa.array([1.0] * 69 + [float("nan")]))),
            422,
            "amount[69]",
            "float",
        ),
        (
            stream(table.set_column(3, "amount", pa.array([1.0, 2000.0] * 35))),
            422,
            "amount[1]",
            "le 1000",
        ),
        (stream(table.set_column(1, "shop", pa.nulls(70))), 422, "shop", "type"),
        (
            stream(table.set_column(1, "shop", pa.array([None] + ["west"] * 69))),
            422,
            "shop[0]",
            "string",
        ),
        (stream(table.set_column(1, "shop", long)), 422, "shop[1]", "string"),
        (stream(table.set_column(1, "shop", long.dictionary_encode())), 422, "shop[1]", "string"),
        (
            stream(
                table.set_column(7, "event_time", pa.array([2**62] * 70, pa.timestamp("s", "UTC")))
            ),
            400,
            None,
            "arrow",
        ),
        (
            stream(
                table.set_column(7, "event_time", pa.array([2**62] * 70, pa.timestamp("us", "UTC")))
            ),
            422,
            "event_time[0]",
            "datetime",
        ),
        (
            stream(table.set_column(7, "event_time", table["event_time"].cast(pa.timestamp("us")))),
            422,
            "event_time",
            "type",
        ),
    ]
    for content, status, field, rule in changes:
        answer = send(shared, content)
        found = answer.json()
        assert (answer.status_code, found["field"], rule in found["rule"]) == (
            status,
            field,
            True,
        ), found
    assert send(shared, stream(table)).status_code == 200


def test_rows_outside_the_training_range_are_answered_logged_and_counted_as_such(
    shared: Shared,
) -> None:
    client = shared.server.client
    inside = {**request(2), "shop": "west", "method": "card", "amount": 500.0, "items": 10}
    outside = {**inside, "amount": 1000.0, "items": 0}  # 1000 per item; training went up to 500

    def counted() -> int:
        lines = [
            line
            for line in shared.server.admin.get("/metrics").text.splitlines()
            if "out_of_distribution_total{" in line
        ]
        return sum(
            int(float(line.split()[-1]))
            for line in lines
            if 'feature="amount_per_item"' in line and NAME in line
        )

    before = counted()
    assert client.post(URL, json=inside).json()["ood"] == []
    one = client.post(URL, json=outside).json()
    many = client.post(URL, json={"instances": [inside] * 69 + [outside]}).json()["predictions"]
    assert one["ood"] == ["amount_per_item"]
    assert [found["ood"] for found in many] == [[]] * 69 + [["amount_per_item"]]
    assert counted() == before + 2
    stored = {record.id: record for record in reader.read(shared.place.predictions, DAY).records}
    assert [stored[found["id"]].ood for found in (one, many[0], many[-1])] == [
        ("amount_per_item",),
        (),
        ("amount_per_item",),
    ]


def test_explanations_add_up_to_the_margin_of_the_prediction(shared: Shared) -> None:
    client = shared.server.client
    before = len(reader.read(shared.place.predictions, DAY).records)
    answer = client.post(f"/explain/{NAME}", json={"instances": REQUESTS})
    assert answer.status_code == 200, answer.text
    explanations = answer.json()["explanations"]
    assert len(reader.read(shared.place.predictions, DAY).records) == before
    predictions = client.post(URL, json={"instances": REQUESTS}).json()["predictions"]
    stored = {record.id: record for record in reader.read(shared.place.predictions, DAY).records}
    rows = np.array(
        [[np.nan if v is None else v for v in stored[found["id"]].row] for found in predictions],
        dtype=np.float32,
    )
    margins = model().margin_of_many(rows)
    for found, predicted, margin in zip(explanations, predictions, margins, strict=True):
        assert found["base_value"] + sum(
            part["contribution"] for part in found["contributions"]
        ) == pytest.approx(margin, abs=1e-4)
        assert found["margin"] == pytest.approx(margin, abs=1e-5)
        assert found["probability"] == pytest.approx(predicted["prediction"], abs=1e-5)
        assert {part["feature"] for part in found["contributions"]} == set(program().names)
        sizes = [abs(part["contribution"]) for part in found["contributions"]]
        assert sizes == sorted(sizes, reverse=True)
    one = client.post(
        f"/explain/{NAME}", json={**request(3), "shop": "east", "method": "coin"}
    ).json()
    values = {part["feature"]: part["value"] for part in one["contributions"]}
    # Categories are told as their texts; one that training never saw has none.
    assert (values["shop"], values["method"], values["amount"]) == (
        "east",
        None,
        request(3)["amount"],
    )
    refused = client.post(f"/explain/{NAME}", json={"instances": [request(1)] * 101})
    assert (refused.status_code, refused.json()["rule"]) == (413, "rows")


def test_the_model_page_says_where_a_bundle_comes_from(shared: Shared) -> None:
    found = shared.server.client.get(f"/models/{NAME}").json()
    assert (found["owner"], found["purpose"], found["entity"]) == (
        "team:orders",
        "Probability that an order is late.",
        "order_id",
    )
    arm = found["arms"][0]
    assert (arm["bundle"], arm["trained_as_of"], arm["metrics"]) == (
        shared.digest,
        DAY.isoformat(),
        {"test_log_loss": 0.4},
    )
    # What computes few rows, and up to how many: measured when the bundle was loaded.
    assert arm["engine"]["name"] in ("walker", "gtil")
    assert arm["engine"]["crossover"] >= 1
    features = {feature["name"]: feature for feature in arm["features"]}
    assert features["amount"]["low"] < 0 < 1000 < features["amount"]["high"]
    assert features["method"] == {
        "name": "method",
        "type": "category",
        "values": ["card", "cash"],
        "unseen_is_ood": False,
    }
    assert found["request"]["items"]["le"] == 50
    # A real row to try is for the loopback port alone.
    assert "example" not in found
    assert shared.server.admin.get(f"/models/{NAME}").json()["example"] == request(0)
