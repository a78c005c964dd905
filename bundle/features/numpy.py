"""The feature program over columns: what `bundle.features.row` computes for one request, for many at once in NumPy.

A tree becomes a list of steps, each of which computes one node from the values of the nodes below; equal nodes are computed once. A
value is an array with a mask of its nulls (None: there are none); constants have no rows and are broadcast. Results are equal to
those of the row program to the last bit: functions that NumPy computes in another way than the C library go element by element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np

from bundle.features.checking import Type, common_type, program_types
from bundle.features.columns import (
    DTYPES,
    EPOCH,
    MICROSECOND,
    Column as RequestColumn,
    Texts,
    moment,
)
from bundle.features.expression import (
    Category,
    Column,
    Expression,
    Join,
    Literal,
    Operation,
    Rolling,
)
from bundle.features.online import AggregateTable, LatestTable, Snapshot
from bundle.features.program import EVENT_TIME, FeatureProgram, Kind, Lookup, value_name
from bundle.features.row import EARLIEST, FLOAT32_MAX, LATEST, fold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Array = NDArray[Any]

SECOND, DAY = 1_000_000, 86_400_000_000
# Days of a request that are looked up in a table rather than sorted.
_FEW_DAYS = 100
_FIRST, _LAST = moment(EARLIEST), moment(LATEST)
# What Python's datetimes can hold in every time zone.
_LEAST, _GREATEST = (
    moment(datetime(1, 1, 3, tzinfo=UTC)),
    moment(datetime(9999, 12, 29, tzinfo=UTC)),
)
# What stands where a value of a type is null: something that can be computed with.
_FILLERS: dict[Type, Any] = {
    "number": 0.0,
    "boolean": False,
    "text": "",
    "datetime": 0,
    "null": False,
}


class Value(NamedTuple):
    """Values of a node, and where they are null."""

    values: Array
    null: Mask | None = None


Step = Callable[["Frame"], Value]
_MOMENT: Type = "datetime"


class Frame:
    """One computation: the request's columns, how many rows they have, what was looked up, and the values of the steps so far."""

    __slots__ = ("columns", "found", "looked_up", "rows")

    def __init__(
        self, columns: Mapping[str, RequestColumn], rows: int, looked_up: Mapping[str, Value]
    ) -> None:
        self.columns, self.rows, self.looked_up = columns, rows, looked_up
        self.found: list[Value] = []


class ColumnFunction:
    """Computes the model's rows from the columns of a request: `function(columns, online) -> (n, k)` float32, as `RowFunction`
    computes one. Raises ValueError where a lookup needs an event time that is null."""

    def __init__(self, program: FeatureProgram) -> None:
        program.require_fitted()
        self._program = program
        self._compiler = _Compiler(program)
        self._features = [self._feature(index) for index in range(len(program.features))]
        self._bound: tuple[Snapshot | None, tuple[_Table, ...]] = (None, ())

    def __call__(
        self, columns: Mapping[str, RequestColumn], online: Snapshot
    ) -> NDArray[np.float32]:
        rows = len(next(iter(columns.values())))
        snapshot, tables = self._bound
        if snapshot is not online:
            tables = tuple(_Table(online, lookup) for lookup in self._program.lookups)
            # One assignment: a request in another thread sees the old pair or the new.
            self._bound = (online, tables)
        with np.errstate(all="ignore"):
            frame = Frame(columns, rows, self._looked_up(columns, tables))
            for step in self._compiler.steps:
                frame.found.append(step(frame))
            # Column by column, hence in this order.
            wide = np.empty((len(self._features), rows))
            for place, feature in enumerate(self._features):
                feature(frame, wide[place])
            # What does not fit a float32 is missing, and adding zero makes 0.0 of -0.0.
            wide[np.abs(wide) > FLOAT32_MAX] = np.nan
            wide += 0.0
        return np.ascontiguousarray(wide.T, dtype=np.float32)

    def _feature(self, index: int) -> Callable[[Frame, Array], None]:
        """Writes a feature: NaN for missing, a code for a category."""
        program, compiler = self._program, self._compiler
        name, root = program.names[index], fold(program.features[index].expression)
        if isinstance(root, Category):
            return _coded(
                root.operand,
                compiler,
                {
                    word: float(place + 1)
                    for place, word in enumerate(program.vocabularies.get(name, ()))
                },
            )
        place = compiler.value(root, "number")

        def number(frame: Frame, into: Array) -> None:
            values, null = frame.found[place]
            into[:] = values
            if null is not None:
                into[np.broadcast_to(null, into.shape)] = np.nan

        return number

    def _looked_up(
        self, columns: Mapping[str, RequestColumn], tables: Sequence[_Table]
    ) -> dict[str, Value]:
        """Values of all lookups, by their names in the wide frame."""
        if not tables:
            return {}
        event = columns[EVENT_TIME]
        if event.null is not None:
            raise ValueError(
                f"a row has no {EVENT_TIME!r}, which its lookups need; send it as ISO 8601 text with a UTC offset"
            )
        predicted_at = event.array - self._program.lead_seconds * SECOND
        found: dict[str, Value] = {}
        for table in tables:
            found |= table.values_of(columns, predicted_at)
        return found


class _Compiler:
    """Steps that compute nodes, each once."""

    def __init__(self, program: FeatureProgram) -> None:
        self._program, self._types = program, program_types(program)
        self._zone = ZoneInfo(program.timezone)
        self.steps: list[Step] = []
        self._known: dict[tuple[str, Type], int] = {}

    def value(self, node: Expression, wanted: Type) -> int:
        """The step that computes a tree as one type; a literal null takes whatever type is wanted."""
        found = self._types.of(node)
        identity = (msgspec.json.encode(node).decode(), wanted)
        if identity not in self._known:
            step = self._cast(node, found, wanted)
            self.steps.append(step)
            self._known[identity] = len(self.steps) - 1
        return self._known[identity]

    def _local(self, node: Expression) -> int:
        """The step that computes a moment as the clock of the program's time zone shows it."""
        identity = (f"local {msgspec.json.encode(node).decode()}", _MOMENT)
        if identity not in self._known:
            place, zone = self.value(node, _MOMENT), self._zone
            self.steps.append(
                lambda frame: Value(local(frame.found[place].values, zone), frame.found[place].null)
            )
            self._known[identity] = len(self.steps) - 1
        return self._known[identity]

    def _cast(self, node: Expression, found: Type, wanted: Type) -> Step:
        if found == "null":
            nothing = Value(_constant(_FILLERS[wanted]), np.array(True))
            return lambda frame: nothing
        if found == "boolean" and wanted == "number":
            place = self.value(node, "boolean")

            def number(frame: Frame) -> Value:
                values, null = frame.found[place]
                return Value(values.astype(np.float64), null)

            return number
        return self._step(node, found)

    def _step(self, node: Expression, found: Type) -> Step:
        match node:
            case Literal(value=value):
                constant = Value(
                    _constant(float(value) if found == "number" and value is not None else value)
                )
                return lambda frame: constant
            case Column(name=name):
                kind = self._program.request[name].kind
                return lambda frame: _leaf(frame.columns[name], kind)
            case Join() | Rolling():
                wide = self._program.lookup(node).wide(value_name(node))
                if isinstance(node, Rolling) and node.function == "count":
                    return lambda frame: _no_facts_are_none(frame.looked_up[wide])
                return lambda frame: frame.looked_up[wide]
            case Operation(operator=name, operands=operands):
                return self._operation(name, operands, found)
        raise ValueError(f"{type(node).__name__} cannot be compiled here")

    def _operation(self, name: str, operands: tuple[Expression, ...], found: Type) -> Step:
        if name in _ARITHMETIC:
            compute = _ARITHMETIC[name]
            places = [self.value(operand, "number") for operand in operands]
            return lambda frame: _finite(compute, [frame.found[place] for place in places])
        if name in _COMPARISONS:
            types = [self._types.of(operand) for operand in operands]
            common = common_type(types[0], types[1])
            assert common is not None, "checked when the program was made"
            compare = _COMPARISONS[name]
            a, b = (self.value(operand, common) for operand in operands)
            return lambda frame: _compared(compare, frame.found[a], frame.found[b])
        if name in ("and", "or"):
            a, b = (self.value(operand, "boolean") for operand in operands)
            return lambda frame: _kleene(name == "and", frame.found[a], frame.found[b])
        if name == "is_null":
            place = self.value(operands[0], self._types.of(operands[0]))
            return lambda frame: Value(_false_if_none(frame.found[place].null))
        if name == "if_else":
            condition, a, b = (
                self.value(operands[0], "boolean"),
                *(self.value(operand, found) for operand in operands[1:]),
            )
            return lambda frame: _chosen(
                _true(frame.found[condition]), frame.found[a], frame.found[b]
            )
        if name == "fill_null":
            a, b = (self.value(operand, found) for operand in operands)
            return lambda frame: _chosen(
                _false_if_none(frame.found[a].null), frame.found[b], frame.found[a]
            )
        if name in _DATE_PARTS:
            place, part = self._local(operands[0]), _DATE_PARTS[name]
            return lambda frame: Value(
                part(frame.found[place].values).astype(np.float64), frame.found[place].null
            )
        simple = _SIMPLE[name]
        places = [
            self.value(operand, "boolean" if name == "not" else "number") for operand in operands
        ]

        def computed(frame: Frame) -> Value:
            found = [frame.found[place] for place in places]
            return Value(
                simple(*(value.values for value in found)),
                _either(*(value.null for value in found)),
            )

        return computed


def _coded(
    node: Expression, compiler: _Compiler, codes: Mapping[str, float]
) -> Callable[[Frame, Array], None]:
    """Writes the codes of a category: 0 for a text never seen in training, NaN for none."""
    code = codes.get
    if isinstance(node, Column):
        # Each of the column's words once, instead of each row.
        def of_column(frame: Frame, into: Array) -> None:
            places, words = frame.columns[node.name].texts.coded
            into[:] = np.array([*(code(word, 0.0) for word in words), np.nan])[places]

        return of_column
    place = compiler.value(node, "text")

    def of_texts(frame: Frame, into: Array) -> None:
        texts, null = frame.found[place]
        into[:] = np.array([code(text, 0.0) for text in np.atleast_1d(texts).tolist()]).reshape(
            texts.shape
        )
        if null is not None:
            into[np.broadcast_to(null, into.shape)] = np.nan

    return of_texts


# -- values ------------------------------------------------------------------------------------------------------------


def _constant(value: Any) -> Array:
    if isinstance(value, str):
        text = np.empty((), dtype=object)
        text[()] = value
        return text
    return np.asarray(value)


def _leaf(column: RequestColumn, kind: Kind) -> Value:
    """A column in the form that steps compute with: finite floats, datetimes within the years that time zones are known for."""
    if isinstance(column.values, Texts):
        return _texts(column.values.values)
    values, null = column.values, column.null
    if kind in ("float", "integer"):
        if values.dtype.kind != "f":
            return Value(values.astype(np.float64), null)
        return Value(values, _either(null, _any(~np.isfinite(values))))
    if kind == "datetime":
        return Value(values, _either(null, _any((values < _FIRST) | (values >= _LAST))))
    return Value(values, null)


def _texts(values: Sequence[str | None]) -> Value:
    missing = None in values
    found = np.empty(len(values), dtype=object)
    found[:] = ["" if value is None else value for value in values] if missing else values
    return Value(found, np.array([value is None for value in values]) if missing else None)


def _finite(compute: Callable[..., Array], operands: Sequence[Value]) -> Value:
    """A number, null where an operand is and where it is not finite."""
    values = compute(*(operand.values for operand in operands))
    return Value(
        values, _either(*(operand.null for operand in operands), _any(~np.isfinite(values)))
    )


def _compared(compare: Callable[[Array, Array], Array], a: Value, b: Value) -> Value:
    return Value(np.asarray(compare(a.values, b.values), dtype=np.bool_), _either(a.null, b.null))


def _kleene(conjunction: bool, a: Value, b: Value) -> Value:
    """Three-valued `and` (`or`): what one operand settles is known whatever the other is."""
    known = [
        value.values == (not conjunction)
        if value.null is None
        else (value.values == (not conjunction)) & ~value.null
        for value in (a, b)
    ]
    settled = known[0] | known[1]
    null = _either(a.null, b.null)
    return Value(~settled if conjunction else settled, None if null is None else null & ~settled)


def _chosen(condition: Mask, a: Value, b: Value) -> Value:
    null = (
        None
        if a.null is None and b.null is None
        else np.where(condition, _false_if_none(a.null), _false_if_none(b.null))
    )
    return Value(np.where(condition, a.values, b.values), null)


def _no_facts_are_none(count: Value) -> Value:
    """No facts are a count of zero."""
    return count if count.null is None else Value(np.where(count.null, 0.0, count.values))


def _true(condition: Value) -> Mask:
    return condition.values if condition.null is None else condition.values & ~condition.null


def _false_if_none(null: Mask | None) -> Mask:
    return np.array(False) if null is None else null


def _either(*masks: Mask | None) -> Mask | None:
    found: Mask | None = None
    for mask in masks:
        if mask is not None:
            found = mask if found is None else found | mask
    return found


def _any(mask: Mask) -> Mask | None:
    return mask if mask.any() else None


def _element_by_element(function: Callable[[float], float]) -> Callable[[Array], Array]:
    """NumPy's own versions differ from the C library's in the last bit."""

    def one(value: float) -> float:
        try:
            return function(value)
        except (ValueError, OverflowError):
            return math.nan

    return lambda values: np.array(
        [one(value) for value in np.atleast_1d(values).tolist()]
    ).reshape(np.shape(values))


_ARITHMETIC: dict[str, Callable[..., Array]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "truediv": lambda a, b: a / b,
    "floordiv": lambda a, b: np.floor(a / b), "mod": lambda a, b: a - np.floor(a / b) * b,
    "sqrt": np.sqrt, **{name: _element_by_element(getattr(math, name)) for name in ("log", "log1p", "sin", "cos")},
}  # fmt: skip
_COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip
_SIMPLE: dict[str, Callable[..., Array]] = {
    "neg": lambda a: -a, "abs": np.abs, "not": np.logical_not,
    "clip": lambda value, low, high: np.where(value < low, low, np.where(value > high, high, value)),
}  # fmt: skip


# -- time --------------------------------------------------------------------------------------------------------------


def _days(moments: Array) -> Array:
    return (moments // DAY).view(np.dtype("datetime64[D]"))


def _since(days: Array, unit: str) -> Array:
    first = days.astype(f"datetime64[{unit}]").astype("datetime64[D]")
    number: Array = (days - first).astype(np.int64) + 1
    return number


_DATE_PARTS: dict[str, Callable[[Array], Array]] = {
    "minute": lambda moments: moments // (60 * SECOND) % 60, "hour": lambda moments: moments // (3600 * SECOND) % 24,
    # 1970 began on a Thursday.
    "weekday": lambda moments: (moments // DAY + 3) % 7 + 1, "day": lambda moments: _since(_days(moments), "M"),
    "month": lambda moments: _days(moments).astype("datetime64[M]").astype(np.int64) % 12 + 1,
    "day_of_year": lambda moments: _since(_days(moments), "Y"),
}  # fmt: skip


def local(moments: Array, zone: ZoneInfo) -> Array:
    """Moments (microseconds since 1970, UTC) as the clock of a time zone shows them, in the same unit.

    The zone is asked once for each day that begins and ends with one offset, and for each moment of the few days that do not.
    """
    moments = np.atleast_1d(moments)
    if not len(moments):
        return moments
    earliest, latest = int(moments.min()), int(moments.max())
    if earliest < _LEAST or latest > _GREATEST:
        # What is null may be any number.
        moments = np.clip(moments, _LEAST, _GREATEST)
        earliest, latest = max(earliest, _LEAST), min(latest, _GREATEST)
    first, last = earliest // DAY, latest // DAY
    if first == last and (offset := _offset_of_day(zone, first)) is not None:
        shifted: Array = moments + offset
        return shifted
    days = moments // DAY
    if last - first < _FEW_DAYS:
        asked, places = range(first, last + 1), days - first
    else:
        found_days, places = np.unique(days, return_inverse=True)
        asked = found_days.tolist()
    offsets = [_offset_of_day(zone, day) for day in asked]
    found: Array = (
        moments
        + np.array([0 if offset is None else offset for offset in offsets], dtype=np.int64)[places]
    )
    if None in offsets:
        changing = np.flatnonzero(np.array([offset is None for offset in offsets])[places])
        found[changing] = moments[changing] + np.array(
            [_offset(zone, at) for at in moments[changing].tolist()], dtype=np.int64
        )
    return found


@lru_cache(maxsize=1 << 14)
def _offset_of_day(zone: ZoneInfo, day: int) -> int | None:
    """Offset of a zone on a UTC day, in microseconds; None where it changes on it."""
    offset = _offset(zone, day * DAY)
    return offset if offset == _offset(zone, (day + 1) * DAY - 1) else None


def _offset(zone: ZoneInfo, at: int) -> int:
    offset = (EPOCH + timedelta(microseconds=at)).astimezone(zone).utcoffset()
    assert offset is not None, "a zone has an offset at every moment"
    return offset // MICROSECOND


# -- lookups -----------------------------------------------------------------------------------------------------------


class _Table:
    """A table of the online snapshot, laid out for one lookup: the rows of each key side by side, oldest first, one column for each
    value. A refresh without a key is a row that counts as absent."""

    def __init__(self, online: Snapshot, lookup: Lookup) -> None:
        self._lookup = lookup
        rows_of: dict[tuple[Any, ...], list[tuple[datetime, tuple[Any, ...] | None]]] = {}
        match online.tables.get(lookup.table):
            case AggregateTable(refreshes=refreshes):
                held = [(refresh.moment, dict(refresh.rows)) for refresh in refreshes]
                rows_of = {
                    key: [(at, rows.get(key)) for at, rows in held]
                    for key in dict.fromkeys(key for _, rows in held for key in rows)
                }
            case LatestTable(rows=rows):
                rows_of = {
                    key: list(zip(found.known_at, found.values, strict=True)) for key, found in rows
                }
        single = len(lookup.keys) == 1
        self._index = {key[0] if single else key: place for place, key in enumerate(rows_of)}
        # After the last key comes that of keys that are not there, without rows.
        self._ends = np.cumsum([*(len(rows) for rows in rows_of.values()), 0])
        self._starts = np.concatenate([[0], self._ends[:-1]])
        flat = [row for rows in rows_of.values() for row in rows]
        # One more row, absent, for what is not found.
        self._known_at = np.array([*(moment(at) for at, _ in flat), 0], dtype=np.int64)
        names = online.values(lookup.table)
        self._columns = {
            lookup.wide(value): _held([None if values is None else values[names.index(value)] for _, values in flat] if value in names else [None] * len(flat), kind)
            for value, kind in zip(lookup.values, lookup.kinds, strict=True)
        }  # fmt: skip

    def values_of(
        self, columns: Mapping[str, RequestColumn], predicted_at: NDArray[np.int64]
    ) -> dict[str, Value]:
        """The values known for each row's key when it is predicted, by their names in the wide frame."""
        rows = self._rows(self._keys(columns, len(predicted_at)), predicted_at)
        return {
            name: Value(values[rows], None if null is None else _any(null[rows]))
            for name, (values, null) in self._columns.items()
        }

    def _keys(self, columns: Mapping[str, RequestColumn], rows: int) -> NDArray[np.int64]:
        """The place of each row's key."""
        nowhere, place_of = len(self._index), self._index.get
        keys = [columns[name] for name in self._lookup.keys]
        if not keys:
            # All rows have the empty key, which no column could count.
            return np.full(rows, place_of((), nowhere), dtype=np.int64)
        if len(keys) == 1 and keys[0].kind == "string":
            codes, words = keys[0].texts.coded
            # The last of these is what -1, a null, means.
            return np.array(
                [*(place_of(word, nowhere) for word in words), place_of(None, nowhere)],
                dtype=np.int64,
            )[codes]
        # Integers are no floats in a key, and a key beside integers is as it was sent.
        exact = any(key.kind == "integer" for key in keys)
        plain = [_key_values(key, exact) for key in keys]
        found = plain[0] if len(plain) == 1 else list(zip(*plain, strict=True))
        return np.array([place_of(key, nowhere) for key in found], dtype=np.int64)

    def _rows(self, keys: NDArray[np.int64], predicted_at: NDArray[np.int64]) -> NDArray[np.int64]:
        """The newest row of each key that was known; the last row, which is absent, where there is none."""
        known_at, starts = self._known_at, self._starts[keys]
        nothing = len(known_at) - 1
        after = self._ends[keys]
        # Nearly every request comes after the newest row of its key.
        older = np.flatnonzero((after > starts) & (known_at[after - 1] > predicted_at))
        if len(older):
            low, high, at = starts[older], after[older], predicted_at[older]
            while (low < high).any():
                middle = (low + high) // 2
                known = (known_at[middle] <= at) & (low < high)
                low, high = (
                    np.where(known, middle + 1, low),
                    np.where(known, high, np.minimum(middle, high)),
                )
            after[older] = low
        rows: NDArray[np.int64] = np.where(after > starts, after - 1, nothing)
        if self._lookup.within is not None:
            rows[predicted_at - known_at[rows] > self._lookup.within * SECOND] = nothing
        return rows


def _key_values(key: RequestColumn, exact: bool) -> list[Any]:
    values = key.plain()
    if key.kind == "datetime" and not exact:
        return [value if value is None or EARLIEST <= value < LATEST else None for value in values]
    return values


def _held(values: Sequence[Any], kind: Kind) -> Value:
    """A column of a table, with one more row that is null."""
    null = np.array([*(value is None for value in values), True])
    if kind == "string":
        return Value(_texts([*values, None]).values, null)
    filler: Any = EPOCH if kind == "datetime" else 0
    plain = [filler if value is None else value for value in [*values, None]]
    if kind == "datetime":
        numbers = np.array([moment(value) for value in plain], dtype=np.int64)
        return Value(numbers, null | (numbers < _FIRST) | (numbers >= _LAST))
    return Value(np.array(plain, dtype=np.float64 if kind == "integer" else DTYPES[kind]), null)
