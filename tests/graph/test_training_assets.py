"""The training stage on the tiny pipeline: one run, the same run again, a killed study, and what blocks it."""

from __future__ import annotations

import json
import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import skops.io
import yaml

from assets.tabular.training import assets as stage, manifest as manifests, tuning
from assets.tabular.training.candidate import CandidateFacts
from bundle.features.program import FeatureProgram
from bundle.models import skops_files
from bundle.models.loading import load_model
from declare.models import RandomForest, Split
from declare.tabular import Tabular
from resources import files
from resources.artifacts import Artifacts
from resources.lake import Lake
from resources.tracking import CANDIDATE, DAGSTER_RUN, REPEATED, SQLITE, Tracking
from tests.support.stored import stored_lake
from tests.support.tiny import FIRST, tiny

DAYS = [FIRST + timedelta(days=offset) for offset in range(45)]
NAMES = ("training_set", "tuning_study", "baseline", "candidate")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with features, and a tracking database that was initialised once (its migration is slow)."""
    place = tmp_path_factory.mktemp("filled")
    stored_lake(place, DAYS)
    Tracking(uri=f"{SQLITE}{place / 'mlflow' / 'mlflow.db'}", url="http://mlflow").initialise()
    return place


class World:
    def __init__(self, place: Path) -> None:
        self.lake = Lake(uri=str(place / "lake"))
        self.artifacts = Artifacts(uri=str(place / "artifacts"))
        self.tracking = Tracking(
            uri=f"{SQLITE}{place / 'mlflow' / 'mlflow.db'}", url="http://mlflow"
        )
        self.instance = dg.DagsterInstance.ephemeral()

    def run(
        self, *names: str, pipeline: Tabular = tiny, as_of: str | None = None
    ) -> dg.ExecuteInProcessResult:
        config = (
            {"ops": {f"{pipeline.name}__training_set": {"config": {"as_of": as_of}}}}
            if as_of
            else None
        )
        return dg.materialize(
            stage.build(pipeline),
            resources={"lake": self.lake, "artifacts": self.artifacts, "tracking": self.tracking},
            selection=[dg.AssetKey([pipeline.name, name]) for name in names or NAMES],
            instance=self.instance,
            run_config=config,
            raise_on_error=False,
        )

    def metadata(self, run: dg.ExecuteInProcessResult, name: str) -> dict[str, Any]:
        (made,) = run.asset_materializations_for_node(f"tiny__{name}")
        return {key: value.value for key, value in made.metadata.items()}


@pytest.fixture
def world(filled: Path, tmp_path: Path) -> World:
    shutil.copytree(filled, tmp_path / "world")
    return World(tmp_path / "world")


def test_one_run_trains_and_registers_and_a_second_one_changes_nothing(world: World) -> None:
    first = world.run()
    assert first.success
    assert all(
        evaluation.passed and evaluation.blocking
        for evaluation in first.get_asset_check_evaluations()
    )
    assert {evaluation.check_name for evaluation in first.get_asset_check_evaluations()} == set(
        stage.CHECKS
    )
    made = {name: world.metadata(first, name) for name in NAMES}
    digests = {
        name: world.artifacts.pointed("tiny", pointer)
        for name, pointer in zip(
            NAMES, ("training_set", "study", "baseline", "candidate"), strict=True
        )
    }
    assert digests == {name: made[name]["digest"] for name in NAMES}

    candidate = made["candidate"]
    contents = world.artifacts.get("candidates", candidate["digest"])
    assert set(contents) == {"model.ubj", "model.json", "program.json", "candidate.json"}
    facts = CandidateFacts.decode(contents["candidate.json"])
    assert (facts.training_set, facts.study) == (digests["training_set"], digests["tuning_study"])
    assert candidate["test_log_loss"] == facts.metrics["test"]["log_loss"]
    assert isinstance(candidate["test_roc_auc"], float)
    for name in ("loss_curve", "feature_importance"):
        assert re.fullmatch(r"!\[\w+\]\(data:image/png;base64,[\w+/=]+\)", candidate[name])
        assert len(candidate[name]) < 20_000
    assert "| train | 2024-01-01 to" in made["training_set"]["split"]

    # Dagster and MLflow name each other.
    client = world.tracking.client()
    run = client.get_run(candidate["mlflow_run_id"])
    assert candidate["mlflow_run"].endswith(candidate["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags[DAGSTER_RUN] == first.run_id
    assert run.data.tags["dagster_run_url"].endswith(f"/runs/{first.run_id}")
    assert run.data.metrics["test_log_loss"] == pytest.approx(facts.metrics["test"]["log_loss"])
    assert (
        len(client.get_metric_history(run.info.run_id, "validation_log_loss_by_round"))
        >= facts.rounds
    )
    assert {each.dataset.name for each in run.inputs.dataset_inputs} == {
        "tiny train",
        "tiny validation",
        "tiny test",
    }
    assert all(
        json.loads(each.dataset.source)["digest"] == digests["training_set"]
        for each in run.inputs.dataset_inputs
    )
    assert {each.path for each in client.list_artifacts(run.info.run_id, "candidate")} == {
        f"candidate/{name}" for name in contents
    }
    assert {each.path for each in client.list_artifacts(run.info.run_id, "plots")} == {
        "plots/loss_curve.png",
        "plots/feature_importance.png",
    }
    (version,) = client.search_model_versions("name = 'tiny'")
    assert version.tags[CANDIDATE] == candidate["digest"]
    assert version.tags["training_set"] == digests["training_set"]
    kept = {path.name for path in Path(version.source).iterdir()}
    assert "MLmodel" in kept
    assert (Path(version.source) / "model.ubj").read_bytes() == contents["model.ubj"]
    assert not any(path.endswith((".pkl", ".pickle")) for path in kept)
    assert "signature" in (Path(version.source) / "MLmodel").read_text()

    second = world.run()
    assert second.success
    assert {name: world.metadata(second, name)["digest"] for name in NAMES} == {
        name: made[name]["digest"] for name in NAMES
    }
    assert world.metadata(second, "tuning_study")["reused"] is True
    assert world.metadata(second, "candidate")["logged_before"] is True
    (again,) = client.search_model_versions("name = 'tiny'")
    assert again.tags[DAGSTER_RUN] == first.run_id
    assert again.tags[REPEATED] == second.run_id
    assert world.tracking.move_alias("tiny", "champion", candidate["digest"]) == str(
        version.version
    )
    assert world.tracking.move_alias("tiny", "champion", "never trained") is None


def test_a_killed_study_goes_on_and_an_older_day_does_not_learn_from_the_future(
    world: World,
) -> None:
    assert world.run("training_set").success
    digest = world.artifacts.pointed("tiny", "training_set") or ""
    whole = world.run("tuning_study")
    trials = tuning.Study.decode(
        world.artifacts.get("studies", world.metadata(whole, "tuning_study")["digest"])[
            "study.json"
        ]
    ).trials

    place = f"{world.artifacts.uri}/progress/tiny/{tuning.progress_key(tiny, digest)}.json"
    files.write_atomically(place, tuning.encode_trials(trials[:1]))
    files.filesystem(world.artifacts.uri)[0].rm(f"{world.artifacts.uri}/pointers/tiny/study.json")
    resumed = world.run("tuning_study")
    assert (
        world.metadata(resumed, "tuning_study")["digest"]
        == world.metadata(whole, "tuning_study")["digest"]
    )
    assert world.metadata(resumed, "tuning_study")["reused"] is False

    earlier = world.run("training_set", "tuning_study", as_of=DAYS[30].isoformat())
    assert earlier.success
    told = world.metadata(earlier, "tuning_study")
    assert (told["reused"], told["study_as_of"]) == (False, DAYS[30].isoformat())
    assert "after" in told["reason"]


def test_a_set_that_is_too_small_blocks_and_is_never_trained_on(world: World) -> None:
    demanding = tiny.model_copy(
        update={"split": Split(test_days=10, validation_days=10, minimum_rows=100_000)}
    )
    run = world.run(pipeline=demanding)
    assert not run.success
    (failed,) = [
        evaluation for evaluation in run.get_asset_check_evaluations() if not evaluation.passed
    ]
    assert failed.check_name == "minimum_rows"
    assert "at least 100000 are needed" in (failed.description or "")
    assert world.artifacts.pointed("tiny", "training_set") is None
    assert world.artifacts.pointed("tiny", "candidate") is None
    with pytest.raises(FileNotFoundError, match="materialize tiny/training_set first"):
        stage.newest_training_set(tiny, world.artifacts)


def test_a_day_that_changed_since_stops_training(world: World) -> None:
    assert world.run("training_set").success
    rows = world.lake.scan("tiny/features", DAYS[5], DAYS[5]).collect()
    world.lake.write("tiny/features", rows.head(3), [DAYS[5]])
    run = world.run("baseline", "candidate")
    assert not run.success
    messages = [
        event.step_failure_data.error.cause.message
        for event in run.all_events
        if event.is_step_failure
    ]  # type: ignore[union-attr]
    assert any(f"the first is {DAYS[5]}" in message for message in messages)
    assert world.artifacts.pointed("tiny", "candidate") is None


def test_a_candidate_without_a_fitting_study_uses_cautious_parameters(world: World) -> None:
    assert world.run("training_set", "candidate").success
    facts = CandidateFacts.decode(
        world.artifacts.get("candidates", world.artifacts.pointed("tiny", "candidate") or "")[
            "candidate.json"
        ]
    )
    assert facts.study is None
    _, manifest = stage.newest_training_set(tiny, world.artifacts)
    assert (
        facts.parameters["min_child_weight"]
        == tuning.first_parameters(tiny, manifest.rows["train"])["min_child_weight"]
    )


def test_an_unfinished_mlflow_run_is_marked_killed_and_made_anew(world: World) -> None:
    assert world.run("training_set", "candidate").success
    digest = world.artifacts.pointed("tiny", "candidate") or ""
    client = world.tracking.client()
    (version,) = client.search_model_versions("name = 'tiny'")
    client.delete_model_version("tiny", version.version)
    client.update_run(version.run_id, status="RUNNING")
    assert world.run("candidate").success
    assert client.get_run(version.run_id).info.status == "KILLED"
    (anew,) = client.search_model_versions("name = 'tiny'")
    assert anew.tags[CANDIDATE] == digest
    assert anew.run_id != version.run_id

    # Killed after its version was registered, the run was complete.
    client.update_run(anew.run_id, status="RUNNING")
    assert world.run("candidate").success
    assert client.get_run(anew.run_id).info.status == "FINISHED"


def test_the_stage_is_in_its_group_and_pool() -> None:
    specs = {spec.key.path[-1]: spec for asset in stage.build(tiny) for spec in asset.specs}
    assert set(specs) == set(NAMES)
    assert {spec.group_name for spec in specs.values()} == {"training"}
    pools = {asset.op.pool for asset in stage.build(tiny) if asset.key.path[-1] != "training_set"}
    assert pools == {"training"}
    assert manifests.FILE == "manifest.json"


def test_a_model_of_scikit_learn_is_trained_without_a_study_and_registered_without_pickle(
    world: World,
) -> None:
    forest = tiny.model_copy(update={"model": RandomForest(trees=20, min_samples_leaf=5)})
    keys = {asset.key.path[-1]: asset for asset in stage.build(forest)}
    assert set(keys) == {"training_set", "baseline", "candidate"}
    run = world.run("training_set", "baseline", "candidate", pipeline=forest)
    assert run.success
    made = world.metadata(run, "candidate")
    assert "loss_curve" not in made
    assert made["feature_importance"].startswith("![")
    contents = world.artifacts.get("candidates", made["digest"])
    assert set(contents) == {"model.skops", "model.json", "program.json", "candidate.json"}

    (version,) = world.tracking.client().search_model_versions("name = 'tiny'")
    place = Path(version.source.removeprefix("file://"))
    described = yaml.safe_load((place / "MLmodel").read_text())["flavors"]["sklearn"]
    assert described["serialization_format"] == "skops"
    assert not list(place.rglob("*.pkl"))
    # What is registered is what is released.
    registered = skops.io.load(place / described["pickled_model"], trusted=skops_files.trusted())
    matrix = FeatureProgram.decode(contents["program.json"]).matrix(
        manifests.load_rows(forest, newest(world), world.lake).part("test")
    )
    assert np.array_equal(
        registered.predict_proba(matrix)[:, 1], load_model(contents).compute(matrix)
    )


def newest(world: World) -> manifests.TrainingManifest:
    return stage.newest_training_set(tiny, world.artifacts)[1]
