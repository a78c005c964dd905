"""What the endpoint answers, below every transport.

Decoded requests come in, answers or Refusals go out. The JSON route, REST and gRPC stand above it.
Here belong callers and their limits, the pipelines that are served, predicting, explaining and
describing them, and the figures that `/metrics` shows. Paths, headers, status lines and messages do
not.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from bundle.features.program import EVENT_TIME
from bundle.manifest import BundleError
from bundle.records.record import Record
from bundle.records.writer import Writer
from serving.callers.access import Access, Caller
from serving.callers.calls import Call
from serving.callers.limits import RateLimits
from serving.contract.contract import MANY_ROWS, Columns, Row, rows_of
from serving.contract.refusal import Refusal
from serving.delivery.answers import Answers, Numbering
from serving.delivery.describe import describe
from serving.delivery.explain import Explanation, explain
from serving.delivery.following.alarm import AlarmWatch
from serving.delivery.following.state import Served
from serving.delivery.predicting import predict_columns, predict_rows
from serving.delivery.turns import Turns
from serving.delivery.view import View
from serving.options import Options
from serving.watch.metrics import Metrics, Value

if TYPE_CHECKING:
    from serving.watch.traces import Traces

logger = logging.getLogger("serving")

T = TypeVar("T")

# Larger batches are computed beside the event loop, so that single rows do not wait: this many rows
# take 2 ms.
LARGE_BATCH = 256
# Larger bodies are parsed beside the event loop for the same reason.
LARGE_BODY = 64 << 10


class Service:
    """One worker's answers.

    The watcher fills `pipelines`. `draining` makes the service say that it is not ready. `queued`
    counts the requests that this worker has begun to answer and that wait for something.
    """

    def __init__(
        self, options: Options, metrics: Metrics, access: Access, limits: RateLimits
    ) -> None:
        self.options = options
        self.metrics = metrics
        self.access = access
        self.limits = limits
        self.pipelines: dict[str, Served] = {}
        self.draining = False
        self.queued: Callable[[], int] = lambda: 0
        self.traces: Traces | None = None
        self.alarm = AlarmWatch(options.root)
        self._ids = Numbering()
        self._turns = Turns(metrics, self._ids)
        # Explanations are slow. In a thread of their own they delay neither predictions nor the
        # watcher.
        self._explainer = ThreadPoolExecutor(1, "explanations")

    # -- callers and pipelines -----------------------------------------------------------------

    def admit(
        self, call: Call, authorization: bytes, seconds: float | None, *, counted: bool = True
    ) -> None:
        """Let a request in before its body is read. Raises Refusal.

        The caller must be known, must not ask too often, and must not be one too many at once.
        `authorization` is the value of the header of that name, empty where there is none;
        `seconds` is the time for an answer that the client asked for. `counted` adds this request
        to those that `queued` counts.
        """
        try:
            caller = call.caller = self.access.caller_of(authorization)
        except Refusal as refusal:
            self.metrics.add("unauthorized_total", (refusal.rule,))
            raise
        if caller.per_second is not None:
            self._limit(caller, caller.per_second)

        own = self.queued() + len(self._turns.waiting) + counted
        if self.metrics.in_flight(own) > self.options.concurrency:
            self.metrics.add("shed_total", ("concurrency",))
            raise Refusal(
                503, "concurrency", "Too many requests are being answered at once; try again."
            )

        limit = self.options.answer_seconds
        call.end = call.start + (limit if seconds is None else min(seconds, limit))

    def _limit(self, caller: Caller, per_second: float) -> None:
        """Raises Refusal for a caller that asks too often."""
        wait = self.limits.take(caller.account, per_second, caller.burst)
        if wait > 0:
            self.metrics.add("rate_limited_total", (caller.label,))
            raise Refusal(
                429, "rate", "This key asks too often; wait as long as Retry-After says.", wait=wait
            )

    def served(self, name: str, call: Call, scope: str) -> Served:
        """The pipeline, for a caller who may use it. Raises Refusal."""
        call.caller.permit(scope, name)
        served = self.pipelines.get(name)
        if served is None:
            raise Refusal(404, "pipeline", "There is no such pipeline here; GET /v2 lists them.")
        if scope != "metadata":
            call.pipeline = name
        return served

    def view(self, served: Served) -> View:
        """What a pipeline serves now. Raises Refusal where that is nothing."""
        view = served.view
        if view is None:
            raise Refusal(503, "ready", "No verified bundle of this pipeline is being served yet.")
        return view

    def visible(self, caller: Caller) -> list[str]:
        """Names of the pipelines that a caller may ask."""
        return sorted(
            name for name in self.pipelines if not caller.pipelines or name in caller.pipelines
        )

    # -- predictions and explanations ----------------------------------------------------------

    async def predict_row(self, served: Served, view: View, row: Row, call: Call) -> Record:
        """Predict and log one row. Raises Refusal, and OSError where the log cannot be written."""
        failures = served.log.failures
        turn = self._turns.ask(served, view, row, call)
        await turn
        record = turn.result()
        if served.log.commits_each:
            await _flushed(served.log, failures)
        self._count_row(served, record, call)
        return record

    async def predict(
        self, served: Served, view: View, asked: list[Row] | Columns, call: Call
    ) -> Answers:
        """Predict and log rows or columns.

        Raises Refusal, and OSError where the log cannot be written.
        """
        count = len(asked) if isinstance(asked, list) else len(asked[EVENT_TIME])

        def computed() -> Answers:
            call.in_time()
            if not isinstance(asked, list) and count >= MANY_ROWS:
                return predict_columns(served, view, asked, call)
            rows = asked if isinstance(asked, list) else rows_of(asked)
            return Answers.of(predict_rows(served, view, rows, itertools.repeat(call), self._ids))

        failures = served.log.failures
        try:
            served.check_room()
            answers = computed() if count < LARGE_BATCH else await asyncio.to_thread(computed)
        except Refusal as refusal:
            self.metrics.add("shed_total", (refusal.rule,))
            raise
        if served.log.commits_each:
            await _flushed(served.log, failures)
        self._count(served, answers, call)
        return answers

    async def explain(self, view: View, rows: Sequence[Row], call: Call) -> list[Explanation]:
        """An explanation of each row. Raises Refusal."""

        def explained() -> list[Explanation]:
            call.in_time()
            return explain(view, rows)

        return await asyncio.get_running_loop().run_in_executor(self._explainer, explained)

    def _count_row(self, served: Served, record: Record, call: Call) -> None:
        call.rows, call.arm = 1, record.arm
        self.metrics.of(served.name).predicted(record.arm, (record.output,))
        for feature in record.ood:
            self.metrics.add("out_of_distribution_total", (served.name, feature))

    def _count(self, served: Served, answers: Answers, call: Call) -> None:
        outputs: dict[str, list[float]] = {}
        if len(set(answers.arms)) == 1:
            outputs[answers.arms[0]] = answers.outputs
        else:
            for arm, output in zip(answers.arms, answers.outputs, strict=True):
                outputs.setdefault(arm, []).append(output)

        call.rows = len(answers)
        call.arm = answers.arms[0] if len(outputs) == 1 else "several"
        counts = self.metrics.of(served.name)
        for arm, predicted in outputs.items():
            counts.predicted(arm, predicted)

        outside = Counter(itertools.chain.from_iterable(answers.ood))
        for feature, rows in outside.items():
            self.metrics.add("out_of_distribution_total", (served.name, feature), rows)

    # -- what is served ------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether all pipelines, at least one, are served and the server is not about to stop."""
        return bool(self.pipelines) and not self.draining and not self.waiting()

    def waiting(self) -> list[str]:
        """Names of the pipelines that are known and not served yet."""
        return sorted(name for name, served in self.pipelines.items() if served.view is None)

    def model_ready(self, served: Served, version: str | None) -> bool:
        """Whether a pipeline is being served, and this version of it may be asked for."""
        view = served.view
        return view is not None and not self.draining and version in (None, view.version)

    def describe(self, served: Served, *, example: bool) -> dict[str, Any]:
        """Where the bundles of a pipeline come from and how good they were. Raises Refusal."""
        return describe(self.view(served), example)

    def golden(self, served: Served) -> list[dict[str, Any]]:
        """Predict the golden rows of every bundle that is served.

        Raises Refusal where one differs.
        """
        view = self.view(served)
        results = []
        for arm in (*view.arms, *view.shadows):
            digest = arm.bundle.digest
            try:
                result = arm.bundle.check_golden()
            except BundleError as error:
                logger.error("golden rows: %s", error)
                raise Refusal(
                    503,
                    "golden",
                    f"The golden rows of bundle {digest} are not predicted as expected.",
                ) from None
            results.append(
                {
                    "bundle": digest,
                    "rows": result.rows,
                    "difference": result.difference,
                    "row_ms": result.row_ms,
                }
            )
        return results

    # -- figures -------------------------------------------------------------------------------

    def prometheus(self) -> str:
        """All figures as Prometheus text."""
        self.measure()
        return self.metrics.prometheus(list(self._gauges()))

    def measure(self) -> None:
        """Bring this worker's own figures up to date, for whichever worker answers a scrape."""
        self.alarm.look()
        self.metrics.in_flight(self.queued())
        self.metrics.measure(self.log_error() is not None)
        for name, served in self.pipelines.items():
            # What the trials' own threads have counted since the last time.
            for outcome, count in served.trials.counted():
                self.metrics.add("trials_total", (name, outcome), count)

    def about(self) -> dict[str, tuple[str | None, int, str | None]]:
        """Champion, serial and snapshot day of each pipeline."""
        views = {name: served.view for name, served in self.pipelines.items()}
        return {
            name: (None, 0, None)
            if view is None
            else (view.version, view.desired.serial, view.online_as_of)
            for name, view in views.items()
        }

    def log_error(self) -> str | None:
        """What is wrong with flushing the prediction logs, if anything."""
        errors = (served.log.sync_error for served in self.pipelines.values())
        return next(filter(None, errors), None)

    def _gauges(self) -> Iterator[Value]:
        yield "platform_alarm", (), float(self.alarm.look() is not None)
        for name, served in list(self.pipelines.items()):
            yield from _pipeline_gauges(name, served)
        now = time.time()
        for key in self.access.stored:
            if key.revoked is None:
                left = key.expires.timestamp() - now if key.expires else math.inf
                yield "api_key_expires_seconds", (key.id, key.owner), left


def _pipeline_gauges(name: str, served: Served) -> Iterator[Value]:
    """What is served of a pipeline, and how old its online features are."""
    view = served.view
    as_of = (view and view.online_as_of) or ""
    yield "serving_info", (name, as_of), float(view is not None)

    actual = served.reported()
    newest = actual.ready and actual.error is None and actual.serial == actual.desired_serial
    yield "serves_desired", (name,), float(newest)
    yield "desired_refused", (name,), float(actual.error is not None)

    yield "online_features_current", (name,), float(actual.snapshot_error is None)
    if served.online_published is not None:
        yield "online_features_age_seconds", (name,), time.time() - served.online_published
    if view is not None:
        yield "desired_serial", (name,), view.desired.serial
        for arm in view.arms:
            yield "bundle_info", (name, arm.name, arm.bundle.digest), arm.share


def check_version(view: View, version: str | None) -> None:
    """Raises Refusal for a version that cannot be asked for: any but the champion.

    Callers that choose a challenger would bias what the split of the traffic is there to measure.
    """
    if version not in (None, view.version):
        raise Refusal(
            404,
            "version",
            "This version is not the champion; leave the version out, or ask for the champion.",
        )


async def off_loop(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Work on a body of `size` bytes, in a thread where it is large."""
    return work(*arguments) if size < LARGE_BODY else await asyncio.to_thread(work, *arguments)


async def _flushed(log: Writer, failures: int) -> None:
    """Wait until what was logged is on the disk, together with all who wait for the same.

    `failures` is the log's count before anything was logged. Raises OSError.
    """
    loop = asyncio.get_running_loop()
    flushed: asyncio.Future[None] = loop.create_future()

    def tell(error: OSError | None) -> None:
        if flushed.done():
            return  # the request was given up
        if error is None:
            flushed.set_result(None)
        else:
            flushed.set_exception(error)

    log.commit(lambda error: _call_in(loop, tell, error), failures)
    await flushed


def _call_in(
    loop: asyncio.AbstractEventLoop, tell: Callable[[OSError | None], None], error: OSError | None
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everybody who waited
        loop.call_soon_threadsafe(tell, error)
