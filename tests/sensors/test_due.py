"""Which days are due, for what was delivered and processed."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given, strategies as st

from sensors.due import DAY, Due, data_day, due

START = date(2013, 1, 1)


def days(first: int, last: int) -> set[date]:
    return {START + DAY * offset for offset in range(first, last + 1)}


def test_nothing_is_due_before_every_source_has_delivered() -> None:
    assert due({"a": days(0, 3), "b": set()}, set(), set(), None, START) == []
    assert due({}, set(), set(), None, START) == []


def test_today_is_where_the_slowest_source_stands_and_a_gap_does_not_stop_it() -> None:
    assert data_day({"a": days(0, 9), "b": days(0, 3) | days(5, 7)}) == START + DAY * 7


def test_days_without_features_are_ingested_in_unbroken_ranges() -> None:
    delivered = {"a": days(0, 9), "b": days(0, 9)}
    assert due(delivered, days(0, 2) | days(5, 6), set(), None, START) == [
        Due("ingest", START + DAY * 3, START + DAY * 4)
    ]


def test_a_catch_up_after_days_off_is_one_range() -> None:
    assert due({"a": days(0, 30)}, days(0, 9), set(), None, START) == [
        Due("ingest", START + DAY * 10, START + DAY * 30)
    ]


def test_a_day_is_monitored_once_the_next_has_been_delivered() -> None:
    served = START + DAY * 5
    assert due({"a": days(0, 9)}, days(0, 9), days(5, 7), served, START) == [
        Due("monitor", START + DAY * 8, START + DAY * 8)
    ]
    assert due({"a": days(0, 9)}, days(0, 9), days(5, 8), served, START) == []


def test_a_finished_day_is_monitored_while_the_next_is_ingested() -> None:
    ingest, monitor = (
        Due("ingest", START + DAY * 9, START + DAY * 9),
        Due("monitor", START + DAY * 8, START + DAY * 8),
    )
    assert due({"a": days(0, 9)}, days(0, 8), days(5, 7), START + DAY * 5, START) == [
        ingest,
        monitor,
    ]
    assert due({"a": days(0, 9)}, days(0, 8), set(), None, START) == [ingest, monitor]


def test_a_day_that_was_delivered_again_is_monitored_once_it_is_ingested_again() -> None:
    (work,) = due({"a": days(0, 9)}, days(0, 3) | days(5, 9), days(0, 3) | days(5, 8), START, START)
    assert work == Due("ingest", START + DAY * 4, START + DAY * 4)


def test_before_anything_is_served_only_the_newest_finished_day_is_looked_at() -> None:
    assert due({"a": days(0, 9)}, days(0, 9), set(), None, START) == [
        Due("monitor", START + DAY * 8, START + DAY * 8)
    ]


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)), st.none() | st.integers(0, 40))
def test_working_through_what_is_due_ends_with_everything_done(
    featured: set[int], monitored: set[int], served: int | None
) -> None:
    delivered = {"a": days(0, 40)}
    features, monitors = {START + DAY * n for n in featured}, {START + DAY * n for n in monitored}
    since = None if served is None else START + DAY * served
    for _ in range(100):
        stages = due(delivered, features, monitors, since, START)
        if not stages:
            break
        for work in stages:
            span = {
                work.first + timedelta(days=n) for n in range((work.last - work.first).days + 1)
            }
            done = features if work.stage == "ingest" else monitors
            assert not span & done
            done |= span
    assert features >= days(0, 40)
    assert stages == []
