# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that do not stop or start as they should, and a kernel that is short of memory."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _deadman, _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.tests.faults.test_killed_modules import Bench, mariadb
from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import Faults
from ansible_collections.mysql_ops.replica_backup.tests.lab.one_run import OneRun, killed_by_itself
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.test_archive_job import (
    during,
)

__all__ = ["mariadb"]


def once_asked(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object]) -> None:
    """Do something to the server's process right after it was asked to stop, while it is stopping."""
    real = _server.wait_gone

    def wait_gone(process: _server.ServerProcess, timeout: float, **others: t.Any) -> float:
        monkeypatch.undo()
        act(process.pid)
        return real(process, timeout, **others)

    monkeypatch.setattr(_server, "wait_gone", wait_gone)


def wait_for(condition: Callable[[], object], timeout: float = 90) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_a_server_that_crashes_while_it_stops(mariadb: Bench, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    before = mariadb.replica.state()
    run = mariadb.run()
    once_asked(monkeypatch, lambda pid: os.kill(pid, signal.SIGKILL))
    with pytest.raises(ReplicaBackupError, match="did not stop cleanly") as caught:
        run.stop()
    assert caught.value.facts["server_restored"] is True
    faults.settle("mysqld crashes while it stops", mariadb.replica, before, mariadb.run(), writes=mariadb.write)


def test_a_server_that_stops_when_nobody_waits_any_more(
    mariadb: Bench, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs for longer than the stop and the way back wait for it. The dead-man does not give up on it."""
    before = mariadb.replica.state()
    run = OneRun(mariadb.topology.replicas[0], mariadb.root, mariadb.run().number, changes={"shutdown_timeout": 1})
    stopped: list[int] = []

    def hang(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)

    once_asked(monkeypatch, hang)
    try:
        with pytest.raises(ReplicaBackupError, match="still stopping") as caught:
            run.stop()
        assert caught.value.facts["server_restored"] is False
        assert "recover" in str(caught.value.next_command)
        # Well past the lease: it is not killed, and nothing is started beside it.
        wait_for(lambda: _deadman.fired(run.state_dir))
        assert mariadb.topology.replicas[0].pids() == stopped
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    faults.settle("mysqld hangs while it stops", mariadb.replica, before, mariadb.run(), writes=mariadb.write)


def test_somebody_else_starts_the_server_during_the_archive(
    mariadb: Bench, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = mariadb.replica.state()
    run = mariadb.run()
    run.stop()
    with monkeypatch.context() as patch:
        during(patch, "ibdata1", mariadb.topology.replicas[0].start)
        with pytest.raises(ReplicaBackupError, match=r"is running|changed while") as caught:
            run.archive()
    assert caught.value.facts["server_restored"] is True
    run.recover(take_over=True)
    faults.settle("somebody starts mysqld mid-archive", mariadb.replica, before, mariadb.run(), writes=mariadb.write)


def test_the_dead_man_fires_during_the_archive(mariadb: Bench, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    before = mariadb.replica.state()
    run = mariadb.run()
    run.stop()
    armed = _deadman.armed(run.state_dir)
    assert armed is not None
    # As its timer would, with nobody having given it a reason.
    command = [sys.executable, os.path.join(run.state_dir, "deadman.pyz"), "fire", run.state_dir, armed["token"]]
    with monkeypatch.context() as patch:
        during(patch, "ibdata1", lambda: subprocess.run(command, check=True))
        with pytest.raises(ReplicaBackupError, match="dead-man has started the server") as caught:
            run.archive()
    assert (caught.value.facts["server_restored"], caught.value.facts["start_error"]) == (True, "")
    assert run.recover(take_over=True)["server_restored"]
    faults.settle("the dead-man fires mid-archive", mariadb.replica, before, mariadb.run(), writes=mariadb.write)


# Where the kernel keeps groups with a limit: version 2, version 1.
_GROUPS = {"/sys/fs/cgroup": "memory.max", "/sys/fs/cgroup/memory": "memory.limit_in_bytes"}


@contextlib.contextmanager
def little_memory(megabytes: int) -> Iterator[Callable[[], object]]:
    """What a process calls to have so much from now on, and to be ended by the kernel when it wants more.

    On a machine that gives no such group it ends itself, as the kernel would end it.
    """
    for parent, limit in _GROUPS.items():
        if not Path(parent, "cgroup.procs").exists():
            continue
        group = Path(parent, f"replica-backup-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            # Never one that it makes: then this is no group that is limited.
            with (group / limit).open("r+") as file:
                file.write(str(megabytes << 20))
        except OSError:
            group.rmdir()
            continue
        try:
            yield functools.partial(_enter, group)
        finally:
            wait_for(functools.partial(_gone, group))
        return
    yield lambda: os.kill(os.getpid(), signal.SIGKILL)


def _gone(group: Path) -> bool:
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


def _enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def test_out_of_memory_during_the_archive(mariadb: Bench, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    before = mariadb.replica.state()
    run = mariadb.run()
    run.stop()
    with little_memory(16) as enter, monkeypatch.context() as patch:

        def swell() -> None:
            enter()
            kept: list[bytes] = []
            # Bounded: where the limit does not hold, the machine must not pay for it.
            while len(kept) < 64:
                kept.append(os.urandom(1 << 20))
            os.kill(os.getpid(), signal.SIGKILL)

        during(patch, "ibdata1", swell)
        assert killed_by_itself(run.archive)
    # Nobody is left but the dead-man, who notices by the lease.
    faults.settle("the module runs out of memory", mariadb.replica, before, mariadb.run(), writes=mariadb.write)


def test_two_runs_at_once(mariadb: Bench, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the lock, is refused, and leaves the first one alone."""
    before = mariadb.replica.state()
    first, second = mariadb.run(), mariadb.run()
    said: list[str] = []

    def other() -> None:
        try:
            second.stop()
        except ReplicaBackupError as error:
            said.append(str(error))

    beside = threading.Thread(target=other)
    first.stop()
    with monkeypatch.context() as patch:
        during(patch, "ibdata1", beside.start)
        first.archive()
    beside.join()
    first.finish()
    assert len(said) == 1 and ("Another run is at work" in said[0] or "is not finished" in said[0])
    assert os.path.exists(first.paths.manifest) and not os.path.exists(second.paths.manifest)
    faults.settle("two runs at once", mariadb.replica, before, mariadb.run(), writes=mariadb.write)
