#!/bin/bash
# Installs torch into a virtual environment: the build that TORCH_INDEX has, or the one that fits this machine.
# On Linux the index's plain build brings gigabytes of CUDA; without an NVIDIA GPU the CPU build is taken.
set -euo pipefail

python=$1
version=$(sed -n 's/^torch==//p' constraints.txt)
cpu_builds=https://download.pytorch.org/whl/cpu
install() { "$python" -m pip install --quiet "$@"; }

if [ -n "${TORCH_INDEX:-}" ]; then
    install --index-url "$TORCH_INDEX" "torch==$version"
elif [ "$(uname -s)" != Linux ] || command -v nvidia-smi >/dev/null; then
    install "torch==$version"
elif install "torch==$version+cpu" 2>/dev/null; then
    :
elif install --retries 0 --timeout 10 --index-url "$cpu_builds" "torch==$version" 2>/dev/null; then
    :
else
    echo "No CPU build of torch $version was found; taking the plain one, which brings CUDA (about 3 GB)." >&2
    install "torch==$version"
fi
