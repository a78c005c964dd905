#!/usr/bin/env bash
# Makes .venv: Python 3.11, a pinned uv, then exactly what requirements.lock says, every file checked
# against its hash. Then it builds the walker of trees, the platform's only C, into the tree.
# Run again, it does nothing unless what it read has changed.
set -euo pipefail
cd "$(dirname "$0")/../.."

need_kb=$((5 * 1024 * 1024))
inputs=(requirements.lock pyproject.toml infra/setup/uv.txt infra/setup/setup.sh bundle/models/trees/native/*)
stamp=.venv/evergreen.stamp

fail() { echo "setup: $*" >&2; exit 1; }

# Without Python's headers there is no walker: treelite's interpreter answers, 30 to 60 times slower.
headers() {
    "$1" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null
}
walker() {
    ls bundle/models/trees/_walker.cpython-311-*.so 2>/dev/null
}
wanted="$(cat "${inputs[@]}" | sha256sum | cut -d' ' -f1) $PWD"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && [ -x .venv/bin/python ] &&
    { [ -n "$(walker)" ] || [ ! -f "$(headers .venv/bin/python)" ]; }; then
    exit 0
fi

python=
for name in python3.11 python3; do
    if command -v "$name" >/dev/null && [ "$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = 3.11 ]; then
        python=$name
        break
    fi
done
[ -n "$python" ] || fail "Python 3.11 is needed; found $(python3 --version 2>/dev/null || echo none). Install python3.11 and put it on PATH."
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "$python has no venv module. Install python3.11-venv."
command -v gcc >/dev/null || fail "gcc is needed and was not found. Install gcc (Debian: apt-get install gcc)."
free_kb=$(df -Pk . | awk 'NR == 2 {print $4}')
[ "$free_kb" -ge "$need_kb" ] || fail "$((need_kb / 1024)) MiB of free disk are needed in $PWD, $((free_kb / 1024)) MiB are free. Make room."

rm -f "$stamp"
if [ ! -x .venv/bin/python ] || [ "$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" != 3.11 ]; then
    echo "setup: making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi
uv=.venv/tools/bin/uv
if [ "$("$uv" --version 2>/dev/null | cut -d' ' -f2)" != "$(sed -n 's/^uv==\([^ ]*\).*/\1/p' infra/setup/uv.txt)" ]; then
    rm -rf .venv/tools
    "$python" -m venv .venv/bootstrap
    .venv/bootstrap/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
        --target .venv/tools -r infra/setup/uv.txt || fail "installing uv failed; see the lines above"
    rm -rf .venv/bootstrap
fi
echo "setup: installing requirements.lock"
"$uv" pip sync --quiet --compile-bytecode --require-hashes --python .venv/bin/python requirements.lock || fail "installing requirements.lock failed; see the lines above"

rm -f bundle/models/trees/_walker.*.so
if [ -f "$(headers .venv/bin/python)" ]; then
    echo "setup: building the walker of trees"
    log=$(.venv/bin/python -W ignore -c 'import setuptools; setuptools.setup()' --quiet \
        build_ext --inplace --build-temp .venv/build --build-lib .venv/build 2>&1) ||
        fail "the walker of trees could not be built: $log"
else
    echo "setup: $(headers .venv/bin/python) is missing, so treelite's interpreter will walk trees, 30" \
        "to 60 times slower. Install Python's headers (Debian: apt-get install python3.11-dev) and run" \
        "make setup again."
fi

# The platform itself runs from this tree: a path file and a command.
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n' "$PWD" > "$site/evergreen.pth"
cat > .venv/bin/evergreen <<SCRIPT
#!$PWD/.venv/bin/python
import sys

from cli.main import main

# A process that the command spawns reads this file, too.
if __name__ == "__main__":
    sys.exit(main())
SCRIPT
chmod +x .venv/bin/evergreen
printf '%s\n' "$wanted" > "$stamp"
echo "setup: ready; .venv/bin/evergreen --help"
