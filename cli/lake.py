"""`evergreen lake`: care of the stored tables, by hand."""

from __future__ import annotations

from cli.output import WRONG_USE, CommandError, say
from resources.settings import Settings


def tidy(settings: Settings, keep_hours: int, as_json: bool) -> None:
    """Merge small files and delete those that no version of the last `keep_hours` reads."""
    from resources.lake import Lake

    if keep_hours < 0:
        raise CommandError(f"--keep-hours {keep_hours} is negative; give 0 or more", WRONG_USE)
    done = Lake(uri=settings.lake_uri).tidy(keep_hours)
    lines = [each.line for each in done] or [f"{settings.lake_uri} holds no table yet"]
    say({"tables": [each._asdict() for each in done]}, as_json, "\n".join(lines))
