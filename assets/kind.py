"""What a shared stage asks of a kind of pipeline.

Release, traffic, endpoint and retraining work for every kind of pipeline and import none. Each kind
implements `Kind` over one pipeline of its own, and hands it to the shared stages when they are
built. A question belongs here only when a shared stage asks it. How a kind answers does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from assets.reporting.report import Report
    from declare.pipeline import Pipeline
    from resources.artifacts import Artifacts
    from resources.keys import Keys
    from resources.lake import Lake

    Floats = NDArray[np.float64]

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class ModelFacts:
    """What a candidate says of itself.

    `as_of` is the data day that it was trained as of. `test_loss` is its primary loss on
    `test_rows` test rows, None where it was not measured. `definition` is the digest of what it was
    declared to compute, as `Kind.definition` gives it.
    """

    as_of: date
    test_loss: float | None
    test_rows: int
    definition: str


@dataclass(frozen=True)
class Watched:
    """Which daily reports the retraining decision reads, all by asset name.

    `loss` is a report and its measure of the live loss. `drift` is a report and the rule that fails
    on a drifted day. `faults` are reports with the rules that speak of faults of the data.
    """

    loss: tuple[str, str]
    drift: tuple[str, str]
    faults: tuple[tuple[str, str], ...] = ()

    @property
    def reports(self) -> tuple[str, ...]:
        """The names of all these reports, each once."""
        names = (self.loss[0], self.drift[0], *(name for name, _ in self.faults))
        return tuple(dict.fromkeys(names))


class Kind(Protocol):
    """One pipeline, as the shared stages see it."""

    @property
    def pipeline(self) -> Pipeline:
        """The declaration."""
        ...

    @property
    def entity(self) -> str:
        """The column of predictions by which their labels are found."""
        ...

    @property
    def labels_from(self) -> tuple[str, ...]:
        """Names of the assets that hold what became of the predicted events."""
        ...

    @property
    def reports(self) -> tuple[str, ...]:
        """Names of the validation reports that a release needs."""
        ...

    @property
    def watched(self) -> Watched:
        """The daily reports on which the retraining decision rests."""
        ...

    @property
    def outcome(self) -> object:
        """The part of the declaration that says what became of a predicted event."""
        ...

    @property
    def bundled(self) -> object:
        """The part of the declaration that a bundle holds or is judged by."""
        ...

    def definition(self) -> str:
        """Digest of what the pipeline declares its models to compute, whatever they learn."""
        ...

    def facts(self, candidate: Files) -> ModelFacts:
        """What a stored candidate says of itself."""
        ...

    def bundle(
        self,
        candidate: str,
        files: Files,
        reports: Mapping[str, Report | None],
        artifacts: Artifacts,
        lake: Lake,
        keys: Keys,
    ) -> dict[str, bytes]:
        """All files of the bundle of a candidate, signed. Equal inputs give equal bytes.

        Raises FileNotFoundError for a report that is missing, ValueError where what the candidate
        was trained on has changed.
        """
        ...

    def refusals(
        self, reports: Mapping[str, Report | None], candidate: str, champion: str | None
    ) -> list[str]:
        """Why the gates refuse a candidate, in sentences. Empty: every gate passes.

        The stored numbers are judged again by today's limits. What is missing or unknown refuses.
        """
        ...

    def labels(self, lake: Lake, first: date, last: date) -> pl.DataFrame:
        """Labels of the events of [first, last], as the day after `last` knew them.

        Columns: the entity as text, and `y` as a float.
        """
        ...

    def row_losses(self, metric: str, y: Floats, output: Floats) -> Floats:
        """The loss of each row (n,). Raises ValueError for a metric that is no mean over rows."""
        ...

    def output_shift(self, first: Floats, second: Floats) -> float | None:
        """How far two samples of outputs lie apart. None: too few to say."""
        ...
