#!/usr/bin/env bash
# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# usage: stages.sh DIRECTORY STAGE...
#
# Makes the stages, three at a time in the order given: much of the time of each is waiting. What each prints
# goes to DIRECTORY/stage-STAGE.log, and to standard output in one piece when it has ended.
set -uo pipefail
cd "$(dirname "$0")/../.."

if [ "$1" = --one ]; then
    directory=$2 stage=$3 status=0 started=$(date +%s)
    log=$directory/stage-$stage.log
    make --no-print-directory "$stage" >"$log" 2>&1 </dev/null || status=1
    printf '===== %s took %s s\n' "$stage" $(($(date +%s) - started)) >>"$log"
    exec 9>"$directory/.printing"
    flock 9
    printf '\n===== %s\n' "$stage"
    cat "$log"
    exit "$status"
fi

directory=$1
shift
mkdir -p "$directory"
printf '%s\0' "$@" | xargs -0 -P 3 -I '{}' tests/lab/stages.sh --one "$directory" '{}' || exit 1
