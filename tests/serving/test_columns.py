"""Many rows are computed as columns: the same refusals, answers and records as for rows one by one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from bundle import signing
from bundle.features.columns import Column, Texts, column
from bundle.features.moments import moment, plain_moments
from bundle.features.program import EARLIEST, LATEST
from bundle.manifest import Bundle, from_files
from bundle.models.bounds import learn
from bundle.models.model import TOLERANCE
from serving.contract.checks import matching
from serving.contract.contract import MANY_ROWS, Columns, Contract, Row, rows_of
from serving.contract.refusal import Refusal
from serving.delivery.answers import Answers
from serving.protocols import arrow, inference
from serving.protocols.tensors import DATATYPES
from tests.support.endpoint import CONTRACT, files, request, snapshot

COUNT = MANY_ROWS + 4
NAMES = list(CONTRACT)
# What a client may write in place of a value: right, wrong, and right in an unusual way.
TOKENS = [
    "null", "true", "false", "0", "-0", "1", "3", "50", "51", "-1", "1.0", "-0.0", "1e2", "0.5", "1000", "1000.0001", "1e400", "NaN", "Infinity",
    "9007199254740993", "9223372036854775807", "9223372036854775808", "1" * 400, '""', '"west"', '"card"', '"coin"', '"cheque"', '"1"', '"order-4"',
    '"Order 4"', '"order-4\\n"', '"x\\u0079"', '"é"', '"\\ud800"', f'"{"w" * 1000}"', f'"{"w" * 1001}"', "[]", "{}", '{"a":1}',
    '"2024-01-10T12:00:00Z"', '"2024-01-10T12:00:00"', '"2024-01-10T12:00:00.123456+05:30"', '"1899-12-31T23:59:59Z"', '"2200-01-01T00:00:00Z"',
    '"0001-01-01T00:00:00+14:00"', '"9999-12-31T23:59:59-14:00"', '"2024-02-30T00:00:00Z"', '"2024-01-10"', "",
]  # fmt: skip


@lru_cache(maxsize=1)
def bundle() -> Bundle:
    key = signing.new_key()
    return from_files(files(key), signing.public_key(key))


@lru_cache(maxsize=1)
def contract() -> Contract:
    return Contract(bundle().manifest, 300, 1000)


def outcome(ask: Callable[[], list[Row] | Columns]) -> Any:
    """Rows as they were understood, or what was refused."""
    try:
        found = ask()
    except Refusal as refusal:
        return (refusal.status, refusal.field, refusal.rule)
    rows = found if isinstance(found, list) else rows_of(found)
    return [[(name, type(value), value) for name, value in row.items()] for row in rows]


def body(changes: list[tuple[int, str, str]], extra: str = "") -> bytes:
    rows = [
        {name: json.dumps(value) for name, value in request(number).items()}
        for number in range(COUNT)
    ]
    for place, name, token in changes:
        rows[place][name] = token
    texts = [
        "{" + ",".join(f'"{name}":{token}' for name, token in row.items()) + "}" for row in rows
    ]
    return ('{"instances":[' + ",".join(texts) + extra + "]}").encode()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, COUNT - 1), st.sampled_from(NAMES), st.sampled_from(TOKENS)),
        max_size=2,
    ),
    st.sampled_from(["", "", "", "", ",{}", ',{"shop":"west","shop":"west"}', ",1", " ", "]"]),
)
def test_a_body_is_understood_or_refused_as_row_by_row(
    changes: list[tuple[int, str, str]], extra: str
) -> None:
    sent = body(changes, extra)
    assert outcome(lambda: contract().decode_many(sent)) == outcome(
        lambda: contract().decode(sent)[0]
    )


def test_what_is_right_becomes_columns_and_duplicate_and_unknown_fields_are_refused() -> None:
    assert not isinstance(contract().decode_many(body([])), list)
    assert not isinstance(
        contract().decode_many(
            body([(3, "items", "null"), (5, "promised", "null"), (0, "amount", "7")])
        ),
        list,
    )
    for name, rule in (("shop", "duplicate_field"), ("shop2", "unknown_field")):
        twice = body([]).replace(b'"express"', f'"{name}":"west","express"'.encode(), 1)
        assert outcome(lambda twice=twice: contract().decode_many(twice)) == outcome(
            lambda twice=twice: contract().decode(twice)[0]
        )
        assert outcome(lambda twice=twice: contract().decode_many(twice))[2] == rule
    many = json.dumps({"instances": [request(number) for number in range(301)]}).encode()
    assert outcome(lambda: contract().decode_many(many)) == (413, "instances", "rows")


numbers = st.sampled_from(
    [0.0, -0.0, 1.0, 3.0, 50.0, 51.0, -1.0, 1000.0, 1000.5, math.nan, math.inf, -math.inf, 5e-324]
)
integers = st.sampled_from([0, 1, 50, 51, -1, 2**53 + 1, 2**63 - 1, -(2**63)])
texts = st.sampled_from(
    ["west", "card", "coin", "order-4", "order-4\n", "Order", "", "w" * 1000, "w" * 1001, "é"]
)
moments = st.sampled_from(
    [
        EARLIEST,
        LATEST,
        datetime(2024, 1, 10, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, tzinfo=UTC),
    ]
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "float": numbers, "integer": integers, "string": texts, "boolean": st.booleans(), "datetime": moments,
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_column_is_refused_where_its_values_one_by_one_are(data: st.DataObject) -> None:
    columns: dict[str, Column | list[Any]] = {
        name: [request(number)[name] for number in range(COUNT)] for name in NAMES
    }
    for name, field in CONTRACT.items():
        if field.kind == "datetime":
            columns[name] = [value and datetime.fromisoformat(value) for value in columns[name]]  # type: ignore[union-attr]
    plain = {name: list(values) for name, values in columns.items()}
    for name in data.draw(st.sets(st.sampled_from(NAMES), min_size=1, max_size=3)):
        field = CONTRACT[name]
        for place in data.draw(st.lists(st.integers(0, COUNT - 1), max_size=3)):
            plain[name][place] = data.draw(st.none() | VALUES[field.kind])
        made = column(field.kind, plain[name])
        if field.kind == "string" and data.draw(st.booleans()):
            # Words that nobody uses are nobody's fault.
            codes, words = made.texts.coded
            coded = Texts(codes=codes, words=[*words, "Not Allowed\n"])
            made = Column("string", coded, coded.null)
        columns[name] = made
    assert outcome(lambda: contract().check_columns(columns)) == outcome(
        lambda: contract().check_columns(plain)
    )


PATTERNS = [
    r"^a+$",
    r"^a*$",
    r"^[a-c]{1,2}\d?$",
    r"^[a-z]*[a-z]*1$",
    r"^\w+-\d{2}$",
    r"^a|1$",
    r"^[^a]+$",
    "a$",
    "^a.1$",
    r"^a\$",
]


@given(st.sampled_from(PATTERNS), st.lists(st.text("ab1-\n$", max_size=4), max_size=6))
def test_texts_match_a_pattern_together_where_each_of_them_does(
    pattern: str, texts: list[str]
) -> None:
    # A final $ is the end of the text, before which no line may end.
    alone = re.compile(pattern.removesuffix("$") + r"\Z" if pattern != r"^a\$" else pattern)
    assert matching(pattern)(texts) == all(alone.search(text) for text in texts)


def test_a_pattern_that_matches_in_many_ways_is_refused_in_time() -> None:
    assert not matching("^[a-z]*[a-z]*[a-z]*$")(["a" * 30] * 300 + ["!"])


@pytest.mark.parametrize(
    "first", ["many alike, then others", "others, then many alike", "all alike"]
)
def test_texts_of_arrow_are_read_however_many_differ(first: str) -> None:
    alike, others = ["order-1"] * 270, [f"order-{number}" for number in range(30)]
    ids = {"m": [*alike, *others], "o": [*others, *alike], "a": alike}[first[0]]
    rows = [{**request(number), "order_id": text} for number, text in enumerate(ids)]
    kinds = {
        "string": pa.string(),
        "integer": pa.int64(),
        "float": pa.float64(),
        "boolean": pa.bool_(),
        "datetime": pa.timestamp("us", "UTC"),
    }
    columns = {}
    for name, field in CONTRACT.items():
        values = [row[name] for row in rows]
        if field.kind == "datetime":
            values = [value and datetime.fromisoformat(value) for value in values]
        columns[name] = pa.array(values, kinds[field.kind])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.table(columns).schema) as writer:
        writer.write_table(pa.table(columns))
    sent = json.dumps({"instances": rows}).encode()
    assert (
        rows_of(arrow.decode(contract(), sink.getvalue().to_pybytes()))
        == contract().decode(sent)[0]
    )


def test_predictions_and_what_lies_outside_are_those_of_the_rows() -> None:
    rows = [
        {**request(number), "shop": ("west", "nowhere", "east")[number % 3]}
        for number in range(200)
    ]
    sent = json.dumps({"instances": rows}).encode()
    columns, one_by_one = contract().decode_many(sent), contract().decode(sent)[0]
    assert not isinstance(columns, list)
    found, online = bundle(), snapshot()
    matrix, outputs = found.predict_columns(columns, online)
    values, expected = found.predict_rows(one_by_one, online)
    assert np.array_equal(matrix, np.array(values, dtype=np.float32), equal_nan=True)
    assert np.allclose(outputs, expected, atol=TOLERANCE)
    narrow = learn(matrix[:50], found.program.names, found.program.categorical)
    outside = narrow.one(found.program.names)
    assert narrow.many(found.program.names)(matrix) == {
        place: outside(row) for place, row in enumerate(values) if outside(row)
    }


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1),
            st.sampled_from(["a", 'b"']),
            st.sampled_from([(), ("x",), ('"', "y,z")]),
        ),
        min_size=1,
    )
)
def test_answers_are_written_as_json_is(rows: list[tuple[float, str, tuple[str, ...]]]) -> None:
    outputs, arms, ood = (list(part) for part in zip(*rows, strict=True))
    answers = Answers(
        "f" * 20,
        np.arange(2**40, 2**40 + len(rows)),
        outputs,
        ["b" * 64] * len(rows),
        arms,
        ood,
        None,
    )
    expected = [
        {
            "id": f"{'f' * 20}{2**40 + place:012x}",
            "prediction": output,
            "bundle": "b" * 64,
            "arm": arm,
            "online_as_of": None,
            "ood": outside,
        }
        for place, (output, arm, outside) in enumerate(rows)
    ]
    assert answers.json() == msgspec.json.encode({"predictions": expected})


def tensors(changes: list[tuple[int, str, str]], extra: str) -> bytes:
    """The rows of `body` as input tensors."""
    tokens: dict[str, list[str]] = {
        name: [json.dumps(request(number)[name]) for number in range(COUNT)] for name in NAMES
    }
    for place, name, token in changes:
        tokens[name][place] = token
    inputs = [
        f'{{"name":"{name}","shape":[{COUNT}],"datatype":"{DATATYPES[CONTRACT[name].kind][0]}","data":[{",".join(values)}]}}'
        for name, values in tokens.items()
    ]
    return ('{"inputs":[' + ",".join(inputs) + "]" + extra + "}").encode()


def inferred(decode: Callable[[], inference.Asked]) -> Any:
    """What was understood of an inference, or refused."""
    try:
        asked = decode()
    except Refusal as refusal:
        return (refusal.status, refusal.field, refusal.rule, refusal.error)
    return outcome(lambda: asked.columns), asked.id, asked.outputs


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, COUNT - 1), st.sampled_from(NAMES), st.sampled_from(TOKENS)), max_size=2),
    st.sampled_from(
        [
            "", "", "", ',"id":"mine"', ',"id":""', ',"id":null', ',"id":"a","id":"b"', ',"outputs":[]', ',"outputs":[{"name":"prediction"}]',
            ',"outputs":[{"name":"x"}]', ',"outputs":[{"name":"ood","name":"ood"}]', ',"parameters":{"binary_data_output":true}', ',"inputs":[]',
            ',"parameters":{"a":1,"a":1}', ',"more":1', "]",
        ]
    ),
)  # fmt: skip
def test_columns_of_json_are_understood_or_refused_as_value_by_value(
    changes: list[tuple[int, str, str]], extra: str
) -> None:
    sent = tensors(changes, extra)
    found = inferred(lambda: inference.decode(contract(), sent))
    assert found == inferred(lambda: inference.decode_any(contract(), sent, None))


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        (b'"name":"shop"', b'"name":"x","name":"shop"'), (b'"name":"shop"', b'"name":"items"'), (b'"name":"shop"', b'"name":"promised.is_null"'),
        (b'"data":["', b'"data":[],"data":["'), (b"[%d]" % COUNT, b"[%d.0]" % COUNT), (b"[%d]" % COUNT, b"[%d,2]" % COUNT), (b"INT64", b"FP64"),
        (b'"datatype"', b'"parameters":{"binary_data_size":1},"datatype"'), (b'"datatype"', b'"parameters":{"content_type":"x"},"datatype"'),
        (b"INT64", b"INT8"), (b'"data":', b'"values":'), (b"", b" "), (b"", b"\xef\xbb\xbf"), (b'"name"', b'"n\\u0061me"'), (b"shop", b"sh\xffp"),
    ],
)  # fmt: skip
def test_inferences_of_columns_are_understood_or_refused_as_value_by_value(
    there: bytes, instead: bytes
) -> None:
    sent = tensors([], "").replace(there, instead, 1)
    found = inferred(lambda: inference.decode(contract(), sent))
    assert found == inferred(lambda: inference.decode_any(contract(), sent, None))


PARTS = (
    ("0000", "0001", "1969", "1900", "2024", "2100", "9999"),
    ("00", "01", "02", "12", "13"),
    ("00", "01", "28", "29", "30", "31", "32"),
)
CLOCK = (
    ("T", "t", " "),
    ("00", "23", "24"),
    ("00", "59", "60"),
    ("00", "59", "60"),
    ("Z", "z", "+", "ZZ", "é"),
)


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(*map(st.sampled_from, PARTS)),
    st.tuples(*map(st.sampled_from, CLOCK)),
    st.integers(0, 19),
    st.sampled_from([*"/:x- \0", ""]),
)
def test_times_read_together_are_those_read_one_by_one(
    day: tuple[str, ...], clock: tuple[str, ...], place: int, other: str
) -> None:
    right = "2024-02-29T23:59:58Z"
    sign, *numbers, end = clock
    for text in (
        "-".join(day) + sign + ":".join(numbers) + end,
        right[:place] + other + right[place + 1 :],
    ):
        try:
            expected = moment(msgspec.convert(text, datetime))
        except (msgspec.ValidationError, TypeError):
            expected = None
        found = plain_moments([right, text])
        assert found is None or found.tolist() == [moment(datetime.fromisoformat(right)), expected]
        if expected is not None and text[10] == "T" and text[-1] == "Z":
            assert found is not None
    assert plain_moments([right, None]) is plain_moments([right[:-1], "Z" + right]) is None
