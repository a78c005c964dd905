"""The plain functions of training: calibration, baseline, tuning, threads, and reproducible candidates."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from assets.tabular.features.declared_program import program
from assets.tabular.training import (
    baseline as baselines,
    calibration,
    candidate as candidates,
    cpus,
    tuning,
)
from assets.tabular.training.boosting import direction
from assets.tabular.training.manifest import TrainingManifest, TrainingRows, assemble
from resources.lake import Lake
from resources.settings import settings
from tests.support.stored import stored_lake
from tests.support.tiny import FIRST, tiny

ROOT = Path(__file__).resolve().parents[2]
DAYS = [FIRST + timedelta(days=offset) for offset in range(45)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("training")
    stored_lake(place, DAYS)
    return place


@pytest.fixture(scope="module")
def rows(filled: Path) -> TrainingRows:
    return assemble(tiny, Lake(uri=str(filled / "lake")))


def test_platt_finds_the_line_that_scikit_learn_finds() -> None:
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(1)
    margin = random.normal(-1, 2, 5_000)
    y = (random.random(5_000) < calibration.sigmoid(0.6 * margin + 0.4)).astype(float)
    a, b = calibration.platt(margin, y)
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1_000).fit(margin[:, None], y)
    assert a == pytest.approx(fitted.coef_[0, 0], abs=1e-4)
    assert b == pytest.approx(fitted.intercept_[0], abs=1e-4)
    assert calibration.mean_log_loss(a * margin + b, y) < calibration.mean_log_loss(margin, y)


def test_calibration_is_kept_only_where_it_helps() -> None:
    random = np.random.default_rng(2)
    margin = random.normal(0, 2, 4_000)
    calibrated = (random.random(4_000) < calibration.sigmoid(margin)).astype(float)
    overconfident = (random.random(4_000) < calibration.sigmoid(0.4 * margin + 0.5)).astype(float)
    assert calibration.worthwhile(margin, overconfident) == calibration.platt(margin, overconfident)
    # Halves that pull in different directions are no reason to bend the model.
    shifted = np.concatenate(
        [
            calibrated[:2_000],
            (random.random(2_000) < calibration.sigmoid(margin[2_000:] + 1)).astype(float),
        ]
    )
    assert calibration.worthwhile(margin, shifted) is None
    assert calibration.worthwhile(margin, 1 - calibrated) is None
    assert calibration.worthwhile(margin, np.ones(4_000)) is None
    with pytest.raises(ValueError, match="both classes"):
        calibration.platt(margin, np.zeros(4_000))


@given(st.lists(st.floats(-800, 800), min_size=1, max_size=20))
@hypothesis_settings(max_examples=50, deadline=None)
def test_sigmoid_never_overflows(margins: list[float]) -> None:
    with np.errstate(over="raise"):
        found = calibration.sigmoid(np.array(margins))
    assert ((found >= 0) & (found <= 1)).all()


def matrix(n: int, seed: int) -> np.ndarray:
    """Numbers with and without missing values, one always missing, one constant; categories with codes, missing and unseen."""
    random = np.random.default_rng(seed)
    made = np.column_stack([
        random.normal(1e3, 1e2, n), random.normal(0, 1e-3, n), np.full(n, np.nan), np.full(n, 7.0),
        random.integers(0, 6, n), random.integers(1, 3, n),
    ]).astype(np.float32)  # fmt: skip
    made[random.random(n) < 0.1, 0] = np.nan
    made[random.random(n) < 0.1, 4] = np.nan
    return made


CATEGORICAL = (False, False, False, False, True, True)
NAMES = ("large", "small", "missing", "constant", "kind", "other")


@pytest.mark.parametrize("columns", [(0, 1, 2, 3, 4, 5), (0, 1), (4, 5), (4, 0, 5, 1)])
def test_the_baseline_predicts_what_scikit_learn_predicts(columns: Sequence[int]) -> None:
    made = matrix(3_000, 3)[:, columns]
    signal = np.nan_to_num(matrix(3_000, 3)[:, 0], nan=1e3)
    y = (
        np.random.default_rng(4).random(3_000)
        < calibration.sigmoid((signal.astype(float) - 1e3) / 100)
    ).astype(float)
    names, categorical = tuple(NAMES[c] for c in columns), tuple(CATEGORICAL[c] for c in columns)
    fitted, pipeline = baselines.fit(made, y, names, categorical)
    other = matrix(500, 5)[:, columns]
    for position, column in enumerate(columns):
        if column == 4:
            other[:20, position] = 200  # a code that training never saw
        if column == 1:
            other[:20, position] = np.nan  # missing for the first time
    stored = baselines.Baseline.decode(fitted.encode())
    assert fitted.converged
    np.testing.assert_allclose(
        stored.predict(other), pipeline.predict_proba(other.astype(float))[:, 1], rtol=0, atol=1e-9
    )


def test_a_baseline_refuses_rows_of_other_features() -> None:
    fitted, _ = baselines.fit(matrix(300, 1), np.arange(300) % 2.0, NAMES, CATEGORICAL)
    with pytest.raises(ValueError, match=r"rows of 6 features, not an array of shape \(300, 5\)"):
        fitted.predict(matrix(300, 1)[:, :5])
    with pytest.raises(msgspec.ValidationError):
        baselines.Baseline.decode(b'{"format": 1, "extra": 2}')


def test_the_baseline_of_a_training_set_is_judged_on_every_part(rows: TrainingRows) -> None:
    made = baselines.train(rows, "digest", program(tiny), 1.0)
    again = baselines.train(rows, "digest", program(tiny), 1.0)
    assert made.files == again.files
    assert set(made.files) == {baselines.FILE, baselines.PROGRAM, baselines.FACTS}
    assert 0.4 < made.facts.metrics["test"]["log_loss"] < 0.7  # type: ignore[operator]
    assert not any(
        content.startswith(b"\x80") for content in made.files.values()
    )  # how pickles begin


def test_directions_hold_in_the_trained_model(rows: TrainingRows) -> None:
    directed = tiny.model_copy(
        update={
            "model": tiny.model.model_copy(
                update={"increasing": ("load",), "decreasing": ("hour",)}
            )
        }
    )
    signs = {feature.name: direction(directed, feature) for feature in directed.features}
    assert signs["load"] == 1
    assert signs["hour"] == -1
    assert signs["fails_rate_by_machine_7d"] == 1
    assert signs["machine"] == signs["minutes_mean_3d"] == 0
    parameters = tuning.first_parameters(directed, rows.manifest.rows["train"])
    trained = candidates.train(directed, rows, "digest", program(directed), parameters, None)
    column = trained.facts.features.index("load")
    base = program(directed).fit(rows.part("train")).matrix(rows.part("test").head(1))
    sweep = np.repeat(base, 50, axis=0)
    sweep[:, column] = np.linspace(0, 100, 50)
    assert (np.diff(trained.model.predict(sweep)) >= 0).all()


def test_studies_go_on_where_they_were_killed(rows: TrainingRows) -> None:
    longer = tiny.model_copy(update={"model": tiny.model.model_copy(update={"trials": 9})})
    told: list[int] = []
    whole = tuning.run(
        longer, rows, "set", program(tiny), progress=lambda trials: told.append(len(trials))
    )
    assert told == list(range(1, 10))
    resumed = tuning.run(
        longer,
        rows,
        "set",
        program(tiny),
        tuning.decode_trials(tuning.encode_trials(whole.trials[:7])),
    )
    assert resumed.encode() == whole.encode()
    assert dict(whole.trials[0].parameters) == tuning.first_parameters(
        longer, rows.manifest.rows["train"]
    )
    assert len({str(trial.parameters) for trial in whole.trials}) == 9
    assert tuning.Study.decode(whole.encode()) == whole
    assert set(tuning.importances(longer, whole)) <= set(tuning.SPACE)
    assert tuning.history_figure(whole) is not None


def test_no_trials_give_cautious_parameters(rows: TrainingRows) -> None:
    none = tiny.model_copy(update={"model": tiny.model.model_copy(update={"trials": 0})})
    study = tuning.run(none, rows, "set", program(tiny))
    assert study.best is None
    assert study.parameters == tuning.first_parameters(none, rows.manifest.rows["train"])


def test_the_best_trial_wins_on_every_fold() -> None:
    def trial(number: int, *folds: float) -> tuning.Trial:
        return tuning.Trial(number, {}, float(np.mean(folds)), folds)

    first, lucky, steady = trial(0, 0.5, 0.5), trial(1, 0.3, 0.51), trial(2, 0.48, 0.49)
    assert tuning.best([first, lucky, steady]) == steady
    assert tuning.best([first, lucky]) == first
    assert tuning.best([]) is None


def test_a_study_is_reused_while_it_is_young_and_speaks_of_the_same(rows: TrainingRows) -> None:
    study = tuning.run(tiny, rows, "set", program(tiny))
    limit = tiny.model.study_age_days

    def at(days: int, **changes: object) -> TrainingManifest:
        return msgspec.structs.replace(
            rows.manifest, as_of=rows.manifest.as_of + timedelta(days=days), **changes
        )

    assert tuning.reusable(study, tiny, at(0)) is None
    assert tuning.reusable(study, tiny, at(limit - 1)) is None
    assert f"{limit} days old" in str(tuning.reusable(study, tiny, at(limit)))
    assert "after" in str(tuning.reusable(study, tiny, at(-1)))
    assert "features" in str(tuning.reusable(study, tiny, at(1, program_digest="other")))
    other = tiny.model_copy(update={"model": tiny.model.model_copy(update={"learning_rate": 0.2})})
    assert "declaration" in str(tuning.reusable(study, other, at(1)))
    younger = tiny.model_copy(update={"model": tiny.model.model_copy(update={"study_age_days": 3})})
    assert tuning.reusable(study, younger, at(2)) is None  # its age is no part of what was searched


TRAIN = """
import sys
from assets.tabular.features.declared_program import program
from assets.tabular.training import candidate, tuning
from assets.tabular.training.manifest import assemble
from resources.artifacts import folder_digest
from resources.lake import Lake
from tests.support.tiny import tiny
rows = assemble(tiny, Lake(uri=sys.argv[1]))
study = tuning.run(tiny, rows, "set", program(tiny))
print(folder_digest(candidate.train(tiny, rows, "set", program(tiny), study.parameters, "study").files))
"""


def test_fresh_processes_train_the_same_bytes(filled: Path) -> None:
    def run(threads: str) -> str:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "EVERGREEN_THREADS": threads,
            "PYTHONHASHSEED": threads,
        }
        done = subprocess.run(
            [sys.executable, "-c", TRAIN, str(filled / "lake")],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    one, two = run("1"), run("2")
    assert len(one) == 64
    assert one == two


def test_row_order_in_the_lake_does_not_matter(
    filled: Path, rows: TrainingRows, tmp_path: Path
) -> None:
    lake, other = Lake(uri=str(filled / "lake")), Lake(uri=str(tmp_path / "lake"))
    for table in ("tiny/features", "tiny/raw/results"):
        frame = lake.read(table)
        other.write(table, frame.sample(fraction=1.0, shuffle=True, seed=1), lake.days(table))
    again = assemble(tiny, other)
    assert again.manifest.encode() == rows.manifest.encode()
    assert again.frame.equals(rows.frame)


def test_facts_of_a_candidate_hold_no_clock_and_no_tracking(rows: TrainingRows) -> None:
    trained = candidates.train(
        tiny, rows, "set", program(tiny), tuning.first_parameters(tiny, 800), None
    )
    facts = candidates.CandidateFacts.decode(trained.files[candidates.FACTS])
    assert facts == trained.facts
    assert "mlflow" not in trained.files[candidates.FACTS].decode()
    assert (
        facts.rounds == len(trained.curves["validation"]) - tiny.model.early_stopping
        or facts.rounds == tiny.model.rounds
    )
    assert set(facts.metrics) == {"train", "validation", "test"}
    assert sum(trained.gain.values()) == pytest.approx(1)
    trained.model.check_engines(program(tiny).fit(rows.part("train")).matrix(rows.part("test")))


def test_threads_are_the_real_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.cache_clear()
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cpus.quota(tmp_path) == 1.5
    assert cpus.threads(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpus.quota(tmp_path) is None
    assert cpus.threads(tmp_path) == len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text("20000 100000\n")
    assert cpus.threads(tmp_path) == 1
    old = tmp_path / "old"
    (old / "cpu").mkdir(parents=True)
    (old / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    (old / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpus.quota(old) == 2
    assert cpus.quota(tmp_path / "none") is None
    monkeypatch.setenv("EVERGREEN_THREADS", "3")
    settings.cache_clear()
    assert cpus.threads(tmp_path) == 3
