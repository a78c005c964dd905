"""A finished day is monitored while the next one is ingested; a retrain waits for what was delivered by its day."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from assets.retraining.decide import Evidence, decide, save_decision
from resources.keys import Keys
from resources.landing import Landing
from resources.ledger import Ledger
from resources.reports import Reports
from sensors import decisions, nightly
from sensors.requests import RANGE_END, RANGE_START, REQUEST
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


def done(instance: dg.DagsterInstance, asset: str, first: date, last: date) -> None:
    for offset in range((last - first).days + 1):
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                [tiny.name, asset], partition=(first + offset * DAY).isoformat()
            )
        )


def stages(asked: nightly.Asked) -> dict[str, tuple[str, str]]:
    return {
        request.tags[REQUEST].split(":")[1]: (request.tags[RANGE_START], request.tags[RANGE_END])
        for request in asked.requests
    }


def test_both_stages_are_requested_at_once(
    instance: dg.DagsterInstance, landing: Landing, tmp_path: Path
) -> None:
    ledger = Ledger(path=str(tmp_path / "ledger.db"), signer=Keys(path=str(tmp_path / "keys")))
    done(instance, "features", FIRST, DECIDED)
    asked = nightly.next_requests(
        instance, tiny, nightly.deliveries(tiny, landing), ledger, cause="arrival"
    )
    assert stages(asked) == {
        "ingest": (str(TODAY), str(TODAY)),
        "monitor": (str(DECIDED), str(DECIDED)),
    }
    assert asked.ingests
    # While the first of them is under way, the second is asked for alone.
    instance.add_run(
        dg.DagsterRun(
            job_name=asked.requests[0].job_name or "",
            tags=dict(asked.requests[0].tags),
            status=dg.DagsterRunStatus.STARTED,
        )
    )
    asked = nightly.next_requests(
        instance, tiny, nightly.deliveries(tiny, landing), ledger, cause="nightly"
    )
    assert list(stages(asked)) == ["monitor"]
    assert not asked.ingests
    assert "under way" in str(asked.skipped.skip_message)


def tick(
    instance: dg.DagsterInstance, reports: Reports, landing: Landing
) -> dg.RunRequest | str | None:
    context = dg.build_sensor_context(instance, resources={"reports": reports, "landing": landing})
    result = RETRAINING.evaluate_tick(context)
    return result.run_requests[0] if result.run_requests else result.skip_message


def test_a_retrain_waits_for_the_day_as_of_which_it_trains(
    instance: dg.DagsterInstance, landing: Landing, reports: Reports
) -> None:
    done(instance, "features", FIRST, DECIDED)
    done(instance, "retraining_decision", DECIDED, DECIDED)
    assert (
        tick(instance, reports, landing)
        == f"{TODAY} was delivered and has no features yet; the training set waits for them"
    )
    tags = {
        REQUEST: f"tiny:ingest:{TODAY}:{TODAY}:abc",
        RANGE_START: str(TODAY),
        RANGE_END: str(TODAY),
    }
    ingest = instance.add_run(
        dg.DagsterRun(job_name="tiny_nightly", tags=tags, status=dg.DagsterRunStatus.STARTED)
    )
    done(instance, "features", TODAY, TODAY)
    assert (
        tick(instance, reports, landing)
        == f"{tags[REQUEST]} is under way; the training set waits for it"
    )
    instance.report_run_failed(ingest)
    request = tick(instance, reports, landing)
    assert isinstance(request, dg.RunRequest)
    assert request.tags["evergreen/as_of"] == str(TODAY)
