"""Commands by which people decide; each is a signed entry in the ledger."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.commands.options import Actor, Bundle, Json, PipelineName, Reason
from cli.output import one_line_errors


def approve(
    bundle: Bundle,
    actor: Actor,
    reason: Reason,
    pipeline: PipelineName = None,
    as_json: Json = False,
) -> None:
    """Approve a bundle on the evidence that its manifest names."""
    with one_line_errors(as_json):
        from cli.decide import approve as run
        from cli.stored import default_pipeline
        from resources.settings import settings

        name = pipeline or default_pipeline(settings())
        run(settings(), name, bundle, actor, reason, as_json)


def reject(
    bundle: Bundle,
    actor: Actor,
    reason: Reason,
    pipeline: PipelineName = None,
    as_json: Json = False,
) -> None:
    """Reject a bundle: approvals so far are void, and it is not released."""
    with one_line_errors(as_json):
        from cli.decide import reject as run
        from cli.stored import default_pipeline
        from resources.settings import settings

        name = pipeline or default_pipeline(settings())
        run(settings(), name, bundle, actor, reason, as_json)


def rollback(
    actor: Actor,
    reason: Reason,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Digest of a bundle that once served, or its beginning; default: the one before.",
            show_default=False,
        ),
    ] = None,
    pipeline: PipelineName = None,
    as_json: Json = False,
) -> None:
    """Go back to what the ledger says served before. The endpoint follows within half a minute."""
    with one_line_errors(as_json):
        from cli.decide import rollback as run
        from cli.stored import default_pipeline
        from resources.settings import settings

        name = pipeline or default_pipeline(settings())
        run(settings(), name, to, actor, reason, as_json)


def experiment(
    what: Annotated[
        str,
        typer.Argument(
            metavar="start|stop",
            help="Give an experiment its traffic, or give that back to the champion.",
        ),
    ],
    name: Annotated[str, typer.Argument(help="Name of a declared experiment.")],
    actor: Actor,
    reason: Reason,
    pipeline: PipelineName = None,
    as_json: Json = False,
) -> None:
    """Start or stop a declared experiment. The endpoint follows within half a minute."""
    with one_line_errors(as_json):
        from cli.decide import experiment as run
        from cli.stored import default_pipeline
        from resources.settings import settings

        of = pipeline or default_pipeline(settings())
        run(settings(), of, what, name, actor, reason, as_json)


def retrain(
    actor: Actor, reason: Reason, pipeline: PipelineName = None, as_json: Json = False
) -> None:
    """Ask for a retrain; the next retraining decision takes it up."""
    with one_line_errors(as_json):
        from cli.decide import retrain as run
        from cli.stored import default_pipeline
        from resources.settings import settings

        run(settings(), pipeline or default_pipeline(settings()), actor, reason, as_json)
