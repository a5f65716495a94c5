#!/usr/bin/env bash
# Make the environment: a virtual environment with exactly the packages of requirements.lock.
# Needs Python 3.11+ alone; where Debian's Python comes without ensurepip, pip is taken from
# Debian's python3-pip-whl, which needs neither root nor an installation.
set -euo pipefail
venv=$1
python=${PYTHON:-python3}

if [[ $PWD == *:* ]]; then
    echo "error: a ':' in $PWD parts it in PATH; move the project to a folder without one" >&2
    exit 1
fi
if ! command -v "$python" >/dev/null; then
    echo "error: no '$python' here; install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: Shoal needs Python 3.11 or newer, '$python' is $("$python" -V); name one: make PYTHON=python3.12" >&2
    exit 1
fi

bootstrap_pip() {
    local folder
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' RETURN
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    local apt=(apt-get -qq)
    if ! (cd "$folder" && "${apt[@]}" download python3-pip-whl 2>/dev/null); then
        apt+=(-o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o APT::Sandbox::User=)
        "${apt[@]}" update
        (cd "$folder" && "${apt[@]}" download python3-pip-whl)
    fi
    dpkg -x "$folder"/python3-pip-whl_*.deb "$folder/whl"
    "$venv/bin/python" "$(ls "$folder"/whl/usr/share/python-wheels/pip-*.whl)/pip" install --quiet pip
}

rm -rf "$venv"
echo "making $venv with $("$python" -V); the packages are large, this takes a few minutes"
if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    "$python" -m venv "$venv"
else
    "$python" -m venv --without-pip "$venv"
    bootstrap_pip || {
        echo "error: this Python has no pip; install it (Debian: apt-get install python3-venv)" >&2
        exit 1
    }
fi
quiet=(--quiet)
[[ -t 1 ]] && quiet=() # in a terminal pip shows its own progress
"$venv/bin/python" -m pip install "${quiet[@]}" --disable-pip-version-check -r requirements.lock
echo "$venv is ready"
