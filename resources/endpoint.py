"""The endpoint as the platform sees it: where bundles are installed, what it should serve, what it
reports serving.
"""

from __future__ import annotations

import shutil
import socket
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import dagster as dg
import msgspec

from bundle import api_keys
from bundle.desired import ALARM_FILE, Actual, Alarm, Desired, alarm_in, check, seal
from bundle.digests import folder_digest
from bundle.files import check_name, sync_folder, write_atomically

if TYPE_CHECKING:
    import ssl

    import httpx

TIMEOUT = 10.0


class EndpointError(RuntimeError):
    """The endpoint cannot be reached, refused a request, or does not serve what it should."""


class EndpointTarget(Protocol):
    """A place that serves bundles: one server here, its replicas on a cluster, other platforms
    elsewhere. See docs/extend.md.
    """

    @property
    def url(self) -> str:
        """Where applications ask for predictions."""

    def install(self, digest: str, files: Mapping[str, bytes]) -> None:
        """Bring a bundle to the endpoint. Installing it again changes nothing."""

    def desire(self, desired: Desired, signature: bytes) -> None:
        """Say what should be served; `signature` is over `desired.content`."""

    def actual(self, pipeline: str) -> Actual | None:
        """What is being served now; None when the endpoint does not answer."""

    def alarm(self, reason: str | None) -> bool:
        """Say why the platform changes nothing any more, or None where all is well again.

        The endpoint serves on and shows it as a metric. Returns whether that is news."""

    def golden(self, pipeline: str) -> dict[str, Any] | None:
        """Have the golden rows of what is served predicted there: `bundles: [{bundle, rows,
        difference, row_ms}]`; None when the endpoint does not answer. Raises EndpointError when
        they are not as expected.
        """

    def predict(self, pipeline: str, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Send requests and return one answer each. Raises EndpointError."""

    def predictions(self, pipeline: str) -> list[Path]:
        """Folders of the prediction logs, one of each replica that ever served
        (`bundle.records.reader.read`).
        """

    def trials(self, pipeline: str) -> list[Path]:
        """Folders of what bundles on trial made of requests, likewise
        (`bundle.records.reader.read_trials`).
        """

    def samples(self) -> list[Path]:
        """Folders of the service samples, likewise (`bundle.records.service.read`)."""

    def prune(self, pipeline: str, kept: Collection[str]) -> list[str]:
        """Remove installed bundles of a pipeline but those `kept` (digests); returns what went.

        They can be installed again.
        """


class LocalEndpoint(dg.ConfigurableResource):
    """A server process (`python -m serving`) on this machine that watches the folder `path` and
    answers at `url`.

    Layout: `bundles/<digest>/`, `<pipeline>/desired.json`, `<pipeline>/actual.json`,
    `<pipeline>/online.msgpack`, `<pipeline>/predictions/`, `<pipeline>/trials/`, `service/`.

    `admin_url` is the server's loopback port, which the platform asks (default: `url`), with the
    API key in `key_file` if that is there.
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
        """Write the bundle's folder beside its place and rename it: it is there whole or not at
        all.

        A folder that is there already is left alone if it is intact, and replaced if it is not.
        Raises ValueError for files whose digest is another one.
        """
        for name in files:
            check_name(name)
        found = folder_digest(files)
        if found != digest:
            raise ValueError(
                f"these files are bundle {found}, not {digest}; read them from the artifact store "
                "again"
            )
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

    def prune(self, pipeline: str, kept: Collection[str]) -> list[str]:
        removed = []
        for folder in sorted((Path(self.path) / "bundles").glob("[0-9a-f]*")):
            if folder.name in kept or _pipeline_of(folder) != pipeline:
                continue
            # Renamed first: a bundle is there whole or not at all.
            gone = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
            folder.rename(gone)
            shutil.rmtree(gone)
            removed.append(folder.name)
        return removed

    def desire(self, desired: Desired, signature: bytes) -> None:
        check(desired)
        write_atomically(
            Path(self.path) / desired.pipeline / "desired.json", seal(desired, signature)
        )

    def alarm(self, reason: str | None) -> bool:
        place = Path(self.path) / ALARM_FILE
        known = alarm_in(Path(self.path))
        if reason == (known.reason if known else None):
            return False
        if reason is None:
            place.unlink(missing_ok=True)
        else:
            write_atomically(place, msgspec.json.encode(Alarm(reason, _now())))
        return True

    def actual(self, pipeline: str) -> Actual | None:
        import httpx

        try:
            answer = self._ask("GET", f"/v2/models/{pipeline}/actual")
        except httpx.TransportError:
            return None
        if answer.status_code == 404:
            return Actual(
                pipeline=pipeline,
                ready=False,
                error=f"the endpoint knows no pipeline {pipeline!r} yet",
            )
        if answer.status_code != 200:
            raise EndpointError(
                f"{self.url} answered {answer.status_code} when asked what it serves of {pipeline}"
            )
        return msgspec.json.decode(answer.content, type=Actual)

    def _ask(
        self, method: str, path: str, body: object = None, timeout: float = TIMEOUT
    ) -> httpx.Response:
        """Raises httpx.TransportError when nothing answers."""
        import httpx

        url = f"{self.admin_url or self.url}{path}"
        return httpx.request(
            method,
            url,
            json=body,
            headers=self._key(),
            timeout=timeout,
            verify=_trusted(),
            trust_env=False,
        )

    def _key(self) -> dict[str, str]:
        return api_keys.header(Path(self.key_file)) if self.key_file else {}

    def golden(self, pipeline: str) -> dict[str, Any] | None:
        import httpx

        try:
            answer = self._ask("GET", f"/v2/models/{pipeline}/golden")
        except httpx.TransportError:
            return None
        if answer.status_code != 200:
            raise EndpointError(
                f"{self.url} answered {answer.status_code} when asked for the golden rows of "
                f"{pipeline}: {answer.text[:300]}"
            )
        result: dict[str, Any] = answer.json()
        return result

    def predict(self, pipeline: str, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        import httpx

        try:
            answer = self._ask(
                "POST", f"/predict/{pipeline}", {"instances": list(requests)}, timeout=60
            )
        except httpx.TransportError as error:
            raise EndpointError(
                f"{self.url} does not answer ({error}); start it with `evergreen up`"
            ) from error
        if answer.status_code != 200:
            raise EndpointError(
                f"{self.url} refused to predict for {pipeline}: {answer.status_code} "
                f"{answer.text[:300]}"
            )
        predictions: list[dict[str, Any]] = answer.json()["predictions"]
        return predictions


class ReplicatedEndpoint(LocalEndpoint):
    """Servers on several machines that share the folder `path` (a ReadWriteMany volume, say), such
    as the pods of `infra/helm/evergreen-endpoint`; each writes a state of its own,
    `replicas/<name>/` (`python -m serving --state`).

    `url` is where applications reach all of them. Every address to which the host of `replicas`
    resolves (a headless service) is one replica; it is asked with the host's name, so one
    certificate, verified against `ca_file` (default: the system's), fits all. What is served is
    what the replica furthest behind serves.
    """

    replicas: str
    ca_file: str | None = None

    def predictions(self, pipeline: str) -> list[Path]:
        return sorted(Path(self.path).glob(f"replicas/*/{pipeline}/predictions"))

    def trials(self, pipeline: str) -> list[Path]:
        return sorted(Path(self.path).glob(f"replicas/*/{pipeline}/trials"))

    def samples(self) -> list[Path]:
        return sorted(Path(self.path).glob("replicas/*/service"))

    def addresses(self) -> list[str]:
        """Addresses of the replicas, sorted; none where the name does not resolve (no replica is
        there).
        """
        parts = urlsplit(self.replicas)
        try:
            found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
        except socket.gaierror:
            return []
        return sorted({str(address[0]) for *_, address in found})

    def actual(self, pipeline: str) -> Actual | None:
        import httpx

        states = []
        for address in self.addresses():
            try:
                answer = self._ask_one(address, "GET", f"/v2/models/{pipeline}/actual")
            except httpx.TransportError:
                return None
            if answer.status_code == 404:
                states.append(
                    Actual(
                        pipeline=pipeline,
                        ready=False,
                        error=f"replica {address} knows no pipeline {pipeline!r} yet",
                    )
                )
            elif answer.status_code != 200:
                raise EndpointError(
                    f"replica {address} of {self.url} answered {answer.status_code} when asked "
                    f"what it serves of {pipeline}"
                )
            else:
                states.append(msgspec.json.decode(answer.content, type=Actual))
        return min(
            states,
            key=lambda state: (state.ready, state.serial, state.snapshot_as_of or ""),
            default=None,
        )

    def golden(self, pipeline: str) -> dict[str, Any] | None:
        """The golden rows of every replica; of each bundle the result that is furthest off.

        None when one does not answer, or none is there.
        """
        import httpx

        worst: dict[str, dict[str, Any]] = {}
        for address in self.addresses():
            try:
                answer = self._ask_one(address, "GET", f"/v2/models/{pipeline}/golden")
            except httpx.TransportError:
                return None
            if answer.status_code != 200:
                raise EndpointError(
                    f"replica {address} of {self.url} answered {answer.status_code} when asked for "
                    "its golden rows"
                )
            for found in answer.json()["bundles"]:
                known = worst.get(found["bundle"])
                if known is None or not found["difference"] <= known["difference"]:
                    worst[found["bundle"]] = found
        return {"bundles": list(worst.values())} if worst else None

    def _ask_one(self, address: str, method: str, path: str) -> httpx.Response:
        parts = urlsplit(self.replicas)
        shown = f"[{address}]" if ":" in address else address
        with self._client() as client:
            return client.request(
                method,
                f"{parts.scheme}://{shown}:{parts.port}{path}",
                headers={**self._key(), "host": parts.netloc},
                extensions={"sni_hostname": parts.hostname},
            )

    def _ask(
        self, method: str, path: str, body: object = None, timeout: float = TIMEOUT
    ) -> httpx.Response:
        with self._client() as client:
            return client.request(
                method, f"{self.url}{path}", json=body, headers=self._key(), timeout=timeout
            )

    def _client(self) -> httpx.Client:
        import ssl

        import httpx

        verify = ssl.create_default_context(cafile=self.ca_file) if self.ca_file else True
        return httpx.Client(verify=verify, timeout=TIMEOUT, trust_env=False)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def _trusted() -> ssl.SSLContext:
    """What a server without an authority of its own must show.

    Reading all authorities takes ten times as long as asking.
    """
    import httpx

    return httpx.create_ssl_context(trust_env=False)


def _pipeline_of(bundle: Path) -> str | None:
    """What an installed bundle says it is of; nothing is believed but that it may go."""
    from bundle.manifest import MANIFEST

    try:
        named = msgspec.json.decode((bundle / MANIFEST).read_bytes(), type=dict[str, Any]).get(
            "pipeline"
        )
    except (OSError, msgspec.DecodeError):
        return None
    return named if isinstance(named, str) else None


def _same(folder: Path, files: Mapping[str, bytes]) -> bool:
    present = {path.name: path for path in folder.iterdir()}
    return present.keys() == files.keys() and all(
        path.is_file() and not path.is_symlink() and path.read_bytes() == files[name]
        for name, path in present.items()
    )
