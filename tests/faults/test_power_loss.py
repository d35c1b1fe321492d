# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power lost before every single change that a capture, a publication, a transfer or the ledger makes to real disks.

ext4 and XFS end at once by their own shutdown call, once with the journal written a moment before and once without, are
unmounted and mounted again. Then nothing unfinished is offered, and whoever comes next gets a whole set.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import shutil
import typing as t
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _handoff, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.verify import verify
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.plugin_utils import _landing
from ansible_collections.mysql_ops.replica_backup.tests.lab.crash import EVERY_POINT, Disk, Loss, Point, power_losses
from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import Faults, bad_sets, sets_below
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import (
    BACKUP_ID,
    HOST,
    Site,
    discovery,
    make_site,
    write_list,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")

KINDS = ("ext4", "xfs")
LOSSES = tuple(Loss)


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(request.param, tmp_path / "disks")
    disk.directory.mkdir()
    disk.make()
    yield disk
    shutil.rmtree(disk.directory)


@pytest.fixture
def datadir(tmp_path: Path) -> Path:
    """Few files, but one of each kind that a format treats differently."""
    root = tmp_path / "mysql"
    (root / "db").mkdir(parents=True)
    (root / "ibdata1").write_bytes(os.urandom(300_000))
    (root / "master.info").write_text("33\n")
    (root / "db" / "t1.ibd").write_bytes(b"page" * 4000)
    os.link(root / "db" / "t1.ibd", root / "db" / "t2.ibd")
    (root / "link").symlink_to("db/t1.ibd")
    return root


@dataclass
class Judge:
    """Judges a disk that has come back, and counts."""

    faults: Faults
    work: str

    def sets(self, root: Path, point: Point, *, must: bool) -> None:
        """Whatever is offered is whole; with ``must`` there is a set, for somebody has been told of it."""
        found = sets_below([root])
        bad = bad_sets(found)
        self.faults.count(f"power lost while {self.work}, {point}", server_up=True, bad_sets=len(bad))
        assert not bad, f"{point}: {bad}"
        assert found or not must, f"{point}: the set that was reported is gone"


def goes_on(point: Point) -> bool:
    """Whether a next run is tried at this point: everywhere, or at every third and at the end."""
    return EVERY_POINT or point.done or point.number % 3 == 0


def make_whole(site: Site, form: str) -> None:
    request = site.request(form=form)
    try:
        job.present(request)
    except ReplicaBackupError as error:
        # A copy becomes durable when it is proven: one that was only captured may have lost data, and that is seen.
        assert form == "copy" and "read back is not what was written" in str(error)
        job.remove(request)
        write_list(site, discovery(site.tree))
        job.present(request)


def site_on(root: Path, datadir: Path) -> Site:
    return Site(datadir, root / "spool", root / "state")


FORMS_ON = [(kind, form) for kind in KINDS for form in ("tar", "zip", "copy")]
if not EVERY_POINT:
    FORMS_ON = [("ext4", "tar"), ("ext4", "copy"), ("xfs", "tar")]
each_disk = pytest.mark.parametrize("disk", KINDS, indirect=True)
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"lost-{loss.name.lower()}")


@pytest.mark.parametrize(("disk", "form"), FORMS_ON, indirect=["disk"])
@each_loss
def test_archive_and_publish(disk: Disk, datadir: Path, faults: Faults, loss: Loss, form: str) -> None:
    with disk.mounted() as root:
        make_site(datadir, root / "spool", root / "state")
    disk.keep()
    judge = Judge(faults, f"a {form} set was made")

    def work(root: Path) -> None:
        job.present(site_on(root, datadir).request(form=form))

    def look(root: Path, point: Point) -> None:
        judge.sets(root, point, must=point.done)
        site = site_on(root, datadir)
        assert site.ledger().step in ("stopped", "capture")
        if not goes_on(point):
            return
        # The same id again: what lies there is taken for what it is, finished or not.
        if not os.path.exists(site.paths.manifest):
            make_whole(site, form)
        assert not job.publish(site.request(form=form)).changed
        assert verify(site.paths.directory).files == 7
        job.remove(site.request())
        assert not sets_below([root]) and not list((root / "spool" / HOST).iterdir())

    assert power_losses(disk, loss, work, look) > 15


@each_disk
@each_loss
@pytest.mark.parametrize("form", ["tar", "copy"])
def test_publish_after_the_capture(disk: Disk, datadir: Path, faults: Faults, loss: Loss, form: str) -> None:
    """The capture was reported minutes ago: what it made is still there after any loss, and becomes a set."""
    with disk.mounted() as root:
        job.capture(make_site(datadir, root / "spool", root / "state").request(form=form))
    disk.keep()
    judge = Judge(faults, f"a {form} set was published")

    def work(root: Path) -> None:
        job.publish(site_on(root, datadir).request(form=form))

    def look(root: Path, point: Point) -> None:
        judge.sets(root, point, must=point.done)
        if not goes_on(point):
            return
        site = site_on(root, datadir)
        if form == "tar" or os.path.exists(site.paths.manifest):
            job.publish(site.request(form=form))
        else:
            make_whole(site, form)
        assert verify(site.paths.directory).files == 7
        assert not os.path.exists(site.paths.work)

    assert power_losses(disk, loss, work, look) > 2


def transfer(far: SetPaths, near: SetPaths, *, tree: bool) -> None:
    """What replica_fetch does on the controller, without a connection between the two."""
    landing = _landing.Landing(near)
    offered = _handoff.contents(far)
    _landing.make_private(near.directory)
    landing.prepare(0)
    for item in offered.items:
        if not landing.has(item):
            path = landing.incoming()
            shutil.copyfile(os.path.join(far.directory, item.name), path)
            landing.place(path, item)
    if tree:
        bring_tree(landing, far)
    assert offered.manifest is not None
    landing.prepare(offered.manifest.bytes)
    path = os.path.join(near.work, "manifest.partial")
    shutil.copyfile(far.manifest, path)
    landing.publish(path, offered.manifest)


def bring_tree(landing: _landing.Landing, far: SetPaths) -> None:
    index = os.path.join(landing.paths.work, "index.jsonl")
    _handoff.write_index(far, index)
    files = list(_landing.tree_files(index))
    slicer = _landing.Slicer(landing)
    for runs in _landing.pieces([file.item for file in files if not landing.has(file.item)], 100_000):
        path = landing.incoming()
        with open(path, "wb") as piece:
            for name, offset, length in runs:
                piece.write(Path(far.directory, name).read_bytes()[offset : offset + length])
        with open(path, "rb") as piece:
            slicer.take(piece, runs, {file.item.name: file.item for file in files})
    slicer.close()
    for file in files:
        landing.set_mtime(file)
    landing.finish_tree(index)


@each_disk
@each_loss
@pytest.mark.parametrize("form", ["tar", "copy"])
def test_transfer(disk: Disk, datadir: Path, tmp_path: Path, faults: Faults, loss: Loss, form: str) -> None:
    far = make_site(datadir, tmp_path / "spool", tmp_path / "state")
    job.present(far.request(form=form))
    disk.keep()
    judge = Judge(faults, f"a {form} set was fetched")

    def work(root: Path) -> None:
        transfer(far.paths, SetPaths(str(root / "dest"), HOST, BACKUP_ID), tree=form == "copy")

    def look(root: Path, point: Point) -> None:
        judge.sets(root, point, must=point.done)
        if not goes_on(point):
            return
        near = SetPaths(str(root / "dest"), HOST, BACKUP_ID)
        if not os.path.exists(near.manifest):
            # The next call goes on with what has landed whole.
            work(root)
        assert verify(near.directory).files == 7
        assert _landing.verify_set(near) > 300_000

    assert power_losses(disk, loss, work, look) > 7


@each_disk
@each_loss
def test_ledger(disk: Disk, datadir: Path, faults: Faults, loss: Loss) -> None:
    """After any loss it says what it said before a step was noted, or after, and each note that was made stays."""
    with disk.mounted() as root:
        make_site(datadir, root / "spool", root / "state")
    disk.keep()
    # Shared with the child, and no file: how many notes it has been told are on the disk.
    noted = mmap.mmap(-1, 1)
    last = 3

    def work(root: Path) -> None:
        ledger = site_on(root, datadir).ledger()
        noted[0] = 0
        for mark in range(1, last + 1):
            ledger.data["mark"] = mark
            ledger.save()
            noted[0] = mark
        ledger.close("complete")
        noted[0] = last + 1

    def look(root: Path, point: Point) -> None:
        faults.count(f"power lost while the ledger was written, {point}", server_up=True)
        state = str(root / "state")
        ledger = _ledger.load(state)
        if ledger is None:
            assert noted[0] >= last
            ledger = _ledger.load_last(state)
            assert ledger is not None and ledger.data["outcome"] == "complete"
            return
        assert noted[0] <= last
        assert ledger.data.get("mark", 0) - noted[0] in ((0,) if noted[0] == last else (0, 1))
        ledger.close("recovered")
        assert _ledger.load(state) is None

    assert power_losses(disk, loss, work, look) > 8


def _in_place(path: Path) -> None:
    path.write_text(json.dumps({"mark": 2}), encoding="utf-8")


def _renamed(path: Path) -> None:
    partial = path.with_name("partial")
    partial.write_text(json.dumps({"mark": 2}), encoding="utf-8")
    # Not os.replace over the old one: ext4 knows that habit, and writes the data out first.
    path.unlink()
    partial.rename(path)


@each_disk
@pytest.mark.parametrize("careless", [_in_place, _renamed])
def test_the_power_really_goes(disk: Disk, careless: t.Callable[[Path], None]) -> None:
    """The same cuts catch a writer that does not sync: without this the other tests would prove nothing."""
    with disk.mounted() as root:
        (root / "ledger").write_text(json.dumps({"mark": 1}), encoding="utf-8")
    disk.keep()
    found: list[dict[Point, str]] = []

    def look(root: Path, point: Point) -> None:
        path = root / "ledger"
        found[-1][point] = path.read_text(encoding="utf-8") if path.exists() else "gone"

    for loss in LOSSES:
        found.append({})
        power_losses(disk, loss, lambda root: careless(root / "ledger"), look)
    texts = {text for seen in found for text in seen.values()}
    assert texts & {"", "gone"}
    assert dataclasses.asdict(next(reversed(found[0])))["name"] == ""
    # Reported as written, and lost all the same.
    assert next(reversed(found[1].values())) != json.dumps({"mark": 2})
