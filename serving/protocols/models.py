"""What the Open Inference Protocol says of a model and of the server, over REST and gRPC alike.

A model is a pipeline, its version the digest of a bundle. One version is listed and may be asked
for: the champion's. A challenger answers the share of the requests that the split gives it, and is
not listed, because callers that choose it would bias what the split is there to measure.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from serving.callers.access import Caller
from serving.contract.refusal import Refusal
from serving.delivery.answers import Answers
from serving.delivery.view import View
from serving.protocols.outputs import OUTPUTS
from serving.protocols.tensors import DATATYPES
from serving.service import Service

NAME = "evergreen"
VERSION = "1"
EXTENSIONS = ["binary_tensor_data"]


class ModelIndex(msgspec.Struct, frozen=True):
    """One pipeline in the repository index."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class _Index(msgspec.Struct):
    """What is asked of the repository index."""

    ready: bool = False


def server() -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return {"name": NAME, "version": VERSION, "extensions": EXTENSIONS}


def metadata(view: View) -> dict[str, Any]:
    """Inputs with their datatypes, outputs, the version and what computes it."""
    manifest = view.manifest
    inputs = [
        {"name": name, "datatype": DATATYPES[field.kind][0], "shape": [-1]}
        for name, field in manifest.request.items()
    ]
    outputs = [
        {"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in OUTPUTS.items()
    ]
    return {
        "name": manifest.pipeline,
        "versions": [view.version],
        "platform": platform(view),
        "inputs": inputs,
        "outputs": outputs,
    }


def platform(view: View) -> str:
    """`<project>_<format>`, as the protocol has it: `evergreen_xgboost`,
    `evergreen_scikit_learn`."""
    return f"{NAME}_{view.arms[0].bundle.model.kind.replace('-', '_')}"


def version_of(answers: Answers) -> str | None:
    """The bundle that answered; None where several did. The output `bundle` names each row's."""
    bundles = set(answers.bundles)
    return bundles.pop() if len(bundles) == 1 else None


def only_ready(body: bytes) -> bool:
    """Whether the body of a request for the index, which may be empty, asks for ready models alone.

    Raises Refusal.
    """
    if not body:
        return False

    try:
        return msgspec.json.decode(body, type=_Index).ready
    except msgspec.DecodeError:
        raise Refusal(
            422, "type", "The body must be empty, or JSON with ready: true or false."
        ) from None


def index(service: Service, caller: Caller, *, ready: bool) -> list[ModelIndex]:
    """The repository index: each pipeline that a caller may ask, with its version and state.

    `ready` leaves out those that are not served.
    """
    models = []
    for name in service.visible(caller):
        served = service.pipelines[name]
        view = served.view
        if view is not None and not service.draining:
            models.append(ModelIndex(name, view.version, "READY", ""))
        elif not ready:
            reason = "the server is stopping" if service.draining else "no verified bundle yet"
            models.append(ModelIndex(name, "", "UNAVAILABLE", reason))

    return models
