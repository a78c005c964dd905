"""The file of a model's trees: how it is written, from trees as treelite reads them.

The walker (`native/`) reads it, and checks every number in it first. All numbers are little-endian,
and the file ends where its last array does:

    magic      8 bytes      EVGTREES
    version    uint32       1
    features   uint32       numbers in a row
    trees      uint32
    nodes      uint32       of all trees
    sets       uint32       categorical nodes of all trees
    bytes      uint32       what the codes of all sets take
    base       float32      what every sum begins with: the base score's log odds
    zero       uint32       0
    roots      uint32       [trees + 1]  first node of each tree; the last entry is `nodes`
    ends       uint32       [sets + 1]   where each set of codes begins; the last entry is `bytes`
    value      float32      [nodes]      a leaf's value; a threshold, below which values go left
    feature    uint16       [nodes]      what a node asks for; 0 for a leaf
    kind       uint8        [nodes]      0 leaf, 1 number, 2 category;
                                         + 4 missing values go left, + 8 codes beyond the set do
    codes      uint8        [bytes]      of each set a bit a code, lowest first: 1 goes right

A tree's nodes stand level by level. So children need no index: those of the inner nodes are, two by
two and in their order, the nodes after the root. The n-th categorical node has the n-th set.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Fields = Mapping[str, NDArray[Any]]

FILE = "trees.table"
MAGIC, VERSION = b"EVGTREES", 1
HEADER = struct.Struct("<8s6IfI")
LEAF, NUMBER, CATEGORY, MISSING_LEFT, OTHERS_LEFT = 0, 1, 2, 4, 8
# A row's values, as the walker lays them out, have numbers of 16 bits; so have distances of nodes.
PLACES = 1 << 16
DEPTH = 255
# Codes that a category may have here. With them the sets of all nodes stay below what the walker
# lays out, which is 64 MiB.
CODES, CATEGORY_BYTES = 1 << 16, 64 << 20

# treelite's node types are numbered as kinds are here; its operator `<` is 2.
_LESS = 2
_FIELDS = (
    "node_type",
    "cleft",
    "cright",
    "split_index",
    "default_left",
    "leaf_value",
    "threshold",
    "cmp",
    "category_list",
    "category_list_begin",
    "category_list_end",
    "category_list_right_child",
)


class NoTableError(ValueError):
    """Why trees have no table. treelite's interpreter and XGBoost compute them all the same."""


class TableError(ValueError):
    """A file that is no sound table of trees: `what` is wrong with it, and `where`."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{FILE} is no sound table of trees: {where}: {what}")
        self.what = what
        self.where = where


def tree_table(trees: Any, width: int) -> bytes:
    """The table of a treelite model that reads rows of `width` features; equal models, equal bytes.

    Raises NoTableError for trees that a table cannot hold.
    """
    import numpy as np

    base = _base_margin(trees)
    nodes: list[bytes] = []
    features: list[bytes] = []
    kinds: list[bytes] = []
    codes: list[bytes] = []
    roots = [0]
    for index in range(trees.num_tree):
        accessor = trees.get_tree_accessor(index)
        tree = {name: accessor.get_field(name) for name in _FIELDS}
        order = _by_level(tree)
        found = _kinds(tree, order)
        inner = found != LEAF
        values = np.where(inner, tree["threshold"][order], tree["leaf_value"][order])
        values[found & 3 == CATEGORY] = 0
        if not np.isfinite(values).all():
            raise NoTableError("a threshold or a leaf is not finite")

        nodes.append(values.astype("<f4").tobytes())
        features.append(np.where(inner, tree["split_index"][order], 0).astype("<u2").tobytes())
        kinds.append(found.tobytes())
        codes += [_codes(tree, node) for node in order[found & 3 == CATEGORY].tolist()]
        roots.append(roots[-1] + len(order))

    _check_room(width, codes)
    ends = np.cumsum([0, *map(len, codes)])
    header = HEADER.pack(
        MAGIC, VERSION, width, len(roots) - 1, roots[-1], len(codes), int(ends[-1]), base, 0
    )
    indices = [np.array(roots, dtype="<u4").tobytes(), ends.astype("<u4").tobytes()]
    return b"".join([header, *indices, *nodes, *features, *kinds, *codes])


def _check_room(width: int, codes: list[bytes]) -> None:
    places = 2 * width + 1 + len(codes)
    if places > PLACES:
        raise NoTableError(
            f"the trees need {places} places for their values, the limit is {PLACES}"
        )
    longest = 8 * max(map(len, codes), default=0)
    size = (longest + 2) * len(codes)
    if size > CATEGORY_BYTES:
        raise NoTableError(
            f"{len(codes)} categorical nodes of up to {longest} codes need {size} bytes,"
            f" the limit is {CATEGORY_BYTES}"
        )


def _base_margin(trees: Any) -> float:
    """What every sum begins with. Raises NoTableError for another output than one margin."""
    header = trees.get_header_accessor()
    base = header.get_field("base_scores")
    if (
        header.get_field("postprocessor") != "sigmoid"
        or len(base) != 1
        or header.get_field("leaf_vector_shape").max() != 1
        or header.get_field("average_tree_output")[0]
    ):
        raise NoTableError("the trees have another output than one margin of log odds")
    return _log_odds(float(base[0]))


def _log_odds(margin: float) -> float:
    """The base score's log odds as XGBoost has them: -log(1 / p - 1), each step in float32."""
    import numpy as np

    one = np.float32(1)
    share = one / np.float32(1 / (1 + math.exp(-margin)))
    return float(np.float32(-math.log(share - one)))


def _by_level(tree: Fields) -> NDArray[np.int64]:
    """A tree's nodes from its root down, children side by side. Raises NoTableError past limits."""
    import numpy as np

    level = np.zeros(1, dtype=np.int64)
    levels = [level]
    while True:
        inner = level[tree["node_type"][level] != LEAF]
        if not len(inner):
            return np.concatenate(levels)
        level = np.column_stack([tree["cleft"][inner], tree["cright"][inner]]).ravel()
        levels.append(level)
        # No child is further from its parent than both their levels are long.
        if len(levels) > DEPTH + 1 or len(level) + len(levels[-2]) >= PLACES:
            raise NoTableError(
                f"a tree has {len(level)} nodes on level {len(levels) - 1};"
                f" the limits are {PLACES // 2} nodes and {DEPTH} levels"
            )


def _kinds(tree: Fields, order: NDArray[np.int64]) -> NDArray[np.uint8]:
    import numpy as np

    kinds = tree["node_type"][order].astype(np.uint8)
    number, category = kinds == NUMBER, kinds == CATEGORY
    if (number & (tree["cmp"][order] != _LESS)).any() or (kinds > CATEGORY).any():
        raise NoTableError("a node compares in another way than value < threshold")
    missing_left = (kinds != LEAF) & tree["default_left"][order].astype(bool)
    others_left = category & tree["category_list_right_child"][order].astype(bool)
    found: NDArray[np.uint8] = kinds + MISSING_LEFT * missing_left + OTHERS_LEFT * others_left
    return found.astype(np.uint8)


def _codes(tree: Fields, node: int) -> bytes:
    """A bit for each code up to the greatest that is listed: 1 where it goes right."""
    import numpy as np

    begin, end = tree["category_list_begin"][node], tree["category_list_end"][node]
    listed = tree["category_list"][begin:end]
    greatest = max(listed.tolist(), default=-1)
    if greatest >= CODES:
        raise NoTableError(f"a node lists code {greatest}, the limit is {CODES - 1}")
    goes_right = bool(tree["category_list_right_child"][node])
    # Up to whole bytes, codes go where codes beyond the set do.
    count = (greatest + 8) // 8 * 8
    bits = np.full(count, not goes_right)
    bits[listed] = goes_right
    return np.packbits(bits, bitorder="little").tobytes()
