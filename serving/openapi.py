"""The OpenAPI 3.1 description of what is served now, made from the manifests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bundle.manifest import Manifest, RequestField
from serving.contract import example
from serving.options import Options
from serving.tensors import DATATYPES

VERSION = "1"

_REFUSAL = {
    "type": "object",
    "required": ["error", "field", "rule"],
    "properties": {
        "error": {"type": "string", "description": "what is wrong, without values"},
        "field": {"type": ["string", "null"], "description": "where, such as instances[3].hour"},
        "rule": {"type": "string", "description": "a short code of the rule that was broken"},
    },
}
_PREDICTION = {
    "type": "object",
    "required": ["id", "prediction", "bundle", "arm", "online_as_of", "ood"],
    "properties": {
        "id": {"type": "string", "description": "name of this prediction in the prediction log"},
        "prediction": {"type": "number", "minimum": 0, "maximum": 1},
        "bundle": {"type": "string", "description": "digest of the bundle that answered"},
        "arm": {"type": "string", "description": "champion or challenger"},
        "online_as_of": {"type": ["string", "null"], "format": "date", "description": "day of the online features that were used"},
        "ood": {
            "type": "array",
            "items": {"type": "string"},
            "description": "features of this row that lie outside the range of the training set",
        },
    },
}
_STATUSES = {
    "400": "no valid JSON", "404": "no such pipeline", "413": "body or number of rows too large", "415": "not application/json",
    "422": "a field breaks the contract", "503": "not ready, or the prediction cannot be logged: try again",
}  # fmt: skip


def document(manifests: Mapping[str, Manifest], options: Options) -> dict[str, Any]:
    """The whole description; pipelines that are not served yet are not in it."""
    paths: dict[str, Any] = {
        "/healthz": _get("The process lives.", "Health"),
        "/readyz": _get("Every known pipeline is served.", "Health", "503"),
        "/metrics": _get("Counts and latencies of this worker, as Prometheus text.", "Health", kind="text/plain"),
        "/v2": _get("Server metadata.", "Open Inference Protocol"),
        "/v2/health/live": _get("Live.", "Open Inference Protocol"),
        "/v2/health/ready": _get("Ready.", "Open Inference Protocol", "503"),
    }
    schemas: dict[str, Any] = {"Refusal": _REFUSAL, "Prediction": _PREDICTION}
    for name, manifest in manifests.items():
        schemas[name] = {
            "type": "object", "additionalProperties": False, "required": list(manifest.request),
            "properties": {column: _schema(field, options.text_limit) for column, field in manifest.request.items()},
        }  # fmt: skip
        paths |= _paths(name, manifest, options)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Evergreen endpoint",
            "version": VERSION,
            "description": "Predictions of the released bundles; every answer is in the prediction log.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _paths(name: str, manifest: Manifest, options: Options) -> dict[str, Any]:
    one, answer = {"$ref": f"#/components/schemas/{name}"}, {"$ref": "#/components/schemas/Prediction"}
    rows = {"type": "array", "items": one, "minItems": 1, "maxItems": options.row_limit}
    answers = {"type": "object", "required": ["predictions"], "properties": {"predictions": {"type": "array", "items": answer}}}
    model = f"/v2/models/{name}"
    return {
        f"/predict/{name}": {
            "post": {
                "summary": manifest.purpose or f"Predict {manifest.label}.",
                "tags": [name],
                "requestBody": _body(
                    {
                        "oneOf": [
                            one,
                            {"type": "object", "additionalProperties": False, "required": ["instances"], "properties": {"instances": rows}},
                        ]
                    },
                    example(manifest),
                ),
                "responses": _responses({"oneOf": [answer, answers]}),
            }
        },
        f"{model}/infer": {
            "post": {
                "summary": "The same by the Open Inference Protocol v2.",
                "tags": [name],
                "requestBody": _body({"type": "object"}, _inference(manifest)),
                "responses": _responses({"type": "object"}),
            }
        },
        model: _get("Inputs, outputs and versions.", name, "503"),
        f"{model}/ready": _get("Whether a verified bundle is being served.", name, "503"),
        f"{model}/actual": _get("What is served, in which state, and what is wrong if anything.", name),
        f"{model}/golden": _get("Predict the golden rows of what is served, and compare.", name, "503"),
    }


def _inference(manifest: Manifest) -> dict[str, Any]:
    row = example(manifest)
    return {
        "inputs": [
            {"name": name, "shape": [1], "datatype": DATATYPES[field.kind][0], "data": [row[name]]}
            for name, field in manifest.request.items()
        ]
    }


def _schema(field: RequestField, text_limit: int) -> dict[str, Any]:
    kinds = {"string": "string", "float": "number", "integer": "integer", "boolean": "boolean", "datetime": "string"}
    schema: dict[str, Any] = {"type": [kinds[field.kind], "null"] if field.nullable else kinds[field.kind]}
    if field.kind == "datetime":
        schema["format"] = "date-time"
    if field.values is not None:
        schema["enum"] = [*field.values, None] if field.nullable else list(field.values)
    elif field.kind == "string":
        schema["maxLength"] = text_limit
    limits = {"minimum": field.ge, "maximum": field.le, "pattern": field.pattern, "description": field.description or None}
    return schema | {name: value for name, value in limits.items() if value is not None}


def _body(schema: dict[str, Any], sample: Any) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema, "example": sample}}}


def _responses(schema: dict[str, Any]) -> dict[str, Any]:
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    refused = {status: {"description": text, "content": refusal} for status, text in _STATUSES.items()}
    return {"200": {"description": "predicted and logged", "content": {"application/json": {"schema": schema}}}, **refused}


def _get(summary: str, tag: str, *refusals: str, kind: str = "application/json") -> dict[str, Any]:
    answers: dict[str, Any] = {"200": {"description": summary, "content": {kind: {}}}}
    for status in refusals:
        answers[status] = {
            "description": _STATUSES[status],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
        }
    return {"get": {"summary": summary, "tags": [tag], "responses": answers}}
