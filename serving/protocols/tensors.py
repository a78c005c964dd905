"""Tensors of the Open Inference Protocol, from whatever transport: their datatypes, their raw
bytes, and how they become rows.

Each column of a request is one input tensor of shape [n] or [n, 1]; texts and times travel as
BYTES. Raw tensors have no null: a nullable column may be accompanied by a BOOL tensor
`<column>.is_null`, and where that is true the value is not read. Source:
https://github.com/kserve/open-inference-protocol, and for raw bytes Triton's
extension_binary_data.md.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bundle.features.columns import Column, Texts
from bundle.features.moments import plain_moments
from serving.contract.contract import Columns, Contract
from serving.contract.refusal import Refusal
from serving.contract.strict import parse_place

if TYPE_CHECKING:
    from bundle.features.columns import Array

INTEGERS = ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
DATATYPES: dict[str, tuple[str, ...]] = {
    "string": ("BYTES",),
    "datetime": ("BYTES",),
    "boolean": ("BOOL",),
    "integer": INTEGERS,
    "float": ("FP64", "FP32", "FP16", *INTEGERS),
}
IS_NULL = ".is_null"
_LENGTH = struct.Struct("<I")
_NUMPY = {
    "FP64": "<f8",
    "FP32": "<f4",
    "FP16": "<f2",
    "INT64": "<i8",
    "INT32": "<i4",
    "INT16": "<i2",
    "INT8": "<i1",
    "UINT64": "<u8",
    "UINT32": "<u4",
    "UINT16": "<u2",
    "UINT8": "<u1",
    "BOOL": "<u1",
}


@dataclass(frozen=True)
class Tensor:
    """One input: its values flat, as a list of plain Python values, as raw little-endian bytes, or
    decoded already."""

    name: str
    datatype: str
    shape: Sequence[int]
    values: list[Any] | bytes | Column


def columns_of(contract: Contract, tensors: Sequence[Tensor]) -> Columns:
    """Checked columns of a request's input tensors. Raises Refusal."""
    named = _named(contract, tensors)
    count = _length(named[contract.entity])
    contract.check_count(count)

    columns = {name: _column(contract, name, named, count) for name in contract.names}
    return contract.check_columns(columns)


def _named(contract: Contract, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Tensors by name: one for every column, and masks of columns that may be null."""
    named: dict[str, Tensor] = {}
    for place, tensor in enumerate(tensors):
        base = tensor.name.removesuffix(IS_NULL)
        field = contract.fields.get(base)
        if field is None or (base != tensor.name and not field.nullable):
            raise Refusal(
                422,
                "unknown_field",
                f"There is no such input; inputs are {', '.join(contract.names)}.",
                f"inputs[{place}].name",
            )
        if tensor.name in named:
            raise Refusal(
                422,
                "duplicate_field",
                f"The input {tensor.name} is there more than once.",
                f"inputs[{place}].name",
            )
        named[tensor.name] = tensor

    for name in contract.names:
        if name not in named:
            raise Refusal(422, "missing_field", f"The input {name} is missing.", name)
    return named


def _column(
    contract: Contract, name: str, named: Mapping[str, Tensor], count: int
) -> Column | list[Any]:
    """One column of `count` rows; plain values where these are still to be checked."""
    kind = contract.fields[name].kind
    values = _values(named[name], DATATYPES[kind], count)
    mask = named.get(name + IS_NULL)
    null = None if mask is None else _mask(mask, count)

    if isinstance(values, Column):
        return values
    if not isinstance(values, list):
        numbers = values.astype(np.float64) if kind == "float" else values
        return Column(kind, numbers, null)

    if null is not None:
        pairs = zip(values, null.tolist(), strict=True)
        values = [None if missing else value for value, missing in pairs]

    # Raw bytes are what their datatype says; other plain values may be anything.
    raw = isinstance(named[name].values, bytes)
    if raw and kind == "string":
        texts = Texts(values)
        return Column(kind, texts, texts.null)
    if raw and (moments := plain_moments(values)) is not None:
        return Column(kind, moments)
    return values


def _mask(tensor: Tensor, count: int) -> Array:
    """Where the values of a column are null."""
    nulls = _values(tensor, ("BOOL",), count)
    assert not isinstance(nulls, Column), "no column is a mask"
    if isinstance(nulls, list):
        return np.array(_checked(nulls, list[bool], tensor.name))
    return nulls


def _length(tensor: Tensor) -> int:
    """n of the shape [n] or [n, 1]."""
    shape = tensor.shape
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1) or shape[0] < 0:
        raise _shape(tensor.name)
    return shape[0]


def _values(tensor: Tensor, allowed: Sequence[str], count: int) -> list[Any] | Array | Column:
    """`count` values of a tensor that has one of the `allowed` datatypes: an array where numbers
    came as raw bytes."""
    if tensor.datatype not in allowed:
        raise Refusal(
            422,
            "datatype",
            f"The input {tensor.name} must have the datatype {' or '.join(allowed)}.",
            tensor.name,
        )
    if _length(tensor) != count:
        raise _shape(tensor.name)
    values = tensor.values
    if isinstance(values, bytes):
        return (
            _unpacked(tensor.name, values, count)
            if tensor.datatype == "BYTES"
            else _numbers(tensor, values, count)
        )
    if isinstance(values, Column):
        if len(values) != count:
            raise _shape(tensor.name)
        return values
    if (
        len(tensor.shape) == 2
        and values
        and all(isinstance(item, list) and len(item) == 1 for item in values)
    ):
        values = [item[0] for item in values]
    if len(values) != count:
        raise _shape(tensor.name)
    return values


def _numbers(tensor: Tensor, raw: bytes, count: int) -> Array:
    kind = np.dtype(_NUMPY[tensor.datatype])
    if len(raw) != count * kind.itemsize:
        raise Refusal(
            422,
            "size",
            f"The raw bytes of the input {tensor.name} do not fit its datatype and shape.",
            tensor.name,
        )
    array = np.frombuffer(raw, dtype=kind)
    if tensor.datatype == "BOOL":
        if (array > 1).any():
            raise Refusal(
                422,
                "boolean",
                f"{tensor.name} must be true or false: one byte, 1 or 0.",
                tensor.name,
            )
        return array.astype(np.bool_)
    return array


def _unpacked(name: str, raw: bytes, count: int) -> list[Any]:
    """Texts of a raw BYTES tensor."""
    starts = _starts(raw, count)
    if raw.isascii():
        # One text for all of them is cut faster than each is decoded.
        whole = raw.decode()
        texts = [whole[start + 4 : end] for start, end in pairwise(starts) if end <= len(raw)]
    else:
        found = [raw[start + 4 : end] for start, end in pairwise(starts) if end <= len(raw)]
        try:
            texts = [text.decode() for text in found]
        except UnicodeDecodeError:
            index = next(index for index, text in enumerate(found) if not _is_text(text))
            raise Refusal(422, "utf-8", f"{name} must be UTF-8 text.", f"{name}[{index}]") from None
    if len(texts) != count or starts[-1] != len(raw):
        raise Refusal(
            422,
            "size",
            f"The raw bytes of the input {name} do not fit its datatype and shape.",
            name,
        )
    return texts


def _starts(raw: bytes, count: int) -> list[int]:
    """Where each text of a raw BYTES tensor begins, with its length, and where the last one ends;
    fewer where the bytes are too few."""
    starts, place = [0], 0
    try:
        # Nearly all texts are shorter than 256 bytes, and then one byte is their length.
        for _ in range(count):
            place += 4 + raw[place]
            starts.append(place)
    except IndexError:
        pass
    else:
        lengths = np.array(starts[:-1], dtype=np.int64)
        content = np.frombuffer(raw, dtype=np.uint8)
        if place == len(raw) and not any(content[lengths + byte].any() for byte in (1, 2, 3)):
            return starts
    starts, place = [0], 0
    with contextlib.suppress(struct.error):
        for _ in range(count):
            place += 4 + _LENGTH.unpack_from(raw, place)[0]
            starts.append(place)
    return starts


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _checked(values: list[Any], kind: Any, name: str) -> list[Any]:
    try:
        checked: list[Any] = msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise Refusal(
            422, "boolean", f"{name} must be true or false.", f"{name}{parse_place(error)}"
        ) from None
    return checked


def _shape(name: str) -> Refusal:
    return Refusal(
        422,
        "shape",
        f"The input {name} must have the shape [n] or [n, 1], and n values, n being the same for "
        "all.",
        name,
    )
