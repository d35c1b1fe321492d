# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""LVM and ZFS by the recorded output of their tools: no kernel of the tests has a device mapper or ZFS.

Programs of the same names answer with it and note how they were called. Where lvcreate would freeze the file system and
keep its blocks, they do just that with a loop device, so that what is mounted and read is real.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import threading
import time
import typing as t
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import lvm, tools, volumes
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.volumes import Snapshot, Volume
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Place
from ansible_collections.mysql_ops.replica_backup.tests.lab import disks

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")

_ID = "20261122T235600Z"
_FIXTURES = Path(__file__).parent / "fixtures"
LVM: dict[str, t.Any] = json.loads((_FIXTURES / "lvm.json").read_text(encoding="utf-8"))
ZFS: dict[str, t.Any] = json.loads((_FIXTURES / "zfs.json").read_text(encoding="utf-8"))


class Tools:
    """Programs that come before those of the system; each notes its name and arguments."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._log = directory / "calls"
        directory.mkdir()

    def add(self, name: str, script: str) -> None:
        path = self.directory / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self._log}\n{script}\n', encoding="utf-8")
        path.chmod(0o755)

    def calls(self, *names: str) -> list[str]:
        lines = self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []
        return [line for line in lines if line.split()[0] in names]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin")
    monkeypatch.setattr(tools, "_WAIT", 0.01)
    return Tools(tmp_path / "bin")


class Group:
    """The recorded volume group, with a file system of ours as its volume "mysql" or "thin"."""

    def __init__(self, programs: Tools, mounted: Path, origin: str) -> None:
        self.programs = programs
        [self.volume] = volumes.volumes_of(Discovery(str(mounted), (Place("datadir", str(mounted / "data")),)))
        self._origin = origin
        self._report = programs.directory / "report.json"
        self._taken = programs.directory / "taken.json"
        name = f"mysql-replica-clone-{_ID}-{os.major(self.volume.device)}-{os.minor(self.volume.device)}"
        self.clone = f"testvg/{name}"
        self._ours = "thinclone" if origin == "thin" else "mysql-replica-clone-20261122T235600Z-253-0"
        self._name = name
        copy = programs.directory / "copy.img"
        image = mounted.with_name(mounted.name + ".disk")
        programs.add("lvs", f"cat {self._report}")
        programs.add(
            "lvcreate",
            f"fsfreeze -f {mounted} && cp --sparse=always {image} {copy}; fsfreeze -u {mounted};"
            f" cp {self._taken} {self._report}",
        )
        programs.add("lvremove", f"rm {copy}; cp {programs.directory}/before.json {self._report}")
        programs.add("mount", f'exec /bin/mount -t "$2" -o "loop,$4" {copy} "$6"')
        self.set()

    def set(self, **states: str) -> None:
        """Active volumes; ``states`` are those of the fixture, for "origin", "clone" and "pool"."""
        rows = {row["lv_name"]: row for row in LVM["report"]["report"][0]["lv"]}
        chosen = {"thin": {"pool": "pool", "thin": "thin"}, "mysql": {"mysql": "origin", "pool": "pool"}}[self._origin]
        for name, state in {**chosen, **({"pool": states["pool"]} if "pool" in states else {})}.items():
            rows[name] = {**rows[name], **{k: v for k, v in LVM["states"][state].items() if k != "from"}}
        device = self.volume.device
        rows[self._origin] = {
            **rows[self._origin],
            "lv_kernel_major": str(os.major(device)),
            "lv_kernel_minor": str(os.minor(device)),
        }
        clone = {**rows.pop(self._ours), "lv_name": self._name}
        if "clone" in states:
            clone = {**clone, **{k: v for k, v in LVM["states"][states["clone"]].items() if k != "from"}}
        (self.programs.directory / "before.json").write_text(self._text(rows.values()), encoding="utf-8")
        self._taken.write_text(self._text([*rows.values(), clone]), encoding="utf-8")
        current = self._taken if self._report.exists() and self._name in self._report.read_text() else None
        self._report.write_bytes((current or self.programs.directory / "before.json").read_bytes())

    @staticmethod
    def _text(rows: t.Iterable[t.Mapping[str, str]]) -> str:
        return json.dumps({"report": [{"lv": list(rows)}]})

    def find(self, work: Path, size_percent: int = 20) -> tuple[Snapshot | None, str]:
        return volumes.find(self.volume, backup_id=_ID, work=str(work), size_percent=size_percent)

    def planned(self, work: Path) -> Snapshot:
        snapshot, why = self.find(work)
        assert snapshot is not None, why
        return volumes.load(json.loads(json.dumps(snapshot.to_dict())))


@pytest.fixture(params=["xfs", "ext4"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # The loop device stands for one of the device mapper.
    monkeypatch.setattr(lvm, "_device_mapper", lambda: frozenset({7}))
    with disks.mounted(request.param, tmp_path / "disk") as path:
        (path / "data/db").mkdir(parents=True)
        yield path


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "work"
    path.mkdir()
    yield path
    for left in disks.mount_points(path):
        subprocess.run(["umount", left], check=True)


@pytest.mark.parametrize(
    ("origin", "how"), [("mysql", "-L 20971520b"), ("thin", "-kn -ay")], ids=["classic", "thin pool"]
)
def test_an_lvm_snapshot_keeps_what_the_server_changes_later(
    origin: str, how: str, mounted: Path, programs: Tools, work: Path
) -> None:
    group = Group(programs, mounted, origin)
    changed, deleted = mounted / "data/db/t1.ibd", mounted / "data/ibdata1"
    changed.write_bytes(b"before" * 100_000)
    deleted.write_bytes(b"deleted")
    snapshot = group.planned(work)
    assert snapshot.kind == "lvm"
    assert programs.calls("lvcreate", "mount") == []
    store, inner = snapshot.translate(str(changed))
    assert inner == "data/db/t1.ibd"

    snapshot.take()
    name = group.clone.partition("/")[2]
    assert programs.calls("lvcreate") == [f"lvcreate -s -y {how} -n {name} testvg/{origin}"]
    changed.write_bytes(b"after")
    deleted.unlink()
    snapshot.open()
    snapshot.open()
    snapshot.check()
    # Beside the original, with its UUID, and without replaying a journal.
    assert len(programs.calls("mount")) == 1
    assert programs.calls("mount")[0].startswith(f"mount -t {group.volume.fs_type} -o ro,")
    assert f" /dev/{group.clone} " in programs.calls("mount")[0]
    assert Path(store, inner).read_bytes() == b"before" * 100_000
    assert Path(store, "data/ibdata1").read_bytes() == b"deleted"
    with pytest.raises(OSError, match="Read-only"):
        Path(store, "new").touch()

    assert snapshot.remove()
    assert programs.calls("lvremove") == [f"lvremove -f -y {group.clone}"]
    assert not snapshot.remove()
    assert not work.exists()
    with pytest.raises(ReplicaBackupError, match="is gone"):
        snapshot.open()


class Ended(BaseException):
    """What a module makes of a polite signal."""


def _end(_number: int, _frame: t.Any) -> None:
    raise Ended


@pytest.fixture
def polite() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, _end)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("mounted", ["ext4"], indirect=True)
@pytest.mark.parametrize("name", ["lvcreate", "lvremove"])
def test_a_signal_waits_for_a_tool_that_suspends_the_volume(
    name: str, mounted: Path, programs: Tools, work: Path, polite: None
) -> None:
    snapshot = Group(programs, mounted, "mysql").planned(work)
    if name == "lvremove":
        snapshot.take()
    begun, done = work.with_name("begun"), work.with_name("done")
    programs.add(name, f"touch {begun}; sleep 1; touch {done}")

    def interrupt() -> None:
        while not begun.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Ended):
        (snapshot.take if name == "lvcreate" else snapshot.remove)()
    thread.join()
    assert done.exists()


@pytest.mark.parametrize("mounted", ["ext4"], indirect=True)
def test_an_lvm_snapshot_that_overflows_is_noticed_and_removed(mounted: Path, programs: Tools, work: Path) -> None:
    group = Group(programs, mounted, "mysql")
    snapshot = group.planned(work)
    snapshot.take()
    snapshot.open()
    group.set(clone="lost")
    with pytest.raises(ReplicaBackupError, match="no room") as caught:
        snapshot.check()
    assert caught.value.facts["rule"] == "snapshot_overflow"
    assert "replica_backup_snapshot_size" in str(caught.value)
    assert snapshot.remove()


@pytest.mark.parametrize("mounted", ["ext4"], indirect=True)
def test_a_thin_pool_that_is_nearly_full_takes_no_snapshot_and_ends_one(
    mounted: Path, programs: Tools, work: Path
) -> None:
    group = Group(programs, mounted, "thin")
    snapshot = group.planned(work)
    snapshot.take()
    group.set(pool="full pool")
    with pytest.raises(ReplicaBackupError, match=r"97\.3 % of its data"):
        snapshot.check()
    assert snapshot.remove()
    assert group.find(work) == (None, "thin pool testvg/pool is 97.3 % full (3.8 % of its metadata)")
    group.set(pool="pool")
    assert group.find(work)[0] is not None
    found, why = group.find(work, size_percent=60)
    assert found is None
    assert why.startswith("thin pool testvg/pool has ")


@pytest.mark.parametrize("mounted", ["ext4"], indirect=True)
def test_what_speaks_against_an_lvm_snapshot_is_known_before_the_stop(
    mounted: Path, programs: Tools, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group(programs, mounted, "mysql")
    elsewhere = replace(group.volume, device=os.makedev(7, 99))
    assert volumes.find(elsewhere, backup_id=_ID, work=str(work), size_percent=20)[1].endswith("is no logical volume")
    other = replace(group.volume, fs_type="btrfs2")
    assert "cannot be mounted" in volumes.find(other, backup_id=_ID, work=str(work), size_percent=20)[1]
    snapshot, why = group.find(work, size_percent=100)
    assert snapshot is not None, why
    assert group.find(work, size_percent=0)[0] is None

    # A volume group without the room, as lvcreate says it.
    programs.add("lvcreate", f"echo {shlex.quote(LVM['errors']['no room']['text'])} >&2; exit 5")
    with pytest.raises(ReplicaBackupError, match="insufficient free space"):
        snapshot.take()
    assert not snapshot.remove()
    programs.add("lvs", "echo Warnings only")
    assert "asking for it failed" in group.find(work)[1]
    monkeypatch.setattr(tools, "path_of", lambda name: None if name == "lvcreate" else f"/usr/sbin/{name}")
    assert group.find(work) == (None, "lvcreate is not installed (package lvm2)")


@pytest.mark.parametrize("mounted", ["ext4"], indirect=True)
def test_another_volume_of_the_same_name_is_not_removed(mounted: Path, programs: Tools, work: Path) -> None:
    group = Group(programs, mounted, "mysql")
    snapshot = group.planned(work)
    snapshot.take()
    report = programs.directory / "report.json"
    report.write_text(report.read_text(encoding="utf-8").replace('"origin": "mysql"', '"origin": ""'), encoding="utf-8")
    with pytest.raises(ReplicaBackupError, match="not the snapshot"):
        snapshot.remove()
    assert programs.calls("lvremove") == []


@pytest.fixture
def dataset(tmp_path: Path, programs: Tools) -> Iterator[Volume]:
    """A directory whose snapshots appear where ZFS shows them."""
    with disks.mounted("ext4", tmp_path / "tank") as tank:
        (tank / "data").mkdir()
        (tank / ".zfs/snapshot").mkdir(parents=True)
        (tmp_path / "seen").mkdir()
        state = programs.directory
        (state / "snapshots").touch()
        (state / "room").write_text(f"{ZFS['room']['available']}\t{ZFS['room']['used']}\n", encoding="utf-8")
        programs.add(
            "zfs",
            f"""
            case "$*" in
            *available*) cat {state}/room ;;
            list*) cat {state}/snapshots ;;
            snapshot*) cp -a {tank}/data /tmp/x.$$ && mkdir {tank}/.zfs/snapshot/"${{2#*@}}" &&
                mv /tmp/x.$$ {tank}/.zfs/snapshot/"${{2#*@}}"/data && echo "$2" >>{state}/snapshots ;;
            destroy*)
                if [ ! -e {state}/asked ]; then
                    touch {state}/asked
                    echo {shlex.quote(ZFS["busy"]["text"])} >&2
                    exit 1
                fi
                rm -r {tank}/.zfs/snapshot/"${{2#*@}}" && : >{state}/snapshots ;;
            esac""",
        )
        [volume] = volumes.volumes_of(Discovery(str(tank / "data"), (Place("datadir", str(tank / "data")),)))
        yield replace(volume, fs_type="zfs", source="tank/mysql")


def test_a_zfs_snapshot_keeps_what_the_server_changes_later(dataset: Volume, programs: Tools) -> None:
    data = Path(dataset.roots[0])
    (data / "ibdata1").write_bytes(b"before")
    found, why = volumes.find(dataset, backup_id=_ID, work="/nowhere", size_percent=20)
    assert found is not None, why
    snapshot = volumes.load(json.loads(json.dumps(found.to_dict())))
    for use in (snapshot.open, snapshot.check):
        with pytest.raises(ReplicaBackupError):
            use()
    assert not snapshot.remove()
    snapshot.take()
    (data / "ibdata1").write_bytes(b"after")
    snapshot.open()
    snapshot.check()
    store, inner = snapshot.translate(str(data / "ibdata1"))
    assert store == str(data.parent / f".zfs/snapshot/mysql-replica-clone-{_ID}")
    assert Path(store, inner).read_bytes() == b"before"

    # It holds back what the server deletes, until a quota or the pool is used up.
    (programs.directory / "room").write_text(f"10000000\t{ZFS['room']['used']}\n", encoding="utf-8")
    with pytest.raises(ReplicaBackupError, match="nearly full") as caught:
        snapshot.check()
    assert caught.value.facts["rule"] == "snapshot_overflow"
    assert "MiB are free" in volumes.find(dataset, backup_id=_ID, work="/nowhere", size_percent=20)[1]

    # Whoever looked into it last may hold it for a moment.
    assert snapshot.remove()
    assert programs.calls("zfs")[-1] == f"zfs destroy tank/mysql@mysql-replica-clone-{_ID}"
    assert len([call for call in programs.calls("zfs") if "destroy" in call]) == 2
    assert not snapshot.remove()
    programs.add("zfs", f"echo {shlex.quote(ZFS['no dataset']['text'])} >&2; exit 1")
    with pytest.raises(ReplicaBackupError, match="does not exist"):
        snapshot.remove()


def test_a_dataset_of_which_only_a_part_is_mounted_has_no_snapshot(dataset: Volume) -> None:
    top = Path(dataset.roots[0]).parent
    (top / ".zfs/snapshot").rmdir()
    assert volumes.find(dataset, backup_id=_ID, work="/nowhere", size_percent=20) == (
        None,
        ".zfs/snapshot of dataset tank/mysql is mounted nowhere",
    )
