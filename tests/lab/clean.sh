#!/usr/bin/env bash
# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Removes every trace of this checkout's demo and tests from the machine: processes, mounts, containers,
# networks, images and caches. What may stay are the Debian packages that "make setup" installed.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ -x .venv/bin/python ]; then
    export PYTHONPATH=$PWD/.ansible/collections
    [ -e .ansible/collections/ansible_collections/mysql_ops/replica_backup ] || {
        mkdir -p .ansible/collections/ansible_collections/mysql_ops
        ln -sfn "$PWD" .ansible/collections/ansible_collections/mysql_ops/replica_backup
    }
    .venv/bin/python -m ansible_collections.mysql_ops.replica_backup.tests.lab.cleanup everything
elif [ -e .demo ] || [ -e .test ]; then
    echo "Without .venv nobody ends what still runs for .demo or .test: run 'make setup' first." >&2
    exit 1
fi
rm -rf .demo .test .cache .venv .ansible .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage tests/output
find . -name __pycache__ -type d -prune -exec rm -rf {} +
rm -f mysql_ops-replica_backup-*.tar.gz
