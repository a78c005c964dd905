"""Compiled trees: the same numbers as XGBoost, the same bytes for the same model, and never used where that does not hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bundle import signing
from bundle.manifest import Bundle, BundleError, from_files
from bundle.models import compiled_trees
from bundle.models.boosted_trees import BoostedTrees
from bundle.models.compiled_trees import LIBRARY, CompiledTrees, NotCompiledError, compile_trees
from bundle.models.model import TOLERANCE, Calibration
from tests.support.endpoint import TREE, compiled, files, model, request, snapshot

KEY = signing.new_key()
PUBLIC = signing.public_key(KEY)
ROUNDING = 1e-6


def matrix(rows: int, width: int = 9, seed: int = 3) -> np.ndarray:
    """Rows with missing values, and with codes that are seen, unseen and beyond all that the model knows."""
    random = np.random.default_rng(seed)
    found = random.normal(5, 300, (rows, width)).astype(np.float32)
    found[:, 2], found[:, 3] = random.integers(0, 6, rows), random.integers(0, 256, rows)
    found[random.random((rows, width)) < 0.2] = np.nan
    return found


def loaded(**changes: object) -> Bundle:
    return from_files(files(KEY, **changes), PUBLIC)


def trained(
    width: int, rounds: int, depth: int, categorical: tuple[int, ...], codes: int = 300
) -> BoostedTrees:
    """Trees over random rows; the columns `categorical` hold codes."""
    import xgboost

    random = np.random.default_rng(5)
    rows = random.normal(size=(3000, width)).astype(np.float32)
    for column in categorical:
        rows[:, column] = random.integers(0, codes, 3000)
    rows[random.random(rows.shape) < 0.1] = np.nan
    label = (
        np.nan_to_num(rows[:, 0]) + (np.nan_to_num(rows[:, -1]) % 3 == 1) + random.normal(size=3000)
        > 0.5
    )
    types = ["c" if column in categorical else "q" for column in range(width)]
    data = xgboost.DMatrix(rows, label=label, feature_types=types, enable_categorical=True)
    # More thresholds of a feature than a byte can tell apart.
    options = {
        "objective": "binary:logistic",
        "max_depth": depth,
        "max_cat_to_onehot": 2,
        "max_bin": 1500,
        "nthread": 1,
    }
    return BoostedTrees.from_booster(
        xgboost.train(options, data, rounds), [f"f{index}" for index in range(width)], Calibration()
    )


@pytest.mark.parametrize(
    ("width", "rounds", "depth", "categorical"),
    [
        (1, 3, 2, ()),
        (5, 9, 1, (4,)),
        (12, 30, 9, (0, 7)),
        (3, 8, 4, (0, 1, 2)),
        (40, 16, 6, ()),
        (2, 60, 8, ()),
        (4, 20, 8, (1,)),
    ],
)
def test_compiled_trees_give_the_margins_of_xgboost(
    width: int, rounds: int, depth: int, categorical: tuple[int, ...]
) -> None:
    found = trained(width, rounds, depth, categorical)
    library, statement = found.compiled()
    trees = CompiledTrees(library, statement, width)
    random = np.random.default_rng(8)
    rows = random.normal(size=(4000, width)).astype(np.float32)
    for column in categorical:
        rows[:, column] = random.integers(0, 320, 4000)
    rows[random.random(rows.shape) < 0.2] = np.nan
    expected = found.margin_of_many(rows)
    assert len(np.unique(expected)) > 3
    found_margins = trees.margins(rows)
    assert np.allclose(found_margins, expected, rtol=0, atol=ROUNDING)
    assert [trees.margin(row) for row in rows[:200].tolist()] == found_margins[:200].tolist()
    # However many rows are computed together.
    for count in (1, 31, 33, 257):
        assert np.array_equal(trees.margins(rows[:count]), found_margins[:count])
    # A view with gaps between its values is no row after row.
    assert np.array_equal(trees.margins(np.repeat(rows, 2, axis=0)[::2]), found_margins)
    with pytest.raises(ValueError, match=f"rows of {width} features"):
        trees.margin([0.0] * (width + 1))
    with pytest.raises(ValueError, match=f"rows of {width} features"):
        trees.margins(rows[:, : width - 1])


def test_equal_trees_give_equal_bytes_wherever_they_are_compiled(tmp_path: Path) -> None:
    program = "import sys\nfrom tests.support.endpoint import model\nsys.stdout.buffer.write(model().compiled().library)\n"
    again = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(TREE), "TMPDIR": str(tmp_path)}, capture_output=True, check=True)  # fmt: skip
    assert again.stdout == compiled().library
    assert str(tmp_path).encode() not in again.stdout
    assert compiled(1).library != compiled().library
    assert files(KEY) == files(KEY)


def test_a_bundle_answers_with_its_compiled_trees() -> None:
    bundle, rows = loaded(), matrix(300)
    assert bundle.model.engine.name == "compiled"
    assert bundle.manifest.compiled is not None
    assert bundle.manifest.compiled.platform == compiled_trees.this_platform()
    assert (
        "gcc" in bundle.manifest.compiled.compiler or "clang" in bundle.manifest.compiled.compiler
    )
    bundle.model.measure(bundle.golden_matrix())
    assert bundle.model.engine.crossover >= 1
    expected = bundle.model.calibration.apply(bundle.model.margin_of_many(rows))
    assert np.allclose(bundle.model.predict(rows), expected, rtol=0, atol=ROUNDING)
    assert np.allclose(
        [bundle.model.predict_row(row) for row in rows.tolist()],
        expected,
        rtol=0,
        atol=ROUNDING,
    )
    assert bundle.check_golden().difference <= TOLERANCE
    portable = loaded(compiled=None)
    asked = [request(number) for number in range(40)]
    assert np.allclose(
        portable.predict_rows(asked, snapshot())[1],
        bundle.predict_rows(asked, snapshot())[1],
        atol=TOLERANCE,
    )


@pytest.mark.parametrize(
    ("library", "changes", "told"),
    [
        (None, {"platform": "plan9-vax"}, "compiled for plan9-vax"),
        (None, {"interface": 99}, "interface 99"),
        (b"\x7fELF and nothing more", {}, "cannot be loaded"),
        (compiled(1).library, {}, "differ by .* from the model"),
        (trained(4, 2, 2, ()).compiled().library, {}, "reads 4 features, not 9"),
    ],
    ids=["another platform", "another interface", "no library", "another model's", "another width"],
)
def test_what_cannot_be_used_is_not_and_the_bundle_still_answers(
    library: bytes | None, changes: dict[str, object], told: str
) -> None:
    made = compiled()
    unusable = made._replace(
        library=library or made.library,
        statement=msgspec.structs.replace(made.statement, **changes),
    )
    bundle = loaded(compiled=unusable)
    assert bundle.model.engine.name == "interpreted"
    assert bundle.model.engine.because is not None
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(bundle.model.engine.because)
    assert bundle.check_golden().difference <= TOLERANCE
    rows = matrix(50)
    assert np.allclose(
        [bundle.model.predict_row(row) for row in rows.tolist()],
        bundle.model.calibration.apply(bundle.model.margin_of_many(rows)),
        atol=TOLERANCE,
    )


def test_no_byte_of_a_library_runs_unverified() -> None:
    sound = files(KEY)
    altered = bytearray(sound[LIBRARY])
    altered[len(altered) // 2] ^= 1
    with pytest.raises(BundleError, match=r"trees\.so was altered"):
        from_files({**sound, LIBRARY: bytes(altered)}, PUBLIC)
    with pytest.raises(BundleError, match=r"trees\.so is missing"):
        from_files({name: content for name, content in sound.items() if name != LIBRARY}, PUBLIC)


def test_without_a_compiler_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotCompiledError, match="no C compiler"):
        model(6).compiled()
    broken = tmp_path / "gcc"
    broken.write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(NotCompiledError, match="failed: no space left"):
        model(6).compiled()
    silent = '#!/bin/sh\n[ "$1" = --version ] && { echo who am I >&2; exit 1; }\ntouch trees.so\n'
    (tmp_path / "touch").symlink_to("/usr/bin/touch")
    broken.write_text(silent)
    with pytest.raises(NotCompiledError, match="failed: who am I"):
        model(6).compiled()
    assert loaded(compiled=None).model.engine.because == "the bundle has no compiled trees"


def test_libraries_loaded_side_by_side_do_not_mix_and_let_go() -> None:
    import gc

    rows = matrix(20)
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        held = [CompiledTrees(*compiled(seed), 9) for seed in (0, 1, 2)]
        for seed, trees in enumerate(held):
            assert np.allclose(
                trees.margins(rows), model(seed).margin_of_many(rows), rtol=0, atol=ROUNDING
            )
        del held, trees
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_trees_that_the_format_cannot_hold_are_left_to_the_portable_engines() -> None:
    import treelite
    import xgboost

    random = np.random.default_rng(1)
    data = xgboost.DMatrix(random.normal(size=(200, 3)), label=random.integers(0, 3, 200))
    several = xgboost.train({"objective": "multi:softprob", "num_class": 3, "nthread": 1}, data, 2)
    with pytest.raises(NotCompiledError, match="another output"):
        compile_trees(treelite.frontend.from_xgboost_ubjson(bytes(several.save_raw("ubj"))), 3)
