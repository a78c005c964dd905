"""Bundles with scikit-learn's models at a real endpoint: exact answers, beside a champion of trees, on every route."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bundle.golden import golden_rows
from bundle.models.model import FILES, TOLERANCE
from bundle.records import reader
from tests.support.endpoint import DAY, NAME, Place, program, request, snapshot
from tests.support.estimators import KINDS, Kind, estimator_model

URL = f"/predict/{NAME}"


def install(place: Place, kind: Kind) -> str:
    found = estimator_model(kind)
    golden = golden_rows(program(), found, [request(number) for number in range(20)], snapshot())
    table = None if kind == "LogisticRegression" else found.table()
    return place.install(model=found, golden=golden, table=table)


@pytest.mark.parametrize("kind", KINDS)
def test_an_estimator_answers_exactly_beside_a_champion_of_trees(
    tmp_path: Path, kind: Kind
) -> None:
    place, found = Place.new(tmp_path), estimator_model(kind)
    champion = place.release()
    candidate = install(place, kind)
    asked = [request(number) for number in range(300)]
    with place.server() as server:
        place.wait(champion)
        # The server runs already, without scikit-learn; the candidate brings it along.
        place.desire((champion, 0.5), (candidate, 0.5))
        place.wait(candidate)
        single = [server.client.post(URL, json=each).json() for each in asked[:60]]
        batch = server.client.post(URL, json={"instances": asked}).json()["predictions"]
        assert (
            {answer["bundle"] for answer in single}
            == {answer["bundle"] for answer in batch}
            == {champion, candidate}
        )
        place.desire((candidate, 1.0))
        place.wait_for_serial()
        alone = server.client.post(URL, json={"instances": asked}).json()["predictions"]
        explanations = server.client.post(
            f"/explain/{NAME}", json={"instances": asked[:50]}
        ).json()["explanations"]
        described = server.client.get(f"/v2/models/{NAME}").json()
    records = {record.id: record for record in reader.read(place.predictions, DAY).records}
    answers = [answer for answer in (*single, *batch, *alone) if answer["bundle"] == candidate]
    assert len(answers) > 300
    matrix = np.array(
        [
            [np.nan if value is None else value for value in records[answer["id"]].row]
            for answer in answers
        ],
        dtype=np.float32,
    )
    expected = found.calibration.apply(found.margin_of_many(matrix))
    np.testing.assert_allclose(
        [answer["prediction"] for answer in answers], expected, rtol=0, atol=TOLERANCE
    )
    unit = "probability" if kind == "RandomForest" else "log odds"
    for explained, answer in zip(explanations, alone, strict=False):
        assert explained["unit"] == unit
        assert explained["base_value"] + sum(
            part["contribution"] for part in explained["contributions"]
        ) == pytest.approx(explained["margin"], abs=1e-4)
        assert explained["probability"] == pytest.approx(answer["prediction"], abs=TOLERANCE)
    assert described["versions"] == [candidate]
    assert described["platform"] == "evergreen_scikit_learn"


def test_an_altered_estimator_is_not_served(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    champion = place.release()
    candidate = install(place, "RandomForest")
    altered = place.root / "bundles" / candidate / FILES["scikit-learn"]
    altered.write_bytes(altered.read_bytes() + b"\0")
    with place.server() as server:
        place.wait(champion)
        place.desire((candidate, 1.0))
        actual = place.wait_for_error("model.skops was altered")
        assert (actual.ready, actual.bundles) == (True, (champion,))
        assert server.client.post(URL, json=request(1)).json()["bundle"] == champion
