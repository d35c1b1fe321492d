# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems on loop devices: told apart, asked whether they share blocks, and btrfs snapshots of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import volumes
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.volumes import Snapshot, Volume
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Exclusion, Place
from ansible_collections.mysql_ops.replica_backup.tests.lab import disks

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")

_ID = "20261122T235600Z"


def run(*command: str | Path) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def plan(*places: Path, exclusions: tuple[Exclusion, ...] = ()) -> Discovery:
    names = ("datadir", "binlog", "relay_log")
    return Discovery(str(places[0]), tuple(Place(name, str(path)) for name, path in zip(names, places)), exclusions)


def find(volume: Volume, work: Path) -> tuple[Snapshot | None, str]:
    return volumes.find(volume, backup_id=_ID, work=str(work), size_percent=20)


def planned(volume: Volume, work: Path) -> Snapshot:
    """As it comes back from the ledger."""
    snapshot, why = find(volume, work)
    assert snapshot is not None, why
    return volumes.load(json.loads(json.dumps(snapshot.to_dict())))


def read(snapshot: Snapshot, path: Path) -> bytes:
    store, inner = snapshot.translate(str(path))
    return Path(store, inner).read_bytes()


def fill(directory: Path) -> Path:
    """Leave no room in a file system."""
    path = directory / "filling"
    offset, size = 0, 256 * 1024 * 1024
    with path.open("wb") as stream:
        while size >= 4096:
            try:
                os.posix_fallocate(stream.fileno(), offset, size)
                offset += size
            except OSError:
                size //= 2
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Path]:
    with disks.mounted("btrfs", tmp_path / "pool") as mounted:
        yield mounted


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A spool on another file system than the data."""
    path = tmp_path / "spool" / "work"
    path.mkdir(parents=True)
    return path


def test_file_systems_are_told_apart(pool: Path, tmp_path: Path) -> None:
    data = pool / "srv/my data"
    (pool / "srv").mkdir()
    run("btrfs", "subvolume", "create", data)
    (data / "ibdata1").touch()
    run("btrfs", "subvolume", "create", data / "nested")
    (data / "nested/t.ibd").touch()
    for name in ("mounted", "left_out", "again"):
        (data / name).mkdir()
    with disks.mounted("xfs", tmp_path / "xfs") as xfs:
        (xfs / "binlog/part").mkdir(parents=True)
        run("mount", "--bind", xfs / "binlog/part", data / "mounted")
        run("mount", "-t", "tmpfs", "none", data / "left_out")
        run("mount", "--bind", data / "nested", data / "again")
        excluded = (Exclusion(str(data / "left_out"), "tmpdir", "temporary", "tree"),)
        found = volumes.volumes_of(plan(data, xfs / "binlog", exclusions=excluded))
        assert [(volume.fs_type, volume.roots, volume.inner) for volume in found] == [
            ("btrfs", (str(data),), ("srv/my data",)),
            (
                "btrfs",
                (str(data / "nested"), str(data / "again")),
                ("srv/my data/nested", "srv/my data/nested"),
            ),
            ("xfs", (str(data / "mounted"), str(xfs / "binlog")), ("binlog/part", "binlog")),
        ]
        for volume in found:
            assert {os.lstat(root).st_dev for root in volume.roots} == {volume.device}
        assert found[0].source == found[1].source != found[2].source
        assert [volume.fs_device for volume in found][:2] == [found[0].fs_device] * 2


def test_an_overlay_shows_files_of_several_devices(tmp_path: Path) -> None:
    with disks.mounted("xfs", tmp_path / "xfs") as upper, disks.mounted("ext4", tmp_path / "ext4") as lower:
        (lower / "lower/db").mkdir(parents=True)
        (lower / "lower/db/old.ibd").touch()
        for name in ("upper", "index", "seen"):
            (upper / name).mkdir()
        layers = f"xino=off,lowerdir={lower}/lower,upperdir={upper}/upper,workdir={upper}/index"
        run("mount", "-t", "overlay", "-o", layers, "overlay", upper / "seen")
        (upper / "seen/db/new.ibd").touch()
        found = volumes.volumes_of(plan(upper / "seen"))
        assert {volume.fs_type for volume in found} == {"overlay"}
        devices = {path.lstat().st_dev for path in (upper / "seen").rglob("*")} | {(upper / "seen").stat().st_dev}
        assert len(devices) > 1
        assert {volume.device for volume in found} == devices
        assert all(find(volume, tmp_path)[0] is None for volume in found)


def test_whether_blocks_are_shared_is_tried_without_a_trace(pool: Path, tmp_path: Path) -> None:
    with disks.mounted("xfs", tmp_path / "xfs") as xfs, disks.mounted("ext4", tmp_path / "ext4") as ext4:
        before = {path: sorted(path.iterdir()) for path in (pool, xfs, ext4)}
        times = {path: path.stat().st_mtime_ns for path in before}
        assert volumes.shares_blocks(str(xfs))
        assert volumes.shares_blocks(str(pool))
        assert not volumes.shares_blocks(str(ext4))
        assert not volumes.shares_blocks(str(xfs), str(ext4))
        assert not volumes.shares_blocks(str(xfs / "nowhere"))
        assert before == {path: sorted(path.iterdir()) for path in before}
        assert times == {path: path.stat().st_mtime_ns for path in before}

        # A data directory without checksums, as is often advised for databases: shares with its like only.
        (pool / "plain").mkdir()
        run("chattr", "+C", pool / "plain")
        assert volumes.shares_blocks(str(pool / "plain"))
        assert not volumes.shares_blocks(str(pool), str(pool), str(pool / "plain"))

        fill(xfs)
        assert not volumes.shares_blocks(str(xfs))


@pytest.mark.parametrize("layout", ["subvolume", "whole", "part", "bound", "spool"])
def test_a_btrfs_snapshot_keeps_what_the_server_changes_later(layout: str, pool: Path, work: Path) -> None:
    """The data are a subvolume, a whole file system, a part of a subvolume, a part of which the rest is hidden by the
    mount, or a subvolume of the file system that the spool is on."""
    if layout in ("subvolume", "spool"):
        data = pool / "data"
        run("btrfs", "subvolume", "create", data)
    elif layout == "whole":
        data = pool
    else:
        run("btrfs", "subvolume", "create", pool / "@")
        data = pool / "@/var/mysql"
        data.mkdir(parents=True)
    if layout == "bound":
        (pool / "seen").mkdir()
        run("mount", "--bind", data, pool / "seen")
        data = pool / "seen"
    if layout == "spool":
        work = pool / "spool/work"
        work.mkdir(parents=True)
    (data / "db").mkdir()
    changed, deleted = data / "db/t1.ibd", data / "any\udcff byte.ibd"
    changed.write_bytes(b"before" * 100_000)
    os.close(os.open(os.fsencode(str(deleted)), os.O_CREAT))
    deleted.write_bytes(b"deleted")
    names = sorted(data.iterdir())
    [volume] = volumes.volumes_of(plan(data))
    snapshot = planned(volume, work)
    assert snapshot.kind == "btrfs"
    assert sorted(data.iterdir()) == names

    snapshot.take()
    changed.write_bytes(b"after" * 10)
    deleted.unlink()
    snapshot.open()
    snapshot.open()
    snapshot.check()
    assert read(snapshot, changed) == b"before" * 100_000
    assert read(snapshot, deleted) == b"deleted"
    store = Path(snapshot.translate(str(changed))[0])
    with pytest.raises(OSError, match="Read-only"):
        (store / "new").touch()
    assert store.parent.stat().st_mode & 0o777 == 0o700 or layout == "spool"
    # Inside the data only where there is nothing else of the file system.
    assert (data in store.parents) == (layout == "whole")
    assert all(Path(path) in store.parents for path in snapshot.excluded())
    with pytest.raises(ReplicaBackupError, match="in no directory"):
        snapshot.translate("/etc/passwd")

    assert snapshot.remove()
    assert not snapshot.remove()
    assert _ID not in run("btrfs", "subvolume", "list", pool)
    assert not list(pool.rglob("*clone*"))


def test_a_btrfs_snapshot_that_is_gone_or_another_is_an_error_and_removed_all_the_same(pool: Path, work: Path) -> None:
    run("btrfs", "subvolume", "create", pool / "data")
    (pool / "data/ibdata1").write_bytes(b"1")
    [volume] = volumes.volumes_of(plan(pool / "data"))
    snapshot = planned(volume, work)
    with pytest.raises(ReplicaBackupError, match="is gone"):
        snapshot.open()
    assert not snapshot.remove()

    snapshot.take()
    # The command fails half way: a second one of the same name.
    with pytest.raises(ReplicaBackupError, match="failed") as caught:
        snapshot.take()
    assert "btrfs" in str(caught.value)
    store = Path(snapshot.translate(str(pool / "data/ibdata1"))[0])
    run("btrfs", "subvolume", "delete", store)
    for use in (snapshot.open, snapshot.check):
        with pytest.raises(ReplicaBackupError, match="is gone"):
            use()
    store.mkdir()
    with pytest.raises(ReplicaBackupError, match="not the snapshot"):
        snapshot.open()
    store.rmdir()
    assert snapshot.remove()
    assert not store.parent.exists()


def test_a_btrfs_snapshot_is_given_up_before_it_fills_the_disk(pool: Path, work: Path) -> None:
    # What is deleted comes free at the next commit.
    run("mount", "-o", "remount,commit=1", pool)
    run("btrfs", "subvolume", "create", pool / "data")
    lost = pool / "data/dropped.ibd"
    lost.write_bytes(os.urandom(32 * 1024 * 1024))
    [volume] = volumes.volumes_of(plan(pool / "data"))
    snapshot = planned(volume, work)
    snapshot.take()
    snapshot.check()
    lost.unlink()
    filling = fill(pool / "data")
    run("sync", "--file-system", pool)
    with pytest.raises(ReplicaBackupError, match="nearly full") as caught:
        snapshot.check()
    assert caught.value.facts["rule"] == "snapshot_overflow"
    assert find(volume, work)[0] is None
    assert snapshot.remove()
    # What it held back is the server's again.
    run("btrfs", "subvolume", "sync", pool)
    filling.unlink()
    run("sync", "--file-system", pool)
    assert find(volume, work)[0] is not None


def test_where_there_is_no_snapshot_it_says_why(tmp_path: Path) -> None:
    with disks.mounted("ext4", tmp_path / "ext4") as ext4:
        [volume] = volumes.volumes_of(plan(ext4))
        snapshot, why = find(volume, tmp_path / "work")
        assert snapshot is None
        assert why == f"{volume.source} is no logical volume"
    with pytest.raises(ReplicaBackupError, match="does not know"):
        volumes.load({"kind": "another"})
