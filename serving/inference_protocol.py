"""Open Inference Protocol v2, REST with JSON bodies.

Each column of a request is one input tensor of shape [n] or [n, 1]; texts and times travel as BYTES. Answers hold the
tensors `prediction` (FP64) and `prediction_id` (BYTES, the name of each prediction in the log).
Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from bundle.manifest import Manifest, RequestField
from serving.contract import Contract, Row, parse
from serving.refusal import Refusal

INTEGERS = ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
DATATYPES: dict[str, tuple[str, ...]] = {
    "string": ("BYTES",), "datetime": ("BYTES",), "boolean": ("BOOL",), "integer": INTEGERS, "float": ("FP64", "FP32", "FP16", *INTEGERS),
}  # fmt: skip
OUTPUTS = {"prediction": "FP64", "prediction_id": "BYTES"}
Parameter = bool | int | float | str


class Input(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Parameter] = {}


class Output(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: dict[str, Parameter] = {}


class Inference(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[Input]
    id: str | None = None
    parameters: dict[str, Parameter] = {}
    outputs: list[Output] | None = None


def decode(contract: Contract, body: bytes) -> tuple[list[Row], str | None, tuple[str, ...]]:
    """Checked rows, the request's own id, and the names of the outputs wanted. Raises Refusal."""
    try:
        inference = msgspec.convert(parse(body), Inference)
    except msgspec.ValidationError as error:
        raise _shape(str(error)) from None
    if inference.id is not None and len(inference.id) > 200:
        raise Refusal(422, "id", "id must have up to 200 characters.", "id")
    names = [tensor.name for tensor in inference.inputs]
    for place, name in enumerate(names):
        if name not in contract.fields:
            raise Refusal(422, "unknown_field", f"There is no such input; inputs are {', '.join(contract.names)}.", f"inputs[{place}].name")
        if names.index(name) != place:
            raise Refusal(422, "duplicate_field", f"The input {name} is there more than once.", f"inputs[{place}].name")
    for name in contract.names:
        if name not in names:
            raise Refusal(422, "missing_field", f"The input {name} is missing.", name)
    columns = {tensor.name: _column(tensor, contract.fields[tensor.name]) for tensor in inference.inputs}
    count = len(columns[contract.entity])
    for name, column in columns.items():
        if len(column) != count:
            raise Refusal(422, "shape", f"The input {name} has another number of rows than {contract.entity}.", name)
    contract.check_count(count)
    wanted = tuple(OUTPUTS) if inference.outputs is None else tuple(output.name for output in inference.outputs)
    for place, name in enumerate(wanted):
        if name not in OUTPUTS or name in wanted[:place]:
            raise Refusal(422, "outputs", f"outputs must name {', '.join(OUTPUTS)}, each once at most.", f"outputs[{place}].name")
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return contract.check(rows, "rows"), inference.id, wanted


def encode(
    manifest: Manifest, bundle: str, ids: Sequence[str], outputs: Sequence[float], request_id: str | None, wanted: Sequence[str]
) -> bytes:
    """The answer to an inference."""
    data: dict[str, Sequence[Any]] = {"prediction": outputs, "prediction_id": ids}
    answer: dict[str, Any] = {
        "model_name": manifest.pipeline,
        "model_version": bundle,
        "outputs": [{"name": name, "shape": [len(ids)], "datatype": OUTPUTS[name], "data": data[name]} for name in wanted],
    }
    if request_id is not None:
        answer["id"] = request_id
    return msgspec.json.encode(answer)


def metadata(manifest: Manifest, versions: Sequence[str]) -> dict[str, Any]:
    """Model metadata: inputs with their datatypes, outputs, versions (bundle digests, champion first)."""
    return {
        "name": manifest.pipeline,
        "versions": list(versions),
        "platform": "evergreen_xgboost",
        "inputs": [{"name": name, "datatype": DATATYPES[field.kind][0], "shape": [-1]} for name, field in manifest.request.items()],
        "outputs": [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in OUTPUTS.items()],
    }


def _column(tensor: Input, field: RequestField) -> list[Any]:
    allowed = DATATYPES[field.kind]
    if tensor.datatype not in allowed:
        raise Refusal(422, "datatype", f"The input {tensor.name} must have the datatype {' or '.join(allowed)}.", tensor.name)
    data = tensor.data
    if len(tensor.shape) == 2 and tensor.shape[1] == 1 and data and all(isinstance(item, list) and len(item) == 1 for item in data):
        data = [item[0] for item in data]
    if len(tensor.shape) not in (1, 2) or (len(tensor.shape) == 2 and tensor.shape[1] != 1) or tensor.shape[0] != len(data):
        raise Refusal(422, "shape", f"The input {tensor.name} must have the shape [n] or [n, 1], and n values.", tensor.name)
    return data


def _shape(message: str) -> Refusal:
    """What msgspec found, said without values and without names that came from outside."""
    for start, rule in (("Object contains unknown field", "unknown_field"), ("Object missing required field", "missing_field")):
        if message.startswith(start):
            return Refusal(422, rule, "The body must be an inference: inputs (each name, shape, datatype, data), id, parameters, outputs.")
    return Refusal(422, "type", "The body must be an inference: inputs (each name, shape, datatype, data), id, parameters, outputs.")
