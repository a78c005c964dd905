"""scikit-learn's estimators without pickle: skops files in one form, read by our own allow list.

skops trusts hundreds of types by default, all estimators of scikit-learn among them. Here a file
may hold what `TRUSTED` lists and nothing else: the few estimators that this platform trains, and
what they are made of. Equal estimators give equal bytes: what differs from dump to dump (memory
addresses, dates, padding between the fields of a record) is left out, and only that form is read.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from bundle.digests import sha256

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA = "schema.json"
# The oldest date that a ZIP file can state.
DATE = (1980, 1, 1, 0, 0, 0)
_NUMBERS = ("bool", "float32", "float64", "int32", "int64", "uint8", "uint32", "uint64")
_TREES = "sklearn.ensemble._hist_gradient_boosting"
# By the loader of skops that reads it: a type is trusted for what that loader does with it, not for
# all that could be done. Many of these names are scikit-learn's own modules: a skops file names a
# type by the module that defines it, which is no import of ours.
TRUSTED: Mapping[str, frozenset[str]] = {
    "ObjectNode": frozenset(
        {
            "sklearn.compose._column_transformer.ColumnTransformer",
            "sklearn.ensemble._forest.RandomForestClassifier",
            f"{_TREES}.binning._BinMapper",
            f"{_TREES}.gradient_boosting.HistGradientBoostingClassifier",
            f"{_TREES}.predictor.TreePredictor",
            "sklearn._loss.link.Interval",
            "sklearn._loss.link.LogitLink",
            "sklearn._loss.loss.HalfBinomialLoss",
            "sklearn.impute._base.MissingIndicator",
            "sklearn.impute._base.SimpleImputer",
            "sklearn.linear_model._logistic.LogisticRegression",
            "sklearn.pipeline.FeatureUnion",
            "sklearn.pipeline.Pipeline",
            "sklearn.preprocessing._data.StandardScaler",
            "sklearn.preprocessing._encoders.OneHotEncoder",
            "sklearn.preprocessing._encoders.OrdinalEncoder",
            "sklearn.preprocessing._function_transformer.FunctionTransformer",
            "sklearn.preprocessing._label.LabelEncoder",
            "sklearn.tree._classes.DecisionTreeClassifier",
        }
    ),
    "TreeNode": frozenset({"sklearn.tree._tree.Tree"}),
    "LossNode": frozenset({"sklearn._loss._loss.CyHalfBinomialLoss"}),
    # How HistGradientBoosting passes its numeric columns on.
    "PartialNode": frozenset({"functools.partial"}),
    "FunctionNode": frozenset({"sklearn.utils.validation.check_array"}),
    # Plain data.
    "NdArrayNode": frozenset({"numpy.ndarray", *(f"numpy.{name}" for name in _NUMBERS)}),
    "DTypeNode": frozenset({"numpy.dtype"}),
    "TypeNode": frozenset(
        {
            "builtins.bool",
            "builtins.float",
            "builtins.int",
            "builtins.str",
            *(f"numpy.{name}" for name in _NUMBERS),
        }
    ),
    "JsonNode": frozenset({"builtins.str"}),
    "DictNode": frozenset({"builtins.dict"}),
    "ListNode": frozenset({"builtins.list"}),
    "TupleNode": frozenset({"builtins.tuple"}),
    "SliceNode": frozenset({"builtins.slice"}),
}


def dump(estimator: Any) -> bytes:
    """A fitted estimator as a skops file.

    Raises ValueError for one that holds anything that `load` would refuse.
    """
    import skops.io

    content = canonical(skops.io.dumps(estimator))
    _audit(content)
    return content


def load(content: bytes) -> Any:
    """The estimator of a skops file that `dump` made.

    Raises ValueError for another form of file, for a type that is not trusted, and for an estimator
    of another version of scikit-learn, which may compute something else.
    """
    _audit(content)
    import skops.io

    return skops.io.loads(content, trusted=trusted())


def trusted() -> list[str]:
    """All types that `TRUSTED` lists."""
    return sorted(frozenset[str]().union(*TRUSTED.values()))


def canonical(content: bytes) -> bytes:
    """A skops file without what differs from dump to dump.

    Raises ValueError for what is no skops file.
    """
    files = _files(content)
    return _written(_schema(files), files)


def _written(schema: Any, files: Mapping[str, bytes]) -> bytes:
    """The canonical form of a schema and of the arrays that it names. The schema is changed."""
    arrays: dict[str, bytes] = {}
    for node in _nodes(schema):
        # Identities are memory addresses; without them every object is built for itself.
        node.pop("__id__", None)
        if "file" in node:
            array = _plain(_array(files, node["file"]))
            node["file"] = f"{sha256(array)}.npy"
            arrays[node["file"]] = array

    content = json.dumps(schema, separators=(",", ":")).encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name, file in [(SCHEMA, content), *sorted(arrays.items())]:
            archive.writestr(zipfile.ZipInfo(name, DATE), file)
    return written.getvalue()


def _audit(content: bytes) -> None:
    """Raises ValueError for what `load` must not read."""
    files = _files(content)
    schema = _schema(files)
    _check_types(schema)
    _check_version(schema)
    if _written(schema, files) != content:
        raise ValueError(
            "the estimator's file is not in the form in which this platform writes them"
        )


def _check_types(schema: Any) -> None:
    for node in _nodes(schema):
        loader, name = str(node["__loader__"]), f"{node.get('__module__')}.{node.get('__class__')}"
        if name not in TRUSTED.get(loader, ()):
            raise ValueError(
                f"the estimator holds {name} ({loader}),"
                " which is not among the types that an endpoint loads"
            )


def _check_version(schema: Any) -> None:
    here = json.dumps(version("scikit-learn"))
    for described in _described(schema):
        if "_sklearn_version" not in described:
            continue
        made_by = described["_sklearn_version"]["content"]
        if made_by != here:
            raise ValueError(
                f"the estimator was made by scikit-learn {made_by}, here is {here}, which may"
                " compute something else; train it again, or serve it where it was made"
            )


def _files(content: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            # Stored as they are, files cannot be larger than the archive.
            if not all(_is_plain(entry) for entry in entries):
                raise ValueError(
                    "the estimator's file is compressed or encrypted;"
                    " this platform stores it plainly"
                )
            if sum(entry.file_size for entry in entries) > len(content):
                raise ValueError("the estimator's file states more bytes than it has")
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"not a skops file: {error}") from error


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    encrypted = entry.flag_bits & 1
    return entry.compress_type == zipfile.ZIP_STORED and not encrypted


def _schema(files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        schema = json.loads(files[SCHEMA])
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"not a skops file: {SCHEMA} is missing or malformed") from error
    if not isinstance(schema, dict) or "__loader__" not in schema:
        raise ValueError(f"not a skops file: {SCHEMA} describes no object")
    return schema


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every description of an object, wherever it stands."""
    return (found for found in _described(schema) if "__loader__" in found)


def _described(schema: Any) -> Iterator[dict[str, Any]]:
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _array(files: Mapping[str, bytes], name: Any) -> NDArray[Any]:
    import numpy as np

    try:
        found: NDArray[Any] = np.load(io.BytesIO(files[name]), allow_pickle=False)
    except (KeyError, TypeError, ValueError, EOFError) as error:
        raise ValueError(f"the estimator's file has no array {name!r} that can be read") from error
    return found


def _plain(array: NDArray[Any]) -> bytes:
    """An array as NPY, with zeros between the fields of its records.

    What stood there is whatever was in memory.
    """
    import numpy as np

    if array.dtype.names:
        clean = np.zeros(array.shape, array.dtype)
        for name in array.dtype.names:
            clean[name] = array[name]
        array = clean
    written = io.BytesIO()
    np.save(written, array, allow_pickle=False)
    return written.getvalue()
