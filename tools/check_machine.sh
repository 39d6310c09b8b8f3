#!/bin/bash
# Says what `make install` needs and this machine lacks, by the names of its packages. Installs nothing.
# fastecdsa, which libp2p depends on, has no wheels: it is compiled with gcc against GMP's header.
set -euo pipefail

python=${1:-python3}
missing=()
fail=0

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Python 3.11 or newer is needed; $python is $("$python" --version 2>&1 || echo 'not there')." >&2
    echo "Name another one: make install PYTHON=/path/to/python3.11" >&2
    fail=1
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=(venv)
elif ! "$python" -c 'import os, sysconfig, sys
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null; then
    missing+=(headers)
fi
compiler=${CC:-$(command -v cc || command -v gcc || true)}
if [ -z "$compiler" ]; then
    missing+=(gcc gmp)
elif ! echo '#include <gmp.h>' | $compiler ${CPPFLAGS:-} -E - >/dev/null 2>&1; then
    missing+=(gmp)
fi

debian() { case $1 in venv) echo python3-venv ;; headers) echo python3-dev ;; gcc) echo gcc libc6-dev ;; gmp) echo libgmp-dev ;; esac; }
fedora() { case $1 in venv) echo python3 ;; headers) echo python3-devel ;; gcc) echo gcc ;; gmp) echo gmp-devel ;; esac; }
macos() { case $1 in venv | headers) echo python@3.12 ;; gcc) echo gcc ;; gmp) echo gmp ;; esac; }
names() { for what in "${missing[@]}"; do "$1" "$what"; done | tr '\n' ' '; }

if [ ${#missing[@]} -gt 0 ]; then
    echo "This machine lacks: ${missing[*]}. Install" >&2
    echo "  Debian, Ubuntu:  apt-get install $(names debian)" >&2
    echo "  Fedora:          dnf install $(names fedora)" >&2
    echo "  macOS:           brew install $(names macos)" >&2
    fail=1
fi
exit $fail
