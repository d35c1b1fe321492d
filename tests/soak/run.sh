#!/usr/bin/env bash
# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# usage: ROLLS=50 SEED=1 MINUTES=120 run.sh RESULTS_DIRECTORY
#
# Makes the fleet of the scenario "faults", soaks it (tests/soak/soak.py) and removes it. Without SEED one is drawn and
# printed: the same seed draws the same faults.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=$1
scenario() { tests/lab/molecule.sh "$results" faults "$@"; }

export PATH=$PWD/.venv/bin:$PATH:/usr/sbin:/sbin
scenario destroy
rm -rf .test/molecule/faults
trap 'scenario destroy' EXIT
scenario converge
settings=$(PYTHONPATH=$PWD/.ansible/collections python -m ansible_collections.mysql_ops.replica_backup.tests.lab.containers env)
eval "$settings"
export LAB_SCENARIO=faults LAB_SCRATCH=$PWD/.test/molecule/faults PYTHONPATH=$PWD/.ansible/collections
python -m ansible_collections.mysql_ops.replica_backup.tests.soak.soak --rolls "${ROLLS:-50}" --minutes "${MINUTES:-120}" ${SEED:+--seed "$SEED"}
