"""The tuning study: a seeded Optuna study of the trees' parameters, over time-ordered folds.

Every trial's sampler is seeded by the trial's number and sees the finished trials before it, so
that a study that was killed and goes on ends with the same trials as one that ran through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from assets.tabular.training.boosting import (
    Parameters,
    base_parameters,
    boost,
    boosted_trees,
    data,
    margins,
)
from assets.tabular.training.calibration import mean_log_loss
from assets.tabular.training.candidate import environment
from assets.tabular.training.split import Days, folds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from assets.tabular.training.manifest import TrainingManifest, TrainingRows
    from bundle.features.program import FeatureProgram
    from declare.tabular import Tabular

FOLDS = 3
FOLD_SHARE = 0.15
# Trials learn faster than the candidate and stop earlier: what is sought is the shape of the trees,
# not the last digit.
ROUNDS = 40
FASTER = 2.0
FASTEST = 0.3


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The values a parameter may take."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def clip(self, value: float) -> float:
        return min(max(value, self.low), self.high)


# Towards strong regularisation: rows of one day share much, so there is less independent evidence
# than rows. The learning rate stays as declared: early stopping finds the rounds that go with it.
SPACE: dict[str, Range] = {
    "max_depth": Range(3, 8, whole=True),
    "min_child_weight": Range(3, 300, log=True),
    "subsample": Range(0.4, 1.0),
    "colsample_bytree": Range(0.35, 1.0),
    "reg_lambda": Range(0.1, 30, log=True),
}


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters tried and the mean log loss over the folds (with that of each fold)."""

    number: int
    parameters: dict[str, float | int]
    value: float
    folds: tuple[float, ...]


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A finished study: its trials, the best parameters, and what it was made of."""

    format: int = 1
    pipeline: str
    as_of: date
    training_set: str
    program_digest: str
    space_digest: str
    seed: int
    rows: int
    rounds: int
    folds: tuple[tuple[Days, Days], ...]
    trials: tuple[Trial, ...]
    first: dict[str, float | int]
    best: Trial | None
    environment: dict[str, str]

    def encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1)

    @classmethod
    def decode(cls, content: bytes) -> Study:
        return msgspec.json.decode(content, type=cls)

    @property
    def parameters(self) -> dict[str, float | int]:
        """What the candidate is trained with, on top of its base parameters."""
        return dict(self.best.parameters if self.best else self.first)


Progress = Callable[[Sequence[Trial]], None]


def space_digest(pipeline: Tabular) -> str:
    """Names everything but data and features that a study depends on.

    Search space and the model's declaration.
    """
    model = boosted_trees(pipeline)
    declared = [
        base_parameters(pipeline),
        model.trials,
        model.tuning_rows,
        ROUNDS,
        FASTER,
        FASTEST,
        FOLDS,
        FOLD_SHARE,
    ]
    return hashlib.sha256(msgspec.json.encode([SPACE, declared], order="sorted")).hexdigest()


def first_parameters(pipeline: Tabular, rows: int) -> dict[str, float | int]:
    """The parameters of the first trial, and those used without a study.

    The declared depth and, for that many training rows, cautious values. A study recommends nothing
    that is worse than them on its folds.
    """
    return {
        "max_depth": int(SPACE["max_depth"].clip(boosted_trees(pipeline).max_depth)),
        "min_child_weight": SPACE["min_child_weight"].clip(min(rows / 500, 100)),
        "subsample": 0.7,
        "colsample_bytree": 0.5,
        "reg_lambda": 10.0,
    }


def reusable(study: Study, pipeline: Tabular, manifest: TrainingManifest) -> str | None:
    """Why a study cannot be used for a training set, None when it can.

    It must be of the same features and space, and younger than the declared age in data time; a
    study of a later day knows the future and is never used.
    """
    age, limit = manifest.as_of - study.as_of, boosted_trees(pipeline).study_age_days
    if study.program_digest != manifest.program_digest:
        return "the features changed"
    if study.space_digest != space_digest(pipeline):
        return "the search space or the model's declaration changed"
    if age < timedelta(0):
        return f"the last study is of {study.as_of}, after {manifest.as_of}"
    if age >= timedelta(days=limit):
        return f"the last study is {age.days} days old; it is used for less than {limit}"
    return None


def progress_key(pipeline: Tabular, training_set: str) -> str:
    """Names a study before it is finished.

    Equal inputs go on with the same trials, anything else starts anew.
    """
    parts = [training_set, space_digest(pipeline), environment()]
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


def run(
    pipeline: Tabular, rows: TrainingRows, training_set: str, declared: FeatureProgram,
    finished: Sequence[Trial] = (), progress: Progress = lambda _: None,
) -> Study:  # fmt: skip
    """Run a study on the training days alone, going on after the trials that are `finished`.

    `progress` is told the trials after each one. At most `tuning_rows` rows take part, evenly
    spread over time.
    """
    trials = list(finished)
    first = first_parameters(pipeline, rows.manifest.rows["train"])
    ranges = tuple(_folds(rows)) if boosted_trees(pipeline).trials else ()
    pairs = (
        _prepare(pipeline, rows, declared) if len(trials) < boosted_trees(pipeline).trials else []
    )
    while len(trials) < boosted_trees(pipeline).trials:
        parameters = suggest(pipeline, trials, first)
        losses = tuple(
            round(_loss(pipeline, parameters, train, validation), 9) for train, validation in pairs
        )
        trials.append(Trial(len(trials), parameters, float(np.mean(losses)), losses))
        progress(trials)
    return Study(
        pipeline=pipeline.name,
        as_of=rows.manifest.as_of,
        training_set=training_set,
        program_digest=declared.digest,
        space_digest=space_digest(pipeline),
        seed=boosted_trees(pipeline).seed,
        rows=min(rows.manifest.rows["train"], boosted_trees(pipeline).tuning_rows),
        rounds=ROUNDS,
        folds=ranges,
        trials=tuple(trials),
        first=first,
        best=best(trials),
        environment=environment(),
    )


def best(trials: Sequence[Trial]) -> Trial | None:
    """The trial of the least mean loss among those that beat the first one on every fold.

    The first one where none does: what wins on average alone has often only learned one week by
    heart. None where there are no trials.
    """
    if not trials:
        return None
    first = trials[0]
    steady = [
        trial
        for trial in trials
        if all(own < other for own, other in zip(trial.folds, first.folds, strict=True))
    ]
    return min(steady, key=lambda trial: (trial.value, trial.number), default=first)


def suggest(
    pipeline: Tabular, trials: Sequence[Trial], first: Parameters
) -> dict[str, float | int]:
    """The parameters of the trial after the finished ones; the first trial has the `first` ones."""
    study = replay(pipeline, trials)
    if not trials:
        study.enqueue_trial(dict(first))
    return dict(study.ask(distributions()).params)


def replay(pipeline: Tabular, trials: Sequence[Trial]) -> Any:
    """An Optuna study that holds the finished trials.

    Its sampler draws as the next trial's number says.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        seed=boosted_trees(pipeline).seed + len(trials), n_startup_trials=6
    )
    study = optuna.create_study(direction="minimize", sampler=sampler, study_name=pipeline.name)
    study.add_trials(
        [
            optuna.trial.create_trial(
                params=dict(trial.parameters), distributions=distributions(), value=trial.value
            )
            for trial in trials
        ]
    )
    return study


def distributions() -> dict[str, Any]:
    import optuna

    return {
        name: optuna.distributions.IntDistribution(int(each.low), int(each.high)) if each.whole
        else optuna.distributions.FloatDistribution(each.low, each.high, log=each.log)
        for name, each in SPACE.items()
    }  # fmt: skip


def _folds(rows: TrainingRows) -> list[tuple[Days, Days]]:
    days = rows.part("train").get_column("date").unique().to_list()
    found = folds(days, FOLDS, FOLD_SHARE)
    if not found:
        raise ValueError(
            "tuning needs at least two days to train on; the training set as of "
            f"{rows.manifest.as_of} has {len(days)}. Declare trials=0 or a shorter split"
        )
    return found


def _prepare(
    pipeline: Tabular, rows: TrainingRows, declared: FeatureProgram
) -> list[tuple[Any, tuple[Any, Any]]]:
    """For each fold its training data, and its validation data with labels."""
    train = rows.part("train")
    every = -(-train.height // boosted_trees(pipeline).tuning_rows)
    sample = train.gather_every(every)
    days, y = (
        sample.get_column("date"),
        sample.get_column(rows.manifest.label).to_numpy().astype(np.float64),
    )
    pairs = []
    for fit_days, judge_days in _folds(rows):
        fitted = days.is_between(fit_days.first, fit_days.last).to_numpy()
        judged = days.is_between(judge_days.first, judge_days.last).to_numpy()
        # Vocabularies come from the fold's own past: its future stays unseen.
        program = declared.fit(sample.filter(fitted))
        before = data(program.matrix(sample.filter(fitted)), y[fitted], program)
        after = data(program.matrix(sample.filter(judged)), y[judged], program, reference=before)
        pairs.append((before, (after, y[judged])))
    return pairs


def _loss(
    pipeline: Tabular, parameters: Parameters, train: Any, validation: tuple[Any, Any]
) -> float:
    """Mean log loss of one fold after a fixed number of rounds."""
    rounds = min(ROUNDS, boosted_trees(pipeline).rounds)
    rate = max(
        boosted_trees(pipeline).learning_rate,
        min(boosted_trees(pipeline).learning_rate * FASTER, FASTEST),
    )
    booster, _ = boost(
        {**base_parameters(pipeline), **parameters, "learning_rate": rate}, train, rounds
    )
    after, y = validation
    return mean_log_loss(margins(booster, after), y)


def importances(pipeline: Tabular, study: Study) -> dict[str, float]:
    """How much each parameter mattered (Watanabe et al., PED-ANOVA, 2023).

    Empty for studies too small to tell.
    """
    if len(study.trials) < 8 or len({trial.value for trial in study.trials}) < 4:
        return {}
    import optuna

    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return dict(
        optuna.importance.get_param_importances(replay(pipeline, study.trials), evaluator=evaluator)
    )


def history_figure(study: Study) -> Figure:
    """The trials' losses and the best one so far."""
    from assets.reporting import plots

    values = [trial.value for trial in study.trials]
    drawn, (axes,) = plots.figure()
    numbers = [trial.number for trial in study.trials]
    axes.scatter(numbers, values, s=18, color=plots.PALETTE[4], label="trial")
    axes.plot(
        numbers,
        np.minimum.accumulate(values),
        color=plots.ACCENT,
        linewidth=1.6,
        label="best so far",
    )
    plots.label(
        axes, f"Tuning as of {study.as_of}", "trial", "mean log loss over folds", legend=True
    )
    return drawn


def encode_trials(trials: Sequence[Trial]) -> bytes:
    """Finished trials of a study under way, to go on with after a kill."""
    return msgspec.json.encode(list(trials))


def decode_trials(content: bytes) -> list[Trial]:
    return msgspec.json.decode(content, type=list[Trial])
