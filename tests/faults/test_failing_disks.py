# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of spool and state that become full or read-only while the server of a real replica is down."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.tests.faults.test_killed_modules import Bench, mariadb
from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import Faults
from ansible_collections.mysql_ops.replica_backup.tests.lab.one_run import OneRun

__all__ = ["mariadb"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")


@contextlib.contextmanager
def tmpfs(target: Path, size: str) -> Iterator[Path]:
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)
        target.rmdir()


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte left, and not a name either."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


FAILS: dict[str, Callable[[Path], contextlib.AbstractContextManager[None]]] = {"full": full, "read-only": read_only}


@pytest.mark.parametrize("which", ["state", "spool"])
@pytest.mark.parametrize("how", FAILS)
def test_a_disk_fails_while_the_server_is_down(mariadb: Bench, faults: Faults, which: str, how: str) -> None:
    before = mariadb.replica.state()
    number = mariadb.run().number
    with tmpfs(mariadb.root / "small", "64m" if which == "spool" else "1m") as small:
        place = {"spool": "", "state": "", which: str(small)}
        run = OneRun(mariadb.topology.replicas[0], mariadb.root, number, place["spool"], place["state"], gap=120)
        run.recover()
        run.stop()
        with FAILS[how](small):
            with pytest.raises(ReplicaBackupError) as caught:
                run.archive()
            # By the step that failed, there and then: neither the dead-man nor anybody else was needed.
            assert caught.value.facts["server_restored"] is True, caught.value
            assert mariadb.replica.state() == before
            assert str(small) in str(caught.value) or os.strerror(28) in str(caught.value), caught.value
        run.recover(take_over=True)
        assert not list(small.rglob("data*"))
    fault = f"{which} {how} while the server is down"
    faults.settle(fault, mariadb.replica, before, mariadb.run(), writes=mariadb.write)
