"""How each server wants rows sent, and says its predictions: pure functions over the task."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from benchmarks.serving.task import CONTRACT, NAME, Task

Encode = Callable[[Task, Sequence[int]], "Body"]


@dataclass(frozen=True)
class Body:
    """Content of a request, and headers that depend on it."""

    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Encoding:
    """`encode` makes a request for the rows of the task with these numbers.

    `decode` finds the predictions in an answer's body and headers (names in lower case).
    """

    path: str
    kind: str
    encode: Encode
    decode: Callable[[bytes, Mapping[str, str]], list[float]]
    named: str = "JSON"


def _json(value: object) -> Body:
    return Body(json.dumps(value, separators=(",", ":")).encode())


# The endpoint.


def rows_as_json(task: Task, numbers: Sequence[int]) -> Body:
    found = [task.requests[number] for number in numbers]
    return _json(found[0] if len(found) == 1 else {"instances": found})


def plain_answer(content: bytes, _: Mapping[str, str]) -> list[float]:
    answer = json.loads(content)
    return [found["prediction"] for found in answer.get("predictions", [answer])]


def _arrow(task: Task, numbers: Sequence[int]) -> Body:
    import pyarrow as pa

    kinds = {
        "string": pa.string(),
        "integer": pa.int64(),
        "float": pa.float64(),
        "datetime": pa.timestamp("us", "UTC"),
    }
    columns = {}
    for name, declared in CONTRACT.items():
        values = [task.requests[number][name] for number in numbers]
        columns[name] = pa.array(
            [datetime.fromisoformat(value) for value in values]
            if declared.kind == "datetime"
            else values,
            kinds[declared.kind],
        )
    return Body(_stream(pa.table(columns)))


def _stream(table: object) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:  # type: ignore[attr-defined]
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _arrow_answer(content: bytes, _: Mapping[str, str]) -> list[float]:
    import pyarrow as pa

    found: list[float] = pa.ipc.open_stream(content).read_all()["prediction"].to_pylist()
    return found


def _tensors(task: Task, numbers: Sequence[int]) -> Body:
    """The Open Inference Protocol's binary extension, as its public client writes it."""
    import numpy as np
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

    inputs = []
    for name, declared in CONTRACT.items():
        values = [task.requests[number][name] for number in numbers]
        if declared.kind in ("string", "datetime"):
            kind, array = "BYTES", np.array([value.encode() for value in values], dtype=object)
        elif declared.kind == "integer":
            kind, array = "INT64", np.array(values, dtype=np.int64)
        else:
            kind, array = "FP64", np.array(values, dtype=np.float64)
        tensor = InferInput(name, [len(values)], kind)
        tensor.set_data_from_numpy(array, binary_data=True)
        inputs.append(tensor)
    wanted = [InferRequestedOutput("prediction", binary_data=True)]
    content, length = InferenceServerClient.generate_request_body(inputs, outputs=wanted)
    return Body(content, {"inference-header-content-length": str(length)})


def _columns(task: Task, numbers: Sequence[int]) -> Body:
    """The Open Inference Protocol's JSON, a tensor for each column; MLServer is asked so, too."""
    kinds = {"string": "BYTES", "datetime": "BYTES", "integer": "INT64", "float": "FP64"}
    inputs = [
        {
            "name": name,
            "shape": [len(numbers)],
            "datatype": kinds[declared.kind],
            "data": [task.requests[number][name] for number in numbers],
        }
        for name, declared in CONTRACT.items()
    ]
    return _json({"inputs": inputs, "outputs": [{"name": "prediction"}]})


def _columns_answer(content: bytes, _: Mapping[str, str]) -> list[float]:
    [output] = json.loads(content)["outputs"]
    found: list[float] = output["data"]
    return found


def _tensors_answer(content: bytes, headers: Mapping[str, str]) -> list[float]:
    from tritonclient.http import InferenceServerClient

    length = headers.get("inference-header-content-length")
    found = InferenceServerClient.parse_response_body(
        content, header_length=int(length) if length else None
    )
    values: list[float] = found.as_numpy("prediction").tolist()
    return values


ENDPOINT_JSON = Encoding(f"/predict/{NAME}", "application/json", rows_as_json, plain_answer)
ENDPOINT_ARROW = Encoding(
    f"/predict/{NAME}", "application/vnd.apache.arrow.stream", _arrow, _arrow_answer, "Arrow IPC"
)
ENDPOINT_COLUMNS = Encoding(
    f"/v2/models/{NAME}/infer", "application/json", _columns, _columns_answer, "V2 tensors"
)
ENDPOINT_TENSORS = Encoding(
    f"/v2/models/{NAME}/infer",
    "application/octet-stream",
    _tensors,
    _tensors_answer,
    "V2 binary tensors",
)


# Peers, which take the features ready-made.


def _predictions(content: bytes, _: Mapping[str, str]) -> list[float]:
    found: list[float] = json.loads(content)["predictions"]
    return found


def _split(task: Task, numbers: Sequence[int]) -> Body:
    return _json(
        {
            "dataframe_split": {
                "columns": task.names,
                "data": [task.rows[number] for number in numbers],
            }
        }
    )


def _frame(task: Task, numbers: Sequence[int]) -> object:
    import pyarrow as pa

    return pa.table(
        {
            name: pa.array([task.rows[number][at] for number in numbers], pa.float64())
            for at, name in enumerate(task.names)
        }
    )


def _parquet(task: Task, numbers: Sequence[int]) -> Body:
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(_frame(task, numbers), sink)
    return Body(sink.getvalue())


MLFLOW_JSON = Encoding("/invocations", "application/json", _split, _predictions)
MLFLOW_PARQUET = Encoding(
    "/invocations", "application/vnd.apache.parquet", _parquet, _predictions, "Parquet"
)


def _inference(task: Task, numbers: Sequence[int]) -> Body:
    flat = [value for number in numbers for value in task.rows[number]]
    return _json(
        {
            "inputs": [
                {
                    "name": "rows",
                    "shape": [len(numbers), len(task.names)],
                    "datatype": "FP32",
                    "data": flat,
                }
            ]
        }
    )


def _inference_answer(content: bytes, _: Mapping[str, str]) -> list[float]:
    found: list[float] = json.loads(content)["outputs"][0]["data"]
    return found


MLSERVER_JSON = Encoding(
    f"/v2/models/{NAME}/infer", "application/json", _inference, _inference_answer
)


def _rows(task: Task, numbers: Sequence[int]) -> Body:
    return _json({"rows": [task.rows[number] for number in numbers]})


def _list(content: bytes, _: Mapping[str, str]) -> list[float]:
    found: list[float] = json.loads(content)
    return found


BENTOML_JSON = Encoding("/predict", "application/json", _rows, _list)
LITSERVE_JSON = Encoding("/predict", "application/json", _rows, _predictions)


def _named_rows(task: Task, numbers: Sequence[int]) -> Body:
    return _json(
        {"rows": [dict(zip(task.names, task.rows[number], strict=True)) for number in numbers]}
    )


def _named_arrow(task: Task, numbers: Sequence[int]) -> Body:
    return Body(_stream(_frame(task, numbers)))


FASTAPI_JSON = Encoding("/predict", "application/json", _named_rows, _predictions)
FASTAPI_ARROW = Encoding(
    "/predict-arrow", "application/vnd.apache.arrow.stream", _named_arrow, _predictions, "Arrow IPC"
)
