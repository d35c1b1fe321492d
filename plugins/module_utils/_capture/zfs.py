# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of a dataset of ZFS (zfs-snapshot(8), zfs-destroy(8)).

Their files are to be seen below ``.zfs/snapshot`` at the top of the dataset (zfsprops(7), snapdir: that directory is
reachable by its name also where it is hidden). The kernel mounts one when it is entered.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import mounts, tools
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.mounts import Paths, Volume
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

KIND = "zfs"


@dataclass(frozen=True)
class Dataset:
    """``dataset`` is mounted at ``top`` with all its files."""

    dataset: str
    top: str
    name: str
    paths: Paths

    kind: t.ClassVar[str] = KIND

    @property
    def _full_name(self) -> str:
        return f"{self.dataset}@{self.name}"

    @property
    def path(self) -> str:
        return os.path.join(self.top, ".zfs", "snapshot", self.name)

    def to_dict(self) -> dict[str, t.Any]:
        return {**vars(self), "kind": KIND, "paths": self.paths.to_list()}

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Dataset:
        fields = {key: value for key, value in data.items() if key != "kind"}
        return cls(**{**fields, "paths": Paths.from_list(data["paths"])})

    def translate(self, path: str) -> tuple[str, str]:
        return self.path, self.paths.inner(path)

    def excluded(self) -> list[str]:
        return []

    def take(self) -> None:
        tools.run("zfs", "snapshot", self._full_name)

    def open(self) -> None:
        try:
            empty = not os.listdir(fs.encode(self.path))
            found = "an empty directory" if empty else ""
        except OSError as problem:
            found = str(problem.strerror)
        if found:
            raise ReplicaBackupError(
                f"The ZFS snapshot {self._full_name} cannot be read",
                found=f"{fs.printable(self.path)}: {found}",
                expected="the snapshot that was made while the server was down",
                next_command=f"zfs list -t snapshot {self._full_name}",
            )

    def check(self) -> None:
        if not self._there():
            raise ReplicaBackupError(
                f"The ZFS snapshot {self._full_name} is gone",
                found="not known to zfs",
                expected="the snapshot that was made while the server was down",
                next_command="run the backup again, and find out who removes snapshots on this host",
            )
        _room(self.dataset).check(f"The ZFS dataset {self.dataset}")

    def remove(self) -> bool:
        if not self._there():
            return False
        tools.insist(lambda: tools.run("zfs", "destroy", self._full_name))
        return True

    def _there(self) -> bool:
        listed = tools.run("zfs", "list", "-H", "-d", "1", "-t", "snapshot", "-o", "name", self.dataset)
        return self._full_name in listed.splitlines()


def find(volume: Volume, *, backup_id: str) -> tuple[Dataset | None, str]:
    """The snapshot of the dataset that is mounted. Raises ReplicaBackupError when zfs fails, OSError."""
    if tools.path_of("zfs") is None:
        return None, "zfs is not installed (package zfsutils-linux)"
    mount = mounts.mount_of(volume.roots[0])
    # The directory of the snapshots is at the top of the dataset only: a bind mount of a part does not show it.
    tops = () if mount is None else mounts.elsewhere(mount, ".", mounts.mounts())
    top = next((top for top in tops if fs.is_directory(os.path.join(top, ".zfs", "snapshot"))), None)
    if top is None:
        return None, f"{os.path.join('.zfs', 'snapshot')} of dataset {volume.source} is mounted nowhere"
    short = _room(volume.source).refusal()
    if short:
        return None, f"dataset {volume.source}: {short}"
    return Dataset(volume.source, top, f"mysql-replica-clone-{backup_id}", volume.paths()), ""


def _room(dataset: str) -> tools.Room:
    """What the dataset may still use: the pool's room, less by its quota."""
    text = tools.run("zfs", "list", "-H", "-p", "-d", "0", "-o", "available,used", dataset)
    available, used = (int(field) for field in text.split())
    return tools.Room(available, available + used)
