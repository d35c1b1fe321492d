# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read-only snapshots of a subvolume of btrfs (btrfs-subvolume(8)).

A snapshot ends where another subvolume begins, which therefore is a volume of its own here. Its cost does not depend on
the size of the subvolume, and files without copy-on-write (``chattr +C``) are in it like all others.
"""

from __future__ import annotations

import contextlib
import os
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import make_private_directory
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import mounts, tools
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.mounts import Mount, Paths, Volume
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

KIND = "btrfs"
# BTRFS_FIRST_FREE_OBJECTID: the top directory of every subvolume.
_TOP_INODE = 256
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Subvolume:
    """``top`` is the subvolume, ``top_inner`` where it lies in the file system; the snapshot is ``directory/name``.

    ``directory`` is ours alone. ``inside`` says that it may lie within a directory of the server.
    """

    top: str
    top_inner: str
    paths: Paths
    directory: str
    name: str
    inside: bool

    kind: t.ClassVar[str] = KIND

    @property
    def path(self) -> str:
        return os.path.join(self.directory, self.name)

    def to_dict(self) -> dict[str, t.Any]:
        return {**vars(self), "kind": KIND, "paths": self.paths.to_list()}

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Subvolume:
        fields = {key: value for key, value in data.items() if key != "kind"}
        return cls(**{**fields, "paths": Paths.from_list(data["paths"])})

    def translate(self, path: str) -> tuple[str, str]:
        return self.path, self.paths.inner(path, self.top_inner)

    def excluded(self) -> list[str]:
        return [self.directory] if self.inside else []

    def take(self) -> None:
        make_private_directory(self.directory)
        tools.run("btrfs", "subvolume", "snapshot", "-r", "--", self.top, self.path)

    def open(self) -> None:
        self._look()

    def _look(self) -> None:
        """Raise unless the snapshot is there, in a directory that nobody could exchange."""
        holder, status = fs.lstat(self.directory), fs.lstat(self.path)
        if holder is None or status is None:
            raise ReplicaBackupError(
                f"The snapshot {fs.printable(self.path)} is gone",
                found="no such directory",
                expected="the snapshot that was made while the server was down",
                next_command="run the backup again, and find out who removes snapshots on this host",
            )
        private = stat.S_ISDIR(holder.st_mode) and stat.S_IMODE(holder.st_mode) == 0o700
        if not private or holder.st_uid != os.geteuid() or not _is_top(status):
            raise ReplicaBackupError(
                f"{fs.printable(self.path)} is not the snapshot that was made",
                found=f"inode {status.st_ino}; its directory has owner {holder.st_uid},"
                f" mode {stat.S_IMODE(holder.st_mode):04o}",
                expected=f"a subvolume in a directory of user {os.geteuid()} with mode 0700",
            )

    def check(self) -> None:
        self._look()
        tools.Room.of(self.path).check(f"The btrfs file system of {fs.printable(self.top)}")

    def remove(self) -> bool:
        there = fs.lstat(self.path)
        if there is not None:
            self._look()
            tools.insist(lambda: tools.run("btrfs", "subvolume", "delete", "--", self.path))
        # In the spool it is the work directory of the set, which has its own end.
        if self.inside:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(fs.encode(self.directory))
                return True
        else:
            tools.remove_if_empty(self.directory)
        return there is not None


def find(volume: Volume, *, backup_id: str, work: str) -> tuple[Subvolume | None, str]:
    """The snapshot of the subvolume that holds the roots of ``volume``. Raises OSError."""
    if tools.path_of("btrfs") is None:
        return None, "the btrfs tool is not installed (package btrfs-progs)"
    if not tools.may_administer():
        return None, "this process may not remove subvolumes (CAP_SYS_ADMIN)"
    known = mounts.mounts()
    found = _top_of(volume, known)
    if found is None:
        return None, "the top directory of its subvolume is not mounted anywhere"
    top, inner = found
    short = tools.Room.of(top).refusal()
    if short:
        return None, short
    # Unique among several subvolumes, which may have their snapshots in the same directory.
    name = f"mysql-replica-clone-{backup_id}-{os.major(volume.device)}-{os.minor(volume.device)}"
    spool = _existing(work)
    if _shows(spool, volume):
        directory, inside = work, False
    else:
        directory, inside = os.path.join(_beside(top, volume), f".{name}"), True
    return Subvolume(top, inner, volume.paths(), directory, name, inside), ""


def _top_of(volume: Volume, known: t.Iterable[Mount]) -> tuple[str, str] | None:
    """A name of the subvolume's top directory, and where it lies in the file system."""
    root = volume.roots[0]
    mount, wanted = mounts.mount_of(root), os.stat(fs.encode(root))
    names = [root] if mount is None else [root, *mounts.elsewhere(mount, volume.inner[0], known)]
    for name in names:
        status = fs.follow(name)
        # The other mount may be hidden below a third one.
        if status is None or (status.st_dev, status.st_ino) != (wanted.st_dev, wanted.st_ino):
            continue
        path = name
        while not _is_top(status) and path != "/" and status.st_dev == volume.device:
            path = os.path.dirname(path)
            status = os.stat(fs.encode(path))
        shown_by = mounts.mount_of(path)
        if status.st_dev == volume.device and _is_top(status) and shown_by is not None:
            return path, mounts.inside(shown_by, path)
    return None


def _is_top(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and status.st_ino == _TOP_INODE


def _beside(top: str, volume: Volume) -> str:
    """A directory of the same file system for the snapshot: the nearest above the server's own in which only root may
    rename things; else the top of the subvolume."""
    for start in (volume.roots[0], os.path.join(top, ".")):
        path = os.path.dirname(start)
        while _shows(path, volume):
            status = os.stat(fs.encode(path))
            if status.st_uid == 0 and not status.st_mode & _OTHERS_MAY_WRITE and _outside(path, volume):
                return path
            if path == "/":
                break
            path = os.path.dirname(path)
    return top


def _outside(path: str, volume: Volume) -> bool:
    return all(fs.below(path, root) is None for root in volume.roots)


def _shows(path: str, volume: Volume) -> bool:
    """Whether a directory lies on the file system of the volume, and may be written there."""
    mount = mounts.mount_of(path)
    writable = not os.statvfs(fs.encode(path)).f_flag & os.ST_RDONLY
    return mount is not None and writable and (mount.fs_type, mount.device) == (volume.fs_type, volume.fs_device)


def _existing(path: str) -> str:
    while not fs.is_directory(path):
        path = os.path.dirname(path)
    return path
