"""How far a pipeline is: what was delivered, what is stored of it, and which days are decided.

Everything is read from the landing folder, the lake and the stored decisions. Dagster's event log
is not asked: whoever reaches the web server can report a materialization that never was.
"""

from datetime import date

from assets.data.deliveries import delivery_digest
from assets.names import FEATURES, RETRAINING_DECISION, asset_path, raw_table
from declare.pipeline import Pipeline
from resources import files
from resources.lake import Lake
from resources.landing import Landing
from resources.reports import Reports

Deliveries = dict[str, dict[date, str]]
"""One digest for the files of each day of delivery, by daily source."""


def deliveries(pipeline: Pipeline, landing: Landing) -> Deliveries:
    """What was delivered of each daily source."""
    found: Deliveries = {}
    for source in pipeline.sources:
        if source.daily:
            landed = landing.deliveries(pipeline.name, source.name)
            found[source.name] = {
                day: delivery_digest(file.digest for file in delivered)
                for day, delivered in landed.items()
            }
    return found


def featured_days(pipeline: Pipeline, lake: Lake) -> set[date]:
    """Days whose features are stored."""
    return set(lake.days(asset_path(pipeline.name, FEATURES)))


def ingested_days(pipeline: Pipeline, delivered: Deliveries, lake: Lake) -> set[date]:
    """Days whose features are stored, and whose raw rows come from the files that lie there now."""
    days = featured_days(pipeline, lake)
    for source, digests in delivered.items():
        marks = lake.marks(raw_table(pipeline.name, source))
        days -= {
            day for day, digest in digests.items() if digest not in marks.get(day.isoformat(), ())
        }
    return days


def decided_days(pipeline: Pipeline, reports: Reports) -> set[date]:
    """Days with a stored retraining decision: the last thing that the work of a day does."""
    folder = f"{reports.uri}/{asset_path(pipeline.name, RETRAINING_DECISION)}"
    try:
        names = files.names(folder)
    except FileNotFoundError:
        return set()
    return {date.fromisoformat(name) for name in names if _is_day(name)}


def _is_day(name: str) -> bool:
    try:
        return date.fromisoformat(name).isoformat() == name
    except ValueError:
        return False
