"""The command line of `python -m serving`: its options, by subject, and the `Options` they make.

What a server with these options may do is decided in `serving.__main__`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bundle.api_keys import FILE
from serving.callers.hosts import is_loopback
from serving.options import DEFAULT_ALGORITHMS, Options, TokenRules


def parser() -> argparse.ArgumentParser:
    """The options of the command, in the order in which --help shows them."""
    made = argparse.ArgumentParser(
        "python -m serving",
        description="Serve the bundles that the signed desired states under --root name.",
    )
    _add_folders(made)
    _add_addresses(made)
    _add_log(made)
    _add_limits(made)
    _add_access(made)
    _add_tokens(made)
    _add_watching(made)
    made.add_argument("--inherited", help=argparse.SUPPRESS)
    return made


def _add_folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root", type=Path, required=True, help="folder with bundles/ and <pipeline>/desired.json"
    )
    parser.add_argument(
        "--state",
        type=Path,
        help="folder of what this server writes: prediction log, samples, last state "
        "(default: --root)",
    )
    parser.add_argument(
        "--public-key",
        type=Path,
        help="the platform's public key, PEM (default: <root>/../keys/platform.pub)",
    )


def _add_addresses(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--grpc-port",
        type=int,
        metavar="PORT",
        help="also serve the Open Inference Protocol over gRPC, on this port of --host",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that share the port")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="also answer requests for this host name on loopback",
    )
    parser.add_argument(
        "--sample-seconds", type=float, default=10.0, help="seconds between service samples"
    )


def _add_log(parser: argparse.ArgumentParser) -> None:
    log = parser.add_argument_group(
        "prediction log", "A killed server loses no prediction that it answered."
    )
    log.add_argument(
        "--segment-bytes",
        type=int,
        default=Options.segment_bytes,
        help="size at which a segment is closed and compressed",
    )
    log.add_argument(
        "--segment-seconds",
        type=float,
        default=Options.segment_seconds,
        help="age at which a segment is closed",
    )
    log.add_argument(
        "--sync-seconds",
        type=float,
        default=Options.sync_seconds,
        help="longest time until an answered prediction is flushed to the disk, "
        "which is what a power cut can take; 0: before the answer",
    )
    log.add_argument(
        "--reserve-bytes",
        type=int,
        default=Options.reserve_bytes,
        help="free room on the log's disk below which requests are refused (503)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits = parser.add_argument_group("limits", "What a client may ask of the server.")
    limits.add_argument(
        "--body-limit",
        type=int,
        default=16 << 20,
        metavar="BYTES",
        help="largest body of a request",
    )
    limits.add_argument(
        "--row-limit", type=int, default=10_000, metavar="ROWS", help="most rows of a request"
    )
    limits.add_argument(
        "--request-seconds",
        type=float,
        default=10.0,
        help="time in which a request must arrive wholly",
    )
    limits.add_argument(
        "--concurrency",
        type=int,
        default=512,
        metavar="N",
        help="most requests at once over all workers; more are shed with 503",
    )
    limits.add_argument(
        "--answer-seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="time for an answer; a client may ask for less with x-request-timeout-ms",
    )


def _add_access(parser: argparse.ArgumentParser) -> None:
    access = parser.add_argument_group(
        "access", "A --host or --admin-host that is not loopback needs keys (or tokens) and TLS."
    )
    access.add_argument(
        "--keys",
        type=Path,
        help=f"file of API keys, made by `evergreen keys` (default: {FILE} beside the public key)",
    )
    access.add_argument(
        "--tls-certificate",
        type=Path,
        metavar="PEM",
        help="certificate chain of --host; renewed without a restart",
    )
    access.add_argument(
        "--tls-key",
        type=Path,
        metavar="PEM",
        help="its private key, where it is not in the same file",
    )
    access.add_argument(
        "--admin-host",
        default="127.0.0.1",
        help="where metrics, pages and descriptions are (default: this machine alone)",
    )
    access.add_argument("--admin-port", type=int, default=8081)


def _add_tokens(parser: argparse.ArgumentParser) -> None:
    tokens = parser.add_argument_group("tokens", "Beside keys, or instead of them.")
    tokens.add_argument(
        "--jwks", metavar="FILE|URL", help="also accept tokens (JWT) signed by a key of this set"
    )
    tokens.add_argument(
        "--jwt-issuer", default="", metavar="NAME", help="the iss that tokens must have"
    )
    tokens.add_argument(
        "--jwt-audience", default="", metavar="NAME", help="the aud that tokens must have"
    )
    tokens.add_argument(
        "--jwt-algorithms",
        default=",".join(DEFAULT_ALGORITHMS),
        metavar="NAMES",
        help="the only algorithms to accept (default: %(default)s)",
    )
    tokens.add_argument(
        "--jwt-rate", type=float, metavar="N", help="most requests a second of each token's subject"
    )


def _add_watching(parser: argparse.ArgumentParser) -> None:
    watching = parser.add_argument_group("watching")
    watching.add_argument(
        "--json-logs", action="store_true", help="write one JSON object a line to stderr"
    )
    watching.add_argument(
        "--traces",
        metavar="URL",
        help="send traces to this OTLP collector over HTTP, "
        "such as http://127.0.0.1:4318/v1/traces",
    )


def options(found: argparse.Namespace) -> Options:
    """The options of a parsed command line. Raises ValueError."""
    root = found.root.absolute()
    public_key = found.public_key or root.parent / "keys" / "platform.pub"
    return Options(
        root=root,
        public_key=public_key,
        state=found.state.absolute() if found.state else None,
        host=found.host,
        port=found.port,
        workers=found.workers,
        hosts=tuple(found.allow_host),
        sample_seconds=found.sample_seconds,
        segment_bytes=found.segment_bytes,
        segment_seconds=found.segment_seconds,
        sync_seconds=found.sync_seconds,
        reserve_bytes=found.reserve_bytes,
        body_limit=found.body_limit,
        row_limit=found.row_limit,
        request_seconds=found.request_seconds,
        admin_host=found.admin_host,
        admin_port=found.admin_port,
        grpc_port=found.grpc_port,
        keys=found.keys or public_key.parent / FILE,
        public=not _both_loopback(found),
        tokens=_tokens(found),
        token_per_second=found.jwt_rate,
        certificate=found.tls_certificate,
        private_key=found.tls_key,
        concurrency=found.concurrency,
        answer_seconds=found.answer_seconds,
        traces=found.traces,
        json_logs=found.json_logs,
    )


def _both_loopback(found: argparse.Namespace) -> bool:
    return is_loopback(found.host) and is_loopback(found.admin_host)


def _tokens(found: argparse.Namespace) -> TokenRules | None:
    """Raises ValueError."""
    if found.jwks is None:
        return None
    if found.jwt_rate is not None and found.jwt_rate <= 0:
        raise ValueError(f"--jwt-rate {found.jwt_rate:g} would admit nothing; give more than 0")
    return TokenRules(
        found.jwks,
        found.jwt_issuer,
        found.jwt_audience,
        tuple(filter(None, found.jwt_algorithms.split(","))),
    )
