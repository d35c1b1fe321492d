# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plain pax tar: headers as GNU tar, bsdtar and Python's tarfile read them, and a strict reader of the same."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import Extents
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

BLOCK = 512
RECORD = 20 * BLOCK
TYPE_FILE, TYPE_HARDLINK, TYPE_SYMLINK, TYPE_DIRECTORY, TYPE_PAX = b"0", b"1", b"2", b"5", b"x"
_SECOND = 1_000_000_000
_MAX_OCTAL_11 = 0o77777777777
_MAX_OCTAL_7 = 0o7777777
_MAX_HEADER = 16 * 1024 * 1024


@dataclass(frozen=True)
class TarMember:
    """One member. ``size`` is the logical size of a regular file; ``extents`` are the data ranges of a sparse one."""

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    owner: str
    group: str
    mtime_ns: int
    size: int = 0
    link: bytes = b""
    extents: Extents | None = None


def padding(size: int) -> int:
    """Bytes up to the next block border."""
    return -size % BLOCK


def _decimal(nanoseconds: int) -> bytes:
    sign = "-" if nanoseconds < 0 else ""
    seconds, rest = divmod(abs(nanoseconds), _SECOND)
    text = f"{sign}{seconds}.{rest:09d}" if rest else f"{sign}{seconds}"
    return text.encode("ascii")


def _pax_record(key: bytes, value: bytes) -> bytes:
    bare = len(key) + len(value) + 3
    length = bare + len(str(bare))
    length = bare + len(str(length))
    return str(length).encode("ascii") + b" " + key + b"=" + value + b"\n"


def _plain(name: bytes, limit: int) -> bool:
    return len(name) <= limit and name.isascii()


def _utf8(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _octal(value: int, digits: int) -> bytes:
    return f"{value:0{digits}o}".encode("ascii") + b"\0"


def _base256(value: int) -> bytes:
    return b"\x80" + value.to_bytes(11, "big")


def _block(
    name: bytes,
    type_flag: bytes,
    *,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    size: bytes,
    mtime: int = 0,
    link: bytes = b"",
    owner: bytes = b"",
    group: bytes = b"",
) -> bytes:
    head = bytearray(BLOCK)
    head[0:100] = name[:100].ljust(100, b"\0")
    head[100:108] = _octal(mode & 0o7777, 7)
    head[108:116] = _octal(uid, 7)
    head[116:124] = _octal(gid, 7)
    head[124:136] = size
    head[136:148] = _octal(mtime, 11)
    head[148:156] = b" " * 8
    head[156:157] = type_flag
    head[157:257] = link[:100].ljust(100, b"\0")
    head[257:265] = b"ustar\x0000"
    head[265:297] = owner[:31].ljust(32, b"\0")
    head[297:329] = group[:31].ljust(32, b"\0")
    head[329:337] = head[337:345] = b"0000000\0"
    head[148:156] = f"{sum(head):06o}".encode("ascii") + b"\0 "
    return bytes(head)


def sparse_map(extents: Extents, size: int) -> bytes:
    """The map that stands before the data of a sparse member (GNU sparse format 1.0), padded to a block.

    A closing range of length 0 at the end of the file makes every reader give it its full size.
    """
    last = 0
    lines = bytearray()
    count = 0
    for offset, length in extents:
        lines += b"%d\n%d\n" % (offset, length)
        last = offset + length
        count += 1
    if last != size or count == 0:
        lines += b"%d\n0\n" % size
        count += 1
    raw = b"%d\n" % count + lines
    return raw + bytes(padding(len(raw)))


def encode_header(member: TarMember) -> bytes:
    """Everything that precedes the data of a member: extended header, header, and a sparse file's map."""
    records: list[tuple[bytes, bytes]] = []
    owner = member.owner.encode("utf-8", "surrogateescape")
    group = member.group.encode("utf-8", "surrogateescape")
    name = member.name + b"/" if member.type == TYPE_DIRECTORY else member.name
    map_bytes = b""
    stored = member.size if member.type == TYPE_FILE else 0
    if member.extents is not None:
        map_bytes = sparse_map(member.extents, member.size)
        stored = len(map_bytes) + member.extents.stored
    if not all(_utf8(raw) for raw in (name, member.link, owner, group)):
        # Without it a strict reader would take the bytes of these names for broken UTF-8.
        records.append((b"hdrcharset", b"BINARY"))
    if member.extents is not None:
        records += [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", name),
            (b"GNU.sparse.realsize", b"%d" % member.size),
        ]
        short = b"GNUSparseFile.0/" + name.rpartition(b"/")[2]
    else:
        short = name
        if not _plain(name, 100):
            records.append((b"path", name))
    if not _plain(member.link, 100):
        records.append((b"linkpath", member.link))
    for key, raw in ((b"uname", owner), (b"gname", group)):
        if not _plain(raw, 31):
            records.append((key, raw))
    for key, number in ((b"uid", member.uid), (b"gid", member.gid)):
        if not 0 <= number <= _MAX_OCTAL_7:
            records.append((key, b"%d" % number))
    seconds, rest = divmod(member.mtime_ns, _SECOND)
    if rest or not 0 <= seconds <= _MAX_OCTAL_11:
        records.append((b"mtime", _decimal(member.mtime_ns)))
    if stored <= _MAX_OCTAL_11:
        size = _octal(stored, 11)
    elif member.extents is not None:
        # Python's tarfile takes a "size" record for the real size of a sparse file; this form all readers know.
        size = _base256(stored)
    else:
        records.append((b"size", b"%d" % stored))
        size = _octal(0, 11)
    result = b""
    if records:
        body = b"".join(_pax_record(key, value) for key, value in records)
        base = _ascii(name.rstrip(b"/").rpartition(b"/")[2])
        result = _block(b"PaxHeaders/" + base, TYPE_PAX, mode=0o600, size=_octal(len(body), 11))
        result += body + bytes(padding(len(body)))
    result += _block(
        _ascii(short),
        member.type,
        mode=member.mode,
        uid=member.uid if 0 <= member.uid <= _MAX_OCTAL_7 else 0,
        gid=member.gid if 0 <= member.gid <= _MAX_OCTAL_7 else 0,
        size=size,
        mtime=seconds if 0 <= seconds <= _MAX_OCTAL_11 else 0,
        link=_ascii(member.link),
        owner=_ascii(owner),
        group=_ascii(group),
    )
    return result + map_bytes


def _ascii(raw: bytes) -> bytes:
    return raw if raw.isascii() else bytes(byte if byte < 128 else 0x5F for byte in raw)


def broken(what: str) -> ReplicaBackupError:
    """The archive is not what the writer makes."""
    return ReplicaBackupError(f"The archive is damaged: {what}")


class TarReader:
    """Reads the archive once from front to back.

    ``following`` gives the next bytes, none at the end; what it gave before need not be good any more then. Take each
    member, then all of its data by :meth:`data` before the next one; data not taken are skipped.
    """

    def __init__(self, following: t.Callable[[], memoryview]) -> None:
        self._following = following
        self._view = memoryview(b"")
        self._start = self._end = 0
        self._left = 0
        self._pad = 0

    def __iter__(self) -> t.Iterator[TarMember]:
        while True:
            self._skip(self._left + self._pad)
            self._left = self._pad = 0
            try:
                member = self._next()
            except (ValueError, KeyError) as problem:
                raise broken(f"a header that cannot be read ({problem})") from problem
            if member is None:
                return
            yield member

    def data(self, member: TarMember) -> t.Iterator[tuple[int, memoryview]]:
        """Pairs of offset in the file and bytes, ascending; holes are left out. A view is good until the next pair."""
        ranges: t.Iterable[tuple[int, int]] = ((0, member.size),) if member.extents is None else member.extents
        for offset, length in ranges:
            position = offset
            while position < offset + length:
                view = self._some(offset + length - position)
                self._left -= len(view)
                yield position, view
                position += len(view)

    def _fill(self) -> bool:
        self._view = self._following()
        self._start, self._end = 0, len(self._view)
        return self._end > 0

    def _some(self, most: int) -> memoryview:
        if self._start == self._end and not self._fill():
            raise broken("it ends in the middle of a file")
        size = min(most, self._end - self._start)
        view = self._view[self._start : self._start + size]
        self._start += size
        return view

    def _exactly(self, size: int) -> bytes:
        result = bytearray()
        while len(result) < size:
            result += self._some(size - len(result))
        return bytes(result)

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._some(size))

    def _next(self) -> TarMember | None:
        records: dict[bytes, bytes] = {}
        while True:
            head = self._exactly(BLOCK)
            if not head.strip(b"\0"):
                if records:
                    raise broken("an extended header without its file")
                self._to_the_end()
                return None
            checksum = _number(head[148:156])
            if checksum != sum(head) - sum(head[148:156]) + 8 * 32:
                raise broken("the checksum of a header is wrong")
            type_flag = head[156:157]
            size = _number(head[124:136])
            if type_flag != TYPE_PAX:
                return self._member(head, type_flag, size, records)
            if records or size > _MAX_HEADER:
                raise broken("an extended header that is none of ours")
            records = _parse_pax(self._exactly(size))
            self._skip(padding(size))

    def _to_the_end(self) -> None:
        if self._exactly(BLOCK).strip(b"\0"):
            raise broken("one empty block instead of two at the end")
        while self._start < self._end or self._fill():
            if bytes(self._view[self._start : self._end]).strip(b"\0"):
                raise broken("data after its end")
            self._start = self._end

    def _member(self, head: bytes, type_flag: bytes, size: int, records: dict[bytes, bytes]) -> TarMember:
        if type_flag not in (TYPE_FILE, TYPE_HARDLINK, TYPE_SYMLINK, TYPE_DIRECTORY):
            raise broken(f"a member of unknown type {type_flag!r}")
        name = records.get(b"GNU.sparse.name") or records.get(b"path") or _text(head[0:100])
        size = int(records.get(b"size", size))
        self._left, self._pad = size, padding(size)
        real, extents = size, None
        if b"GNU.sparse.major" in records:
            if (records[b"GNU.sparse.major"], records.get(b"GNU.sparse.minor")) != (b"1", b"0"):
                raise broken("a sparse file in another format than GNU 1.0")
            real = int(records[b"GNU.sparse.realsize"])
            extents = self._read_map(real)
        mtime = records.get(b"mtime")
        return TarMember(
            name=name.rstrip(b"/") if type_flag == TYPE_DIRECTORY else name,
            type=type_flag,
            mode=_number(head[100:108]),
            uid=int(records.get(b"uid", _number(head[108:116]))),
            gid=int(records.get(b"gid", _number(head[116:124]))),
            owner=records.get(b"uname", _text(head[265:297])).decode("utf-8", "surrogateescape"),
            group=records.get(b"gname", _text(head[297:329])).decode("utf-8", "surrogateescape"),
            mtime_ns=_number(head[136:148]) * _SECOND if mtime is None else _nanoseconds(mtime),
            size=real,
            link=records.get(b"linkpath") or _text(head[157:257]),
            extents=extents,
        )

    def _read_map(self, real: int) -> Extents:
        """Numbers, one a line; the map takes whole blocks."""
        rest = b""

        def numbers() -> t.Iterator[int]:
            nonlocal rest
            while True:
                block = rest + self._exactly(BLOCK)
                self._left -= BLOCK
                *lines, rest = block.split(b"\n")
                for line in lines:
                    yield int(line)

        stream = numbers()
        extents = Extents()
        end = 0
        try:
            for _index in range(next(stream)):
                offset, length = next(stream), next(stream)
                if offset < end or offset + length > real:
                    raise broken("the map of a sparse file contradicts itself")
                end = offset + length
                if length:
                    extents.add(offset, length)
        except ValueError:
            raise broken("the map of a sparse file is unreadable") from None
        if extents.stored != self._left:
            raise broken("the map of a sparse file does not fit its data")
        return extents


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise broken("a number in a header is none") from None


def _nanoseconds(text: bytes) -> int:
    whole, _dot, fraction = text.partition(b".")
    value = abs(int(whole)) * _SECOND + int(fraction.ljust(9, b"0")[:9] or b"0")
    return -value if text.startswith(b"-") else value


def _parse_pax(body: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    while body:
        length_text, space, _rest = body.partition(b" ")
        if not space or not length_text.isdigit():
            raise broken("an extended header that cannot be read")
        length = int(length_text)
        key, equals, value = body[len(length_text) + 1 : length].partition(b"=")
        if not equals or not value.endswith(b"\n") or length > len(body):
            raise broken("an extended header that cannot be read")
        records[key] = value[:-1]
        body = body[length:]
    return records
