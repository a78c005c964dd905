"""The bundle: equal inputs give equal bytes, and nothing altered, added, removed or unsigned is ever loaded."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from bundle import manifest, signing
from bundle.desired import Desired, check, seal, signed, unseal
from bundle.digests import folder_digest, sha256, sums
from bundle.manifest import Bundle, BundleError, from_files, load
from bundle.models.boosted_trees import BoostedTrees
from bundle.models.loading import load_model
from bundle.models.model import Calibration
from tests.support.endpoint import NAME, files, model, program, request, snapshot

KEY = signing.new_key()
PUBLIC = signing.public_key(KEY)


@pytest.fixture(scope="module")
def sound() -> dict[str, bytes]:
    return files(KEY)


def resign(contents: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    """The bundle with an altered manifest that the platform itself signed."""
    document = {**json.loads(contents["manifest.json"]), **changes}
    content = json.dumps(document).encode()
    signature = base64.b64encode(signing.sign(KEY, signing.MANIFEST + content))
    return {**contents, "manifest.json": content, "manifest.sig": signature}


def relisted(contents: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    """`resign` with the digests of the files as they are now."""
    listed = {
        name: sha256(content)
        for name, content in contents.items()
        if name not in ("manifest.json", "manifest.sig")
    }
    return resign(contents, files=listed, **changes)


def test_equal_inputs_give_equal_bytes_and_load(sound: dict[str, bytes]) -> None:
    assert files(KEY) == sound
    bundle = from_files(sound, PUBLIC, folder_digest(sound))
    assert isinstance(bundle, Bundle)
    result = bundle.check_golden()
    assert (result.rows, result.difference <= 1e-5) == (20, True)
    rows, outputs = bundle.predict_rows([request(n) for n in range(30)], snapshot())
    assert np.allclose(outputs, [bundle.model.predict_row(row) for row in rows], atol=1e-5)
    assert from_files({**sound, "SHA256SUMS": sums(sound)}, PUBLIC).digest == bundle.digest
    assert from_files(files(KEY, with_online=False), PUBLIC).check_golden().rows == 20


CASES: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "no manifest": (lambda f: {k: v for k, v in f.items() if k != "manifest.json"}, "has no manifest.json"),
    "no signature": (lambda f: {k: v for k, v in f.items() if k != "manifest.sig"}, "has no manifest.sig"),
    "altered manifest": (lambda f: {**f, "manifest.json": f["manifest.json"].replace(b"minimal", b"maximal")}, "not by the platform's key"),
    "signature of another key": (lambda f: files(signing.new_key()), "not by the platform's key"),
    "signature cut": (lambda f: {**f, "manifest.sig": b"QUJD"}, "64 bytes, not 3"),
    "signature not base64": (lambda f: {**f, "manifest.sig": b"%%%"}, "manifest.sig"),
    "signature over another kind": (lambda f: {**f, "manifest.sig": base64.b64encode(signing.sign(KEY, signing.DESIRED + f["manifest.json"]))}, "not by the platform's key"),
    "altered model": (lambda f: {**f, "model.ubj": f["model.ubj"] + b"\0"}, "model.ubj was altered"),
    "missing program": (lambda f: {k: v for k, v in f.items() if k != "program.json"}, "program.json is missing"),
    "extra file": (lambda f: {**f, "notes.txt": b"hello"}, "notes.txt is not in the manifest"),
    "listed but useless file": (lambda f: relisted({**f, "run.py": b"import os"}), "run.py is of no use"),
    "a name that leads elsewhere": (lambda f: relisted({**f, "../../evil": b"x"}), "is not allowed"),
    "a hidden name": (lambda f: relisted({**f, ".hidden": b"x"}), "is not allowed"),
    "wrong sums": (lambda f: {**f, "SHA256SUMS": b"no"}, "SHA256SUMS does not fit"),
    "an earlier release's format": (lambda f: resign(f, format=1, compiled=None), "format 1, of an earlier release whose trees are machine code"),
    "newer format": (lambda f: resign(f, format=3), "format 3; this release reads format 2"),
    "no format": (lambda f: resign(f, format="x"), "malformed"),
    "unknown word in the manifest": (lambda f: resign(f, surprise=1), "unknown field `surprise`"),
    "other pipeline": (lambda f: resign(f, pipeline="other"), "says pipeline 'other'"),
    "other program digest": (lambda f: resign(f, program_digest="0" * 64), "says program digest"),
    "contract without a column": (lambda f: resign(f, request={"order_id": {"kind": "string"}}), "which its request contract does not have"),
    "no golden rows": (lambda f: relisted({**f, "golden.json": b"[]"}), "has no rows"),
    "golden rows of another width": (lambda f: relisted({**f, "golden.json": b'[{"request": {}, "row": [1], "expected": 0.5}]'}), "do not have 9 features"),
    "model is no model": (lambda f: relisted({**f, "model.ubj": b"{}"}), "model.ubj is no XGBoost model"),
    "calibration is not finite": (lambda f: relisted({**f, "model.json": f["model.json"].replace(b'"a":1.1', b'"a":"1"')}), "model.json does not describe a model"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), CASES.values(), ids=CASES.keys())
def test_refused_bundles_say_why(
    sound: dict[str, bytes], change: Callable[[dict[str, bytes]], dict[str, bytes]], words: str
) -> None:
    with pytest.raises(BundleError) as caught:
        from_files(change(dict(sound)), PUBLIC)
    assert words in str(caught.value)


def test_another_digest_than_asked_for_is_refused(sound: dict[str, bytes]) -> None:
    with pytest.raises(BundleError, match="not " + "0" * 64):
        from_files(sound, PUBLIC, "0" * 64)


def test_folders_with_links_folders_and_pipes_are_refused(
    sound: dict[str, bytes], tmp_path: Path
) -> None:
    def folder(name: str) -> Path:
        place = tmp_path / name
        place.mkdir()
        for file, content in sound.items():
            (place / file).write_bytes(content)
        return place

    assert load(folder("sound"), PUBLIC).manifest.pipeline == NAME
    linked = folder("linked")
    (linked / "model.ubj").rename(tmp_path / "model.ubj")
    (linked / "model.ubj").symlink_to(tmp_path / "model.ubj")
    nested = folder("nested")
    (nested / "more").mkdir()
    piped = folder("piped")
    (piped / "golden.json").unlink()
    os.mkfifo(piped / "golden.json")
    for place in (linked, nested, piped):
        with pytest.raises(BundleError, match="no regular file"):
            load(place, PUBLIC)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere", PUBLIC)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_flipped_byte_is_ever_loaded(data: st.DataObject) -> None:
    sound = files(KEY)
    name = data.draw(st.sampled_from(sorted(set(sound) - {"manifest.sig"})))
    place = data.draw(st.integers(0, len(sound[name]) - 1))
    content = bytearray(sound[name])
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BundleError):
        manifest.verify({**sound, name: bytes(content)}, PUBLIC)


def test_both_engines_agree_on_missing_values_and_unseen_codes() -> None:
    random = np.random.default_rng(3)
    matrix = random.normal(5, 300, (500, 9)).astype(np.float32)
    matrix[:, 2], matrix[:, 3] = random.integers(0, 256, 500), random.integers(0, 256, 500)
    matrix[random.random((500, 9)) < 0.2] = np.nan
    found = model()
    found.check_engines(matrix)
    one = [found.predict_row(row) for row in matrix.tolist()]
    assert np.allclose(found.predict(matrix), one, atol=1e-5)
    assert load_model(found.to_files()).predict(matrix).tolist() == found.predict(matrix).tolist()
    assert found.predict(matrix[:0]).shape == (0,)
    with pytest.raises(ValueError, match="9 features"):
        found.predict(matrix[:, :8])
    with pytest.raises(ValueError, match="9 features"):
        found.predict_row([1.0])
    with pytest.raises(ValueError, match="2 are named"):
        BoostedTrees(found.ubj, ["a", "b"])


def test_calibration_is_finite_for_any_margin() -> None:
    line = Calibration(2.0, 1.0)
    assert line.apply(np.array([-1e6, -0.5, 1e6])).tolist() == [0.0, 0.5, 1.0]
    assert [line.apply_one(margin) for margin in (-1e6, -0.5, 1e6)] == [0.0, 0.5, 1.0]


def test_desired_state_round_trip_and_refusals() -> None:
    desired = Desired(pipeline=NAME, serial=3, arms=(("a" * 64, 0.9), ("b" * 64, 0.1)))
    content = signed(desired, lambda text: signing.sign(KEY, text))
    assert unseal(content, PUBLIC, NAME) == desired
    for wrong, words in (
        (seal(desired, signing.sign(signing.new_key(), desired.content)), "platform's key"), (content.replace(b"0.9", b"0.8"), "platform's key"),
        (b"{}", "not a signed"), (b"", "not a signed"), (seal(desired, b"short"), "64 bytes"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            unseal(wrong, PUBLIC, NAME)
    with pytest.raises(ValueError, match="not of 'other'"):
        unseal(content, PUBLIC, "other")
    for changes, words in (
        ({"arms": ()}, "at least one arm"), ({"arms": (("a" * 64, 0.5),)}, "add up to 1"), ({"arms": (("../x", 1.0),)}, "no bundle digest"),
        ({"arms": (("a" * 64, 0.5), ("a" * 64, 0.5))}, "2 arms"), ({"serial": 0}, "start at 1"), ({"pipeline": "../x"}, "no pipeline name"),
        ({"arms": (("a" * 64, float("nan")),)}, "between 0 and 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            check(Desired(**{"pipeline": NAME, "serial": 1, "arms": (("a" * 64, 1.0),), **changes}))


def test_growing_a_challenger_moves_entities_to_it_alone() -> None:
    def chosen(share: float) -> set[int]:
        desired = Desired(pipeline=NAME, serial=1, arms=(("a" * 64, 1 - share), ("b" * 64, share)))
        return {number for number in range(4000) if desired.arm(f"order-{number}") == 1}

    few, more, everyone = chosen(0.05), chosen(0.25), chosen(1.0)
    assert few <= more <= everyone
    assert len(everyone) == 4000
    assert chosen(0.0) == set()
    assert 150 < len(few) < 250
    assert 900 < len(more) < 1100


def test_a_program_and_model_that_do_not_fit_are_not_bundled() -> None:
    other = BoostedTrees(model().ubj, [f"other {name}" for name in program().names])
    with pytest.raises(ValueError, match="the model reads other amount"):
        files(KEY, model=other)
