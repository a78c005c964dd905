"""Open Inference Protocol v2 over REST: JSON bodies, and the binary tensor extension.

With the header Inference-Header-Content-Length the body is that many bytes of JSON, then the raw bytes of the inputs that
have the parameter `binary_data_size` instead of `data`, in their order; answers are made alike where outputs are asked for
with `binary_data`, or all of them with `binary_data_output`.
Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, and Triton's extension_binary_data.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from serving.contract.contract import Columns, Contract, count_quotes, parse
from serving.contract.refusal import Refusal
from serving.delivery.predicting import Answers
from serving.protocols.tensors import OUTPUTS, Tensor, columns_of, raw_output

HEADER_LENGTH = b"inference-header-content-length"
BINARY, BINARY_SIZE, BINARY_OUTPUT = "binary_data", "binary_data_size", "binary_data_output"
ID_LIMIT = 200
Parameter = bool | int | float | str


class Input(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Parameter] = {}


class Output(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: dict[str, Parameter] = {}


class Inference(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[Input]
    id: str | None = None
    parameters: dict[str, Parameter] = {}
    outputs: list[Output] | None = None


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw
    parameters: dict[str, Parameter] | msgspec.UnsetType = msgspec.UNSET


class _Inference(msgspec.Struct, forbid_unknown_fields=True):
    """An inference of JSON alone whose values are not decoded yet. What is not there is not encoded either."""

    inputs: list[_Input]
    id: str | msgspec.UnsetType | None = msgspec.UNSET
    parameters: dict[str, Parameter] | msgspec.UnsetType = msgspec.UNSET
    outputs: list[_Output] | msgspec.UnsetType | None = msgspec.UNSET


class _Output(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parameters: dict[str, Parameter] | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_Inference).decode


@dataclass(frozen=True)
class Asked:
    """What an inference asks: checked columns, its own id, and the outputs wanted with whether each is to be raw bytes."""

    columns: Columns
    id: str | None
    outputs: dict[str, bool]


def decode(contract: Contract, body: bytes, header: bytes | None = None) -> Asked:
    """The inference of a body; `header` is the value of Inference-Header-Content-Length. Raises Refusal."""
    return (_decode_columns(contract, body) if header is None else None) or decode_any(
        contract, body, header
    )


def _decode_columns(contract: Contract, body: bytes) -> Asked | None:
    """What `decode_any` finds in a body of JSON alone, each column decoded at once, in a fifth of the time; None where `decode_any` is
    to say what is wrong with it, or where it has null masks or escapes."""
    if b"\\" in body:
        return None
    try:
        found = _decode(body)
        # msgspec keeps the last of duplicate fields in silence; but with the others their names are gone.
        if count_quotes(msgspec.json.encode(found)) != count_quotes(body):
            return None
        tensors = [
            Tensor(
                tensor.name,
                tensor.datatype,
                tensor.shape,
                contract.json_column(tensor.name, tensor.data),
            )
            for tensor in found.inputs
        ]
        if any(BINARY_SIZE in (tensor.parameters or ()) for tensor in found.inputs):
            return None
        identity = None if found.id is msgspec.UNSET else found.id
        check_id(identity)
        outputs = wanted(
            [(output.name, output.parameters or {}) for output in found.outputs or ()],
            found.parameters or {},
        )
        return Asked(columns_of(contract, tensors), identity, outputs)
    except (msgspec.DecodeError, ValueError, KeyError, OverflowError, RecursionError, Refusal):
        return None


def decode_any(contract: Contract, body: bytes, header: bytes | None) -> Asked:
    """`decode` for all that the protocol allows. Raises Refusal."""
    size = len(body)
    if header is not None:
        if not (header.isascii() and header.isdigit() and int(header[:20]) <= size):
            raise Refusal(
                400,
                "header_length",
                "Inference-Header-Content-Length must be the number of bytes of JSON at the beginning of the body.",
                "inference-header-content-length",
            )
        size = int(header)
    try:
        inference = msgspec.convert(parse(body[:size]), Inference)
    except msgspec.ValidationError as error:
        raise _malformed(str(error)) from None
    check_id(inference.id)
    tensors, place = [], size
    for index, found in enumerate(inference.inputs):
        length = found.parameters.get(BINARY_SIZE)
        if (length is None) == (found.data is None):
            raise Refusal(
                422,
                "data",
                f"Every input must have either data or the parameter {BINARY_SIZE}.",
                f"inputs[{index}]",
            )
        if length is None:
            assert found.data is not None
            tensors.append(Tensor(found.name, found.datatype, found.shape, found.data))
            continue
        if (
            not isinstance(length, int)
            or isinstance(length, bool)
            or not 0 <= length <= len(body) - place
        ):
            raise Refusal(
                422,
                "size",
                f"{BINARY_SIZE} must be the number of raw bytes of this input.",
                f"inputs[{index}].parameters.{BINARY_SIZE}",
            )
        tensors.append(
            Tensor(found.name, found.datatype, found.shape, body[place : place + length])
        )
        place += length
    if place != len(body):
        raise Refusal(422, "size", "The body has more bytes than its JSON and its inputs say.")
    outputs = wanted(
        [(output.name, output.parameters) for output in inference.outputs or ()],
        inference.parameters,
    )
    return Asked(columns_of(contract, tensors), inference.id, outputs)


def wanted(
    outputs: Sequence[tuple[str, dict[str, Parameter]]], parameters: dict[str, Parameter]
) -> dict[str, bool]:
    """Outputs that are asked for (none: all of them), and whether each is to be raw bytes. Raises Refusal."""
    default = _flag(parameters, BINARY_OUTPUT, False, f"parameters.{BINARY_OUTPUT}")
    if not outputs:
        return dict.fromkeys(OUTPUTS, default)
    found: dict[str, bool] = {}
    for place, (name, asked) in enumerate(outputs):
        if name not in OUTPUTS or name in found:
            raise Refusal(
                422,
                "outputs",
                f"outputs must name {', '.join(OUTPUTS)}, each once at most.",
                f"outputs[{place}].name",
            )
        found[name] = _flag(asked, BINARY, default, f"outputs[{place}].parameters.{BINARY}")
    return found


def check_id(given: str | None) -> None:
    """Raises Refusal for a request id that is too long to be repeated."""
    if given is not None and len(given) > ID_LIMIT:
        raise Refusal(422, "id", f"id must have up to {ID_LIMIT} characters.", "id")


def output_values(name: str, answers: Answers) -> list[Any]:
    """Values of one output: `ood` holds the names of the features outside, separated by commas."""
    match name:
        case "prediction":
            return answers.outputs
        case "prediction_id":
            return answers.ids
    return [",".join(features) for features in answers.ood]


def encode(pipeline: str, answers: Answers, asked: Asked) -> tuple[bytes, int | None]:
    """The body of the answer, and how many bytes of it are JSON where raw bytes follow."""
    outputs, raw = [], []
    for name, binary in asked.outputs.items():
        output: dict[str, Any] = {"name": name, "shape": [len(answers)], "datatype": OUTPUTS[name]}
        values = output_values(name, answers)
        if binary:
            raw.append(raw_output(OUTPUTS[name], values))
            output["parameters"] = {BINARY_SIZE: len(raw[-1])}
        else:
            output["data"] = values
        outputs.append(output)
    answer: dict[str, Any] = {
        "model_name": pipeline,
        "model_version": answers.bundles[0],
        "outputs": outputs,
    }
    if asked.id is not None:
        answer["id"] = asked.id
    header = msgspec.json.encode(answer)
    return (b"".join([header, *raw]), len(header)) if raw else (header, None)


def _flag(parameters: dict[str, Parameter], name: str, default: bool, place: str) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Refusal(422, "boolean", f"{name} must be true or false.", place)
    return value


def _malformed(message: str) -> Refusal:
    """What msgspec found, said without values and without names that came from outside."""
    for start, rule in (
        ("Object contains unknown field", "unknown_field"),
        ("Object missing required field", "missing_field"),
    ):
        if message.startswith(start):
            return Refusal(
                422,
                rule,
                "The body must be an inference: inputs (each name, shape, datatype, data), id, parameters, outputs.",
            )
    return Refusal(
        422,
        "type",
        "The body must be an inference: inputs (each name, shape, datatype, data), id, parameters, outputs.",
    )
