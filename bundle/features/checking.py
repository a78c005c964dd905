"""Types of expressions: a mistake such as text + number fails where a pipeline is declared, not while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from bundle.features.expression import (
    Category,
    Column,
    Expression,
    Join,
    Literal as LiteralNode,
    Operation,
    Rolling,
    children,
    walk,
)
from bundle.features.program import EVENT_TIME, FeatureProgram, Kind, value_name

# "null" is the type of a literal null: it stands where any type does.
Type = Literal["number", "boolean", "text", "datetime", "null"]

TYPE_OF_KIND: dict[Kind, Type] = {
    "string": "text",
    "float": "number",
    "integer": "number",
    "boolean": "boolean",
    "datetime": "datetime",
}
ARITHMETIC = frozenset(
    {
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "neg",
        "abs",
        "clip",
        "log",
        "log1p",
        "sqrt",
        "sin",
        "cos",
    }
)
COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
LOGIC = frozenset({"and", "or", "not"})
DATE_PARTS = frozenset({"minute", "hour", "weekday", "day", "month", "day_of_year"})
NUMBERS = frozenset({"number", "boolean", "null"})
SYMBOLS = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and": "&", "or": "|",
}  # fmt: skip


class Types:
    """Types of trees over given columns. `looked_up` tells the type of a join or aggregate; without it there may be none."""

    def __init__(
        self, columns: Mapping[str, Type], looked_up: Callable[[Join | Rolling], Type] | None = None
    ) -> None:
        self._columns, self._looked_up = columns, looked_up

    def of(self, node: Expression) -> Type:
        """Type of a tree. Raises ValueError naming the part that does not fit."""
        match node:
            case LiteralNode(value=value):
                return _literal(value)
            case Column(name=name):
                if name not in self._columns:
                    raise ValueError(
                        f"column {name!r} is unknown here; known are {', '.join(sorted(self._columns))}"
                    )
                return self._columns[name]
            case Category(operand=operand):
                self._need(
                    node, operand, frozenset({"text", "null"}), "text; a number needs no category"
                )
                return "text"
            case Join() | Rolling():
                if self._looked_up is None:
                    raise ValueError(f"{show(node)} cannot stand here")
                return self._looked_up(node)
            case Operation():
                return self._operation(node)
        raise ValueError(f"unknown node {type(node).__name__}")

    def _operation(self, node: Operation) -> Type:
        name, operands = node.operator, node.operands
        if name in ARITHMETIC:
            for operand in operands:
                self._need(node, operand, NUMBERS, "numbers")
            return "number"
        if name in COMPARISONS:
            self._same(node, operands)
            return "boolean"
        if name in LOGIC:
            for operand in operands:
                self._need(
                    node,
                    operand,
                    frozenset({"boolean", "null"}),
                    "conditions (write x != 0 for a number)",
                )
            return "boolean"
        if name in DATE_PARTS:
            self._need(node, operands[0], frozenset({"datetime", "null"}), "a datetime")
            return "number"
        if name == "is_null":
            self.of(operands[0])
            return "boolean"
        if name == "if_else":
            self._need(
                node,
                operands[0],
                frozenset({"boolean", "null"}),
                "a condition (write x != 0 for a number)",
            )
            return self._same(node, operands[1:])
        if name == "fill_null":
            return self._same(node, operands)
        raise ValueError(f"operator {name!r} has no rule for types")

    def _need(
        self,
        node: Expression,
        operand: Expression,
        allowed: frozenset[Type] | frozenset[str],
        what: str,
    ) -> None:
        found = self.of(operand)
        if found not in allowed:
            raise ValueError(f"{show(node)} needs {what}, but {show(operand)} is {_article(found)}")

    def _same(self, node: Expression, operands: tuple[Expression, ...]) -> Type:
        first, second = (self.of(operand) for operand in operands)
        common = common_type(first, second)
        if common is None:
            raise ValueError(
                f"{show(node)} needs two values of one type, but {show(operands[0])} is {_article(first)} and {show(operands[1])} is {_article(second)}"
            )
        return common


def common_type(first: Type, second: Type) -> Type | None:
    """The type that holds both, None where there is none."""
    if first == second or second == "null":
        return first
    if first == "null":
        return second
    return "number" if {first, second} <= NUMBERS else None


def program_types(program: FeatureProgram) -> Types:
    """Types of the trees of a program."""

    def looked_up(node: Join | Rolling) -> Type:
        lookup = program.lookup(node)
        name = value_name(node)
        if name not in lookup.values:
            raise ValueError(
                f"lookup {lookup.name!r} has no value {name!r}; it has {', '.join(lookup.values)}"
            )
        return TYPE_OF_KIND[lookup.kinds[lookup.values.index(name)]]

    return Types(
        {name: TYPE_OF_KIND[column.kind] for name, column in program.request.items()}, looked_up
    )


def check_types(program: FeatureProgram) -> None:
    """Raises ValueError where a feature's tree mixes types or a lookup is incomplete, naming the feature and the part."""
    types = program_types(program)
    if len(set(program.names)) != len(program.names):
        raise ValueError(
            f"feature program of {program.pipeline!r} names a feature twice: {', '.join(program.names)}"
        )
    event = program.request.get(EVENT_TIME)
    if (program.lookups and event is None) or (event is not None and event.kind != "datetime"):
        raise ValueError(
            f"feature program of {program.pipeline!r} needs {EVENT_TIME!r} as a datetime of the request"
        )
    for lookup in program.lookups:
        if not len(lookup.values) == len(lookup.kinds) or not len(lookup.keys) == len(
            lookup.columns
        ):
            raise ValueError(
                f"lookup {lookup.name!r} is incomplete: values and kinds, keys and columns must pair up"
            )
        for key in lookup.keys:
            if key not in program.request:
                raise ValueError(
                    f"lookup {lookup.name!r} has key {key!r}, which is no request column; those are {', '.join(program.request)}"
                )
            if program.request[key].kind == "float":
                raise ValueError(
                    f"lookup {lookup.name!r} has key {key!r}, a float; equality of floats is no key, use text or an integer"
                )
    for feature in program.features:
        try:
            root = feature.expression
            found = types.of(root)
            for part in _below(root):
                if isinstance(part, Category):
                    raise ValueError(
                        f"{show(part)} stands inside another expression; a category is a feature of its own"
                    )
            if not isinstance(root, Category) and found not in NUMBERS:
                way = (
                    "wrap it as category(...)"
                    if found == "text"
                    else "take a part of it, such as .hour()"
                )
                raise ValueError(
                    f"{show(root)} is {_article(found)}, and a feature is a number or a category; {way}"
                )
        except ValueError as error:
            raise ValueError(f"feature {feature.name!r}: {error}") from error


def show(node: Expression) -> str:
    """A tree as it would be written, for messages."""
    match node:
        case LiteralNode(value=value):
            return repr(value)
        case Column(name=name):
            return f"col({name!r})"
        case Category(operand=operand):
            return f"category({show(operand)})"
        case Join(source=source, column=column):
            return f"join({source!r}).{column}"
        case Rolling(function=function, value=value, by=by, days=number):
            return f"{function}({show(value)}, by={by}, over=days({number}))"
        case Operation(operator=name, operands=operands):
            if name in SYMBOLS:
                return f"({show(operands[0])} {SYMBOLS[name]} {show(operands[1])})"
            return f"{name}({', '.join(show(operand) for operand in operands)})"
    return type(node).__name__


def _below(node: Expression) -> list[Expression]:
    return [part for child in children(node) for part in walk(child)]


def _literal(value: bool | int | float | str | None) -> Type:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"


def _article(kind: Type) -> str:
    return {
        "number": "a number",
        "boolean": "a condition",
        "text": "text",
        "datetime": "a datetime",
        "null": "null",
    }[kind]
