#!/usr/bin/env bash
# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# What the benchmarks need beside the tests: matplotlib in an environment of its own, mariadb-backup (as root), and
# the collection community.general, all for comparison only. What cannot be had is left out of the comparison.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p .cache/bench

if [ ! -x .cache/bench/venv/bin/python ] || ! .cache/bench/venv/bin/python -c 'import matplotlib' 2>/dev/null; then
    rm -rf .cache/bench/venv
    .venv/bin/python -m venv .cache/bench/venv
    .cache/bench/venv/bin/python -m pip install -q --disable-pip-version-check 'matplotlib>=3.8'
fi

if ! command -v mariadb-backup >/dev/null && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends mariadb-backup \
        </dev/null >.cache/bench/apt.log 2>&1 || echo 'Without mariadb-backup: see .cache/bench/apt.log' >&2
fi

# Out of the package "ansible", as tests/lab/setup.sh does it, and away from the collections of the tests.
if [ ! -e .cache/bench/colls/ansible_collections/community/general/MANIFEST.json ]; then
    .venv/bin/python -m pip download -q --disable-pip-version-check --no-deps -d .cache/bench/whl 'ansible>=12,<13'
    .venv/bin/python - <<'PY'
import glob
import zipfile

with zipfile.ZipFile(glob.glob(".cache/bench/whl/ansible-*.whl")[0]) as wheel:
    for name in wheel.namelist():
        if name.startswith("ansible_collections/community/general/"):
            wheel.extract(name, ".cache/bench/colls")
PY
    rm -rf .cache/bench/whl
fi
