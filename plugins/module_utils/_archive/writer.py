# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walk over the files of a stopped server: read once, hashed on the way, proven not to have changed meanwhile."""

from __future__ import annotations

import hashlib
import os
import stat
import time
import typing as t
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import Output
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import HashedFile
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import (
    DIRECTORY,
    FILE,
    ROOT_PATH,
    SYMLINK,
    FileRecord,
    ListedFile,
    member_name,
    sums_line,
    to_bytes,
    to_text,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import (
    Extents,
    Readable,
    Seen,
    Source,
    changed,
    find_extents,
    vanished,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

_ZERO = memoryview(bytes(1024 * 1024))
_READ_AHEAD_FROM = 4 * 1024 * 1024


@dataclass
class PlaceTotals:
    """Names and logical bytes of one place."""

    count: int = 0
    bytes: int = 0


@dataclass
class Totals:
    """What went into the archive: ``count`` names of any kind, ``files`` regular ones, ``bytes`` logical bytes."""

    count: int = 0
    files: int = 0
    bytes: int = 0
    places: dict[str, PlaceTotals] = field(default_factory=dict)

    def add(self, record: FileRecord) -> None:
        place = self.places.setdefault(record.place, PlaceTotals())
        size = record.size if record.link is None else 0
        self.count += 1
        self.files += record.type == FILE
        self.bytes += size
        place.count += 1
        place.bytes += size

    def merge(self, other: Totals) -> None:
        """Add what another has counted."""
        self.count += other.count
        self.files += other.files
        self.bytes += other.bytes
        for name, there in other.places.items():
            place = self.places.setdefault(name, PlaceTotals())
            place.count += there.count
            place.bytes += there.bytes


class Watch:
    """Calls ``check`` (which raises when the work must stop) at most every ``interval`` seconds.

    ``done`` counts the bytes of data that have been read; ``pace`` is called with each of them, and may wait.
    """

    def __init__(
        self,
        check: t.Callable[[], None],
        interval: float = 2.0,
        pace: t.Callable[[int], None] | None = None,
    ) -> None:
        self._check = check
        self._interval = interval
        self._pace = pace
        self._next = 0.0
        self.done = 0

    def tick(self, size: int = 0) -> None:
        """Another ``size`` bytes have been read."""
        self.done += size
        if size and self._pace is not None:
            self._pace(size)
        now = time.monotonic()
        if now >= self._next:
            self._check()
            self._next = time.monotonic() + self._interval


@dataclass(frozen=True)
class Notes:
    """Where the walk writes down what it did: records for the manifest, sums, and the state of every name."""

    records: HashedFile
    sums: HashedFile
    seen: HashedFile

    def add(self, record: FileRecord, seen: Seen) -> None:
        self.records.write_line(record.to_line())
        self.seen.write_line(seen.pack())
        if record.sha256 is not None:
            self.sums.write_line(sums_line(record.sha256, record.name))


def write_files(
    entries: t.Iterable[ListedFile], source: Readable, output: Output, notes: Notes, watch: Watch
) -> Totals:
    """Put every entry into ``output``, in order. Neither finishes nor aborts it.

    Raises :class:`ReplicaBackupError` naming the file when one vanished, is not as listed, or changes meanwhile.
    """
    totals = Totals()
    writer = FileWriter(source, output, watch)
    for entry in entries:
        record, seen = writer.put(entry)
        totals.add(record)
        notes.add(record, seen)
    return totals


class FileWriter:
    """Puts one entry after the other into an output, and knows which names belong to the same file."""

    def __init__(self, source: Readable, output: Output, watch: Watch) -> None:
        self._source = source
        self._output = output
        self._watch = watch
        self._names: dict[tuple[int, int], tuple[str, str | None]] = {}

    def put(self, entry: ListedFile) -> tuple[FileRecord, Seen]:
        """What was put in, and what the file was. Raises as :func:`write_files` does."""
        self._watch.tick()
        if entry.type == FILE:
            return self._put_file(entry)
        source = self._source
        seen = source.stat(entry)
        record = _record(entry, seen)
        if entry.type == SYMLINK:
            record = replace(record, target=to_text(source.read_link(entry)))
        elif entry.type != DIRECTORY:
            raise ReplicaBackupError(
                f"{source.absolute(entry)} cannot be archived",
                found=entry.type,
                expected="file, directory or symlink",
            )
        self._output.plain(record)
        return record, seen

    def _put_file(self, entry: ListedFile) -> tuple[FileRecord, Seen]:
        descriptor, seen = self._source.open(entry)
        try:
            record = _record(entry, seen)
            first = self._names.get((seen.device, seen.inode)) if seen.links > 1 else None
            if first is not None:
                record = replace(record, sha256=first[1], link=first[0])
            if first is None or not self._output.keeps_links:
                digest = _copy_file(descriptor, record, self._source.absolute(entry), self._output, self._watch)
                record = replace(record, sha256=digest)
            else:
                self._output.plain(record)
            if seen.links > 1 and first is None:
                self._names[seen.device, seen.inode] = (record.name, record.sha256)
            return record, seen
        finally:
            os.close(descriptor)


def _record(entry: ListedFile, seen: Seen) -> FileRecord:
    """Observed facts; the names of owner and group come from the list, which looked them up."""
    return FileRecord(
        place=entry.place,
        path=entry.path or ROOT_PATH,
        type=entry.type,
        size=seen.size if entry.type == FILE else 0,
        mode=stat.S_IMODE(seen.mode),
        uid=seen.uid,
        gid=seen.gid,
        owner=entry.owner,
        group=entry.group,
        mtime_ns=seen.mtime_ns,
        sha256=None,
        role=entry.role,
    )


def _copy_file(descriptor: int, record: FileRecord, path: str, output: Output, watch: Watch) -> str:
    """One regular file; returns its SHA-256 (hex)."""
    seen = Seen.of(os.fstat(descriptor))
    extents: Extents | None = None
    # Blocks are counted in 512 bytes; fewer than the size needs means holes (or a file system that compresses).
    if os.fstat(descriptor).st_blocks * 512 < record.size:
        extents = find_extents(descriptor, record.size)
    if record.size >= _READ_AHEAD_FROM:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    digest = hashlib.sha256()
    output.begin(record, extents)
    position = 0
    ranges: t.Iterable[tuple[int, int]] = ((0, record.size),) if extents is None else extents
    for offset, length in ranges:
        _zeros(digest, output, offset - position, watch)
        position = offset
        end = offset + length
        while position < end:
            room = output.space()
            if len(room) > end - position:
                room = room[: end - position]
            try:
                size = os.preadv(descriptor, [room], position)
            except OSError as problem:
                raise ReplicaBackupError(
                    f"{path} cannot be read: {problem.strerror}",
                    found=f"{problem.strerror} at byte {position}",
                    expected=f"{record.size} bytes",
                    file=path,
                ) from problem
            if size == 0:
                raise changed(path, "size", record.size, position)
            digest.update(room[:size])
            output.commit(size)
            position += size
            watch.tick(size)
    _zeros(digest, output, record.size - position, watch)
    output.end()
    seen.compare(path, Seen.of(os.fstat(descriptor)))
    return digest.hexdigest()


def _zeros(digest: t.Any, output: Output, size: int, watch: Watch) -> None:
    if size > 0:
        output.hole(size)
    while size > 0:
        count = min(size, len(_ZERO))
        digest.update(_ZERO[:count])
        size -= count
        watch.tick(count)


def compare_again(
    entries: t.Iterable[ListedFile], source: Source, records: t.Iterable[FileRecord], seen_path: str, watch: Watch
) -> None:
    """Walk the same list a second time and compare every name with what it was when it was archived.

    ``entries`` must be taken from disk anew, in the same order. A server that came up and went down again in between
    has touched something; the error names the first such file.
    """
    with open(seen_path, "rb") as stream:
        for entry, record in zip_longest(entries, records):
            watch.tick()
            if entry is None or record is None or member_name(entry.place, entry.path) != record.name:
                raise _other_names(entry, record, source)
            before = Seen.unpack(stream.read(Seen.LENGTH))
            now = source.stat(entry)
            before.compare(source.absolute(entry), now, times_of_directories=not source.is_shared(entry.place))


def _other_names(entry: ListedFile | None, record: FileRecord | None, source: Source) -> ReplicaBackupError:
    """Which of two names that should be one is the news: the archived one that is gone, or a new one."""
    if record is not None and not os.path.lexists(to_bytes(source.absolute(record))):
        return vanished(source.absolute(record))
    if entry is None:
        return vanished(source.absolute(t.cast(FileRecord, record)))
    name = source.absolute(entry)
    return ReplicaBackupError(
        f"{name} appeared while the files were archived",
        found=name,
        expected="the same files as at the beginning",
        file=name,
    )
