# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain directory as one stream, so that it passes the way that an archive does.

The stream has the data of the regular files in the order of the manifest and nothing else: names, links, directories
and attributes are the manifest's. A file is a sequence of runs, each with its offset and length before it (two unsigned
64-bit numbers, big-endian); a run of length 0 ends it, and its offset is the size of the file. Holes are left out.
"""

from __future__ import annotations

import struct
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.compress import CHUNK
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import Part
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.reader import (
    CopyArchive,
    Data,
    Member,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import FILE, FileRecord
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.stream import ByteStream, read_exactly
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.tarformat import broken

_RUN = struct.Struct(">QQ")


def send(path: str, records: t.Iterable[FileRecord]) -> t.Iterator[bytes | memoryview]:
    """The stream of the directory ``path``. A view is good until the next one is taken.

    Raises ReplicaBackupError when the directory does not hold what ``records`` (those of its manifest) name.
    """
    again: list[FileRecord] = []

    def noted() -> t.Iterator[FileRecord]:
        for record in records:
            again[:] = [record]
            yield record

    archive = CopyArchive(path, noted())
    for member in archive:
        (record,) = again
        if member.type != record.type or (record.link is None and member.type == FILE and member.size != record.size):
            raise broken(f"{record.name} of the copy is not the file that its manifest lists")
        if record.type != FILE or record.link is not None:
            continue
        for offset, view in archive.data():
            yield _RUN.pack(offset, len(view))
            yield view
        yield _RUN.pack(record.size, 0)


class StreamedCopy:
    """The :class:`~.reader.Reader` of a plain directory whose names come from its manifest.

    ``contents`` gives the data of a record's file; ``end`` is called after the last one.
    """

    def __init__(
        self,
        name: str,
        records: t.Iterable[FileRecord],
        contents: t.Callable[[FileRecord], Data],
        end: t.Callable[[], None],
        close: t.Callable[[], None],
        cancel: t.Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._records = records
        self._contents = contents
        self._end = end
        self._close = close
        self._cancel = cancel
        self._current: FileRecord | None = None

    def __iter__(self) -> t.Iterator[Member]:
        for record in self._records:
            self._current = record
            yield Member(
                name=record.name,
                type=record.type,
                size=record.size if record.type == FILE else 0,
                mode=record.mode,
                uid=record.uid,
                gid=record.gid,
                mtime_ns=record.mtime_ns,
                target=record.target,
                link=record.link,
            )
        self._end()

    def data(self) -> Data:
        return self._contents(t.cast(FileRecord, self._current))

    def keep(self, give_back: t.Callable[[t.Callable[[], None]], None]) -> bool:
        return False

    def finish(self) -> Part:
        return Part(self._name, 0, "")

    def cancel(self) -> None:
        self._cancel()

    def close(self) -> None:
        self._close()


def receive(name: str, stream: ByteStream, records: t.Iterable[FileRecord]) -> StreamedCopy:
    """The other end of :func:`send`."""
    buffer = memoryview(bytearray(CHUNK))

    def contents(record: FileRecord) -> Data:
        reached = 0
        while True:
            offset, length = _RUN.unpack(read_exactly(stream, _RUN.size))
            if not length:
                if offset != record.size:
                    raise broken(f"{record.name} has {offset} bytes in the stream, {record.size} in the manifest")
                return
            if offset < reached or offset + length > record.size:
                raise broken(f"the data of {record.name} in the stream do not fit its size")
            reached = offset + length
            while offset < reached:
                count = stream.readinto(buffer[: reached - offset])
                if not count:
                    raise broken(f"the stream ends in the middle of {record.name}")
                yield offset, buffer[:count]
                offset += count

    def end() -> None:
        if stream.readinto(buffer[:1]):
            raise broken("data after the end of the stream")

    return StreamedCopy(name, records, contents, end, stream.close, stream.cancel)
