"""The request contract of a bundle, compiled.

JSON bytes in; checked rows out, or a Refusal that names field and rule. msgspec does the parsing
and nearly all checks in one pass. It keeps the last of duplicate fields in silence, so these are
found by counting: without a backslash in the body, every quotation mark opens or closes a name or a
text, and a body of flat objects has exactly two for every field and two for every text.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from bundle.features.columns import Column, column
from bundle.features.moments import moment, plain_moments
from bundle.features.program import EARLIEST, LATEST
from bundle.manifest import Manifest
from serving.contract.checks import column_check
from serving.contract.fields import TIME, exact_limits, json_type, loose_type
from serving.contract.messages import out_of_contract, refusal_of
from serving.contract.refusal import Refusal
from serving.contract.rows import RowColumns, batch_of, row_of
from serving.contract.strict import count_quotes, duplicate, is_batch, malformed, parse, parse_place

Row = dict[str, Any]
Columns = Mapping[str, Column]

# From this many rows on they are computed as columns. A row then costs about 15 µs less, and a
# request about 1 ms more.
MANY_ROWS = 64

# From this many on, times are read faster together than one by one.
_MANY_TIMES = 300

# A time is no longer than this, but for fractions of a microsecond.
_TIME_LENGTH = 40
# Up to this many rows, the numbers of all columns are checked together.
_FEW = 1000
# Enough of a body to see whether it has many rows.
_BEGINNING = 1 << 16
# Rows up to here are always parsed. The slowest, one field repeated over and over, takes 4 ms.
_ROW_BYTES = 64 << 10
# A number, a time, punctuation and some white space.
_FIELD_BYTES = 64
# The longest spelling of a character in JSON is a surrogate pair of escapes, such as
# \\ud83d\\ude00.
_CHARACTER_BYTES = 12


class Contract:
    """Decodes requests for one pipeline.

    `names` are the columns of a request, in the order of the manifest.
    """

    def __init__(self, manifest: Manifest, row_limit: int, text_limit: int) -> None:
        self.fields = dict(manifest.request)
        self.names = tuple(self.fields)
        self.entity = manifest.entity
        self.row_limit = row_limit
        self.text_limit = text_limit
        fillable = sum(
            _CHARACTER_BYTES * (len(name) + (text_limit if field.kind == "string" else 0))
            + _FIELD_BYTES
            for name, field in self.fields.items()
        )
        self.row_bytes = max(_ROW_BYTES, fillable)

        self._compile_rows()
        self._count_quotes()
        self._compile_columns()
        self._rows = RowColumns(self.fields)

    def _compile_rows(self) -> None:
        """Decoders that check every row: of one row, of a batch, and of a batch's raw rows."""
        types = {name: json_type(field, self.text_limit) for name, field in self.fields.items()}
        row = row_of(types)

        self._one = msgspec.json.Decoder(row).decode
        self._many = msgspec.json.Decoder(batch_of(row)).decode
        self._split = msgspec.json.Decoder(batch_of(msgspec.Raw)).decode

    def _count_quotes(self) -> None:
        """How many quotation marks a row has: two for each name and each text in it."""
        kinds = [field.kind for field in self.fields.values()]
        self._times = tuple(index for index, kind in enumerate(kinds) if kind == "datetime")

        texts = [index for index, kind in enumerate(kinds) if kind in ("string", "datetime")]
        self._maybe_texts = tuple(
            index for index in texts if self.fields[self.names[index]].nullable
        )
        # Of the texts, those that are always there.
        self._quotes = 2 * (len(self.names) + len(texts) - len(self._maybe_texts))

    def _compile_columns(self) -> None:
        """What checks and decodes a column at a time."""
        fields, text_limit = self.fields, self.text_limit
        self._columns = {
            name: list[json_type(field, text_limit)]  # type: ignore[misc]
            for name, field in fields.items()
        }
        self._checks = {name: column_check(field, text_limit) for name, field in fields.items()}
        self._limits = {
            name: limits
            for name, field in fields.items()
            if (limits := exact_limits(field)) is not None
        }
        self._lists = {
            name: msgspec.json.Decoder(list[loose_type(field)]).decode  # type: ignore[misc]
            for name, field in fields.items()
        }

    def decode(self, body: bytes, limit: int | None = None) -> tuple[list[Row], bool]:
        """Rows of a body, and whether it was a batch (`{"instances": [...]}`) or one object.

        `limit` is the most rows, where it is below `row_limit`. A request with more is refused
        before any row is decoded. Raises Refusal.
        """
        if not is_batch(body):
            return [self.decode_one(body)], False
        if limit is not None:
            self.check_count(len(self._raw_rows(body)), limit)
        found = self._decoded(self._many, body).instances
        self.check_count(len(found))
        rows, quotes = [], 2
        for index, each in enumerate(found):
            row, counted = self._checked(each, f"instances[{index}].")
            rows.append(row)
            quotes += counted
        if b"\\" in body or body.count(b'"') != quotes:
            self._refuse_duplicates(body)
        return rows, True

    def decode_one(self, body: bytes) -> Row:
        """The row of a body that is one object. Raises Refusal."""
        self._check_size(body, None)
        row, quotes = self._checked(self._decoded(self._one, body), "")
        if b"\\" in body or body.count(b'"') != quotes:
            parse(body)
        return row

    def _raw_rows(self, body: bytes) -> list[msgspec.Raw]:
        """The rows of a batch, not decoded. Raises Refusal."""
        rows: list[msgspec.Raw] = self._decoded(self._split, body).instances
        return rows

    def _check_size(self, row: bytes | memoryview, place: str | None) -> None:
        """Raises Refusal for a row larger than its fields can make it: it would hold up others."""
        if len(row) > self.row_bytes:
            raise Refusal(
                413,
                "row_size",
                f"A row has more than {self.row_bytes} bytes, the most that its fields can fill.",
                place,
            )

    def _refuse_duplicates(self, body: bytes) -> None:
        """Raises Refusal, with its path, where an object of a batch has a field twice.

        Each row is parsed by itself, so that no large body holds up the others for long.
        """
        quotes = 2
        for index, raw in enumerate(self._raw_rows(body)):
            row = bytes(raw)
            self._check_size(row, f"instances[{index}]")
            parse(row, f"instances[{index}].")
            quotes += row.count(b'"')
        if body.count(b'"') != quotes:
            raise duplicate("instances", "")

    def _decoded(self, decode: Callable[[bytes], Any], body: bytes) -> Any:
        try:
            return decode(body)
        except msgspec.ValidationError as error:
            raise refusal_of(str(error), self.fields, self.text_limit) from None
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise malformed() from None

    def _checked(self, found: msgspec.Struct, where: str) -> tuple[Row, int]:
        """A row, and the quotation marks that its fields and texts have.

        Raises Refusal for a time that is out of all reason.
        """
        values, quotes = msgspec.structs.astuple(found), self._quotes
        for place in self._maybe_texts:
            if values[place] is not None:
                quotes += 2
        for place in self._times:
            moment = values[place]
            if moment is not None and not EARLIEST <= moment < LATEST:
                raise self._out_of_contract(where, self.names[place])
        return dict(zip(self.names, values, strict=True)), quotes

    def decode_many(self, body: bytes) -> list[Row] | Columns:
        """What `decode` finds in the body of a batch; many rows as columns. Raises Refusal."""
        # Without escapes, duplicate fields can be found by counting. `decode` says what is wrong.
        if body.count(b"{", 0, _BEGINNING) > MANY_ROWS and b"\\" not in body:
            try:
                found = self._rows.decode(body)
            except (msgspec.DecodeError, ValueError, RecursionError):
                found = []
            if (
                MANY_ROWS <= len(found) <= self.row_limit
                and (columns := self._columns_of(found, count_quotes(body))) is not None
            ):
                return columns
        return self.decode(body)[0]

    def _columns_of(self, found: Sequence[msgspec.Struct], quotes: int) -> Columns | None:
        """Columns of rows that keep the contract; None where one does not."""
        count = len(found)
        try:
            columns = self._rows.columns(found, self._column)
        except (OverflowError, struct.error, msgspec.ValidationError):
            return None
        expected = 2 + count * self._quotes
        for place in self._maybe_texts:
            null = columns[self.names[place]].null
            expected += 2 * (count if null is None else count - int(null.sum()))
        sound = self._sound(columns)
        if quotes != expected or any(
            self._wrong(name, columns[name]) is not None for name in self.names if name not in sound
        ):
            return None
        return {name: columns[name] for name in self.names}

    def json_column(self, name: str, content: msgspec.Raw) -> Column:
        """The column of a JSON list, of which only the type is checked.

        Raises KeyError, msgspec.DecodeError, ValueError and OverflowError.
        """
        return self._column(name, self._lists[name](content))

    def _column(self, name: str, values: list[Any]) -> Column:
        """The column of values of their type, of times still as text.

        Raises msgspec.ValidationError and OverflowError.
        """
        kind = self.fields[name].kind
        if kind != "datetime":
            return column(kind, values)
        if (
            len(values) < _MANY_TIMES
            and not self.fields[name].nullable
            and max(map(len, values), default=0) <= _TIME_LENGTH
        ):
            return Column(kind, np.fromiter(map(_moment_of, values), np.int64, len(values)))
        found = plain_moments(values) if len(values) >= _MANY_TIMES else None
        return (
            column(kind, msgspec.convert(values, self._columns[name]))
            if found is None
            else Column(kind, found)
        )

    def check_columns(self, found: Mapping[str, Column | list[Any]]) -> Columns:
        """Columns of another protocol, checked by the same rules.

        Lists hold plain values of any type. Raises Refusal, which names the column and the row.
        """
        columns: dict[str, Column] = {}
        sound = self._sound(found)
        for name in self.names:
            values = found[name]
            if isinstance(values, list):
                columns[name] = column(self.fields[name].kind, self._check_list(name, values))
                continue
            wrong = None if name in sound else self._wrong(name, values)
            if wrong is not None:
                raise self._out_of_contract("", name, f"[{wrong}]")
            # Unsigned numbers beyond int64 are among the wrong ones.
            columns[name] = (
                Column("integer", values.array.astype(np.int64, copy=False), values.null)
                if values.kind == "integer"
                else values
            )
        return columns

    def _sound(self, columns: Mapping[str, Column | list[Any]]) -> Collection[str]:
        """Columns of numbers that keep their limits. The others are still to be checked.

        Short columns are checked together, since there a call costs more than the numbers do.
        """
        asked = {
            name: found.array
            for name in self._limits
            if isinstance(found := columns[name], Column)
            and found.null is None
            and len(found) <= _FEW
        }
        if not asked:
            return ()
        numbers = np.array(list(asked.values()), dtype=np.float64)
        low, high = np.array([self._limits[name] for name in asked]).T
        # NaN compares false.
        kept = (np.minimum.reduce(numbers, axis=1) >= low).all() and (
            np.maximum.reduce(numbers, axis=1) <= high
        ).all()
        return asked.keys() if kept else ()

    def _wrong(self, name: str, values: Column) -> int | None:
        """The first row of a column that its field does not allow."""
        null = values.null
        for place, found in enumerate(self._checks[name](values)):
            mask = found if null is None or found is None else found & ~null
            if place == 0 and null is not None and not self.fields[name].nullable:
                mask = null if mask is None else null | mask
            if mask is not None and mask.any():
                return int(mask.argmax())
        return None

    def _check_list(self, name: str, values: list[Any]) -> list[Any]:
        try:
            checked: list[Any] = msgspec.convert(values, self._columns[name])
        except msgspec.ValidationError as error:
            raise self._out_of_contract("", name, parse_place(error)) from None
        match self.fields[name].kind:
            case "float":
                # JSON has no NaN, and here it would pass every comparison.
                wrong = next(
                    (
                        index
                        for index, value in enumerate(checked)
                        if value is not None and not math.isfinite(value)
                    ),
                    None,
                )
            case "datetime":
                wrong = next(
                    (
                        index
                        for index, value in enumerate(checked)
                        if value is not None and not EARLIEST <= value < LATEST
                    ),
                    None,
                )
            case _:
                wrong = None
        if wrong is not None:
            raise self._out_of_contract("", name, f"[{wrong}]")
        return checked

    def check_count(self, rows: int, limit: int | None = None) -> None:
        """Raises Refusal for no rows, or for more than `limit` (default: `row_limit`)."""
        limit = self.row_limit if limit is None else min(limit, self.row_limit)
        if rows == 0:
            raise Refusal(422, "rows", "The request has no rows; send at least one.", "instances")
        if rows > limit:
            raise Refusal(
                413,
                "rows",
                f"The request has more than {limit} rows, the most for one request; send several.",
                "instances",
            )

    def _out_of_contract(self, where: str, name: str, index: str = "") -> Refusal:
        return out_of_contract(where, name, self.fields[name], self.text_limit, index)


def rows_of(columns: Columns) -> list[Row]:
    return [
        dict(zip(columns, values, strict=True))
        for values in zip(*(found.plain() for found in columns.values()), strict=True)
    ]


@lru_cache(maxsize=1 << 12)
def _moment_of(text: str) -> int:
    """`moment` of a time as text. Cached, since requests repeat the same few times.

    Raises msgspec.ValidationError.
    """
    return moment(msgspec.convert(text, TIME))
