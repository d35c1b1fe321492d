# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a restore reads a set from. Whatever it is, the data pass once, front to back, and no second copy is kept."""

from __future__ import annotations

import abc
import os
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import output
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.backup_set import (
    BackupSet,
    open_manifest,
    open_set,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.compress import CHUNK
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import COPY, ZIP
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.reader import Data, Reader, ZipArchive
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import FileRecord
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.stream import (
    ByteStream,
    Section,
    SizedStream,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.streamed_copy import StreamedCopy
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import MANIFEST_NAME, SUMS_NAME
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import rclone
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.inbox import PieceStream
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.rclone import RcloneStream, Remote


class Feed(t.Protocol):
    """A set within reach. ``where`` names it for people; ``backup`` has its manifest on this host.

    ``part_on_disk`` says whether the data file can be opened a second time (to look at one that is damaged);
    ``in_turn`` that its parts come one after the other, so that each is read to its end before the next is opened.
    """

    where: str
    backup: BackupSet
    part_on_disk: bool
    in_turn: bool

    def reader(self, number: int = 0) -> Reader:
        """Open the data of a part: once only. Raises RefusedError when what unpacks them is missing on this host."""

    def close(self) -> None:
        """Remove what was brought here for reading; safe at any time, also twice."""


class LocalFeed:
    """A set in a directory of this host, also a mounted one."""

    part_on_disk = True
    in_turn = False

    def __init__(self, directory: str) -> None:
        self.where = directory
        self.backup = open_set(directory)

    def reader(self, number: int = 0) -> Reader:
        return self.backup.reader(number=number)

    def close(self) -> None:
        """Nothing was brought here."""


class ManifestFeed:
    """A set of which only the manifest is here, in ``directory``: enough to say what a restore would do."""

    part_on_disk = False
    in_turn = False

    def __init__(self, directory: str, where: str) -> None:
        self.where = where
        self.backup = open_manifest(directory)

    def reader(self, number: int = 0) -> Reader:
        raise ReplicaBackupError("Only the manifest of this set is here", found=self.where, expected="a plan")

    def close(self) -> None:
        """What was brought here belongs to whoever made the directory."""


class _StreamFeed(abc.ABC):
    """A set whose data come as a stream; its manifest lies in ``directory``, a private one on this host."""

    part_on_disk = False
    in_turn = False

    def __init__(self, directory: str, where: str) -> None:
        self.where = where
        self.backup = open_manifest(directory)
        self._spooled = os.path.join(directory, self.backup.part.name)
        self._open: list[ByteStream] = []

    def reader(self, number: int = 0) -> Reader:
        if self.backup.part.form == ZIP:
            return self._whole()
        return self.backup.reader(self._noted(self._stream(number)), number)

    def close(self) -> None:
        while self._open:
            stream = self._open.pop()
            stream.cancel()
            stream.close()
        if self.backup.part.form == ZIP:
            output.remove_if_there(self._spooled)
            output.remove_if_there(self._spooled + output.PARTIAL_SUFFIX)

    def _noted(self, stream: ByteStream) -> ByteStream:
        """To be closed at the end, whatever becomes of its reader."""
        self._open.append(stream)
        return stream

    @abc.abstractmethod
    def _stream(self, number: int = 0) -> ByteStream:
        """Begin the data of a part, from their first byte."""

    def _whole(self) -> Reader:
        """A zip file has its directory at its end: it is the one format that is brought here as a whole first."""
        part, directory = self.backup.part, os.path.dirname(self._spooled)
        room = os.statvfs(directory)
        free = room.f_bavail * room.f_frsize
        if free < part.bytes:
            raise RefusedError(
                f"There is not enough room in {directory} for {part.name}, which is read as a whole file",
                found=f"{free} bytes free",
                expected=f"{part.bytes} bytes",
                next_command="make room there, or restore from a path on this host",
                rule="space",
            )
        stream = self._noted(SizedStream(self._stream(), part.bytes))
        view = memoryview(bytearray(CHUNK))
        target = output.HashedFile(self._spooled)
        try:
            while count := stream.readinto(view):
                target.write(view[:count])
            target.publish()
        finally:
            target.discard()
        return ZipArchive(self._spooled)


class PieceFeed(_StreamFeed):
    """A set that the controller sends in pieces to ``inbox``; nothing for ``patience`` seconds ends it.

    Its parts come as one stream, one after the other.
    """

    in_turn = True

    def __init__(self, directory: str, where: str, inbox: str, patience: float) -> None:
        super().__init__(directory, where)
        self._inbox = inbox
        self._patience = patience
        self._pieces: PieceStream | None = None

    def _stream(self, number: int = 0) -> ByteStream:
        if self._pieces is None:
            self._pieces = PieceStream(self._inbox, self._patience, f"{self.backup.label} from {self.where}")
            self._noted(self._pieces)
        if len(self.backup.parts) == 1:
            return self._pieces
        last = number == len(self.backup.parts) - 1
        return Section(self._pieces, self.backup.parts[number].bytes, last=last)


class RcloneFeed(_StreamFeed):
    """A set in an object store. Its manifest is brought to ``directory``, a private one on this host."""

    def __init__(self, remote: Remote, directory: str) -> None:
        self._remote = remote
        self._sizes = rclone.list_names(remote)
        if MANIFEST_NAME not in self._sizes:
            raise RefusedError(
                f"{remote.path} is no backup: it has no manifest, which is written last",
                found=", ".join(sorted(self._sizes)) or "no files",
                expected=MANIFEST_NAME,
                rule="manifest",
            )
        for name in (MANIFEST_NAME, SUMS_NAME):
            if name in self._sizes:
                self._bring(name, directory)
        super().__init__(directory, remote.path)
        for part in self.backup.parts:
            if part.form != COPY and self._sizes.get(part.name) != part.bytes:
                raise RefusedError(
                    f"{part.name} in {remote.path} is missing or not the one that was written",
                    found=f"{self._sizes[part.name]} bytes" if part.name in self._sizes else "no such file",
                    expected=f"{part.bytes} bytes",
                    rule="manifest",
                )

    def reader(self, number: int = 0) -> Reader:
        if self.backup.part.form != COPY:
            return super().reader(number)
        name = self.backup.part.name
        return StreamedCopy(name, self.backup.records(), self._file, lambda: None, self.close)

    def _stream(self, number: int = 0) -> ByteStream:
        part = self.backup.parts[number]
        return RcloneStream(self._remote, part.name, part.bytes)

    def _file(self, record: FileRecord) -> Data:
        if not record.size:
            return
        stream = SizedStream(
            RcloneStream(self._remote, f"{self.backup.part.name}/{record.name}", record.size), record.size
        )
        self._noted(stream)
        view = memoryview(bytearray(CHUNK))
        offset = 0
        while count := stream.readinto(view):
            yield offset, view[:count]
            offset += count
        self._open.remove(stream)
        stream.close()

    def _bring(self, name: str, directory: str) -> None:
        size = self._sizes[name]
        stream = SizedStream(RcloneStream(self._remote, name, size), size)
        target = output.HashedFile(os.path.join(directory, name))
        view = memoryview(bytearray(CHUNK))
        try:
            while count := stream.readinto(view):
                target.write(view[:count])
            target.publish()
        finally:
            stream.close()
            target.discard()
