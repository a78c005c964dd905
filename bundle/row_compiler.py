"""The feature program as plain Python: closures over one request, no library in the way.

Values of a row are None, a finite float, a bool, a text or a UTC datetime; the request is brought into that form once,
so the closures need no further care. `bundle.polars_compiler` computes the same over frames.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from bundle.expression import Category, Column, Expression, Join, Literal, Node, Operation, Rolling, mapped, walk
from bundle.online import Snapshot
from bundle.program import EVENT_TIME, FeatureProgram, Kind, Lookup, value_name

Row = Sequence[Any]
# A closure over a row; Any because its kind of value depends on the node, which `checking` has made sure of.
Compiled = Callable[[Row], Any]

LOWEST, HIGHEST = -1.7976931348623157e308, 1.7976931348623157e308
# What a model can see: its matrix is float32, and what does not fit there is missing.
FLOAT32_MAX = 3.4028234663852886e38
# Beyond these years the two time zone databases (Python's, Polars') need not agree: such a datetime is missing.
EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
NAN = math.nan


class RowFunction:
    """Computes a model's row from one request: `function(request, online) -> [float, ...]`, one value per feature.

    Categories are codes (0.0 for a text never seen in training), missing values are NaN. `inputs` names the request
    columns that are read; a column that is not in the request is null. Raises TypeError for a value of the wrong kind
    and ValueError for a datetime that is no ISO 8601 text, each naming the column.
    """

    def __init__(self, program: FeatureProgram) -> None:
        program.require_fitted()
        self.names = program.names
        self.categorical = program.categorical
        self._program = program
        self._lead = timedelta(seconds=program.lead_seconds)
        compiler = Compiler(program)
        self._features = [compiler.feature(feature.expression, program.vocabularies.get(feature.name, ())) for feature in program.features]
        self._shared = compiler.shared
        self._readers = [(name, reader(name, program.request[name].kind)) for name in compiler.order]
        self._event_time = reader(EVENT_TIME, "datetime", bounded=False)
        self._keys = [_keys(program, lookup, compiler.order) for lookup in program.lookups]
        needed = {*compiler.order, EVENT_TIME} if program.lookups else set(compiler.order)
        self.inputs = tuple(name for name in program.request if name in needed)
        self._bound: tuple[Snapshot | None, list[Any]] = (None, [])

    def __call__(self, request: Mapping[str, Any], online: Snapshot) -> list[float]:
        get = request.get
        row = [read(get(name)) for name, read in self._readers]
        if self._keys:
            event_time = self._event_time(get(EVENT_TIME))
            if event_time is None:
                raise ValueError(f"the request has no {EVENT_TIME!r}, which its lookups need; send it as ISO 8601 text with a UTC offset")
            predicted_at = event_time - self._lead
            snapshot, bound = self._bound
            if snapshot is not online:
                bound = self._bind(online)
            for key, find, within, pick, missing in bound:
                values = find(key(row, get), predicted_at, within)
                row += missing if values is None else values if pick is None else pick(values)
        for shared in self._shared:
            row.append(shared(row))
        return [feature(row) for feature in self._features]

    def missing(self, online: Snapshot) -> tuple[str, ...]:
        """What the program looks up and a snapshot does not hold (`table: value`); such values are null."""
        return tuple(
            f"{lookup.table}: {value}"
            for lookup in self._program.lookups
            for value in lookup.values
            if value not in online.values(lookup.table)
        )

    def _bind(self, online: Snapshot) -> list[Any]:
        bound = []
        for lookup, key in zip(self._program.lookups, self._keys, strict=True):
            pick = _pick(online.values(lookup.table), lookup.values)
            bound.append((key, online.finder(lookup.table), lookup.within, pick, (None,) * len(lookup.values)))
        # One assignment: a request in another thread sees the old pair or the new.
        self._bound = (online, bound)
        return bound


class Compiler:
    """Compiles the features of one program over rows of: request columns (`order`), values of the lookups, `shared` parts.

    A part that several features name is computed once: its closure appends its value to the row.
    """

    def __init__(self, program: FeatureProgram) -> None:
        self._program = program
        self._zone = ZoneInfo(program.timezone)
        read = {node.name for node in program.nodes() if isinstance(node, Column)}
        # Keys are read like other columns; integers are not, see _keys.
        read |= {key for lookup in program.lookups for key in lookup.keys if program.request[key].kind != "integer"}
        self.order = [name for name in program.request if name in read]
        self._slots = {name: slot for slot, name in enumerate(self.order)}
        for lookup in program.lookups:
            for value in lookup.values:
                self._slots[lookup.wide(value)] = len(self._slots)
        roots = [fold(feature.expression) for feature in program.features]
        named = Counter(_identity(node) for root in roots for node in walk(root) if isinstance(node, Operation))
        self._several = {identity for identity, times in named.items() if times > 1}
        self.shared: list[Compiled] = []

    def feature(self, root: Node, vocabulary: Sequence[str]) -> Callable[[Row], float]:
        """A feature as the model sees it: a float, NaN for missing, a code for a category."""
        root = fold(root)
        if isinstance(root, Category):
            return _coded(self.compile(root.operand), vocabulary)
        slot = self._slot(root)
        return _number(self.compile(root)) if slot is None else _number_in(slot)

    def compile(self, node: Expression) -> Compiled:
        slot = self._slot(node)
        if slot is not None:
            return operator.itemgetter(slot)
        match node:
            case Literal(value=value):
                return _constant(_plain(value))
            case Rolling():
                # No facts are a count of zero.
                return _fill_null(operator.itemgetter(self._slots[self._wide(node)]), _constant(0.0))
            case Operation():
                compiled = compile_operation(node, [self.compile(operand) for operand in node.operands], self._zone)
                identity = _identity(node)
                if identity not in self._several:
                    return compiled
                self._slots[identity] = len(self._slots)
                self.shared.append(compiled)
                return operator.itemgetter(self._slots[identity])
        raise ValueError(f"{type(node).__name__} cannot be compiled here")

    def _slot(self, node: Expression) -> int | None:
        """Where the row holds a node's value already."""
        if isinstance(node, Column):
            return self._slots[node.name]
        if isinstance(node, Join) or (isinstance(node, Rolling) and node.function != "count"):
            return self._slots[self._wide(node)]
        return self._slots.get(_identity(node)) if isinstance(node, Operation) else None

    def _wide(self, node: Join | Rolling) -> str:
        return self._program.lookup(node).wide(value_name(node))


def _identity(node: Expression) -> str:
    """Equal for equal trees. No column has such a name: it is JSON of an object."""
    return msgspec.json.encode(node).decode()


def _keys(program: FeatureProgram, lookup: Lookup, order: Sequence[str]) -> Callable[[Row, Callable[[str], Any]], tuple[Any, ...]]:
    """The key of a lookup from the row, or from the request itself for integers: beyond 2^53 a float is another key."""
    if any(program.request[key].kind == "integer" for key in lookup.keys):
        readers = [(key, key_reader(key, program.request[key].kind)) for key in lookup.keys]
        return lambda row, get: tuple([read(get(key)) for key, read in readers])
    slots = [order.index(key) for key in lookup.keys]
    if len(slots) == 1:
        slot = slots[0]
        return lambda row, get: (row[slot],)
    if not slots:
        return lambda row, get: ()
    several = operator.itemgetter(*slots)
    return lambda row, get: several(row)


def _pick(held: Sequence[str], wanted: Sequence[str]) -> Callable[[Row], list[Any]] | None:
    """Takes the wanted values out of those that a table holds (null for what it does not); None where they are the same."""
    if tuple(held) == tuple(wanted):
        return None
    positions = [held.index(value) if value in held else None for value in wanted]
    return lambda values: [None if position is None else values[position] for position in positions]


def compile_operation(node: Operation, operands: list[Compiled], zone: ZoneInfo) -> Compiled:
    """One operation over compiled operands."""
    name = node.operator
    if name in _ARITHMETIC:
        right = node.operands[1]
        if isinstance(right, Literal) and right.value is not None and not isinstance(right.value, str):
            return _arithmetic_by(_ARITHMETIC[name], operands[0], float(right.value))
        return _arithmetic(_ARITHMETIC[name], *operands)
    if name in _COMPARISONS:
        return _comparison(_COMPARISONS[name], *operands)
    if name in _FUNCTIONS:
        return _function(_FUNCTIONS[name], operands[0])
    if name in _DATE_PARTS:
        return _date_part(_DATE_PARTS[name], operands[0], zone)
    return _OTHERS[name](*operands)


def fold(node: Node) -> Node:
    """The tree with parts that read nothing replaced by their value."""
    folded = mapped(node, fold)
    if isinstance(folded, Operation) and all(isinstance(operand, Literal) for operand in folded.operands):
        constants = [_constant(_plain(operand.value)) for operand in folded.operands if isinstance(operand, Literal)]
        # Date parts of a literal are always those of null: there are no literal datetimes, so the time zone is of no matter.
        return Literal(compile_operation(folded, constants, ZoneInfo("UTC"))(()))
    return folded


def _plain(value: Any) -> Any:
    """Numbers of literals as floats: arithmetic is that of doubles."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _constant(value: Any) -> Compiled:
    return lambda row: value


def _number(compiled: Compiled) -> Callable[[Row], float]:
    def number(row: Row) -> float:
        value = compiled(row)
        if value is None:
            return NAN
        # Adding zero makes a float of a bool and 0.0 of -0.0.
        value = value + 0.0
        return value if -FLOAT32_MAX <= value <= FLOAT32_MAX else NAN

    return number


def _number_in(slot: int) -> Callable[[Row], float]:
    def number(row: Row) -> float:
        value = row[slot]
        if value is None:
            return NAN
        value = value + 0.0
        return value if -FLOAT32_MAX <= value <= FLOAT32_MAX else NAN

    return number


def _coded(compiled: Compiled, vocabulary: Sequence[str]) -> Callable[[Row], float]:
    codes = {text: float(index + 1) for index, text in enumerate(vocabulary)}

    def code(row: Row) -> float:
        value = compiled(row)
        return NAN if value is None else codes.get(value, 0.0)

    return code


def _arithmetic(function: Callable[[Any, Any], Any], left: Compiled, right: Compiled) -> Compiled:
    def arithmetic(row: Row) -> float | None:
        a = left(row)
        if a is None:
            return None
        b = right(row)
        if b is None:
            return None
        try:
            value = function(a, b)
        except (ZeroDivisionError, OverflowError, ValueError):
            return None
        return value if LOWEST <= value <= HIGHEST else None

    return arithmetic


def _arithmetic_by(function: Callable[[Any, Any], Any], left: Compiled, b: float) -> Compiled:
    def arithmetic(row: Row) -> float | None:
        a = left(row)
        if a is None:
            return None
        try:
            value = function(a, b)
        except (ZeroDivisionError, OverflowError, ValueError):
            return None
        return value if LOWEST <= value <= HIGHEST else None

    return arithmetic


def _comparison(function: Callable[[Any, Any], bool], left: Compiled, right: Compiled) -> Compiled:
    def comparison(row: Row) -> bool | None:
        a = left(row)
        if a is None:
            return None
        b = right(row)
        return None if b is None else function(a, b)

    return comparison


def _function(function: Callable[[Any], Any], operand: Compiled) -> Compiled:
    def applied(row: Row) -> float | None:
        a = operand(row)
        if a is None:
            return None
        try:
            value = function(a)
        except (ValueError, OverflowError):
            return None
        return value if LOWEST <= value <= HIGHEST else None

    return applied


def _date_part(part: Callable[[datetime], int], operand: Compiled, zone: ZoneInfo) -> Compiled:
    def of_date(row: Row) -> float | None:
        moment = operand(row)
        return None if moment is None else float(part(moment.astimezone(zone)))

    return of_date


def _floor_divide(a: float, b: float) -> float:
    return float(math.floor(a / b))


def _modulo(a: float, b: float) -> float:
    # Not Python's own %, which is exact where a - floor(a / b) * b is not: batch and row must agree bit by bit.
    return a - math.floor(a / b) * b


def _and(left: Compiled, right: Compiled) -> Compiled:
    def both(row: Row) -> bool | None:
        a = left(row)
        if a is False:
            return False
        b = right(row)
        if b is False:
            return False
        return None if a is None or b is None else True

    return both


def _or(left: Compiled, right: Compiled) -> Compiled:
    def either(row: Row) -> bool | None:
        a = left(row)
        if a is True:
            return True
        b = right(row)
        if b is True:
            return True
        return None if a is None or b is None else False

    return either


def _not(operand: Compiled) -> Compiled:
    def negated(row: Row) -> bool | None:
        a = operand(row)
        return None if a is None else not a

    return negated


def _if_else(condition: Compiled, then: Compiled, otherwise: Compiled) -> Compiled:
    return lambda row: then(row) if condition(row) is True else otherwise(row)


def _is_null(operand: Compiled) -> Compiled:
    return lambda row: operand(row) is None


def _fill_null(operand: Compiled, other: Compiled) -> Compiled:
    def filled(row: Row) -> Any:
        value = operand(row)
        return other(row) if value is None else value

    return filled


def _clip(operand: Compiled, low: Compiled, high: Compiled) -> Compiled:
    def clipped(row: Row) -> Any:
        value, least, most = operand(row), low(row), high(row)
        if value is None or least is None or most is None:
            return None
        if value < least:
            return least
        return most if value > most else value

    return clipped


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv,
    "floordiv": _floor_divide, "mod": _modulo,
}  # fmt: skip
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "neg": operator.neg, "abs": operator.abs,
    "log": math.log, "log1p": math.log1p, "sqrt": math.sqrt, "sin": math.sin, "cos": math.cos,
}  # fmt: skip
_DATE_PARTS: dict[str, Callable[[datetime], int]] = {
    "minute": lambda t: t.minute, "hour": lambda t: t.hour, "weekday": datetime.isoweekday, "day": lambda t: t.day,
    "month": lambda t: t.month, "day_of_year": lambda t: t.timetuple().tm_yday,
}  # fmt: skip
_OTHERS: dict[str, Callable[..., Compiled]] = {
    "and": _and, "or": _or, "not": _not, "if_else": _if_else, "is_null": _is_null, "fill_null": _fill_null, "clip": _clip,
}  # fmt: skip


def reader(name: str, kind: Kind, *, bounded: bool = True) -> Callable[[Any], Any]:
    """Brings a value of a request column into the form that closures compute with."""
    if kind == "string":
        return _checked(name, str, "text")
    if kind == "boolean":
        return _checked(name, bool, "true or false")
    if kind == "datetime":
        return _moment(name, bounded)
    return _finite(name)


def key_reader(name: str, kind: Kind) -> Callable[[Any], Any]:
    """Like `reader`, but keeps integers exact: a key of 2^53 and more must not be rounded."""
    read = reader(name, kind, bounded=False)
    if kind != "integer":
        return read
    return lambda value: value if type(value) is int else read(value)


def _checked(name: str, kind: type, expected: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if value is None or isinstance(value, kind):
            return value
        raise TypeError(f"request column {name!r} holds {value!r} ({type(value).__name__}); it must be {expected}")

    return read


def _finite(name: str) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        if type(value) is float:
            return value if LOWEST <= value <= HIGHEST else None
        if value is None:
            return None
        if not isinstance(value, (int, float)):
            raise TypeError(f"request column {name!r} holds {value!r} ({type(value).__name__}); it must be a number")
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if LOWEST <= number <= HIGHEST else None

    return read


def _moment(name: str, bounded: bool) -> Callable[[Any], datetime | None]:
    def read(value: Any) -> datetime | None:
        if value is None:
            return None
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError as error:
                raise ValueError(
                    f"request column {name!r} holds {value!r}, which is no ISO 8601 datetime such as 2013-02-01T14:15:00Z"
                ) from error
        elif not isinstance(value, datetime):
            raise TypeError(f"request column {name!r} holds {value!r} ({type(value).__name__}); it must be a datetime as ISO 8601 text")
        # A datetime without offset counts as UTC.
        if value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        elif value.tzinfo is not UTC:
            try:
                value = value.astimezone(UTC)
            except OverflowError:
                return None
        return value if not bounded or EARLIEST <= value < LATEST else None

    return read
