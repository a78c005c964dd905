"""Trees as machine code: a shared library made for one model when its bundle is made, loaded from verified bytes alone.

The library is one small walk over the model's nodes, which stand in it as a table. Code with a branch for each node (tl2cgen)
takes 10 to 30 seconds to compile and waits for mispredicted branches; the walk has no branches to predict, goes down eight
trees at once, and compiles in a second or two whatever the model's size.

One row goes down the trees. A node is eight bytes: its threshold, the place of its value in an array, and the distance to its left child (the right one is
the next). A row is laid out once so that every decision is `value < threshold`: each numeric feature stands there twice, missing
values as -inf for nodes that send them left and as +inf for those that send them right; each categorical node has a
place of its own with 0 or 1, copied from a table by the category's code; a leaf compares -inf with its value and so stays where it is.

Many rows are computed side by side, a byte of a vector each, on processors that have AVX2. Trees compare a feature with few different
thresholds, so a value is replaced by the number of those that it reaches, and all nodes of a tree are compared, from the leaves up:
no row waits for what its last comparison found. A tree stands there as a full one of its depth, whose missing nodes lead to one leaf.
Categorical nodes are bits, seven in a byte, copied by the category's code. Comparing all nodes with vectors of bytes comes from Ye et al.,
"RapidScorer" (KDD 2018). Elsewhere, and where trees are too deep for it, blocks of rows go down eight trees at once, then the next eight.

Sums are those of XGBoost: float32, from the base score, in the order of the trees. So margins are equal to the last bit, but for
the rounding of the base score's own logarithm.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

LIBRARY = "trees.so"
INTERFACE = 1
COMPILERS = ("gcc", "clang", "cc")
COMPILE_SECONDS = 60.0
# Nothing of where and when it was compiled gets into the library: equal trees give equal bytes on one machine. Nor does anything
# of this very processor: it runs on every one of its architecture. No contraction: sums are rounded as XGBoost rounds them.
FLAGS = (
    "-x", "c", "-std=c11", "-O2", "-fPIC", "-shared", "-ffreestanding", "-nostdlib", "-fno-builtin", "-fno-ident", "-ffp-contract=off",
    "-fno-tree-loop-distribute-patterns", "-fno-asynchronous-unwind-tables", "-g0", "-Wl,--build-id=none", "-Wl,-s",
)  # fmt: skip
# After the source: what tells processors with AVX2 from others.
LIBRARIES = ("-lgcc",)
GROUP = 8  # as in the source below
PLACES = 1 << 16
# Rows that are computed together, as far as their values take no more than this of the stack.
BLOCK, STACK = 32, 1 << 18
# The same of rows side by side, of which a vector holds LANES.
ROWS, LANES = 256, 32
# A byte numbers the leaves of a tree of so many levels, tells so many thresholds and a missing value apart, and holds so many bits
# beside its sign.
LEVELS, EDGES, BITS = 8, 254, 7


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a bundle says of its compiled trees: where they run, what made them, and the interface they have."""

    platform: str
    compiler: str
    flags: tuple[str, ...]
    interface: int = INTERFACE


class Compiled(NamedTuple):
    """A shared library and what is to be said of it."""

    library: bytes
    statement: Statement


class NotCompiledError(ValueError):
    """Why trees are not compiled, or compiled ones are not used; the portable engines compute the same."""


def this_platform() -> str:
    """Where libraries made here run, such as `linux-x86_64`. They need no C library, hence none is named."""
    return f"{sys.platform}-{platform.machine()}"


def compile_trees(trees: Any, width: int) -> Compiled:
    """The library of a treelite model that reads rows of `width` features: equal models give equal bytes on one machine.

    Raises NotCompiledError where there is no C compiler, or where the trees are more than the library's format can hold.
    """
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise NotCompiledError(f"no C compiler ({', '.join(COMPILERS)}) is installed")
    source = c_source(trees, width)
    with tempfile.TemporaryDirectory(prefix="evergreen-") as folder:
        target = Path(folder) / LIBRARY
        try:
            subprocess.run(
                [compiler, *FLAGS, "-o", LIBRARY, "-", *LIBRARIES], input=source.encode(), cwd=folder, capture_output=True, check=True, timeout=COMPILE_SECONDS,
            )  # fmt: skip
            return Compiled(
                target.read_bytes(), Statement(this_platform(), _version(compiler), FLAGS)
            )
        except subprocess.CalledProcessError as error:
            raise NotCompiledError(
                f"{compiler} failed: {error.stderr.decode(errors='replace')[-500:].strip()}"
            ) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotCompiledError(f"{compiler} failed: {error}") from error


@lru_cache(maxsize=8)
def _version(compiler: str) -> str:
    told = subprocess.run(
        [compiler, "--version"], capture_output=True, check=True, timeout=COMPILE_SECONDS
    ).stdout
    return told.decode(errors="replace").partition("\n")[0].strip()


class CompiledTrees:
    """A loaded library. `margin(row)` is the margin (log odds) of one row of `width` numbers, NaN for missing; `margins(matrix)`
    those of rows of shape (n, width), float32. Both may be called by several threads at once."""

    def __init__(self, library: bytes, statement: Statement, width: int) -> None:
        """Raises NotCompiledError for a library of another platform or interface, or one that cannot be loaded here.

        `library` must have been verified: its code runs in this process.
        """
        if statement.platform != this_platform():
            raise NotCompiledError(
                f"they were compiled for {statement.platform}, this is {this_platform()}"
            )
        if statement.interface != INTERFACE:
            raise NotCompiledError(
                f"they have interface {statement.interface}, this release reads interface {INTERFACE}"
            )
        self.width = width
        loaded = _load(library)
        # Not `self`: what is released must not keep itself alive.
        weakref.finalize(self, _release, loaded)
        try:
            one, held = loaded.library.trees_one, loaded.library.trees_width
            # Many rows take milliseconds, during which others may go on.
            many = ctypes.CDLL(None, handle=loaded.library._handle).trees_many
        except AttributeError as error:
            raise NotCompiledError(f"{LIBRARY} is no library of trees: {error}") from error
        held.argtypes, held.restype = (), ctypes.c_uint32
        if held() != width:
            raise NotCompiledError(f"{LIBRARY} reads {held()} features, not {width}")
        one.argtypes, one.restype = (ctypes.c_char_p,), ctypes.c_float
        many.argtypes, many.restype = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p), None
        self._one: Callable[[bytes], float] = one
        self._many = many
        self._pack = struct.Struct(f"{width}f").pack

    def margin(self, row: Sequence[float]) -> float:
        """Raises ValueError for a row of another width."""
        try:
            return self._one(self._pack(*row))
        except struct.error as error:
            raise ValueError(
                f"the model takes rows of {self.width} features, not of {len(row)} ({error})"
            ) from None

    def margins(self, matrix: Matrix) -> Matrix:
        import numpy as np

        if matrix.ndim != 2 or matrix.shape[1] != self.width:
            raise ValueError(
                f"the model takes rows of {self.width} features, not a matrix of shape {matrix.shape}"
            )
        rows = np.ascontiguousarray(matrix, dtype=np.float32)
        found = np.empty(len(rows), dtype=np.float32)
        self._many(rows.ctypes.data, len(rows), found.ctypes.data)
        return found


class _Loaded(NamedTuple):
    library: ctypes.PyDLL
    descriptor: int


def _load(library: bytes) -> _Loaded:
    """Load bytes, not a file: what was verified is what runs. The memory stays open, because its number is its name to the
    loader, which would take another library of the same name for this one."""
    try:
        descriptor = os.memfd_create(LIBRARY, os.MFD_CLOEXEC)
    except (AttributeError, OSError) as error:
        raise NotCompiledError(f"a library cannot be loaded from memory here: {error}") from error
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(library)
        # PyDLL keeps the interpreter's lock: letting it go and taking it again would cost more than the few microseconds of a walk.
        return _Loaded(ctypes.PyDLL(f"/proc/self/fd/{descriptor}"), descriptor)
    except OSError as error:
        os.close(descriptor)
        raise NotCompiledError(f"{LIBRARY} cannot be loaded: {error}") from error


def _release(loaded: _Loaded) -> None:
    from _ctypes import dlclose

    dlclose(loaded.library._handle)
    os.close(loaded.descriptor)


class _Category(NamedTuple):
    """The nodes that ask for the category in `feature`: their first place, and for each of them whether codes 0 to `codes` - 1,
    any other code, and a missing one go right."""

    feature: int
    start: int
    codes: int
    bits: NDArray[np.uint8]


def c_source(trees: Any, width: int) -> str:
    """The library of a treelite model as C. Raises NotCompiledError for what its format cannot hold."""
    import numpy as np

    header = trees.get_header_accessor()
    base = header.get_field("base_scores")
    if (
        header.get_field("postprocessor") != "sigmoid"
        or len(base) != 1
        or header.get_field("leaf_vector_shape").max() != 1
        or header.get_field("average_tree_output")[0]
    ):
        raise NotCompiledError("the trees have another output than one margin of log odds")
    found = [_fields(trees.get_tree_accessor(index)) for index in range(trees.num_tree)]
    categories, places = _categories(found, width)
    # A tree of one leaf with nothing in it fills the last group.
    nodes, roots, depths = [f"{{0x0p+0f,{2 * width},0}}"], [], []
    for index, tree in enumerate(found):
        written, depth = _nodes(tree, width, places[index])
        roots.append(len(nodes))
        depths.append(depth)
        nodes += written
    while len(roots) % GROUP or not roots:
        roots.append(0)
        depths.append(0)
    deepest = [max(depths[start : start + GROUP]) for start in range(0, len(depths), GROUP)]
    offsets = np.cumsum([0, *(category.bits.size for category in categories)])
    asked = [
        f"{{{category.feature},{category.start},{category.codes},{category.bits.shape[1]},{offset}}}"
        for category, offset in zip(categories, offsets, strict=False)
    ]
    bits = "".join(
        ",".join(map(str, category.bits.ravel().tolist())) + "," for category in categories
    )
    end = 2 * width + 1 + sum(category.bits.shape[1] for category in categories)
    return (
        f"#define WIDTH {width}\n#define TREES {len(roots)}\n#define PLACES {end}\n#define CATEGORIES {len(categories)}\n"
        f"#define BASE {_hex(_base(float(base[0])))}\n#define BLOCK {min(BLOCK, max(1, STACK // (4 * end)))}\n{_TYPES}"
        f"static const struct node NODES[] = {{{','.join(nodes)}}};\n"
        f"static const uint32_t ROOTS[] = {{{','.join(map(str, roots))}}};\nstatic const uint8_t DEPTHS[] = {{{','.join(map(str, deepest))}}};\n"
        f"static const struct category ASKED[] = {{{','.join(asked) or '{0,0,0,0,0}'}}};\nstatic const uint8_t BITS[] = {{{bits or '0'}}};\n{_WALK}"
        f"{_side_by_side(found, depths, categories, places)}"
    )


def _side_by_side(
    trees: Sequence[dict[str, NDArray[Any]]],
    depths: Sequence[int],
    categories: Sequence[_Category],
    places: Sequence[dict[int, int]],
) -> str:
    """What computes many rows: side by side, but for trees that are too deep or ask for too much."""
    edges, numbers, columns = _edges(trees)
    coded, packed, bits = _packed(categories, 2 * len(numbers))
    count = 2 * len(numbers) + sum(-(-category.bits.shape[1] // BITS) for category in categories)
    rows = min(ROWS, STACK // max(count, 1)) // LANES * LANES
    if max(depths) > LEVELS or not rows:
        return _MANY
    splits: list[str] = []
    leaves: list[str] = []
    shapes = []
    for tree, depth, own in zip(trees, depths, places, strict=False):
        # A tree of one leaf is compared once, too.
        levels = max(depth, 1)
        shapes.append(f"{{{len(splits)},{len(leaves)},{levels}}}")
        nodes = [0]
        for _ in range(levels):
            below = []
            for node in nodes:
                if tree["node_type"][node] == _LEAF:
                    # Whichever way is taken, it leads to this leaf.
                    splits.append("{0,0,0}")
                    below += [node, node]
                    continue
                if tree["node_type"][node] == _CATEGORY:
                    (column, bit), bound = bits[own[node]], 0
                else:
                    asked = (
                        int(tree["split_index"][node]),
                        float(tree["threshold"][node]),
                        bool(tree["default_left"][node]),
                    )
                    (column, bound), bit = columns[asked], -1
                splits.append(f"{{{column * rows},{bound},{bit}}}")
                below += [int(tree["cleft"][node]), int(tree["cright"][node])]
            nodes = below
        leaves += [_hex(tree["leaf_value"][node]) for node in nodes]
    return (
        f"{_MANY.replace('void trees_many', 'static void many')}#if defined(__x86_64__)\n"
        f"#define LANES {LANES}\n#define ROWS {rows}\n#define COLUMNS {max(count, 1)}\n#define NUMBERS {len(numbers)}\n#define SHAPES {len(shapes)}\n"
        f"#define HALF {1 << LEVELS - 1}\n{_SIDE_TYPES}"
        f"static const float EDGES[] = {{{','.join(edges) or '0'}}};\nstatic const uint32_t NUMBERED[] = {{{','.join(numbers) or '0'}}};\n"
        f"static const struct category CODED[] = {{{','.join(coded) or '{0,0,0,0,0}'}}};\n"
        f"static const uint8_t PACKED[] = {{{','.join(packed) or '0'}}};\n"
        f"static const struct split SPLITS[] = {{{','.join(splits)}}};\nstatic const float LEAVES[] = {{{','.join(leaves)}}};\n"
        f"static const struct shape SHAPED[] = {{{','.join(shapes)}}};\n{_SIDE_BY_SIDE}#endif\n{_CHOOSE}"
    )


def _edges(
    trees: Iterable[dict[str, NDArray[Any]]],
) -> tuple[list[str], list[str], dict[tuple[int, float, bool], tuple[int, int]]]:
    """Thresholds of the numeric nodes, up to `EDGES` of one feature side by side in a set; the feature of each set; and for a feature,
    a threshold and whether missing values go left, the column that is compared and the number above which it goes right."""
    asked: dict[int, set[float]] = {}
    for tree in trees:
        numeric = tree["node_type"] == _NUMBER
        for feature, threshold in zip(
            tree["split_index"][numeric].tolist(), tree["threshold"][numeric].tolist(), strict=True
        ):
            asked.setdefault(feature, set()).add(threshold)
    edges: list[str] = []
    numbers: list[str] = []
    columns: dict[tuple[int, float, bool], tuple[int, int]] = {}
    for feature, thresholds in sorted(asked.items()):
        found = sorted(thresholds)
        for first in range(0, len(found), EDGES):
            held = found[first : first + EDGES]
            for place, threshold in enumerate(held):
                columns[feature, threshold, True] = 2 * len(numbers), place - 128
                columns[feature, threshold, False] = 2 * len(numbers) + 1, place - 128
            numbers.append(str(feature))
            # No value reaches what is no number.
            edges += [_hex(threshold) for threshold in held] + ['__builtin_nanf("")'] * (
                EDGES + 1 - len(held)
            )
    return edges, numbers, columns


def _packed(
    categories: Iterable[_Category], start: int
) -> tuple[list[str], list[str], dict[int, tuple[int, int]]]:
    """What is asked of each category, in columns from `start` on; the bytes of their codes, column by column; and for each place of a
    categorical node its column and its bit."""
    import numpy as np

    coded: list[str] = []
    packed: list[str] = []
    bits: dict[int, tuple[int, int]] = {}
    for category in categories:
        held = category.bits.shape[1]
        count = -(-held // BITS)
        padded = np.zeros((category.codes + 2, count * BITS), dtype=np.uint8)
        padded[:, :held] = category.bits
        columns = (
            (padded.reshape(-1, count, BITS) << np.arange(BITS, dtype=np.uint8))
            .sum(axis=2, dtype=np.uint8)
            .T
        )
        coded.append(f"{{{category.feature},{start},{category.codes},{count},{len(packed)}}}")
        packed += map(str, columns.ravel().tolist())
        bits |= {
            category.start + place: (start + place // BITS, 1 << place % BITS)
            for place in range(held)
        }
        start += count
    return coded, packed, bits


def _base(margin: float) -> float:
    """The log odds of the base score as XGBoost has them, which rounds each step of -log(1 / p - 1) to float32."""
    import numpy as np

    one = np.float32(1)
    share = one / np.float32(1 / (1 + math.exp(-margin)))
    return float(np.float32(-math.log(share - one)))


def _fields(tree: Any) -> dict[str, NDArray[Any]]:
    names = (
        "node_type",
        "cleft",
        "cright",
        "split_index",
        "default_left",
        "leaf_value",
        "threshold",
        "cmp",
    )
    lists = (
        "category_list",
        "category_list_begin",
        "category_list_end",
        "category_list_right_child",
    )
    return {name: tree.get_field(name) for name in (*names, *lists)}


_LEAF, _NUMBER, _CATEGORY, _LESS = 0, 1, 2, 2  # treelite's node types, and its operator <


def _categories(
    trees: Iterable[dict[str, NDArray[Any]]], width: int
) -> tuple[list[_Category], list[dict[int, int]]]:
    """What is asked of each categorical feature, and for each tree the places of its categorical nodes."""
    import numpy as np

    asked: dict[int, list[tuple[int, int, frozenset[int], bool, bool]]] = {}
    count = 0
    for index, tree in enumerate(trees):
        count = index + 1
        for node in np.flatnonzero(tree["node_type"] == _CATEGORY).tolist():
            listed = tree["category_list"][
                tree["category_list_begin"][node] : tree["category_list_end"][node]
            ].tolist()
            rule = (
                index,
                node,
                frozenset(listed),
                bool(tree["category_list_right_child"][node]),
                not tree["default_left"][node],
            )
            asked.setdefault(int(tree["split_index"][node]), []).append(rule)
    places: list[dict[int, int]] = [{} for _ in range(count)]
    categories, start = [], 2 * width + 1
    for feature, rules in sorted(asked.items()):
        codes = max((max(held) for _, _, held, _, _ in rules if held), default=0) + 1
        bits = np.empty((codes + 2, len(rules)), dtype=np.uint8)
        for place, (index, node, held, held_goes_right, missing_goes_right) in enumerate(rules):
            bits[:codes, place] = [(code in held) == held_goes_right for code in range(codes)]
            bits[codes, place], bits[codes + 1, place] = not held_goes_right, missing_goes_right
            places[index][node] = start + place
        categories.append(_Category(feature, start, codes, bits))
        start += len(rules)
    if start > PLACES:
        raise NotCompiledError(
            f"the trees need {start} places for their values; the limit is {PLACES}"
        )
    return categories, places


def _nodes(
    tree: dict[str, NDArray[Any]], width: int, places: dict[int, int]
) -> tuple[list[str], int]:
    """A tree's nodes from its root down, children side by side, and its depth."""
    kind, left, right = (tree[name].tolist() for name in ("node_type", "cleft", "cright"))
    order, depth, level = [0], [0], 0
    lefts = []
    for position, node in enumerate(order):
        lefts.append(len(order) - position)
        if kind[node] != _LEAF:
            order += [left[node], right[node]]
            level = depth[position] + 1
            depth += [level, level]
    if max(lefts) >= PLACES or level > 255:
        raise NotCompiledError(
            f"a tree has {len(order)} nodes and {level} levels; the limits are {PLACES} and 255"
        )
    written = []
    for position, node in enumerate(order):
        if kind[node] == _LEAF:
            written.append(f"{{{_hex(tree['leaf_value'][node])},{2 * width},0}}")
            continue
        if kind[node] == _CATEGORY:
            threshold, place = "0x1p-1f", places[node]
        elif kind[node] == _NUMBER and tree["cmp"][node] == _LESS:
            threshold = _hex(tree["threshold"][node])
            place = int(tree["split_index"][node]) + (0 if tree["default_left"][node] else width)
        else:
            raise NotCompiledError("a node compares in another way than value < threshold")
        written.append(f"{{{threshold},{place},{lefts[position]}}}")
    return written, level


def _hex(number: float) -> str:
    """A float32 as C writes it exactly. Raises NotCompiledError for infinities and NaN."""
    if not math.isfinite(number):
        raise NotCompiledError("a threshold or a leaf is not finite")
    return float(number).hex() + "f"


_TYPES = """
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef __UINT64_TYPE__ uint64_t;
struct node { float threshold; uint16_t place, left; };
struct category { uint32_t feature, start, codes, count, offset; };
"""
_WALK = """
#define STEP(n) n += n->left + !(at[n->place] < n->threshold)
#define LEAF(n) sum += n->threshold

static void lay(const float *row, float *at) {
  for (uint32_t i = 0; i < WIDTH; i++) {
    float value = row[i];
    int missing = value != value;
    at[i] = missing ? -__builtin_inff() : value;
    at[WIDTH + i] = missing ? __builtin_inff() : value;
  }
  at[2 * WIDTH] = -__builtin_inff();
  for (uint32_t k = 0; k < CATEGORIES; k++) {
    struct category asked = ASKED[k];
    float code = row[asked.feature];
    uint32_t which = code != code ? asked.codes + 1 : code >= 0 && code < (float)asked.codes ? (uint32_t)code : asked.codes;
    const uint8_t *bits = BITS + asked.offset + which * asked.count;
    for (uint32_t i = 0; i < asked.count; i++) at[asked.start + i] = bits[i];
  }
}

static inline float walk(const float *at, uint32_t tree, float sum) {
  const uint32_t *root = ROOTS + tree;
  const struct node *a = NODES + root[0], *b = NODES + root[1], *c = NODES + root[2], *d = NODES + root[3];
  const struct node *e = NODES + root[4], *f = NODES + root[5], *g = NODES + root[6], *h = NODES + root[7];
  for (uint32_t level = DEPTHS[tree / 8]; level; level--) {
    STEP(a); STEP(b); STEP(c); STEP(d); STEP(e); STEP(f); STEP(g); STEP(h);
  }
  LEAF(a); LEAF(b); LEAF(c); LEAF(d); LEAF(e); LEAF(f); LEAF(g); LEAF(h);
  return sum;
}

uint32_t trees_width(void) { return WIDTH; }
float trees_one(const float *row) {
  float at[PLACES], sum = BASE;
  lay(row, at);
  for (uint32_t tree = 0; tree < TREES; tree += 8) sum = walk(at, tree, sum);
  return sum;
}
"""
_MANY = """
/* Eight trees for a block of rows, then the next eight: so their nodes stay in the nearest cache. */
void trees_many(const float *rows, uint64_t count, float *margins) {
  float at[BLOCK][PLACES];
  for (uint64_t first = 0; first < count; first += BLOCK) {
    uint32_t block = count - first < BLOCK ? (uint32_t)(count - first) : BLOCK;
    for (uint32_t i = 0; i < block; i++) {
      lay(rows + (first + i) * WIDTH, at[i]);
      margins[first + i] = BASE;
    }
    for (uint32_t tree = 0; tree < TREES; tree += 8)
      for (uint32_t i = 0; i < block; i++) margins[first + i] = walk(at[i], tree, margins[first + i]);
  }
}
"""
_SIDE_TYPES = """
#define WIDE __attribute__((target("avx2")))
typedef signed char bytes __attribute__((vector_size(LANES)));
struct split { uint32_t column; signed char bound, bits; };
struct shape { uint32_t split, leaf, levels; };
/* Of each column the bytes of all rows, one behind the other. */
typedef signed char block[COLUMNS][ROWS] __attribute__((aligned(LANES)));
"""
_SIDE_BY_SIDE = """
/* A search by halves without branches, which could not be predicted. */
#define HALVE(n) edge += n * (value >= edge[n - 1]);

WIDE static void fill(const float *rows, uint32_t count, block at) {
  for (uint32_t k = 0; k < NUMBERS; k++) {
    const float *edges = EDGES + 255 * k;
    for (uint32_t i = 0; i < count; i++) {
      const float value = rows[i * WIDTH + NUMBERED[k]], *edge = edges;
      HALVE(128) HALVE(64) HALVE(32) HALVE(16) HALVE(8) HALVE(4) HALVE(2) HALVE(1)
      signed char reached = (signed char)(edge - edges - 128);
      at[2 * k][i] = reached;
      at[2 * k + 1][i] = value != value ? 127 : reached;
    }
  }
  for (uint32_t k = 0; k < CATEGORIES; k++) {
    const struct category asked = CODED[k];
    uint32_t codes[ROWS];
    for (uint32_t i = 0; i < count; i++) {
      float code = rows[i * WIDTH + asked.feature];
      codes[i] = code != code ? asked.codes + 1 : code >= 0 && code < (float)asked.codes ? (uint32_t)code : asked.codes;
    }
    for (uint32_t j = 0; j < asked.count; j++) {
      const uint8_t *packed = PACKED + asked.offset + j * (asked.codes + 2);
      for (uint32_t i = 0; i < count; i++) at[asked.start + j][i] = (signed char)packed[codes[i]];
    }
  }
}

/* -1 for each row that goes right. */
WIDE static inline bytes right(const struct split *split, const signed char *at) {
  bytes found = *(const bytes *)(at + split->column);
#if CATEGORIES
  found &= split->bits;
#endif
  return (bytes)(found > split->bound);
}

/* The number of each row's leaf: of two leaves first, then of what is under two nodes, up to the root. `half` is of all leaves. */
WIDE static inline bytes leaf(const struct split *tree, uint32_t half, const signed char *at) {
  bytes under[HALF], number = {0};
  for (uint32_t i = 0; i < half; i++, number += 2) under[i] = number - right(tree + half - 1 + i, at);
  while (half >>= 1)
    for (uint32_t i = 0; i < half; i++) {
      bytes a = under[2 * i], b = under[2 * i + 1];
      under[i] = a ^ ((a ^ b) & right(tree + half - 1 + i, at));
    }
  return under[0];
}

WIDE static void side_by_side(const float *rows, uint64_t count, float *margins) {
  block at;
  float sums[ROWS];
  for (uint64_t first = 0; first < count; first += ROWS) {
    uint32_t held = count - first < ROWS ? (uint32_t)(count - first) : ROWS;
    fill(rows + first * WIDTH, held, at);
    for (uint32_t i = 0; i < ROWS; i++) sums[i] = BASE;
    for (uint32_t tree = 0; tree < SHAPES; tree++) {
      const struct shape *shape = SHAPED + tree;
      const float *leaves = LEAVES + shape->leaf;
      for (uint32_t from = 0; from < held; from += LANES) {
        bytes found = leaf(SPLITS + shape->split, 1u << (shape->levels - 1), at[0] + from);
        for (uint32_t i = 0; i < LANES; i++) sums[from + i] += leaves[(uint8_t)found[i]];
      }
    }
    for (uint32_t i = 0; i < held; i++) margins[first + i] = sums[i];
  }
}
"""
_CHOOSE = """
void trees_many(const float *rows, uint64_t count, float *margins) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) { side_by_side(rows, count, margins); return; }
#endif
  many(rows, count, margins);
}
"""
