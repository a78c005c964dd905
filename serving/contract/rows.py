"""The structs into which msgspec decodes rows, and how many of them become columns.

Here only the types of fields are checked. Their limits are checked in `serving.contract.contract`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import starmap
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from bundle.features.columns import DTYPES, PACKED, Column
from bundle.manifest import RequestField
from serving.contract.fields import loose_type


def row_of(types: Mapping[str, Any], *, gc: bool = True) -> Any:
    """The struct of one row, from the types of its fields. Fields may have any name."""
    slots = slots_of(types)
    return msgspec.defstruct(
        "Row",
        [(slot, types[name]) for slot, name in slots.items()],
        rename=slots,
        forbid_unknown_fields=True,
        kw_only=True,
        gc=gc,
    )


def batch_of(row: Any) -> Any:
    """The type of `{"instances": [rows]}`."""
    return msgspec.defstruct("Batch", [("instances", list[row])], forbid_unknown_fields=True)


def slots_of(names: Iterable[str]) -> dict[str, str]:
    """The attributes of a row's struct, each with the name of its field."""
    return {f"c{index}": name for index, name in enumerate(names)}


class RowColumns:
    """The rows of a large batch as columns."""

    def __init__(self, fields: Mapping[str, RequestField]) -> None:
        self._kinds = {name: field.kind for name, field in fields.items()}
        # Types alone, since limits are checked a column at a time. The garbage collector has
        # nothing to look at.
        row = row_of({name: loose_type(field) for name, field in fields.items()}, gc=False)
        self._decode = msgspec.json.Decoder(batch_of(row)).decode

        # Numbers that are always there are read row by row, which suits the processor's caches.
        slots = slots_of(fields)
        packed = {
            slot: name
            for slot, name in slots.items()
            if fields[name].kind in PACKED and not fields[name].nullable
        }
        self._packed = tuple(packed.values()) if len(packed) > 1 else ()
        self._numbers_of = attrgetter(*packed) if self._packed else None

        kinds = [fields[name].kind for name in self._packed]
        self._pack = struct.Struct("=" + "".join(PACKED[kind] for kind in kinds)).pack
        self._layout = np.dtype(
            [(name, DTYPES[kind]) for name, kind in zip(self._packed, kinds, strict=True)]
        )
        self._by_column = [
            (attrgetter(slot), name) for slot, name in slots.items() if name not in self._packed
        ]

    def decode(self, body: bytes) -> list[msgspec.Struct]:
        """The rows of a batch. Raises msgspec.DecodeError, ValueError and RecursionError."""
        rows: list[msgspec.Struct] = self._decode(body).instances
        return rows

    def columns(
        self, rows: Sequence[msgspec.Struct], column: Callable[[str, list[Any]], Column]
    ) -> dict[str, Column]:
        """Columns of rows. `column` makes the one of a name from its values.

        Raises OverflowError and struct.error, and what `column` raises.
        """
        columns = {name: column(name, list(map(get, rows))) for get, name in self._by_column}
        if self._numbers_of is None:
            return columns

        packed = b"".join(starmap(self._pack, map(self._numbers_of, rows)))
        numbers = np.frombuffer(packed, self._layout)
        for name in self._packed:
            columns[name] = Column(self._kinds[name], np.ascontiguousarray(numbers[name]))
        return columns
