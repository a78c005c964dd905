"""What msgspec says of a wrong body, as a Refusal that has the field's path and no value."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bundle.manifest import RequestField
from serving.contract.fields import describe
from serving.contract.refusal import Refusal, shown

# The path comes last and holds no backtick, so that a field's name, which comes from outside,
# cannot forge one.
_PATH = re.compile(r".* - at `(?:key in )?\$?([^`]*)`$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(.*?)`( - at `[^`]*`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(.*?)`( - at `[^`]*`)?$", re.DOTALL)


def refusal_of(message: str, fields: Mapping[str, RequestField], text_limit: int) -> Refusal:
    """The refusal for a message of `msgspec.ValidationError`."""
    path = _PATH.match(message)
    place = path.group(1).lstrip(".") if path else ""
    where = place if not place or place.endswith(".") else place + "."

    if found := _UNKNOWN.match(message):
        name = shown(found.group(1))
        error = f"There is no field {name}; fields are {', '.join(fields)}."
        return Refusal(422, "unknown_field", error, where + name)

    if found := _MISSING.match(message):
        name = found.group(1)
        error = (
            f"The field {name} is missing; send null for a value that is not known, if it may be "
            "null."
        )
        return Refusal(422, "missing_field", error, where + name)

    # The longest name first: one name may be the end of another.
    for name in sorted(fields, key=len, reverse=True):
        if place == name or place.endswith("." + name):
            return out_of_contract(place[: -len(name)], name, fields[name], text_limit)

    return Refusal(
        422,
        "type",
        f"The body must be one JSON object with the fields {', '.join(fields)}, "
        'or {"instances": [such objects]}.',
        place or None,
    )


def out_of_contract(
    where: str, name: str, field: RequestField, text_limit: int, index: str = ""
) -> Refusal:
    """The refusal for a value that its field does not allow.

    `where` is the path before its name, `index` what follows it.
    """
    rule, says = describe(field, text_limit)
    return Refusal(422, rule, f"{name} must be {says}.", where + name + index)
