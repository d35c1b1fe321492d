# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file systems that have files of a server, whether they share blocks, and the snapshots that each can have."""

from __future__ import annotations

import fcntl
import os
import stat
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import btrfs, lvm, mounts, zfs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.mounts import Mount, Volume
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Located, Locator

__all__ = ["Snapshot", "Volume", "find", "load", "shares_blocks", "volumes_of"]

# ioctl_ficlone(2).
_FICLONE = 0x40049409
# A whole block on every file system there is: XFS and btrfs have blocks of 64 KiB at most.
_BLOCK = 64 * 1024


class Snapshot(t.Protocol):
    """A snapshot of one volume, from before it is made until it is removed. All paths are absolute.

    It is known in full before anything is made (``to_dict`` goes to the ledger), and ``load`` gives it back.
    """

    @property
    def kind(self) -> str:
        """ "btrfs", "lvm" or "zfs"."""

    def to_dict(self) -> dict[str, t.Any]:
        """JSON values; nothing secret."""

    def translate(self, path: str) -> tuple[str, str]:
        """The directory of the snapshot and the path below it that a file of the volume has. Raises ReplicaBackupError
        for one that is not of this volume."""

    def excluded(self) -> list[str]:
        """Directories of the snapshot that may lie within those of the server."""

    def take(self) -> None:
        """In the window: quick and atomic. Where ``excluded`` is not empty, the time of the directory above it moves.
        Raises ReplicaBackupError."""

    def open(self) -> None:
        """Later, the server runs: make it readable. Nothing is done the second time. Raises ReplicaBackupError when it
        is not there or not the one that was made."""

    def check(self) -> None:
        """While it is read: raises ReplicaBackupError before it overflows, or fills the server's disk, and when it has
        overflown."""

    def remove(self) -> bool:
        """Whether there was anything to remove. Raises ReplicaBackupError for what cannot be removed."""


_KINDS: t.Mapping[str, t.Callable[[t.Mapping[str, t.Any]], Snapshot]] = {
    btrfs.KIND: btrfs.Subvolume.from_dict,
    lvm.KIND: lvm.LogicalVolume.from_dict,
    zfs.KIND: zfs.Dataset.from_dict,
}


def find(volume: Volume, *, backup_id: str, work: str, size_percent: int) -> tuple[Snapshot | None, str]:
    """The snapshot that could be made of a volume, or None and why not. Read-only.

    ``work`` is a private directory in the spool (need not exist yet), ``size_percent`` the room for what changes while
    the snapshot is read, in percent of the volume.
    """
    try:
        if volume.fs_type == "btrfs":
            return btrfs.find(volume, backup_id=backup_id, work=work)
        if volume.fs_type == "zfs":
            return zfs.find(volume, backup_id=backup_id)
        return lvm.find(volume, backup_id=backup_id, work=work, size_percent=size_percent)
    except (ReplicaBackupError, OSError) as problem:
        return None, f"asking for it failed: {problem}"


def load(data: t.Mapping[str, t.Any]) -> Snapshot:
    """The snapshot that ``to_dict`` described. Raises ReplicaBackupError when another version wrote it."""
    try:
        return _KINDS[data["kind"]](data)
    except (KeyError, TypeError, ValueError) as problem:
        raise ReplicaBackupError(
            "The ledger names a snapshot that this version of the collection does not know",
            found=repr(dict(data)),
            expected=f"one of {', '.join(sorted(_KINDS))}",
            next_command="remove the snapshot by hand, or run the version of the collection that made it",
        ) from problem


def shares_blocks(directory: str, *sources: str) -> bool:
    """Whether files in ``directory`` can share blocks with files in each of ``sources`` (default: in itself).

    Tried with two files that never have a name, so that nothing is left whatever happens. False as well where that
    cannot be tried: no such directory, no right to write, a full disk. Two directories of one file system may differ
    in it: kernels before 5.18 share nothing between two mounts of it, btrfs nothing with a file that has no checksums
    (``chattr +C``).
    """
    return all(_shares(source, directory) for source in sources or (directory,))


def _shares(source: str, target: str) -> bool:
    flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
    opened: list[int] = []
    try:
        for directory in (source, target):
            opened.append(os.open(fs.encode(directory), flags, 0o600))
        os.write(opened[0], b"\1" * _BLOCK)
        fcntl.ioctl(opened[1], _FICLONE, opened[0])
        return os.fstat(opened[1]).st_size == _BLOCK
    except OSError:
        return False
    finally:
        for descriptor in opened:
            os.close(descriptor)


def volumes_of(discovery: Discovery) -> list[Volume]:
    """The file systems with files of these places, as ``st_dev`` tells them apart; what is excluded does not count.

    File systems that are mounted below a place count (bind mounts, too, of a single file even), and subvolumes of
    btrfs, which are no mounts. An overlay gives files of its lower layers another ``st_dev`` than its directories. What
    vanishes meanwhile is left out. Raises OSError when a directory may not be read.
    """
    return _Survey(Locator(discovery)).volumes()


class _Survey:
    def __init__(self, locator: Locator) -> None:
        self._locator = locator
        self._points = dict.fromkeys(mount.point for mount in mounts.mounts())
        # For each device its topmost names, and where they lie in the file system.
        self._found: dict[int, tuple[Mount, dict[str, str]]] = {}

    def volumes(self) -> list[Volume]:
        for located in self._locator.located:
            self._top(located, located.root)
            for point in self._points:
                if fs.below(point, located.root) not in (None, ".") and self._counts(located, point):
                    self._top(located, point)
        return [
            Volume(
                device=device,
                roots=tuple(names),
                inner=tuple(names.values()),
                mount_point=mount.point,
                fs_type=mount.fs_type,
                source=mount.source,
                root_in_fs=mount.root,
                fs_device=mount.device,
            )
            for device, (mount, names) in self._found.items()
        ]

    def _counts(self, located: Located, path: str, *, regular: bool = False) -> bool:
        relative = fs.below(path, located.root)
        taken = relative is not None and located.takes(relative)
        return taken and self._locator.exclusion(path, regular=regular) is None

    def _top(self, located: Located, path: str) -> None:
        """A place's directory or what is mounted below it."""
        status = fs.follow(path)
        try:
            mount = mounts.mount_of(path) if status is not None else None
        except FileNotFoundError:
            return
        if status is None:
            return
        if mount is None:
            # Seen through a process in a mount namespace of its own: of no use but to copy from.
            major, minor = os.major(status.st_dev), os.minor(status.st_dev)
            mount = Mount(-1, f"{major}:{minor}", "/", path, "unknown", "")
        self._add(status.st_dev, mount, path)
        if mount.fs_type in ("btrfs", "overlay") and stat.S_ISDIR(status.st_mode):
            self._walk(located, path, status.st_dev, mount)

    def _walk(self, located: Located, directory: str, device: int, mount: Mount) -> None:
        try:
            with os.scandir(fs.encode(directory)) as scan:
                # Only an overlay has single files of another device.
                found = [item for item in scan if mount.fs_type == "overlay" or item.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return
        for item in found:
            path = fs.decode(item.path)
            status = fs.lstat(path)
            if status is None or path in self._points:
                continue
            if not self._counts(located, path, regular=stat.S_ISREG(status.st_mode)):
                continue
            is_directory = stat.S_ISDIR(status.st_mode)
            if status.st_dev != device:
                # A file of a lower layer stands for its directory: nothing can be made below a file.
                self._add(status.st_dev, mount, path if is_directory else directory)
            if is_directory:
                self._walk(located, path, status.st_dev, mount)

    def _add(self, device: int, mount: Mount, path: str) -> None:
        known = self._found.setdefault(device, (mount, {}))[1]
        inner = mounts.inside(mount, path)
        for name, its in list(known.items()):
            # The same place of the file system, or a part of it, by way of the same mount: the upper name says it all.
            if (relative := fs.below(path, name)) is not None and mounts.within(inner, its) == relative:
                return
            if (relative := fs.below(name, path)) is not None and mounts.within(its, inner) == relative:
                del known[name]
        known[path] = inner
