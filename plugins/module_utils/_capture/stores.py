# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the data of a clone lie: one private directory on each file system that has files of the server.

A clone that shares blocks with the originals must lie on their file system. In the spool, where that is the same one;
else beside a directory of the server; inside of it only where it is a mount point of its own, under a name that no
backup takes and no server uses.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import remove_tree
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Exclusion

CLONE_PREFIX = ".mysql-replica-clone-"


@dataclass(frozen=True)
class StorePlan:
    """Store directories by the device (``st_dev``) whose files they take."""

    directories: t.Mapping[int, str]

    def where(self, device: int) -> str:
        """Directory for the files of a device. Raises ReplicaBackupError for a device that was not planned for."""
        try:
            return self.directories[device]
        except KeyError:
            raise ReplicaBackupError(
                "A file lies on a file system that is not among those of the server's directories",
                found=f"device {os.major(device)}:{os.minor(device)}",
                expected=", ".join(sorted(self.directories.values())),
            ) from None


def plan_stores(discovery: Discovery, paths: SetPaths, *, everything_in_spool: bool) -> StorePlan:
    """Stores for all file systems below the places; with ``everything_in_spool`` one store for all, in the spool.

    Nothing is made. Raises OSError when a place cannot be looked at.
    """
    inside = os.path.join(paths.work, "clone")
    spool = os.stat(_existing(paths.work)).st_dev
    found: dict[int, str] = {}
    for place in discovery.places:
        for device, root in _devices(place.root()):
            if device not in found:
                found[device] = inside if everything_in_spool or device == spool else _beside(root, device, paths)
    return StorePlan(found)


def _devices(root: str) -> t.Iterator[tuple[int, str]]:
    """Each device below ``root`` with the topmost directory that lies on it."""
    device = os.lstat(root).st_dev
    yield device, root
    # A file system mounted below a place is entered by the walk as well; mount points are directories.
    for directory, names, _files in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.ismount(path):
                yield os.lstat(path).st_dev, path


def _beside(root: str, device: int, paths: SetPaths) -> str:
    parent = os.path.dirname(root)
    directory = parent if os.stat(parent).st_dev == device else root
    return os.path.join(directory, CLONE_PREFIX + paths.backup_id)


def _existing(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def exclusions(plan: StorePlan) -> tuple[Exclusion, ...]:
    """What keeps a clone that has to lie inside a directory of the server out of the list of files."""
    return tuple(
        Exclusion(path, "clone", "the clone that this backup is made from", "tree")
        for path in sorted(set(plan.directories.values()))
    )


def remove(directories: t.Iterable[str]) -> list[str]:
    """Remove stores; returns those that were there. A link in the place of one is not followed but an error."""
    return [path for path in directories if remove_tree(path)]
