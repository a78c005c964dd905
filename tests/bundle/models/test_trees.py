"""The table of a model's trees and its walker: XGBoost's numbers, and no table harms a process."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from bundle import signing
from bundle.golden import golden_matrix
from bundle.manifest import Bundle, BundleError, from_files
from bundle.models import model as models
from bundle.models.boosted_trees import BoostedTrees
from bundle.models.model import TOLERANCE, Calibration
from bundle.models.trees.table import FILE, VERSION, NoTableError, TableError, tree_table
from bundle.models.trees.walker import Walker
from tests.support import mutated_tables
from tests.support.endpoint import TREE, files, model, request, snapshot, table
from tests.support.headers import skip_without_headers

skip_without_headers()

from bundle.models.trees import _walker  # noqa: E402

KEY = signing.new_key()
PUBLIC = signing.public_key(KEY)
ROUNDING = 1e-6
NATIVE = TREE / "bundle" / "models" / "trees" / "native"


def matrix(rows: int, width: int = 9, seed: int = 3) -> np.ndarray:
    """Rows with missing values, and with codes that are seen, unseen and beyond all known ones."""
    random = np.random.default_rng(seed)
    found = random.normal(5, 300, (rows, width)).astype(np.float32)
    found[:, 2], found[:, 3] = random.integers(0, 6, rows), random.integers(0, 256, rows)
    found[random.random((rows, width)) < 0.2] = np.nan
    return found


def loaded(**changes: object) -> Bundle:
    return from_files(files(KEY, **changes), PUBLIC)


@lru_cache(maxsize=16)
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
    first, last = np.nan_to_num(rows[:, 0]), np.nan_to_num(rows[:, -1])
    label = first + (last % 3 == 1) + random.normal(size=3000) > 0.5
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
        (300, 12, 5, (299,)),
    ],
)
def test_the_walker_gives_the_margins_of_xgboost(
    width: int, rounds: int, depth: int, categorical: tuple[int, ...]
) -> None:
    found = trained(width, rounds, depth, categorical)
    trees = Walker(found.table(), width)
    random = np.random.default_rng(8)
    rows = random.normal(size=(4000, width)).astype(np.float32)
    for column in categorical:
        rows[:, column] = random.integers(0, 320, 4000)
    rows[random.random(rows.shape) < 0.2] = np.nan

    expected = found.margin_of_many(rows)
    assert len(np.unique(expected)) > 3
    margins = trees.margins(rows)
    assert np.allclose(margins, expected, rtol=0, atol=ROUNDING)
    assert [trees.margin(row) for row in rows[:200].tolist()] == margins[:200].tolist()

    # However many rows are computed together.
    for count in (0, 1, 31, 33, 257):
        assert np.array_equal(trees.margins(rows[:count]), margins[:count])
    # A view with gaps between its values is no row after row.
    assert np.array_equal(trees.margins(np.repeat(rows, 2, axis=0)[::2]), margins)
    with pytest.raises(ValueError, match=f"rows of {width} features"):
        trees.margin([0.0] * (width + 1))
    with pytest.raises(ValueError, match=f"rows of {width} features"):
        trees.margins(rows[:, : width - 1])


def test_a_row_is_any_sequence_of_numbers_and_nothing_else() -> None:
    walker = Walker(table(), 9)
    row = matrix(1)[0]
    expected = walker.margin(row.tolist())
    assert walker.margin(tuple(row.tolist())) == walker.margin(list(row)) == expected
    assert walker.margin([*row.tolist()[:8], True]) == walker.margin([*row.tolist()[:8], 1.0])
    with pytest.raises(TypeError):
        walker.margin([*row.tolist()[:8], "1"])
    with pytest.raises(TypeError, match="a row is a list or tuple"):
        walker.margin(1.0)  # type: ignore[arg-type]

    class Shrinking:
        def __float__(self) -> float:
            changing.clear()
            return 1.0

    changing: list[float] = [Shrinking(), *row.tolist()[1:]]  # type: ignore[list-item]
    with pytest.raises(ValueError, match="changed while it was read"):
        walker.margin(changing)


def test_the_extension_writes_only_into_fitting_buffers() -> None:
    forest, rows = _walker.Forest(table()), matrix(5)
    margins = np.empty(5, dtype=np.float32)
    forest.margins(rows, margins)
    unfit = (
        (rows.astype(np.float64), margins),
        (rows, margins.astype(np.float64)),
        (rows, margins[:4]),
        (rows[:, :8].copy(), margins),
        (rows.ravel(), margins),
        (rows, margins.reshape(5, 1)),
    )
    for one, other in unfit:
        with pytest.raises(ValueError, match=r"float32 of shape \(n, 9\)"):
            forest.margins(one, other)
    margins.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        forest.margins(rows, margins)
    with pytest.raises((ValueError, BufferError)):
        forest.margins(rows[:, ::2], np.empty(5, dtype=np.float32))


def test_several_threads_ask_at_once() -> None:
    walker, rows = Walker(table(), 9), matrix(3000)
    expected, one = walker.margins(rows), [walker.margin(row) for row in rows[:200].tolist()]
    found: list[bool] = []

    def ask() -> None:
        for _ in range(10):
            found.append(np.array_equal(walker.margins(rows), expected))
            found.append([walker.margin(row) for row in rows[:200].tolist()] == one)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80


def test_equal_trees_give_equal_bytes_wherever_the_table_is_written(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from tests.support.endpoint import model\n"
        "sys.stdout.buffer.write(model().table())\n"
    )
    variables = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(TREE), "TMPDIR": str(tmp_path)}
    again = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        check=True,
    )
    assert again.stdout == table()
    assert table(1) != table()
    assert files(KEY) == files(KEY)


def test_a_bundle_answers_by_the_walker() -> None:
    bundle, rows = loaded(), matrix(300)
    assert (bundle.model.engine.name, bundle.model.engine.because) == ("walker", None)
    bundle.model.measure(golden_matrix(bundle.golden))
    assert bundle.model.engine.crossover >= 1
    expected = bundle.model.calibration.apply(bundle.model.margin_of_many(rows))
    assert np.allclose(bundle.model.predict(rows), expected, rtol=0, atol=ROUNDING)
    alone = [bundle.model.predict_row(row) for row in rows.tolist()]
    assert np.allclose(alone, expected, rtol=0, atol=ROUNDING)
    assert bundle.check_golden().difference <= TOLERANCE


@pytest.mark.parametrize("built", [True, False])
def test_without_table_or_walker_treelite_answers_and_the_reason_is_said(
    built: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not built:
        monkeypatch.setattr(models, "MISSING", "the walker is not built")
    bundle, rows = loaded(table=None) if built else loaded(), matrix(300)
    why = "the bundle has no table of trees" if built else "the walker is not built"
    assert (bundle.model.engine.name, bundle.model.engine.because) == ("gtil", why)
    assert bundle.check_golden().difference <= TOLERANCE
    expected = bundle.model.calibration.apply(bundle.model.margin_of_many(rows))
    alone = [bundle.model.predict_row(row) for row in rows.tolist()]
    assert np.allclose(alone, expected, rtol=0, atol=TOLERANCE)
    asked = [request(number) for number in range(40)]
    few, many = (bundle.predict_rows(asked[:count], snapshot())[1] for count in (5, 40))
    assert np.allclose(few, many[:5], atol=TOLERANCE)
    with pytest.raises(ValueError, match="rows of 9 features, not of 8"):
        bundle.model.predict_row([1.0] * 8)


def test_a_process_without_the_extension_still_loads_bundles(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name, content in files(KEY).items():
        (folder / name).write_bytes(content)
    (tmp_path / "platform.pub").write_bytes(PUBLIC)
    program = (
        "import sys\n"
        "sys.modules['bundle.models.trees._walker'] = None\n"
        "from pathlib import Path\n"
        "from bundle.manifest import load\n"
        "folder = Path(sys.argv[1])\n"
        "bundle = load(folder, (folder.parent / 'platform.pub').read_bytes())\n"
        "bundle.check_golden()\n"
        "print(bundle.model.engine.name, bundle.model.engine.because)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, folder], cwd=TREE, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("gtil the walker is not built")
    assert "make setup" in found.stdout


def test_no_byte_of_a_table_is_read_unverified() -> None:
    sound = files(KEY)
    altered = bytearray(sound[FILE])
    altered[len(altered) // 2] ^= 1
    with pytest.raises(BundleError, match=r"trees\.table was altered"):
        from_files({**sound, FILE: bytes(altered)}, PUBLIC)
    with pytest.raises(BundleError, match=r"trees\.table is missing"):
        from_files({name: content for name, content in sound.items() if name != FILE}, PUBLIC)


@pytest.mark.parametrize(
    ("unfit", "told"),
    [
        (b"\x7fELF and nothing more, whatever else it is called", "no sound table of trees"),
        (table(1), "differs by .* from the model"),
        (trained(4, 2, 2, ()).table(), "reads 4 features, the model 9"),
    ],
    ids=["no table", "another model's", "another width"],
)
def test_a_bundle_whose_table_is_not_its_models_is_refused(unfit: bytes, told: str) -> None:
    with pytest.raises(BundleError, match=told):
        loaded(table=unfit)


class Layout:
    """Where the arrays of a table stand."""

    def __init__(self, content: bytes) -> None:
        _, _, _, trees, self.nodes, sets, _, _, _ = struct.unpack("<8s6IfI", content[:40])
        self.roots = 40
        self.ends = self.roots + 4 * (trees + 1)
        self.values = self.ends + 4 * (sets + 1)
        self.features = self.values + 4 * self.nodes
        self.kinds = self.features + 2 * self.nodes
        kinds = content[self.kinds : self.kinds + self.nodes]
        self.leaf, self.number, self.category = (
            next(place for place, kind in enumerate(kinds) if kind & 3 == wanted)
            for wanted in (0, 1, 2)
        )


def with_header(number: int, value: int) -> Callable[[bytearray, Layout], None]:
    def edit(content: bytearray, layout: Layout) -> None:
        struct.pack_into("<I", content, 4 * number, value)

    return edit


def with_word(array: str, place: int, value: int) -> Callable[[bytearray, Layout], None]:
    def edit(content: bytearray, layout: Layout) -> None:
        struct.pack_into("<I", content, getattr(layout, array) + 4 * place, value)

    return edit


def with_node(
    kind: str, array: str, form: str, value: float
) -> Callable[[bytearray, Layout], None]:
    def edit(content: bytearray, layout: Layout) -> None:
        size = struct.calcsize(form)
        place = getattr(layout, array) + size * getattr(layout, kind)
        struct.pack_into(form, content, place, value)

    return edit


@pytest.mark.parametrize(
    ("edit", "where", "what"),
    [
        (lambda content, layout: content.clear(), "the header", "has 0 bytes"),
        (lambda content, layout: content.reverse(), "the header", "does not begin with EVGTREES"),
        (lambda content, layout: content.extend(b"\0"), "the header", "its counts need"),
        (lambda content, layout: content.pop(), "the header", "its counts need"),
        (with_header(2, 2), "the header", "version is 2, this release reads version 1"),
        (with_header(3, 0), "the header", "0 features"),
        (with_header(3, 40000), "the header", "40000 features"),
        (with_header(3, 1), "node", "asks for feature"),
        (with_header(4, 2**32 - 1), "the header", "its counts need"),
        (with_header(5, 1), "the header", "its counts need"),
        (with_header(8, 0x7FC00000), "the header", "base score is not finite"),
        (with_header(9, 1), "the header", "last field"),
        (with_word("roots", 0, 1), "entry 0 of the roots", "is 1, not 0"),
        (with_word("roots", 1, 0), "entry 1 of the roots", "is 0, after 0"),
        (with_word("roots", 1, 2**31), "entry 1 of the roots", "past the end"),
        (with_word("roots", 1, 2), "of tree 0", "outside the tree"),
        (with_word("ends", 1, 2**20), "entry 1 of the ends of sets", "past the end"),
        (with_node("leaf", "kinds", "B", 1), "of tree 0", "outside the tree"),
        (with_node("leaf", "kinds", "B", 4), "of tree 0", "kind is 4"),
        (with_node("number", "kinds", "B", 9), "of tree 0", "kind is 9"),
        (with_node("number", "kinds", "B", 3), "of tree 0", "kind is 3"),
        (with_node("number", "kinds", "B", 0), "of tree 0", "a leaf, but asks"),
        (with_node("number", "features", "<H", 9), "of tree 0", "feature 9 of 9"),
        (with_node("number", "values", "<f", math.inf), "of tree 0", "not finite"),
        (with_node("leaf", "values", "<f", math.nan), "of tree 0", "not finite"),
        (with_node("leaf", "features", "<H", 1), "of tree 0", "a leaf, but asks"),
        (with_node("category", "values", "<f", 1.0), "of tree", "a category, but has a threshold"),
        (with_node("category", "kinds", "B", 1), "the header", "sets of codes stand for"),
    ],
)
def test_a_refused_table_says_what_is_wrong_and_where(
    edit: Callable[[bytearray, Layout], None], where: str, what: str
) -> None:
    content = bytearray(table())
    edit(content, Layout(table()))
    with pytest.raises(TableError) as refused:
        Walker(bytes(content), 9)
    assert where in refused.value.where
    assert what in refused.value.what
    assert refused.value.what in str(refused.value)


def test_nodes_that_are_nobodys_children_are_refused() -> None:
    """A second tree taken for a part of the first."""
    content, layout = bytearray(table()), Layout(table())
    trees = struct.unpack_from("<I", content, 16)[0]
    struct.pack_into("<I", content, 16, trees - 1)
    del content[layout.roots + 4 : layout.roots + 8]
    with pytest.raises(TableError, match="of tree 0: it is no node's child"):
        Walker(bytes(content), 9)


def test_sets_that_would_take_too_much_memory_are_refused() -> None:
    """A long set for one node is laid out for every node of its feature."""
    nodes, longest = 20_000, 20_000
    kinds, values = bytes([2] * nodes + [0] * (nodes + 1)), bytes(4 * (2 * nodes + 1))
    ends = struct.pack(f"<{nodes + 1}I", 0, *[longest] * nodes)
    content = b"".join(
        [
            struct.pack("<8s6IfI", b"EVGTREES", 1, 1, 1, len(kinds), nodes, longest, 0.0, 0),
            struct.pack("<2I", 0, len(kinds)),
            ends,
            values,
            bytes(2 * len(kinds)),
            kinds,
            bytes(longest),
        ]
    )
    with pytest.raises(TableError, match="take more than 67108864 bytes when they are laid out"):
        Walker(content, 1)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The extension under AddressSanitizer, and the variables under which it runs."""
    found = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, check=True, text=True
    )
    runtime = Path(found.stdout.strip())
    if not runtime.is_absolute():
        pytest.skip("gcc has no libasan: install libasan (Debian: apt-get install libgcc-12-dev)")
    place = tmp_path_factory.mktemp("sanitized") / "_walker.so"
    command = ["gcc", "-std=c11", "-O1", "-g", "-shared", "-fPIC", "-ffp-contract=off"]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    command += [f"-I{sysconfig.get_path('include')}", "-o", str(place)]
    subprocess.run([*command, *map(str, sorted(NATIVE.glob("*.c")))], check=True)
    # What the interpreter never frees is no leak of ours.
    options = "detect_leaks=0:allocator_may_return_null=1"
    return place, {**os.environ, "LD_PRELOAD": str(runtime), "ASAN_OPTIONS": options}


# Trees that are walked side by side, and some that are too deep for it.
MUTATED = {"shallow": (4, 5, 4, (1,), 40), "deep": (3, 2, 10, (1,), 40)}


def mutate(
    extension: Path, folder: Path, name: str, variables: dict[str, str] | None = None
) -> dict[str, int]:
    place = folder / FILE
    place.write_bytes(trained(*MUTATED[name]).table())
    command = [sys.executable, mutated_tables.__file__, extension, place, "6000", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found: dict[str, int] = json.loads(ran.stdout)
    return found


@pytest.mark.parametrize("name", MUTATED)
def test_no_damaged_table_ends_the_process(name: str, tmp_path: Path) -> None:
    found = mutate(Path(str(_walker.__file__)), tmp_path, name)
    # Both outcomes are common, so both were put to the test.
    assert found["answered"] > 500
    assert found["refused"] > 2000


@pytest.mark.parametrize("name", MUTATED)
def test_no_damaged_table_reads_or_writes_where_it_must_not(
    name: str, tmp_path: Path, sanitized: tuple[Path, dict[str, str]]
) -> None:
    extension, variables = sanitized
    found = mutate(extension, tmp_path, name, variables)
    assert found == mutate(Path(str(_walker.__file__)), tmp_path, name)


def test_the_sanitizer_would_have_told(
    tmp_path: Path, sanitized: tuple[Path, dict[str, str]]
) -> None:
    """One byte past an allocation, read under the same runtime, ends a process."""
    source, library = tmp_path / "past.c", tmp_path / "past.so"
    source.write_text(
        "#include <stdlib.h>\nint past(int n) { char *at = malloc(n); return at[n]; }\n"
    )
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-fsanitize=address", "-o", library, source], check=True
    )
    program = f"import ctypes; ctypes.CDLL({str(library)!r}).past(9)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=sanitized[1]
    )
    assert ran.returncode != 0
    assert "heap-buffer-overflow" in ran.stderr


def test_writer_and_walker_speak_the_same_version() -> None:
    assert _walker.VERSION == VERSION


def test_trees_that_a_table_cannot_hold_are_left_to_the_portable_engines() -> None:
    import treelite
    import xgboost

    random = np.random.default_rng(1)
    data = xgboost.DMatrix(random.normal(size=(200, 3)), label=random.integers(0, 3, 200))
    several = xgboost.train({"objective": "multi:softprob", "num_class": 3, "nthread": 1}, data, 2)
    with pytest.raises(NoTableError, match="another output"):
        tree_table(treelite.frontend.from_xgboost_ubjson(bytes(several.save_raw("ubj"))), 3)
    with pytest.raises(NoTableError, match="need 80095 places"):
        tree_table(model().trees, 40_000)
