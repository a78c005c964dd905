#!/usr/bin/env bash
# The Debian packages that set-up and some tests need. As root it installs what is missing; otherwise
# it says in one line which tests are skipped and how to get them. Where all is there, it does nothing.
set -euo pipefail

missing=()
without=()
need() { # need PACKAGE WHAT-IS-SKIPPED TEST-COMMAND…
    local package=$1 skipped=$2
    shift 2
    if ! "$@" >/dev/null 2>&1; then
        missing+=("$package")
        without+=("$skipped")
    fi
}

postgres() { compgen -G "${POSTGRES_BINARIES:-/usr/lib/postgresql/*/bin/initdb}"; }
browser() { command -v chromium || command -v chromium-browser; }

need gcc "everything (set-up needs a compiler)" command -v gcc
need chromium "tests/browser" browser
need postgresql "tests/infra/test_production.py" postgres
need wrk "load by wrk in benchmarks" command -v wrk
[ "${#missing[@]}" -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    skipped=$(printf '%s, ' "${without[@]}")
    echo "test: not here: ${missing[*]}; skipped: ${skipped%, }. As root: apt-get install ${missing[*]}" >&2
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null || echo "test: apt-get update failed; trying with what apt knows" >&2
for package in "${missing[@]}"; do
    echo "test: installing $package"
    apt-get install -y -qq --no-install-recommends "$package" >/dev/null ||
        echo "test: $package could not be installed; its tests are skipped" >&2
done
