"""Assembling a bundle: its parts become the files that its manifest lists."""

from __future__ import annotations

import base64
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import msgspec

from bundle import signing
from bundle.digests import sha256
from bundle.features.online import Snapshot
from bundle.features.program import EVENT_TIME, FeatureProgram
from bundle.golden import GoldenRow
from bundle.manifest import (
    BOUNDS,
    GOLDEN,
    GOLDEN_ONLINE,
    MANIFEST,
    PROGRAM,
    REFERENCE,
    SIGNATURE,
    Environment,
    Manifest,
    RequestField,
)
from bundle.models.bounds import Bounds
from bundle.models.model import Model
from bundle.models.trees import table as trees

PACKAGES = ("msgspec", "numpy", "polars", "scikit-learn", "skops", "treelite", "xgboost")


def bundle_files(
    *,
    pipeline: str,
    created_as_of: str,
    program: FeatureProgram,
    model: Model,
    label: str,
    risk: str,
    request: Mapping[str, RequestField],
    golden: Sequence[GoldenRow],
    candidate: str,
    training_set: str,
    sign: Callable[[bytes], bytes],
    golden_online: Snapshot | None = None,
    reference: bytes | None = None,
    bounds: Bounds | None = None,
    table: bytes | None = None,
    metrics: Mapping[str, float | None] | None = None,
    evidence: Mapping[str, str] | None = None,
    owner: str = "",
    purpose: str = "",
) -> dict[str, bytes]:
    """All files of a bundle; `folder_digest` of them is its name.

    `request` is the contract of every column that an application sends; `event_time` is added where
    it is missing. `sign` signs the manifest (such as `Keys.sign`). Raises ValueError where the
    parts do not fit together.
    """
    files = _parts(program, model, golden, golden_online, reference, bounds, table)
    manifest = Manifest(
        pipeline=pipeline,
        created_as_of=created_as_of,
        entity=program.entity,
        timezone=program.timezone,
        label=label,
        risk=risk,
        owner=owner,
        purpose=purpose,
        request={**request, EVENT_TIME: request.get(EVENT_TIME, RequestField("datetime"))},
        features=model.names,
        program_digest=program.digest,
        candidate=candidate,
        training_set=training_set,
        metrics=dict(metrics or {}),
        evidence=dict(evidence or {}),
        environment=environment(),
        files={name: sha256(content) for name, content in files.items()},
    )
    # Names of columns keep their order, in which people read them. The declaration fixes it, so
    # bytes stay reproducible.
    content = msgspec.json.encode(manifest)
    signature = base64.b64encode(sign(signing.MANIFEST + content)) + b"\n"
    return {**files, MANIFEST: content, SIGNATURE: signature}


def _parts(
    program: FeatureProgram,
    model: Model,
    golden: Sequence[GoldenRow],
    golden_online: Snapshot | None,
    reference: bytes | None,
    bounds: Bounds | None,
    table: bytes | None,
) -> dict[str, bytes]:
    """The files that the manifest lists. Raises ValueError."""
    if tuple(program.names) != model.names:
        raise ValueError(
            f"the model reads {', '.join(model.names)}, "
            f"but the program computes {', '.join(program.names)}"
        )
    if not golden:
        raise ValueError("a bundle needs at least one golden row")

    optional = {
        GOLDEN_ONLINE: None if golden_online is None else golden_online.encode(),
        REFERENCE: reference,
        BOUNDS: None if bounds is None else bounds.encode(),
        trees.FILE: table,
    }
    return {
        PROGRAM: program.encode(),
        **model.to_files(),
        GOLDEN: msgspec.json.encode(tuple(golden), order="sorted"),
        **{name: content for name, content in optional.items() if content is not None},
    }


def environment() -> Environment:
    """The environment of this process."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return Environment(platform.python_version(), platform.machine(), packages)
