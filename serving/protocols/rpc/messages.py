"""What a ModelInferRequest asks, and the ModelInferResponse for its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from serving.contract.contract import Columns, Contract
from serving.contract.refusal import Refusal
from serving.delivery.answers import Answers
from serving.protocols import models, outputs, parameters, tensors
from serving.protocols.open_inference_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)
from serving.protocols.parameters import BINARY_OUTPUT, Parameter
from serving.protocols.tensors import Tensor

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of InferTensorContents that holds values of a datatype. FP16 travels as raw bytes
alone."""


class Wanted(NamedTuple):
    """The outputs that a request wants, and whether they are to be raw bytes."""

    outputs: list[str]
    raw: bool


def columns_of(contract: Contract, request: ModelInferRequest) -> Columns:
    """Checked columns of a request. Raises Refusal."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise Refusal(
            422,
            "data",
            "raw_input_contents must hold the bytes of every input, in their order.",
            "raw_input_contents",
        )

    inputs = []
    for place, tensor in enumerate(request.inputs):
        parameters.check(parameters_of(tensor.parameters), f"inputs[{place}]")
        if raw and tensor.HasField("contents"):
            raise Refusal(
                422,
                "data",
                "An input must have either contents or raw_input_contents.",
                f"inputs[{place}].contents",
            )
        values = raw[place] if raw else _values(tensor, place)
        inputs.append(Tensor(tensor.name, tensor.datatype, list(tensor.shape), values))

    return tensors.columns_of(contract, inputs)


def wanted(request: ModelInferRequest) -> Wanted:
    """What a request wants back. Raises Refusal.

    Outputs are raw where the inputs are, or as the parameters `binary_data_output` and
    `binary_data` say. A response holds all outputs raw or none, so these must agree.
    """
    whole = parameters_of(request.parameters)
    whole.setdefault(BINARY_OUTPUT, len(request.raw_input_contents) > 0)
    named = [(output.name, parameters_of(output.parameters)) for output in request.outputs]
    found = outputs.wanted(named, whole)

    if len(set(found.values())) > 1:
        raise Refusal(
            422,
            "outputs",
            "Over gRPC all outputs are raw bytes or none: binary_data must be the same for all.",
            "outputs",
        )
    return Wanted(list(found), any(found.values()))


def response(
    pipeline: str, request: ModelInferRequest, wanted: Wanted, answers: Answers
) -> ModelInferResponse:
    """The answers as the outputs that are wanted."""
    made = ModelInferResponse(
        model_name=pipeline, model_version=models.version_of(answers) or "", id=request.id
    )

    for name in wanted.outputs:
        datatype = outputs.OUTPUTS[name]
        values = outputs.values(name, answers)
        output = made.outputs.add(name=name, datatype=datatype, shape=[len(answers)])
        if wanted.raw:
            made.raw_output_contents.append(outputs.raw(datatype, values))
        elif datatype == "BYTES":
            output.contents.bytes_contents.extend(value.encode() for value in values)
        else:
            output.contents.fp64_contents.extend(values)

    return made


def parameters_of(held: Mapping[str, InferParameter]) -> dict[str, Parameter]:
    """Parameters as plain values; one without a value is left out."""
    plain: dict[str, Parameter] = {}
    for name, parameter in held.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is not None:
            plain[name] = getattr(parameter, choice)

    return plain


def _values(tensor: ModelInferRequest.InferInputTensor, place: int) -> list[object]:
    """Values of an input's contents; texts decoded. Raises Refusal."""
    field = CONTENTS.get(tensor.datatype)
    contents: InferTensorContents = tensor.contents
    if any(found.name != field for found, _ in contents.ListFields()):
        raise Refusal(
            422,
            "data",
            f"The contents must be those of the input's datatype: {field or 'raw_input_contents'}.",
            f"inputs[{place}].contents",
        )

    values = list(getattr(contents, field)) if field else []
    if field != "bytes_contents":
        return values

    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        raise Refusal(
            422, "utf-8", "Texts must be UTF-8.", f"inputs[{place}].contents.bytes_contents"
        ) from None
