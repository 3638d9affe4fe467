#!/bin/sh
# make_venv.sh DIRECTORY [PYTHON]: a virtual environment with a pip that knows dependency groups (25.1).
# Without PYTHON the first of python3, python3.13, python3.12, python3.11 that will do is taken.
set -eu
directory=$1
shift

usable='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'
for python in "${@:-python3}" python3.13 python3.12 python3.11 none; do
    if "$python" -c "$usable" >/dev/null 2>&1; then break; fi
    if [ $# -gt 0 ]; then python=none; break; fi
done
if [ "$python" = none ]; then
    tried=${*:-python3, python3.13, python3.12 or python3.11}
    echo "modelwatch needs Python 3.11 or newer with its venv module; tried: $tried." \
        "Install it (Debian: apt-get install python3 python3-venv) or name one: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi

# Kept across changes of pyproject.toml: pip brings what is new.
if ! "$directory/bin/python" -c "$usable" >/dev/null 2>&1; then
    rm -rf "$directory"
    "$python" -m venv "$directory"
fi
"$directory/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
