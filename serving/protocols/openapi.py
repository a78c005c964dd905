"""The OpenAPI 3.1 description of what is served now, made from the manifests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bundle.manifest import Manifest, RequestField
from serving.contract.contract import example
from serving.delivery.explain import ROW_LIMIT as EXPLAINED
from serving.options import Options
from serving.protocols.arrow import KIND
from serving.protocols.models import VERSION
from serving.protocols.outputs import OUTPUTS
from serving.protocols.tensors import DATATYPES

Schema = dict[str, Any]

_STATUSES = {
    "400": "no valid JSON, Arrow stream or tensors",
    "401": "no key, or one that is not in force",
    "403": "a key that is not for this",
    "404": "no such pipeline or version",
    "413": "body or number of rows too large",
    "415": "a body of another kind",
    "422": "a field breaks the contract",
    "429": "asked too often: wait as long as Retry-After says",
    "503": "not ready, too busy, or the prediction cannot be logged: try again",
    "504": "the request's own time was over",
}
_ARROW: Schema = {KIND.decode(): {}}
_TENSORS: Schema = {"application/octet-stream": {}}


def document(manifests: Mapping[str, Manifest], options: Options) -> Schema:
    """The whole description; pipelines that are not served yet are not in it."""
    health, protocol = "Health", "Open Inference Protocol"
    paths: Schema = {
        "/healthz": _get("live", "The process lives.", health),
        "/readyz": _get("ready", "Every known pipeline is served.", health, "503"),
        "/metrics": _get(
            "metrics", "Counts and latencies, as Prometheus text.", health, kind="text/plain"
        ),
        "/v2": _get("server", "Name, version and extensions of the server.", protocol),
        "/v2/health/live": _get("server_live", "Live.", protocol),
        "/v2/health/ready": _get("server_ready", "Ready.", protocol, "503"),
    }
    schemas: Schema = {**_SCHEMAS}
    for name, manifest in manifests.items():
        schemas[name] = _object(
            {
                column: _field(field, options.text_limit)
                for column, field in manifest.request.items()
            },
            closed=True,
        )
        paths |= _paths(name, manifest, options)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Evergreen endpoint",
            "version": VERSION,
            "summary": "Predictions of the released bundles.",
            "description": "Every answer is in the prediction log before it is given. Requests are checked strictly: what breaks the contract is refused, with the field and the rule.",
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "needed where the endpoint has keys, and on every public address",
                }
            },
        },
    }


def _paths(name: str, manifest: Manifest, options: Options) -> Schema:
    one, model, bundle = (
        _reference(name),
        f"/v2/models/{name}",
        f"/v2/models/{name}/versions/{{version}}",
    )
    purpose = manifest.purpose or f"Predict {manifest.label}."
    inference = _body(_reference("Inference"), _inference(manifest), _TENSORS)
    inferred = _answers(_reference("Inferred"), _TENSORS)
    return {
        f"/predict/{name}": _post(
            f"predict_{name}",
            purpose,
            name,
            _body(_one_or_many(one, options.row_limit), example(manifest), _ARROW),
            _answers(
                {
                    "oneOf": [
                        _reference("Prediction"),
                        _object({"predictions": _array(_reference("Prediction"))}),
                    ]
                },
                _ARROW,
            ),
        ),
        f"/explain/{name}": _post(
            f"explain_{name}",
            "How much each feature would move a prediction; it is not logged.",
            name,
            _body(_one_or_many(one, EXPLAINED), example(manifest)),
            _answers(
                {
                    "oneOf": [
                        _reference("Explanation"),
                        _object({"explanations": _array(_reference("Explanation"))}),
                    ]
                },
                says="explained",
            ),
        ),
        f"/models/{name}": _get(
            f"card_{name}",
            "Where the model comes from, what it reads and how good it was found to be.",
            name,
            "503",
        ),
        f"{model}/infer": _post(
            f"infer_{name}", "Predict by the Open Inference Protocol v2.", name, inference, inferred
        ),
        model: _get(f"model_{name}", "Inputs, outputs and versions.", name, "503"),
        f"{model}/ready": _get(
            f"model_ready_{name}", "Whether a verified bundle is being served.", name, "503"
        ),
        f"{model}/actual": _get(
            f"actual_{name}", "What is served, in which state, and what is wrong if anything.", name
        ),
        f"{model}/golden": _get(
            f"golden_{name}", "Predict the golden rows of what is served, and compare.", name, "503"
        ),
        bundle: _of_version(
            _get(f"version_{name}", "Inputs, outputs and versions.", name, "404", "503")
        ),
        f"{bundle}/ready": _of_version(
            _get(f"version_ready_{name}", "Whether this bundle is being served.", name, "503")
        ),
        f"{bundle}/infer": _of_version(
            _post(
                f"version_infer_{name}",
                "Predict, if this bundle is the champion.",
                name,
                inference,
                inferred,
            )
        ),
    }


def _of_version(operations: Schema) -> Schema:
    version = {
        "name": "version",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": "digest of a bundle",
    }
    return {verb: {**operation, "parameters": [version]} for verb, operation in operations.items()}


def _inference(manifest: Manifest) -> Schema:
    row = example(manifest)
    return {
        "inputs": [
            {"name": name, "shape": [1], "datatype": DATATYPES[field.kind][0], "data": [row[name]]}
            for name, field in manifest.request.items()
        ]
    }


def _field(field: RequestField, text_limit: int) -> Schema:
    kinds = {
        "string": "string",
        "float": "number",
        "integer": "integer",
        "boolean": "boolean",
        "datetime": "string",
    }
    schema: Schema = {"type": [kinds[field.kind], "null"] if field.nullable else kinds[field.kind]}
    if field.kind == "datetime":
        schema["format"] = "date-time"
    if field.values is not None:
        schema["enum"] = [*field.values, None] if field.nullable else list(field.values)
    elif field.kind == "string":
        schema["maxLength"] = text_limit
    limits = {
        "minimum": field.ge,
        "maximum": field.le,
        "pattern": field.pattern,
        "description": field.description or None,
    }
    return schema | {name: value for name, value in limits.items() if value is not None}


def _object(properties: Schema, optional: Schema | None = None, closed: bool = False) -> Schema:
    made: Schema = {
        "type": "object",
        "required": list(properties),
        "properties": {**properties, **(optional or {})},
    }
    return made | {"additionalProperties": False} if closed else made


def _array(items: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": items, **limits}


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _number(description: str) -> Schema:
    return {"type": "number", "description": description}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _one_or_many(one: Schema, limit: int) -> Schema:
    return {
        "oneOf": [one, _object({"instances": _array(one, minItems=1, maxItems=limit)}, closed=True)]
    }


def _body(schema: Schema, sample: Schema, others: Schema | None = None) -> Schema:
    return {
        "required": True,
        "content": {"application/json": {"schema": schema, "example": sample}, **(others or {})},
    }


def _answers(
    schema: Schema, others: Schema | None = None, says: str = "predicted and logged"
) -> Schema:
    answer = {
        "description": says,
        "content": {"application/json": {"schema": schema}, **(others or {})},
    }
    return {"200": answer, **{status: _refused(status) for status in _STATUSES}}


def _refused(status: str) -> Schema:
    return {
        "description": _STATUSES[status],
        "content": {"application/json": {"schema": _reference("Refusal")}},
    }


def _post(identity: str, summary: str, tag: str, body: Schema, answers: Schema) -> Schema:
    return {
        "post": {
            "operationId": identity,
            "summary": summary,
            "tags": [tag],
            "requestBody": body,
            "responses": answers,
        }
    }


def _get(
    identity: str, summary: str, tag: str, *refusals: str, kind: str = "application/json"
) -> Schema:
    answers: Schema = {"200": {"description": summary, "content": {kind: {}}}}
    if tag != "Health":
        refusals = ("401", "403", "429", *refusals)
    answers |= {status: _refused(status) for status in sorted(refusals)}
    return {
        "get": {"operationId": identity, "summary": summary, "tags": [tag], "responses": answers}
    }


_PREDICTION = {
    "id": _text("name of this prediction in the prediction log"),
    "prediction": {"type": "number", "minimum": 0, "maximum": 1, "description": "probability"},
    "bundle": _text("digest of the bundle that answered"),
    "arm": _text("champion or challenger"),
    "online_as_of": {
        "type": ["string", "null"],
        "format": "date",
        "description": "day of the online features that were used",
    },
    "ood": _array({"type": "string"})
    | {"description": "features of this row that lie outside the range of the training set"},
}
_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["boolean", "number", "string"]}}
_TENSOR = {
    "name": {"type": "string"},
    "shape": _array({"type": "integer", "minimum": 0}, minItems=1, maxItems=2),
    "datatype": {
        "type": "string",
        "enum": sorted({datatype for datatypes in DATATYPES.values() for datatype in datatypes}),
    },
}
_DATA = {
    "data": _array({}) | {"description": "absent where the tensor travels as raw bytes"},
    "parameters": _PARAMETERS,
}
_SCHEMAS: Schema = {
    "Refusal": _object(
        {
            "error": _text("what is wrong, without values"),
            "field": {
                "type": ["string", "null"],
                "description": "where, such as instances[3].hour",
            },
            "rule": _text("a short code of the rule that was broken"),
        }
    ),
    "Prediction": _object(_PREDICTION),
    "Explanation": _object(
        {
            "bundle": _PREDICTION["bundle"],
            "arm": _PREDICTION["arm"],
            "probability": {
                "type": "number",
                "minimum": 0,
                "maximum": 1,
                "description": "what a prediction of this row would say",
            },
            "margin": _number(
                "base_value and all contributions added up, in unit, before calibration"
            ),
            "unit": {
                "type": "string",
                "enum": ["log odds", "probability"],
                "description": "of margin, base_value and contributions; probability for a forest",
            },
            "base_value": _number("margin that the model gives on average over its training rows"),
            "contributions": _array(
                _object(
                    {
                        "feature": {"type": "string"},
                        "value": {
                            "type": ["number", "string", "null"],
                            "description": "as the model sees it; null for missing or never seen in training",
                        },
                        "contribution": _number(
                            "how much this value moved the margin (SHAP value)"
                        ),
                    }
                )
            )
            | {"description": "every feature, the largest contribution first"},
            "ood": _PREDICTION["ood"],
            "online_as_of": _PREDICTION["online_as_of"],
        }
    ),
    "Inference": _object(
        {"inputs": _array(_object(_TENSOR, _DATA, closed=True), minItems=1)},
        {
            "id": _text("repeated in the answer") | {"maxLength": 200},
            "parameters": _PARAMETERS,
            "outputs": _array(
                _object(
                    {"name": {"type": "string", "enum": list(OUTPUTS)}},
                    {"parameters": _PARAMETERS},
                    closed=True,
                )
            ),
        },
        closed=True,
    )
    | {
        "description": "One tensor of shape [n] or [n, 1] for every column of the request. With the header Inference-Header-Content-Length raw bytes follow the JSON."
    },
    "Inferred": _object(
        {
            "model_name": {"type": "string"},
            "model_version": _text("digest of the bundle that answered"),
            "outputs": _array(_object(_TENSOR, _DATA)),
        },
        {"id": _text("the request's own")},
    ),
}
