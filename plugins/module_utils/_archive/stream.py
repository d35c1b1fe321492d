# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the bytes of an archive come from: a file, a pipe, pieces that arrive one by one."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError


class ByteStream(t.Protocol):
    """Bytes from front to back, once. ``name`` is for messages."""

    name: str

    def readinto(self, view: memoryview) -> int:
        """Fill ``view`` from its start; returns the number of bytes, 0 at the true end alone.

        Raises ReplicaBackupError when the stream was interrupted: a short stream is never an end.
        """

    def cancel(self) -> None:
        """From any thread: a read that waits ends soon, whatever with."""

    def close(self) -> None:
        """When nobody reads any more; safe to call twice."""


class FileStream:
    """A regular file; what is read comes from the disk, not from memory."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed in close()
        # Only clean pages can be dropped, so that what is read afterwards comes from the disk.
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def readinto(self, view: memoryview) -> int:
        return os.readv(self._file.fileno(), [view])

    def cancel(self) -> None:
        """Reading a file does not wait for anybody."""

    def close(self) -> None:
        self._file.close()


class SizedStream:
    """Another stream that must have exactly ``size`` bytes: what ends early or goes on is an error."""

    def __init__(self, stream: ByteStream, size: int) -> None:
        self.name = stream.name
        self._stream = stream
        self._size = size
        self.bytes = 0

    def readinto(self, view: memoryview) -> int:
        count = self._stream.readinto(view)
        self.bytes += count
        if (self.bytes > self._size) if count else (self.bytes != self._size):
            how = "goes on after its end" if count else "ended too early"
            raise ReplicaBackupError(f"{self.name} {how}", found=f"{self.bytes} bytes", expected=f"{self._size} bytes")
        return count

    def cancel(self) -> None:
        self._stream.cancel()

    def close(self) -> None:
        self._stream.close()


class Section:
    """The next ``size`` bytes of a stream that goes on after them, except for the ``last`` section of it.

    Closing a section that was read to its end leaves the stream to the next one.
    """

    def __init__(self, stream: ByteStream, size: int, *, last: bool) -> None:
        self.name = stream.name
        self._stream = stream
        self._left = size
        self._last = last

    def readinto(self, view: memoryview) -> int:
        if self._left == 0:
            # What goes on after its end is not the set that it should be.
            return self._stream.readinto(view) if self._last else 0
        count = self._stream.readinto(view[: self._left])
        self._left -= count
        return count

    def cancel(self) -> None:
        if self._left:
            self._stream.cancel()

    def close(self) -> None:
        """The stream is closed by whoever opened it."""


def read_exactly(stream: ByteStream, size: int) -> bytes:
    """The next ``size`` bytes. Raises ReplicaBackupError when there are fewer."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    filled = 0
    while filled < size:
        count = stream.readinto(view[filled:])
        if not count:
            raise ReplicaBackupError(
                f"{stream.name} ended too early", found=f"{filled} bytes", expected=f"{size} more bytes"
            )
        filled += count
    return bytes(buffer)
