#!/bin/sh
# Make .venv from the lock files: every distribution pinned and checked by its hash.
# The CPU build of torch is taken where pip can find it; elsewhere the index's build is installed
# with the CUDA libraries that it needs.
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "expected Python 3.11 as $python, found $("$python" --version 2>&1)." >&2
    echo "Install it, or name it: make PYTHON=/path/to/python3.11 setup" >&2
    exit 1
}
for program in git gcc; do
    command -v "$program" >/dev/null || { echo "missing: $program (apt-get install $program)" >&2; exit 1; }
done

echo "Making .venv from infra/lock (about 3 GB, a few minutes)"
"$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
pip install --quiet --no-deps --require-hashes -r infra/lock/requirements.txt
if ! pip install --quiet --no-deps --require-hashes -r infra/lock/torch-cpu.txt 2>/dev/null; then
    echo "No CPU build of torch at hand: installing the index's build and its CUDA libraries"
    pip install --quiet --no-deps --require-hashes -r infra/lock/torch-cuda.txt
fi
pip install --quiet --no-deps --no-build-isolation --editable .

mkdir -p .tessera
# DVC's site cache stays in the project too; the path must be absolute, so it is local configuration.
if [ -d .dvc ]; then
    .venv/bin/dvc config --local core.site_cache_dir "$PWD/.tessera/dvc-site"
fi
touch .venv/.ready
