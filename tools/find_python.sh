#!/bin/sh
# Prints the first Python of 3.11 or newer that runs; "python3" if there is none (check_machine.sh then says so).
for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        command -v "$candidate"
        exit 0
    fi
done
echo python3
