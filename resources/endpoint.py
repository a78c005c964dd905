"""The endpoint as the platform sees it: where bundles are installed, what it should serve, what it reports serving."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import dagster as dg

from bundle import api_keys
from bundle.desired import Actual, Desired, check, seal
from bundle.digests import folder_digest
from bundle.files import check_name, sync_folder, write_atomically

if TYPE_CHECKING:
    import httpx

TIMEOUT = 10.0


class EndpointError(RuntimeError):
    """The endpoint cannot be reached, refused a request, or does not serve what it should."""


class EndpointTarget(Protocol):
    """A place that serves bundles: a local process here, other platforms elsewhere."""

    def install(self, digest: str, files: Mapping[str, bytes]) -> None:
        """Bring a bundle to the endpoint. Installing it again changes nothing."""

    def desire(self, desired: Desired, signature: bytes) -> None:
        """Say what should be served; `signature` is over `desired.content`."""

    def actual(self, pipeline: str) -> Actual | None:
        """What is being served now; None when the endpoint does not answer."""

    def golden(self, pipeline: str) -> dict[str, Any]:
        """Have the golden rows of what is served predicted there. Raises EndpointError."""

    def predict(self, pipeline: str, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Send requests and return one answer each. Raises EndpointError."""

    def predictions(self, pipeline: str) -> list[Path]:
        """Folders of the prediction logs, one of each replica that ever served (`bundle.prediction_log.read`)."""

    def samples(self) -> list[Path]:
        """Folders of the service samples, likewise (`bundle.service_log.read`)."""


class LocalEndpoint(dg.ConfigurableResource):
    """A server process (`python -m serving`) on this machine that watches the folder `path` and answers at `url`.

    Layout: `bundles/<digest>/`, `<pipeline>/desired.json`, `<pipeline>/actual.json`, `<pipeline>/online.msgpack`,
    `<pipeline>/predictions/`, `<pipeline>/trials/`, `service/`.

    `admin_url` is the server's loopback port, which the platform asks (default: `url`), with the API key in `key_file` if that is there.
    """

    path: str
    url: str
    admin_url: str | None = None
    key_file: str | None = None

    def predictions(self, pipeline: str) -> list[Path]:
        return [Path(self.path) / pipeline / "predictions"]

    def trials(self, pipeline: str) -> list[Path]:
        return [Path(self.path) / pipeline / "trials"]

    def samples(self) -> list[Path]:
        return [Path(self.path) / "service"]

    def install(self, digest: str, files: Mapping[str, bytes]) -> None:
        """Write the bundle's folder beside its place and rename it: it is there whole or not at all.

        A folder that is there already is left alone if it is intact, and replaced if it is not. Raises ValueError for files
        whose digest is another one.
        """
        for name in files:
            check_name(name)
        found = folder_digest(files)
        if found != digest:
            raise ValueError(f"these files are bundle {found}, not {digest}; read them from the artifact store again")
        target = Path(self.path) / "bundles" / digest
        if target.is_dir() and _same(target, files):
            return
        temporary = target.with_name(f".{digest}.{uuid.uuid4().hex}")
        temporary.mkdir(parents=True)
        try:
            for name, content in files.items():
                write_atomically(temporary / name, content)
            sync_folder(temporary)
            if target.exists():
                broken = target.with_name(f".{digest}.broken.{uuid.uuid4().hex}")
                target.rename(broken)
                shutil.rmtree(broken)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_folder(target.parent)

    def desire(self, desired: Desired, signature: bytes) -> None:
        check(desired)
        write_atomically(Path(self.path) / desired.pipeline / "desired.json", seal(desired, signature))

    def actual(self, pipeline: str) -> Actual | None:
        import httpx
        import msgspec

        try:
            answer = self._ask("GET", f"/v2/models/{pipeline}/actual")
        except httpx.TransportError:
            return None
        if answer.status_code == 404:
            return Actual(pipeline=pipeline, ready=False, error=f"the endpoint knows no pipeline {pipeline!r} yet")
        if answer.status_code != 200:
            raise EndpointError(f"{self.url} answered {answer.status_code} when asked what it serves of {pipeline}")
        return msgspec.json.decode(answer.content, type=Actual)

    def _ask(self, method: str, path: str, body: object = None, timeout: float = TIMEOUT) -> httpx.Response:
        """Raises httpx.TransportError when nothing answers."""
        import httpx

        key = api_keys.header(Path(self.key_file)) if self.key_file else {}
        url = f"{self.admin_url or self.url}{path}"
        return httpx.request(method, url, json=body, headers=key, timeout=timeout, trust_env=False)

    def golden(self, pipeline: str) -> dict[str, Any]:
        """Have the endpoint predict the golden rows of what it serves: `bundles: [{bundle, rows, difference, row_ms}]`.
        Raises EndpointError when they are not as expected."""
        import httpx

        try:
            answer = self._ask("GET", f"/v2/models/{pipeline}/golden")
        except httpx.TransportError as error:
            raise EndpointError(f"{self.url} does not answer ({error}); start it with `evergreen up`") from error
        if answer.status_code != 200:
            raise EndpointError(
                f"{self.url} answered {answer.status_code} when asked for the golden rows of {pipeline}: {answer.text[:300]}"
            )
        result: dict[str, Any] = answer.json()
        return result

    def predict(self, pipeline: str, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        import httpx

        try:
            answer = self._ask("POST", f"/predict/{pipeline}", {"instances": list(requests)}, timeout=60)
        except httpx.TransportError as error:
            raise EndpointError(f"{self.url} does not answer ({error}); start it with `evergreen up`") from error
        if answer.status_code != 200:
            raise EndpointError(f"{self.url} refused to predict for {pipeline}: {answer.status_code} {answer.text[:300]}")
        predictions: list[dict[str, Any]] = answer.json()["predictions"]
        return predictions


def _same(folder: Path, files: Mapping[str, bytes]) -> bool:
    present = {path.name: path for path in folder.iterdir()}
    return present.keys() == files.keys() and all(
        path.is_file() and not path.is_symlink() and path.read_bytes() == files[name] for name, path in present.items()
    )
