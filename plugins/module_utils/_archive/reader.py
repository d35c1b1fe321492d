# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading an archive back, whatever its shape: members in order, with their data."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import typing as t
import zipfile
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.compress import (
    CHUNK,
    Compressor,
    UnpackedInput,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import Part
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.readahead import ReadAhead
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import (
    DIRECTORY,
    FILE,
    SYMLINK,
    FileRecord,
    to_bytes,
    to_text,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import find_extents
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.stream import ByteStream
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.tarformat import (
    TYPE_DIRECTORY,
    TYPE_FILE,
    TYPE_HARDLINK,
    TYPE_SYMLINK,
    TarMember,
    TarReader,
    broken,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

_TAR_KINDS = {TYPE_FILE: FILE, TYPE_HARDLINK: FILE, TYPE_SYMLINK: SYMLINK, TYPE_DIRECTORY: DIRECTORY}
_ZIP_KINDS = {stat.S_IFREG: FILE, stat.S_IFLNK: SYMLINK, stat.S_IFDIR: DIRECTORY}
_ZIP_UTF8 = 0x800

Data = t.Iterator[tuple[int, memoryview]]


@dataclass(frozen=True)
class Member:
    """A name in the archive.

    ``mtime_ns`` is None where the format keeps less than that (zip: whole seconds, see the manifest). ``link`` is
    the earlier member that a further name of the same file repeats (tar only), ``target`` a symbolic link's text.
    """

    name: str
    type: str
    size: int
    mode: int
    uid: int | None
    gid: int | None
    mtime_ns: int | None
    target: str | None = None
    link: str | None = None


class Reader(t.Protocol):
    """Iterate over members; take ``data`` of a regular file (not of a further name) before the next one."""

    def __iter__(self) -> t.Iterator[Member]: ...

    def data(self) -> Data:
        """Offset and bytes, ascending; what is left out is zeros. A view is good until the next one is taken."""

    def keep(self, give_back: t.Callable[[t.Callable[[], None]], None]) -> bool:
        """Whether views stay good for longer: until that is called which is given to ``give_back`` after them."""

    def finish(self) -> Part:
        """After the last member: the archive file's own name, size and SHA-256."""

    def cancel(self) -> None:
        """From any thread: whoever reads has an error soon."""

    def close(self) -> None: ...


class TarArchive:
    """A tar file, decompressed by the tool that made it. With ``stream`` its bytes come from there.

    ``chunk``: bytes of one of its buffers.
    """

    def __init__(
        self, path: str, compressor: Compressor | None, stream: ByteStream | None = None, chunk: int = CHUNK
    ) -> None:
        self._name = os.path.basename(path)
        self._input = UnpackedInput(path, compressor, stream)
        self._ahead = ReadAhead(self._input.readinto, size=chunk)
        self._reader = TarReader(self._ahead.following)
        self._current: TarMember | None = None

    def __iter__(self) -> t.Iterator[Member]:
        for member in self._guarded():
            self._current = member
            link = to_text(member.link)
            yield Member(
                name=to_text(member.name),
                type=_TAR_KINDS[member.type],
                size=member.size,
                mode=member.mode,
                uid=member.uid,
                gid=member.gid,
                mtime_ns=member.mtime_ns,
                target=link if member.type == TYPE_SYMLINK else None,
                link=link if member.type == TYPE_HARDLINK else None,
            )

    def _guarded(self) -> t.Iterator[TarMember]:
        try:
            yield from self._reader
        except ReplicaBackupError:
            # When the decompressor failed, that is the cause and what it says is worth more.
            self._input.complain()
            raise

    def data(self) -> Data:
        try:
            yield from self._reader.data(t.cast(TarMember, self._current))
        except ReplicaBackupError:
            self._input.complain()
            raise

    def keep(self, give_back: t.Callable[[t.Callable[[], None]], None]) -> bool:
        self._ahead.give_back = give_back
        return True

    def finish(self) -> Part:
        digest = self._input.finish()
        return Part(self._name, self._input.bytes, digest)

    def cancel(self) -> None:
        self._input.cancel()

    def close(self) -> None:
        self._input.cancel()
        self._ahead.close()
        self._input.close()


class ZipArchive:
    """A zip file as this collection writes it; the names come from its directory, in the order of writing.

    It is read twice; ``spend`` is told of each buffer of the first time, and may wait.
    """

    def __init__(self, path: str, spend: t.Callable[[int], None] | None = None) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._bytes = 0
        with open(path, "rb", buffering=0) as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            buffer = bytearray(CHUNK)
            view = memoryview(buffer)
            while size := stream.readinto(buffer):
                self._digest.update(view[:size])
                self._bytes += size
                if spend is not None:
                    spend(size)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as problem:
            raise broken(str(problem)) from problem
        self._current: zipfile.ZipInfo | None = None

    def __iter__(self) -> t.Iterator[Member]:
        for info in self._zip.infolist():
            self._current = info
            raw = info.orig_filename.encode("utf-8" if info.flag_bits & _ZIP_UTF8 else "cp437")
            mode = info.external_attr >> 16
            kind = _ZIP_KINDS.get(stat.S_IFMT(mode))
            if kind is None:
                raise broken(f"a member of unknown type: {info.filename!r}")
            uid, gid = _zip_owner(info.extra)
            yield Member(
                name=to_text(raw.rstrip(b"/") if kind == DIRECTORY else raw),
                type=kind,
                size=info.file_size if kind == FILE else 0,
                mode=stat.S_IMODE(mode),
                uid=uid,
                gid=gid,
                mtime_ns=None,
                target=to_text(b"".join(bytes(view) for _offset, view in self.data())) if kind == SYMLINK else None,
            )

    def data(self) -> Data:
        offset = 0
        buffer = memoryview(bytearray(CHUNK))
        try:
            with self._zip.open(t.cast(zipfile.ZipInfo, self._current)) as stream:
                while size := t.cast(t.Any, stream).readinto(buffer):
                    yield offset, buffer[:size]
                    offset += size
        except (zipfile.BadZipFile, zipfile.zlib.error, EOFError, OSError) as problem:  # type: ignore[attr-defined]
            raise broken(f"{t.cast(zipfile.ZipInfo, self._current).filename!r}: {problem}") from problem

    def keep(self, give_back: t.Callable[[t.Callable[[], None]], None]) -> bool:
        return False

    def finish(self) -> Part:
        return Part(os.path.basename(self._path), self._bytes, self._digest.hexdigest())

    def cancel(self) -> None:
        """Reading a file does not wait for anybody."""

    def close(self) -> None:
        self._zip.close()


class Paced:
    """Another reader, whose data are held to what ``spend`` allows: it is told of the bytes, and may wait."""

    def __init__(self, reader: Reader, spend: t.Callable[[int], None]) -> None:
        self._reader = reader
        self._spend = spend
        self.keep = reader.keep
        self.finish = reader.finish
        self.cancel = reader.cancel
        self.close = reader.close

    def __iter__(self) -> t.Iterator[Member]:
        return iter(self._reader)

    def data(self) -> Data:
        for offset, view in self._reader.data():
            self._spend(len(view))
            yield offset, view


def _zip_owner(extra: bytes) -> tuple[int | None, int | None]:
    """User and group from Info-ZIP's ``ux`` field."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == 0x7875 and size == 11:
            _version, _length, uid, _length, gid = struct.unpack_from("<BBLBL", extra, 4)
            return uid, gid
        extra = extra[4 + size :]
    return None, None


def _cannot_be_read(problem: OSError) -> t.NoReturn:
    raise broken(f"{os.fsdecode(problem.filename)} cannot be read back: {problem.strerror}") from problem


class CopyArchive:
    """A plain directory; the order is that of ``records``, and regular files that they do not name are an error.

    Data not yet on disk are written there first, then dropped from memory, so that the disk's bytes are read.
    """

    def __init__(self, path: str, records: t.Iterable[FileRecord]) -> None:
        self._root = to_bytes(path)
        self._parent = b""
        self._records = records
        self._current = b""
        self._first: dict[tuple[int, int], str] = {}

    def __iter__(self) -> t.Iterator[Member]:
        count = 0
        for record in self._records:
            self._current = os.path.join(self._root, to_bytes(record.name))
            self._refuse_outside(record.name)
            try:
                status = os.lstat(self._current)
            except OSError as problem:
                raise broken(f"{record.name} is missing from the copy ({problem.strerror})") from problem
            kind = _ZIP_KINDS.get(stat.S_IFMT(status.st_mode))
            if kind is None:
                raise broken(f"{record.name} is a special file")
            count += kind != DIRECTORY
            link = None
            if kind == FILE and status.st_nlink > 1:
                known = self._first.setdefault((status.st_dev, status.st_ino), record.name)
                link = known if known != record.name else None
            if kind == DIRECTORY:
                _sync(self._current)
            yield Member(
                name=record.name,
                type=kind,
                size=status.st_size if kind == FILE else 0,
                mode=stat.S_IMODE(status.st_mode),
                uid=status.st_uid,
                gid=status.st_gid,
                mtime_ns=status.st_mtime_ns,
                target=to_text(os.readlink(self._current)) if kind == SYMLINK else None,
                link=link,
            )
        there = sum(
            len(files) + sum(os.path.islink(os.path.join(top, name)) for name in names)
            for top, names, files in os.walk(self._root, onerror=_cannot_be_read)
        )
        if there != count:
            raise broken(f"the copy holds {there} files and links, its list {count}")

    def _refuse_outside(self, name: str) -> None:
        """A list that somebody else has made must not have us read elsewhere: no "..", no link on the way."""
        relative = to_bytes(name)
        parent = os.path.dirname(relative)
        if any(part in (b"", b".", b"..") for part in relative.split(b"/")) or b"\0" in relative:
            raise broken(f"{name!r} leads out of the copy")
        if parent != self._parent:
            root = os.path.realpath(self._root)
            if os.path.realpath(os.path.join(root, parent)) != os.path.join(root, parent).rstrip(b"/"):
                raise broken(f"{name!r} leads out of the copy")
            self._parent = parent

    def data(self) -> Data:
        descriptor = os.open(self._current, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            size = os.fstat(descriptor).st_size
            extents = find_extents(descriptor, size)
            buffer = memoryview(bytearray(CHUNK))
            for offset, length in ((0, size),) if extents is None else extents:
                position, end = offset, offset + length
                while count := os.preadv(descriptor, [buffer[: end - position]], position):
                    yield position, buffer[:count]
                    position += count
        except OSError as problem:
            raise broken(f"{to_text(self._current)} cannot be read back: {problem.strerror}") from problem
        finally:
            os.close(descriptor)

    def keep(self, give_back: t.Callable[[t.Callable[[], None]], None]) -> bool:
        return False

    def finish(self) -> Part:
        _sync(self._root)
        return Part(os.path.basename(to_text(self._root)), 0, "")

    def cancel(self) -> None:
        """Reading a file does not wait for anybody."""

    def close(self) -> None:
        """Nothing is held open."""


def _sync(path: bytes) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
