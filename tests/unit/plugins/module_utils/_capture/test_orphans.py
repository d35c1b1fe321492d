# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clones whose ledger is lost: in no backup, left alone, and told of with a command that removes them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _filelist
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import orphans, stores
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Place
from ansible_collections.mysql_ops.replica_backup.tests.lab import disks

OLD, NEW = "20261101T010203Z", "20261102T010203Z"


def at(tmp_path: Path, backup_id: str, host: str = "db1") -> SetPaths:
    return SetPaths(str(tmp_path / "spool"), host, backup_id)


def clone_of(directory: Path, paths: SetPaths) -> Path:
    path = directory / os.path.basename(stores.on_device(-1, [str(directory)], paths))
    path.mkdir(mode=0o700)
    (path / "000000001").write_bytes(b"data")
    return path


def remove_as_told(warning: str) -> None:
    subprocess.run(["bash", "-ec", warning.rpartition("remove it: ")[2]], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def datadir(tmp_path: Path) -> Path:
    datadir = tmp_path / "lib with space" / "mysql"
    (datadir / "d").mkdir(parents=True)
    (datadir / "d" / "t.ibd").write_bytes(b"data")
    return datadir


@pytest.mark.parametrize("where", [".", ".."])
def test_clone_without_a_ledger_is_in_no_list_and_told_of(tmp_path: Path, datadir: Path, where: str) -> None:
    """Inside a directory that is a mount point of its own, or beside it: where another place may reach it."""
    left = clone_of((datadir / where).resolve(), at(tmp_path, OLD))
    roots = [str(datadir), str(datadir.parent)]
    found = Discovery(str(datadir), (Place("datadir", roots[0]), Place("tablespaces", roots[1])))
    for entries in (_filelist.walk(found), _filelist.retake(found)):
        assert not [entry.path for entry in entries if "clone" in entry.path]
    (warning,) = orphans.warnings(roots, at(tmp_path, NEW))
    assert str(left) in warning and left.exists()
    remove_as_told(warning)
    assert not left.exists()
    assert orphans.warnings(roots, at(tmp_path, NEW)) == []


def test_clone_of_another_server_of_this_host_is_left_out_and_not_told_of(tmp_path: Path, datadir: Path) -> None:
    """It may be at work with it."""
    clone_of(datadir, at(tmp_path, OLD, host="db2"))
    assert orphans.warnings([str(datadir)], at(tmp_path, NEW)) == []
    found = Discovery(str(datadir), (Place("datadir", str(datadir)),))
    assert [entry.path for entry in _filelist.walk(found)] == [".", "d", "d/t.ibd"]


def test_copy_in_the_spool_is_told_of_unless_it_is_that_of_this_run(tmp_path: Path, datadir: Path) -> None:
    for backup_id in (OLD, NEW):
        os.makedirs(stores.in_spool(at(tmp_path, backup_id)))
    (warning,) = orphans.warnings([str(datadir)], at(tmp_path, NEW))
    assert stores.in_spool(at(tmp_path, OLD)) in warning


def test_server_that_runs_from_a_clone_is_backed_up(tmp_path: Path, datadir: Path) -> None:
    """Somebody has brought one up to look at it."""
    left = clone_of(datadir, at(tmp_path, OLD))
    found = Discovery(str(left), (Place("datadir", str(left)),))
    assert [entry.path for entry in _filelist.walk(found)] == [".", "000000001"]


def test_subvolume_is_removed_by_the_command_that_is_told(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("makes a file system")
    with disks.mounted("btrfs", tmp_path / "disk") as top:
        datadir = top / "mysql"
        datadir.mkdir()
        holder = top / f".mysql-replica-clone-{OLD}-0-41"
        holder.mkdir(mode=0o700)
        command = ["btrfs", "subvolume", "snapshot", "-r", str(top), str(holder / holder.name[1:])]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (warning,) = orphans.warnings([str(datadir)], at(tmp_path, NEW))
        remove_as_told(warning)
        assert not holder.exists()
