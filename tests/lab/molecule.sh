#!/usr/bin/env bash
# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# usage: molecule.sh RESULTS_DIRECTORY SCENARIO [COMMAND [ARGUMENT...]]
#
# Runs one scenario ("test" unless a molecule command is named: converge, verify, login, destroy ...) with
# what it needs to know of this machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=$1 scenario=$2
shift 2
[ $# -gt 0 ] || set -- test
mkdir -p "$results" ".test/molecule/$scenario"

export PATH=$PWD/.venv/bin:$PATH:/usr/sbin:/sbin
export ANSIBLE_COLLECTIONS_PATH=$PWD/.ansible/collections:$PWD/.cache/colls
export ANSIBLE_HOME=$PWD/.cache/ansible
settings=$(PYTHONPATH=$PWD/.ansible/collections python -m ansible_collections.mysql_ops.replica_backup.tests.lab.containers env)
eval "$settings"
export LAB_SCENARIO=$scenario LAB_SCRATCH=$PWD/.test/molecule/$scenario LAB_RESULTS
LAB_RESULTS=$(realpath "$results")
# Names the layout, so that molecule does not look for another one.
export MOLECULE_GLOB=$PWD/molecule/*/molecule.yml
unset ANSIBLE_CONFIG
[ -t 1 ] || export NO_COLOR=1

command=$1
shift
if [ "$command" = test ]; then
    rm -rf "$LAB_SCRATCH"
    rm -f "$LAB_RESULTS/molecule-$scenario.xml"
    mkdir -p "$LAB_SCRATCH"
    status=0 started=$(date +%s)
    molecule test -s "$scenario" "$@" </dev/null || status=$?
    printf '===== molecule %s took %s s\n' "$scenario" $(($(date +%s) - started))
    if [ "$status" -ne 0 ] && [ ! -e "$LAB_RESULTS/molecule-$scenario.xml" ]; then
        # It did not get as far as its tests; without this the count would not show that.
        printf '<testsuite name="molecule" tests="1" failures="1"><testcase classname="molecule" name="%s"><failure message="ended before verify"/></testcase></testsuite>\n' \
            "$scenario" >"$LAB_RESULTS/molecule-$scenario.xml"
    fi
    exit "$status"
fi
exec molecule "$command" -s "$scenario" "$@"
