# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmarks still run, with as little data as they take. What they measure here is worth nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab import scratch

pytestmark = pytest.mark.integration

_BENCHMARKS = scratch.CHECKOUT / "tests" / "benchmarks"


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a file system on a loop device: needs root")
def test_the_downtime_of_a_snapshot_is_measured_on_a_real_server() -> None:
    command = [sys.executable, str(_BENCHMARKS / "bench_downtime.py"), "--sizes", "0.02", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--captures", "snapshot", "--scratch", str(scratch.CHECKOUT / ".test" / "lab")],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    medians = found["downtime"][0]["medians"]
    assert set(medians) == {"stop + start", "snapshot", "cp -a", "tar", "tar | zstd -1 -T2"}
    assert all(seconds > 0 for seconds in medians.values())
    assert {"bar", "stretch", "verdict"} <= set(found["measures"][1])
    assert not list((scratch.CHECKOUT / ".test" / "lab").glob("bench-downtime-*"))
