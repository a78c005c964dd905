"""The OpenAPI 3.1 description of what is served now, made from the manifests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from bundle.desired import Actual
from bundle.manifest import Manifest, RequestField
from serving.contract.fields import example
from serving.delivery.explain import ROW_LIMIT as EXPLAINED, Explanation
from serving.options import Options
from serving.protocols.arrow import KIND
from serving.protocols.inference import Inference, Inferred
from serving.protocols.models import VERSION, ModelIndex
from serving.protocols.plain import Prediction
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
        "/v2/repository/index": _post(
            "repository_index",
            "Every pipeline with its version and state.",
            protocol,
            {
                **_body(_object({}, {"ready": {"type": "boolean"}}), {"ready": True}),
                "required": False,
            },
            _answers(_array(_reference("ModelIndex")), says="the models"),
        ),
        "/v2/health/live": _get("server_live", "Live.", protocol),
        "/v2/health/ready": _get("server_ready", "Ready.", protocol, "503"),
    }
    schemas = _components()
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
            "description": "Every answer is in the prediction log before it is given. Requests are "
            "checked strictly: what breaks the contract is refused, with the field and the rule.",
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
                    "description": "needed where the endpoint has keys, and on public addresses",
                }
            },
        },
    }


def _components() -> Schema:
    """Schemas of requests and answers that are the same for every pipeline, from their types."""
    _, schemas = msgspec.json.schema_components(
        [Prediction, Explanation, Inference, Inferred, ModelIndex, Actual],
        ref_template="#/components/schemas/{name}",
    )
    refusal = _object(
        {
            "error": _text("what is wrong, without values"),
            "field": {"type": ["string", "null"], "description": "such as instances[3].hour"},
            "rule": _text("a short code of the rule that was broken"),
        }
    )
    return {**schemas, "Refusal": refusal}


def _paths(name: str, manifest: Manifest, options: Options) -> Schema:
    """The paths of one pipeline."""
    return _plain_paths(name, manifest, options) | _protocol_paths(name, manifest)


def _plain_paths(name: str, manifest: Manifest, options: Options) -> Schema:
    one, sample = _reference(name), example(manifest)
    return {
        f"/predict/{name}": _post(
            f"predict_{name}",
            manifest.purpose or f"Predict {manifest.label}.",
            name,
            _body(_one_or_many(one, options.row_limit), sample, _ARROW),
            _answers(_one_or_all("Prediction", "predictions"), _ARROW),
        ),
        f"/explain/{name}": _post(
            f"explain_{name}",
            "How much each feature would move a prediction; it is not logged.",
            name,
            _body(_one_or_many(one, EXPLAINED), sample),
            _answers(_one_or_all("Explanation", "explanations"), says="explained"),
        ),
        f"/models/{name}": _get(
            f"card_{name}",
            "Where the model comes from, what it reads and how good it was found to be.",
            name,
            "503",
        ),
    }


def _protocol_paths(name: str, manifest: Manifest) -> Schema:
    model = f"/v2/models/{name}"
    version = f"{model}/versions/{{version}}"
    body = _body(_reference("Inference"), _inference(manifest), _TENSORS)
    answers = _answers(_reference("Inferred"), _TENSORS)

    metadata = "Inputs, outputs and the version."
    infer = "Predict by the Open Inference Protocol v2."
    actual = "What is served, in which state, and what is wrong if anything."
    golden = "Predict the golden rows of what is served, and compare."
    ready = "Whether a verified bundle is being served."

    of_version = {
        version: _get(f"version_{name}", metadata, name, "404", "503"),
        f"{version}/ready": _get(f"version_ready_{name}", ready, name, "503"),
        f"{version}/infer": _post(f"version_infer_{name}", infer, name, body, answers),
    }
    return {
        f"{model}/infer": _post(f"infer_{name}", infer, name, body, answers),
        model: _get(f"model_{name}", metadata, name, "503"),
        f"{model}/ready": _get(f"model_ready_{name}", ready, name, "503"),
        f"{model}/actual": _get(f"actual_{name}", actual, name, schema=_reference("Actual")),
        f"{model}/golden": _get(f"golden_{name}", golden, name, "503"),
    } | {path: _of_version(operations) for path, operations in of_version.items()}


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


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _one_or_many(one: Schema, limit: int) -> Schema:
    return {
        "oneOf": [one, _object({"instances": _array(one, minItems=1, maxItems=limit)}, closed=True)]
    }


def _one_or_all(name: str, many: str) -> Schema:
    """One answer, or all those of a batch under a name."""
    one = _reference(name)
    return {"oneOf": [one, _object({many: _array(one)})]}


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
    identity: str,
    summary: str,
    tag: str,
    *refusals: str,
    kind: str = "application/json",
    schema: Schema | None = None,
) -> Schema:
    content = {kind: {} if schema is None else {"schema": schema}}
    answers: Schema = {"200": {"description": summary, "content": content}}
    if tag != "Health":
        refusals = ("401", "403", "429", *refusals)
    answers |= {status: _refused(status) for status in sorted(refusals)}
    return {
        "get": {"operationId": identity, "summary": summary, "tags": [tag], "responses": answers}
    }
