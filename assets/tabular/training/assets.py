"""The training stage: training set, tuning study, baseline and candidate."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.kind import Kind
from assets.names import (
    BASELINE,
    CANDIDATE,
    FEATURES,
    STUDY,
    TRAINING_SET,
    asset_key,
    asset_path,
    raw_name,
)
from assets.reporting import plots
from assets.reporting.tables import markdown_table
from assets.stage import Names, Stage, alone
from assets.tabular.features.declared_program import program
from assets.tabular.training import manifest as manifests
from assets.tabular.training.manifest import Finding, TrainingManifest
from assets.tabular.training.split import PARTS
from declare.models import XGBoost
from declare.tabular import Tabular
from resources import files
from resources.artifacts import Artifacts
from resources.lake import Lake
from resources.settings import settings
from resources.tracking import DatasetFacts, TrackedCandidate, Tracking

if TYPE_CHECKING:
    from assets.tabular.training.candidate import Trained
    from assets.tabular.training.tuning import Study

GROUP = "training"
POOL = "training"
CHECKS = {
    "label_maturity": "Every label was known and mature when training began.",
    "minimum_rows": "There are enough labelled rows, some in each part.",
    "numeric_stability": "Both classes, finite numbers, features that vary.",
}


class TrainingSetConfig(dg.Config):
    """`as_of`: the day (YYYY-MM-DD) that a training run stands on; the newest day with features when not given."""

    as_of: str | None = None


def build(pipeline: Tabular) -> list[dg.AssetsDefinition]:
    """The assets of a pipeline's training stage."""

    @dg.asset(
        key=[pipeline.name, TRAINING_SET],
        deps=[
            asset_key(pipeline.name, FEATURES),
            asset_key(pipeline.name, raw_name(pipeline.label.source)),
        ],
        group_name=GROUP,
        kinds={"polars"},
        description="Which rows a model learns from: days with their content digests, mature labels alone, split in time.",
        check_specs=[
            dg.AssetCheckSpec(
                name, asset=[pipeline.name, TRAINING_SET], blocking=True, description=text
            )
            for name, text in CHECKS.items()
        ],
    )
    def training_set(
        config: TrainingSetConfig, lake: Lake, artifacts: Artifacts
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        rows = manifests.assemble(
            pipeline, lake, date.fromisoformat(config.as_of) if config.as_of else None
        )
        findings = {
            "label_maturity": manifests.label_maturity(rows, pipeline.label.matures_after),
            "minimum_rows": manifests.minimum_rows(rows, pipeline.split.minimum_rows),
            "numeric_stability": manifests.numeric_stability(rows),
        }
        digest = artifacts.put("training_sets", {manifests.FILE: rows.manifest.encode()})
        # A set that breaks a check is kept to be looked at, but nothing is trained on it.
        if all(finding.passed for finding in findings.values()):
            artifacts.point(pipeline.name, TRAINING_SET, digest)
        return dg.MaterializeResult(
            metadata=training_set_metadata(rows.manifest, digest),
            data_version=dg.DataVersion(digest),
            check_results=[check_result(name, finding) for name, finding in findings.items()],
        )

    @dg.asset(
        key=[pipeline.name, BASELINE],
        deps=[asset_key(pipeline.name, TRAINING_SET)],
        group_name=GROUP,
        kinds={"scikitlearn"},
        pool=POOL,
        description="A logistic regression on the same rows: what a candidate has to beat.",
    )
    def baseline(lake: Lake, artifacts: Artifacts) -> dg.MaterializeResult[None]:
        from assets.tabular.training.baseline import train

        digest, manifest = newest_training_set(pipeline, artifacts)
        rows = manifests.load_rows(pipeline, manifest, lake)
        fitted = train(rows, digest, program(pipeline), pipeline.baseline.regularisation)
        stored = artifacts.put("baselines", fitted.files)
        artifacts.point(pipeline.name, BASELINE, stored)
        return dg.MaterializeResult(
            metadata={
                "digest": stored, "training_set": digest, "as_of": manifest.as_of.isoformat(), "converged": fitted.baseline.converged,
                "iterations": fitted.baseline.iterations, "metrics": metrics_table(fitted.facts.metrics, manifest.rows),
                **numbers(fitted.facts.metrics),
            },
            data_version=dg.DataVersion(stored),
        )  # fmt: skip

    @dg.asset(
        key=[pipeline.name, CANDIDATE],
        deps=[
            asset_key(pipeline.name, name)
            for name in (TRAINING_SET, *((STUDY,) if pipeline.tuned else ()))
        ],
        group_name=GROUP,
        kinds={"xgboost" if pipeline.tuned else "scikitlearn", "mlflow"},
        pool=POOL,
        description=f"The {type(pipeline.model).__name__} model of the training set, calibrated where that helps, tracked and registered in MLflow.",
    )
    def candidate(
        context: dg.AssetExecutionContext, lake: Lake, artifacts: Artifacts, tracking: Tracking
    ) -> dg.MaterializeResult[None]:
        from assets.tabular.training.candidate import train

        digest, manifest = newest_training_set(pipeline, artifacts)
        study, parameters = (
            parameters_for(pipeline, artifacts, manifest, context.log.warning)
            if pipeline.tuned
            else (None, {})
        )
        rows = manifests.load_rows(pipeline, manifest, lake)
        trained = train(pipeline, rows, digest, program(pipeline), parameters, study)
        stored = artifacts.put("candidates", trained.files)
        drawn = candidate_plots(trained)
        run = tracking.log_candidate(
            tracked_candidate(pipeline, trained, stored, drawn, context.run_id, lake, study)
        )
        # The pointer moves last: what it names is stored and registered.
        artifacts.point(pipeline.name, CANDIDATE, stored)
        return dg.MaterializeResult(
            metadata={
                "digest": stored, "training_set": digest, "study": study or "none", "as_of": manifest.as_of.isoformat(),
                "rounds": trained.facts.rounds, "calibrated": trained.facts.calibration is not None,
                "mlflow_run": dg.MetadataValue.url(run.run_url), "mlflow_model": dg.MetadataValue.url(run.model_url),
                "mlflow_run_id": run.run_id, "model_version": run.model_version, "logged_before": run.repeated,
                "metrics": metrics_table(trained.facts.metrics, manifest.rows), "parameters": parameters_table(trained.facts.parameters),
                **{name: dg.MetadataValue.md(plots.markdown_image(content, name)) for name, content in drawn.items()},
                **numbers(trained.facts.metrics),
            },
            data_version=dg.DataVersion(stored),
        )  # fmt: skip

    return [
        training_set,
        *([build_study(pipeline, pipeline.model)] if isinstance(pipeline.model, XGBoost) else []),
        baseline,
        candidate,
    ]


def build_study(pipeline: Tabular, model: XGBoost) -> dg.AssetsDefinition:
    """The tuning study of XGBoost's trees; other models are trained with the parameters that are declared."""

    @dg.asset(
        key=[pipeline.name, STUDY],
        deps=[asset_key(pipeline.name, TRAINING_SET)],
        group_name=GROUP,
        kinds={"optuna", "xgboost"},
        pool=POOL,
        description=f"The best parameters of the trees, searched over time-ordered folds; reused for {model.study_age_days} days.",
    )
    def tuning_study(
        context: dg.AssetExecutionContext, lake: Lake, artifacts: Artifacts
    ) -> dg.MaterializeResult[None]:
        from assets.tabular.training import tuning

        digest, manifest = newest_training_set(pipeline, artifacts)
        last = artifacts.pointed(pipeline.name, "study")
        study = tuning.Study.decode(artifacts.get("studies", last)[tuning.FILE]) if last else None
        reason = tuning.reusable(study, pipeline, manifest) if study else "there is none yet"
        if study is not None and last is not None and reason is None:
            context.log.info(
                f"reusing the study of {study.as_of}: it is {(manifest.as_of - study.as_of).days} days old"
            )
            return study_result(
                pipeline,
                study,
                last,
                manifest,
                reused=True,
                reason="young enough, same features and search space",
            )
        context.log.info(f"a new study of {model.trials} trials: {reason}")
        place = (
            f"{artifacts.uri}/progress/{pipeline.name}/{tuning.progress_key(pipeline, digest)}.json"
        )
        finished = tuning.decode_trials(files.read(place)) if files.exists(place) else []
        if finished:
            context.log.info(f"going on after {len(finished)} finished trials")
        rows = manifests.load_rows(pipeline, manifest, lake)
        study = tuning.run(
            pipeline,
            rows,
            digest,
            program(pipeline),
            finished,
            lambda trials: files.write_atomically(place, tuning.encode_trials(trials)),
        )
        stored = artifacts.put("studies", {tuning.FILE: study.encode()})
        artifacts.point(pipeline.name, "study", stored)
        return study_result(pipeline, study, stored, manifest, reused=False, reason=reason or "")

    return tuning_study


def newest_training_set(pipeline: Tabular, artifacts: Artifacts) -> tuple[str, TrainingManifest]:
    """Digest and manifest of the newest training set that passed its checks. Raises FileNotFoundError when there is none."""
    digest = artifacts.pointed(pipeline.name, TRAINING_SET)
    if digest is None:
        raise FileNotFoundError(
            f"pipeline {pipeline.name!r} has no training set that passed its checks; materialize {asset_path(pipeline.name, TRAINING_SET)} first"
        )
    return digest, TrainingManifest.decode(artifacts.get("training_sets", digest)[manifests.FILE])


def parameters_for(
    pipeline: Tabular,
    artifacts: Artifacts,
    manifest: TrainingManifest,
    warn: Callable[[str], None],
) -> tuple[str | None, dict[str, float | int]]:
    """The newest study's digest and parameters, or cautious parameters where it does not fit the training set."""
    from assets.tabular.training import tuning

    digest = artifacts.pointed(pipeline.name, "study")
    study = tuning.Study.decode(artifacts.get("studies", digest)[tuning.FILE]) if digest else None
    reason = tuning.reusable(study, pipeline, manifest) if study else "there is no study"
    if study is not None and reason is None:
        return digest, study.parameters
    warn(
        f"training without a study: {reason}; materialize {asset_path(pipeline.name, STUDY)} to have one"
    )
    return None, tuning.first_parameters(pipeline, manifest.rows["train"])


def check_result(name: str, finding: Finding) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=finding.passed,
        check_name=name,
        description=finding.description,
        metadata=dict(finding.numbers),
    )


def training_set_metadata(manifest: TrainingManifest, digest: str) -> dict[str, Any]:
    """What people see of a training set: its days, sizes and base rates; numbers plot over time."""
    rows = [
        (part, str(manifest.split[part]), manifest.rows[part], manifest.base_rate[part])
        for part in PARTS
    ]
    days = sorted(manifest.days.items())
    shown = [(day, each.rows, each.positives, each.digest[:12]) for day, each in days[-14:]]
    return {
        "digest": digest, "as_of": manifest.as_of.isoformat(), "days": len(days), "dagster/row_count": manifest.total,
        "split": dg.MetadataValue.md(markdown_table(("part", "days", "rows", "base rate"), rows)),
        "newest_days": dg.MetadataValue.md(markdown_table(("day", "rows", "positive", "content digest"), shown)),
        "program": manifest.program_digest, "features": len(manifest.features),
        **{f"{part}_rows": manifest.rows[part] for part in PARTS},
        **{f"{part}_base_rate": manifest.base_rate[part] for part in PARTS},
    }  # fmt: skip


def study_result(
    pipeline: Tabular,
    study: "Study",
    digest: str,
    manifest: TrainingManifest,
    reused: bool,
    reason: str,
) -> dg.MaterializeResult[None]:
    """A study as its asset shows it, new or reused."""
    from assets.tabular.training import tuning

    metadata: dict[str, Any] = {
        "digest": digest, "reused": reused, "reason": reason, "study_as_of": study.as_of.isoformat(), "as_of": manifest.as_of.isoformat(),
        "age_days": (manifest.as_of - study.as_of).days, "trials": len(study.trials), "rows": study.rows,
        "parameters": parameters_table(study.parameters),
    }  # fmt: skip
    if study.best is not None:
        best = sorted(study.trials, key=lambda trial: (trial.value, trial.number))[:5]
        metadata |= {
            "best_log_loss": study.best.value,
            "gain_over_first_trial": study.trials[0].value - study.best.value,
            "best_trials": dg.MetadataValue.md(markdown_table(
                ("trial", "log loss", *tuning.SPACE), [(trial.number, trial.value, *(trial.parameters[name] for name in tuning.SPACE)) for trial in best]
            )),
            "history": dg.MetadataValue.md(plots.inline_image(tuning.history_figure(study), "trials")),
        }  # fmt: skip
        if mattered := tuning.importances(pipeline, study):
            metadata["importance"] = dg.MetadataValue.md(
                plots.inline_image(plots.bars(mattered, "What mattered", "share"), "importance")
            )
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(digest))


def numbers(metrics: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """Metrics as single numbers, which Dagster plots over time; those of the test days first."""
    parts = [part for part in reversed(PARTS) if part in metrics]
    return {
        f"{part}_{name}": value
        for part in parts
        for name, value in metrics[part].items()
        if value is not None
    }


def metrics_table(
    metrics: Mapping[str, Mapping[str, float | None]], rows: Mapping[str, int]
) -> dg.MarkdownMetadataValue:
    names = list(metrics["train"])
    cells = [
        (
            part,
            rows[part],
            *("–" if metrics[part][name] is None else metrics[part][name] for name in names),
        )
        for part in PARTS
    ]
    return dg.MetadataValue.md(markdown_table(("part", "rows", *names), cells))


def parameters_table(parameters: Mapping[str, object]) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(markdown_table(("parameter", "value"), sorted(parameters.items())))


def candidate_plots(trained: "Trained") -> dict[str, bytes]:
    """The candidate's plots as PNG: loss per round, where it was trained in rounds, and the features that brought most."""
    curves: Mapping[str, Sequence[float]] = trained.curves
    drawn = {"feature_importance": plots.bars(trained.gain, "Share in what was learned", "share")}
    if curves:
        drawn["loss_curve"] = plots.lines(
            curves, f"Log loss per round (best: {trained.facts.rounds})", "round", "log loss"
        )
    return {name: plots.png(figure) for name, figure in drawn.items()}


def tracked_candidate(
    pipeline: Tabular,
    trained: "Trained",
    digest: str,
    drawn: Mapping[str, bytes],
    run_id: str,
    lake: Lake,
    study: str | None,
) -> TrackedCandidate:
    """What MLflow is told of a candidate."""
    facts = trained.facts
    return TrackedCandidate(
        pipeline=pipeline.name, candidate=digest, training_set=facts.training_set, run_name=f"{pipeline.name} as of {facts.as_of}",
        dagster_run_id=run_id, dagster_run_url=f"{settings().dagster_url}/runs/{run_id}",
        model=trained.model, features=facts.features,
        parameters={
            **{name: str(value) for name, value in facts.parameters.items()}, "as_of": facts.as_of, "rounds": str(facts.rounds),
            "calibration": json.dumps(facts.calibration), "program_digest": facts.program_digest, "study": str(study),
        },
        metrics=numbers(facts.metrics),
        curves={f"{part}_log_loss_by_round": values for part, values in trained.curves.items()},
        datasets=[
            DatasetFacts(f"{pipeline.name} {part}", facts.training_set, lake.place(asset_path(pipeline.name, FEATURES)), context, facts.rows[part])
            for part, context in (("train", "training"), ("validation", "validation"), ("test", "testing"))
        ],
        files=trained.files, plots={f"{name}.png": content for name, content in drawn.items()},
        tags={"as_of": facts.as_of, "owner": pipeline.owner, "risk": pipeline.risk},
    )  # fmt: skip


def _names(pipeline: Tabular) -> Names:
    study = (STUDY,) if pipeline.tuned else ()
    return {"retrained": (TRAINING_SET, *study, BASELINE, CANDIDATE)}


def _read(pipeline: Tabular, kind: Kind, asset: str) -> object:
    """What training reads. Of the sources it is their names: their rows tell versions apart."""
    models = pipeline.model, pipeline.baseline, pipeline.split
    return models, kind.outcome, pipeline.features, [source.name for source in pipeline.sources]


STAGE = Stage(
    name="training",
    group=GROUP,
    build=alone(build),
    reads=_read,
    assets=_names,
)
