# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a set while they are written: private, never over an existing one, hashed, named when durable."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

PARTIAL_SUFFIX = ".partial"
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Long enough that the kernel writes in large runs, short enough that the final fsync has little left to do.
_WRITEBACK_STEP = 32 * 1024 * 1024
_LINES = 64 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Part:
    """A finished file of a set: its name there, size in bytes, SHA-256 (hex) of its bytes."""

    name: str
    bytes: int
    sha256: str


def storage_error(problem: OSError, path: str, written: int) -> ReplicaBackupError:
    """Say what a failed write means. ``written`` is how many bytes of ``path`` had been taken before."""
    name = errno.errorcode.get(problem.errno or 0, "unknown error")
    directory = os.path.dirname(path)
    try:
        numbers = os.statvfs(directory)
        free: int | None = numbers.f_bavail * numbers.f_frsize
    except OSError:
        free = None
    if problem.errno in _FULL:
        reasons = {
            errno.ENOSPC: "the file system is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EFBIG: "the file may not grow further (limit of the process or of the file system)",
        }
        message = f"No room for the archive in {directory}: {reasons[problem.errno]} ({name})"
        expected = "room for the whole archive below replica_backup_spool_dir"
        found = f"{written} bytes of {os.path.basename(path)} written, " + (
            "free bytes unknown" if free is None else f"{free} bytes free"
        )
    elif problem.errno == errno.EROFS:
        message = f"The spool is on a read-only file system: {directory} ({name})"
        expected, found = "a replica_backup_spool_dir that can be written", "read-only file system"
    else:
        message = f"Writing {path} failed: {problem.strerror} ({name})"
        expected, found = "a write without error", f"{name} after {written} bytes"
    return ReplicaBackupError(
        message,
        found=found,
        expected=expected,
        errno=name,
        free_bytes=free,
        bytes_written=written,
    )


def make_private_directory(path: str) -> None:
    """Make ``path`` a directory with mode 0700, whatever the umask or its mode; a link or a file there is an error."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            raise ReplicaBackupError(
                f"{path} is in the way", found="not a directory", expected="a directory or nothing"
            ) from None
        if status.st_uid != os.geteuid():
            raise ReplicaBackupError(
                f"{path} is in the way",
                found=f"a directory of user {status.st_uid}",
                expected=f"a directory of user {os.geteuid()}, or nothing",
            ) from None
    except OSError as problem:
        raise storage_error(problem, path, 0) from problem
    try:
        if stat.S_IMODE(os.lstat(path).st_mode) != 0o700:
            os.chmod(path, 0o700)
    except OSError as problem:
        raise storage_error(problem, path, 0) from problem


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class HashedFile:
    """A new file that appears under its own name only when it is complete and on disk.

    Until :meth:`publish` it is called ``NAME.partial``; :meth:`discard` removes it.
    """

    def __init__(self, path: str, *, mode: int = 0o600) -> None:
        self.path = path
        self.partial = path + PARTIAL_SUFFIX
        self.bytes = 0
        self._digest = hashlib.sha256()
        self._pushed = 0
        self._lines = bytearray()
        try:
            self._fd = os.open(self.partial, _CREATE, mode)
        except OSError as problem:
            raise storage_error(problem, self.partial, 0) from problem
        os.fchmod(self._fd, mode)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write everything or raise; returns the number of bytes, as ``zipfile`` expects."""
        view = memoryview(data).cast("B")
        size = len(view)
        self._digest.update(view)
        try:
            while view:
                done = os.write(self._fd, view)
                self.bytes += done
                view = view[done:]
        except OSError as problem:
            raise storage_error(problem, self.partial, self.bytes) from problem
        if self.bytes - self._pushed >= _WRITEBACK_STEP:
            # Starts the write to disk without waiting, and keeps the archive from pushing the server's pages out.
            os.posix_fadvise(self._fd, 0, self.bytes, os.POSIX_FADV_DONTNEED)
            self._pushed = self.bytes
        return size

    def write_line(self, line: bytes) -> None:
        """As :meth:`write` for many short pieces: they are gathered first."""
        self._lines += line
        if len(self._lines) >= _LINES:
            self.flush()

    def flush(self) -> None:
        """Write out what :meth:`write_line` has gathered."""
        if self._lines:
            lines, self._lines = self._lines, bytearray()
            self.write(lines)

    def publish(self) -> Part:
        """Sync, give the file its name, sync the directory."""
        self.flush()
        try:
            os.fsync(self._fd)
            self._close()
            os.rename(self.partial, self.path)
            sync_directory(os.path.dirname(self.path))
        except OSError as problem:
            raise storage_error(problem, self.partial, self.bytes) from problem
        return Part(os.path.basename(self.path), self.bytes, self._digest.hexdigest())

    def discard(self) -> None:
        """Close and remove, whatever state it is in; safe to call twice and after :meth:`publish`."""
        self._close()
        remove_if_there(self.partial)

    def _close(self) -> None:
        if self._fd >= 0:
            descriptor, self._fd = self._fd, -1
            os.close(descriptor)


def remove_if_there(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def remove_tree(path: str) -> bool:
    """Remove a real directory with everything in it; never follows a symbolic link. True when there was one."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(status.st_mode):
        raise ReplicaBackupError(
            f"{path} is not removed", found="a symbolic link or a file", expected="a real directory"
        )
    parent = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _remove_below(parent, os.fsencode(os.path.basename(path)))
    finally:
        os.close(parent)
    return True


def _remove_below(parent: int, name: bytes) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        for entry in os.listdir(descriptor):
            raw = os.fsencode(entry)
            if stat.S_ISDIR(os.stat(raw, dir_fd=descriptor, follow_symlinks=False).st_mode):
                _remove_below(descriptor, raw)
            else:
                os.unlink(raw, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=parent)
