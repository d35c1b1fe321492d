#!/usr/bin/env bash
# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# usage: setup.sh [--tests]
#
# Makes .venv and the collection path, and installs the Debian packages that are missing (as root; an
# ordinary user is told which ones). With --tests also what the tests need: containers and archivers.
# No package may start a service: the servers of the demo and the tests are plain processes of their own.
set -euo pipefail
cd "$(dirname "$0")/../.."

with_tests=false
[ "${1:-}" != --tests ] || with_tests=true

say() { printf '%s\n' "$*" >&2; }

mkdir -p .cache
exec 9>.cache/setup.lock
flock 9 || true

# --- packages of the system ------------------------------------------------------------------------

# what must be there (a command, or a file when it starts with /) and the package that brings it
needed=(
    'mariadbd mariadb-server-core'
    'mariadb-install-db mariadb-server-core'
    'mariadb mariadb-client-core'
    'zstd zstd'
    'tar tar'
    'sha256sum coreutils'
    'git git'
)
if $with_tests; then
    needed+=(
        'podman podman'
        '/usr/lib/podman/netavark netavark'
        '/usr/lib/podman/aardvark-dns aardvark-dns'
        'runc runc'
        'crun crun'
        'iptables iptables'
        'debootstrap debootstrap'
        'strace strace'
        'faketime faketime'
        'ip iproute2'
        'ps procps'
        'gzip gzip'
        'lz4 lz4'
        'xz xz-utils'
        'unzip unzip'
        'zip zip'
        'rclone rclone'
        'mkfs.ext4 e2fsprogs'
        'mkfs.xfs xfsprogs'
        'mkfs.btrfs btrfs-progs'
        'npm npm'
        'sshd openssh-server'
        'sudo sudo'
    )
fi

present() {
    case $1 in
    /*) [ -e "$1" ] ;;
    *) PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}

# A Python for the controller: new enough, and able to make a virtual environment that holds pip.
find_python() {
    local name path
    for name in python3 python3.11 python3.12 python3.13 python3.14 /usr/bin/python3; do
        path=$(command -v "$name" 2>/dev/null) || continue
        if "$path" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
            "$path" -c 'import sys; print(sys.executable)'
            return 0
        fi
    done
    return 1
}

missing=()
for pair in "${needed[@]}"; do
    read -r thing package <<<"$pair"
    present "$thing" || missing+=("$package")
done
if [ ! -x .venv/bin/python ] && ! find_python >/dev/null; then
    missing+=(python3 python3-venv)
fi

if [ ${#missing[@]} -gt 0 ]; then
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        say "Missing on this machine: ${missing[*]}"
        say "Install these first (names as in Debian and Ubuntu), as root, then run this again:"
        say "    apt-get update && apt-get install --no-install-recommends ${missing[*]}"
        exit 1
    fi
    say "Installing: ${missing[*]}"
    guard=/usr/sbin/policy-rc.d
    if [ ! -e "$guard" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$guard"
        chmod 755 "$guard"
        trap 'rm -f "$guard"' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q </dev/null >.cache/apt.log 2>&1 || say "apt-get update failed, trying with the lists as they are (.cache/apt.log)"
    apt-get install -q -y --no-install-recommends "${missing[@]}" </dev/null >>.cache/apt.log 2>&1 || {
        tail -n 20 .cache/apt.log >&2
        say "The packages could not be installed; the whole log is .cache/apt.log"
        exit 1
    }
    if [ "$(cat "$guard" 2>/dev/null)" = "$(printf '#!/bin/sh\nexit 101\n')" ]; then
        rm -f "$guard"
    fi
    trap - EXIT
fi

# As root the servers of the demo and the tests run as this user, as they would in production.
if [ "$(id -u)" -eq 0 ] && ! id -u mysql >/dev/null 2>&1; then
    useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin mysql
fi

# --- Python ----------------------------------------------------------------------------------------

if [ -e .venv ] && ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "Making .venv anew: its Python does not run or is too old"
    rm -rf .venv
fi
stamp=.venv/requirements.sha256
wanted=$(sha256sum <requirements-dev.txt)
if [ ! -x .venv/bin/python ] || [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    python=$(find_python || true)
    if ! uv=$(command -v uv) || ! uv --version >/dev/null 2>&1; then
        # uv resolves this list in seconds, pip in minutes. It gets an environment of its own.
        uv=$PWD/.cache/uv-venv/bin/uv
        if [ ! -x "$uv" ]; then
            { "${python:-.venv/bin/python}" -m venv .cache/uv-venv &&
                .cache/uv-venv/bin/python -m pip install -q --disable-pip-version-check uv; } >.cache/uv.log 2>&1 || uv=
        fi
    fi
    # Like every other program here, uv shall trust what this machine trusts.
    [ ! -e /etc/ssl/certs/ca-certificates.crt ] || export UV_SYSTEM_CERTS=true UV_NATIVE_TLS=true
    say "Installing Python packages into .venv"
    if [ -z "$uv" ] || ! {
        { [ -x .venv/bin/python ] || "$uv" venv -q --seed --no-project -p "$python" .venv; } &&
            "$uv" pip install -q -p .venv/bin/python -r requirements-dev.txt
    } 2>>.cache/uv.log; then
        # pip is slower, but knows index and proxy settings that uv does not read.
        [ -x .venv/bin/pip ] || { rm -rf .venv && "$python" -m venv .venv; }
        .venv/bin/python -m pip install -q --disable-pip-version-check -r requirements-dev.txt
    fi
    printf '%s\n' "$wanted" >"$stamp"
fi

# --- a server that no distribution carries any more -------------------------------------------------

if $with_tests; then
    tests/lab/mysql56.sh
fi

# --- the collection under its name -----------------------------------------------------------------

home=.ansible/collections/ansible_collections/mysql_ops
mkdir -p "$home"
[ "$(readlink "$home/replica_backup" 2>/dev/null)" = "$PWD" ] || ln -sfn "$PWD" "$home/replica_backup"

# Molecule reaches the containers through containers.podman. The package "ansible" carries that
# collection, so it comes from the same index as everything else; only the one directory is unpacked.
if $with_tests && [ ! -e .cache/colls/ansible_collections/containers/podman/MANIFEST.json ]; then
    say "Fetching the collection containers.podman"
    rm -rf .cache/whl
    .venv/bin/python -m pip download -q --disable-pip-version-check --no-deps -d .cache/whl 'ansible>=12,<13'
    .venv/bin/python - <<'PY'
import glob
import zipfile

with zipfile.ZipFile(glob.glob(".cache/whl/ansible-*.whl")[0]) as wheel:
    for name in wheel.namelist():
        if name.startswith("ansible_collections/containers/podman/"):
            wheel.extract(name, ".cache/colls")
PY
    rm -rf .cache/whl
fi
