# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files to archive: opened below their place without following links, and watched for any change."""

from __future__ import annotations

import os
import stat
import struct
import typing as t
from array import array
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import (
    DIRECTORY,
    FILE,
    SYMLINK,
    ListedFile,
    to_bytes,
    to_text,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

_KINDS = {stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK}
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that took the file's place must not hold the run up.
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# Ranges of a sparse file kept in memory at most (16 bytes each); beyond that, small holes are stored as zeros.
MAX_EXTENTS = 256 * 1024


def changed(name: str, what: str, before: object, now: object) -> ReplicaBackupError:
    """A file is not what it was when the list was taken or when it was read."""
    return ReplicaBackupError(
        f"{name} changed while it was archived ({what})",
        found=now,
        expected=before,
        file=name,
    )


def vanished(name: str) -> ReplicaBackupError:
    return ReplicaBackupError(
        f"{name} vanished while it was archived",
        found="no such file",
        expected="the file, as listed",
        file=name,
    )


@dataclass(frozen=True)
class Seen:
    """What ``stat`` said of a name when it was archived; anything else at the end means that somebody was at work."""

    device: int
    inode: int
    mode: int
    links: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int

    _FORMAT: t.ClassVar[struct.Struct] = struct.Struct("<QQLQLLqqq")
    LENGTH: t.ClassVar[int] = _FORMAT.size

    @classmethod
    def of(cls, status: os.stat_result) -> Seen:
        return cls(
            status.st_dev,
            status.st_ino,
            status.st_mode,
            status.st_nlink,
            status.st_uid,
            status.st_gid,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )

    def pack(self) -> bytes:
        return self._FORMAT.pack(
            self.device,
            self.inode,
            self.mode,
            self.links,
            self.uid,
            self.gid,
            self.size,
            self.mtime_ns,
            self.ctime_ns,
        )

    @classmethod
    def unpack(cls, raw: bytes) -> Seen:
        return cls(*cls._FORMAT.unpack(raw))

    @property
    def kind(self) -> str | None:
        return _KINDS.get(stat.S_IFMT(self.mode))

    def compare(self, name: str, now: Seen, *, times_of_directories: bool = True) -> None:
        """Raise when ``now`` differs. The times and link count of a directory count only where we own all its names."""
        names = ["device", "inode", "mode", "uid", "gid"]
        if self.kind != DIRECTORY:
            names += ["links", "size", "mtime_ns", "ctime_ns"]
        elif times_of_directories:
            names += ["links", "mtime_ns", "ctime_ns"]
        for field in names:
            if getattr(self, field) != getattr(now, field):
                raise changed(name, field, getattr(self, field), getattr(now, field))


class Readable(t.Protocol):
    """What the walk over the files reads from: the server's own directories, or a clone of them."""

    def absolute(self, entry: ListedFile) -> str:
        """Full path of the original, for messages."""

    def stat(self, entry: ListedFile) -> Seen:
        """What the original is."""

    def open(self, entry: ListedFile) -> tuple[int, Seen]:
        """A descriptor of a regular file's data, and what the original is."""

    def read_link(self, entry: ListedFile) -> bytes: ...


class Source:
    """Opens names below the places.

    ``places`` maps a place's name to its absolute directory. ``shared`` names the places of which only some files are
    ours (their directories may be busy with other things, like ``/tmp``).
    """

    def __init__(self, places: t.Mapping[str, str], *, shared: t.Collection[str] = ()) -> None:
        self._places = places
        self._shared = frozenset(shared)
        self._roots: dict[str, int] = {}
        self._parent: tuple[str, bytes] | None = None
        self._parent_fd = -1

    def close(self) -> None:
        for descriptor in self._roots.values():
            os.close(descriptor)
        self._roots.clear()
        self._drop_parent()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def absolute(self, entry: ListedFile) -> str:
        """Full path, for messages."""
        root = self._places.get(entry.place, entry.place)
        return root if entry.path in ("", ".") else os.path.join(root, entry.path)

    def is_shared(self, place: str) -> bool:
        return place in self._shared

    def stat(self, entry: ListedFile) -> Seen:
        """``lstat`` without following links anywhere below the place; compared with the list."""
        directory, name = self._locate(entry)
        try:
            seen = Seen.of(os.stat(name, dir_fd=directory, follow_symlinks=False))
        except FileNotFoundError:
            raise vanished(self.absolute(entry)) from None
        except OSError as problem:
            raise self._unreadable(entry, problem) from problem
        self._match(entry, seen)
        return seen

    def open(self, entry: ListedFile) -> tuple[int, Seen]:
        """Descriptor of a regular file, and what it is; compared with the list."""
        directory, name = self._locate(entry)
        try:
            descriptor = os.open(name, _OPEN_FILE, dir_fd=directory)
        except FileNotFoundError:
            raise vanished(self.absolute(entry)) from None
        except OSError as problem:
            raise self._unreadable(entry, problem) from problem
        try:
            seen = Seen.of(os.fstat(descriptor))
            self._match(entry, seen)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, seen

    def read_link(self, entry: ListedFile) -> bytes:
        """Text of a symbolic link; compared with the list."""
        directory, name = self._locate(entry)
        try:
            target = os.readlink(name, dir_fd=directory)
        except FileNotFoundError:
            raise vanished(self.absolute(entry)) from None
        except OSError as problem:
            raise self._unreadable(entry, problem) from problem
        listed = getattr(entry, "target", None)
        if listed is not None and to_bytes(listed) != target:
            raise changed(self.absolute(entry), "target", listed, to_text(target))
        return target

    def _match(self, entry: ListedFile, seen: Seen) -> None:
        name = self.absolute(entry)
        if seen.kind != entry.type:
            raise changed(name, "type", entry.type, seen.kind or "a special file")
        inode = getattr(entry, "inode", None)
        if inode is not None and inode != seen.inode:
            raise changed(name, "inode", inode, seen.inode)
        # Whoever was allowed to read the listed file is allowed to read this one.
        for field in ("uid", "gid", "mode"):
            listed = getattr(entry, field, None)
            found = stat.S_IMODE(seen.mode) if field == "mode" else getattr(seen, field)
            if listed is not None and listed != found:
                raise changed(name, field, listed, found)
        if entry.type == FILE and entry.size != seen.size:
            raise changed(name, "size", entry.size, seen.size)
        if not (entry.type == DIRECTORY and self.is_shared(entry.place)) and entry.mtime_ns != seen.mtime_ns:
            raise changed(name, "mtime_ns", entry.mtime_ns, seen.mtime_ns)

    def _unreadable(self, entry: ListedFile, problem: OSError) -> ReplicaBackupError:
        return ReplicaBackupError(
            f"{self.absolute(entry)} cannot be read: {problem.strerror}",
            found=problem.strerror,
            expected="a readable file, no symbolic link on the way to it",
            file=self.absolute(entry),
        )

    def _locate(self, entry: ListedFile) -> tuple[int, bytes]:
        root = self._roots.get(entry.place)
        if root is None:
            path = self._places.get(entry.place)
            if path is None:
                raise ReplicaBackupError(
                    f"The file list names a place that it does not declare: {entry.place}",
                    found=entry.place,
                    expected=", ".join(sorted(self._places)),
                )
            try:
                root = self._roots[entry.place] = os.open(to_bytes(path), _OPEN_DIRECTORY)
            except OSError as problem:
                raise ReplicaBackupError(
                    f"The directory of place {entry.place} cannot be opened: {path}", found=problem.strerror
                ) from problem
        raw = to_bytes(entry.path)
        if raw in (b"", b"."):
            return root, b"."
        parent, _slash, name = raw.rpartition(b"/")
        if name in (b"", b".", b"..") or raw.startswith(b"/"):
            raise ReplicaBackupError("The file list names a path that leaves its place", found=entry.path)
        if not parent:
            return root, name
        if self._parent != (entry.place, parent):
            self._drop_parent()
            self._parent_fd = self._descend(entry, root, parent)
            self._parent = (entry.place, parent)
        return self._parent_fd, name

    def _descend(self, entry: ListedFile, root: int, parent: bytes) -> int:
        current = os.dup(root)
        try:
            for step in parent.split(b"/"):
                if step in (b"", b".", b".."):
                    raise ReplicaBackupError("The file list names a path that leaves its place", found=entry.path)
                try:
                    below = os.open(step, _OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
                except FileNotFoundError:
                    raise vanished(self.absolute(entry)) from None
                except OSError as problem:
                    raise self._unreadable(entry, problem) from problem
                os.close(current)
                current = below
        except BaseException:
            os.close(current)
            raise
        return current

    def _drop_parent(self) -> None:
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._parent, self._parent_fd = None, -1


class Extents:
    """Where a sparse file has data: ascending (offset, length) pairs, kept in 16 bytes each."""

    def __init__(self) -> None:
        self._numbers = array("Q")

    def add(self, offset: int, length: int) -> None:
        self._numbers.append(offset)
        self._numbers.append(length)

    def __len__(self) -> int:
        return len(self._numbers) // 2

    def __iter__(self) -> t.Iterator[tuple[int, int]]:
        numbers = self._numbers
        for index in range(0, len(numbers), 2):
            yield numbers[index], numbers[index + 1]

    @property
    def stored(self) -> int:
        """Bytes of data."""
        return sum(self._numbers[1::2])


def find_extents(descriptor: int, size: int, *, limit: int = MAX_EXTENTS) -> Extents | None:
    """The data ranges of an open file, None when it has no holes or the file system cannot say.

    More than ``limit`` ranges are brought down by storing the smallest holes as zeros.
    """
    gap = 0
    while True:
        extents = _scan(descriptor, size, gap, limit)
        if extents is not None:
            break
        gap = max(4096, gap * 4)
    if len(extents) == 1 and next(iter(extents)) == (0, size):
        return None
    return extents


def _scan(descriptor: int, size: int, gap: int, limit: int) -> Extents | None:
    """Ranges with holes of up to ``gap`` bytes joined over; None when there are more than ``limit``."""
    extents = Extents()
    start = end = -1
    position = 0
    while position < size:
        try:
            data = os.lseek(descriptor, position, os.SEEK_DATA)
            hole = min(os.lseek(descriptor, data, os.SEEK_HOLE), size)
        except OSError:
            # ENXIO: nothing but a hole from here on. EINVAL: the file system does not say; then it is all data.
            if position == 0 and not _supports_holes(descriptor):
                data, hole = 0, size
            else:
                break
        if data >= size:
            break
        if start < 0:
            start, end = data, hole
        elif data - end <= gap:
            end = hole
        else:
            extents.add(start, end - start)
            start, end = data, hole
        if len(extents) > limit:
            return None
        position = hole
    if start >= 0:
        extents.add(start, end - start)
    return extents


def _supports_holes(descriptor: int) -> bool:
    try:
        os.lseek(descriptor, 0, os.SEEK_HOLE)
    except OSError:
        return False
    return True
