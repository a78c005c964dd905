"""scikit-learn's models in bundles: exact, in equal bytes, without pickle, and nothing is loaded that the platform did not train."""

from __future__ import annotations

import functools
import io
import json
import os
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC

from bundle import signing
from bundle.digests import sha256
from bundle.golden import golden_rows
from bundle.manifest import BundleError, from_files
from bundle.models import skops_files
from bundle.models.loading import load_model
from bundle.models.model import FILES, TOLERANCE
from bundle.models.scikit_learn import EstimatorModel
from bundle.models.translated_trees import booster
from tests.support.endpoint import files, model, program, request, snapshot, training_matrix
from tests.support.estimators import (
    KINDS,
    Kind,
    estimator_model,
    fitted,
    fitted_matrix,
    labels,
    odd_matrix,
)
from tests.support.headers import HEADER

# Without Python's headers the walker is not built.
WALKER = "walker" if HEADER.exists() else "gtil"


def said(estimator: Any, matrix: np.ndarray) -> np.ndarray:
    """What scikit-learn itself says."""
    if hasattr(estimator, "decision_function"):
        return np.asarray(estimator.decision_function(matrix.astype(np.float64)))
    return np.asarray(estimator.predict_proba(matrix)[:, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_estimator_computes_to_the_last_bit_what_the_fitted_one_does(kind: Kind) -> None:
    estimator = fitted(kind)
    stored = load_model(
        EstimatorModel.from_estimator(estimator, program().names, training_matrix()).to_files()
    )
    for matrix in (training_matrix(1), odd_matrix()):
        assert np.array_equal(stored.compute(matrix), said(estimator, matrix))
    expected = estimator.predict_proba(training_matrix(1).astype(np.float64))[:, 1]
    certain = np.clip(expected, 1e-6, 1 - 1e-6)
    np.testing.assert_allclose(
        stored.calibration.apply(stored.margin_of_many(training_matrix(1))),
        certain,
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_are_answered_as_many_are(kind: Kind) -> None:
    found, matrix = estimator_model(kind), odd_matrix()
    found = load_model(found.to_files())
    expected = found.calibration.apply(found.margin_of_many(matrix))
    engines = [("linear" if kind == "LogisticRegression" else "gtil", None)]
    if kind != "LogisticRegression":
        engines.append((WALKER, found.table()))
    for name, table in engines:
        if table is not None:
            found.adopt(table, matrix)
        assert found.engine.name == name
        few = found.calibration.apply(found.margin_of_few(matrix))
        one = [found.predict_row(row) for row in matrix[:400].tolist()]
        np.testing.assert_allclose(few, expected, rtol=0, atol=TOLERANCE / 10)
        np.testing.assert_allclose(one, expected[:400], rtol=0, atol=TOLERANCE / 10)
        found.check_engines(matrix)
    found.measure(matrix)
    assert found.engine.crossover >= 1
    with pytest.raises(ValueError, match="rows of 9 features"):
        found.predict_row([1.0])
    with pytest.raises(ValueError, match="rows of 9 features"):
        found.predict(matrix[:, :8])


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_are_shap_values(kind: Kind) -> None:
    found, matrix = estimator_model(kind), odd_matrix()[:200]
    parts, sums = found.contributions(matrix, program().categorical)
    assert parts.shape == (200, 10)
    np.testing.assert_allclose(parts.sum(axis=1), sums, rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        found.probability(sums), found.predict(matrix), rtol=0, atol=TOLERANCE
    )
    # The bias is what the model says on average over its training rows.
    trained = fitted_matrix() if kind != "HistGradientBoosting" else fitted_matrix()[:1500]
    _, average = found.contributions(trained, program().categorical)
    assert np.ptp(parts[:, -1]) < 1e-6
    assert parts[0, -1] == pytest.approx(average.mean(), abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_estimators_have_equal_bytes(kind: Kind) -> None:
    content = skops_files.dump(fitted(kind))
    assert content == skops_files.dump(fitted(kind)) == skops_files.dump(skops_files.load(content))
    assert not any(
        name.endswith(".pkl") for name in zipfile.ZipFile(io.BytesIO(content)).namelist()
    )


def test_nothing_is_trusted_that_no_estimator_holds() -> None:
    held: dict[str, set[str]] = {}
    for kind in KINDS:
        with zipfile.ZipFile(io.BytesIO(skops_files.dump(fitted(kind)))) as archive:
            waiting = [json.loads(archive.read("schema.json"))]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                if "__loader__" in value:
                    held.setdefault(value["__loader__"], set()).add(
                        f"{value['__module__']}.{value['__class__']}"
                    )
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value
    trusted = {loader: set(types) for loader, types in skops_files.TRUSTED.items()}
    assert trusted.keys() == held.keys()
    # Numbers and their types are plain data: any of a few kinds will do.
    for plain in ("NdArrayNode", "TypeNode"):
        assert trusted.pop(plain) >= held.pop(plain)
    assert trusted == held


def rewritten(
    change: Callable[[dict[str, Any], dict[str, bytes]], None], kind: Kind = "RandomForest"
) -> bytes:
    """An estimator's file with its schema and arrays changed, in the canonical form."""
    with zipfile.ZipFile(io.BytesIO(estimator_model(kind).skops)) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(held.pop("schema.json"))
    change(schema, held)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in [
            ("schema.json", json.dumps(schema, separators=(",", ":")).encode()),
            *sorted(held.items()),
        ]:
            archive.writestr(zipfile.ZipInfo(name, skops_files.DATE), content)
    return written.getvalue()


def zipped(compression: int = zipfile.ZIP_STORED, **added: bytes) -> bytes:
    written = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(estimator_model("RandomForest").skops)) as held,
        zipfile.ZipFile(written, "w", compression) as archive,
    ):
        for name in held.namelist():
            archive.writestr(zipfile.ZipInfo(name, skops_files.DATE), held.read(name), compression)
        for name, content in added.items():
            archive.writestr(zipfile.ZipInfo(name, skops_files.DATE), content)
    return written.getvalue()


def runs_a_command(schema: dict[str, Any], _: dict[str, bytes]) -> None:
    schema["content"]["content"]["estimators_"] = {
        "__class__": "system", "__module__": "posix", "__loader__": "FunctionNode", "content": {"module_path": "posix", "function": "system"}
    }  # fmt: skip


def calls_a_method(schema: dict[str, Any], _: dict[str, bytes]) -> None:
    schema["content"]["content"]["estimators_"] = {
        "__class__": "method",
        "__module__": "builtins",
        "__loader__": "MethodNode",
        "content": {},
    }


def is_of_another_release(schema: dict[str, Any], _: dict[str, bytes]) -> None:
    schema["content"]["content"]["_sklearn_version"]["content"] = '"0.1"'


REFUSED = {
    "no archive": (lambda: b"\x80\x04\x95 a pickle", "not a skops file"),
    "an archive of something else": (lambda: _archive(a=b"b"), "schema.json is missing"),
    "another estimator": (lambda: skops_files.canonical(skops.io.dumps(SVC())), r"holds sklearn\.svm\._classes\.SVC \(ObjectNode\)"),
    "a function": (lambda: skops_files.canonical(skops.io.dumps(FunctionTransformer(os.getcwd))), r"holds posix\.getcwd"),
    "a function within": (lambda: skops_files.canonical(skops.io.dumps(FunctionTransformer(functools.partial(np.save)))), r"holds numpy\.save"),
    "a command": (lambda: rewritten(runs_a_command), r"holds posix\.system \(FunctionNode\)"),
    "a method": (lambda: rewritten(calls_a_method), r"holds builtins\.method \(MethodNode\)"),
    "another release of scikit-learn": (lambda: rewritten(is_of_another_release), "made by scikit-learn \"0.1\""),
    "compressed": (lambda: zipped(zipfile.ZIP_DEFLATED), "compressed or encrypted"),
    "a file more": (lambda: zipped(more=b"content"), "not in the form"),
    "a file less": (lambda: rewritten(lambda _, held: held.pop(sorted(held)[0])), "has no array"),
    "objects in an array": (lambda: rewritten(lambda _, held: held.update({name: _objects() for name in held})), "has no array"),
    "as skops writes it": (lambda: skops.io.dumps(fitted("RandomForest")), "not in the form"),
}  # fmt: skip


def _archive(**held: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, content in held.items():
            archive.writestr(name, content)
    return written.getvalue()


def _objects() -> bytes:
    written = io.BytesIO()
    np.save(written, np.array([{}], dtype=object), allow_pickle=True)
    return written.getvalue()


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_platform_did_not_write_is_refused_before_it_is_loaded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, told = REFUSED[name]
    content = make()

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(skops.io, "loads", loaded)
    with pytest.raises(ValueError, match=told):
        skops_files.load(content)


def test_an_estimator_that_does_not_fit_is_refused() -> None:
    matrix, names = training_matrix(), program().names
    y = labels(matrix)
    with pytest.raises(ValueError, match="reads 9 features, but 8 are named"):
        EstimatorModel.from_estimator(fitted("RandomForest"), names[:8], matrix)
    words = RandomForestClassifier(n_estimators=2, random_state=0).fit(
        matrix, np.where(y > 0, 2, 1)
    )
    with pytest.raises(ValueError, match="not 0 and 1"):
        EstimatorModel.from_estimator(words, names, matrix)
    with pytest.raises(ValueError, match="as many averages, not 0"):
        EstimatorModel(estimator_model("LogisticRegression").skops, names)
    with pytest.raises(ValueError, match="trees of a SVC are not known"):
        booster(SVC(), names)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [("left_child", 0, "none"), ("left_child", 10_000, "none"), ("feature", 77, "feature")],
)
def test_a_tree_that_is_none_is_refused_before_it_is_walked(
    place: str, value: int, told: str
) -> None:
    def bent(_: dict[str, Any], held: dict[str, bytes]) -> None:
        for name, content in list(held.items()):
            array = np.load(io.BytesIO(content))
            if array.dtype.names and place in array.dtype.names:
                array[place][0] = value
                written = io.BytesIO()
                np.save(written, array)
                held[name] = written.getvalue()

    content = skops_files.canonical(rewritten(bent))
    with pytest.raises(ValueError, match=told):
        EstimatorModel(content, program().names)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_holds_an_estimator_and_answers_with_it(kind: Kind) -> None:
    found, online = estimator_model(kind), snapshot()
    private = signing.new_key()
    golden = golden_rows(program(), found, [request(number) for number in range(20)], online)
    table = None if kind == "LogisticRegression" else found.table()
    made = files(private, model=found, golden=golden, table=table)
    assert set(FILES.values()) & set(made) == {"model.skops"}
    loaded = from_files(made, signing.public_key(private))
    assert loaded.model.kind == "scikit-learn"
    assert loaded.model.engine.name == ("linear" if table is None else WALKER)
    assert loaded.check_golden().difference <= TOLERANCE
    asked = [request(number) for number in range(40)]
    rows, outputs = loaded.predict_rows(asked, online)
    expected = found.calibration.apply(found.margin_of_many(np.array(rows, dtype=np.float32)))
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=TOLERANCE)


def test_a_bundle_with_two_models_is_refused() -> None:
    private = signing.new_key()

    class Both(EstimatorModel):
        def to_files(self) -> dict[str, bytes]:
            return {**super().to_files(), **{FILES["xgboost"]: model().content}}

    found = estimator_model("RandomForest")
    both = Both(found.skops, found.names)
    golden = golden_rows(program(), both, [request(1)], snapshot())
    made = files(private, model=both, golden=golden, table=None)
    assert sha256(made["model.ubj"])
    with pytest.raises(
        BundleError,
        match=r"holds model\.skops and model\.ubj, but its model is of scikit-learn alone",
    ):
        from_files(made, signing.public_key(private))
