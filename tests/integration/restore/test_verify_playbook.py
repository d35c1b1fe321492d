# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verify playbook on sets of a real replica: good ones, a damaged one, an unfinished one."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import run_playbook


def test_good_and_damaged_sets(fleet: Fleet, tmp_path: Path) -> None:
    inventory = fleet.inventory(fleet.replicas[0])
    made = run_playbook("backup", inventory)
    assert made.status == 0, made.output
    (good,) = fleet.set_directories(fleet.replicas[0])

    here = {"replica_verify_dest": str(fleet.backups)}
    run = run_playbook("verify", inventory, extra_vars=here)
    assert run.status == 0, run.output
    assert f"good: {good}" in run.output

    bad = good.with_name("20260101T000000Z")
    shutil.copytree(good, bad)
    part = bad / "data.tar.zst"
    raw = bytearray(part.read_bytes())
    raw[len(raw) // 2] ^= 1
    part.write_bytes(raw)
    unfinished = good.with_name("20260101T000001Z")
    shutil.copytree(good, unfinished)
    (unfinished / "manifest.json").unlink()
    run = run_playbook("verify", inventory, extra_vars=here)
    assert run.status != 0, run.output
    assert f"1 of 2 sets are bad ({bad})" in " ".join(run.output.split()), run.output
    assert str(unfinished) not in run.output, "a set without manifest is none"

    run = run_playbook("verify", inventory, extra_vars={"replica_verify_sets": f"{good}, {tmp_path}/none*"})
    assert run.status == 0 and str(bad) not in run.output, run.output
    run = run_playbook("verify", inventory, extra_vars={"replica_verify_sets": [str(unfinished)]})
    assert run.status != 0 and "it has no manifest" in run.output, run.output
    run = run_playbook("verify", inventory, "--check", extra_vars={"replica_verify_sets": str(bad)})
    assert run.status != 0 and str(bad) in run.output, run.output
    run = run_playbook("verify", inventory, extra_vars={"replica_verify_sets": f"{tmp_path}/*"})
    assert run.status != 0 and "There is no backup set" in run.output, run.output
    shutil.rmtree(bad)
    shutil.rmtree(unfinished)
