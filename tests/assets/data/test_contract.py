"""Contracts: strict kinds, rules derived from the declaration, all days judged in one pass."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from assets.data import contract, docs
from assets.data.digest import combined_digest, content_digest, digests_by_day
from assets.data.ingest import Examined, RefusedBatchError, examine, ingest, store
from assets.data.parse import UNREADABLE, Landed, parse
from assets.data.raw import reader
from assets.names import quarantine_table, raw_table
from declare.source import Source, flag, integer, number, text, timestamp
from declare.tabular import Tabular
from resources.lake import Lake
from resources.landing import Landing
from tests.support.tiny import FIRST, tiny

DAY = date(2024, 1, 1)
HEADER = "id,town,size,count,open,seen,event_time,known_at"
STAMPS = "2024-01-01T08:00:00Z,2024-01-01T09:00:00Z"

shops = Source(
    "heat",
    keys=["id"],
    refuses_above=0.5,
    columns={
        "id": text(pattern=r"^s\d+$"),
        "town": text(values=("Bonn", "Köln")),
        "size": number(nullable=True, ge=0, le=10),
        "count": integer(nullable=True, ge=0),
        "open": flag(nullable=True),
        "seen": timestamp(nullable=True),
    },
)


def pipeline_of(source: Source) -> Tabular:
    """A pipeline with a source of our own in place of a joined one.

    Only its name and timezone matter here.
    """
    return tiny.model_copy(
        update={
            "sources": tuple(source if one.name == source.name else one for one in tiny.sources)
        }
    )


def csv(*lines: str) -> bytes:
    return ("\n".join([HEADER, *lines]) + "\n").encode()


def examined(*lines: str, source: Source = shops) -> Examined:
    return examine(pipeline_of(source), source, [Landed(DAY, "x.csv", csv(*lines))], [DAY])


def good(number: int) -> str:
    return f"s{number},Bonn,{number % 10}.5,{number},true,2024-01-01T07:00:00Z,{STAMPS}"


@pytest.fixture(autouse=True)
def _polars_columns() -> Iterator[None]:
    with pl.Config(tbl_cols=-1):
        yield


def test_cells_become_their_declared_kinds() -> None:
    rows = parse(
        shops,
        [
            Landed(
                DAY,
                "x.csv",
                csv(
                    "s1,Köln,1.5e0,7,true,2024-01-01T07:00:00.5+02:00," + STAMPS,
                    "s2,Bonn,,,,," + STAMPS,
                ),
            )
        ],
    ).rows
    first, second = rows.to_dicts()
    assert (first["town"], first["size"], first["count"], first["open"]) == ("Köln", 1.5, 7, True)
    assert first["seen"] == datetime(2024, 1, 1, 5, 0, 0, 500_000, UTC)
    assert (first["date"], first["known_at"]) == (DAY, datetime(2024, 1, 1, 9, tzinfo=UTC))
    assert [second[name] for name in ("size", "count", "open", "seen", UNREADABLE)] == [None] * 5


@pytest.mark.parametrize(
    ("column", "cell", "kind"),
    [
        ("size", "much", "float"),
        ("size", "NaN", "float"),
        ("size", "inf", "float"),
        ("size", "1e999", "float"),
        ("size", "1.000,5", "float"),
        ("size", " 5", "float"),
        ("count", "1.0", "integer"),
        ("count", "1e3", "integer"),
        ("count", "99999999999999999999", "integer"),
        ("open", "yes", "boolean"),
        ("open", "True", "boolean"),
        ("seen", "2024-01-01", "datetime"),
        ("seen", "2024-01-01T07:00:00", "datetime"),
        ("seen", "2024-13-01T07:00:00Z", "datetime"),
    ],
)
def test_a_cell_of_another_kind_is_never_guessed_at(column: str, cell: str, kind: str) -> None:
    cells = dict(zip(HEADER.split(","), good(1).split(","), strict=True)) | {column: f'"{cell}"'}
    result = examined(",".join(cells.values()), good(2))
    assert result.broken["reason"].to_list() == [f"{column}: '{cell}' is no {kind}"]
    assert result.rows["id"].to_list() == ["s2"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f",Bonn,1,1,true,,{STAMPS}", "id is null"),
        (f"x1,Bonn,1,1,true,,{STAMPS}", r"id does not match ^s\d+$"),
        (f"s1,Trier,1,1,true,,{STAMPS}", "town is none of Bonn, Köln"),
        (f"s1,,1,1,true,,{STAMPS}", "town is null"),
        (f"s1,Bonn,-0.1,1,true,,{STAMPS}", "size lies outside 0 to 10"),
        (f"s1,Bonn,10.1,1,true,,{STAMPS}", "size lies outside 0 to 10"),
        (f"s1,Bonn,1,-1,true,,{STAMPS}", "count lies outside 0 to ∞"),
        ("s1,Bonn,1,1,true,,,2024-01-01T09:00:00Z", "event_time is null"),
        ("s1,Bonn,1,1,true,,2024-01-01T08:00:00Z,", "known_at is null"),
        (
            "s1,Bonn,1,1,true,,2024-01-01T08:00:00Z,2024-01-02T00:00:01Z",
            "known_at lies after the day of delivery",
        ),
        (f"s1,Trier,11,1,true,,{STAMPS}", "size lies outside 0 to 10; town is none of Bonn, Köln"),
        (f"s1,Bonn,much,-1,true,,{STAMPS}", "size: 'much' is no float; count lies outside 0 to ∞"),
        (f"s1,Bonn,1,1,true,,x,{STAMPS.split(',')[1]}", "event_time: 'x' is no datetime"),
    ],
)
def test_a_broken_row_goes_to_quarantine_with_reason_file_and_row(line: str, reason: str) -> None:
    result = examined(good(2), line, good(3))
    (broken,) = result.broken.to_dicts()
    assert sorted(broken["reason"].split("; ")) == sorted(reason.split("; "))
    assert (broken["date"], broken["file"], broken["row"]) == (DAY, "x.csv", 2)
    assert json.loads(broken["record"])["id"] == (line.split(",")[0] or None)
    assert result.rows["id"].to_list() == ["s2", "s3"]
    assert result.refused is None


def test_rows_with_the_same_key_and_known_at_are_all_set_aside() -> None:
    later = good(1).replace("T09:00", "T10:00")
    result = examined(good(1), good(1), later, good(2))
    assert result.broken["row"].to_list() == [1, 2]
    assert set(result.broken["reason"]) == {"id and known_at occur more than once in the delivery"}
    assert result.rows["id"].to_list() == ["s1", "s2"]


def test_the_same_row_in_two_deliveries_is_no_duplicate() -> None:
    """What is broken does not depend on how many days a run takes."""
    files = [
        Landed(DAY + timedelta(days=offset), "x.csv", csv(good(1), good(2))) for offset in range(2)
    ]
    result = examine(pipeline_of(shops), shops, files, [DAY, DAY + timedelta(days=1)])
    assert result.broken.height == 0
    assert [figures.rows for figures in result.figures] == [2, 2]


def test_results_come_by_day_from_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    judge = contract.judge
    monkeypatch.setattr(
        contract, "judge", lambda source, rows: passes.append(rows.height) or judge(source, rows)
    )
    range_of = [DAY + timedelta(days=offset) for offset in range(4)]
    bad = f"s9,Trier,1,1,true,,{STAMPS}"
    files = [
        Landed(
            day, "x.csv", csv(*(good(index) for index in range(4)), *([bad] if offset % 2 else []))
        )
        for offset, day in enumerate(range_of)
    ]
    result = examine(pipeline_of(shops), shops, files, range_of)
    assert passes == [18]
    assert [(day.day, day.rows, day.broken, day.stored) for day in result.figures] == [
        (range_of[0], 4, 0, 4),
        (range_of[1], 5, 1, 4),
        (range_of[2], 4, 0, 4),
        (range_of[3], 5, 1, 4),
    ]
    one_by_one = [
        examine(pipeline_of(shops), shops, [file], [file.day]).digest for file in files if file.day
    ]
    assert [figures.digest for figures in result.figures] == one_by_one


def test_a_batch_beyond_the_declared_share_is_refused_whole(tmp_path: Path) -> None:
    lake, source = Lake(uri=str(tmp_path)), shops.model_copy(update={"refuses_above": 0.25})
    lines = [good(index) for index in range(6)] + [
        f"s{index},Trier,1,1,true,,{STAMPS}" for index in range(7, 9)
    ]
    assert examined(*lines, source=source).refused is None
    result = examined(*lines, f"s9,Trier,1,1,true,,{STAMPS}", source=source)
    with pytest.raises(RefusedBatchError) as caught:
        store(pipeline_of(source), result, lake)
    message = str(caught.value)
    for word in (
        "source 'heat'",
        "2024-01-01",
        "nothing was written",
        "3 of 9 rows (33.3%)",
        "at most 25.0%",
        "town is none of Bonn, Köln (3 rows)",
        "'x.csv', row 7",
        "Correct the files",
    ):
        assert word in message
    assert not lake.exists(raw_table("tiny", "heat"))
    assert not lake.exists(quarantine_table("tiny", "heat"))


def test_a_refused_day_refuses_its_range() -> None:
    files = [
        Landed(DAY, "x.csv", csv(good(1))),
        Landed(DAY + timedelta(days=1), "x.csv", csv(f"s1,Trier,1,1,true,,{STAMPS}")),
    ]
    result = examine(pipeline_of(shops), shops, files, [DAY, DAY + timedelta(days=1)])
    assert "2024-01-02" in str(result.refused)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no readable table"),
        (b"\xff\xfe\n1\n", "lacks column"),
        (csv(good(1) + ",1"), "is no readable table"),
        (csv(good(1)).replace(b",town", b",city"), "lacks column 'town'; it has id, city"),
        (
            csv(good(1)).replace(b"\n", b",1\n").replace(b"known_at,1", b"known_at,extra"),
            "has column 'extra', which the source does not declare",
        ),
        (csv(good(1)).replace(b"size", b"town"), "lacks column 'size'"),
        (csv(good(1)).replace(b"Bonn", b"\xff"), "is no readable table"),
    ],
)
def test_a_file_that_is_no_table_of_the_source_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=r"source 'heat': file 'x.csv' of 2024-01-01 ") as caught:
        parse(shops, [Landed(DAY, "x.csv", content)])
    assert words in str(caught.value)


def test_parquet_is_read_by_the_same_rules(tmp_path: Path) -> None:
    plain = parse(
        shops, [Landed(DAY, "x.csv", csv(good(1), f"s2,Trier,,,false,,{STAMPS}"))]
    ).rows.select(HEADER.split(","))
    plain.with_columns(pl.col("count").cast(pl.Int32)).write_parquet(tmp_path / "x.parquet")
    from_parquet = examine(
        pipeline_of(shops),
        shops,
        [Landed(DAY, "x.parquet", (tmp_path / "x.parquet").read_bytes())],
        [DAY],
    )
    assert from_parquet.rows.equals(examined(good(1)).rows)
    assert from_parquet.broken["reason"].to_list() == ["town is none of Bonn, Köln"]


def test_a_batch_without_rows_keeps_every_contract() -> None:
    result = examined()
    assert result.refused is None
    assert result.figures[0].rows == 0
    assert result.rows.schema == examined(good(1)).rows.schema


def test_equal_content_has_equal_digests_whatever_its_order() -> None:
    lines = [good(index) for index in range(20)]
    forward, backward = examined(*lines), examined(*reversed(lines))
    assert forward.digest == backward.digest
    assert forward.rows.equals(backward.rows)
    assert examined(*lines[:-1]).digest != forward.digest


def test_digests_tell_null_from_empty_and_survive_storage(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "date": [DAY, DAY],
            "a": ["", None],
            "b": [0.1 + 0.2, None],
            "t": [datetime(2024, 1, 1, 0, 0, 0, 1, UTC), None],
        }
    )
    assert content_digest(frame) != content_digest(frame.with_columns(pl.col("a").fill_null("")))
    assert content_digest(frame) != content_digest(frame.with_columns(pl.col("b").cast(pl.String)))
    assert content_digest(frame) == content_digest(frame.select(reversed(frame.columns)).reverse())
    frame.write_parquet(tmp_path / "x.parquet")
    assert content_digest(frame) == content_digest(pl.read_parquet(tmp_path / "x.parquet"))
    by_day = digests_by_day(frame, [DAY, DAY + timedelta(days=1)])
    assert by_day[DAY] == content_digest(frame)
    assert by_day[DAY + timedelta(days=1)] == content_digest(frame.clear())
    assert combined_digest([by_day[DAY]]) == by_day[DAY]


def test_quarantine_is_replaced_when_corrected_files_are_ingested(tmp_path: Path) -> None:
    landing, lake, pipeline = (
        Landing(uri=str(tmp_path / "landing")),
        Lake(uri=str(tmp_path / "lake")),
        pipeline_of(shops),
    )
    landing.put(
        "tiny", "heat", FIRST, "x.csv", csv(good(1), good(2), f"s3,Trier,1,1,true,,{STAMPS}")
    )
    ingest(pipeline, shops, [FIRST], landing, lake)
    assert lake.read(quarantine_table("tiny", "heat"))["reason"].to_list() == [
        "town is none of Bonn, Köln"
    ]
    landing.put("tiny", "heat", FIRST, "x.csv", csv(good(1), good(2), good(3)))
    ingest(pipeline, shops, [FIRST], landing, lake)
    assert lake.read(quarantine_table("tiny", "heat")).height == 0
    assert reader(lake, "tiny")("heat", FIRST, FIRST).collect()["id"].to_list() == [
        "s1",
        "s2",
        "s3",
    ]


def test_every_declared_rule_becomes_an_expectation() -> None:
    said = [str(expectation.notes) for expectation in contract.expectations(shops)]
    assert said == [
        "every cell reads as its declared kind",
        "id is null",
        "town is null",
        "event_time is null",
        "known_at is null",
        r"id does not match ^s\d+$",
        "town is none of Bonn, Köln",
        "size lies outside 0 to 10",
        "count lies outside 0 to ∞",
        "id and known_at occur more than once in the delivery",
        "known_at lies after the day of delivery",
    ]


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [good(1), good(2)],
        [good(1), good(2), f"s3,<b>Trier</b>,1,1,true,,{STAMPS}"],
    ],
    ids=["no rows", "clean", "broken"],
)
def test_every_day_has_its_pages_and_data_docs_that_load_nothing_from_elsewhere(
    lines: list[str],
) -> None:
    result = examined(*lines)
    pages = docs.pages(docs.report("tiny", result, DAY), result)
    assert set(pages) == {"index.html", docs.DATA_DOCS}
    for name, content in pages.items():
        page = content.decode()
        assert "default-src 'none'" in page, name
        for outside in ("<script", "<link", "<img", "<iframe", 'src="http', "url(http", "url('"):
            assert outside not in page, (name, outside)


def test_pages_show_the_broken_rule_and_escape_landed_text() -> None:
    result = examined(good(1), good(2), f"s3,<b>Trier</b>,1,1,true,,{STAMPS}")
    pages = docs.pages(docs.report("tiny", result, DAY), result)
    assert "town is none of" in pages["index.html"].decode()
    for name, page in pages.items():
        assert "<b>Trier" not in page.decode(), name
        assert "&lt;b&gt;Trier" in page.decode(), name
    assert "town is none of Bonn, Köln | 1 |" in docs.markdown(result)


def test_data_docs_show_every_rule_with_its_outcome() -> None:
    rules = len(contract.expectations(shops))
    kept, failed = "fa-check-circle text-success", "fa-times text-danger"

    # One icon more speaks of the whole validation.
    clean = docs.data_docs(examined(good(1), good(2))).decode()
    assert (clean.count(kept), clean.count(failed)) == (rules + 1, 0)

    broken = docs.data_docs(examined(good(1), good(2), f"s3,Trier,1,1,true,,{STAMPS}")).decode()
    assert (broken.count(kept), broken.count(failed)) == (rules - 1, 2)
    assert "Trier" in broken


def test_whole_numbers_beside_nulls_are_judged_exactly() -> None:
    """As floats, the two keys would be one and the same."""
    numbered = shops.model_copy(update={"keys": ("id", "count"), "refuses_above": 0.0})
    big = 2**53
    lines = [
        f"s1,Bonn,1,{big},true,,{STAMPS}",
        f"s1,Bonn,1,{big + 1},true,,{STAMPS}",
        f"s1,Bonn,1,,,,{STAMPS}",
    ]
    result = examined(*lines, source=numbered)
    assert result.broken.rows() == []
    assert result.rows["count"].to_list() == [None, big, big + 1]
