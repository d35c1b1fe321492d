# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""InnoDB's redo log, read just far enough to see whether anything follows its last checkpoint.

Formats: MySQL up to 8.0.29 and MariaDB up to 10.7 (ib_logfile0 with two checkpoint blocks), MySQL from 8.0.30
(#innodb_redo), MariaDB from 10.8 (one circular file).
"""

from __future__ import annotations

import os
import re
import struct
import typing as t

_MARIADB_10_8 = 0x50687973  # "Phys": one circular file, two checkpoints of two numbers each
_ENCRYPTED = 1 << 31


def ends_at_checkpoint(*, directory: str, system_tablespace: str, stamped: bool) -> tuple[bool | None, str]:
    """Whether nothing in the log has to be replayed (None: cannot be told), and why.

    ``stamped``: the server writes the log position of a clean stop into the first page of ``system_tablespace``.
    Raises OSError when a file cannot be read.
    """
    numbered = os.path.join(directory, "#innodb_redo")
    if os.path.isdir(numbered):
        logs = [os.path.join(numbered, name) for name in os.listdir(numbered) if re.match(r"#ib_redo\d+\Z", name)]
    else:
        logs = [os.path.join(directory, "ib_logfile0")]
    heads = []
    for path in logs:
        with open(path, "rb") as stream:
            heads.append(stream.read(12288))
    if not heads:
        return None, f"no redo log in {numbered}"
    if any(len(head) < 2048 for head in heads):
        return None, f"{logs[0]} is too short to be read"
    form = struct.unpack(">I", heads[0][:4])[0]
    if form & ~_ENCRYPTED == _MARIADB_10_8:
        return _mariadb_checkpoint(logs[0], heads[0])
    checkpoint = max(struct.unpack(">Q", head[at : at + 8])[0] for head in heads for at in (520, 1544))
    with open(system_tablespace, "rb") as stream:
        stream.seek(26)
        flushed = struct.unpack(">Q", stream.read(8))[0]
    numbers = f"flushed up to {flushed}, checkpoint at {checkpoint}"
    if flushed == checkpoint and checkpoint > 0:
        return _numbered_log_end(dict(zip(logs, heads)), checkpoint) if os.path.isdir(numbered) else (True, numbers)
    if not stamped:
        # Seen nowhere yet on MariaDB before 10.8: equal numbers tell something, unequal ones do not.
        return None, f"{numbers}: not a known sign on this version"
    return False, f"{numbers}: the log must be replayed"


_BLOCK = 512
_BLOCK_HEADER = 12
_NUMBERED_HEADER = 2048
# Stands in the place of a checksum while innodb_log_checksums is OFF.
_NO_CHECKSUM = 0xDEADBEEF


def _numbered_log_end(heads: t.Mapping[str, bytes], checkpoint: int) -> tuple[bool | None, str]:
    """Whether the numbered redo log files of MySQL 8.0.30 and later (``heads`` by path) end at the checkpoint.

    That the checkpoint is what ibdata1 was flushed up to does not suffice: a server that was killed, or stopped with
    innodb_fast_shutdown=2, before it made any checkpoint still shows the two equal numbers of its last clean stop.
    """
    for path, head in heads.items():
        start = struct.unpack(">Q", head[8:16])[0]
        offset = _NUMBERED_HEADER + checkpoint - start
        if start <= checkpoint and offset < os.stat(path).st_size:
            break
    else:
        return False, f"no redo log file reaches the checkpoint at {checkpoint}"
    at = checkpoint % _BLOCK
    with open(path, "rb") as stream:
        stream.seek(offset - at)
        block = stream.read(_BLOCK)
    used = _used_of_block(block, 1 + checkpoint // _BLOCK % 0x3FFFFFFF)
    if used is not None and used & 0x8000:
        return None, f"{path} is encrypted: cannot be followed beyond its checkpoint at {checkpoint}"
    if used is None and at == _BLOCK_HEADER:
        # A checkpoint at the very end of a block points behind the header of the next one, which is not written yet.
        used = at
    if used is None or used < at:
        return False, f"{path}: no valid record at the checkpoint {checkpoint}"
    if used > at:
        return False, f"{path}: the log goes on after the checkpoint at {checkpoint} and must be replayed"
    return True, f"{path}: nothing follows the checkpoint at {checkpoint}, which all data files have reached"


def _used_of_block(block: bytes, number: int) -> int | None:
    """Bytes in use of the log block with that number; ``None`` when something else, older or torn stands there.

    Layout from the server's log0types.h, checked on files of 9.7: number, bytes in use with the header (the highest
    bit: encrypted), two more fields, data, CRC-32C of all before it.
    """
    if len(block) < _BLOCK:
        return None
    found, used = struct.unpack(">IH", block[:6])
    checksum = struct.unpack(">I", block[-4:])[0]
    if found != number:
        return None
    # What the checksum of an encrypted block covers is not known here; the caller makes nothing of such a block.
    return int(used) if used & 0x8000 or checksum in (_crc32c(block[:-4]), _NO_CHECKSUM) else None


def _mariadb_checkpoint(path: str, head: bytes) -> tuple[bool | None, str]:
    if len(head) < 8208:
        return None, f"{path} is too short to be read"
    pairs = [struct.unpack(">QQ", head[at : at + 16]) for at in (4096, 8192)]
    checkpoint, end = max(pairs)
    if checkpoint != end or checkpoint == 0:
        return False, f"{path}: checkpoint at {checkpoint} but log up to {end}"
    if head[0] & 0x80:
        return None, f"{path} is encrypted: cannot be followed beyond its checkpoint at {checkpoint}"
    # Equal numbers do not suffice: a server that was killed, or stopped with innodb_fast_shutdown=2, before it
    # made any checkpoint still shows those of its last clean stop. So look at what follows the checkpoint.
    with open(path, "rb") as stream:
        log = _CircularLog(stream, first=struct.unpack(">Q", head[8:16])[0])
        own = log.end_of_group(checkpoint)
        if own is None:
            return False, f"{path}: no valid record at the checkpoint {checkpoint}"
        if log.end_of_group(own) is not None:
            return False, f"{path}: the log goes on after the checkpoint at {checkpoint} and must be replayed"
    return True, f"{path}: nothing follows the checkpoint at {checkpoint}, the log ends at {own}"


class _CircularLog:
    """Reads MariaDB's redo log (10.8 and later) just far enough to see whether a group of records is valid.

    A group: records, each with its length in the first bytes; one byte that flips each time round the file;
    CRC-32C of the records. Layout from the server's log0recv.cc, checked on real files.
    """

    _START = 12288
    _LARGEST_GROUP = 4 << 20

    def __init__(self, stream: t.BinaryIO, first: int) -> None:
        self._stream = stream
        self._first = first
        self._capacity = stream.seek(0, os.SEEK_END) - self._START
        self._window = b""
        self._window_at = 0

    def _read(self, lsn: int, size: int) -> bytes:
        offset = lsn - self._window_at
        if not (offset >= 0 and offset + size <= len(self._window)):
            self._window_at, self._window, offset = lsn, self._read_file(lsn, max(size, 4096)), 0
        return self._window[offset : offset + size]

    def _read_file(self, lsn: int, size: int) -> bytes:
        at = (lsn - self._first) % self._capacity
        self._stream.seek(self._START + at)
        data = self._stream.read(min(size, self._capacity - at))
        if len(data) < size:
            self._stream.seek(self._START)
            data += self._stream.read(size - len(data))
        return data

    def end_of_group(self, start: int) -> int | None:
        """Sequence number after the group at ``start``; ``None`` when there is no valid group."""
        limit = start + min(self._LARGEST_GROUP, self._capacity)
        lsn = start
        while lsn < limit:
            head = self._read(lsn, 5)
            if head[0] <= 1:
                break
            lsn += 1 + (head[0] & 15 or 15 + _variable_length(head[1:]))
        else:
            return None
        if lsn == start:
            return None
        mark, checksum = struct.unpack(">BI", self._read(lsn, 5))
        turn = (lsn - self._first) // self._capacity & 1
        if mark == turn or checksum != _crc32c(self._read_file(start, lsn - start)):
            return None
        return lsn + 5


def _variable_length(data: bytes) -> int:
    """InnoDB's number of one to four bytes; each longer form starts where the shorter one ends."""
    first = data[0]
    if first < 0x80:
        return first
    if first < 0xC0:
        return 0x80 + ((first & 0x3F) << 8 | data[1])
    if first < 0xE0:
        return 0x4080 + ((first & 0x1F) << 16 | data[1] << 8 | data[2])
    return 0x204080 + ((first & 0x0F) << 24 | data[1] << 16 | data[2] << 8 | data[3])


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC32C[(value ^ byte) & 255] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _bit in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()
