# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A clone of the files of a stopped server: taken in the window, archived when the server serves again.

Its *list* has a line of JSON for each name: the entry, what ``stat`` said of the original, and where the data are. They
are either numbered files in a *store*, a directory on each file system that has files of the server: names and
attributes of the originals stand in the list. Or they lie below the root of a snapshot of the whole file system.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import (
    make_private_directory,
    storage_error,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import FILE, SYMLINK, to_bytes
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import (
    Seen,
    Source,
    changed,
    find_extents,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import Entry

# ioctl_ficlone(2).
_FICLONE = 0x40049409
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS})
# In one go; in between it is looked whether there is still time.
_CHUNK = 32 * 1024 * 1024
# Tells a file that has become shorter from a disk that cannot be read.
ENDS_EARLY = "the file ends early"


class CannotClone(Exception):
    """The file system does not share blocks between files."""


def reflink(source: int, target: int, size: int, tick: t.Callable[[int], None]) -> None:
    """Let the open file ``target`` share all blocks of ``source``; nothing is copied. Raises CannotClone, OSError."""
    tick(size)
    if size == 0:
        return
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as problem:
        if problem.errno in _CANNOT:
            raise CannotClone(problem.strerror) from problem
        raise


def copy(source: int, target: int, size: int, tick: t.Callable[[int], None] = lambda _size: None) -> None:
    """Copy the data of an open file within the kernel, holes left out; ``tick`` counts them. Raises OSError."""
    extents = find_extents(source, size) if os.fstat(source).st_blocks * 512 < size else None
    ranges: t.Iterable[tuple[int, int]] = ((0, size),) if extents is None else extents
    done = 0
    for offset, length in ranges:
        for position in range(offset, offset + length, _CHUNK):
            end = min(offset + length, position + _CHUNK)
            copy_range(source, target, position, end)
            tick(end - done)
            done = end
    os.ftruncate(target, size)
    tick(size - done)


def copy_range(source: int, target: int, position: int, end: int) -> None:
    """Copy the bytes from ``position`` to ``end`` to the same place. Raises OSError, EIO when the source ends early."""
    by_kernel = hasattr(os, "copy_file_range")
    while position < end:
        count = min(end - position, _CHUNK)
        done = 0
        if by_kernel:
            try:
                done = os.copy_file_range(source, target, count, position, position)
            except OSError as problem:
                if problem.errno not in _CANNOT:
                    raise
                by_kernel = False
        if not by_kernel:
            os.lseek(target, position, os.SEEK_SET)
            done = os.sendfile(target, source, position, count)
        if done == 0:
            raise OSError(errno.EIO, ENDS_EARLY)
        position += done


Duplicate = t.Callable[[int, int, int, t.Callable[[int], None]], None]


@dataclass(frozen=True)
class Cloned:
    """A name in a clone, with the fields of the list's ``Entry``.

    The data of a file are ``inner`` below the directory ``store``; both are empty for a directory and a link. A further
    name of an inode has the data of the first.
    """

    entry: Entry
    seen: Seen
    store: str = ""
    inner: str = ""

    @property
    def place(self) -> str:
        return self.entry.place

    @property
    def path(self) -> str:
        return self.entry.path

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def type(self) -> str:
        return self.entry.type

    @property
    def size(self) -> int:
        return self.entry.size

    @property
    def mtime_ns(self) -> int:
        return self.entry.mtime_ns

    @property
    def owner(self) -> str:
        return self.entry.owner

    @property
    def group(self) -> str:
        return self.entry.group

    @property
    def role(self) -> str | None:
        return self.entry.role

    def to_line(self) -> bytes:
        entry = {key: item for key, item in vars(self.entry).items() if item is not None}
        # Not astuple(): its deep copy took half of the time of a window without data to copy.
        return _encode([entry, list(vars(self.seen).values()), self.store, self.inner]).encode("ascii") + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Cloned:
        entry, seen, store, inner = json.loads(line)
        return cls(Entry(**entry), Seen(*seen), store, inner)


# One for all lines: json.dumps() with options makes a new one at every call.
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Listing:
    """The list of a clone while it is written.

    Not forced to disk: a clone that a crash of the host interrupts is removed, never archived.
    """

    def __init__(self, path: str) -> None:
        try:
            descriptor = os.open(to_bytes(path), _CREATE, 0o600)
        except OSError as problem:
            raise storage_error(problem, path, 0) from problem
        self._path = path
        self._stream = os.fdopen(descriptor, "wb", buffering=1024 * 1024)

    def write_line(self, line: bytes) -> None:
        try:
            self._stream.write(line)
        except OSError as problem:
            raise storage_error(problem, self._path, 0) from problem

    def close(self) -> None:
        try:
            self._stream.close()
        except OSError as problem:
            raise storage_error(problem, self._path, 0) from problem


class Means(t.Protocol):
    """How the files of one file system are cloned."""

    def keep(self, path: str, descriptor: int, seen: Seen, tick: t.Callable[[int], None]) -> tuple[str, str]:
        """Clone the open file; (store, inner path) of its data. ``tick`` is told of its bytes as they are cloned."""


class Store:
    """A directory of numbered files. It is made at once: it may lie inside a directory that is listed thereafter."""

    def __init__(self, path: str) -> None:
        self.path = path
        make_private_directory(path)
        self._directory = os.open(to_bytes(path), _OPEN_DIRECTORY)
        self._count = 0

    def add(self) -> tuple[str, int]:
        """A new file: its name, and a descriptor to write to. Raises OSError."""
        self._count += 1
        name = f"{self._count:09d}"
        return name, os.open(name, _CREATE, 0o600, dir_fd=self._directory)

    def close(self) -> None:
        if self._directory >= 0:
            descriptor, self._directory = self._directory, -1
            os.close(descriptor)


class Numbered:
    """Clones as numbered files of a store, made by ``duplicate``."""

    def __init__(self, store: Store, duplicate: Duplicate) -> None:
        self._store = store
        self._duplicate = duplicate

    def keep(self, path: str, descriptor: int, seen: Seen, tick: t.Callable[[int], None]) -> tuple[str, str]:
        try:
            name, target = self._store.add()
            try:
                self._duplicate(descriptor, target, seen.size, tick)
            finally:
                os.close(target)
        except OSError as problem:
            raise storage_error(problem, os.path.join(self._store.path, "clone"), 0) from problem
        return self._store.path, name


class Seeing(t.Protocol):
    """What knows where a file lies in a snapshot of its file system."""

    def translate(self, path: str) -> tuple[str, str]: ...


class Within:
    """Clones that a snapshot of the whole file system holds; it is taken when all names stand in the list."""

    def __init__(self, snapshot: Seeing) -> None:
        self._snapshot = snapshot

    def keep(self, path: str, descriptor: int, seen: Seen, tick: t.Callable[[int], None]) -> tuple[str, str]:
        tick(seen.size)
        return self._snapshot.translate(path)


def take(
    entries: t.Iterable[Entry],
    source: Source,
    means: t.Callable[[int], Means],
    listing: Listing,
    tick: t.Callable[[int], None],
) -> int:
    """Clone every file of the list, by the means for its device; returns how many names it has.

    ``tick`` is called with the bytes as they are cloned. Raises :class:`CannotClone`, and :class:`ReplicaBackupError`
    naming the file that vanished, is not as listed or for which there is no room. What was made by then is the caller's
    to remove.
    """
    count = 0
    first: dict[tuple[int, int], tuple[str, str]] = {}
    for entry in entries:
        tick(0)
        if entry.type == FILE:
            made = _take_file(entry, source, means, first, tick)
        else:
            seen = source.stat(entry)
            if entry.type == SYMLINK:
                source.read_link(entry)
            made = Cloned(entry, seen)
        listing.write_line(made.to_line())
        count += 1
    return count


def _take_file(
    entry: Entry,
    source: Source,
    means: t.Callable[[int], Means],
    first: dict[tuple[int, int], tuple[str, str]],
    tick: t.Callable[[int], None],
) -> Cloned:
    descriptor, seen = source.open(entry)
    try:
        known = first.get((seen.device, seen.inode)) if seen.links > 1 else None
        if known is None:
            path = source.absolute(entry)
            known = means(seen.device).keep(path, descriptor, seen, tick)
            seen.compare(path, Seen.of(os.fstat(descriptor)))
            if seen.links > 1:
                first[seen.device, seen.inode] = known
        return Cloned(entry, seen, *known)
    finally:
        os.close(descriptor)


def compare_originals(listing: str, source: Source, tick: t.Callable[[int], None]) -> None:
    """Look at all originals once more, and raise for the first that is not as it was when it was cloned.

    A name that appeared meanwhile has moved the time of its directory.
    """
    for cloned in read(listing):
        tick(0)
        cloned.seen.compare(
            source.absolute(cloned), source.stat(cloned), times_of_directories=not source.is_shared(cloned.place)
        )


def end_of_list(count: int) -> bytes:
    """The last line of a list of ``count`` names."""
    return _encode({"end": count}).encode("ascii") + b"\n"


def read(path: str) -> t.Iterator[Cloned]:
    """The names of a clone, one at a time, in the order of the list that it was taken by.

    Raises ReplicaBackupError when the list has lost its end.
    """
    count = 0
    with open(to_bytes(path), "rb") as stream:
        try:
            for line in stream:
                if line.startswith(b"{"):
                    if json.loads(line) != {"end": count}:
                        raise ValueError(f"{count} names, and then {line!r}")
                    return
                cloned = Cloned.from_line(line)
                count += 1
                yield cloned
            raise ValueError(f"its last line is missing, after {count} names")
        except (ValueError, TypeError) as problem:
            raise ReplicaBackupError(
                f"The list of the clone is damaged: {path}",
                found=str(problem),
                expected="the list as it was written while the server was down",
            ) from problem


class CloneSource:
    """Reads a clone as ``Source`` reads the originals, for the same walk; the entries are those that ``read`` gives.

    ``private`` are the stores that are directories of ours; in others lie the server's own directories. ``written`` are
    those of them whose data were copied: a copy that the disk refused is good until it leaves the page cache.
    """

    def __init__(
        self, places: t.Mapping[str, str], private: t.Collection[str] = (), written: t.Collection[str] = ()
    ) -> None:
        self._places = places
        self._private = private
        self._written = written
        self._open: dict[str, int] = {}

    def __enter__(self) -> CloneSource:
        return self

    def __exit__(self, *exc: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def absolute(self, entry: t.Any) -> str:
        """Path of the original, for messages."""
        root: str = self._places.get(entry.place, entry.place)
        return root if entry.path in ("", ".") else os.path.join(root, str(entry.path))

    def open(self, entry: t.Any) -> tuple[int, Seen]:
        """Descriptor of the clone, and what the original was."""
        cloned = t.cast(Cloned, entry)
        try:
            descriptor = self._descriptor(cloned)
            if cloned.store in self._written:
                try:
                    os.fsync(descriptor)
                except BaseException:
                    os.close(descriptor)
                    raise
        except OSError as problem:
            raise ReplicaBackupError(
                f"The clone of {self.absolute(cloned)} cannot be read: {problem.strerror}",
                found=f"{cloned.store}/{cloned.inner}: {problem.strerror}",
                expected="the clone that was made while the server was down",
            ) from problem
        size = os.fstat(descriptor).st_size
        if size != cloned.seen.size:
            os.close(descriptor)
            raise changed(f"the clone of {self.absolute(cloned)}", "size", cloned.seen.size, size)
        return descriptor, cloned.seen

    def _descriptor(self, cloned: Cloned) -> int:
        directory = self._open.get(cloned.store)
        if directory is None:
            directory = self._open[cloned.store] = self._open_store(cloned.store)
        *parents, name = to_bytes(cloned.inner).split(b"/")
        opened: list[int] = []
        try:
            # One by one: below a snapshot a directory must not have become a link that leads elsewhere.
            for parent in parents:
                directory = os.open(parent, _OPEN_DIRECTORY, dir_fd=directory)
                opened.append(directory)
            return os.open(name, _OPEN_FILE, dir_fd=directory)
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _open_store(self, path: str) -> int:
        descriptor = os.open(to_bytes(path), _OPEN_DIRECTORY)
        status = os.fstat(descriptor)
        # One that lies in a directory of the server could have been exchanged by the server's account.
        if path in self._private and (status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != 0o700):
            os.close(descriptor)
            raise ReplicaBackupError(
                f"{path} is not the clone that was made",
                found=f"owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}",
                expected=f"a directory of user {os.geteuid()} with mode 0700",
            )
        return descriptor

    def stat(self, entry: t.Any) -> Seen:
        return t.cast(Cloned, entry).seen

    def read_link(self, entry: t.Any) -> bytes:
        return to_bytes(t.cast(Cloned, entry).entry.target or "")
