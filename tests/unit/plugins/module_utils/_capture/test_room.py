# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup from a server that serves leaves it the room that it needs, on real file systems."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _guards
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import plan, room, tools, window
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.plan import Choice, Facts, Means
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.volumes import Volume
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.tests.lab import disks
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import (
    Site,
    discovery,
    make_site,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")


@pytest.fixture
def disk(tmp_path: Path, tree: Path) -> Iterator[Path]:
    with disks.mounted("xfs", tmp_path / "disk") as mount:
        shutil.copytree(tree, mount / "data", symlinks=True)
        yield mount


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_EVERY", 0.0)


def leave_free(disk: Path, size: int) -> None:
    (disk / "other").unlink(missing_ok=True)
    with open(disk / "other", "wb") as other:
        os.posix_fallocate(other.fileno(), 0, tools.Room.of(str(disk)).available - size)


def site_on(disk: Path, spool: Path, choice: Choice | None) -> Site:
    spool.mkdir(exist_ok=True)
    site = make_site(disk / "data", spool / "spool", spool / "state")
    ledger = site.ledger()
    ledger.data["spool_dir"] = str(site.spool)
    if choice is not None:
        ledger.data["clone"] = plan.to_clone(choice, site.paths)
    ledger.save()
    return site


def test_a_clone_that_shares_blocks_is_given_up_before_the_disk_is_full(disk: Path, tmp_path: Path) -> None:
    site = site_on(disk, tmp_path / "elsewhere", None)
    needed = tools.Room.of(str(disk)).least

    def means() -> Means:
        [found] = plan.look(discovery(disk / "data"), {}, site.paths, size_percent=20)
        return found

    clones = means()
    assert clones.by == "reflink"
    ledger = site.ledger()
    ledger.data["clone"] = plan.to_clone(Choice(plan.SNAPSHOT, "asked for", (clones,)), site.paths)
    watch = room.watch(ledger)
    watch()
    # Before the stop: not begun with too little.
    leave_free(disk, needed - (1 << 20))
    assert room.refusal(clones.store)
    # Little enough is copied instead, to where there is room.
    assert means().by == "copy"
    # While it stands: half of that may still be used.
    watch()
    leave_free(disk, needed // 2 - (1 << 20))
    with pytest.raises(ReplicaBackupError, match="a clone holds back") as caught:
        watch()
    assert caught.value.facts["rule"] == "snapshot_overflow"


def test_a_full_file_system_cannot_be_cloned(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_on(disk, tmp_path / "elsewhere", None)
    monkeypatch.setattr(plan, "_LITTLE", 0)
    leave_free(disk, 1 << 20)
    [means] = plan.look(discovery(disk / "data"), {"datadir": 1}, site.paths, size_percent=20)
    assert means.by == ""
    assert "cannot be cloned: 1 MiB are free, less than the" in means.text()


@pytest.mark.parametrize("capture", [plan.STAGED, plan.COPY, plan.SNAPSHOT])
def test_a_spool_in_the_file_system_of_the_server_does_not_fill_it(disk: Path, tmp_path: Path, capture: str) -> None:
    # A snapshot of the volume has its room elsewhere; its archive has not.
    shared = site_on(disk, disk / "work", Choice(capture, "asked for"))
    apart = site_on(disk, tmp_path / "elsewhere", Choice(capture, "asked for"))
    assert room.reserve(discovery(disk / "data"), shared.paths) >= tools.Room.of(str(disk)).least
    assert room.reserve(discovery(disk / "data"), apart.paths) == 0
    watches = [room.watch(site.ledger()) for site in (shared, apart)]
    for watch in watches:
        watch()
    leave_free(disk, 1 << 20)
    watches[1]()
    with pytest.raises(ReplicaBackupError, match="the spool lies in the file system of the server"):
        watches[0]()


def test_a_cold_archive_is_not_watched(disk: Path) -> None:
    site = site_on(disk, disk / "work", None)
    leave_free(disk, 1 << 20)
    room.watch(site.ledger())()


def test_a_file_system_that_is_mounted_below_a_place_counts(disk: Path, tmp_path: Path, tree: Path) -> None:
    paths = site_on(disk, disk / "work", None).paths
    holder = tmp_path / "holder"
    holder.mkdir()
    assert room.reserve(discovery(tree), paths) == 0
    with disks.mounted("btrfs", tree / "below"):
        assert room.is_compressing(discovery(tree))
        inside = replace(paths, root=str(tree / "below" / "spool"))
        assert room.reserve(discovery(tree), inside) > 0
    assert not room.is_compressing(discovery(tree))


GIB = 1 << 30
XFS = Means(Volume(1, ("/data",), "/", "xfs", "/dev/sda", "/"), 10 * GIB, "reflink", store="/s")
EXT4 = Means(Volume(2, ("/data",), "/", "ext4", "/dev/sdb", "/"), 10 * GIB, "", "its files share no blocks")


@pytest.mark.parametrize(
    ("asked", "means", "free", "capture", "extra"),
    [
        ("auto", XFS, 12, plan.SNAPSHOT, 0),
        ("auto", XFS, 10, plan.COLD, 0),
        ("auto", EXT4, 41, plan.STAGED, 30),
        ("auto", EXT4, 40, plan.COLD, 0),
        (plan.STAGED, EXT4, 0, plan.STAGED, 30),
        (plan.COPY, EXT4, 0, plan.COPY, 30),
    ],
)
def test_what_is_left_to_the_server_and_what_a_copy_takes_count(
    asked: str, means: Means, free: int, capture: str, extra: int
) -> None:
    """10 GiB on disk, compressed there: 30 GiB as a copy."""
    choice = plan.choose(
        Facts(
            asked,
            stays_down=False,
            means=(means,),
            data_bytes=10 * GIB,
            archive_bytes=10 * GIB,
            free_bytes=free * GIB,
            copied_bytes=30 * GIB,
            reserve_bytes=GIB,
        )
    )
    assert (choice.capture, choice.extra_bytes) == (capture, extra * GIB)
    assert choice.reserve_bytes == (0 if capture == plan.COLD else GIB)


@pytest.mark.parametrize(("free", "ok"), [(11 * GIB - 1, False), (11 * GIB, True)])
def test_the_reserve_is_part_of_what_the_spool_must_have(free: int, ok: bool) -> None:
    facts = _guards.Facts((), (), None, "0", 10 * GIB, free, "/spool", (), reserve_bytes=GIB)
    assert _guards.has_room(facts, _guards.Policy(space_factor=1.0)).ok is ok


def test_the_archive_gives_the_clone_up_before_the_disk_is_full(disk: Path, tmp_path: Path) -> None:
    site = make_site(disk / "data", tmp_path / "spool", tmp_path / "state")
    volume = Volume(os.stat(disk).st_dev, (str(disk / "data"),), str(disk), "xfs", "/dev/loop", "/")
    ledger = site.ledger()
    store = str(disk / "store")
    ledger.data["clone"] = plan.to_clone(
        Choice(plan.SNAPSHOT, "", (Means(volume, 1, "reflink", store=store),)), site.paths
    )
    ledger.save()
    window.take(site.request())
    ledger = site.ledger()
    ledger.begin("serving")
    # What the server writes over takes new blocks as long as the clone has the old ones.
    status = os.statvfs(disk)
    with open(disk / "filler", "wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, status.f_bfree * status.f_bsize - (2 << 20))
    with pytest.raises(ReplicaBackupError) as caught:
        job.capture(site.request())
    assert caught.value.facts["rule"] == "snapshot_overflow"
    assert not os.path.exists(store)
    assert not os.path.exists(site.paths.head)
    assert site.ledger().data["clone"]["removed"]
