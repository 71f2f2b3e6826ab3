#!/bin/sh
# Resolve requirements.in into the three lock files. Needs uv; run by maintainers, never by users.
# Two resolutions: with the CPU build of torch (found through TORCH_WHEELS, a folder that holds it)
# and with the index's build; what only the second needs goes to torch-cuda.txt. What is pinned stays
# as it is unless requirements.in asks for another version.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
compile() { uv pip compile requirements.in --python-version 3.11 --generate-hashes --no-annotate --no-header -q "$@"; }
cat requirements.txt torch-cpu.txt > "$work/cpu.txt"
cat requirements.txt torch-cuda.txt > "$work/cuda.txt"
UV_FIND_LINKS="${TORCH_WHEELS:?set TORCH_WHEELS to a folder with the CPU build of torch}" compile -o "$work/cpu.txt"
compile -o "$work/cuda.txt"
python3 - "$work" <<'PYTHON'
import re
import sys
from pathlib import Path

HEAD = "# Written by `make lock`; do not edit. "


def blocks(path):
    text = Path(path).read_text()
    return {b.split()[0]: b for b in re.findall(r"^\S+ \\\n(?:    .*\n)+", text, re.M)}


work = Path(sys.argv[1])
cpu, cuda = blocks(work / "cpu.txt"), blocks(work / "cuda.txt")
is_torch = re.compile(r"^torch==")
shared = [text for name, text in cuda.items() if name in cpu and not is_torch.match(name)]
extra = [text for name, text in cuda.items() if name not in cpu]
only_cpu = [text for name, text in cpu.items() if is_torch.match(name)]
Path("requirements.txt").write_text(
    HEAD + "Every distribution is pinned and hash-checked.\n" + "".join(shared)
)
Path("torch-cpu.txt").write_text(
    HEAD + "The CPU build, taken where pip can find it.\n" + "".join(only_cpu)
)
Path("torch-cuda.txt").write_text(
    HEAD + "The build of the package index, with the CUDA libraries that it needs.\n" + "".join(extra)
)
PYTHON
