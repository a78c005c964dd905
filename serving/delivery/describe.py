"""What is served, for people and tools: where a bundle is from, what it reads, how good it is."""

from __future__ import annotations

from typing import Any

from serving.delivery.view import Arm, View


def describe(view: View, example: bool) -> dict[str, Any]:
    """A pipeline's bundles, champion first, to be encoded by msgspec.

    `example` adds a golden row's request. That is real data, for the loopback port alone.
    """
    manifest = view.manifest
    return {
        "name": manifest.pipeline,
        "purpose": manifest.purpose,
        "owner": manifest.owner,
        "risk": manifest.risk,
        "label": manifest.label,
        "entity": manifest.entity,
        "timezone": manifest.timezone,
        "online_as_of": view.online_as_of,
        "request": manifest.request,
        "arms": [_arm(arm) for arm in view.arms],
        **({"example": view.arms[0].bundle.golden[0].request} if example else {}),
    }


def _arm(arm: Arm) -> dict[str, Any]:
    bundle, manifest = arm.bundle, arm.bundle.manifest
    return {
        "arm": arm.name,
        "share": arm.share,
        "bundle": bundle.digest,
        "trained_as_of": manifest.created_as_of,
        "candidate": manifest.candidate,
        "training_set": manifest.training_set,
        "program": manifest.program_digest,
        "metrics": manifest.metrics,
        "evidence": manifest.evidence,
        "environment": manifest.environment,
        "engine": bundle.model.engine,
        "features": [
            _feature(arm, name, categorical)
            for name, categorical in zip(
                bundle.program.names, bundle.program.categorical, strict=True
            )
        ],
        "training_rows": bundle.bounds.rows,
        "training_rows_outside": bundle.bounds.outside,
    }


def _feature(arm: Arm, name: str, categorical: bool) -> dict[str, Any]:
    """Type and known values of a feature: the range outside of which a row counts as `ood`."""
    known = arm.bundle.bounds.features.get(name)
    found: dict[str, Any] = {"name": name, "type": "category" if categorical else "number"}

    if categorical:
        return found | {
            "values": arm.bundle.program.vocabularies[name],
            "unseen_is_ood": known is not None and known.low >= 1,
        }
    if known is None:
        return found
    return found | {"low": known.low, "high": known.high, "missing_is_ood": not known.missing}
