"""The code location: the lifecycles of all pipelines, with the platform's resources and alerts.

Every module or package in `pipelines/` is one pipeline: it binds `pipeline` to its declaration. To
add a pipeline is to add a file. A file that declares none is an error.
"""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg
from pydantic import SecretStr

import pipelines
from declare.pipeline import Pipeline
from pipelines.lifecycle import lifecycle
from resources.artifacts import Artifacts
from resources.endpoint import EndpointTarget, LocalEndpoint, ReplicatedEndpoint
from resources.keys import Keys
from resources.lake import Lake
from resources.landing import Landing
from resources.ledger import Ledger
from resources.notifier import Notifier
from resources.online_store import OnlineStore
from resources.reports import Reports
from resources.settings import Settings, settings
from resources.tracking import Tracking
from sensors import alerts

CODE_LOCATION = "evergreen"


# Modules of this package that declare no pipeline.
MACHINERY = ("definitions", "lifecycle")


class PipelineError(Exception):
    """A module of `pipelines/` that is no pipeline of its own. `file` is where it stands."""

    def __init__(self, file: Path, text: str) -> None:
        super().__init__(f"{file} {text}")
        self.file = file


def declared_pipelines() -> list[Pipeline]:
    """The pipelines declared in this package, by name of their module.

    Raises PipelineError for a module that declares none, or one whose name is taken.
    """
    found: dict[str, Pipeline] = {}
    files: dict[str, Path] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(pipelines.__path__)):
        if name in MACHINERY:
            continue
        file, pipeline = declared_in(name)
        if pipeline.name in found:
            raise PipelineError(
                file,
                f"declares pipeline {pipeline.name!r}, and so does {files[pipeline.name]}; "
                "names must differ",
            )
        found[pipeline.name], files[pipeline.name] = pipeline, file
    return list(found.values())


def declared_in(name: str) -> tuple[Path, Pipeline]:
    """The file of a module of this package, and the pipeline that it declares."""
    module = importlib.import_module(f"{pipelines.__name__}.{name}")
    file = Path(str(module.__file__))
    declared = getattr(module, "pipeline", None)
    if not isinstance(declared, Pipeline):
        raise PipelineError(
            file,
            "declares no pipeline; write `pipeline = Tabular(...)` in it, "
            "or move what is no pipeline out of pipelines/",
        )
    return file, declared


def build_definitions(
    declared: Sequence[Pipeline], resources: Mapping[str, object]
) -> dg.Definitions:
    """The same assembly for production, tests and the command line."""
    return dg.Definitions.merge(
        *(lifecycle(pipeline) for pipeline in declared),
        dg.Definitions(
            resources=resources, sensors=alerts.build(), executor=dg.in_process_executor
        ),
    )


def platform_resources(settings: Settings) -> dict[str, object]:
    """The resources of every stage, placed where the settings say."""
    keys = Keys(path=str(settings.keys_path))
    return {
        "landing": Landing(uri=settings.landing_uri),
        "lake": Lake(uri=settings.lake_uri),
        "artifacts": Artifacts(uri=settings.artifacts_uri),
        "reports": Reports(uri=settings.reports_uri, url=settings.reports_url),
        "tracking": Tracking(uri=settings.mlflow_uri, url=settings.mlflow_url),
        "keys": keys,
        "ledger": Ledger(path=str(settings.ledger_path), signer=keys),
        "online": OnlineStore(path=str(settings.endpoint_path), signer=keys),
        "endpoint": endpoint_target(settings),
        "notifier": Notifier(
            webhook=_secret(settings.webhook),
            smtp=settings.smtp,
            smtp_user=settings.smtp_user,
            smtp_password=_secret(settings.smtp_password),
            sender=settings.alerts_from,
            recipients=list(settings.alerts_to),
        ),
    }


def endpoint_target(settings: Settings) -> EndpointTarget:
    """Where bundles are served: one server on this machine, or its replicas elsewhere."""
    path, key_file = str(settings.endpoint_path), str(settings.endpoint_key_path)
    if settings.endpoint_replicas is None:
        return LocalEndpoint(
            path=path,
            url=settings.endpoint_url,
            admin_url=settings.endpoint_admin_url,
            key_file=key_file,
        )
    return ReplicatedEndpoint(
        path=path,
        url=settings.endpoint_service or settings.endpoint_replicas,
        replicas=settings.endpoint_replicas,
        ca_file=str(settings.endpoint_ca) if settings.endpoint_ca else None,
        key_file=key_file,
    )


def _secret(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value else None


defs = build_definitions(declared_pipelines(), platform_resources(settings()))
