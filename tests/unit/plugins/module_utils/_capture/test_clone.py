# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A clone of real files: taken, archived while the originals go on changing, and removed whatever happens."""

from __future__ import annotations

import os
import shutil
import typing as t
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _filelist, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job, leftover
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._budget import Prediction
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import (
    cleanup,
    clone,
    plan,
    stores,
    throttle,
    window,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.plan import Choice, Facts, Means
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.volumes import Volume
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Place
from ansible_collections.mysql_ops.replica_backup.tests.lab import disks
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.archive_support import (
    look,
    tree,
)
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import (
    Site,
    make_site,
)

__all__ = ["tree"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")


def planned(site: Site, choice: Choice) -> None:
    """As the stop notes it before anything is made."""
    ledger = site.ledger()
    ledger.data["clone"] = plan.to_clone(choice, site.paths)
    ledger.save()


def served(site: Site) -> None:
    """As the start notes it."""
    ledger = site.ledger()
    ledger.begin("serving")
    ledger.end("serving")


@pytest.fixture
def copied(site: Site) -> Site:
    planned(site, Choice(plan.COPY, "asked for", extra_bytes=1))
    return site


def test_an_archive_from_a_copy_is_the_server_as_it_stood_still(copied: Site) -> None:
    before = look(copied.tree)
    taken = window.take(copied.request())
    assert (taken.capture, taken.changed) == ("copy", True)
    assert taken.bytes == _bytes(copied.tree)
    assert not window.take(copied.request()).changed
    served(copied)
    # The server goes on; a file is rewritten, one is gone, one is new.
    (copied.tree / "ibdata1").write_bytes(b"later")
    (copied.tree / "new").touch()
    request = copied.request(form="copy")
    assert job.capture(request).changed
    assert not os.path.exists(stores.in_spool(copied.paths))
    published = job.publish(request)
    assert published.manifest is not None
    assert "archive" in published.times
    assert look(Path(copied.paths.directory) / "data" / "datadir") == before
    assert copied.ledger().data["clone"]["removed"]
    assert window.remove(request) == []


def _bytes(tree: Path) -> int:
    """Of all regular files; a further name of an inode counts nothing."""
    found = [path.lstat() for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum({status.st_ino: status.st_size for status in found}.values())


@needs_root
@pytest.mark.parametrize("spool_beside", [True, False])
def test_a_reflink_clone_lies_on_the_file_system_of_the_server(tree: Path, tmp_path: Path, spool_beside: bool) -> None:
    with disks.mounted("xfs", tmp_path / "disk") as mount:
        # A mount point of its own, as a data directory often is.
        shutil.copytree(tree, mount, symlinks=True, dirs_exist_ok=True)
        root = mount / "work" if spool_beside else tmp_path
        site_tree = mount / "data"
        if spool_beside:
            root.mkdir()
            shutil.copytree(tree, site_tree, symlinks=True)
        else:
            site_tree = mount
        site = make_site(site_tree, root / "spool", root / "state")
        device = os.stat(mount).st_dev
        where = stores.on_device(device, [str(site_tree)], site.paths)
        assert where == (
            stores.in_spool(site.paths) if spool_beside else str(mount / f".mysql-replica-clone-{site.paths.tag}")
        )
        volume = Volume(device, (str(site_tree),), str(mount), "xfs", "/dev/loop", "/")
        planned(site, Choice(plan.SNAPSHOT, "asked for", (Means(volume, 1, "reflink", store=where),)))
        before = look(site_tree)
        free = os.statvfs(mount).f_bfree
        window.take(site.request())
        # Only metadata were written.
        assert (free - os.statvfs(mount).f_bfree) * 4096 < 2 << 20
        served(site)
        (site_tree / "ibdata1").write_bytes(b"later")
        job.present(site.request(form="copy"))
        made = look(Path(site.paths.directory) / "data" / "datadir")
        assert not os.path.exists(where)
        # The store came and went in the data directory itself.
        for seen in (before, made):
            seen["."] = replace(seen["."], mtime_ns=0)
        assert made == before


def disturbed(monkeypatch: pytest.MonkeyPatch, at: str, what: t.Callable[[], object]) -> None:
    """Do something right before the entry of that name is cloned; with "", after the last one."""
    retake = _filelist.retake

    def entries(discovery: Discovery) -> Iterator[_filelist.Entry]:
        for entry in retake(discovery):
            if entry.path == at:
                what()
            yield entry
        if not at:
            what()

    monkeypatch.setattr(_filelist, "retake", entries)


@pytest.mark.parametrize(
    ("at", "what", "words"),
    [
        ("ibdata1", lambda tree: (tree / "ibdata1").unlink(), "ibdata1 vanished"),
        ("", lambda tree: (tree / "ibdata1").unlink(), "vanished|changed"),
        ("", lambda tree: (tree / "new").touch(), "changed"),
        ("", lambda tree: os.utime(tree / "ibdata1"), "ibdata1 changed"),
    ],
    ids=["before it is cloned", "after it was cloned", "a new name", "touched"],
)
def test_a_clone_of_files_that_change_is_none(
    copied: Site, monkeypatch: pytest.MonkeyPatch, at: str, what: t.Callable[[Path], object], words: str
) -> None:
    disturbed(monkeypatch, at, lambda: what(copied.tree))
    with pytest.raises(ReplicaBackupError, match=words) as caught:
        window.take(copied.request())
    assert "stopped by this run" in str(caught.value)
    assert not cleanup.stands(copied.ledger())
    # The server is started first; then what was made is removed.
    assert os.path.exists(stores.in_spool(copied.paths))
    window.tidy(str(copied.state))
    assert not os.path.exists(stores.in_spool(copied.paths))
    with pytest.raises(RefusedError, match="does not stand"):
        job.capture(copied.request())


@needs_root
def test_no_room_for_the_clone(tree: Path, tmp_path: Path) -> None:
    with disks.mounted("ext4", tmp_path / "small") as mount:
        site = make_site(tree, tmp_path / "spool", tmp_path / "state")
        (tree / "large").write_bytes(os.urandom(32 << 20))
        planned(site, Choice(plan.COPY, "asked for"))
        ledger = site.ledger()
        ledger.data["clone"]["stores"][0]["directory"] = str(mount / "store")
        ledger.save()
        status = os.statvfs(mount)
        with open(mount / "filler", "wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, status.f_bfree * status.f_bsize - (16 << 20))
        with pytest.raises(ReplicaBackupError, match="the file system is full"):
            window.take(site.request())
        window.tidy(str(site.state))
        assert sorted(os.listdir(mount)) == ["filler", "lost+found"]


def test_a_file_system_that_shares_no_blocks_after_all(copied: Site) -> None:
    ledger = copied.ledger()
    ledger.data["clone"]["stores"][0]["by"] = "reflink"
    ledger.save()
    with pytest.raises(ReplicaBackupError, match="could not be cloned") as caught:
        window.take(copied.request())
    assert "replica_backup_capture" in str(caught.value)


def test_the_recovery_removes_the_clone_of_a_dead_run(copied: Site) -> None:
    window.take(copied.request())
    store = stores.in_spool(copied.paths)
    served(copied)
    ledger = copied.ledger()
    ledger.data["spool_dir"] = str(copied.spool)
    settled = leftover.settle(ledger)
    assert settled.kept is None
    assert any(store in words for words in settled.words)
    assert not os.path.exists(copied.paths.directory)


def test_a_store_that_was_exchanged_is_not_read(copied: Site) -> None:
    window.take(copied.request())
    served(copied)
    store = Path(stores.in_spool(copied.paths))
    store.chmod(0o755)
    with pytest.raises(ReplicaBackupError, match="not the clone that was made"):
        job.capture(copied.request())
    store.chmod(0o700)
    store.rename(store.with_name("other"))
    store.symlink_to("other")
    with pytest.raises(ReplicaBackupError, match="cannot be read"):
        job.capture(copied.request())
    # A link is not followed for the removal either.
    with pytest.raises(ReplicaBackupError, match="could not be removed") as caught:
        cleanup.remove(copied.ledger())
    assert "recover" in str(caught.value)
    assert store.with_name("other").is_dir()


def test_a_clone_that_was_cut_is_no_backup(copied: Site) -> None:
    window.take(copied.request())
    served(copied)
    store = Path(stores.in_spool(copied.paths))
    largest = max(store.iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(largest, 1)
    with pytest.raises(ReplicaBackupError, match=r"the clone of .* changed .*\(size\)"):
        job.capture(copied.request())
    assert not os.path.exists(copied.paths.head)


@pytest.mark.parametrize("keep", [0, 3])
def test_a_list_that_was_cut_is_no_backup(copied: Site, keep: int) -> None:
    window.take(copied.request())
    served(copied)
    path = Path(copied.ledger().data["clone"]["list"])
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:keep]))
    with pytest.raises(ReplicaBackupError, match="list of the clone is damaged"):
        job.capture(copied.request())
    assert not os.path.exists(copied.paths.head)


def test_a_clone_is_not_archived_before_its_server_is_back(copied: Site) -> None:
    window.take(copied.request())
    with pytest.raises(RefusedError, match="has not been started yet"):
        job.capture(copied.request())
    assert copied.ledger().server_is_down


def test_a_clone_of_an_earlier_boot_is_no_backup(copied: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    window.take(copied.request())
    served(copied)
    monkeypatch.setattr(_ledger, "boot_id", lambda: "another")
    with pytest.raises(RefusedError, match="does not stand"):
        job.capture(copied.request())
    assert cleanup.remove(copied.ledger()) == [stores.in_spool(copied.paths)]


def test_a_clone_is_made_again_after_it_was_removed_or_has_failed(
    copied: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    window.take(copied.request())
    assert window.remove(copied.request()) == [stores.in_spool(copied.paths)]
    with monkeypatch.context() as patched:
        disturbed(patched, "", lambda: os.utime(copied.tree / "ibdata1"))
        with pytest.raises(ReplicaBackupError, match="ibdata1 changed"):
            window.take(copied.request())
    assert window.take(copied.request()).changed
    assert cleanup.stands(copied.ledger())
    served(copied)
    assert job.present(copied.request(form="copy")).manifest is not None


def test_time_is_looked_at_within_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clone, "_CHUNK", 1 << 20)
    seen: list[int] = []
    path = tmp_path / "large"
    with open(path, "wb") as made:
        made.write(os.urandom(3 << 20))
        made.truncate(9 << 20)
    with open(path, "rb") as source, open(tmp_path / "copy", "wb") as target:
        clone.copy(source.fileno(), target.fileno(), 9 << 20, seen.append)
    assert seen[:3] == [1 << 20] * 3
    assert sum(seen) == 9 << 20
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_two_servers_of_one_machine_do_not_share_a_clone(copied: Site) -> None:
    other = replace(copied.paths, host="db2")
    roots = [str(copied.tree)]
    elsewhere = os.stat("/proc").st_dev
    assert stores.on_device(elsewhere, roots, copied.paths) != stores.on_device(elsewhere, roots, other)


def test_a_file_where_nobody_knew_of_it_is_copied(site: Site) -> None:
    device = os.stat(site.tree).st_dev + 1
    volume = Volume(device, (str(site.tree),), "/", "xfs", "/dev/loop", "/")
    planned(site, Choice(plan.SNAPSHOT, "asked for", (Means(volume, 1, "reflink", store=str(site.spool / "s")),)))
    window.take(site.request())
    served(site)
    assert job.present(site.request(form="copy")).manifest is not None
    assert not (site.spool / "s").exists()


def test_a_plan_is_needed_for_a_clone(site: Site) -> None:
    for call in (window.take, window.plan):
        with pytest.raises(RefusedError, match="no plan for a clone"):
            call(site.request())
    os.unlink(site.ledger().path)
    assert window.plan(site.request())["changed"]
    assert window.remove(site.request(), check=True) == []


def test_check_mode(copied: Site) -> None:
    assert window.plan(copied.request()) == {"changed": True, "capture": "copy", "why": "asked for"}
    window.take(copied.request())
    assert window.remove(copied.request(), check=True) == [stores.in_spool(copied.paths)]
    assert window.remove(copied.request()) == [stores.in_spool(copied.paths)]


def test_lines_of_a_list_come_back(copied: Site) -> None:
    window.take(copied.request())
    listed = list(clone.read(copied.ledger().data["clone"]["list"]))
    assert [clone.Cloned.from_line(one.to_line()) for one in listed] == listed
    assert {one.type for one in listed} == {"file", "directory", "symlink"}


# --- which capture ----------------------------------------------------------------------------------------------------

GIB = 1 << 30
XFS = Means(Volume(1, ("/var/lib/mysql",), "/", "xfs", "/dev/sda", "/"), 10 * GIB, "reflink", store="/s")
EXT4 = Means(Volume(2, ("/data",), "/data", "ext4", "/dev/sdb", "/"), 10 * GIB, "", "its files share no blocks")
LITTLE = Means(Volume(3, ("/etc/mysql",), "/", "ext4", "/dev/sdc", "/"), 100, "copy", "no blocks", store="/spool")
SLOW = Prediction(200.0, 200.0, 10 * GIB, "the last")
WORSE = Prediction(300.0, 300.0, 10 * GIB, "the last")
QUICK = Prediction(4.0, 4.0, 10 * GIB, "the last")


def facts(asked: str = "auto", means: tuple[Means, ...] = (XFS,), **more: t.Any) -> Facts:
    wanted: dict[str, t.Any] = {
        "stays_down": False,
        "data_bytes": 10 * GIB,
        "archive_bytes": 10 * GIB,
        "free_bytes": 100 * GIB,
        **more,
    }
    return Facts(asked, means=means, **wanted)


@pytest.mark.parametrize(
    ("given", "capture", "why"),
    [
        (facts(), "snapshot", "/var/lib/mysql (xfs) by reflink"),
        (facts(means=(XFS, LITTLE)), "snapshot", "/etc/mysql (ext4) copied, 100 bytes"),
        (facts(stays_down=True), "cold", "stays down"),
        (facts(means=(XFS, EXT4), predicted={"cold": SLOW}), "staged", "instead of 200 s"),
        (facts(means=(EXT4,), predicted={"cold": QUICK}), "cold", "quick enough: 4 s"),
        (facts(means=(EXT4,), predicted={"cold": SLOW}, free_bytes=15 * GIB), "cold", "needs 20.0 GiB"),
        (facts(means=(EXT4,), data_bytes=GIB // 4), "cold", "256.0 MiB are archived quickly"),
        (facts(means=(LITTLE,), data_bytes=1 << 20), "cold", "1.0 MiB are archived quickly"),
        (
            facts(predicted={"snapshot": SLOW}, budget=100.0),
            "staged",
            "snapshot is predicted to take 200 s, more than the downtime budget (100 s); the spool has room",
        ),
        (facts(predicted={"snapshot": QUICK, "cold": SLOW}, budget=100.0), "snapshot", "by reflink"),
        # Beyond the budget all of them: the quickest, for the guard to judge.
        (facts(predicted=dict.fromkeys(("cold", "snapshot"), SLOW) | {"staged": WORSE}, budget=9.0), "snapshot", "xfs"),
        (
            facts(means=(EXT4,), predicted={"cold": SLOW, "staged": WORSE}, budget=250.0),
            "cold",
            "staged is predicted to take 300 s, more than the downtime budget (250 s)",
        ),
        (facts("cold"), "cold", "asked for"),
        (facts("copy", ()), "copy", "asked for"),
        (facts("snapshot"), "snapshot", "asked for"),
    ],
)
def test_the_capture_is_chosen_from_facts(given: Facts, capture: str, why: str) -> None:
    chosen = plan.choose(given)
    assert chosen.capture == capture
    assert why in chosen.why
    known = {name: one.seconds for name, one in given.predicted.items() if one}
    assert chosen.predicted == (known if given.asked == "auto" else {})
    assert chosen.extra_bytes == (given.data_bytes if capture in ("staged", "copy") else 0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (facts("snapshot", (XFS, EXT4)), "/data (ext4) cannot be cloned"),
        (facts("snapshot", (LITTLE,)), "/etc/mysql (ext4) cannot be cloned: no blocks"),
        (facts("staged", (), stays_down=True), "replica_backup_restart_after"),
    ],
)
def test_a_capture_that_is_not_possible_is_refused(given: Facts, words: str) -> None:
    with pytest.raises(RefusedError, match="capture") as caught:
        plan.choose(given)
    assert words in str(caught.value)
    assert caught.value.facts["variable"] == "replica_backup_capture"


@needs_root
def test_a_place_below_another_one_of_its_file_system_counts(tmp_path: Path) -> None:
    """As where the option file lies above the data: they must not pass for a few bytes that are copied in passing."""
    with disks.mounted("ext4", tmp_path / "disk") as mount:
        datadir = mount / "server" / "data"
        datadir.mkdir(parents=True)
        (mount / "server" / "my.cnf").touch()
        places = (Place("datadir", str(datadir)), Place("config", str(mount / "server"), "patterns", (r"my\.cnf",)))
        sizes = {"datadir": GIB, "config": 621}
        paths = SetPaths(str(tmp_path), "db1", "20260101T000000Z")
        (means,) = plan.look(Discovery(datadir=str(datadir), places=places), sizes, paths, size_percent=20)
    assert means.volume.roots == (str(mount / "server"),)
    assert means.bytes >= GIB
    assert means.by == ""
    assert "(ext4) cannot be cloned" in means.text()


def test_a_pace_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(round(seconds, 3))
        now[0] += seconds

    monkeypatch.setattr(throttle, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    pace = throttle.Pace(10 << 20)
    for _number in range(3):
        pace.spend(1 << 20)
    assert waits == [0.1, 0.1, 0.1]
    # What was not used is not made up for; what is too short to wait for adds up.
    now[0] += 60
    pace.spend(1 << 17)
    pace.spend(1 << 17)
    assert waits[3:] == [0.025]
    throttle.Pace(0).spend(1 << 40)
    assert len(waits) == 4
