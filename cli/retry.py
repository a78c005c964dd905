"""`evergreen retry`: requests that are not tried again by themselves are tried once more."""

from __future__ import annotations

from cli.output import REFUSED, CommandError, say
from cli.platform import environment
from resources.settings import Settings


def retry(settings: Settings, pipeline: str | None, as_json: bool) -> None:
    """Let what is stuck be tried anew, of one pipeline or of all.

    The sensor that asked for the work asks again at its next look. Raises CommandError where
    nothing is stuck.
    """
    from sensors import instance, requests

    environment.apply(settings)
    with instance.opened(settings) as opened:
        stuck = [
            each
            for each in requests.spent(opened)
            if pipeline is None or each.request.startswith(f"{pipeline}:")
        ]
        if not stuck:
            raise CommandError(
                "nothing is stuck; `evergreen status` shows what runs and what ended", REFUSED
            )
        for each in stuck:
            requests.forgive(opened, each.request)

    lines = [
        f"{each.request} is asked for again ({each.job}); before: {each.why}" for each in stuck
    ]
    say({"retried": [each._asdict() for each in stuck]}, as_json, "\n".join(lines))
