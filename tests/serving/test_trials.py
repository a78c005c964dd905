"""Bundles on trial: scored beside the answers or answering a share, and harmless whatever they do."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bundle.manifest import load
from bundle.records import reader
from bundle.records.record import Trial
from bundle.records.writer import Writer
from serving.callers.calls import Call
from serving.delivery.answers import Numbering
from serving.delivery.failures import FailureLog
from serving.delivery.following.state import Served
from serving.delivery.predicting import predict_rows
from serving.delivery.shadow import WAITING_ROWS
from serving.options import Options
from tests.support.endpoint import DAY, NAME, SHOPS, TREE, Place, Running, request

URL = f"/predict/{NAME}"
SABOTEUR = TREE / "tests" / "support" / "saboteur"


def sabotaged(**faults: str) -> dict[str, str]:
    return {"PYTHONPATH": f"{SABOTEUR}:{TREE}", "SABOTAGE": json.dumps(faults)}


def ask(server: Running, numbers: range) -> list[dict[str, object]]:
    answers = [server.client.post(URL, json=request(number)) for number in numbers]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.json() for answer in answers]


def trials(place: Place, enough: Callable[[list[Trial]], bool]) -> list[Trial]:
    end = time.monotonic() + 20
    while not enough(found := reader.read_trials([place.trials], DAY)):
        assert time.monotonic() < end, f"{len(found)} trials"
        time.sleep(0.05)
    return found


def test_a_shadow_scores_every_answer_and_answers_nothing(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    champion, candidate = place.release(seed=0), place.install(seed=1)
    with place.server() as server:
        place.desire((champion, 1.0), shadows=(candidate,))
        assert place.wait_for_serial().shadows == (candidate,)
        answers = ask(server, range(40))
        assert {(answer["bundle"], answer["arm"]) for answer in answers} == {(champion, "champion")}
        found = {trial.id: trial for trial in trials(place, lambda found: len(found) == 40)}
        golden = server.client.get(f"/v2/models/{NAME}/golden").json()["bundles"]
    assert {each["bundle"] for each in golden} == {champion, candidate}
    assert {(trial.bundle, trial.arm, trial.failure) for trial in found.values()} == {
        (candidate, "shadow", None)
    }
    logged = reader.read(place.predictions, DAY).records
    assert {record.id for record in logged} == set(found) == {answer["id"] for answer in answers}, (
        "answers alone are in the prediction log"
    )
    bundle = load(place.root / "bundles" / candidate, place.public_key_path.read_bytes())
    for record in logged:
        row = [float("nan") if value is None else value for value in record.row]
        assert found[record.id].output == pytest.approx(bundle.model.predict_row(row), abs=1e-6)
        assert found[record.id].champion_output == record.output
    assert any(trial.champion_us is not None for trial in found.values())


def test_a_shadow_that_cannot_keep_up_misses_rows_and_delays_nobody(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    champion, candidate = place.release(seed=0), place.install(seed=1)
    with place.server(variables=sabotaged(**{candidate: "slow"})) as server:
        place.desire((champion, 1.0), shadows=(candidate,))
        place.wait_for_serial()
        for _ in range(5):
            answer = server.client.post(
                URL, json={"instances": [request(number) for number in range(300)]}
            )
            assert answer.status_code == 200
        scored = len(reader.read_trials([place.trials], DAY))
        assert scored < 1_500, "1,500 rows of 20 ms each were answered long before they were scored"
        metrics = server.admin.get("/metrics").text
        dropped = next(
            float(line.rsplit(" ", 1)[1])
            for line in metrics.splitlines()
            if line.startswith("evergreen_trials_total") and 'outcome="dropped"' in line
        )
        assert dropped >= 400
        server.kill()
    assert len(reader.read(place.predictions, DAY).records) == 1_500


@pytest.mark.parametrize(("fault", "why"), [("nan", "no probability"), ("raise", "RuntimeError")])
def test_where_a_challenger_fails_the_champion_answers(
    tmp_path: Path, fault: str, why: str
) -> None:
    place = Place.new(tmp_path)
    champion, candidate = place.release(seed=0), place.install(seed=1)
    with place.server(variables=sabotaged(**{candidate: fault})) as server:
        desired = place.desire((champion, 0.5), (candidate, 0.5))
        place.wait_for_serial()
        answers = ask(server, range(60))
        assert {(answer["bundle"], answer["arm"]) for answer in answers} == {(champion, "champion")}
        theirs = {f"order-{number}" for number in range(60) if desired.arm(f"order-{number}") == 1}
        failed = trials(place, lambda found: len(found) >= len(theirs))
    assert {trial.entity for trial in failed} == theirs
    assert {(trial.bundle, trial.arm, trial.output, trial.failure) for trial in failed} == {
        (candidate, "challenger", None, why)
    }


@pytest.mark.parametrize("role", ["challenger", "shadow"])
def test_a_bundle_that_fails_at_every_request_is_one_traceback_in_the_log(
    tmp_path: Path, role: str
) -> None:
    place = Place.new(tmp_path)
    champion, candidate = place.release(seed=0), place.install(seed=1)
    arms = ((champion, 0.01), (candidate, 0.99)) if role == "challenger" else ((champion, 1.0),)
    shadows = (candidate,) if role == "shadow" else ()
    with place.server(variables=sabotaged(**{candidate: "raise"})) as server:
        place.desire(*arms, shadows=shadows)
        place.wait_for_serial()
        ask(server, range(60))
        trials(place, lambda found: len(found) >= 50)
        text = server.log.read_text()
    assert text.count("Traceback") == 1
    assert text.count("RuntimeError: sabotage") == 1
    assert text.count(f"{role} {candidate} failed") == 1


def test_failures_are_told_once_a_period_with_their_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = FailureLog("toy", period_seconds=0.0)
    for number in range(5):
        failures.note("challenger", "b" * 64, 10, ValueError(f"number {number}"))
    failures.tell()
    failures.tell()
    first, line = [record.getMessage() for record in caplog.records]
    assert "challenger" in first
    assert "failed for 40 rows" in line
    assert "ValueError: number 4" in line
    patient = FailureLog("toy", period_seconds=3600.0)
    for _ in range(5):
        patient.note("challenger", "b" * 64, 10, ValueError("again"))
        patient.tell()
    assert len(caplog.records) == 3


def test_what_a_failing_challenger_leaves_to_be_noted_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place.new(tmp_path)
    champion, candidate = place.release(seed=0), place.install(seed=1)
    place.desire((champion, 0.01), (candidate, 0.99))
    options = Options(root=place.root, public_key=place.public_key_path)
    served = Served(NAME, options, place.public_key_path.read_bytes(), "worker")
    disk = threading.Event()

    def stuck(*arguments: object, **settings: object) -> Writer:
        disk.wait()
        return Writer(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("serving.delivery.shadow.Writer", stuck)
    try:
        served.refresh()
        view = served.view
        assert view is not None
        monkeypatch.setattr(view.arms[1].bundle, "predict_rows", broken)
        rows = [view.contract.decode_one(json.dumps(request(n)).encode()) for n in range(50)]
        theirs = sum(view.desired.arm(str(row[view.key])) for row in rows)
        for _ in range(30):
            calls = itertools.repeat(Call(time.monotonic()))
            assert len(predict_rows(served, view, rows, calls, Numbering())) == 50
        assert served.trials.waiting <= WAITING_ROWS
    finally:
        disk.set()
        served.close()
    counted = dict(served.trials.counted())
    assert WAITING_ROWS <= counted["failed"] <= WAITING_ROWS + 1, (
        "one more is in the thread's hands"
    )
    assert sum(counted.values()) == 30 * theirs


def broken(*arguments: object) -> None:
    raise RuntimeError("sabotage")


@pytest.mark.parametrize("fault", ["none", "nan", "raise"])
def test_many_rows_are_divided_between_the_arms_as_single_ones_are(
    tmp_path: Path, fault: str
) -> None:
    place = Place.new(tmp_path)
    champion, candidate = place.release(seed=0), place.install(seed=1)
    rows = [request(number) for number in range(120)]
    with place.server(variables=sabotaged(**{candidate: fault})) as server:
        desired = place.desire((champion, 0.5), (candidate, 0.5))
        place.wait_for_serial()
        answer = server.client.post(URL, json={"instances": rows})
        assert answer.status_code == 200, answer.text
        answers = answer.json()["predictions"]
        expected = [
            desired.arms[desired.arm(row["order_id"]) if fault == "none" else 0][0] for row in rows
        ]
        assert [found["bundle"] for found in answers] == expected
        single = [server.client.post(URL, json=row).json() for row in rows]
        assert [(found["arm"], found["ood"]) for found in answers] == [
            (found["arm"], found["ood"]) for found in single
        ]
        assert [found["prediction"] for found in answers] == pytest.approx(
            [found["prediction"] for found in single], abs=1e-6
        )
        metrics = server.admin.get("/metrics").text
        counted = {
            line.split('arm="')[1].split('"')[0]: int(float(line.split()[-1]))
            for line in metrics.splitlines()
            if line.startswith("evergreen_predictions_total")
        }
        assert counted == {
            found["arm"]: 2 * sum(other["arm"] == found["arm"] for other in answers)
            for found in answers
        }
        theirs = sum(desired.arm(row["order_id"]) for row in rows)
        if fault != "none":
            failed = trials(place, lambda found: len(found) >= 2 * theirs)
            assert len(failed) == 2 * theirs
            assert {trial.id for trial in failed[:theirs]} < {found["id"] for found in answers}
    logged = {record.id: record for record in reader.read(place.predictions, DAY).records}
    assert len(logged) == 240
    for sent, found in zip(rows, answers, strict=True):
        record = logged[found["id"]]
        stored = (record.entity, record.output, record.bundle, record.arm, record.request["amount"])
        assert stored == (
            sent["order_id"],
            found["prediction"],
            found["bundle"],
            found["arm"],
            sent["amount"],
        )


def test_a_candidate_that_ends_the_process_that_loads_it_ends_no_worker(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    champion, candidate = place.release(seed=0), place.install(seed=1)
    with place.server(variables=sabotaged(**{candidate: "crash"})) as server:
        for arms, shadows in (
            ([(champion, 1.0)], (candidate,)),
            ([(champion, 0.5), (candidate, 0.5)], ()),
            ([(candidate, 1.0)], ()),
        ):
            place.desire(*arms, shadows=shadows)
            actual = place.wait_for_error(
                f"bundle {candidate} ends the process that loads it (signal 11)"
            )
            assert (actual.ready, actual.bundles) == (True, (champion,))
            assert ask(server, range(3))[0]["bundle"] == champion
        assert server.process.poll() is None
        server.kill()
    # Nothing is left to go on with, so the first process tries it and ends; the next one knows better, and waits for what works.
    (place.root / NAME / "served.json").unlink()
    # The server may have been killed in the middle of another try, whose mark would warn the next.
    for mark in (place.root / NAME).glob(".loading-*"):
        mark.unlink()
    with (
        pytest.raises(AssertionError, match=r"not ready \(ended: -11\)"),
        place.server(variables=sabotaged(**{candidate: "crash"})),
    ):
        pass
    with place.server(ready=False, variables=sabotaged(**{candidate: "crash"})) as server:
        place.wait_for_error("ends the process that loads it")
        place.desire((champion, 1.0))
        place.wait_for_serial()
        assert ask(server, range(3))[0]["bundle"] == champion


@pytest.mark.parametrize("workers", ["1", "2"])
def test_neither_start_nor_stop_waits_for_a_candidate_that_hangs(
    tmp_path: Path, workers: str
) -> None:
    place = Place.new(tmp_path)
    champion, candidate = place.release(seed=0), place.install(seed=1)
    with place.server():
        place.wait(champion)
    place.desire((champion, 0.5), (candidate, 0.5))
    with place.server("--workers", workers, variables=sabotaged(**{candidate: "hang"})) as server:
        # Both have less time than a rehearsal.
        assert {answer["bundle"] for answer in ask(server, range(20))} == {champion}
        assert server.stop() == 0


def test_callers_stay_on_their_arm_by_the_declared_key(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    champion, candidate = place.release(seed=0), place.install(seed=1)
    with place.server("--workers", "2") as server:
        arms: dict[object, set[object]] = {}
        desired = place.desire((champion, 0.5), (candidate, 0.5), split_by="shop")
        place.wait_for_serial()
        for number in range(40):
            sent = request(number)
            arms.setdefault(sent["shop"], set()).add(
                server.client.post(URL, json=sent).json()["bundle"]
            )
        assert arms == {
            shop: {desired.arms[desired.arm(str(shop))][0]} for shop in {*SHOPS, "nowhere"}
        }
        place.desire((champion, 0.5), (candidate, 0.5), split_by="no_such_column")
        place.wait_for_error("key 'no_such_column' is no column of a request")
