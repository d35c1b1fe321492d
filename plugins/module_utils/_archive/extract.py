# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lays the members of an archive down in directories of this host, never outside of them.

Every directory on the way is opened by itself, links not followed, so that neither a name in the archive nor somebody
who exchanges a directory for a link meanwhile leads elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import shutil
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import (
    DIRECTORY,
    ROOT_PATH,
    SYMLINK,
    FileRecord,
    to_bytes,
    to_text,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = (errno.ENOSPC, errno.EDQUOT)
_WRITEBACK_STEP = 32 * 1024 * 1024


def split_path(path: str) -> list[bytes]:
    """Components of a path inside a place, none for the place itself.

    Raises RefusedError for one that could lead out of it.
    """
    if path == ROOT_PATH:
        return []
    parts = to_bytes(path).split(b"/")
    if any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
        raise RefusedError(
            "The set names a file outside of its places", found=repr(path), expected="names below their place"
        )
    return parts


@dataclass
class Owners:
    """Who owns what on this host: by name, because numbers differ from host to host.

    A name that is unknown here is given to ``user``/``group`` (numbers), when those are set; otherwise the number
    counts. Without the rights of root nothing is changed.
    """

    user: int | None = None
    group: int | None = None
    unknown: set[str] = field(default_factory=set)
    _users: dict[tuple[str, int], int] = field(default_factory=dict)
    _groups: dict[tuple[str, int], int] = field(default_factory=dict)

    def of(self, record: FileRecord) -> tuple[int, int]:
        user = self._users.get((record.owner, record.uid))
        if user is None:
            user = self._users[record.owner, record.uid] = self._user(record)
        group = self._groups.get((record.group, record.gid))
        if group is None:
            group = self._groups[record.group, record.gid] = self._group(record)
        return user, group

    def _user(self, record: FileRecord) -> int:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(record.owner).pw_uid
        if record.owner:
            self.unknown.add(record.owner)
        return record.uid if self.user is None else self.user

    def _group(self, record: FileRecord) -> int:
        with contextlib.suppress(KeyError):
            return grp.getgrnam(record.group).gr_gid
        if record.group:
            self.unknown.add(record.group)
        return record.gid if self.group is None else self.group


class Directories:
    """A :class:`~.proof.Lander`. ``roots`` are the directories of the places, which must exist; members of other places
    are passed over. ``bytes`` counts what was written, ``files`` the names. Close it in any case."""

    def __init__(self, roots: t.Mapping[str, str], owners: Owners) -> None:
        self.bytes = 0
        self.files = 0
        self._roots = dict(roots)
        self._owners = owners
        self._change_owner = os.geteuid() == 0
        self._open: dict[str, int] = {}
        self._parent_key: tuple[str, tuple[bytes, ...]] | None = None
        self._parent_fd = -1
        self._file = -1
        self._pushed = 0
        # Times of directories change with every name in them, so they come last.
        self._directories: list[FileRecord] = []
        try:
            for place, root in self._roots.items():
                self._open[place] = os.open(to_bytes(root), _OPEN_DIRECTORY)
        except OSError as problem:
            self.close()
            raise self._failed(problem, to_bytes(root)) from problem

    def plain(self, record: FileRecord) -> None:
        if record.place not in self._roots:
            return
        parts = split_path(record.path)
        self.files += 1
        try:
            if record.type == DIRECTORY:
                if parts:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(parts[-1], 0o700, dir_fd=self._parent(record.place, parts))
                self._directories.append(record)
                return
            parent = self._parent(record.place, parts)
            if record.type == SYMLINK:
                os.symlink(to_bytes(record.target or ""), parts[-1], dir_fd=parent)
                self._dress(parts[-1], parent, record)
            else:
                self._link(record, parts[-1])
        except OSError as problem:
            raise self._failed(problem, self._path(record)) from problem

    def begin(self, record: FileRecord) -> None:
        if record.place not in self._roots:
            return
        parts = split_path(record.path)
        if not parts:
            raise RefusedError("A place is a file in this set", found=record.name, expected="a directory")
        self.files += 1
        self._pushed = 0
        try:
            self._file = os.open(parts[-1], _CREATE, 0o600, dir_fd=self._parent(record.place, parts))
        except OSError as problem:
            raise self._failed(problem, self._path(record)) from problem

    def write(self, offset: int, view: memoryview) -> None:
        if self._file < 0:
            return
        try:
            while view:
                done = os.pwrite(self._file, view, offset)
                offset += done
                self.bytes += done
                view = view[done:]
            self._push(offset)
        except OSError as problem:
            raise self._failed(problem, None) from problem

    def end(self, record: FileRecord) -> None:
        if self._file < 0:
            return
        try:
            # A hole at the end has no bytes that could have been written.
            os.ftruncate(self._file, record.size)
            if self._change_owner:
                os.fchown(self._file, *self._owners.of(record))
            # Nothing of a server runs with the rights of its file's owner.
            os.fchmod(self._file, record.mode & 0o777)
            os.utime(self._file, ns=(record.mtime_ns, record.mtime_ns))
            self._push(record.size, last=True)
        except OSError as problem:
            raise self._failed(problem, self._path(record)) from problem
        self._close_file()

    def _push(self, end: int, *, last: bool = False) -> None:
        """Have the disk begin with what is written, so that it is not idle until everything must be durable."""
        if end - self._pushed >= _WRITEBACK_STEP or last:
            os.posix_fadvise(self._file, self._pushed, end - self._pushed, os.POSIX_FADV_DONTNEED)
            self._pushed = end

    def finish(self) -> None:
        """Owner, mode and time of the directories; then everything is made durable."""
        for record in reversed(self._directories):
            parts = split_path(record.path)
            try:
                if parts:
                    self._dress(parts[-1], self._parent(record.place, parts), record)
                else:
                    self._dress_root(record)
            except OSError as problem:
                raise self._failed(problem, self._path(record)) from problem
        os.sync()

    def close(self) -> None:
        self._close_file()
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
            self._parent_fd, self._parent_key = -1, None
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def _close_file(self) -> None:
        if self._file >= 0:
            descriptor, self._file = self._file, -1
            os.close(descriptor)

    def _parent(self, place: str, parts: t.Sequence[bytes]) -> int:
        """The directory that holds the last component; made, private, where the archive has no entry for it."""
        key = (place, tuple(parts[:-1]))
        if key == self._parent_key:
            return self._parent_fd
        descriptor = os.dup(self._open[place])
        try:
            for part in parts[:-1]:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=descriptor)
                below = os.open(part, _OPEN_DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
        except BaseException:
            os.close(descriptor)
            raise
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._parent_key, self._parent_fd = key, descriptor
        return descriptor

    def _link(self, record: FileRecord, name: bytes) -> None:
        place, _slash, path = (record.link or "").partition("/")
        if place not in self._roots:
            raise ReplicaBackupError(
                f"{record.name} is a further name of {record.link}, which is not restored",
                expected="both names in places that are restored",
                file=record.name,
            )
        first = split_path(path)
        source = os.dup(self._parent(place, first))
        try:
            parent = self._parent(record.place, split_path(record.path))
            try:
                os.link(first[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            except OSError as problem:
                if problem.errno not in (errno.EXDEV, errno.EPERM):
                    raise
                # The two places were one file system where the set was made.
                self._copy(source, first[-1], parent, name, record)
        finally:
            os.close(source)

    def _copy(self, source: int, first: bytes, parent: int, name: bytes, record: FileRecord) -> None:
        reading = os.open(first, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        with (
            os.fdopen(reading, "rb") as reader,
            os.fdopen(os.open(name, _CREATE, 0o600, dir_fd=parent), "wb") as writer,
        ):
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            self.bytes += record.size
            self._file, self._pushed = os.dup(writer.fileno()), 0
        self.end(record)

    def _dress(self, name: bytes, parent: int, record: FileRecord) -> None:
        if self._change_owner:
            user, group = self._owners.of(record)
            os.chown(name, user, group, dir_fd=parent, follow_symlinks=False)
        if record.type != SYMLINK:
            descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
            try:
                os.fchmod(descriptor, record.mode)
            finally:
                os.close(descriptor)
        os.utime(name, ns=(record.mtime_ns, record.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _dress_root(self, record: FileRecord) -> None:
        descriptor = self._open[record.place]
        if self._change_owner:
            os.fchown(descriptor, *self._owners.of(record))
        os.fchmod(descriptor, record.mode)
        os.utime(descriptor, ns=(record.mtime_ns, record.mtime_ns))

    def _path(self, record: FileRecord) -> bytes:
        return os.path.join(to_bytes(self._roots[record.place]), to_bytes(record.path))

    def _failed(self, problem: OSError, path: bytes | None) -> ReplicaBackupError:
        where = "a restored file" if path is None else to_text(path)
        name = errno.errorcode.get(problem.errno or 0, "unknown error")
        free = None
        with contextlib.suppress(OSError, StopIteration):
            numbers = os.fstatvfs(self._file if self._file >= 0 else next(iter(self._open.values())))
            free = numbers.f_bavail * numbers.f_frsize
        if problem.errno in _FULL:
            return ReplicaBackupError(
                f"No room for {where}: {problem.strerror} ({name})",
                found=f"{self.bytes} bytes written, "
                + ("free bytes unknown" if free is None else f"{free} bytes free"),
                expected="room for all files of the set",
                errno=name,
                free_bytes=free,
            )
        if problem.errno in (errno.EEXIST, errno.ELOOP, errno.ENOTDIR):
            return ReplicaBackupError(
                f"{where} cannot be laid down: something is in the way",
                found=f"{problem.strerror} ({name})",
                expected="an empty directory that nobody else writes to",
                errno=name,
            )
        return ReplicaBackupError(
            f"{where} cannot be laid down",
            found=f"{problem.strerror} ({name})",
            expected="a write without error",
            errno=name,
        )


def names_by_place(records: t.Iterable[FileRecord]) -> dict[str, tuple[int, int]]:
    """Per place the number of names and the logical bytes of its files; checks every name on the way."""
    found: dict[str, tuple[int, int]] = {}
    for record in records:
        split_path(record.path)
        if record.link is not None:
            split_path(record.link.partition("/")[2])
        count, size = found.get(record.place, (0, 0))
        found[record.place] = (count + 1, size + (record.size if record.link is None else 0))
    return found
