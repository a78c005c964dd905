"""A finished day is monitored while the next one is ingested; a retrain waits for what was delivered by its day."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from assets.data.ingest import ingest
from assets.names import day_range
from assets.retraining.decide import Evidence, decide, save_decision
from resources.keys import Keys
from resources.lake import Lake
from resources.landing import Landing
from resources.ledger import Ledger
from resources.reports import Reports
from sensors import decisions, nightly
from sensors.requests import CAUSE, RANGE_END, RANGE_START, REQUEST
from tests.support.tiny import DAY, FIRST, land, tiny

DECIDED = FIRST + 8 * DAY
TODAY = DECIDED + DAY
RETRAINING, *_ = decisions.build(tiny)


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    landing = Landing(uri=str(tmp_path / "landing"))
    land(landing, last=TODAY, rows=2)
    return landing


@pytest.fixture
def reports(tmp_path: Path) -> Reports:
    reports = Reports(uri=str(tmp_path / "reports"), url="http://reports")
    save_decision(
        reports,
        decide(
            Evidence(pipeline=tiny.name, day=DECIDED, features="f", champion=None), tiny.retraining
        ),
    )
    return reports


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(uri=str(tmp_path / "lake"))


def ingest_days(landing: Landing, lake: Lake, first: date, last: date) -> None:
    """Raw rows and (empty) features of some days, as the nightly run stores them."""
    wanted = day_range(first, last)
    for source in tiny.sources:
        ingest(tiny, source, wanted, landing, lake)
    lake.write("tiny/features", pl.DataFrame(schema={"date": pl.Date}), wanted)


def stages(asked: list[dg.RunRequest] | dg.SkipReason) -> dict[str, tuple[str, str]]:
    return {
        request.tags[REQUEST].split(":")[1]: (request.tags[RANGE_START], request.tags[RANGE_END])
        for request in asked
        if isinstance(request, dg.RunRequest)
    }


@pytest.fixture
def stores(landing: Landing, lake: Lake, tmp_path: Path) -> nightly.Stores:
    ledger = Ledger(path=str(tmp_path / "ledger.db"), signer=Keys(path=str(tmp_path / "keys")))
    undecided = Reports(uri=str(tmp_path / "undecided"), url="http://reports")
    return nightly.Stores(landing, lake, undecided, ledger)


def test_both_stages_are_requested_at_once(
    instance: dg.DagsterInstance, stores: nightly.Stores
) -> None:
    ingest_days(stores.landing, stores.lake, FIRST, DECIDED)
    asked = nightly.next_requests(instance, tiny, stores, cause="arrival")
    assert stages(asked) == {
        "ingest": (str(TODAY), str(TODAY)),
        "monitor": (str(DECIDED), str(DECIDED)),
    }
    # While the first of them is under way, the second is asked for alone.
    assert not isinstance(asked, dg.SkipReason)
    instance.add_run(
        dg.DagsterRun(
            job_name=asked[0].job_name or "",
            tags=dict(asked[0].tags),
            status=dg.DagsterRunStatus.STARTED,
        )
    )
    asked = nightly.next_requests(instance, tiny, stores, cause="nightly")
    assert list(stages(asked)) == ["monitor"]


def test_a_forged_materialization_makes_no_day_skip(
    instance: dg.DagsterInstance, stores: nightly.Stores
) -> None:
    ingest_days(stores.landing, stores.lake, FIRST, DECIDED)
    for name in ("features", "retraining_decision"):
        for day in (DECIDED, TODAY, TODAY + DAY):
            forged = dg.AssetMaterialization([tiny.name, name], partition=str(day))
            instance.report_runless_asset_event(forged)
    asked = nightly.next_requests(instance, tiny, stores, cause="arrival")
    assert set(stages(asked)) == {"ingest", "monitor"}


def test_a_day_whose_files_changed_is_due_again_and_alone(
    instance: dg.DagsterInstance, stores: nightly.Stores
) -> None:
    ingest_days(stores.landing, stores.lake, FIRST, TODAY)
    again = FIRST + 3 * DAY
    header = b"machine,degrees,event_time,known_at\n"
    (name,) = (
        file.name for file in Path(stores.landing.place("tiny", "heat", again)).glob("*.csv")
    )
    stores.landing.put("tiny", "heat", again, name, header)

    asked = nightly.next_requests(instance, tiny, stores, cause="arrival")
    assert stages(asked)["ingest"] == (str(again), str(again))
    assert not isinstance(asked, dg.SkipReason)
    assert asked[0].tags[CAUSE] == "redelivery"
    ingest_days(stores.landing, stores.lake, again, again)
    assert "ingest" not in stages(nightly.next_requests(instance, tiny, stores, cause="arrival"))


def tick(
    instance: dg.DagsterInstance, reports: Reports, landing: Landing, lake: Lake
) -> dg.RunRequest | str | None:
    resources = {"reports": reports, "landing": landing, "lake": lake}
    result = RETRAINING.evaluate_tick(dg.build_sensor_context(instance, resources=resources))
    return result.run_requests[0] if result.run_requests else result.skip_message


def test_a_retrain_waits_for_the_day_as_of_which_it_trains(
    instance: dg.DagsterInstance, landing: Landing, reports: Reports, lake: Lake
) -> None:
    ingest_days(landing, lake, FIRST, DECIDED)
    assert (
        tick(instance, reports, landing, lake)
        == f"{TODAY} was delivered and has no features yet; the training set waits for them"
    )
    tags = {
        REQUEST: f"tiny:ingest:{TODAY}:{TODAY}:abc",
        RANGE_START: str(TODAY),
        RANGE_END: str(TODAY),
    }
    running = instance.add_run(
        dg.DagsterRun(job_name="tiny_nightly", tags=tags, status=dg.DagsterRunStatus.STARTED)
    )
    ingest_days(landing, lake, TODAY, TODAY)
    assert (
        tick(instance, reports, landing, lake)
        == f"{tags[REQUEST]} is under way; the training set waits for it"
    )
    instance.report_run_failed(running)
    request = tick(instance, reports, landing, lake)
    assert isinstance(request, dg.RunRequest)
    assert request.tags["evergreen/as_of"] == str(TODAY)
