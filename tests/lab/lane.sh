#!/usr/bin/env bash
# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# usage: lane.sh STAGE...
#
# Makes the stages one after the other, each whatever became of the one before, and says how long each took.
set -uo pipefail
cd "$(dirname "$0")/../.."
status=0
for stage in "$@"; do
    printf '\n===== %s\n' "$stage"
    started=$(date +%s)
    "${MAKE:-make}" --no-print-directory "$stage" || status=1
    printf '===== %s took %s s\n' "$stage" $(($(date +%s) - started))
done
exit "$status"
