# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mounts as the kernel tells them, and which of them a directory lies in."""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

_PROCESS_ROOT = re.compile(r"(/proc/\d+)/root(?:/|\Z)")


@dataclass(frozen=True)
class Mount:
    """A line of ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)).

    ``root`` is the directory of the file system that is to be seen at ``point``: "/" unless it is a bind mount or a
    subvolume. ``device`` is "major:minor" of the file system; one of btrfs has it in common for all its subvolumes.
    """

    id: int
    device: str
    root: str
    point: str
    fs_type: str
    source: str


@dataclass(frozen=True)
class Volume:
    """A file system with files of a server, or a subvolume of btrfs.

    ``device`` is ``st_dev`` of its files; ``roots`` are the topmost real directories of the places on it (a file that
    is mounted by itself counts for one), ``inner`` where each of them lies in the file system ("." for its top). The
    rest is what mountinfo has of the mount of the first; ``fs_device`` is "major:minor" there, which differs from
    ``device`` on btrfs.
    """

    device: int
    roots: tuple[str, ...]
    mount_point: str
    fs_type: str
    source: str
    root_in_fs: str
    inner: tuple[str, ...] = ()
    fs_device: str = ""

    def paths(self) -> Paths:
        return Paths(tuple(zip(self.roots, self.inner)))


@dataclass(frozen=True)
class Paths:
    """Where directories of the server lie in their file system, to find a file again in a snapshot of it."""

    known: tuple[tuple[str, str], ...]

    def inner(self, path: str, top: str = ".") -> str:
        """The path of a file below the directory ``top`` of the file system. Raises ReplicaBackupError."""
        root, inner = max(
            (pair for pair in self.known if fs.below(path, pair[0]) is not None),
            key=lambda pair: len(pair[0]),
            default=("", ""),
        )
        relative = within(os.path.normpath(os.path.join(inner, fs.below(path, root) or ".")), top) if root else None
        if relative is None:
            raise ReplicaBackupError(
                f"{fs.printable(path)} is in no directory that the snapshot was planned for",
                found=fs.printable(path),
                expected=f"a file below {', '.join(fs.printable(known) for known, _inner in self.known)}",
            )
        return relative

    def to_list(self) -> list[list[str]]:
        return [list(pair) for pair in self.known]

    @classmethod
    def from_list(cls, data: t.Iterable[t.Sequence[str]]) -> Paths:
        return cls(tuple((root, inner) for root, inner in data))


def parse(text: bytes) -> tuple[Mount, ...]:
    """The mounts of a mountinfo file, in its order."""
    found = []
    for line in text.splitlines():
        # The optional fields end with a lone hyphen; what follows is type, source and options.
        fields = line.split(b" ")
        tail = fields.index(b"-", 6)
        found.append(
            Mount(
                int(fields[0]),
                fields[2].decode(),
                _plain(fields[3]),
                _plain(fields[4]),
                _plain(fields[tail + 1]),
                _plain(fields[tail + 2]),
            )
        )
    return tuple(found)


def _plain(field: bytes) -> str:
    return fs.decode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field))


def mounts(process: str = "/proc/self") -> tuple[Mount, ...]:
    """The mounts that a process sees. Raises OSError."""
    with open(f"{process}/mountinfo", "rb") as stream:
        return parse(stream.read())


def mount_of(path: str) -> Mount | None:
    """The mount that a directory or file lies in, as the kernel resolves it: nothing is concluded from its name.

    None when it is a mount of another process that is not ours to see. Raises OSError when there is no such path.
    """
    descriptor = os.open(fs.encode(path), os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as stream:
            text = stream.read()
    finally:
        os.close(descriptor)
    match = re.search(rb"^mnt_id:\s*(\d+)", text, re.MULTILINE)
    if match is None:
        return None
    # A private /tmp of the service is looked at through its process.
    process = _PROCESS_ROOT.match(path)
    for seen_by in ("/proc/self", process[1] if process else ""):
        found = next((mount for mount in mounts(seen_by) if mount.id == int(match[1])), None) if seen_by else None
        if found is not None:
            return found
    return None


def inside(mount: Mount, path: str) -> str:
    """Where a directory or file lies in its file system, as "a/b" from the top of that file system, "." for the top.

    Raises ValueError when the mount does not show it.
    """
    process = _PROCESS_ROOT.match(path)
    relative = fs.below("/" + path[process.end() :] if process else path, mount.point)
    if relative is None:
        raise ValueError(f"{path} is not below {mount.point}")
    return os.path.normpath(os.path.join(mount.root, relative)).lstrip("/") or "."


def within(inner: str, top: str) -> str | None:
    """``inner`` relative to ``top``, both as ``inside`` gives them; None when it lies elsewhere."""
    return fs.below("/" + inner if inner != "." else "/", "/" + top if top != "." else "/")


def elsewhere(mount: Mount, inner: str, known: t.Iterable[Mount]) -> t.Iterator[str]:
    """Other names for the place ``inner`` of the mount's file system, at all mounts of it that show that place."""
    for other in known:
        if other.device == mount.device and other.fs_type == mount.fs_type:
            relative = within(inner, other.root.lstrip("/") or ".")
            if relative is not None:
                yield fs.absolute(relative, other.point)
