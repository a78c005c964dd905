"""The bundle: a folder that holds all that an endpoint needs, named by its digest and signed.

    manifest.json   what the bundle is, and the SHA-256 of every other file
    manifest.sig    Ed25519 signature over the manifest (base64)
    program.json    feature program with its vocabularies
    model.ubj       XGBoost's trees, or else model.skops, an estimator of scikit-learn;
                    model.json names and calibration
    trees.table     the trees as the walker reads them (optional; the model says the same)
    golden.json     rows with the outputs expected of them
    golden.online   the online snapshot that the golden rows were computed with (optional)
    bounds.json     the range of each feature in training: rows outside are answered as such
                    (optional)
    reference.json  what the drift monitors compare with: a summary of the training rows (optional;
                    the endpoint ignores it)

Equal inputs give equal bytes, hence an equal digest. Nothing of a bundle is used before all of it
is verified. How the files are made stands in `bundle.assembly`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec

from bundle import signing
from bundle.digests import folder_digest, sha256, sums
from bundle.features.expression import Column as ColumnNode
from bundle.features.online import Snapshot
from bundle.features.program import FeatureProgram, Kind
from bundle.features.row import compile_row
from bundle.files import check_name, read_folder
from bundle.golden import GoldenResult, GoldenRow, golden_matrix
from bundle.models.bounds import Bounds
from bundle.models.loading import load_model
from bundle.models.model import FACTS, FILES, TOLERANCE, Model
from bundle.models.trees import table as trees

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bundle.features.columns import Column

# Format 1 is that of an earlier release, whose bundles held trees as machine code.
FORMAT = 2
MANIFEST, SIGNATURE, PROGRAM, GOLDEN, GOLDEN_ONLINE = (
    "manifest.json",
    "manifest.sig",
    "program.json",
    "golden.json",
    "golden.online",
)
REFERENCE, BOUNDS = "reference.json", "bounds.json"
SUMS = "SHA256SUMS"  # written by stores beside a folder's files; tolerated when it says the truth
REQUIRED = frozenset({MANIFEST, SIGNATURE, PROGRAM, FACTS, GOLDEN})
OPTIONAL = frozenset({*FILES.values(), trees.FILE, GOLDEN_ONLINE, REFERENCE, BOUNDS})
SIZE_LIMIT = 1 << 30


class BundleError(ValueError):
    """A bundle that must not be served, and why."""


class RequestField(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contract of one column of a request: what the source's declaration says of it."""

    kind: Kind
    nullable: bool = False
    ge: float | None = None
    le: float | None = None
    values: tuple[str, ...] | None = None
    pattern: str | None = None
    description: str = ""


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the bundle was made: equal bytes are promised for an equal environment alone."""

    python: str
    arch: str
    packages: dict[str, str]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a bundle is.

    `created_as_of` is a data day, never a wall clock; `evidence` maps names of reports to their
    digests.
    """

    pipeline: str
    created_as_of: str
    entity: str
    timezone: str
    label: str
    risk: str
    owner: str = ""
    purpose: str = ""
    request: dict[str, RequestField]
    features: tuple[str, ...]
    program_digest: str
    candidate: str
    training_set: str
    metrics: dict[str, float | None] = {}
    evidence: dict[str, str] = {}
    environment: Environment
    files: dict[str, str]
    format: int = FORMAT


class Bundle:
    """A verified bundle: manifest, feature program and model, ready to predict.

    `outside` names the features of a row that lie out of the range of the training set,
    `outside_of_many` those of the rows of a matrix; a bundle without bounds names none. `same` are
    the features that are columns of the request; `withholds` says that not all of a request may be
    logged.
    """

    def __init__(
        self,
        digest: str,
        manifest: Manifest,
        program: FeatureProgram,
        model: Model,
        golden: Sequence[GoldenRow],
        golden_online: Snapshot | None,
        bounds: Bounds | None = None,
    ) -> None:
        from bundle.features.numpy import compile_columns

        self.digest = digest
        self.manifest = manifest
        self.program = program
        self.model = model
        self.golden = tuple(golden)
        self._golden_online = golden_online
        self.row = compile_row(program)
        self.rows = compile_columns(program)
        self.bounds = bounds or Bounds({}, 0, 0.0)
        self.outside = self.bounds.one(program.names)
        self.outside_of_many = self.bounds.many(program.names)
        self._unlogged = program.unlogged
        self.withholds = bool(program.unlogged)
        self.same = {
            place: feature.expression.name
            for place, feature in enumerate(program.features)
            if isinstance(feature.expression, ColumnNode)
            and program.request[feature.expression.name].kind in ("float", "integer")
        }
        self.withheld = [name in program.withheld for name in program.names]

    def predict_rows(
        self, requests: Iterable[Mapping[str, Any]], online: Snapshot
    ) -> tuple[list[list[float]], list[float]]:
        """Model rows and probabilities of requests that keep the manifest's contract."""
        rows = [self.row(request, online) for request in requests]
        if len(rows) <= self.model.one_by_one:
            return rows, [self.model.predict_row(row) for row in rows]

        import numpy as np

        outputs: list[float] = self.model.predict(np.array(rows, dtype=np.float32)).tolist()
        return rows, outputs

    def predict_columns(
        self, columns: Mapping[str, Column], online: Snapshot
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Model rows (n, k) and probabilities (n,) of many requests as columns.

        `predict_rows` would give the same one by one.
        """
        matrix = self.rows(columns, online)
        return matrix, self.model.predict(matrix)

    def logged(
        self, request: Mapping[str, Any], row: Sequence[float | None]
    ) -> tuple[Mapping[str, Any], Sequence[float | None]]:
        """What of a request and of the model's row for it may be written to the prediction log."""
        kept = {name: value for name, value in request.items() if name not in self._unlogged}
        return kept, [
            None if withheld else value for value, withheld in zip(row, self.withheld, strict=True)
        ]

    def logged_columns(self, columns: Iterable[str]) -> list[str]:
        """Those columns of a request that may be written to the prediction log."""
        return [name for name in columns if name not in self._unlogged]

    def check_golden(self) -> GoldenResult:
        """Predict the golden rows and compare: from the request, where their snapshot is known.

        Raises BundleError for a row or an output that is not the expected one (within `TOLERANCE`).
        """
        import numpy as np

        expected_rows = golden_matrix(self.golden)
        self.model.check_engines(expected_rows)

        rows, outputs = [], []
        start = perf_counter()
        for golden, expected_row in zip(self.golden, expected_rows, strict=True):
            row = (
                expected_row.tolist()
                if self._golden_online is None
                else self.row(self._request(golden), self._golden_online)
            )
            rows.append(row)
            outputs.append(self.model.predict_row(row))
        row_ms = (perf_counter() - start) * 1000 / len(self.golden)

        matrix = np.array(rows, dtype=np.float32)
        if not np.allclose(matrix, expected_rows, rtol=1e-6, atol=1e-9, equal_nan=True):
            raise BundleError(
                f"bundle {self.digest}: the features of its golden rows are not the expected ones"
            )

        expected = np.array([golden.expected for golden in self.golden])
        difference = float(np.max(np.abs(np.array(outputs) - expected)))
        if not difference <= TOLERANCE:
            raise BundleError(
                f"bundle {self.digest}: its golden rows differ by {difference:.3g} from the "
                f"expected outputs; the limit is {TOLERANCE:g}"
            )
        return GoldenResult(len(self.golden), difference, row_ms)

    def _request(self, golden: GoldenRow) -> dict[str, Any]:
        times = {name for name, field in self.manifest.request.items() if field.kind == "datetime"}
        return {
            name: datetime.fromisoformat(value)
            if name in times and isinstance(value, str)
            else value
            for name, value in golden.request.items()
        }


def load(folder: Path | str, public_key: bytes, digest: str | None = None) -> Bundle:
    """The bundle of a folder, all of it verified.

    `digest` is the name that it must have (None: any). Raises BundleError saying which file is
    missing, altered, added or malformed, FileNotFoundError where there is no folder.
    """
    return from_files(folder_files(folder), public_key, digest)


def folder_files(folder: Path | str) -> dict[str, bytes]:
    """The files of a bundle's folder, nothing of them verified.

    Raises BundleError for what no bundle has, FileNotFoundError where there is no folder.
    """
    try:
        return read_folder(Path(folder), SIZE_LIMIT)
    except ValueError as error:
        raise BundleError(str(error)) from error


def from_files(files: Mapping[str, bytes], public_key: bytes, digest: str | None = None) -> Bundle:
    """The bundle of these files, all of them verified (see `load`)."""
    manifest = verify(files, public_key, digest)
    contents = {name: content for name, content in files.items() if name != SUMS}
    found = folder_digest(contents)
    try:
        program = FeatureProgram.decode(files[PROGRAM])
        model = load_model(files)
        golden = msgspec.json.decode(files[GOLDEN], type=tuple[GoldenRow, ...])
        online = Snapshot.decode(files[GOLDEN_ONLINE]) if GOLDEN_ONLINE in files else None
        bounds = Bounds.decode(files[BOUNDS]) if BOUNDS in files else None
        bundle = Bundle(found, manifest, program, model, golden, online, bounds)
    except (msgspec.DecodeError, ValueError) as error:
        raise BundleError(f"bundle {found}: {error}") from error
    _fits(bundle)
    if trees.FILE in files:
        try:
            model.adopt(files[trees.FILE], golden_matrix(golden))
        except ValueError as error:
            raise BundleError(f"bundle {found}: {error}") from error
    return bundle


def verify(files: Mapping[str, bytes], public_key: bytes, digest: str | None = None) -> Manifest:
    """The manifest of a bundle's files after its signature and every digest were verified.

    Raises BundleError.
    """
    if MANIFEST not in files or SIGNATURE not in files:
        missing = MANIFEST if MANIFEST not in files else SIGNATURE
        raise BundleError(f"the bundle has no {missing}; build it again, or restore it")
    try:
        signature = base64.b64decode(files[SIGNATURE].strip(), validate=True)
        signing.verify(public_key, signing.MANIFEST + files[MANIFEST], signature)
    except ValueError as error:
        raise BundleError(
            f"{SIGNATURE}: {error}; only bundles that this platform signed are served"
        ) from error
    manifest = _manifest(files[MANIFEST])
    contents = {name: content for name, content in files.items() if name != SUMS}
    for name in sorted({*manifest.files, *contents}):
        _verify_file(name, manifest, contents)

    for name in sorted(REQUIRED - set(contents)):
        raise BundleError(f"file {name} is missing; restore the bundle")
    if SUMS in files and files[SUMS] != sums(contents):
        raise BundleError(f"{SUMS} does not fit the bundle's files; restore the bundle")

    named = folder_digest(contents)
    if digest is not None and named != digest:
        raise BundleError(f"the folder holds bundle {named}, not {digest}; restore the bundle")
    return manifest


def _verify_file(name: str, manifest: Manifest, contents: Mapping[str, bytes]) -> None:
    try:
        check_name(name)
    except ValueError as error:
        raise BundleError(str(error)) from error

    if name in (MANIFEST, SIGNATURE):
        if name in manifest.files:
            raise BundleError(f"{MANIFEST} lists {name}, which cannot be listed in it")
    elif name not in manifest.files:
        raise BundleError(
            f"file {name} is not in the manifest; a bundle holds what its manifest lists and "
            "nothing else"
        )
    elif name not in REQUIRED | OPTIONAL:
        raise BundleError(f"file {name} is of no use to this release; it was made by another one")
    elif name not in contents:
        raise BundleError(f"file {name} is missing; restore the bundle")
    elif sha256(contents[name]) != manifest.files[name]:
        raise BundleError(
            f"file {name} was altered: its digest is not {manifest.files[name]}; restore the bundle"
        )


class _Format(msgspec.Struct):
    format: int


def _manifest(content: bytes) -> Manifest:
    try:
        found = msgspec.json.decode(content, type=_Format).format
        if found == 1:
            raise BundleError(
                f"{MANIFEST} has format 1, of an earlier release whose trees are machine code;"
                " endpoints no longer load that: materialize the bundle again and release it"
            )
        if found != FORMAT:
            raise BundleError(
                f"{MANIFEST} has format {found}; this release reads format {FORMAT}, "
                "so update it or release again"
            )
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is malformed: {error}") from error


def _fits(bundle: Bundle) -> None:
    """Raises BundleError where manifest, program and model speak of different things."""
    manifest, program = bundle.manifest, bundle.program
    checks = {
        "pipeline": (manifest.pipeline, program.pipeline),
        "entity": (manifest.entity, program.entity),
        "timezone": (manifest.timezone, program.timezone),
        "features": (manifest.features, tuple(program.names)),
        "model features": (manifest.features, bundle.model.names),
        "program digest": (manifest.program_digest, program.digest),
    }
    for what, (said, found) in checks.items():
        if said != found:
            raise BundleError(
                f"bundle {bundle.digest}: its manifest says {what} {said!r}, but it holds {found!r}"
            )
    if (held := {*FILES.values()} & set(manifest.files)) != {FILES[bundle.model.kind]}:
        raise BundleError(
            f"bundle {bundle.digest}: it holds {' and '.join(sorted(held))}, "
            f"but its model is of {bundle.model.kind} alone"
        )
    if unknown := sorted({*bundle.row.inputs, manifest.entity} - set(manifest.request)):
        raise BundleError(
            f"bundle {bundle.digest}: features read {', '.join(unknown)}, "
            "which its request contract does not have"
        )
    if not bundle.golden or any(
        len(golden.row) != len(manifest.features) for golden in bundle.golden
    ):
        raise BundleError(
            f"bundle {bundle.digest}: {GOLDEN} has no rows, or rows that do not have "
            f"{len(manifest.features)} features"
        )
