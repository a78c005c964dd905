"""Outputs of the Open Inference Protocol: which there are, which a request wants, and their
values."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from serving.contract.refusal import Refusal
from serving.delivery.answers import Answers
from serving.protocols import parameters
from serving.protocols.parameters import BINARY, BINARY_OUTPUT, Parameter

OUTPUTS = {"prediction": "FP64", "prediction_id": "BYTES", "ood": "BYTES", "bundle": "BYTES"}
"""Datatypes of the outputs by name. Each has one value a row: the probability, its name in the
prediction log, the features outside of the training set's range (separated by commas), and the
digest of the bundle that answered, which may differ between the rows of a batch."""


def wanted(
    outputs: Sequence[tuple[str, Mapping[str, Parameter]]], whole: Mapping[str, Parameter]
) -> dict[str, bool]:
    """Whether each output that a request wants is to be raw bytes; without names it wants all.

    `outputs` are names with their parameters, `whole` are the parameters of the request. Raises
    Refusal.
    """
    parameters.check(whole)
    default = parameters.flag(whole, BINARY_OUTPUT, False)
    if not outputs:
        return dict.fromkeys(OUTPUTS, default)

    found: dict[str, bool] = {}
    for place, (name, own) in enumerate(outputs):
        if name not in OUTPUTS or name in found:
            raise Refusal(
                422,
                "outputs",
                f"outputs must name {', '.join(OUTPUTS)}, each once at most.",
                f"outputs[{place}].name",
            )
        parameters.check(own, f"outputs[{place}]")
        found[name] = parameters.flag(own, BINARY, default, f"outputs[{place}]")

    return found


def values(name: str, answers: Answers) -> list[Any]:
    """The values of one output."""
    match name:
        case "prediction":
            return answers.outputs
        case "prediction_id":
            return answers.ids
        case "bundle":
            return answers.bundles

    return [",".join(features) for features in answers.ood]


def raw(datatype: str, values: Sequence[Any]) -> bytes:
    """Values of an output as raw bytes, little-endian."""
    return packed(values) if datatype == "BYTES" else struct.pack(f"<{len(values)}d", *values)


def packed(texts: Sequence[str]) -> bytes:
    """Texts as a raw BYTES tensor: each preceded by its length, four bytes little-endian."""
    contents = [text.encode() for text in texts]
    return b"".join([struct.pack("<I", len(content)) + content for content in contents])
