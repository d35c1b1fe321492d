#!/usr/bin/env bash
# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# usage: check.sh SUITE NAME COMMAND [ARGUMENT...]
#
# Runs one check and records it as one test (JUnit XML), so that the count at the end of "make test"
# covers the checks that count nothing themselves.
set -u
suite=$1 name=$2
shift 2
results=.test/results
mkdir -p "$results"
log=$results/$suite-$name.log
export NO_COLOR=1 PY_COLORS=0
started=$(date +%s)
"$@" >"$log" 2>&1 </dev/null
status=$?
seconds=$(($(date +%s) - started))
if [ "$status" -eq 0 ]; then
    printf 'ok      %s (%s s)\n' "$name" "$seconds"
    failures=0 detail=
else
    cat "$log"
    printf 'FAILED  %s (%s s, exit status %s): %s\n' "$name" "$seconds" "$status" "$*"
    failures=1 detail="<failure message=\"exit status $status\"/>"
fi
printf '<testsuite name="%s" tests="1" failures="%s"><testcase classname="%s" name="%s" time="%s">%s</testcase></testsuite>\n' \
    "$suite" "$failures" "$suite" "$name" "$seconds" "$detail" >"$results/$suite-$name.xml"
exit "$status"
