"""The training stage: training set, tuning study, baseline and candidate."""

from collections.abc import Mapping, Sequence
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
from resources.artifacts import Artifacts
from resources.lake import Lake
from resources.tracking import TrackedRun, Tracking

if TYPE_CHECKING:
    from assets.tabular.training.candidate import Trained
    from assets.tabular.training.tuning import Study, Trial

GROUP = "training"
POOL = "training"
CHECKS = {
    "label_maturity": "Every label was known and mature when training began.",
    "minimum_rows": "There are enough labelled rows, some in each part.",
    "numeric_stability": "Both classes, finite numbers, features that vary.",
}


class TrainingSetConfig(dg.Config):
    """The day (YYYY-MM-DD) that a training run stands on. Default: the newest with features."""

    as_of: str | None = None


def build(pipeline: Tabular) -> list[dg.AssetsDefinition]:
    """The assets of a pipeline's training stage. Only XGBoost's trees have a study."""
    model = pipeline.model
    study = [_tuning_study(pipeline, model)] if isinstance(model, XGBoost) else []
    return [_training_set(pipeline), *study, _baseline(pipeline), _candidate(pipeline)]


def _training_set(pipeline: Tabular) -> dg.AssetsDefinition:
    key = asset_key(pipeline.name, TRAINING_SET)

    @dg.asset(
        key=key,
        deps=[
            asset_key(pipeline.name, FEATURES),
            asset_key(pipeline.name, raw_name(pipeline.label.source)),
        ],
        group_name=GROUP,
        kinds={"polars"},
        description=(
            "Which rows a model learns from: days with their content digests, "
            "mature labels alone, split in time."
        ),
        check_specs=[
            dg.AssetCheckSpec(name, asset=key, blocking=True, description=text)
            for name, text in CHECKS.items()
        ],
    )
    def training_set(
        config: TrainingSetConfig, lake: Lake, artifacts: Artifacts
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        as_of = date.fromisoformat(config.as_of) if config.as_of else None
        rows = manifests.assemble(pipeline, lake, as_of)
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

    return training_set


def _baseline(pipeline: Tabular) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_key(pipeline.name, BASELINE),
        deps=[asset_key(pipeline.name, TRAINING_SET)],
        group_name=GROUP,
        kinds={"scikitlearn"},
        pool=POOL,
        description="A logistic regression on the same rows: what a candidate has to beat.",
    )
    def baseline(lake: Lake, artifacts: Artifacts) -> dg.MaterializeResult[None]:
        from assets.tabular.training.baseline import train
        from assets.tabular.training.candidate import numbers

        digest, manifest = newest_training_set(pipeline, artifacts)
        rows = manifests.load_rows(pipeline, manifest, lake)
        fitted = train(rows, digest, program(pipeline), pipeline.baseline.regularisation)
        stored = artifacts.put("baselines", fitted.files)
        artifacts.point(pipeline.name, BASELINE, stored)

        return dg.MaterializeResult(
            metadata={
                "digest": stored,
                "training_set": digest,
                "as_of": manifest.as_of.isoformat(),
                "converged": fitted.baseline.converged,
                "iterations": fitted.baseline.iterations,
                "metrics": metrics_table(fitted.facts.metrics, manifest.rows),
                **numbers(fitted.facts.metrics),
            },
            data_version=dg.DataVersion(stored),
        )

    return baseline


def _candidate(pipeline: Tabular) -> dg.AssetsDefinition:
    upstream = (TRAINING_SET, STUDY) if pipeline.tuned else (TRAINING_SET,)

    @dg.asset(
        key=asset_key(pipeline.name, CANDIDATE),
        deps=[asset_key(pipeline.name, name) for name in upstream],
        group_name=GROUP,
        kinds={"xgboost" if pipeline.tuned else "scikitlearn", "mlflow"},
        pool=POOL,
        description=(
            f"The {type(pipeline.model).__name__} model of the training set, calibrated where that "
            "helps, tracked and registered in MLflow."
        ),
    )
    def candidate(
        context: dg.AssetExecutionContext, lake: Lake, artifacts: Artifacts, tracking: Tracking
    ) -> dg.MaterializeResult[None]:
        from assets.tabular.training import candidate as candidates, study as studies

        digest, manifest = newest_training_set(pipeline, artifacts)
        study, parameters = studies.parameters_for(
            pipeline, artifacts, manifest, context.log.warning
        )
        rows = manifests.load_rows(pipeline, manifest, lake)
        trained = candidates.train(pipeline, rows, digest, program(pipeline), parameters, study)

        stored = artifacts.put("candidates", trained.files)
        drawn = candidates.candidate_plots(trained)
        run = tracking.log_candidate(
            candidates.tracked_candidate(
                pipeline, trained, stored, drawn, context.run_id, lake, study
            )
        )
        # The pointer moves last: what it names is stored and registered.
        artifacts.point(pipeline.name, CANDIDATE, stored)
        return dg.MaterializeResult(
            metadata={
                "digest": stored,
                **candidate_metadata(trained, manifest),
                **run_metadata(run),
                **pictures(drawn),
                **candidates.numbers(trained.facts.metrics),
            },
            data_version=dg.DataVersion(stored),
        )

    return candidate


def _tuning_study(pipeline: Tabular, model: XGBoost) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_key(pipeline.name, STUDY),
        deps=[asset_key(pipeline.name, TRAINING_SET)],
        group_name=GROUP,
        kinds={"optuna", "xgboost"},
        pool=POOL,
        description=(
            "The best parameters of the trees, searched over time-ordered folds; "
            f"reused for {model.study_age_days} days."
        ),
    )
    def tuning_study(
        context: dg.AssetExecutionContext, lake: Lake, artifacts: Artifacts
    ) -> dg.MaterializeResult[None]:
        from assets.tabular.training import study as studies

        digest, manifest = newest_training_set(pipeline, artifacts)
        last, study, reason = studies.usable_study(pipeline, artifacts, manifest)
        if last is not None and study is not None and reason is None:
            age = (manifest.as_of - study.as_of).days
            context.log.info(f"reusing the study of {study.as_of}: it is {age} days old")
            young = "young enough, same features and search space"
            return study_result(pipeline, study, last, manifest, reused=True, reason=young)

        context.log.info(f"a new study of {model.trials} trials: {reason}")
        rows = manifests.load_rows(pipeline, manifest, lake)
        study = studies.new_study(pipeline, artifacts, rows, digest, context.log.info)
        stored = artifacts.put("studies", {studies.FILE: study.encode()})
        artifacts.point(pipeline.name, studies.POINTER, stored)
        return study_result(pipeline, study, stored, manifest, reused=False, reason=reason or "")

    return tuning_study


def newest_training_set(pipeline: Tabular, artifacts: Artifacts) -> tuple[str, TrainingManifest]:
    """Digest and manifest of the newest training set that passed its checks.

    Raises FileNotFoundError where there is none.
    """
    digest = artifacts.pointed(pipeline.name, TRAINING_SET)
    if digest is None:
        raise FileNotFoundError(
            f"pipeline {pipeline.name!r} has no training set that passed its checks; "
            f"materialize {asset_path(pipeline.name, TRAINING_SET)} first"
        )
    return digest, TrainingManifest.decode(artifacts.get("training_sets", digest)[manifests.FILE])


def check_result(name: str, finding: Finding) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=finding.passed,
        check_name=name,
        description=finding.description,
        metadata=dict(finding.numbers),
    )


def training_set_metadata(manifest: TrainingManifest, digest: str) -> dict[str, Any]:
    """What people see of a training set: its days, sizes and base rates. Numbers plot over time."""
    parts = [
        (part, str(manifest.split[part]), manifest.rows[part], manifest.base_rate[part])
        for part in PARTS
    ]
    days = sorted(manifest.days.items())
    newest = [(day, each.rows, each.positives, each.digest[:12]) for day, each in days[-14:]]
    return {
        "digest": digest,
        "as_of": manifest.as_of.isoformat(),
        "days": len(days),
        "dagster/row_count": manifest.total,
        "split": _table(("part", "days", "rows", "base rate"), parts),
        "newest_days": _table(("day", "rows", "positive", "content digest"), newest),
        "program": manifest.program_digest,
        "features": len(manifest.features),
        **{f"{part}_rows": manifest.rows[part] for part in PARTS},
        **{f"{part}_base_rate": manifest.base_rate[part] for part in PARTS},
    }


def candidate_metadata(trained: "Trained", manifest: TrainingManifest) -> dict[str, Any]:
    """What people see of a candidate beside its plots and its numbers."""
    facts = trained.facts
    return {
        "training_set": facts.training_set,
        "study": facts.study or "none",
        "as_of": manifest.as_of.isoformat(),
        "rounds": facts.rounds,
        "calibrated": facts.calibration is not None,
        "metrics": metrics_table(facts.metrics, manifest.rows),
        "parameters": parameters_table(facts.parameters),
    }


def run_metadata(run: TrackedRun) -> dict[str, Any]:
    """Where a candidate is found in MLflow."""
    return {
        "mlflow_run": dg.MetadataValue.url(run.run_url),
        "mlflow_model": dg.MetadataValue.url(run.model_url),
        "mlflow_run_id": run.run_id,
        "model_version": run.model_version,
        "logged_before": run.repeated,
    }


def pictures(drawn: Mapping[str, bytes]) -> dict[str, dg.MarkdownMetadataValue]:
    """Plots by name, as Markdown that holds them."""
    return {
        name: dg.MetadataValue.md(plots.markdown_image(content, name))
        for name, content in drawn.items()
    }


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
        "digest": digest,
        "reused": reused,
        "reason": reason,
        "study_as_of": study.as_of.isoformat(),
        "as_of": manifest.as_of.isoformat(),
        "age_days": (manifest.as_of - study.as_of).days,
        "trials": len(study.trials),
        "rows": study.rows,
        "parameters": parameters_table(study.parameters),
    }
    if study.best is not None:
        metadata |= trials_metadata(study, study.best)
        if mattered := tuning.importances(pipeline, study):
            bars = plots.bars(mattered, "What mattered", "share")
            metadata["importance"] = dg.MetadataValue.md(plots.inline_image(bars, "importance"))

    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(digest))


def trials_metadata(study: "Study", best: "Trial") -> dict[str, Any]:
    """The best trials of a study, and how its loss came down."""
    from assets.tabular.training import tuning

    leading = sorted(study.trials, key=lambda trial: (trial.value, trial.number))[:5]
    rows = [
        (trial.number, trial.value, *(trial.parameters[name] for name in tuning.SPACE))
        for trial in leading
    ]
    history = plots.inline_image(tuning.history_figure(study), "trials")
    return {
        "best_log_loss": best.value,
        "gain_over_first_trial": study.trials[0].value - best.value,
        "best_trials": _table(("trial", "log loss", *tuning.SPACE), rows),
        "history": dg.MetadataValue.md(history),
    }


def metrics_table(
    metrics: Mapping[str, Mapping[str, float | None]], rows: Mapping[str, int]
) -> dg.MarkdownMetadataValue:
    names = list(metrics["train"])
    cells = []
    for part in PARTS:
        values = [metrics[part][name] for name in names]
        cells.append((part, rows[part], *("–" if value is None else value for value in values)))
    return _table(("part", "rows", *names), cells)


def parameters_table(parameters: Mapping[str, object]) -> dg.MarkdownMetadataValue:
    return _table(("parameter", "value"), sorted(parameters.items()))


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(markdown_table(header, rows))


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
