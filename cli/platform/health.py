"""Whether a service really answers: a request, not an open port and not a sleep."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any

from resources.settings import Settings

_LOCATION = """{
  workspaceOrError { ... on Workspace { locationEntries {
    name locationOrLoadError { __typename ... on PythonError { message } } } } }
  instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } }
}"""
# urllib would ask a proxy from the environment even for this machine.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(
    url: str, body: object = None, timeout: float = 5.0, headers: Mapping[str, str] | None = None
) -> Any:
    """The JSON (or text) that a URL answers.

    Raises OSError when nothing answers, and ValueError for an error status.
    """
    data = None if body is None else json.dumps(body).encode()
    sent = {"content-type": "application/json", **(headers or {})}
    # The scheme is http by construction.
    request = urllib.request.Request(url, data=data, headers=sent)  # noqa: S310
    try:
        with _direct.open(request, timeout=timeout) as answer:
            content = answer.read().decode()
    except urllib.error.HTTPError as error:
        raise ValueError(
            f"{url} answered {error.code}: {error.read(300).decode(errors='replace')}"
        ) from error
    except HTTPException as error:
        raise OSError(f"{url}: {error}") from error
    try:
        return json.loads(content)
    except json.JSONDecodeError:
        return content


def dagster_state(settings: Settings) -> tuple[str | None, str | None]:
    """What is wrong with the UI and its code location, and with the daemon; None where nothing."""
    try:
        data = get(f"http://{settings.host}:{settings.dagster_port}/graphql", {"query": _LOCATION})[
            "data"
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"does not answer ({error})", "unknown"
    entries = data["workspaceOrError"].get("locationEntries", [])
    ui = "no code location" if not entries else None
    for entry in entries:
        loaded = entry["locationOrLoadError"]
        if loaded is None:
            ui = f"code location {entry['name']} is loading"
        elif loaded["__typename"] == "PythonError":
            ui = f"code location {entry['name']} does not load: {loaded['message'].strip()}"
    sick = [
        s["daemonType"].lower()
        for s in data["instance"]["daemonHealth"]["allDaemonStatuses"]
        if s["required"] and not s["healthy"]
    ]
    return ui, f"no heartbeat of {', '.join(sick)}" if sick else None


def services(settings: Settings) -> dict[str, tuple[str, Callable[[], str | None]]]:
    """Service -> (URL, a probe that returns None when it answers, else what is wrong)."""

    def answers(url: str) -> Callable[[], str | None]:
        def probe() -> str | None:
            try:
                get(url)
            except (OSError, ValueError) as error:
                return f"does not answer ({error})"
            return None

        return probe

    return {
        "Dagster UI": (
            f"http://{settings.host}:{settings.dagster_port}",
            lambda: dagster_state(settings)[0],
        ),
        "Dagster daemon": ("", lambda: dagster_state(settings)[1]),
        "endpoint": (settings.endpoint_url, answers(f"{settings.endpoint_admin_url}/healthz")),
        "reports": (settings.reports_url, answers(f"{settings.reports_url}/")),
        "MLflow": (settings.mlflow_url, answers(f"{settings.mlflow_url}/health")),
    }
