# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of a logical volume of LVM, classic and thin (lvcreate(8), lvs(8), lvmthin(7)).

lvcreate freezes the file system while it makes one, so that its journal has nothing to replay and the snapshot can be
mounted without writing to it. A classic snapshot has room of its own and is lost when that is full; one of a thin pool
shares the pool's room, and a full pool fails the server's own writes.
"""

from __future__ import annotations

import json
import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._budget import in_bytes
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import tools
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.mounts import Paths, Volume
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

KIND = "lvm"
# Mounted without replaying the journal; XFS refuses a second file system with the same UUID unless told not to.
_OPTIONS: t.Mapping[str, str] = {"ext3": "noload", "ext4": "noload", "xfs": "nouuid,norecovery"}
_FIELDS = (
    "vg_name,lv_name,lv_size,segtype,pool_lv,origin,data_percent,metadata_percent,lv_attr,lv_kernel_major"
    ",lv_kernel_minor,vg_free,vg_extent_size"
)
# Percent of a snapshot or a pool. Fill is asked for every few seconds, and what is left has to last until then.
_POOL_REFUSED, _POOL_FULL, _CLASSIC_FULL = 90.0, 95.0, 95.0
# lvs(8), lv_attr: state (5th) of a snapshot that is lost; health (9th) of a pool that is full or has failed.
_LOST, _SICK = "IS", "FDM"


class Row(t.NamedTuple):
    """A logical volume as lvs reports it; sizes in bytes. Percentages are None while it is not active."""

    group: str
    name: str
    size: int
    segment: str
    pool: str
    origin: str
    data_percent: float | None
    metadata_percent: float | None
    attributes: str
    device: tuple[int, int]
    group_free: int
    extent: int


def report(group: str = "") -> list[Row]:
    """The visible logical volumes of a volume group, or of all. Raises ReplicaBackupError."""
    arguments = ["--reportformat", "json", "--units", "b", "--nosuffix", "-o", _FIELDS]
    text = tools.run("lvs", *arguments, *([group] if group else []))
    try:
        return [_row(row) for row in json.loads(text)["report"][0]["lv"]]
    except (ValueError, KeyError, IndexError, TypeError) as problem:
        raise ReplicaBackupError(
            "lvs answered with something else than its report", found=f"{problem!r}: {text[:200]!r}", expected="JSON"
        ) from problem


def _row(row: t.Mapping[str, str]) -> Row:
    return Row(
        row["vg_name"],
        row["lv_name"],
        int(row["lv_size"]),
        row["segtype"],
        row["pool_lv"],
        row["origin"],
        _percent(row["data_percent"]),
        _percent(row["metadata_percent"]),
        row["lv_attr"].ljust(10, "-"),
        (int(row["lv_kernel_major"]), int(row["lv_kernel_minor"])),
        int(row["vg_free"]),
        int(row["vg_extent_size"]),
    )


def _percent(text: str) -> float | None:
    return float(text) if text else None


@dataclass(frozen=True)
class LogicalVolume:
    """``origin`` of the volume group ``group``; ``size`` of a classic snapshot in bytes, 0 with a thin ``pool``.

    The snapshot is mounted at ``at``.
    """

    group: str
    origin: str
    name: str
    pool: str
    size: int
    fs_type: str
    at: str
    paths: Paths

    kind: t.ClassVar[str] = KIND

    @property
    def _full_name(self) -> str:
        return f"{self.group}/{self.name}"

    def to_dict(self) -> dict[str, t.Any]:
        return {**vars(self), "kind": KIND, "paths": self.paths.to_list()}

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> LogicalVolume:
        fields = {key: value for key, value in data.items() if key != "kind"}
        return cls(**{**fields, "paths": Paths.from_list(data["paths"])})

    def translate(self, path: str) -> tuple[str, str]:
        return self.at, self.paths.inner(path)

    def excluded(self) -> list[str]:
        return []

    def take(self) -> None:
        # A thin snapshot is skipped at activation unless told otherwise.
        how = ["-kn", "-ay"] if self.pool else ["-L", f"{self.size}b"]
        # Killed while the origin is suspended, it would leave it so, and the server's writes with it.
        tools.run_whole("lvcreate", "-s", "-y", *how, "-n", self.name, f"{self.group}/{self.origin}")

    def open(self) -> None:
        self.check()
        tools.mount(f"/dev/{self._full_name}", self.at, self.fs_type, _OPTIONS[self.fs_type])

    def check(self) -> None:
        rows = {row.name: row for row in report(self.group)}
        snapshot = rows.get(self.name)
        if snapshot is None:
            raise ReplicaBackupError(
                f"The LVM snapshot {self._full_name} is gone",
                found="not in the report of lvs",
                expected="the snapshot that was made while the server was down",
                next_command="run the backup again, and find out who removes snapshots on this host",
            )
        if self.pool:
            pool = rows.get(self.pool)
            if pool is not None:
                self._check_pool(pool)
            return
        if snapshot.attributes[4] in _LOST:
            raise self._overflow(f"lv_attr {snapshot.attributes}: it has overflown and is lost")
        if (snapshot.data_percent or 0.0) >= _CLASSIC_FULL:
            raise self._overflow(f"{snapshot.data_percent:.1f} % of {in_bytes(snapshot.size)} are full")

    def _check_pool(self, pool: Row) -> None:
        if pool.attributes[8] in _SICK:
            raise self._overflow(f"lv_attr {pool.attributes} of the thin pool {pool.group}/{pool.name}")
        for what, percent in (("data", pool.data_percent), ("metadata", pool.metadata_percent)):
            if (percent or 0.0) >= _POOL_FULL:
                raise self._overflow(f"thin pool {pool.group}/{pool.name}: {percent:.1f} % of its {what} are full")

    def _overflow(self, found: str) -> ReplicaBackupError:
        more = (
            f"lvextend the thin pool {self.group}/{self.pool}"
            if self.pool
            else "raise replica_backup_snapshot_size, or back up at a time with fewer writes"
        )
        return ReplicaBackupError(
            f"The LVM snapshot {self._full_name} has no room for what the server changes",
            found=found,
            expected=f"less than {_POOL_FULL if self.pool else _CLASSIC_FULL:.0f} % until the archive is made",
            next_command=f"{more}, then run the backup again",
            rule="snapshot_overflow",
        )

    def remove(self) -> bool:
        was_mounted = tools.unmount(self.at)
        tools.remove_if_empty(os.path.dirname(self.at))
        there = next((row for row in report(self.group) if row.name == self.name), None)
        if there is None:
            return was_mounted
        if there.origin != self.origin:
            raise ReplicaBackupError(
                f"The logical volume {self._full_name} is not the snapshot that was made",
                found=f"origin {there.origin or 'none'}",
                expected=f"a snapshot of {self.group}/{self.origin}",
                next_command=f"look at it with: lvs {self._full_name}",
            )
        tools.insist(lambda: tools.run_whole("lvremove", "-f", "-y", self._full_name))
        return True


def find(volume: Volume, *, backup_id: str, work: str, size_percent: int) -> tuple[LogicalVolume | None, str]:
    """The snapshot of the logical volume that a file system lies on. Raises ReplicaBackupError when lvs fails."""
    device = (os.major(volume.device), os.minor(volume.device))
    if device[0] not in _device_mapper():
        return None, f"{volume.source or 'its device'} is no logical volume"
    if volume.fs_type not in _OPTIONS:
        return None, f"a snapshot of {volume.fs_type} cannot be mounted beside the original"
    missing = [tool for tool in ("lvs", "lvcreate", "lvremove", "mount", "umount") if tools.path_of(tool) is None]
    if missing:
        return None, f"{missing[0]} is not installed (package lvm2)"
    if not tools.may_administer():
        return None, "this process may not mount (CAP_SYS_ADMIN)"
    rows = report()
    row = next((row for row in rows if row.device == device), None)
    if row is None:
        return None, f"{volume.source or 'its device'} is no logical volume"
    wanted = row.size * size_percent // 100
    size = 0
    if row.segment == "thin":
        pool = next((pool for pool in rows if (pool.group, pool.name) == (row.group, row.pool)), None)
        refusal = _pool_refusal(pool, wanted)
    else:
        size = min(-(-wanted // row.extent) * row.extent, row.size)
        refusal = ""
        if row.origin:
            refusal = f"{row.group}/{row.name} is a snapshot itself"
        elif size <= 0 or size > row.group_free:
            refusal = (
                f"volume group {row.group} has {in_bytes(row.group_free)} free,"
                f" a snapshot of {size_percent} % takes {in_bytes(size)}"
            )
    if refusal:
        return None, refusal
    name = f"mysql-replica-clone-{backup_id}-{device[0]}-{device[1]}"
    at = os.path.join(work, f"lvm-{device[0]}-{device[1]}")
    return LogicalVolume(row.group, row.name, name, row.pool, size, volume.fs_type, at, volume.paths()), ""


def _pool_refusal(pool: Row | None, wanted: int) -> str:
    if pool is None or pool.data_percent is None or pool.metadata_percent is None:
        return "lvs does not say how full its thin pool is"
    name = f"thin pool {pool.group}/{pool.name}"
    if pool.data_percent >= _POOL_REFUSED or pool.metadata_percent >= _POOL_REFUSED:
        return f"{name} is {pool.data_percent:.1f} % full ({pool.metadata_percent:.1f} % of its metadata)"
    free = int(pool.size * (100 - pool.data_percent) / 100)
    return f"{name} has {in_bytes(free)} free, {in_bytes(wanted)} are needed" if free < wanted else ""


def _device_mapper() -> frozenset[int]:
    """The major numbers of the device mapper's block devices."""
    return frozenset(
        int(number) for number in re.findall(r"^\s*(\d+) device-mapper$", fs.read_text("/proc/devices"), re.M)
    )
