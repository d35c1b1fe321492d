# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's own promises, on which every other test in here stands."""

from __future__ import annotations

import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab import processes, scratch
from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Topology


def test_replicas_follow_under_load(fleet: Fleet) -> None:
    with fleet.topology.load(pause=0) as load:
        before = load.committed
        first = fleet.source.query("SELECT COUNT(*) AS n FROM lab.journal")[0]["n"]
    committed = load.stop()
    assert committed >= before
    assert fleet.source.query("SELECT COUNT(*) AS n FROM lab.journal")[0]["n"] == committed >= first
    assert fleet.topology.differences() == {}
    for replica in fleet.replicas:
        channel = replica.channel()
        assert channel is not None
        assert channel.replicating
        assert set(replica.checksums()) == {"lab.accounts", "lab.hits", "lab.journal", "lab.notes"}


def test_a_difference_is_found(fleet: Fleet) -> None:
    odd, even = fleet.replicas
    odd.query("CREATE DATABASE extra")
    odd.query("CREATE TABLE extra.t (id INT PRIMARY KEY)")
    try:
        assert fleet.topology.differences() == {odd.name: {"extra.t": ("absent", 0)}}
    finally:
        odd.query("DROP DATABASE extra")
    assert fleet.topology.differences(even) == {}


def test_every_server_has_its_own_places(fleet: Fleet) -> None:
    servers = fleet.topology.servers
    for attribute in ("port", "socket", "pid_file", "error_log", "datadir", "server_id"):
        assert len({getattr(server, attribute) for server in servers}) == len(servers)
    plain, separate = fleet.replicas
    assert list(plain.datadir.glob("relaylog.0*"))
    assert list(separate.relay_log_directory.glob("relaylog.0*"))
    assert not list(separate.datadir.glob("relaylog.0*"))


def test_servers_run_as_their_account_and_as_no_child_of_ours(fleet: Fleet) -> None:
    account = scratch.server_account()
    for server in fleet.topology.servers:
        (pid,) = server.pids()
        assert Path(f"/proc/{pid}").stat().st_uid == account.uid
        assert int(server.pid_file.read_text()) == pid
        assert f"PPid:\t{os.getpid()}\n" not in Path(f"/proc/{pid}/status").read_text()


def test_stop_start_and_crash(fleet: Fleet) -> None:
    replica = fleet.replicas[0]
    replica.stop()
    assert not replica.is_running()
    assert "Shutdown complete" in replica.last_words()
    replica.start()
    replica.kill()
    assert "Shutdown complete" not in replica.last_words()
    replica.start()
    fleet.topology.wait_caught_up(replica)


def test_everything_ends_with_the_topology(make_fleet: t.Callable[..., Fleet], tmp_path: Path) -> None:
    fleet = make_fleet(replicas=1, region=tmp_path)
    root = fleet.topology.root
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    strangers = [subprocess.Popen([*sleep, f"--state={root}/x"]), subprocess.Popen([*sleep, str(tmp_path / "y")])]
    bystander = subprocess.Popen([*sleep, f"{tmp_path}-not-ours/y"])
    try:
        assert scratch.living_owner(root) == os.getpid()
        assert len(processes.naming(root)) == 3
        fleet.topology.close()
        assert processes.naming(root) == processes.naming(tmp_path) == []
        assert [stranger.wait(timeout=10) for stranger in strangers] == [-9, -9]
        assert bystander.poll() is None
        assert not root.exists()
    finally:
        for process in (*strangers, bystander):
            process.kill()
            process.wait()


def test_scratch_elsewhere_when_the_servers_cannot_get_there(tmp_path: Path) -> None:
    hidden = tmp_path / ("far" * 30)
    hidden.mkdir(mode=0o700)
    with Topology(hidden / "servers", replicas=0) as topology:
        assert topology.root.parent == Path("/var/tmp")
        assert (hidden / "servers").resolve() == topology.root
        assert topology.source.query("SELECT 1 AS one") == [{"one": 1}]
        outside = topology.root
    assert not outside.exists()
    assert not (hidden / "servers").is_symlink()


@pytest.mark.parametrize("living", [True, False])
def test_leftovers_of_a_dead_run_only(tmp_path: Path, living: bool) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from ansible_collections.mysql_ops.replica_backup.tests.lab import scratch\n"
        "print(scratch.create(pathlib.Path(sys.argv[1])), flush=True)\n"
        "time.sleep(600)\n"
    )
    wanted = scratch.CHECKOUT / ".test" / "lab" / f"left-{tmp_path.name}"
    environment = {**os.environ, "PYTHONPATH": str(scratch.CHECKOUT / ".ansible" / "collections")}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(wanted)], stdout=subprocess.PIPE, text=True, env=environment
    ) as owner:
        try:
            assert owner.stdout is not None
            owner.stdout.readline()
            if not living:
                owner.kill()
                owner.wait()
            assert (wanted in scratch.abandoned(everything=False)) is not living
            assert wanted in scratch.abandoned(everything=True)
        finally:
            owner.kill()
            scratch.remove(wanted)
