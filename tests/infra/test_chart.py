"""The Helm chart, rendered by Helm's own engine: valid for Kubernetes, safe by default, and starting the very server that is tested here."""

from __future__ import annotations

import ast
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import helm_python
import httpx
import kubernetes_validate
import msgspec
import pytest
import yaml

from bundle import api_keys
from resources.endpoint import ReplicatedEndpoint
from tests.serving.test_access import certified
from tests.serving.test_replicas import wait
from tests.support.endpoint import NAME, TREE, Place, request
from tests.support.ports import free_ports

CHART = TREE / "infra" / "helm" / "evergreen-endpoint"
KUBERNETES = ("1.29", "1.33")
GIVEN: dict[str, Any] = {
    "image": {"repository": "images.test/evergreen-endpoint"},
    "folder": {"claim": "evergreen-endpoint"},
    "publicKey": {"configMap": "evergreen-public-key"},
    "keys": {"secret": "evergreen-keys"},
    "tls": {"secret": "evergreen-tls"},
}
EVERYTHING: dict[str, Any] = {
    **GIVEN,
    "image": {
        "repository": "images.test/evergreen-endpoint",
        "tag": "1.2",
        "pullSecrets": [{"name": "pull"}],
    },
    "autoscaling": {"enabled": False},
    "replicas": 3,
    "jwt": {
        "jwks": "https://identity.test/keys",
        "issuer": "identity",
        "audience": "evergreen",
        "algorithms": "ES256",
    },
    "grpc": {"enabled": True},
    "traces": "http://collector.test:4318/v1/traces",
    "log": {"syncSeconds": 0},
    "service": {"type": "LoadBalancer", "annotations": {"internal": "true"}},
    "networkPolicy": {
        "clients": [{"namespaceSelector": {"matchLabels": {"team": "bookings"}}}],
        "platform": [{"podSelector": {"matchLabels": {"app": "dagster"}}}],
        "prometheus": [{"namespaceSelector": {"matchLabels": {"team": "metrics"}}}],
        "egress": [
            {
                "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
                "ports": [{"port": 443, "protocol": "TCP"}],
            }
        ],
    },
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "serving", "operator": "Exists"}],
    "podAnnotations": {"checked": "yes"},
}


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of the chart."""
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        rendered = chart.render(values, name="flights", namespace="ml")
    texts = [text for name, text in sorted(rendered.items()) if name.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    [found] = [each for each in objects if each["kind"] == kind]
    return found


def arguments(objects: list[dict[str, Any]]) -> list[str]:
    found: list[str] = one(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"][0][
        "args"
    ]
    return found


@pytest.mark.parametrize("values", [GIVEN, EVERYTHING], ids=["least", "everything"])
def test_the_chart_renders_to_valid_objects(values: dict[str, Any]) -> None:
    objects = render(values)
    kinds = sorted(each["kind"] for each in objects)
    scaled = ["HorizontalPodAutoscaler"] if values is GIVEN else []
    assert kinds == sorted(
        [*scaled, "NetworkPolicy", "PodDisruptionBudget", "Service", "Service", "StatefulSet"]
    )
    for version in KUBERNETES:
        for each in objects:
            kubernetes_validate.validate(each, version, strict=True)
    assert ("replicas" in one(objects, "StatefulSet")["spec"]) == (values is EVERYTHING)
    names = {each["metadata"]["name"] for each in objects}
    assert names == {"flights", "flights-replicas"}
    report = helm_python.lint(CHART, values, strict=True, kube_version="v1.33.0")
    assert [found for found in report["messages"] if found["severity"] > 1] == []


def test_pods_are_confined() -> None:
    objects = render(GIVEN)
    pod = one(objects, "StatefulSet")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert (
        pod["securityContext"]["runAsNonRoot"],
        pod["securityContext"]["seccompProfile"]["type"],
    ) == (True, "RuntimeDefault")
    security = container["securityContext"]
    assert (
        security["allowPrivilegeEscalation"],
        security["readOnlyRootFilesystem"],
        security["capabilities"],
    ) == (
        False,
        True,
        {"drop": ["ALL"]},
    )
    # Beside /tmp, a pod writes nothing but its own state.
    assert [
        mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")
    ] == ["/srv/state", "/tmp"]
    assert (
        next(mount for mount in container["volumeMounts"] if mount["mountPath"] == "/srv/state")[
            "subPathExpr"
        ]
        == "replicas/$(POD_NAME)"
    )
    policy = one(objects, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == {"https"}
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53}
    assert all(
        container[probe]["httpGet"]["scheme"] == "HTTPS"
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    )
    assert one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("missing", ["image", "folder", "publicKey", "keys", "tls"])
def test_nothing_is_rendered_without_what_safety_needs(missing: str) -> None:
    with pytest.raises(helm_python.HelmError, match=missing):
        render({name: value for name, value in GIVEN.items() if name != missing})
    with pytest.raises(helm_python.HelmError):
        render({**GIVEN, "unknown": 1})


@pytest.mark.parametrize("values", [GIVEN, EVERYTHING], ids=["least", "everything"])
def test_the_server_takes_the_charts_arguments(values: dict[str, Any]) -> None:
    from serving.arguments import parser

    found = parser().parse_args(arguments(render(values)))
    assert (found.host, found.workers) == ("0.0.0.0", 1)
    assert found.sync_seconds == values.get("log", {}).get("syncSeconds", 0.2)


def test_a_pod_of_the_chart_serves(tmp_path: Path) -> None:
    objects = render(GIVEN)
    place = Place.new(tmp_path)
    digest = place.release()
    secret = mounted(tmp_path, place)
    [port, admin] = free_ports(2)
    moved = {
        "/srv/evergreen": str(place.root),
        "/srv/state": str(place.root / "replicas" / "flights-0"),
        "/etc/evergreen": str(tmp_path / "etc"),
    }
    command = [sys.executable, "-m", "serving"]
    for argument in arguments(objects):
        for inside, outside in moved.items():
            argument = argument.replace(inside, outside)
        command.append(argument.replace("=8443", f"={port}").replace("=8444", f"={admin}"))
    place.root.chmod(0o755)
    context = ssl.create_default_context(cafile=str(tmp_path / "etc" / "tls" / "tls.crt"))
    with open(tmp_path / "pod.log", "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": str(TREE)}
        )
    try:
        container = one(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
        end = time.monotonic() + 30
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = container[probe]["httpGet"]["path"]
            # The kubelet verifies no certificate and has no key.
            while not answers(f"https://127.0.0.1:{port}{path}"):
                assert time.monotonic() < end, (tmp_path / "pod.log").read_text()
                assert process.poll() is None, (tmp_path / "pod.log").read_text()
                time.sleep(0.1)
        with httpx.Client(verify=context, trust_env=False) as client:
            ask = {"url": f"https://127.0.0.1:{port}/predict/{NAME}", "json": request(1)}
            assert client.post(**ask).status_code == 401
            answer = client.post(**ask, headers={"authorization": f"Bearer {secret}"})
            assert (answer.status_code, answer.json()["bundle"]) == (200, digest)
        (tmp_path / "key").write_text(secret)
        target = ReplicatedEndpoint(
            path=str(place.root), url=f"https://127.0.0.1:{port}", replicas=f"https://127.0.0.1:{port}",
            ca_file=str(tmp_path / "etc" / "tls" / "tls.crt"), key_file=str(tmp_path / "key"),
        )  # fmt: skip
        assert wait(target, digest).bundles == (digest,)
        assert target.predict(NAME, [request(2)])[0]["bundle"] == digest
        assert target.golden(NAME)["bundles"][0]["bundle"] == digest
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
    assert sorted(path.name for path in place.root.iterdir()) == ["bundles", "replicas", NAME]


def test_the_image_holds_what_the_server_imports_and_nothing_of_the_platform() -> None:
    image = (TREE / "infra" / "endpoint.Dockerfile").read_text()
    build, final = image.split("\nFROM ")[1:]
    assert re.findall(r"^COPY (.+) \S+$", build, re.MULTILINE) == [
        "infra/endpoint.lock",
        "pyproject.toml README.md",
        "bundle",
    ]
    assert re.findall(r"^COPY (.+) \S+$", final, re.MULTILINE) == [
        "--from=installed /opt/venv",
        "--from=installed /opt/evergreen/bundle",
        "serving",
    ]
    assert re.findall(r"^USER (\S+)$", image, re.MULTILINE) == ["10001:10001"]
    wanted = {
        re.split(r"[=<>\[ ]", line)[0]
        for line in (TREE / "infra" / "endpoint.in").read_text().splitlines()
        if line and line[0] != "#"
    }
    modules = {
        "opentelemetry": "opentelemetry-sdk",
        "jwt": "pyjwt",
        "grpc": "grpcio",
        "grpc_health": "grpcio-health-checking",
        "google": "protobuf",
        "prometheus_client": "prometheus-client",
        "xgboost": "xgboost-cpu",
    }
    imported = {
        modules.get(name, name)
        for package in ("bundle", "serving")
        for name in third_party(TREE / package)
    }
    # Polars computes features in batches, on the platform alone.
    assert imported - wanted == {"polars"}
    locked = locks(TREE / "infra" / "endpoint.lock")
    assert wanted <= locked.keys()
    platform = locks(TREE / "requirements.lock")
    differing = {
        name: (version, platform[name])
        for name, version in locked.items()
        if platform.get(name, version) != version
    }
    assert differing == {}
    assert locked["xgboost-cpu"] == platform["xgboost"]
    assert (
        not {"dagster", "mlflow", "pandas", "polars"}
        & locks(TREE / "infra" / "endpoint.lock").keys()
    )


def third_party(folder: Path) -> set[str]:
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            found |= {name.split(".")[0] for name in names}
    return {
        name
        for name in found
        if name not in sys.stdlib_module_names and name not in ("bundle", "serving")
    }


def locks(place: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", place.read_text(), re.MULTILINE))


def mounted(folder: Path, place: Place) -> str:
    """What the chart mounts: public key, API keys, certificate. Returns an API key."""
    for name in ("public", "keys", "tls"):
        (folder / "etc" / name).mkdir(parents=True)
    shutil.copy(place.public_key_path, folder / "etc" / "public" / "platform.pub")
    key, secret = api_keys.new("the platform", ("predict", "metadata"), datetime.now(UTC))
    (folder / "etc" / "keys" / api_keys.FILE).write_bytes(
        msgspec.json.encode(api_keys.KeyFile((key,)))
    )
    for made, name in zip(certified(folder), ("tls.crt", "tls.key"), strict=True):
        shutil.move(made, folder / "etc" / "tls" / name)
    return secret


def answers(url: str) -> bool:
    try:
        return httpx.get(url, verify=False, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
