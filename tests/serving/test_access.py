"""Who may ask: keys, tokens, limits, deadlines and TLS, at the ports of real servers."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import NameOID
from hypothesis import given, settings, strategies as st

from bundle import api_keys
from bundle.api_keys import SCOPES, KeyFile
from bundle.records import reader
from cli.demo import requests
from serving.callers.limits import RateLimits
from serving.routes import ADMIN_ROUTES, OPEN, ROUTES
from tests.support.endpoint import DAY, NAME, TREE, Place, Running, request

URL = f"/predict/{NAME}"
NOW = datetime.now(UTC)
ISSUER, AUDIENCE = "https://issuer.example", "evergreen"


def keyed(place: Place, *scopes: str, **options: Any) -> str:
    """Add a key to the place's file; its text."""
    key, text = api_keys.new("tests", scopes or SCOPES, datetime.now(UTC), **options)
    file = place.public_key_path.parent / api_keys.FILE
    api_keys.write(file, KeyFile((*api_keys.read(file).keys, key)))
    return text


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Place, Running, dict[str, str]]]:
    """A server with keys; its clients send none. Keys by what they may."""
    place = Place.new(tmp_path_factory.mktemp("guarded"))
    place.release()
    keys = {scope: keyed(place, scope) for scope in SCOPES} | {
        "all": keyed(place),
        "other pipeline": keyed(place, pipelines=["other"]),
    }
    with place.server() as server:
        yield place, server, keys


def test_every_route_but_health_needs_a_key_with_its_scope(
    guarded: tuple[Place, Running, dict[str, str]],
) -> None:
    _, server, keys = guarded
    description = server.admin.get("/openapi.json", headers=bearer(keys["all"])).json()
    described = {
        (verb.upper(), path) for path, verbs in description["paths"].items() for verb in verbs
    }
    routes = (
        described
        | {("GET", path) for path in ROUTES | ADMIN_ROUTES}
        | {
            ("GET", f"/v2/models/{NAME}/versions/x"),
            ("GET", f"/models/{NAME}"),
            ("POST", f"/explain/{NAME}"),
            ("GET", "/nowhere"),
        }
    )
    assert len(described) > 8
    for client in (server.client, server.admin):
        for verb, path in sorted(routes):
            answer = client.request(verb, path, content=b"{}" if verb == "POST" else None)
            assert (answer.status_code == 200) == (path in OPEN), (verb, path, answer.text)
            if path in OPEN:
                continue
            assert answer.status_code == 401, (verb, path)
            assert "Bearer" in answer.headers["www-authenticate"]
            # A browser asks its user for a key on the port for people alone.
            assert ("Basic" in answer.headers["www-authenticate"]) == (client is server.admin)
    metadata = [
        ("GET", f"/v2/models/{NAME}{what}") for what in ("", "/actual", "/golden", "/ready")
    ] + [
        ("GET", "/v2"),
        ("GET", "/openapi.json"),
        ("GET", f"/models/{NAME}"),
    ]
    cases = {
        "predict": [("POST", URL), ("POST", f"/v2/models/{NAME}/infer")],
        "explain": [("POST", f"/explain/{NAME}")],
        "metrics": [("GET", "/metrics")],
        "metadata": metadata,
    }
    for scope, found in cases.items():
        for verb, path in found:
            body = request(1) if path == URL else None
            assert server.admin.request(
                verb, path, json=body, headers=bearer(keys[scope])
            ).status_code in (200, 400, 415, 422), path
            for other in SCOPES:
                if other != scope:
                    refused = server.admin.request(
                        verb, path, json=body, headers=bearer(keys[other])
                    )
                    assert (refused.status_code, refused.json()["rule"]) == (403, "scope"), (
                        path,
                        other,
                    )
    refused = server.client.post(URL, json=request(1), headers=bearer(keys["other pipeline"]))
    assert (refused.status_code, refused.json()["rule"]) == (403, "pipeline")
    assert server.client.get("/v2", headers=bearer(keys["other pipeline"])).json()["models"] == []
    assert NAME not in server.client.get("/readyz").text
    # Metrics, pages and descriptions are not on the callers' port at all.
    assert {
        server.client.get(path, headers=bearer(keys["all"])).status_code for path in ADMIN_ROUTES
    } == {404}


def test_wrong_keys_are_refused_and_never_repeated(
    guarded: tuple[Place, Running, dict[str, str]],
) -> None:
    _, server, keys = guarded
    secret = keys["all"]
    for header in (
        "Bearer nonsense",
        f"Bearer {secret}x",
        f"Bearer {secret[:-1]}",
        f"Token {secret}",
        "Bearer",
        "Basic !",
        "Bearer a.b.c",
    ):
        answer = server.client.post(URL, json=request(1), headers={"authorization": header})
        assert answer.status_code == 401, header
        assert "nonsense" not in answer.text
        assert secret[:-1] not in answer.text
    assert server.client.post(URL, json=request(1), auth=("anyone", secret)).status_code == 200
    text = server.admin.get("/metrics", headers=bearer(secret)).text
    assert 'evergreen_unauthorized_total{reason="key_unknown"} ' in text
    assert secret not in server.log.read_text()


def test_keys_are_followed_without_a_restart(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    file = place.public_key_path.parent / api_keys.FILE
    with place.server() as server:

        def status(text: str | None) -> int:
            return server.client.post(
                URL, json=request(1), headers=bearer(text) if text else {}
            ).status_code

        assert status(None) == 200
        first = keyed(place)
        until(lambda: status(None) == 401)
        assert status(first) == 200
        # Rotated, both work until the overlap is over.
        identity = first.split("_")[1]
        changed, _, second = api_keys.rotated(
            api_keys.read(file), identity, datetime.now(UTC), timedelta(hours=1)
        )
        api_keys.write(file, changed)
        until(lambda: status(second) == 200)
        assert status(first) == 200
        api_keys.write(file, api_keys.revoked(api_keys.read(file), identity, datetime.now(UTC)))
        until(lambda: status(first) == 401)
        assert status(second) == 200
        # A key that expires does so at its moment, with nothing to reread.
        short = keyed(place, expires=datetime.now(UTC) + timedelta(seconds=2))
        until(lambda: status(short) == 200)
        until(lambda: status(short) == 401)
        # Neither a broken file nor a missing one lets anyone in, or locks out those who may.
        file.write_text("[]")
        until(lambda: "holds no API keys" in server.log.read_text())
        assert (status(None), status(first), status(second)) == (401, 401, 200)
        file.unlink()
        until(lambda: " is gone" in server.log.read_text() or status(second) != 200)
        time.sleep(0.5)
        assert (status(None), status(first), status(second)) == (401, 401, 200)
    file.write_text("[]")
    with place.server() as server:
        assert (status(None), status(second)) == (401, 401)


def test_a_rate_limit_is_exact_over_workers_and_connections(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    # So slow a limit that only the burst passes, however long the test takes.
    limited, free = keyed(place, per_second=0.001, burst=25), keyed(place)
    with place.server("--workers", "2") as server:
        place.wait_for_workers(2)

        def ask(_: int) -> list[int]:
            with httpx.Client(
                base_url=server.url, timeout=20, trust_env=False, headers=bearer(limited)
            ) as client:
                answers = [client.post(URL, json=request(number)) for number in range(5)]
            assert all(
                answer.status_code == 200 or int(answer.headers["retry-after"]) > 900
                for answer in answers
            )
            return [answer.status_code for answer in answers]

        with ThreadPoolExecutor(12) as pool:
            found = Counter(status for statuses in pool.map(ask, range(24)) for status in statuses)
        assert found == {200: 25, 429: 95}
        assert server.client.post(URL, json=request(1), headers=bearer(free)).status_code == 200

        # Both workers answer for both, one that took a dead one's place too.
        def samples() -> dict[str, float]:
            return exported(server.admin.get("/metrics", headers=bearer(free)).text)

        label = f'{{key="{limited.split("_")[1]}"}}'
        assert samples()[f"evergreen_rate_limited_total{label}"] == 95
        for child in children(server.process.pid):
            os.kill(child, signal.SIGKILL)
        until(lambda: len(children(server.process.pid)) == 2 and answers(server, free))
        assert server.client.post(URL, json=request(1), headers=bearer(limited)).status_code == 429
        after = samples()
        assert after[f"evergreen_rate_limited_total{label}"] == 96
        assert after[f'evergreen_requests_total{{pipeline="{NAME}",status="200"}}'] >= 26


def answers(server: Running, key: str) -> bool:
    try:
        return server.client.post(URL, json=request(1), headers=bearer(key)).status_code == 200
    except httpx.TransportError:
        return False


def exported(text: str) -> dict[str, float]:
    """Samples of an exposition, by name and labels."""
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if not line.startswith("#")
    }


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@settings(max_examples=200, deadline=None)
@given(
    rate=st.floats(0.5, 1000), burst=st.integers(1, 50), gaps=st.lists(st.integers(0, 2 * 10**9), min_size=1, max_size=200)
)  # fmt: skip
def test_no_span_of_time_admits_more_than_burst_and_rate(
    rate: float, burst: int, gaps: list[int]
) -> None:
    limits = RateLimits(RateLimits.create())
    now, admitted = 10**12, []
    for gap in gaps:
        now += gap
        wait = limits.take("someone", rate, burst, now)
        if wait == 0:
            admitted.append(now)
        else:
            # Whoever waits as long as it was told is admitted.
            assert limits.take("someone", rate, burst, now + int(wait * 1e9) + 1) == 0.0
            admitted.append(now + int(wait * 1e9) + 1)
            now = admitted[-1]
    for place, start in enumerate(admitted):
        for count, end in enumerate(admitted[place:], 1):
            assert count <= burst + (end - start) / 1e9 * rate * (1 + 1e-6) + 1e-6
    assert len(admitted) >= min(burst, len(gaps))


def test_more_callers_than_slots_are_still_limited() -> None:
    limits = RateLimits(RateLimits.create())
    now = 10**12
    assert all(limits.take(f"caller {number}", 0.001, 1, now) == 0.0 for number in range(1000))
    assert all(limits.take(f"caller {number}", 0.001, 1, now) > 0 for number in range(1000))


class Provider:
    """An identity provider: keys, their public set, and tokens."""

    def __init__(self) -> None:
        self.key: PrivateKeyTypes = ec.generate_private_key(ec.SECP256R1())
        self.kid = "one"

    def key_set(self) -> bytes:
        assert isinstance(self.key, ec.EllipticCurvePrivateKey)
        entry = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key())) | {
            "kid": self.kid,
            "use": "sig",
            "alg": "ES256",
        }
        return json.dumps({"keys": [entry]}).encode()

    def token(
        self,
        *,
        key: Any = None,
        algorithm: str = "ES256",
        kid: str | None = None,
        drop: str = "",
        **claims: object,
    ) -> str:
        found = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "app",
            "exp": int(time.time()) + 600,
            "scope": "predict other",
        } | claims
        found.pop(drop, None)
        return jwt.encode(
            found, self.key if key is None else key, algorithm, headers={"kid": kid or self.kid}
        )


def by_password(secret: bytes) -> str:
    """A token signed by HMAC, which the library refuses to make with a public key."""
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "e",
        "exp": int(time.time()) + 60,
        "scope": "predict",
    }
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "kid": "one"}, claims)
    ]
    signature = hmac.digest(secret, b".".join(parts), "sha256")
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def test_tokens_of_an_identity_provider(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    provider = Provider()
    jwks = tmp_path / "jwks.json"
    jwks.write_bytes(provider.key_set())
    rules = (
        "--jwks",
        str(jwks),
        "--jwt-issuer",
        ISSUER,
        "--jwt-audience",
        AUDIENCE,
        "--jwt-rate",
        "0.001",
    )
    with place.server(*rules) as server:

        def ask(token: str, url: str = URL) -> httpx.Response:
            body = request(1) if url == URL else None
            return server.client.request(
                "POST" if body else "GET", url, json=body, headers=bearer(token)
            )

        good = provider.token()
        assert server.client.post(URL, json=request(1)).status_code == 401
        assert ask(good).status_code == 200
        assert (
            ask(good).status_code == 429
        )  # each subject has its own limit, whatever token it shows
        assert ask(provider.token(exp=int(time.time()) + 700)).status_code == 429
        assert ask(provider.token(sub="b"), "/v2").status_code == 403
        assert ask(provider.token(sub="c", pipelines=["other"])).status_code == 403
        assert ask(provider.token(sub="d", pipelines=[NAME])).status_code == 200
        unsigned = jwt.encode(
            {"iss": ISSUER, "aud": AUDIENCE, "sub": "e", "exp": int(time.time()) + 60},
            "",
            "none",
            headers={"kid": "one"},
        )
        public = provider.key.public_key().public_bytes(  # type: ignore[union-attr]
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        stranger, edwards = (
            ec.generate_private_key(ec.SECP256R1()),
            ed25519.Ed25519PrivateKey.generate(),
        )
        refused = {
            "none": unsigned, "public key as a password": by_password(public), "another's key": provider.token(key=stranger),
            "another algorithm": provider.token(key=edwards, algorithm="EdDSA"), "unknown key": provider.token(kid="two"),
            "audience": provider.token(aud="elsewhere"), "issuer": provider.token(iss="https://evil.example"),
            "expired": provider.token(exp=int(time.time()) - 60), "pipelines": provider.token(pipelines=[]), "scope": provider.token(scope=5),
            **{f"no {claim}": provider.token(drop=claim) for claim in ("exp", "iss", "aud", "sub")}, "cut": good[:-3], "dots": "a.b.c",
        }  # fmt: skip
        for why, token in refused.items():
            answer = ask(token)
            assert (answer.status_code, answer.json()["rule"]) == (401, "token"), (why, answer.text)
        # A key that the provider withdrew opens nothing any more, not even with a token that was accepted before.
        before = provider.token(sub="f")
        assert ask(before).status_code == 200
        provider.key, provider.kid = ec.generate_private_key(ec.SECP256R1()), "two"
        jwks.write_bytes(provider.key_set())
        until(lambda: ask(provider.token(sub=f"g{time.time()}")).status_code == 200)
        assert ask(before).status_code == 401
        assert ask(good).status_code == 401
        jwks.write_text("{}")
        until(lambda: "no JSON Web Key Set" in server.log.read_text())
        assert ask(provider.token(sub="h")).status_code == 200


def test_a_key_set_by_url_is_asked_again_for_unknown_keys(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    provider = Provider()

    class Set(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(provider.key_set())

        def log_message(self, *args: object) -> None: ...

    with (
        serving(Set) as url,
        place.server(
            "--jwks", f"{url}/keys", "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE
        ) as server,
    ):
        assert (
            server.client.post(URL, json=request(1), headers=bearer(provider.token())).status_code
            == 200
        )
        provider.key, provider.kid = ec.generate_private_key(ec.SECP256R1()), "two"
        until(
            lambda: (
                server.client.post(
                    URL, json=request(1), headers=bearer(provider.token())
                ).status_code
                == 200
            )
        )


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def certified(folder: Path, serial: int = 1) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "endpoint")])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(serial)
        .not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    certificate, private = folder / "tls.crt", folder / "tls.key"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return certificate, private


def test_tls_and_a_certificate_renewed_without_a_restart(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    certificate, private = certified(tmp_path)
    with place.server(
        "--tls-certificate", str(certificate), "--tls-key", str(private), certificate=certificate
    ) as server:
        answer = server.client.post(URL, json=request(1))
        assert answer.status_code == 200
        assert "max-age" in answer.headers["strict-transport-security"]
        assert server.admin.get("/metrics").status_code == 200
        assert (
            requests.send(
                server.url, NAME, [request(number) for number in range(20)], trusted=certificate
            ).failed
            == 0
        )
        assert requests.send(server.url, NAME, [request(1)]).failed == 1
        url = httpx.URL(server.url)
        with pytest.raises(httpx.TransportError):
            httpx.get(str(url.copy_with(scheme="http")), trust_env=False)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection((url.host, url.port or 0), timeout=10) as plain,
            pytest.raises((ssl.SSLError, OSError)),
        ):
            old.wrap_socket(plain)

        def serial() -> int:
            return x509.load_pem_x509_certificate(
                ssl.get_server_certificate((url.host, url.port or 0)).encode()
            ).serial_number

        assert serial() == 1
        certified(tmp_path, serial=2)
        until(lambda: serial() == 2)


def test_a_public_address_needs_keys_and_tls(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    certificate, private = certified(tmp_path)
    secured = ("--tls-certificate", str(certificate), "--tls-key", str(private))

    def refused(*options: str) -> str:
        command = [
            sys.executable,
            "-m",
            "serving",
            "--root",
            str(place.root),
            "--public-key",
            str(place.public_key_path),
            "--port",
            "0",
            *options,
        ]
        ended = subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=30)
        assert ended.returncode == 2, ended.stderr
        return ended.stderr

    assert "--tls-certificate" in refused("--host", "0.0.0.0")
    assert "evergreen keys add" in refused("--host", "0.0.0.0", *secured)
    assert "evergreen keys add" in refused("--admin-host", "0.0.0.0", *secured)
    assert "issuer" in refused("--host", "0.0.0.0", *secured, "--jwks", "keys.json")
    assert "cannot be allowed" in refused(
        "--jwks", "k", "--jwt-issuer", "i", "--jwt-audience", "a", "--jwt-algorithms", "HS256"
    )
    assert "unencrypted" in refused(
        "--jwks", "http://issuer.example/keys", "--jwt-issuer", "i", "--jwt-audience", "a"
    )
    assert "no certificate" in refused("--tls-certificate", str(place.public_key_path))
    expired = keyed(place, expires=datetime.now(UTC) + timedelta(milliseconds=1))
    assert "evergreen keys add" in refused("--host", "0.0.0.0", *secured)
    key = keyed(place)
    with place.server("--host", "0.0.0.0", *secured, key=key, certificate=certificate) as server:
        assert server.client.post(URL, json=request(1)).status_code == 200
        assert server.client.post(URL, json=request(1), headers=bearer(expired)).status_code == 401
        # Even without its keys, a server on a public address never opens.
        (place.public_key_path.parent / api_keys.FILE).unlink()
        time.sleep(0.6)
        assert (
            httpx.post(
                f"{server.url}{URL}",
                json=request(1),
                verify=ssl.create_default_context(cafile=certificate),
                trust_env=False,
            ).status_code
            == 401
        )


def test_what_comes_too_late_is_neither_predicted_nor_logged(
    guarded: tuple[Place, Running, dict[str, str]],
) -> None:
    place, server, keys = guarded
    before = len(reader.read(place.predictions, DAY).records)
    headers = bearer(keys["all"])
    for rows in (request(1), {"instances": [request(number) for number in range(200)]}):
        late = server.client.post(URL, json=rows, headers={**headers, "x-request-timeout-ms": "0"})
        assert (late.status_code, late.json()["rule"]) == (504, "deadline")
    assert len(reader.read(place.predictions, DAY).records) == before
    assert (
        server.client.post(
            URL, json=request(1), headers={**headers, "x-request-timeout-ms": "5000"}
        ).status_code
        == 200
    )
    wrong = server.client.post(
        URL, json=request(1), headers={**headers, "x-request-timeout-ms": "soon"}
    )
    assert (wrong.status_code, wrong.json()["field"]) == (400, "x-request-timeout-ms")
    assert (
        exported(server.admin.get("/metrics", headers=headers).text)[
            'evergreen_shed_total{reason="deadline"}'
        ]
        == 2
    )


def test_more_requests_at_once_than_allowed_are_shed(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    with place.server("--concurrency", "3", "--request-seconds", "60") as server:
        url = httpx.URL(server.url)
        head = f"POST {URL} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 5\r\n\r\n".encode()
        waiting = [
            socket.create_connection((url.host, url.port or 0), timeout=20) for _ in range(3)
        ]
        for connection in waiting:
            connection.sendall(head)
        until(
            lambda: exported(server.admin.get("/metrics").text)["evergreen_requests_in_flight"] == 3
        )
        shed = server.client.post(URL, json=request(1))
        assert (shed.status_code, shed.json()["rule"], shed.headers["retry-after"]) == (
            503,
            "concurrency",
            "1",
        )
        assert server.client.get("/healthz").status_code == 200
        for connection in waiting:
            connection.close()
        until(lambda: server.client.post(URL, json=request(1)).status_code == 200)
        assert (
            exported(server.admin.get("/metrics").text)[
                'evergreen_shed_total{reason="concurrency"}'
            ]
            >= 1
        )
