"""What people and machines watch: metrics that are exact over workers, the dashboard and alerts over them, traces and logs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import psutil
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from serving.watch.families import FAMILIES
from tests.serving.conftest import Shared
from tests.support.endpoint import NAME, TREE, Place, Running, request
from tests.support.ports import free_ports

URL = f"/predict/{NAME}"
DASHBOARD = TREE / "infra/grafana/endpoint.json"
GUIDE = TREE / "docs/serving.md"
RULES = TREE / "infra/prometheus/endpoint.rules.yml"

Scrape = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(server: Running) -> Scrape:
    """What a new connection to the admin port reads, by name and labels; Prometheus' own parser judges the text."""
    text = httpx.get(f"{server.admin.base_url}/metrics", trust_env=False).raise_for_status().text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text) for sample in family.samples
    }  # fmt: skip


def value(found: Scrape, name: str, **labels: str) -> float:
    return found.get((f"evergreen_{name}", frozenset(labels.items())), 0.0)


def values(found: Scrape, name: str, label: str) -> dict[str, float]:
    return {
        dict(labels)[label]: number
        for (full, labels), number in found.items()
        if full == f"evergreen_{name}"
    }


def ask(server: Running, body: object) -> dict[str, Any]:
    """One request on a connection of its own, so that any worker may answer it."""
    answer: dict[str, Any] = (
        httpx.post(f"{server.url}{URL}", json=body, trust_env=False, timeout=20)
        .raise_for_status()
        .json()
    )
    return answer


def serving(place: Place, server: Running) -> set[int]:
    """Processes of this server that say that they serve."""
    states = [
        json.loads(found.read_bytes()) for found in (place.root / NAME / "workers").glob("*.json")
    ]
    return {state["pid"] for state in states if state["ready"]} & {
        child.pid for child in psutil.Process(server.process.pid).children()
    }


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_any_worker_counts_for_all_and_a_killed_one_loses_no_count(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    with place.server("--workers", "2") as server, ThreadPoolExecutor(4) as clients:
        place.wait_for_workers(2)
        answers: list[dict[str, Any]] = []
        # A prediction's id begins with what its worker drew at its start.
        while len({answer["id"][:20] for answer in answers}) < 2:
            answers += clients.map(lambda number: ask(server, request(number)), range(20))
            assert len(answers) < 2000, "one worker answers everything"
        before = [scraped(server) for _ in range(8)]
        for found in before:
            assert value(found, "requests_total", pipeline=NAME, status="200") == len(answers)
            assert value(found, "request_seconds_count", pipeline=NAME, arm="champion") == len(
                answers
            )
            assert value(found, "predictions_total", pipeline=NAME, arm="champion") == len(answers)
            assert value(found, "prediction_sum", pipeline=NAME, arm="champion") == pytest.approx(
                sum(a["prediction"] for a in answers)
            )
            assert values(found, "cpu_seconds_total", "worker").keys() == {"0", "1"}
        killed = psutil.Process(server.process.pid).children()[0]
        killed.kill()
        started = values(before[0], "start_time_seconds", "worker")
        until(
            lambda: killed.pid not in serving(place, server) and len(serving(place, server)) == 2,
            "another worker in its place",
        )
        assert values(scraped(server), "start_time_seconds", "worker") != started
        more = list(clients.map(lambda number: ask(server, request(number)), range(30)))
        for found in [scraped(server) for _ in range(4)]:
            assert value(found, "requests_total", pipeline=NAME, status="200") == len(
                answers
            ) + len(more)
            assert value(found, "requests_in_flight") <= 1  # the scrape itself
        assert server.stop() == 0


def test_arms_distributions_digests_freshness_and_cost_are_exported(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    first = place.release()
    second = place.install(seed=1)
    with place.server() as server:
        place.wait(first)
        place.desire((first, 0.5), (second, 0.5))
        place.wait(second)
        answers = [ask(server, request(number)) for number in range(30)]
        answers += ask(server, {"instances": [request(number) for number in range(30, 150)]})[
            "predictions"
        ]
        refused = httpx.post(f"{server.url}{URL}", json={"instances": "none"}, trust_env=False)
        found = scraped(server)
    arms = {
        arm: [answer["prediction"] for answer in answers if answer["arm"] == arm]
        for arm in {answer["arm"] for answer in answers}
    }
    assert len(arms) == 2
    for arm, outputs in arms.items():
        assert value(found, "predictions_total", pipeline=NAME, arm=arm) == len(outputs)
        assert value(found, "prediction_count", pipeline=NAME, arm=arm) == len(outputs)
        assert value(found, "prediction_sum", pipeline=NAME, arm=arm) == pytest.approx(sum(outputs))
        for bound in ("0.1", "0.5", "0.9"):
            below = sum(output <= float(bound) for output in outputs)
            assert value(found, "prediction_bucket", pipeline=NAME, arm=arm, le=bound) == below
    timed = [
        value(found, "request_seconds_count", pipeline=NAME, arm=arm) for arm in (*arms, "several")
    ]
    assert timed[-1] == 1
    assert sum(timed) == value(found, "requests_total", pipeline=NAME, status="200") == 31
    assert value(found, "requests_total", pipeline=NAME, status=str(refused.status_code)) == 1
    assert values(found, "bundle_info", "bundle") == {first: 0.5, second: 0.5}
    assert value(found, "desired_serial", pipeline=NAME) == place.serial
    assert 0 <= value(found, "online_features_age_seconds", pipeline=NAME) < 3600
    assert sum(values(found, "cpu_seconds_total", "worker").values()) > 0
    assert min(values(found, "resident_memory_bytes", "worker").values()) > 1 << 20


# -- dashboard and alerts ----------------------------------------------------------------------------------------------


def dashboard_queries() -> dict[str, str]:
    """PromQL by panel title (and place in the panel). Grafana's own variables are put in as it would."""
    board = json.loads(DASHBOARD.read_text())
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel.get("targets", [])
    }
    found |= {note["name"]: note["expr"] for note in board["annotations"]["list"]}
    variables = [
        variable["definition"]
        for variable in board["templating"]["list"]
        if variable["type"] == "query"
    ]
    found |= {
        text: re.sub(r"label_values\((\w+), (\w+)\)", r"sum by (\2) (\1)", text)
        for text in variables
    }
    return {
        title: query.replace("$__rate_interval", "1m").replace("$pipeline", NAME)
        for title, query in found.items()
    }


def rules() -> dict[str, dict[str, Any]]:
    return {
        rule["alert"]: rule
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
    }


@dataclass
class Uses:
    """What a query reads: names with the labels that it chooses or groups them by, the labels of its groups, the names whose rate it
    takes."""

    labels: dict[str, set[str]] = field(default_factory=dict)
    grouped: set[str] = field(default_factory=set)
    rated: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, query: str) -> Uses:
        """Raises ValueError for what is no PromQL."""
        found = cls()

        def visit(node: promql_parser.Expr) -> None:
            if isinstance(node, promql_parser.VectorSelector):
                found.labels.setdefault(node.name or "", set()).update(
                    matcher.name for matcher in node.matchers.matchers
                )
            elif isinstance(node, promql_parser.MatrixSelector):
                visit(node.vector_selector)
            elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
                found.grouped.update(node.modifier.labels)
                for name in cls.of(str(node.expr)).labels:
                    found.labels.setdefault(name, set()).update(node.modifier.labels)
            elif isinstance(node, promql_parser.Call) and node.func.name == "rate":
                found.rated.update(argument.vector_selector.name for argument in node.args)

        promql_parser.walk(promql_parser.parse(query), visit)
        return found


def exported() -> dict[str, tuple[str, set[str]]]:
    """Kind and labels of every series name, those that Prometheus adds to each scrape included."""
    found = {"up": ("gauge", set[str]())}
    for name, family in FAMILIES.items():
        suffixes = (
            {"_bucket": {"le"}, "_sum": set[str](), "_count": set[str]()}
            if family.kind == "histogram"
            else {"": set[str]()}
        )
        found |= {
            f"evergreen_{name}{suffix}": (family.kind, {*family.labels, *more})
            for suffix, more in suffixes.items()
        }
    return {name: (kind, {*labels, "instance", "job"}) for name, (kind, labels) in found.items()}


def test_what_is_declared_is_exported(shared: Shared) -> None:
    ask(shared.server, request(1))
    text = shared.server.admin.get("/metrics").text
    assert dict(re.findall(r"# TYPE evergreen_(\w+) (\w+)", text)) == {
        name: family.kind for name, family in FAMILIES.items()
    }
    for name, labels in scraped(shared.server):
        assert {label for label, _ in labels} <= exported()[name][1], name


@pytest.mark.parametrize(
    "queries",
    [dashboard_queries(), {name: rule["expr"] for name, rule in rules().items()}],
    ids=["dashboard", "alerts"],
)
def test_queries_read_only_what_is_exported(queries: dict[str, str]) -> None:
    assert len(queries) >= 10
    names = exported()
    for title, query in queries.items():
        uses = Uses.of(query)
        assert uses.labels, f"{title} reads nothing"
        assert uses.labels.keys() <= names.keys(), title
        for name, labels in uses.labels.items():
            assert labels <= names[name][1], f"{title}: {name} has no such label"
        for name in uses.rated:
            assert names[name][0] in ("counter", "histogram"), (
                f"{title}: a rate of the gauge {name}"
            )


def test_everything_exported_is_on_the_dashboard_and_in_the_guide() -> None:
    shown = {name for query in dashboard_queries().values() for name in Uses.of(query).labels}
    missing = [
        name
        for name, family in FAMILIES.items()
        if not any(found.startswith(f"evergreen_{name}") for found in shown)
    ]
    assert not missing, f"{missing}: give each a panel in {DASHBOARD.name}, or do not export it"
    guide = GUIDE.read_text()
    assert not [name for name in FAMILIES if f"`{name}`" not in guide]


def test_panels_have_a_place_and_alerts_say_what_to_do() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [(x, y) for panel in panels for x, y in _cells(panel["gridPos"])]
    assert len(taken) == len(set(taken)), "panels overlap"
    assert max(x for x, _ in taken) < 24
    for name, rule in rules().items():
        assert rule["labels"]["severity"] in ("page", "ticket")
        uses = Uses.of(rule["expr"])
        labels = uses.grouped or set.intersection(
            *(exported()[metric][1] for metric in uses.labels)
        )
        for text in (rule["annotations"]["summary"], rule["annotations"]["description"]):
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels, name


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    return (
        (x, y)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )


# -- traces and logs ---------------------------------------------------------------------------------------------------


@contextmanager
def collector() -> Iterator[tuple[str, list[Span], list[bytes]]]:
    """An OTLP/HTTP collector: its URL, the spans that it got, and the bodies that they came in."""
    spans: list[Span] = []
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            sent = ExportTraceServiceRequest.FromString(body)
            bodies.append(body)
            spans.extend(
                span
                for resource in sent.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            )
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces", spans, bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_span_continues_the_callers_trace_and_holds_no_values(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with collector() as (url, spans, bodies), place.server("--traces", url) as server:
        traced = {"traceparent": f"00-{trace}-{parent}-01"}
        assert (
            server.client.post(
                URL, json={"instances": [request(1), request(2)]}, headers=traced
            ).status_code
            == 200
        )
        assert server.client.get("/secret-in-a-path").status_code == 404
        assert server.client.get("/healthz").status_code == 200
        for path in (f"/models/{NAME}", f"/v2/models/{NAME}/ready"):
            assert server.client.get(path).status_code == 200
        assert (
            server.client.post(
                URL, json={"order_id": "another-secret"}, headers={"traceparent": "nonsense"}
            ).status_code
            == 422
        )
        assert server.stop() == 0
        asked = [span for span in spans if span.name == "POST /predict/{pipeline}"]
        routes = {span.name for span in spans}
    assert routes == {
        "POST /predict/{pipeline}",
        "GET unknown",
        "GET /models/{pipeline}",
        "GET /v2/models/{pipeline}/ready",
    }
    answered, refused = sorted(asked, key=lambda span: span.trace_id.hex() != trace)
    assert (answered.trace_id.hex(), answered.parent_span_id.hex(), answered.kind) == (
        trace,
        parent,
        Span.SPAN_KIND_SERVER,
    )
    assert 0 < answered.end_time_unix_nano - answered.start_time_unix_nano < 60e9
    assert abs(answered.end_time_unix_nano / 1e9 - time.time()) < 3600
    attributes = {
        found.key: found.value.string_value or found.value.int_value
        for found in answered.attributes
    }
    assert attributes == {
        "http.request.method": "POST", "http.route": "/predict/{pipeline}", "http.response.status_code": 200,
        "evergreen.pipeline": NAME, "evergreen.arm": "champion", "evergreen.rows": 2,
    }  # fmt: skip
    assert refused.parent_span_id == b""
    for secret in (b"secret", request(1)["order_id"].encode()):
        assert not any(secret in body for body in bodies)


def test_a_collector_that_is_down_costs_no_request(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    with place.server("--traces", f"http://127.0.0.1:{free_ports(1)[0]}/v1/traces") as server:
        assert [
            server.client.post(URL, json=request(number)).status_code for number in range(20)
        ] == [200] * 20
        assert server.stop() == 0


def test_without_a_collector_nothing_of_opentelemetry_is_imported() -> None:
    code = "import sys, serving.__main__, serving.server; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=TREE,
        timeout=60,
        check=True,
    )
    assert found.stdout.strip() == "[]"


def test_logs_are_one_json_object_a_line_if_asked(tmp_path: Path) -> None:
    place = Place.new(tmp_path)
    place.release()
    with place.server("--json-logs", "--workers", "2") as server:
        place.wait_for_workers(2)
        (place.root / NAME / "online.msgpack").write_bytes(b"half a snapshot")
        place.wait_for_error("not an online snapshot")
        assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert all({"at", "level", "logger", "message", "pid"} <= line.keys() for line in lines)
    assert any(
        line["level"] == "ERROR" and "not an online snapshot" in line["message"] for line in lines
    )
    assert {line["level"] for line in lines} <= {"INFO", "WARNING", "ERROR"}


def until(condition: Callable[[], bool], what: str, timeout: float = 20) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)
