"""The feature program as one Python function, made for the program: the back-end of one request.

No tree is walked and no closure called for a request: the source of the function is generated from
the checked tree (`bundle.features.statements`). The request is brought into the form that the
statements compute with once, by readers that name the column that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from bundle.features.expression import Category, Column, Join, Node, Rolling
from bundle.features.online import Finder, Snapshot, Values
from bundle.features.operators import Atom
from bundle.features.program import (
    EARLIEST,
    EVENT_TIME,
    FLOAT32_MAX,
    HIGHEST,
    LATEST,
    LOWEST,
    FeatureProgram,
    Kind,
    Lookup,
    value_name,
)
from bundle.features.statements import Statements, fold, identity

# How a request sends a datetime.
_EXAMPLE = "2013-02-01T14:15:00Z"


def compile_row(program: FeatureProgram) -> RowFunction:
    """A function from one request to the model's row. Raises ValueError for an unfitted program."""
    return RowFunction(program)


class RowFunction:
    """Computes a model's row from one request: `function(request, online) -> [float, ...]`.

    The row has one value per feature. Categories are codes (0.0 for a text never seen in training),
    missing values are NaN. `inputs` names the request columns that are read; a column that is not
    in the request is null. Raises TypeError for a value of the wrong kind and ValueError for a
    datetime that is no ISO 8601 text, each naming the column. `source` is the function's source.
    """

    def __init__(self, program: FeatureProgram) -> None:
        program.require_fitted()
        self.names = program.names
        self.categorical = program.categorical
        self._program = program

        writer = _Writer(program)
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
        """What the program looks up and a snapshot does not hold (`table: value`): it is null."""
        missing: list[str] = []
        for lookup in self._program.lookups:
            held = online.values(lookup.table)
            missing += [f"{lookup.table}: {value}" for value in lookup.values if value not in held]
        return tuple(missing)

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
        if values is None:
            return None
        return tuple([None if position is None else values[position] for position in positions])

    return picked


class _Writer(Statements):
    """Writes the function of a program: reads columns, looks values up, computes features.

    `row` is the function's result, `inputs` are the request columns that it reads.
    """

    def __init__(self, program: FeatureProgram) -> None:
        super().__init__(ZoneInfo(program.timezone))
        self._program = program

        # Integers are no floats in a key: beyond 2^53 they would be other keys.
        exact = [lookup for lookup in program.lookups if _has_an_integer(program, lookup)]
        read = {node.name for node in program.nodes() if isinstance(node, Column)}
        in_keys: set[str] = {EVENT_TIME} if program.lookups else set()
        for lookup in program.lookups:
            in_keys.update(lookup.keys)
            if lookup not in exact:
                read.update(lookup.keys)
        self.inputs = tuple(name for name in program.request if name in read | in_keys)

        columns = {
            name: self._column(name, column.kind)
            for name, column in program.request.items()
            if name in read
        }
        for name, variable in columns.items():
            self.known[identity(Column(name))] = Atom(variable)

        keys = {
            lookup.name: [
                self._exact(name) if lookup in exact else columns[name] for name in lookup.keys
            ]
            for lookup in program.lookups
        }
        self._know_lookups(self._look_up(keys) if program.lookups else {})

        features = [
            self._feature(fold(feature.expression), program.vocabularies.get(feature.name, ()))
            for feature in program.features
        ]
        self.row = f"[{', '.join(features)}]"

    def _know_lookups(self, variables: Mapping[str, str]) -> None:
        """Let trees find what was looked up; no facts are a count of zero."""
        for node in self._program.nodes():
            if not isinstance(node, (Join, Rolling)) or identity(node) in self.known:
                continue
            value = variables[self._program.lookup(node).wide(value_name(node))]
            if isinstance(node, Rolling) and node.function == "count":
                count = self.let(f"0.0 if {value} is None else {value}", False)
                self.known[identity(node)] = count
            else:
                self.known[identity(node)] = Atom(value)

    def _column(self, name: str, kind: Kind) -> str:
        """A variable with a column of the request.

        What comes as its kind needs no reader, and nearly everything does.
        """
        variable, read = self.name(), self.bind(_reader(name, kind))
        self.lines.append(f"{variable} = get({name!r})")

        others = f"if {variable} is not None: {variable} = {read}({variable})"
        match kind:
            case "string":
                self.lines.append(f"if type({variable}) is not str and {others[3:]}")
            case "boolean":
                self.lines.append(f"if type({variable}) is not bool and {others[3:]}")
            case "datetime":
                self.lines += [
                    f"if type({variable}) is datetime and {variable}.tzinfo is UTC:",
                    f" if not EARLIEST <= {variable} < LATEST: {variable} = None",
                    f"el{others}",
                ]
            case "integer":
                self.lines += [
                    f"if type({variable}) is int:",
                    f" try: {variable} = float({variable})",
                    f" except OverflowError: {variable} = None",
                    f"el{others}",
                ]
            case "float":
                self.lines += [
                    f"if type({variable}) is float:",
                    f" if not {LOWEST!r} <= {variable} <= {HIGHEST!r}: {variable} = None",
                    f"el{others}",
                ]
        return variable

    def _moment(self, name: str) -> str:
        """A variable with a datetime of the request, however far away."""
        variable, read = self.name(), self.bind(_moment(name, bounded=False))
        self.lines += [
            f"{variable} = get({name!r})",
            f"if type({variable}) is not datetime or {variable}.tzinfo is not UTC: "
            f"{variable} = {read}({variable})",
        ]
        return variable

    def _exact(self, name: str) -> str:
        """A variable with a column as it stands in a key beside integers."""
        kind = self._program.request[name].kind
        if kind == "datetime":
            return self._moment(name)
        if kind != "integer":
            return self._column(name, kind)

        variable, read = self.name(), self.bind(_reader(name, kind))
        self.lines += [
            f"{variable} = get({name!r})",
            f"if type({variable}) is not int: {variable} = {read}({variable})",
        ]
        return variable

    def _look_up(self, keys: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Variables with the values of all lookups, by their names in the wide frame."""
        event_time = self._moment(EVENT_TIME)
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
            values, row = [self.name() for _ in lookup.values], self.name()
            key = "".join(f"{name}, " for name in keys[lookup.name])
            self.lines += [
                f"{row} = {find}(({key}), predicted_at, {lookup.within})",
                f"if {row} is None: {' = '.join(values)} = None",
                f"else: {', '.join(values)}, = {row}",
            ]
            for name, kind in zip(values, lookup.kinds, strict=True):
                if kind == "datetime":
                    outside = f"{name} is not None and not EARLIEST <= {name} < LATEST"
                    self.lines.append(f"if {outside}: {name} = None")
            variables |= dict(zip(map(lookup.wide, lookup.values), values, strict=True))
        return variables

    def _feature(self, root: Node, vocabulary: Sequence[str]) -> str:
        """A feature as the model sees it: a float, NaN for missing, a code for a category."""
        if isinstance(root, Category):
            text = self.compute(root.operand)
            codes = {word: float(index + 1) for index, word in enumerate(vocabulary)}
            coded = f"{self.bind(codes.get)}({text.text}, 0.0)"
            return f"NAN if {text.text} is None else {coded}" if text.null else coded

        value = self.compute(root)
        # Adding zero makes a float of a bool and 0.0 of -0.0.
        seen = f"{value.text} + 0.0 if {-FLOAT32_MAX!r} <= {value.text} <= {FLOAT32_MAX!r} else NAN"
        return f"NAN if {value.text} is None else {seen}" if value.null else seen


def _has_an_integer(program: FeatureProgram, lookup: Lookup) -> bool:
    return any(program.request[key].kind == "integer" for key in lookup.keys)


def _no_event_time() -> None:
    raise ValueError(
        f"the request has no {EVENT_TIME!r}, which its lookups need; "
        "send it as ISO 8601 text with a UTC offset"
    )


def _reader(name: str, kind: Kind) -> Callable[[Any], Any]:
    """Brings a value of a request column into the form that a program computes with."""
    if kind == "string":
        return _checked(name, str, "text")
    if kind == "boolean":
        return _checked(name, bool, "true or false")
    if kind == "datetime":
        return _moment(name, bounded=True)
    return _finite(name)


def _wrong(name: str, value: object, expected: str) -> TypeError:
    return TypeError(
        f"request column {name!r} holds {value!r} ({type(value).__name__}); it must be {expected}"
    )


def _checked(name: str, kind: type, expected: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if value is None or isinstance(value, kind):
            return value
        raise _wrong(name, value, expected)

    return read


def _finite(name: str) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        if value is None:
            return None
        if not isinstance(value, (int, float)):
            raise _wrong(name, value, "a number")
        try:
            number = float(value)
        except OverflowError:
            return None
        # A NaN lies within no limits.
        return number if LOWEST <= number <= HIGHEST else None

    return read


def _moment(name: str, *, bounded: bool) -> Callable[[Any], datetime | None]:
    """Reads a datetime as UTC; one without an offset counts as UTC."""

    def read(value: Any) -> datetime | None:
        if value is None:
            return None
        if isinstance(value, str):
            value = parsed(value)
        elif not isinstance(value, datetime):
            raise _wrong(name, value, "a datetime as ISO 8601 text")

        if value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        elif value.tzinfo is not UTC:
            try:
                value = value.astimezone(UTC)
            except OverflowError:
                return None
        return value if not bounded or EARLIEST <= value < LATEST else None

    def parsed(text: str) -> datetime:
        try:
            return datetime.fromisoformat(text)
        except ValueError as error:
            raise ValueError(
                f"request column {name!r} holds {text!r}, which is no ISO 8601 datetime "
                f"such as {_EXAMPLE}"
            ) from error

    return read
