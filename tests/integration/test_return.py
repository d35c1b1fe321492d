# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who comes back after a run that died: what it had finished becomes a backup, what it had begun is cleared."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _handover, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._stop import StopRequest, stop
from ansible_collections.mysql_ops.replica_backup.tests.integration.races.test_role_races import step
from ansible_collections.mysql_ops.replica_backup.tests.integration.test_role_backup import (
    assert_set_is_whole,
    leftovers,
    recover,
    wait_for,
)
from ansible_collections.mysql_ops.replica_backup.tests.integration.test_role_refuses import (
    backup,
    flat,
    mounted,
    needs_root,
)
from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import Faults, LocalReplica, faults
from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import environment

__all__ = ["faults"]

BACKUP_ID = "20250505T050505Z"


@pytest.fixture
def replica(fleet: Fleet) -> Iterator[Server]:
    """The first replica, none of whose sets outlive the test."""
    server = fleet.replicas[0]
    yield server
    shutil.rmtree(fleet.backups / server.name, ignore_errors=True)


def subject(fleet: Fleet, server: Server) -> LocalReplica:
    return LocalReplica(fleet.topology, server, (fleet.root / "spool", fleet.backups))


def next_run(fleet: Fleet, server: Server) -> None:
    run = backup(fleet, None, "--limit", server.name, compression="none")
    assert run.status == 0, run.output
    assert leftovers(fleet) == []


def state_dir(fleet: Fleet, server: Server) -> str:
    return str(fleet.root / "state" / server.name)


def captured_and_dead(fleet: Fleet, server: Server) -> SetPaths:
    """As a controller leaves a replica that died behind the archive step, some time ago."""
    fleet.inventory()
    paths = SetPaths(str(fleet.root / "spool" / server.name), server.name, BACKUP_ID)
    state = state_dir(fleet, server)
    stop(
        StopRequest(
            login=Login(user="root", unix_socket=str(server.socket), config_file=None),
            paths=paths,
            state_dir=state,
            run_id="a-run-that-died",
            service_manager="none",
        )
    )
    request = job.Request(paths=paths, state_dir=state)
    _outcome, started = _handover.capture_then_start(lambda: job.capture(request), state)
    assert started["server_restored"]
    ledger = _ledger.load(state)
    assert ledger is not None
    ledger.save(lease=0.0)
    assert not Path(paths.manifest).exists()
    return paths


@needs_root
def test_a_finished_archive_of_a_dead_run_is_published_and_brought_over(
    fleet: Fleet, replica: Server, tmp_path: Path, faults: Faults
) -> None:
    before = subject(fleet, replica).state()
    paths = captured_and_dead(fleet, replica)
    # Half of it had arrived somewhere before; and half of another that nobody has any more.
    there = fleet.backups / replica.name
    for name in (BACKUP_ID, "20250404T040404Z"):
        (there / name).mkdir(mode=0o700, parents=True)
        (there / name / ".work").mkdir()
        (there / name / ".work" / "incoming.partial").write_text("half")
    # The next backup says what there is, and where. It has an archive of its own to make.
    run = backup(fleet, None, "--limit", replica.name)
    assert run.status == 0, run.output
    said = flat(run.output)
    assert f"The set {paths.directory} had been captured whole; it was read back, proven and published" in said
    assert f"recover --limit {replica.name} brings it to the controller" in said
    assert f"An unfinished transfer was removed: {there}/20250404T040404Z" in said
    assert not (there / "20250404T040404Z").exists()
    assert (there / BACKUP_ID / ".work").exists()
    assert_set_is_whole(Path(paths.directory), tmp_path / "spool")
    # Once it cannot be brought over: it stays.
    with mounted(tmp_path / "full", "size=256k") as dest:
        run = recover(fleet, "--limit", replica.name, dest=str(dest))
        assert not list(dest.rglob("manifest.json"))
    assert run.status == 2
    said = flat(run.output)
    assert "A complete set stays on this host, for it could not be brought over: Too little room" in said
    assert "State of the server:" in said
    assert f"A complete set on this host: {paths.directory}" in said
    assert Path(paths.manifest).exists()
    run = recover(fleet, "--limit", replica.name)
    assert run.status == 0, run.output
    assert f"Brought to the controller: {there}/{BACKUP_ID}" in flat(run.output)
    assert_set_is_whole(there / BACKUP_ID, tmp_path / "dest")
    assert leftovers(fleet) == []
    faults.settle("controller gone behind the archive", subject(fleet, replica), before)


def test_the_controller_is_killed_while_the_archive_is_written(fleet: Fleet, replica: Server, faults: Faults) -> None:
    """The step goes on and starts the server; recover waits for it, or says who is at work, and brings the set over."""
    before = subject(fleet, replica).state()
    bulk = replica.datadir / "yy-bulk"
    bulk.write_bytes(os.urandom(12 * 1024 * 1024))
    shutil.chown(bulk, replica.datadir.owner(), replica.datadir.group())
    command = ["ansible-playbook", "-i", str(fleet.inventory()), "mysql_ops.replica_backup.backup", "-l", replica.name]
    slow = ["-e", "replica_backup_compression=xz", "-e", "replica_backup_compression_level=6"]
    variables: dict[str, t.Any] = environment()
    controller = subprocess.Popen(
        [*command, *slow, "-e", "replica_backup_compression_threads=1"],
        executable=shutil.which("ansible-playbook", path=variables["PATH"]),
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: step(fleet, replica) == "capture")
        time.sleep(0.5)
    finally:
        os.killpg(controller.pid, signal.SIGKILL)
        controller.wait()
    assert not replica.is_running()
    run = recover(fleet, "--limit", replica.name, lock_timeout="0")
    assert run.status == 2
    assert "Another run is at work on this server" in flat(run.output), run.output
    assert "Found: replica_archive, pid " in flat(run.output), run.output
    wait_for(lambda: step(fleet, replica) == "serving")
    bulk.unlink()
    run = recover(fleet, "--limit", replica.name, take_over="yes")
    assert run.status == 0, run.output
    assert "had been captured whole; it was read back, proven and published" in flat(run.output)
    (directory,) = fleet.set_directories(replica)
    assert f"Brought to the controller: {directory}" in flat(run.output)
    assert leftovers(fleet) == []
    faults.settle(
        "controller killed while archiving", subject(fleet, replica), before, lambda: next_run(fleet, replica)
    )
