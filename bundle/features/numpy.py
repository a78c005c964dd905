"""The feature program over columns: the back-end of a request with many rows, in NumPy.

A tree becomes a list of steps. Each computes one node from the values of the nodes below; equal
nodes are computed once. Results are equal to those of one row to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec
import numpy as np

from bundle.features.columns import (
    Column as RequestColumn,
    Texts,
    Value,
    any_of,
    either,
    text_value,
)
from bundle.features.expression import (
    Category,
    Column,
    Expression,
    Join,
    Literal,
    Node,
    Operation,
    Rolling,
)
from bundle.features.moments import local
from bundle.features.online import Snapshot
from bundle.features.operators import OPERATORS, SECOND, Operator, Type
from bundle.features.program import EVENT_TIME, FLOAT32_MAX, FeatureProgram, Kind, value_name
from bundle.features.statements import fold
from bundle.features.tables import FIRST, LAST, Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

# What stands where a value of a type is null: something that can be computed with.
_FILLERS: dict[Type, Any] = {
    "number": 0.0,
    "boolean": False,
    "text": "",
    "datetime": 0,
    "null": False,
}
_NOWHERE = np.array(False)

Step = Callable[["_Frame"], Value]
Writing = Callable[["_Frame", "Array"], None]
"""Writes a feature of all rows: NaN for missing, a code for a category."""


def compile_columns(program: FeatureProgram) -> ColumnFunction:
    """A function from columns to rows of the model. Raises ValueError for an unfitted program."""
    return ColumnFunction(program)


class _Frame:
    """One computation: the request's columns and what was looked up, and the values so far."""

    __slots__ = ("columns", "looked_up", "rows", "values")

    def __init__(
        self, columns: Mapping[str, RequestColumn], rows: int, looked_up: Mapping[str, Value]
    ) -> None:
        self.columns, self.rows, self.looked_up = columns, rows, looked_up
        self.values: list[Value] = []


class ColumnFunction:
    """Computes the model's rows from the columns of a request, as `RowFunction` computes one.

    `function(columns, online)` is float32 of shape (n, k). Raises ValueError where a lookup needs
    an event time that is null.
    """

    def __init__(self, program: FeatureProgram) -> None:
        program.require_fitted()
        self._program = program
        compiler = _Compiler(program)
        self._features = [_feature(compiler, program, index) for index in range(len(program.names))]
        self._steps = compiler.steps
        self._bound: tuple[Snapshot | None, tuple[Table, ...]] = (None, ())

    def __call__(
        self, columns: Mapping[str, RequestColumn], online: Snapshot
    ) -> NDArray[np.float32]:
        rows = len(next(iter(columns.values())))
        snapshot, tables = self._bound
        if snapshot is not online:
            tables = tuple(Table(online, lookup) for lookup in self._program.lookups)
            # One assignment: a request in another thread sees the old pair or the new.
            self._bound = (online, tables)

        with np.errstate(all="ignore"):
            frame = _Frame(columns, rows, self._looked_up(columns, tables))
            for step in self._steps:
                frame.values.append(step(frame))

            # Features are written one behind the other, hence in this order.
            wide = np.empty((len(self._features), rows))
            for place, write in enumerate(self._features):
                write(frame, wide[place])

            # What does not fit a float32 is missing, and adding zero makes 0.0 of -0.0.
            wide[np.abs(wide) > FLOAT32_MAX] = np.nan
            wide += 0.0
        return np.ascontiguousarray(wide.T, dtype=np.float32)

    def _looked_up(
        self, columns: Mapping[str, RequestColumn], tables: Sequence[Table]
    ) -> dict[str, Value]:
        """Values of all lookups, by their names in the wide frame."""
        if not tables:
            return {}

        event = columns[EVENT_TIME]
        if event.null is not None:
            raise ValueError(
                f"a row has no {EVENT_TIME!r}, which its lookups need; "
                "send it as ISO 8601 text with a UTC offset"
            )

        predicted_at = event.array - self._program.lead_seconds * SECOND
        looked_up: dict[str, Value] = {}
        for table in tables:
            looked_up |= table.values_of(columns, predicted_at)
        return looked_up


class _Compiler:
    """Steps that compute nodes, each once."""

    def __init__(self, program: FeatureProgram) -> None:
        self._program, self._types = program, program.types()
        self._zone = ZoneInfo(program.timezone)
        self.steps: list[Step] = []
        self._places: dict[tuple[str, Type], int] = {}

    def value(self, node: Expression, wanted: Type) -> int:
        """The step that computes a tree as one type; a literal null takes whatever is wanted."""
        key = (msgspec.json.encode(node).decode(), wanted)
        if key not in self._places:
            self._add(key, self._as(node, wanted))
        return self._places[key]

    def _add(self, key: tuple[str, Type], step: Step) -> None:
        self.steps.append(step)
        self._places[key] = len(self.steps) - 1

    def _as(self, node: Expression, wanted: Type) -> Step:
        own = self._types.of(node)
        if own == "null":
            nothing = Value(_constant(_FILLERS[wanted]), np.array(True))
            return lambda frame: nothing

        if (own, wanted) == ("boolean", "number"):
            place = self.value(node, "boolean")
            return lambda frame: frame.values[place]._replace(
                values=frame.values[place].values.astype(np.float64)
            )
        return self._step(node, own)

    def _step(self, node: Expression, own: Type) -> Step:
        match node:
            case Literal(value=value):
                if isinstance(value, int) and not isinstance(value, bool):
                    value = float(value)
                constant = Value(_constant(value))
                return lambda frame: constant

            case Column(name=name):
                kind = self._program.request[name].kind
                return lambda frame: _leaf(frame.columns[name], kind)

            case Join() | Rolling():
                wide = self._program.lookup(node).wide(value_name(node))
                if isinstance(node, Rolling) and node.function == "count":
                    return lambda frame: _no_facts_are_none(frame.looked_up[wide])
                return lambda frame: frame.looked_up[wide]

            case Operation():
                return self._operation(node)

        raise ValueError(f"{type(node).__name__} cannot be compiled here")

    def _operation(self, node: Operation) -> Step:
        operator = OPERATORS[node.operator]
        if operator.on_the_clock:
            place = self._local(node.operands[0])
            return lambda frame: _part_of_date(operator, frame.values[place])

        wanted = self._types.operands(node)
        places = [self.value(*operand) for operand in zip(node.operands, wanted, strict=True)]
        compute = _own_nulls if operator.own_nulls else _propagated
        return lambda frame: compute(operator, [frame.values[place] for place in places])

    def _local(self, node: Expression) -> int:
        """The step that computes a moment as the clock of the time zone shows it."""
        key: tuple[str, Type] = (f"local {msgspec.json.encode(node).decode()}", "datetime")
        if key not in self._places:
            place, zone = self.value(node, "datetime"), self._zone
            self._add(
                key,
                lambda frame: frame.values[place]._replace(
                    values=local(frame.values[place].values, zone)
                ),
            )
        return self._places[key]


def _feature(compiler: _Compiler, program: FeatureProgram, index: int) -> Writing:
    name, root = program.names[index], fold(program.features[index].expression)
    if isinstance(root, Category):
        words = program.vocabularies.get(name, ())
        codes = {word: float(place + 1) for place, word in enumerate(words)}
        return _coded(root.operand, compiler, codes)

    place = compiler.value(root, "number")
    return lambda frame, into: _fill(into, frame.values[place])


def _coded(node: Node, compiler: _Compiler, codes: Mapping[str, float]) -> Writing:
    """Writes the codes of a category: 0 for a text never seen in training, NaN for none."""
    code = codes.get
    if isinstance(node, Column):
        # Each of the column's words once, instead of each row.
        def of_column(frame: _Frame, into: Array) -> None:
            places, words = frame.columns[node.name].texts.coded
            into[:] = np.array([*(code(word, 0.0) for word in words), np.nan])[places]

        return of_column

    place = compiler.value(node, "text")

    def of_texts(frame: _Frame, into: Array) -> None:
        texts, null = frame.values[place]
        coded = np.array([code(text, 0.0) for text in np.atleast_1d(texts).tolist()])
        _fill(into, Value(coded.reshape(texts.shape), null))

    return of_texts


def _fill(into: Array, value: Value) -> None:
    into[:] = value.values
    if value.null is not None:
        into[np.broadcast_to(value.null, into.shape)] = np.nan


def _constant(value: Any) -> Array:
    if isinstance(value, str):
        text = np.empty((), dtype=object)
        text[()] = value
        return text
    return np.asarray(value)


def _leaf(column: RequestColumn, kind: Kind) -> Value:
    """A column in the form that steps compute with.

    Floats are finite, datetimes lie within the years that time zones are known for.
    """
    if isinstance(column.values, Texts):
        return text_value(column.values.values)

    values, null = column.values, column.null
    if kind in ("float", "integer"):
        if values.dtype.kind != "f":
            return Value(values.astype(np.float64), null)
        return Value(values, either(null, any_of(~np.isfinite(values))))
    if kind == "datetime":
        return Value(values, either(null, any_of((values < FIRST) | (values >= LAST))))
    return Value(values, null)


def _no_facts_are_none(count: Value) -> Value:
    """No facts are a count of zero."""
    return count if count.null is None else Value(np.where(count.null, 0.0, count.values))


def _propagated(operator: Operator, operands: Sequence[Value]) -> Value:
    """The result of an operator: null where an operand is, and where it is not finite."""
    values = operator.numpy(np, *(operand.values for operand in operands))
    null = either(*(operand.null for operand in operands))
    if not operator.always_finite:
        null = either(null, any_of(~np.isfinite(values)))
    return Value(values, null)


def _own_nulls(operator: Operator, operands: Sequence[Value]) -> Value:
    """The result of an operator that decides itself where it is null."""
    masked = [Value(values, _NOWHERE if null is None else null) for values, null in operands]
    values, null = operator.numpy(np, *masked)
    return Value(values, any_of(null))


def _part_of_date(operator: Operator, local: Value) -> Value:
    return Value(operator.numpy(np, local.values).astype(np.float64), local.null)
