# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every capture, full circle and under continuous writes: backed up, restored by the playbook, replicating again."""

from __future__ import annotations

import json
import os
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.lab import disks, scratch
from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import (
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    Topology,
)
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import Run, run_playbook

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")


class Disk(t.NamedTuple):
    """A fleet whose servers lie on one file system, and a directory on another one."""

    fleet: Fleet
    kind: str
    elsewhere: Path


@pytest.fixture(scope="module", params=["xfs", "btrfs", "ext4"])
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    wanted = lab_root()
    root = scratch.create(wanted)
    try:
        with disks.mounted(request.param, root / "d", mib=1024) as mount, Topology(mount / "l", replicas=1) as topology:
            topology.source.query("CREATE DATABASE kept")
            topology.source.query("CREATE TABLE kept.a (id INT PRIMARY KEY, v TEXT) ENGINE=Aria")
            topology.source.query("INSERT INTO kept.a SELECT seq, REPEAT('x', 500) FROM kept.seq_1_to_5000")
            yield Disk(Fleet(topology), request.param, root)
    finally:
        scratch.remove(wanted)


CASES = {
    "xfs": ({"capture": "auto"}, "snapshot", "(xfs) by reflink"),
    "btrfs": ({"capture": "snapshot", "format": "copy"}, "snapshot", "asked for"),
    "ext4": ({"capture": "staged", "throttle": "100", "shards": "2"}, "staged", "asked for"),
    "ext4-copy": ({"capture": "copy", "format": "zip"}, "copy", "asked for"),
}


def test_full_circle(disk: Disk) -> None:
    for name, (wishes, capture, why) in CASES.items():
        if name.partition("-")[0] == disk.kind:
            _circle(disk, wishes, capture, why)


def _circle(disk: Disk, wishes: dict[str, str], capture: str, why: str) -> None:
    fleet = disk.fleet
    (replica,) = fleet.replicas
    variables = {f"replica_backup_{name}": value for name, value in wishes.items()}
    # Not on the file system of the server: a clone that shares blocks cannot lie in the spool then.
    spool = disk.elsewhere / "spool"
    spool.mkdir(mode=0o700, exist_ok=True)
    variables["replica_backup_spool_dir"] = str(spool)
    before = set(disk.elsewhere.rglob("*mysql-replica-clone*"))
    with fleet.topology.load():
        run = run_playbook("backup", fleet.inventory(), extra_vars=variables)
    assert run.status == 0, run.output
    flat = " ".join(run.output.split())
    assert f"capture: {capture} (" in flat
    assert why in flat
    made = fleet.set_directories(replica)[-1]
    manifest: dict[str, t.Any] = json.loads((made / "manifest.json").read_text())
    assert len(manifest["parts"]) == int(wishes.get("shards", "1"))
    times = manifest["times"]
    if capture == "cold":
        assert "archive" not in times
    else:
        # The server was back before the archive began.
        assert times["capture"]["end"] <= times["start"]["end"] <= times["archive"]["start"]
    assert set(disk.elsewhere.rglob("*mysql-replica-clone*")) == before
    assert [path for path in spool.rglob("*") if path.is_file()] == []
    _restored(_restore(fleet, made), fleet)


@pytest.mark.parametrize("disk", ["xfs"], indirect=True)
def test_a_replica_that_does_not_catch_up_has_its_backup_all_the_same(disk: Disk) -> None:
    fleet = disk.fleet
    (replica,) = fleet.replicas
    account = f"{REPLICATION_USER}@'127.0.0.1'"
    # The receiver is connected, and finds out only when it connects anew, after the start.
    fleet.source.query(f"ALTER USER {account} IDENTIFIED BY 'another'")
    run = run_playbook("backup", fleet.inventory(), extra_vars={"replica_backup_catch_up_timeout": "3"})
    assert run.status == 2, run.output
    flat = " ".join(run.output.split())
    assert "capture: snapshot (" in flat
    assert "server restored: yes" in flat
    assert "backup usable: yes" in flat
    (made,) = (fleet.root / "spool" / replica.name).rglob("manifest.json")
    assert sorted(made.parent.iterdir()) == [made.parent / name for name in ("SHA256SUMS", "data.tar.zst", made.name)]
    fleet.source.query(f"ALTER USER {account} IDENTIFIED BY '{REPLICATION_PASSWORD}'")
    replica.query("STOP SLAVE")
    replica.query("START SLAVE")
    assert fleet.topology.differences() == {}


def _restore(fleet: Fleet, made: Path) -> Run:
    (replica,) = fleet.replicas
    variables = {
        "hosts": replica.name,
        "set": str(made),
        "force": "true",
        "login_user": "root",
        "login_unix_socket": str(replica.socket),
        "config_file": "",
        "service_manager": "none",
        "state_dir": str(fleet.root / "state" / replica.name),
        "defaults_file": str(replica.config),
        "server_binary": str(replica.flavor.server),
    }
    given = {f"replica_restore_{name}": value for name, value in variables.items()}
    with fleet.topology.load():
        return run_playbook("restore", fleet.inventory(), extra_vars=given)


def _restored(run: Run, fleet: Fleet) -> None:
    assert run.status == 0, run.output
    assert fleet.topology.differences() == {}
