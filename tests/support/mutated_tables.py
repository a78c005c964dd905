"""Damaged tables of trees, thousands of them, given to a walker: it refuses each, or answers.

Run in a process of its own, because what is looked for is a process that ends:

    python mutated_tables.py WALKER.so TABLE COUNT SEED

It prints how many were refused and how many answered. It needs nothing but the standard library, so
that it also runs under AddressSanitizer.
"""

from __future__ import annotations

import importlib.util
import json
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

# Where the header's numbers and the arrays after it begin.
HEADER = 40
# Rows for one vector and a few more, with missing values and with codes that no set has.
ROWS = 37
Edit = Callable[[random.Random, bytearray], None]


def flip_bits(chance: random.Random, table: bytearray) -> None:
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        table[chance.randrange(len(table))] ^= 1 << chance.randrange(8)


def truncate(chance: random.Random, table: bytearray) -> None:
    del table[chance.randrange(len(table)) :]


def extend(chance: random.Random, table: bytearray) -> None:
    table += chance.randbytes(chance.randrange(1, 64))


def edit_header(chance: random.Random, table: bytearray) -> None:
    place = 4 * chance.randrange(2, HEADER // 4)
    now = int.from_bytes(table[place : place + 4], "little")
    near = (now + chance.randrange(-3, 4)) % 2**32
    table[place : place + 4] = chance.choice((0, 1, near, 2**31, 2**32 - 1)).to_bytes(4, "little")


def write_word(chance: random.Random, table: bytearray) -> None:
    size = chance.choice((1, 2, 4))
    place = chance.randrange(len(table) - size) // size * size
    top = 2 ** (8 * size) - 1
    table[place : place + size] = chance.choice((0, 1, 2, top, top // 2)).to_bytes(size, "little")


def swap(chance: random.Random, table: bytearray) -> None:
    size = chance.choice((1, 2, 4, 16))
    one, other = (chance.randrange(HEADER, len(table) - size) // size * size for _ in range(2))
    table[one : one + size], table[other : other + size] = (
        table[other : other + size],
        table[one : one + size],
    )


def swap_neighbours(chance: random.Random, table: bytearray) -> None:
    """Two words of the first index array, which follows the header."""
    place = HEADER + 4 * chance.randrange(min(16, (len(table) - HEADER) // 4 - 2))
    table[place : place + 8] = table[place + 4 : place + 8] + table[place : place + 4]


EDITS: tuple[Edit, ...] = (
    flip_bits,
    truncate,
    extend,
    edit_header,
    write_word,
    swap,
    swap_neighbours,
)


def mutated(chance: random.Random, table: bytes) -> bytes:
    damaged = bytearray(table)
    chance.choice(EDITS)(chance, damaged)
    return bytes(damaged)


def rows_of(width: int) -> list[list[float]]:
    chance = random.Random(width)
    values = (math.nan, math.inf, -math.inf, -1.0, 0.0, 3.0, 255.0, 1e9)
    numbers = [chance.choice((*values, chance.gauss(0, 2))) for _ in range(ROWS * width)]
    return [numbers[place : place + width] for place in range(0, ROWS * width, width)]


def ask(walker: ModuleType, table: bytes) -> bool:
    """Whether the walker took the table; then it must answer, alike for one row and for many."""
    try:
        forest = walker.Forest(table)
    except walker.RefusedError as refused:
        what, where = refused.args
        assert what
        assert where
        return False

    width = forest.features
    rows = rows_of(width)
    matrix = memoryview(bytearray(4 * ROWS * width)).cast("f", (ROWS, width))
    for place, row in enumerate(rows):
        for column, value in enumerate(row):
            matrix[place, column] = value
    margins = memoryview(bytearray(4 * ROWS)).cast("f")
    forest.margins(matrix, margins)
    for row, many in zip(rows, margins.tolist(), strict=True):
        one = forest.margin(row)
        assert one == many or (math.isnan(one) and math.isnan(many)), (one, many)
    return True


def main(extension: str, table: str, count: int, seed: int) -> None:
    spec = importlib.util.spec_from_file_location("_walker", extension)
    assert spec is not None
    assert spec.loader is not None
    walker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(walker)

    sound, chance = Path(table).read_bytes(), random.Random(seed)
    assert ask(walker, sound)
    answered = sum(ask(walker, mutated(chance, sound)) for _ in range(count))
    sys.stdout.write(json.dumps({"answered": answered, "refused": count - answered}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
