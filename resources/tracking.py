"""Experiment tracking and the model registry: MLflow, through its client alone.

MLflow is a view for people: nothing that is served depends on it. The fluent interface (an active
run per process) is never used, no pickle is written, and nothing is logged twice for the same
candidate.
"""

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from resources.settings import QUIET

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from bundle.models.model import Model

SQLITE = "sqlite:///"
CANDIDATE, TRAINING_SET, DAGSTER_RUN, DAGSTER_URL = (
    "candidate",
    "training_set",
    "dagster_run_id",
    "dagster_run_url",
)
REPEATED = "repeated_by_dagster_run_id"
DIGEST_LIMIT = 36  # characters that MLflow keeps of a data set's digest
BATCH = 1_000  # metrics that MLflow takes in one call


@dataclass(frozen=True)
class DatasetFacts:
    """An input of a run: its name, digest, where it lies, in which context it was used, and how
    many rows it has.
    """

    name: str
    digest: str
    source: str
    context: str
    rows: int


@dataclass(frozen=True)
class TrackedCandidate:
    """All that is tracked of a candidate.

    `curves` are metrics per round; `files` and `plots` are stored with the run.
    """

    pipeline: str
    candidate: str
    training_set: str
    run_name: str
    dagster_run_id: str
    dagster_run_url: str
    model: "Model"
    features: tuple[str, ...]
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    datasets: Sequence[DatasetFacts] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    plots: Mapping[str, bytes] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrackedRun:
    """Where a candidate is found in MLflow; `repeated` when it had been logged before."""

    run_id: str
    run_url: str
    model_version: str
    model_url: str
    repeated: bool


class Tracking(dg.ConfigurableResource):
    """MLflow at `uri` (an SQLite file beside which artifacts are kept, or a server), shown to
    people at `url`.
    """

    uri: str
    url: str

    def initialise(self) -> None:
        """Bring the tracking database up to MLflow's schema, once: its migration takes seconds, and
        two at once fail.
        """
        if self._database is None:
            return
        self._database.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self._database.with_suffix(".lock")):
            self._connect()

    def client(self) -> "MlflowClient":
        """An MLflow client of this store, its database initialised."""
        if self._database is not None and not self._database.with_suffix(".lock").exists():
            self.initialise()
        if self._database is not None:
            # Waits for a migration that another process has begun.
            with _locked(self._database.with_suffix(".lock")):
                return self._connect()
        return self._connect()

    def experiment(self, pipeline: str, client: "MlflowClient | None" = None) -> str:
        """The experiment of a pipeline, created when there is none."""
        from mlflow.exceptions import MlflowException

        client = client or self.client()
        found = client.get_experiment_by_name(pipeline)
        if found is None:
            try:
                return str(
                    client.create_experiment(pipeline, artifact_location=self._artifacts(pipeline))
                )
            except MlflowException:
                # Another process was faster; anything else fails again below.
                found = client.get_experiment_by_name(pipeline)
                if found is None:
                    raise
        return str(found.experiment_id)

    def log_candidate(self, tracked: TrackedCandidate) -> TrackedRun:
        """Log a candidate as a run with parameters, metrics per round, plots, inputs and files, and
        register its model.

        The same candidate again makes no second run or version: the existing ones are returned,
        tagged as repeated. A run that a killed process left unfinished is marked KILLED and made
        anew.
        """
        client = self.client()
        experiment = self.experiment(tracked.pipeline, client)
        known = self.version(tracked.pipeline, tracked.candidate, client)
        if known is not None:
            return self._known(client, experiment, known, tracked)

        for left in client.search_runs(
            [experiment], filter_string=f"tags.{CANDIDATE} = '{tracked.candidate}'"
        ):
            if left.info.status == "RUNNING":
                client.set_terminated(left.info.run_id, status="KILLED")

        tags = {
            CANDIDATE: tracked.candidate,
            TRAINING_SET: tracked.training_set,
            DAGSTER_RUN: tracked.dagster_run_id,
            DAGSTER_URL: tracked.dagster_run_url,
            **tracked.tags,
        }
        run_id: str = client.create_run(
            experiment,
            tags={**tags, "mlflow.source.name": "evergreen", "mlflow.user": "evergreen"},
            run_name=tracked.run_name,
        ).info.run_id
        try:
            self._log(client, run_id, tracked)
            model_id, source = self._log_model(client, experiment, run_id, tracked, tags)
            self._register(client, tracked.pipeline)
            version = client.create_model_version(
                tracked.pipeline,
                source=source,
                run_id=run_id,
                model_id=model_id,
                tags=tags,
                description=(
                    f"Trained by Dagster run {tracked.dagster_run_id}: {tracked.dagster_run_url}"
                ),
            )
            client.set_terminated(run_id, status="FINISHED")
        except BaseException:
            client.set_terminated(run_id, status="FAILED")
            raise
        return self._tracked(
            experiment, run_id, str(version.version), tracked.pipeline, repeated=False
        )

    def _known(
        self, client: "MlflowClient", experiment: str, known: Any, tracked: TrackedCandidate
    ) -> TrackedRun:
        """The run of a candidate whose version `known` is registered, tagged as repeated."""
        if client.get_run(known.run_id).info.status != "FINISHED":
            # The version is registered last: a run that died after it was complete.
            client.set_terminated(known.run_id, status="FINISHED")
        if known.tags.get(DAGSTER_RUN) != tracked.dagster_run_id:
            client.set_model_version_tag(
                known.name, known.version, REPEATED, tracked.dagster_run_id
            )
            client.set_tag(known.run_id, REPEATED, tracked.dagster_run_id)
        return self._tracked(
            experiment, known.run_id, str(known.version), tracked.pipeline, repeated=True
        )

    @staticmethod
    def _register(client: "MlflowClient", pipeline: str) -> None:
        """Make a pipeline's registered model where there is none yet."""
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(pipeline, tags={"pipeline": pipeline})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def version(self, pipeline: str, candidate: str, client: "MlflowClient | None" = None) -> Any:
        """The registered version of a candidate (MLflow's ModelVersion), None where it was never
        registered.
        """
        client = client or self.client()
        found = client.search_model_versions(
            f"name = '{pipeline}' and tags.{CANDIDATE} = '{candidate}'"
        )
        return min(found, key=lambda version: int(version.version), default=None)

    def move_alias(self, pipeline: str, alias: str, candidate: str) -> str | None:
        """Point an alias (such as `champion`) at a candidate's version and return it; None where it
        was never registered. Aliases are a view: nothing reads them to decide what is served.
        """
        client = self.client()
        version = self.version(pipeline, candidate, client)
        if version is None:
            return None
        client.set_registered_model_alias(pipeline, alias, version.version)
        return str(version.version)

    def run_url(self, experiment: str, run_id: str) -> str:
        return f"{self.url}/#/experiments/{experiment}/runs/{run_id}"

    def model_url(self, pipeline: str, version: str) -> str:
        return f"{self.url}/#/models/{pipeline}/versions/{version}"

    @property
    def _database(self) -> Path | None:
        return Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None

    def _artifacts(self, pipeline: str) -> str | None:
        """Files lie beside an SQLite database; a server decides for itself."""
        return (
            None if self._database is None else str(self._database.parent / "artifacts" / pipeline)
        )

    def _connect(self) -> "MlflowClient":
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        # The migration prints a line for each step, at a level that hides what matters.
        for noisy in (
            "alembic",
            "mlflow.store",
            "mlflow.tracking",
            "mlflow.models",
            "mlflow.utils",
        ):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        client.get_experiment_by_name("Default")
        return client

    def _tracked(
        self, experiment: str, run_id: str, version: str, pipeline: str, repeated: bool
    ) -> TrackedRun:
        return TrackedRun(
            run_id,
            self.run_url(experiment, run_id),
            version,
            self.model_url(pipeline, version),
            repeated,
        )

    @staticmethod
    def _log(client: "MlflowClient", run_id: str, tracked: TrackedCandidate) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

        now = int(time.time() * 1_000)
        metrics = [Metric(name, float(value), now, 0) for name, value in tracked.metrics.items()]
        for name, values in tracked.curves.items():
            metrics += [Metric(name, float(value), now, step) for step, value in enumerate(values)]
        client.log_batch(
            run_id,
            metrics=metrics[:BATCH],
            params=[Param(name, value) for name, value in tracked.parameters.items()],
        )
        for start in range(BATCH, len(metrics), BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + BATCH])
        inputs = [
            DatasetInput(
                Dataset(
                    name=each.name,
                    digest=each.digest[:DIGEST_LIMIT],
                    source_type="delta",
                    source=f'{{"uri": "{each.source}", "digest": "{each.digest}"}}',
                    profile=f'{{"num_rows": {each.rows}}}',
                ),
                [InputTag("mlflow.data.context", each.context)],
            )
            for each in tracked.datasets
        ]
        if inputs:
            client.log_inputs(run_id, datasets=inputs)
        with tempfile.TemporaryDirectory() as folder:
            for below, contents in (("candidate", tracked.files), ("plots", tracked.plots)):
                (Path(folder) / below).mkdir()
                for name, content in contents.items():
                    (Path(folder) / below / name).write_bytes(content)
            client.log_artifacts(run_id, folder)

    @staticmethod
    def _log_model(
        client: "MlflowClient",
        experiment: str,
        run_id: str,
        tracked: TrackedCandidate,
        tags: Mapping[str, str],
    ) -> tuple[str, str]:
        """A logged model of MLflow's flavour for its library (UBJ or skops, and YAML; no pickle).

        Returns its id and where its files lie.
        """
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, DataType, Schema

        signature = ModelSignature(
            inputs=Schema(
                [ColSpec(DataType.float, name, required=False) for name in tracked.features]
            ),
            outputs=Schema([ColSpec(DataType.float)]),
        )
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "model"
            _save_model(
                tracked.model, place, signature=signature, metadata={"candidate": tracked.candidate}
            )
            logged = client.create_logged_model(
                experiment,
                name=tracked.pipeline,
                source_run_id=run_id,
                tags=dict(tags),
                params=dict(tracked.parameters),
                model_type=tracked.model.kind,
            )
            client.log_model_artifacts(logged.model_id, str(place))
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        # Not `models:/<id>`: MLflow's SQL registry resolves that through the process-wide default
        # store.
        return str(logged.model_id), str(logged.artifact_location)


def _save_model(model: "Model", place: Path, **described: Any) -> None:
    """Write a model as MLflow lays it out.

    Requirements are given: to infer them MLflow would load the model in another process.
    """
    from bundle.models.boosted_trees import BoostedTrees

    if isinstance(model, BoostedTrees):
        import mlflow.xgboost

        requirements = [f"xgboost=={version('xgboost')}"]
        mlflow.xgboost.save_model(
            model.booster, place, model_format="ubj", pip_requirements=requirements, **described
        )
        return
    import mlflow.sklearn

    from bundle.models.scikit_learn import EstimatorModel
    from bundle.models.skops_files import trusted

    assert isinstance(model, EstimatorModel)
    requirements = [f"{package}=={version(package)}" for package in ("scikit-learn", "skops")]
    mlflow.sklearn.save_model(
        model.estimator,
        place,
        serialization_format="skops",
        skops_trusted_types=trusted(),
        pyfunc_predict_fn="predict_proba",
        pip_requirements=requirements,
        **described,
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
