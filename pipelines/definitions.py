"""The code location: the lifecycles of all pipelines, with the platform's resources and alerts.

Every module or package in `pipelines/` is one pipeline: it binds `pipeline` to its declaration. To
add a pipeline is to add a file. A file that declares none, or does not load, is an error with the
file's name. The other pipelines run all the same: `evergreen up`, `status` and `doctor` tell the
error.
"""

import importlib
import importlib.util
import logging
import pkgutil
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import dagster as dg
from pydantic import SecretStr, ValidationError

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
from sensors import alerts, tidy

CODE_LOCATION = "evergreen"

# Modules of this package that declare no pipeline.
MACHINERY = ("definitions", "lifecycle")


class PipelineError(Exception):
    """A module of `pipelines/` that is no pipeline, or does not load. `file` is where it stands."""

    def __init__(self, file: Path, text: str) -> None:
        super().__init__(f"{file} {text}")
        self.file = file


class Loaded(NamedTuple):
    """The pipelines that load, by name of their module, and what is wrong with the others."""

    pipelines: list[Pipeline]
    faults: list[PipelineError]


def load() -> Loaded:
    """Load the pipelines of this package one by one. A faulty one does not stop the others."""
    loaded = Loaded([], [])
    files: dict[str, Path] = {}
    for module in sorted(pkgutil.iter_modules(pipelines.__path__), key=lambda each: each.name):
        if module.name in MACHINERY:
            continue
        try:
            file, pipeline = declared_in(module.name)
            if pipeline.name in files:
                raise PipelineError(
                    file,
                    f"declares pipeline {pipeline.name!r}, and so does {files[pipeline.name]}; "
                    "names must differ",
                )
        except PipelineError as fault:
            loaded.faults.append(fault)
        else:
            files[pipeline.name] = file
            loaded.pipelines.append(pipeline)
    return loaded


def declared_pipelines() -> list[Pipeline]:
    """The pipelines that load. `load` says what is wrong with the others."""
    return load().pipelines


def declared_in(name: str) -> tuple[Path, Pipeline]:
    """The file of a module of this package, and the pipeline that it declares.

    Raises PipelineError, with the whole reason, for a module that does not load or declares none.
    """
    qualified = f"{pipelines.__name__}.{name}"
    spec = importlib.util.find_spec(qualified)
    file = Path(str(spec.origin if spec is not None else name))
    try:
        module = importlib.import_module(qualified)
    except Exception as error:
        # Whatever a declaration raises is its own mistake, and must stop no other pipeline.
        raise PipelineError(file, f"does not load: {_reason(error)}") from error

    declared = getattr(module, "pipeline", None)
    if not isinstance(declared, Pipeline):
        raise PipelineError(
            file,
            "declares no pipeline; write `pipeline = Tabular(...)` in it, "
            "or move what is no pipeline out of pipelines/",
        )
    return file, declared


def _reason(error: Exception) -> str:
    """What an error says, whole, with the line of pipelines/ that raised it."""
    text = "".join(traceback.format_exception_only(error)).strip()
    if isinstance(error, ValidationError):
        # A declaration's own message begins with its file and line.
        return str(error)
    own = tuple(str(Path(folder)) for folder in pipelines.__path__)
    frames = traceback.extract_tb(error.__traceback__)
    places = [f for f in frames if f.filename.startswith(own) and f.filename != __file__]
    return f"{text} ({places[-1].filename}:{places[-1].lineno})" if places else text


def build_definitions(
    declared: Sequence[Pipeline], resources: Mapping[str, object]
) -> dg.Definitions:
    """The same assembly for production, tests and the command line."""
    return dg.Definitions.merge(
        *(lifecycle(pipeline) for pipeline in declared),
        dg.Definitions(
            resources=resources, sensors=alerts.build(), executor=dg.in_process_executor
        ),
        tidy.build(),
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


def _definitions() -> dg.Definitions:
    """Of all pipelines that load; the log of the code location says what is wrong with others."""
    loaded = load()
    for fault in loaded.faults:
        logging.getLogger(__name__).error("%s", fault)
    return build_definitions(loaded.pipelines, platform_resources(settings()))


defs = _definitions()
