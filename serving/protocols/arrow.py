"""Batches as Arrow IPC streams: columns in, columns out, without a text in between.

Bodies are untrusted: rows are counted before any column is read, compressed buffers are refused (a
small body could unpack to gigabytes), and every array is validated in full before its values are
used. pyarrow is imported with the first such request. Source:
https://arrow.apache.org/docs/format/Columnar.html, format/Message.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from bundle.features.columns import Column, Texts
from bundle.manifest import RequestField
from serving.contract.contract import Columns, Contract
from serving.contract.refusal import Refusal
from serving.delivery.answers import Answers

KIND = b"application/vnd.apache.arrow.stream"
# So many texts of a column tell whether most of them differ.
_SAMPLE = 256


def decode(contract: Contract, body: bytes) -> Columns:
    """Checked columns of an IPC stream whose columns are those of the request. Raises Refusal."""
    import pyarrow as pa

    try:
        columns = _columns(body, contract)
    except (
        pa.ArrowException,
        ValueError,
        OverflowError,
        OSError,
        struct.error,
        IndexError,
        NotImplementedError,
    ):
        # What pyarrow, and Python at names and texts that are no UTF-8, find wrong with bytes.
        raise _malformed() from None
    return contract.check_columns(columns)


def encode(answers: Answers) -> bytes:
    """Answers as an IPC stream: id, prediction, bundle, arm, online_as_of and ood of each row."""
    import pyarrow as pa

    table = pa.table(
        {
            "id": _ids(answers),
            "prediction": pa.array(answers.outputs, pa.float64()),
            "bundle": _often_one(answers.bundles, pa.string()),
            "arm": _often_one(answers.arms, pa.string()),
            "online_as_of": pa.repeat(pa.scalar(answers.online_as_of, pa.string()), len(answers)),
            "ood": pa.array(answers.ood, pa.list_(pa.string()))
            if any(answers.ood)
            else _nothing(len(answers)),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _ids(answers: Answers) -> Any:
    """`answers.ids`, without an object for each."""
    import pyarrow as pa

    prefix, count = answers.prefix.encode(), len(answers)
    digits = np.frombuffer(
        answers.numbers.astype(">i8").tobytes().hex().encode(), dtype=np.uint8
    ).reshape(count, 16)
    ids = np.empty((count, len(prefix) + 12), dtype=np.uint8)
    ids[:, : len(prefix)], ids[:, len(prefix) :] = (
        np.frombuffer(prefix, dtype=np.uint8),
        digits[:, 4:],
    )
    ends = np.arange(count + 1, dtype=np.int32) * np.int32(ids.shape[1])
    return pa.StringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(ids))


def _often_one(values: Sequence[Any], kind: Any) -> Any:
    """An array of values that are mostly all equal."""
    import pyarrow as pa

    return (
        pa.repeat(pa.scalar(values[0], kind), len(values))
        if len(set(values)) == 1
        else pa.array(values, kind)
    )


def _nothing(count: int) -> Any:
    """Empty lists of texts."""
    import pyarrow as pa

    return pa.ListArray.from_arrays(
        pa.array(np.zeros(count + 1, dtype=np.int32)), pa.array([], pa.string())
    )


def _columns(body: bytes, contract: Contract) -> dict[str, Column | list[Any]]:
    """The request's columns, with plain values where they are no plain arrays. Raises Refusal, or
    whatever pyarrow, struct and Python find wrong."""
    schema, batches = _batches(body, contract)
    names = schema.names
    for name in names:
        if name not in contract.fields:
            raise Refusal(
                422,
                "unknown_field",
                f"There is no such column; columns are {', '.join(contract.names)}.",
            )
        if names.count(name) > 1:
            raise Refusal(
                422, "duplicate_field", f"The column {name} is there more than once.", name
            )
    for name in contract.names:
        if name not in names:
            raise Refusal(422, "missing_field", f"The column {name} is missing.", name)
        if not _fits(contract.fields[name], schema.field(name).type):
            raise Refusal(
                422,
                "type",
                f"The column {name} must have an Arrow type for {contract.fields[name].kind}.",
                name,
            )
    contract.check_count(sum(batch.num_rows for batch in batches))
    return {
        name: _column(
            [batch.column(names.index(name)) for batch in batches], contract.fields[name], contract
        )
        for name in contract.names
    }


def _malformed() -> Refusal:
    return Refusal(
        400, "arrow", "The body is not a valid Arrow IPC stream with columns of plain values."
    )


def _batches(body: bytes, contract: Contract) -> tuple[Any, list[Any]]:
    """Schema and validated record batches. Raises Refusal, or whatever pyarrow and struct find
    wrong."""
    import pyarrow as pa

    rows = 0
    messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
    for message in messages:
        if message.type not in ("record batch", "dictionary"):
            continue
        length, compressed = inspect(message.metadata.to_pybytes())
        if compressed:
            raise Refusal(415, "compression", "Arrow bodies must not be compressed.")
        if length < 0:
            raise _malformed()
        # A column of nulls has no bytes: rows must be counted by what the message says, not by its
        # size.
        if message.type == "record batch":
            rows += length
            if rows > contract.row_limit:
                contract.check_count(rows)
        elif length > len(body):
            raise _malformed()
    with pa.ipc.open_stream(
        pa.py_buffer(body), options=pa.ipc.IpcReadOptions(use_threads=False)
    ) as reader:
        batches = list(reader)
        for batch in batches:
            batch.validate(full=True)
        return reader.schema, batches


def _column(arrays: list[Any], field: RequestField, contract: Contract) -> Column | list[Any]:
    """One column from its arrays, which are of one type; plain values where they must be parsed."""
    from pyarrow import types

    kind = arrays[0].type
    if field.kind == "datetime" and types.is_timestamp(kind):
        return _numbers([_microseconds(array) for array in arrays], field)
    if field.kind == "string" and not types.is_null(kind):
        one = len(arrays) == 1
        texts = _texts(arrays[0], contract) if one else Texts(_all_values(arrays, contract))
        return Column("string", texts, texts.null)
    if field.kind in ("string", "datetime") or types.is_null(kind) or types.is_float16(kind):
        return _all_values(arrays, contract)
    return _numbers(arrays, field)


def _numbers(arrays: list[Any], field: RequestField) -> Column:
    """A column of numbers, moments or flags."""
    from pyarrow import types

    null = None
    if any(array.null_count for array in arrays):
        null = _joined([array.is_null().to_numpy(zero_copy_only=False) for array in arrays])
        filler = False if types.is_boolean(arrays[0].type) else 0
        arrays = [array.fill_null(filler) for array in arrays]

    values = _joined([array.to_numpy(zero_copy_only=False) for array in arrays])
    if field.kind == "float":
        values = values.astype(np.float64, copy=False)
    return Column(field.kind, values, null)


def _all_values(arrays: list[Any], contract: Contract) -> list[Any]:
    """Plain values of several arrays."""
    return list(chain.from_iterable(_values(array, contract) for array in arrays))


def _joined(arrays: list[Any]) -> Any:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _texts(array: Any, contract: Contract) -> Texts:
    from pyarrow import types

    if types.is_string_view(array.type):
        return Texts(_values(array, contract))
    coded = array if types.is_dictionary(array.type) else array[:_SAMPLE].dictionary_encode()
    # Many different texts cost less as they are, and a word that is null is none.
    if len(coded.dictionary) > len(coded) // 2:
        return Texts(_values(array, contract))
    if len(coded) < len(array):
        coded = array.dictionary_encode()
    words = _values(coded.dictionary, contract)
    if None in words:
        return Texts(_values(array, contract))
    return Texts(
        codes=coded.indices.cast("int64").fill_null(-1).to_numpy(zero_copy_only=False), words=words
    )


def _values(array: Any, contract: Contract) -> list[Any]:
    """Plain values of one array."""
    from pyarrow import types

    kind = array.type
    if types.is_dictionary(kind):
        texts = _values(array.dictionary, contract)
        return [None if index is None else texts[index] for index in array.indices.to_pylist()]
    if types.is_string_view(kind):
        _check_views(array, contract)
    values: list[Any] = array.to_pylist()
    return values


def _microseconds(array: Any) -> Any:
    """Timestamps in microseconds since 1970, as they are in the contract."""
    import pyarrow as pa

    # Only nanoseconds are cut off; a coarser unit that does not fit must not wrap around.
    return array.cast(pa.timestamp("us", array.type.tz), safe=array.type.unit != "ns").cast(
        pa.int64()
    )


def _check_views(array: Any, contract: Contract) -> None:
    """Raises Refusal for views of long texts: a thousand views of one text are a thousand copies of
    it once they are read."""
    # A view is 16 bytes, of which the first four are the length of its text, in bytes.
    lengths = np.frombuffer(array.buffers()[1], dtype="<i4")[
        4 * array.offset : 4 * (array.offset + len(array)) : 4
    ]
    if len(lengths) and lengths.max() > 4 * contract.text_limit:
        raise Refusal(422, "string", f"Texts must have up to {contract.text_limit} characters.")


def _fits(field: RequestField, kind: Any) -> bool:
    """Whether values of an Arrow type may be values of a field."""
    from pyarrow import types

    if types.is_null(kind):
        return field.nullable
    if types.is_dictionary(kind):
        kind = kind.value_type
        return field.kind in ("string", "datetime") and _is_text(kind)
    text = _is_text(kind)
    match field.kind:
        case "string":
            return text
        case "datetime":
            return text or bool(types.is_timestamp(kind) and kind.tz is not None)
        case "boolean":
            return bool(types.is_boolean(kind))
        case "integer":
            return bool(types.is_integer(kind))
    return bool(types.is_floating(kind) or types.is_integer(kind))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def inspect(metadata: bytes) -> tuple[int, bool]:
    """Rows of a record batch or dictionary message, and whether its buffers are compressed, from
    its flatbuffer.

    Message.fbs: Message {version, header_type, header, bodyLength}; RecordBatch {length, nodes,
    buffers, compression}; DictionaryBatch {id, data: RecordBatch, isDelta}. Raises struct.error or
    IndexError for bytes that are none.
    """
    record_batch, dictionary_batch = 3, 2
    message = struct.unpack_from("<I", metadata)[0]
    kind = metadata[_slot(metadata, message, 1)]
    table = _table(metadata, message, 2)
    if kind == dictionary_batch:
        table = _table(metadata, table, 1)
    elif kind != record_batch:
        raise IndexError("neither a record batch nor a dictionary")
    length = _slot(metadata, table, 0)
    return (struct.unpack_from("<q", metadata, length)[0] if length else 0), _slot(
        metadata, table, 3
    ) != 0


def _slot(content: bytes, table: int, field: int) -> int:
    """Place of a field of a flatbuffer table, 0 where it is left out."""
    vtable = table - struct.unpack_from("<i", content, table)[0]
    if vtable < 0:
        raise IndexError("a table without its description")
    if struct.unpack_from("<H", content, vtable)[0] < 6 + 2 * field:
        return 0
    offset: int = struct.unpack_from("<H", content, vtable + 4 + 2 * field)[0]
    return table + offset if offset else 0


def _table(content: bytes, table: int, field: int) -> int:
    """Place of a table that a field of a table points to."""
    place = _slot(content, table, field)
    if not place:
        raise IndexError("a table is missing")
    target: int = place + struct.unpack_from("<I", content, place)[0]
    return target
