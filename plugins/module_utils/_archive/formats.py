# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The three shapes of an archive behind one small interface: tar (compressed or not), zip, and a plain directory."""

from __future__ import annotations

import os
import stat
import struct
import time
import typing as t
import zipfile

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.compress import (
    CHUNK,
    NONE,
    Compressor,
    PackedOutput,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import (
    HashedFile,
    Part,
    make_private_directory,
    remove_tree,
    storage_error,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import (
    DIRECTORY,
    SYMLINK,
    FileRecord,
    to_bytes,
    to_text,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import Extents
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.tarformat import (
    RECORD,
    TYPE_DIRECTORY,
    TYPE_FILE,
    TYPE_HARDLINK,
    TYPE_SYMLINK,
    TarMember,
    encode_header,
    padding,
)

TAR, ZIP, COPY = "tar", "zip", "copy"
FORMATS = (TAR, ZIP, COPY)
_ZERO = memoryview(bytes(CHUNK))
_ZIP_EPOCH = 315532800  # 1980-01-01, the first day that a zip header can name
_ZIP_UTF8 = 0x800
_UNIX = 3


def part_name(form: str, suffix: str, shard: int | None = None) -> str:
    """File (or directory, for ``copy``) of a set that holds the data; ``shard`` is the number of one of several."""
    stem = "data" if shard is None else f"data.{shard}"
    return {TAR: f"{stem}.tar{suffix}", ZIP: "data.zip", COPY: "data"}[form]


class Output(t.Protocol):
    """What the walk over the files needs. For a regular file: ``begin``, then ``space``/``commit`` (data) and ``hole``
    in ascending order, then ``end``. ``finish`` or ``abort`` comes last, exactly one of them."""

    keeps_links: bool

    def plain(self, record: FileRecord) -> None:
        """A directory, a symbolic link, or a further name of a file (``record.link``)."""

    def begin(self, record: FileRecord, extents: Extents | None) -> None: ...
    def space(self) -> memoryview: ...
    def commit(self, size: int) -> None: ...
    def hole(self, size: int) -> None: ...
    def end(self) -> None: ...

    def finish(self, watch: t.Callable[[], None] = ...) -> Part | None:
        """Durable under its final name; None for a directory, which has no bytes of its own."""

    def abort(self) -> None:
        """Nothing of it is left."""


class TarOutput:
    """A pax tar through an optional compressor. Headers and data share one buffer; file data are read into it."""

    keeps_links = True

    def __init__(
        self,
        path: str,
        compressor: Compressor | None,
        watch: t.Callable[[], None] = lambda: None,
        chunk: int = CHUNK,
    ) -> None:
        self._file = HashedFile(path)
        try:
            self._packed = PackedOutput(self._file, compressor, watch=watch, chunk=chunk)
        except BaseException:
            self._file.discard()
            raise
        self._buffer = self._packed.first()
        self._view = memoryview(self._buffer)
        self._used = 0
        self._total = 0
        self._pad = 0

    def plain(self, record: FileRecord) -> None:
        kind = {DIRECTORY: TYPE_DIRECTORY, SYMLINK: TYPE_SYMLINK}.get(record.type, TYPE_HARDLINK)
        link = record.target if record.type == SYMLINK else record.link
        self._put(encode_header(_tar_member(record, kind, to_bytes(link or ""), 0, None)))

    def begin(self, record: FileRecord, extents: Extents | None) -> None:
        self._put(encode_header(_tar_member(record, TYPE_FILE, b"", record.size, extents)))
        self._pad = padding(record.size if extents is None else extents.stored)

    def space(self) -> memoryview:
        if self._used == len(self._buffer):
            self._hand_over()
        return self._view[self._used :]

    def commit(self, size: int) -> None:
        self._used += size

    def hole(self, size: int) -> None:
        """The map in front of the data has it already."""

    def end(self) -> None:
        self._put(bytes(self._pad))

    def finish(self, watch: t.Callable[[], None] = lambda: None) -> Part:
        self._put(bytes(2 * 512))
        self._put(bytes(-(self._total + self._used) % RECORD))
        self._hand_over()
        self._packed.finish(watch)
        part = self._file.publish()
        self._packed.abort()
        return part

    def abort(self) -> None:
        self._packed.abort()
        self._file.discard()

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            room = self.space()
            size = min(len(room), len(rest))
            room[:size] = rest[:size]
            self._used += size
            rest = rest[size:]

    def _hand_over(self) -> None:
        self._total += self._used
        self._view.release()
        self._buffer = self._packed.exchange(self._buffer, self._used)
        self._view = memoryview(self._buffer)
        self._used = 0


def _tar_member(record: FileRecord, kind: bytes, link: bytes, size: int, extents: Extents | None) -> TarMember:
    return TarMember(
        name=to_bytes(record.name),
        type=kind,
        mode=record.mode,
        uid=record.uid,
        gid=record.gid,
        owner=record.owner,
        group=record.group,
        mtime_ns=record.mtime_ns,
        size=size,
        link=link,
        extents=extents,
    )


class _ZipMember(zipfile.ZipInfo):
    """A member whose name may hold any byte; only what is UTF-8 is marked as such."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        raw = to_bytes(self.filename)
        if raw.isascii():
            return raw, self.flag_bits
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw, self.flag_bits
        return raw, self.flag_bits | _ZIP_UTF8


class _OneWay:
    """Only what ``zipfile`` needs to write front to back: the hash of the file is taken as it grows."""

    def __init__(self, target: HashedFile) -> None:
        self.write = target.write

    def flush(self) -> None:
        """Nothing is held back."""


class ZipOutput:
    """A ZIP64 file with Unix modes, owners, times and symbolic links; deflated, or stored when ``level`` is None.

    The format knows neither hard links nor holes: every name gets its bytes.
    """

    keeps_links = False

    def __init__(self, path: str, level: int | None) -> None:
        self._file = HashedFile(path)
        self._level = level
        self._zip = zipfile.ZipFile(t.cast(t.IO[bytes], _OneWay(self._file)), "w", allowZip64=True)
        self._stream: t.IO[bytes] | None = None
        self._buffer = memoryview(bytearray(CHUNK))

    def plain(self, record: FileRecord) -> None:
        if record.type == DIRECTORY:
            self._zip.writestr(self._info(record, stat.S_IFDIR, "/"), b"")
        else:
            self._zip.writestr(self._info(record, stat.S_IFLNK), to_bytes(record.target or ""))

    def begin(self, record: FileRecord, extents: Extents | None) -> None:
        info = self._info(record, stat.S_IFREG)
        info.file_size = record.size
        if self._level is not None:
            info.compress_type = zipfile.ZIP_DEFLATED
            info._compresslevel = self._level  # type: ignore[attr-defined]
        self._stream = self._zip.open(info, "w")

    def space(self) -> memoryview:
        return self._buffer

    def commit(self, size: int) -> None:
        t.cast(t.IO[bytes], self._stream).write(self._buffer[:size])

    def hole(self, size: int) -> None:
        while size:
            count = min(size, CHUNK)
            t.cast(t.IO[bytes], self._stream).write(_ZERO[:count])
            size -= count

    def end(self) -> None:
        stream, self._stream = t.cast(t.IO[bytes], self._stream), None
        stream.close()

    def finish(self, watch: t.Callable[[], None] = lambda: None) -> Part:
        self._zip.close()
        return self._file.publish()

    def abort(self) -> None:
        # The directory at the end is not written: without it the remains are no zip file, and they go anyway.
        self._zip.fp = None
        self._stream = None
        self._file.discard()

    def _info(self, record: FileRecord, kind: int, suffix: str = "") -> _ZipMember:
        seconds = record.mtime_ns // 1_000_000_000
        info = _ZipMember(record.name + suffix, time.gmtime(max(seconds, _ZIP_EPOCH))[:6])
        info.create_system = _UNIX
        info.external_attr = (kind | record.mode) << 16 | (0x10 if kind == stat.S_IFDIR else 0)
        extra = struct.pack("<HHBBLBL", 0x7875, 11, 1, 4, record.uid, 4, record.gid)
        if -(1 << 31) <= seconds < 1 << 31:
            extra += struct.pack("<HHBl", 0x5455, 5, 1, seconds)
        info.extra = extra
        return info


class CopyOutput:
    """A directory with the same names, owners, modes, times, links and holes. Never compressed.

    It lies inside the set's private directory. Written data become durable when the copy is proven, not before: that
    work need not fall into the time in which the server is away.
    """

    keeps_links = True

    def __init__(self, path: str) -> None:
        self._root = to_bytes(path)
        self._made = False
        try:
            os.mkdir(path, 0o700)
        except OSError as problem:
            raise storage_error(problem, path, 0) from problem
        self._made = True
        self._buffer = memoryview(bytearray(CHUNK))
        self._directories: list[FileRecord] = []
        self._fd = -1
        self._offset = 0
        self._record: FileRecord | None = None
        self._bytes = 0

    def plain(self, record: FileRecord) -> None:
        path = self._path(record)
        try:
            if record.type == DIRECTORY:
                os.makedirs(path, 0o700, exist_ok=True)
                self._directories.append(record)
                return
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            if record.type == SYMLINK:
                os.symlink(to_bytes(record.target or ""), path)
                _dress(path, record)
            else:
                os.link(os.path.join(self._root, to_bytes(record.link or "")), path, follow_symlinks=False)
        except OSError as problem:
            raise storage_error(problem, to_text(path), self._bytes) from problem

    def begin(self, record: FileRecord, extents: Extents | None) -> None:
        path = self._path(record)
        try:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise storage_error(problem, to_text(path), self._bytes) from problem
        self._offset, self._record = 0, record

    def space(self) -> memoryview:
        return self._buffer

    def commit(self, size: int) -> None:
        view = self._buffer[:size]
        try:
            while view:
                done = os.pwrite(self._fd, view, self._offset)
                self._offset += done
                self._bytes += done
                view = view[done:]
        except OSError as problem:
            raise storage_error(problem, to_text(self._path(self._current())), self._bytes) from problem

    def hole(self, size: int) -> None:
        self._offset += size

    def end(self) -> None:
        record = self._current()
        try:
            os.ftruncate(self._fd, record.size)
            _dress(self._fd, record)
        except OSError as problem:
            raise storage_error(problem, to_text(self._path(record)), self._bytes) from problem
        self._close()

    def finish(self, watch: t.Callable[[], None] = lambda: None) -> None:
        for record in reversed(self._directories):
            path = self._path(record)
            try:
                _dress(path, record)
            except OSError as problem:
                raise storage_error(problem, to_text(path), self._bytes) from problem

    def abort(self) -> None:
        self._close()
        if self._made:
            self._made = False
            remove_tree(to_text(self._root))

    def _current(self) -> FileRecord:
        return t.cast(FileRecord, self._record)

    def _close(self) -> None:
        if self._fd >= 0:
            descriptor, self._fd = self._fd, -1
            os.close(descriptor)

    def _path(self, record: FileRecord) -> bytes:
        return os.path.join(self._root, to_bytes(record.name))


def _dress(target: bytes | int, record: FileRecord) -> None:
    """Owner, mode and time; the owner first, because changing it clears mode bits."""
    if isinstance(target, int):
        status = os.fstat(target)
        if (status.st_uid, status.st_gid) != (record.uid, record.gid):
            os.chown(target, record.uid, record.gid)
        os.chmod(target, record.mode)
        os.utime(target, ns=(record.mtime_ns, record.mtime_ns))
        return
    status = os.lstat(target)
    if (status.st_uid, status.st_gid) != (record.uid, record.gid):
        os.chown(target, record.uid, record.gid, follow_symlinks=False)
    if record.type != SYMLINK:
        os.chmod(target, record.mode)
    os.utime(target, ns=(record.mtime_ns, record.mtime_ns), follow_symlinks=False)


def open_output(
    directory: str,
    form: str,
    compression: str,
    compressor: Compressor | None,
    level: int | None,
    watch: t.Callable[[], None] = lambda: None,
    *,
    shard: int | None = None,
    chunk: int = CHUNK,
) -> Output:
    """Begin the data of a set below ``directory``, which is made private. Zip ignores which compressor was chosen.

    ``watch`` is called while a compressor takes nothing more. ``shard``: number of one of several tar files; ``chunk``:
    bytes of one of its buffers.
    """
    make_private_directory(directory)
    suffix = compressor.suffix if compressor is not None else ""
    path = os.path.join(directory, part_name(form, suffix, shard))
    if form == TAR:
        return TarOutput(path, compressor, watch, chunk)
    if form == ZIP:
        return ZipOutput(path, None if compression == NONE else (level or 1))
    return CopyOutput(path)
