"""Candidates of scikit-learn: reproducible, judged like any other, and told which way a feature may move them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from assets.tabular.features.declared_program import program
from assets.tabular.training import candidate as candidates
from assets.tabular.training.manifest import TrainingRows, assemble
from bundle.models.loading import load_model
from declare.models import HistGradientBoosting, LogisticRegression, RandomForest
from declare.tabular import Tabular
from resources.lake import Lake
from tests.support.stored import stored_lake
from tests.support.tiny import DAY, FIRST, tiny

ROOT = Path(__file__).parents[2]
MODELS = {
    "LogisticRegression": LogisticRegression(),
    "RandomForest": RandomForest(trees=30, min_samples_leaf=5),
    "HistGradientBoosting": HistGradientBoosting(
        rounds=60, early_stopping=10, increasing=("load",), decreasing=("hour",)
    ),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("filled")
    stored_lake(place, [FIRST + offset * DAY for offset in range(45)])
    return place


@pytest.fixture(scope="module")
def rows(filled: Path) -> TrainingRows:
    return assemble(tiny, Lake(uri=str(filled / "lake")))


def declared(name: str) -> Tabular:
    return tiny.model_copy(update={"model": MODELS[name]})


@pytest.mark.parametrize("name", MODELS)
def test_a_candidate_of_scikit_learn_is_judged_like_any_other(
    name: str, rows: TrainingRows
) -> None:
    pipeline = declared(name)
    trained = candidates.train(pipeline, rows, "set", program(pipeline), {}, None)
    facts = candidates.CandidateFacts.decode(trained.files[candidates.FACTS])
    assert set(trained.files) == {"model.skops", "model.json", candidates.PROGRAM, candidates.FACTS}
    assert facts.parameters["estimator"] == name
    assert facts.study is None
    assert facts.rounds == {"RandomForest": 30}.get(name, facts.rounds)
    assert {"scikit-learn", "skops"} <= set(facts.environment)
    assert 0.4 < facts.metrics["test"]["log_loss"] < 0.65  # type: ignore[operator]
    assert sum(trained.gain.values()) == pytest.approx(1)
    assert max(trained.gain, key=lambda feature: trained.gain[feature]) == "load"
    model = load_model(trained.files)
    matrix = program(pipeline).fit(rows.part("train")).matrix(rows.part("test"))
    assert np.array_equal(model.margin_of_many(matrix), trained.model.margin_of_many(matrix))
    model.check_engines(matrix)
    if trained.curves:
        # Rounds after the best one are not kept.
        assert facts.rounds == int(np.argmin(trained.curves["validation"])) + 1
        assert len(trained.curves["validation"]) >= facts.rounds


def test_directions_hold_in_gradient_boosting(rows: TrainingRows) -> None:
    pipeline = declared("HistGradientBoosting")
    trained = candidates.train(pipeline, rows, "set", program(pipeline), {}, None)
    base = program(pipeline).fit(rows.part("train")).matrix(rows.part("test").head(1))
    for name, sign in (("load", 1), ("hour", -1)):
        sweep = np.repeat(base, 50, axis=0)
        sweep[:, trained.facts.features.index(name)] = np.linspace(0, 100, 50)
        assert (sign * np.diff(trained.model.predict(sweep)) >= -1e-9).all()


TRAIN = """
import sys
from assets.tabular.features.declared_program import program
from assets.tabular.training import candidate
from assets.tabular.training.manifest import assemble
from resources.artifacts import folder_digest
from resources.lake import Lake
from tests.assets.tabular.training.test_estimators import MODELS, declared
rows = assemble(declared("RandomForest"), Lake(uri=sys.argv[1]))
for name in MODELS:
    print(folder_digest(candidate.train(declared(name), rows, "set", program(declared(name)), {}, None).files))
"""


def test_fresh_processes_train_the_same_bytes(filled: Path) -> None:
    def run(threads: str) -> list[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "EVERGREEN_THREADS": threads,
            "OMP_NUM_THREADS": threads,
            "PYTHONHASHSEED": threads,
        }
        done = subprocess.run(
            [sys.executable, "-c", TRAIN, str(filled / "lake")],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split()

    one, two = run("1"), run("2")
    assert len(set(one)) == len(MODELS)
    assert one == two
