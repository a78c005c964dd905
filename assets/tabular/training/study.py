"""The newest study of a pipeline: whether it can be used again, and how a new one is made.

How parameters are searched stands in `tuning`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from assets.names import STUDY, asset_path
from assets.tabular.features.declared_program import program
from assets.tabular.training.tuning import (
    Study,
    Trial,
    decode_trials,
    encode_trials,
    first_parameters,
    progress_key,
    reusable,
    run,
)
from resources import files

if TYPE_CHECKING:
    from assets.tabular.training.manifest import TrainingManifest, TrainingRows
    from declare.tabular import Tabular
    from resources.artifacts import Artifacts

FILE, POINTER = "study.json", "study"


def usable_study(
    pipeline: Tabular, artifacts: Artifacts, manifest: TrainingManifest
) -> tuple[str | None, Study | None, str | None]:
    """The newest study: its digest, the study, and why it does not fit a training set, if so."""
    digest = artifacts.pointed(pipeline.name, POINTER)
    if digest is None:
        return None, None, "there is none yet"
    study = Study.decode(artifacts.get("studies", digest)[FILE])
    return digest, study, reusable(study, pipeline, manifest)


def new_study(
    pipeline: Tabular,
    artifacts: Artifacts,
    rows: TrainingRows,
    training_set: str,
    tell: Callable[[str], None],
) -> Study:
    """Search the parameters. Each trial is kept: a run that was killed goes on after them."""
    key = progress_key(pipeline, training_set)
    place = f"{artifacts.uri}/progress/{pipeline.name}/{key}.json"
    finished = decode_trials(files.read(place)) if files.exists(place) else []
    if finished:
        tell(f"going on after {len(finished)} finished trials")

    def keep(trials: Sequence[Trial]) -> None:
        files.write_atomically(place, encode_trials(trials))

    return run(pipeline, rows, training_set, program(pipeline), finished, keep)


def parameters_for(
    pipeline: Tabular,
    artifacts: Artifacts,
    manifest: TrainingManifest,
    warn: Callable[[str], None],
) -> tuple[str | None, dict[str, float | int]]:
    """The newest study's digest and parameters, or cautious ones where it does not fit.

    Models without a study are trained with the parameters that are declared.
    """
    if not pipeline.tuned:
        return None, {}
    digest, study, reason = usable_study(pipeline, artifacts, manifest)
    if study is not None and reason is None:
        return digest, study.parameters

    path = asset_path(pipeline.name, STUDY)
    warn(f"training without a study: {reason}; materialize {path} to have one")
    return None, first_parameters(pipeline, manifest.rows["train"])
