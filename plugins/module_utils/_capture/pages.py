# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pages of an InnoDB file differ from an older copy of it, by the log sequence numbers in their headers.

Every change of a page that is made after the server's checkpoint was read carries a log sequence number (LSN) of at
least that checkpoint, and everything older had been written to its file by then: that is what a checkpoint is. So a
page of the stopped server whose header has an older LSN, and is byte for byte that of the copy, was at rest from before
the copy began until the server was down, and the copy has it whole. docs/captures.md has the argument at length.

Formats: MySQL and MariaDB source, fil0fil.h and fil0types.h (page header), fsp0types.h and fil0fil.h (flags).
"""

from __future__ import annotations

import errno
import os
import re
import struct
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.clone import ENDS_EARLY
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import Entry

# Checksum, page number, neighbours, LSN, type, flush LSN or key version, tablespace: FIL_PAGE_DATA in the source.
HEADER = 38
_HEADS = struct.Struct(">4xI8xQ14x")
_FIRST_PAGE = 58
_FLAGS = 54
_FULL_CRC32 = 0x10
_ORIGINAL_SIZE = 16384
_NAMES = re.compile(r".*\.(?:ibd|ibu)|ibdata\d+|undo_?\d+", re.DOTALL)
_ROLES = frozenset({"innodb_system", "innodb_undo"})
# Headers looked at in one go; bytes read and written in one go.
_BATCH = 1024
_AHEAD = 16 * 1024 * 1024
_CHUNK = 1024 * 1024

KEEP, VERIFY, TAKE = 0, 1, 2


def is_tablespace(entry: Entry) -> bool:
    """Whether InnoDB keeps pages in the file, and so writes to it by write calls alone."""
    return entry.role in _ROLES or _NAMES.fullmatch(os.path.basename(entry.path)) is not None


def physical_size(first: bytes, page_size: int, *, system: bool) -> int:
    """Bytes of a page on disk, from the first page of the file; 0 when it cannot be told.

    ``page_size`` is the server's ``innodb_page_size``. A further file of the system tablespace has no flags.
    """
    if len(first) < _FIRST_PAGE:
        return 0
    if struct.unpack_from(">I", first, 4)[0] != 0:
        return page_size if system else 0
    flags = struct.unpack_from(">I", first, _FLAGS)[0]
    if flags & _FULL_CRC32:
        size = 512 << (flags & 15)
        return size if size == page_size else 0
    compressed = flags >> 1 & 15
    if compressed:
        size = 512 << compressed
        return size if size <= page_size else 0
    shift = flags >> 6 & 15
    size = 512 << shift if shift else _ORIGINAL_SIZE
    return size if size == page_size else 0


def _read(descriptor: int, size: int, position: int) -> bytes:
    data = os.pread(descriptor, size, position)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), position + len(data))
        if not more:
            raise OSError(errno.EIO, ENDS_EARLY)
        data += more
    return data


def _write(descriptor: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, position)
        position += done
        view = view[done:]


def save_headers(copied: int, headers: int, begin: int, end: int, page: int) -> None:
    """Note in the file ``headers`` the header of every page of a copy that starts in its bytes ``begin`` to ``end``.

    To be called while they are still in memory. A page that was a hole needs no note: a gap reads as zeros, as the page
    does. Raises OSError.
    """
    first, last = -(-begin // page), (end - HEADER) // page + 1
    for start in range(first, last, _BATCH):
        stop = min(last, start + _BATCH)
        _write(headers, _heads(copied, start, stop, page), start * HEADER)


def _heads(descriptor: int, start: int, stop: int, page: int) -> bytes:
    heads = b"".join([os.pread(descriptor, HEADER, at) for at in range(start * page, stop * page, page)])
    if len(heads) != (stop - start) * HEADER:
        raise OSError(errno.EIO, ENDS_EARLY)
    return heads


def will_need(descriptor: int, position: int, size: int = _AHEAD) -> None:
    """Have the disk begin with what is not in memory of the next bytes: one page at a time would wait for each."""
    os.posix_fadvise(descriptor, position, size, os.POSIX_FADV_WILLNEED)


def not_in_memory(descriptor: int, size: int, page: int) -> t.Iterator[tuple[int, int]]:
    """Runs of bytes (start, end) of pages that are not in the page cache, by their first byte.

    Being asked, the kernel may begin to read them. Where the file system does not tell (preadv(2), RWF_NOWAIT), none
    is.
    """
    byte = bytearray(1)
    begin = None
    for at in range(0, size, page):
        try:
            os.preadv(descriptor, [byte], at, os.RWF_NOWAIT)
            there = True
        except OSError:
            there = False
        if begin is not None and (there or at - begin >= _AHEAD):
            yield begin, at
            begin = None
        if begin is None and not there:
            begin = at
    if begin is not None:
        yield begin, size


def compare(
    source: int, headers: int, size: int, page: int, lsn: int, spend: t.Callable[[int], None]
) -> t.Iterator[tuple[int, int, int]]:
    """Runs of bytes (start, end, TAKE or VERIFY) that may differ from the copy whose ``headers`` were noted.

    ``lsn`` is the checkpoint of the server from before the copy was begun. To be verified are pages that InnoDB has
    not stamped. What is not named is the same. ``spend`` is called with all the bytes of the file before they are
    looked at, some at a time: of each the header is looked at, but the disk reads the whole. Raises OSError.
    """
    noted = os.fstat(headers).st_size // HEADER
    base = 0
    will_need(source, 0)
    for start in range(0, size // page, _BATCH):
        stop = min(size // page, start + _BATCH)
        spend((stop - start) * page)
        will_need(source, stop * page)
        now = _heads(source, start, stop, page)
        then = os.pread(headers, (stop - start) * HEADER, start * HEADER)
        same = then == now
        if start == 0:
            base = _HEADS.unpack_from(now)[0]
        run = (start, start, KEEP)
        for index, (number, stamp) in enumerate(_HEADS.iter_unpack(now)):
            place = start + index
            at = index * HEADER
            # The first page of a file is stamped with the last LSN at a shutdown, which is no change by the log.
            if place == 0 or place >= noted:
                verdict = TAKE
            elif stamp == 0:
                verdict = VERIFY
            elif stamp >= lsn or number != base + place:
                verdict = TAKE
            elif same or now[at : at + HEADER] == then[at : at + HEADER]:
                verdict = KEEP
            else:
                verdict = TAKE
            if verdict != run[2]:
                if run[2] != KEEP:
                    yield run[0] * page, place * page, run[2]
                run = (place, place, verdict)
        # No run goes on into the next batch: it is read while it is still in memory.
        if run[2] != KEEP:
            yield run[0] * page, stop * page, run[2]
    if size % page:
        spend(size % page)
        yield size // page * page, size, TAKE


def patch(
    source: int, target: int, headers: int, size: int, page: int, lsn: int, spend: t.Callable[[int], None]
) -> int:
    """Make the copy ``target`` what the open file is; returns the bytes that were written.

    The noted headers are kept up to date. ``spend`` is called with the bytes that are about to be read, those of the
    whole file in all; it may wait, or raise. Raises OSError.
    """
    written = 0
    for start, end, verdict in compare(source, headers, size, page, lsn, spend):
        for position in range(start, end, _CHUNK):
            count = min(_CHUNK, end - position)
            spend(0)
            data = _read(source, count, position)
            if verdict == VERIFY and os.pread(target, count, position) == data:
                continue
            _write(target, data, position)
            written += count
            heads = b"".join([data[at : at + HEADER] for at in range(0, count // page * page, page)])
            _write(headers, heads, position // page * HEADER)
    os.ftruncate(target, size)
    os.ftruncate(headers, size // page * HEADER)
    return written
