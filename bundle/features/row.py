"""The feature program as one Python function, made for the program: no tree is walked and no closure called for a request.

The function's source is generated from the checked tree. Names in it are generated too, and what a program brings (texts, codes,
time zone) is bound as objects or written as literals, so a program can compute but not say anything else. Values are
None, a finite float, a bool, a text or a UTC datetime; the request is brought into that form once, so that the statements
need no further care. `bundle.features.polars` computes the same over frames.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from bundle.features.expression import (
    Category,
    Column,
    Expression,
    Join,
    Literal,
    Node,
    Operation,
    Rolling,
    mapped,
)
from bundle.features.online import Finder, Snapshot, Values
from bundle.features.program import EVENT_TIME, FeatureProgram, Kind, Lookup, value_name

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
    and ValueError for a datetime that is no ISO 8601 text, each naming the column. `source` is the function's source.
    """

    def __init__(self, program: FeatureProgram) -> None:
        program.require_fitted()
        self.names = program.names
        self.categorical = program.categorical
        self._program = program
        writer = Writer(program)
        self.inputs = writer.inputs
        self.source, self._function = writer.function("get, finders", writer.row)
        self._bound: tuple[Snapshot | None, tuple[Finder, ...]] = (None, ())

    def __call__(self, request: Mapping[str, Any], online: Snapshot) -> list[float]:
        snapshot, finders = self._bound
        if snapshot is not online:
            finders = self._bind(online)
        row: list[float] = self._function(request.get, finders)
        return row

    def missing(self, online: Snapshot) -> tuple[str, ...]:
        """What the program looks up and a snapshot does not hold (`table: value`); such values are null."""
        return tuple(
            f"{lookup.table}: {value}"
            for lookup in self._program.lookups
            for value in lookup.values
            if value not in online.values(lookup.table)
        )

    def _bind(self, online: Snapshot) -> tuple[Finder, ...]:
        finders = tuple(_picked(online, lookup) for lookup in self._program.lookups)
        # One assignment: a request in another thread sees the old pair or the new.
        self._bound = (online, finders)
        return finders


def _picked(online: Snapshot, lookup: Lookup) -> Finder:
    """Finds the values of a lookup, in its order (null for what the table does not hold)."""
    find, held = online.finder(lookup.table), online.values(lookup.table)
    if held == lookup.values:
        return find
    positions = [held.index(value) if value in held else None for value in lookup.values]

    def picked(key: tuple[Any, ...], predicted_at: datetime, within: int | None) -> Values | None:
        values = find(key, predicted_at, within)
        return (
            None
            if values is None
            else tuple([None if position is None else values[position] for position in positions])
        )

    return picked


class Atom(NamedTuple):
    """A value in the source: a variable or a literal, and whether it may be None."""

    text: str
    null: bool = True


_NAMESPACE: dict[str, Any] = {
    "EARLIEST": EARLIEST, "LATEST": LATEST, "NAN": NAN, "UTC": UTC,
    "datetime": datetime, "floor": math.floor, "log": math.log, "log1p": math.log1p, "sqrt": math.sqrt, "sin": math.sin, "cos": math.cos,
}  # fmt: skip
_ARITHMETIC = {
    # Not Python's own //, % (exact where a - floor(a / b) * b is not): batch and row must agree bit by bit.
    "add": "{a} + {b}", "sub": "{a} - {b}", "mul": "{a} * {b}", "truediv": "{a} / {b}",
    "floordiv": "float(floor({a} / {b}))", "mod": "{a} - floor({a} / {b}) * {b}",
}  # fmt: skip
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_FUNCTIONS = {
    "neg": "-{a}",
    "abs": "abs({a})",
    **{name: f"{name}({{a}})" for name in ("log", "log1p", "sqrt", "sin", "cos")},
}
_DATE_PARTS = {
    "minute": "minute", "hour": "hour", "weekday": "isoweekday()", "day": "day", "month": "month", "day_of_year": "timetuple().tm_yday",
}  # fmt: skip


class Statements:
    """Source that computes nodes, each once; `objects` are the values that it names."""

    def __init__(self, zone: ZoneInfo) -> None:
        self.lines: list[str] = []
        self.objects: dict[str, Any] = {"zone": zone}
        self.known: dict[str, Atom] = {}
        self._numbers = itertools.count()

    def name(self) -> str:
        return f"v{next(self._numbers)}"

    def bind(self, value: Any) -> str:
        """The name of an object in the source."""
        name = self.name()
        self.objects[name] = value
        return name

    def let(self, expression: str, null: bool = True) -> Atom:
        """A new variable with the value of an expression."""
        name = self.name()
        self.lines.append(f"{name} = {expression}")
        return Atom(name, null)

    def attempt(
        self, expression: str, operands: Sequence[Atom], errors: str, *, bounded: bool = True
    ) -> Atom:
        """A number, null where an operand is, where computing it fails, and (`bounded`) where it is not finite."""
        name = self.name()
        self.lines.append(f"{name} = None")
        conditions = [f"{operand.text} is not None" for operand in operands if operand.null]
        indent = ""
        if conditions:
            self.lines.append(f"if {' and '.join(conditions)}:")
            indent = " "
        if errors:
            self.lines += [f"{indent}try: {name} = {expression}", f"{indent}except {errors}: pass"]
            if bounded:
                self.lines.append(
                    f"{indent}if {name} is not None and not {LOWEST!r} <= {name} <= {HIGHEST!r}: {name} = None"
                )
        else:
            self.lines.append(f"{indent}{name} = {expression}")
            if bounded:
                self.lines.append(
                    f"{indent}if not {LOWEST!r} <= {name} <= {HIGHEST!r}: {name} = None"
                )
        return Atom(name)

    def compute(self, node: Expression) -> Atom:
        """Where a node's value is."""
        if isinstance(node, Literal):
            return _literal(node.value)
        identity = _identity(node)
        found = self.known.get(identity)
        if found is None:
            if not isinstance(node, Operation):
                raise ValueError(f"{type(node).__name__} cannot be compiled here")
            found = self.known[identity] = self._operation(
                node.operator, [self.compute(operand) for operand in node.operands]
            )
        return found

    def _operation(self, operator: str, operands: list[Atom]) -> Atom:
        a, b, c = (*operands, Atom("None"), Atom("None"))[:3]
        if operator in _ARITHMETIC:
            divides = operator in ("truediv", "floordiv", "mod")
            errors = "(ZeroDivisionError, OverflowError, ValueError)" if divides else ""
            return self.attempt(_ARITHMETIC[operator].format(a=a.text, b=b.text), operands, errors)
        if operator in _COMPARISONS:
            return self.let(
                _unless_null(operands, f"{a.text} {_COMPARISONS[operator]} {b.text}"),
                a.null or b.null,
            )
        if operator in _FUNCTIONS:
            simple = operator in ("neg", "abs")
            return self.attempt(
                _FUNCTIONS[operator].format(a=a.text),
                operands,
                "" if simple else "(ValueError, OverflowError)",
                bounded=not simple,
            )
        if operator in _DATE_PARTS:
            local = self.known.get(f"local {a.text}")
            if local is None:
                local = self.known[f"local {a.text}"] = self.let(
                    _unless_null([a], f"{a.text}.astimezone(zone)"), a.null
                )
            return self.let(
                _unless_null([local], f"float({local.text}.{_DATE_PARTS[operator]})"), a.null
            )
        match operator:
            case "and":
                return self.let(
                    f"False if {a.text} is False or {b.text} is False else {_unless_null(operands, 'True')}"
                )
            case "or":
                return self.let(
                    f"True if {a.text} is True or {b.text} is True else {_unless_null(operands, 'False')}"
                )
            case "not":
                return self.let(_unless_null([a], f"not {a.text}"), a.null)
            case "is_null":
                return self.let(f"{a.text} is None" if a.null else "False", False)
            case "fill_null":
                return (
                    self.let(f"{b.text} if {a.text} is None else {a.text}", b.null) if a.null else a
                )
            case "if_else":
                return self.let(f"{b.text} if {a.text} is True else {c.text}", b.null or c.null)
            case "clip":
                inner = f"{b.text} if {a.text} < {b.text} else {c.text} if {a.text} > {c.text} else {a.text}"
                return self.let(
                    _unless_null(operands, inner), any(operand.null for operand in operands)
                )
        raise ValueError(f"operator {operator!r} cannot be compiled here")

    def function(self, parameters: str, result: str) -> tuple[str, Callable[..., Any]]:
        """The statements as a function, and its source."""
        body = "\n".join(f" {line}" for line in [*self.lines, f"return {result}"])
        source = f"def computed({parameters}):\n{body}\n"
        namespace = {**_NAMESPACE, **self.objects}
        exec(compile(source, "<feature program>", "exec"), namespace)  # noqa: S102  our own words, from a checked tree
        function: Callable[..., Any] = namespace["computed"]
        return source, function


class Writer(Statements):
    """Writes the function of a program: it reads request columns, looks values up and computes features. `row` is its result."""

    def __init__(self, program: FeatureProgram) -> None:
        super().__init__(ZoneInfo(program.timezone))
        self._program = program
        # Integers are no floats in a key: beyond 2^53 they would be other keys.
        exact = [
            lookup
            for lookup in program.lookups
            if any(program.request[key].kind == "integer" for key in lookup.keys)
        ]
        read = {node.name for node in program.nodes() if isinstance(node, Column)}
        read |= {key for lookup in program.lookups if lookup not in exact for key in lookup.keys}
        used = (
            read
            | {key for lookup in exact for key in lookup.keys}
            | ({EVENT_TIME} if program.lookups else set())
        )
        self.inputs = tuple(name for name in program.request if name in used)
        columns = {
            name: self._column(name, program.request[name].kind)
            for name in program.request
            if name in read
        }
        self.known |= {
            _identity(Column(name)): Atom(variable) for name, variable in columns.items()
        }
        keys = {
            lookup.name: [
                self._exact(name) if lookup in exact else columns[name] for name in lookup.keys
            ]
            for lookup in program.lookups
        }
        found = self._look_up(keys) if program.lookups else {}
        for node in program.nodes():
            if isinstance(node, (Join, Rolling)) and _identity(node) not in self.known:
                value = found[program.lookup(node).wide(value_name(node))]
                # No facts are a count of zero.
                counts = isinstance(node, Rolling) and node.function == "count"
                self.known[_identity(node)] = (
                    self.let(f"0.0 if {value} is None else {value}", False)
                    if counts
                    else Atom(value)
                )
        features = [
            self._feature(fold(feature.expression), program.vocabularies.get(feature.name, ()))
            for feature in program.features
        ]
        self.row = f"[{', '.join(features)}]"

    def _column(self, name: str, kind: Kind, *, bounded: bool = True) -> str:
        """A variable with a column of the request. What comes as its kind needs no reader, and nearly everything does."""
        variable, read = self.name(), self.bind(reader(name, kind, bounded=bounded))
        self.lines.append(f"{variable} = get({name!r})")
        otherwise = f"if {variable} is not None: {variable} = {read}({variable})"
        match kind:
            case "string":
                self.lines.append(
                    f"if type({variable}) is not str and {variable} is not None: {variable} = {read}({variable})"
                )
            case "boolean":
                self.lines.append(
                    f"if type({variable}) is not bool and {variable} is not None: {variable} = {read}({variable})"
                )
            case "datetime" if bounded:
                self.lines += [
                    f"if type({variable}) is datetime and {variable}.tzinfo is UTC:",
                    f" if not EARLIEST <= {variable} < LATEST: {variable} = None",
                    f"el{otherwise}",
                ]
            case "datetime":
                self.lines.append(
                    f"if type({variable}) is not datetime or {variable}.tzinfo is not UTC: {variable} = {read}({variable})"
                )
            case "integer":
                self.lines += [
                    f"if type({variable}) is int:",
                    f" try: {variable} = float({variable})",
                    f" except OverflowError: {variable} = None",
                    f"el{otherwise}",
                ]
            case "float":
                self.lines += [
                    f"if type({variable}) is float:",
                    f" if not {LOWEST!r} <= {variable} <= {HIGHEST!r}: {variable} = None",
                    f"el{otherwise}",
                ]
        return variable

    def _exact(self, name: str) -> str:
        """A variable with a column as it stands in a key beside integers."""
        kind = self._program.request[name].kind
        if kind != "integer":
            return self._column(name, kind, bounded=False)
        variable, read = self.name(), self.bind(reader(name, kind, bounded=False))
        self.lines += [
            f"{variable} = get({name!r})",
            f"if type({variable}) is not int: {variable} = {read}({variable})",
        ]
        return variable

    def _look_up(self, keys: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Variables with the values of all lookups, by their names in the wide frame."""
        event_time = self._column(EVENT_TIME, "datetime", bounded=False)
        self.objects["no_event_time"] = _no_event_time
        self.objects["lead"] = timedelta(seconds=self._program.lead_seconds)
        self.lines += [
            f"if {event_time} is None: no_event_time()",
            f"predicted_at = {event_time} - lead",
        ]
        finders = [self.name() for _ in self._program.lookups]
        self.lines.append(f"{', '.join(finders)}, = finders")
        variables: dict[str, str] = {}
        for lookup, find in zip(self._program.lookups, finders, strict=True):
            values, found = [self.name() for _ in lookup.values], self.name()
            key = "".join(f"{name}, " for name in keys[lookup.name])
            self.lines += [
                f"{found} = {find}(({key}), predicted_at, {lookup.within})",
                f"if {found} is None: {' = '.join(values)} = None",
                f"else: {', '.join(values)}, = {found}",
            ]
            moments = [
                name for name, kind in zip(values, lookup.kinds, strict=True) if kind == "datetime"
            ]
            self.lines += [
                f"if {name} is not None and not EARLIEST <= {name} < LATEST: {name} = None"
                for name in moments
            ]
            variables |= {
                lookup.wide(value): variable
                for value, variable in zip(lookup.values, values, strict=True)
            }
        return variables

    def _feature(self, root: Node, vocabulary: Sequence[str]) -> str:
        """A feature as the model sees it: a float, NaN for missing, a code for a category."""
        if isinstance(root, Category):
            text = self.compute(root.operand)
            code = self.bind({text: float(index + 1) for index, text in enumerate(vocabulary)}.get)
            coded = f"{code}({text.text}, 0.0)"
            return f"NAN if {text.text} is None else {coded}" if text.null else coded
        value = self.compute(root)
        # Adding zero makes a float of a bool and 0.0 of -0.0.
        seen = f"{value.text} + 0.0 if {-FLOAT32_MAX!r} <= {value.text} <= {FLOAT32_MAX!r} else NAN"
        return f"NAN if {value.text} is None else {seen}" if value.null else seen


def _no_event_time() -> None:
    raise ValueError(
        f"the request has no {EVENT_TIME!r}, which its lookups need; send it as ISO 8601 text with a UTC offset"
    )


def _unless_null(operands: Sequence[Atom], expression: str) -> str:
    conditions = " or ".join(f"{operand.text} is None" for operand in operands if operand.null)
    return f"None if {conditions} else {expression}" if conditions else expression


def _identity(node: Expression) -> str:
    """Equal for equal trees."""
    return msgspec.json.encode(node).decode()


def _literal(value: Any) -> Atom:
    """A literal in the source. Numbers are floats: arithmetic is that of doubles."""
    if value is None:
        return Atom("None")
    return Atom(
        repr(float(value))
        if isinstance(value, int) and not isinstance(value, bool)
        else repr(value),
        False,
    )


def fold(node: Node) -> Node:
    """The tree with parts that read nothing replaced by their value."""
    folded = mapped(node, fold)
    if isinstance(folded, Operation) and all(
        isinstance(operand, Literal) for operand in folded.operands
    ):
        # Date parts of a literal are always those of null: there are no literal datetimes, so the time zone is of no matter.
        statements = Statements(ZoneInfo("UTC"))
        _, function = statements.function("", statements.compute(folded).text)
        return Literal(function())
    return folded


def reader(name: str, kind: Kind, *, bounded: bool = True) -> Callable[[Any], Any]:
    """Brings a value of a request column into the form that a program computes with."""
    if kind == "string":
        return _checked(name, str, "text")
    if kind == "boolean":
        return _checked(name, bool, "true or false")
    if kind == "datetime":
        return _moment(name, bounded)
    return _finite(name)


def _checked(name: str, kind: type, expected: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if value is None or isinstance(value, kind):
            return value
        raise TypeError(
            f"request column {name!r} holds {value!r} ({type(value).__name__}); it must be {expected}"
        )

    return read


def _finite(name: str) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        if type(value) is float:
            return value if LOWEST <= value <= HIGHEST else None
        if value is None:
            return None
        if not isinstance(value, (int, float)):
            raise TypeError(
                f"request column {name!r} holds {value!r} ({type(value).__name__}); it must be a number"
            )
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
            raise TypeError(
                f"request column {name!r} holds {value!r} ({type(value).__name__}); it must be a datetime as ISO 8601 text"
            )
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
