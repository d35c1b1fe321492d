# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof that what lies on disk is what was read from the stopped server."""

from __future__ import annotations

import hashlib
import typing as t
from functools import partial

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import Part
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.readahead import Behind
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.reader import Member, Reader
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import FILE, FileRecord
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

_ZERO = memoryview(bytes(1024 * 1024))
# Bytes from which hashing beside the write saves more than handing over costs.
_WORTH_A_THREAD = 128 * 1024


class Lander(t.Protocol):
    """Where members go while they are compared: ``plain`` for directories, links and further names of a file
    (``record.link``); for a file ``begin``, ``write`` at ascending offsets, and ``end``. Its data are hashed meanwhile:
    they are proven when :func:`prove` has returned."""

    def plain(self, record: FileRecord) -> None: ...
    def begin(self, record: FileRecord) -> None: ...
    def write(self, offset: int, view: memoryview) -> None: ...
    def end(self, record: FileRecord) -> None: ...


def mismatch(name: str, what: str, found: object, expected: object) -> ReplicaBackupError:
    """The archive and its list differ."""
    return ReplicaBackupError(
        f"The archive read back is not what was written: {name}, {what}", found=found, expected=expected, file=name
    )


def prove(
    reader: Reader,
    records: t.Iterable[FileRecord],
    part: Part | None,
    tick: t.Callable[[], None] = lambda: None,
    *,
    attributes: bool = True,
    lander: Lander | None = None,
) -> int:
    """Compare every member with its record, in order, re-hashing every byte; returns the number of members.

    ``part`` is the archive file as it was written, None when the archive is a directory. Without ``attributes`` owner,
    mode and time are not compared. With a ``lander`` the members are laid down on the way: whoever gave it removes
    them again when this raises :class:`ReplicaBackupError`, which names the first difference.
    """
    if lander is None:
        count = _prove(reader, records, tick, attributes, None, None)
    else:
        hasher = _Hasher(reader)
        try:
            count = _prove(reader, records, tick, attributes, lander, hasher)
            hasher.wait()
        finally:
            hasher.close()
    seen = reader.finish()
    if part is not None and seen != part:
        raise mismatch(part.name, "size or SHA-256 of the part", _say(seen), _say(part))
    return count


def _prove(
    reader: Reader,
    records: t.Iterable[FileRecord],
    tick: t.Callable[[], None],
    attributes: bool,
    lander: Lander | None,
    hasher: _Hasher | None,
) -> int:
    count = 0
    expected = iter(records)
    for member in reader:
        record = next(expected, None)
        if record is None:
            raise mismatch(member.name, "an additional member", member.name, "no further member")
        _compare(member, record, attributes)
        has_data = member.type == FILE and member.link is None
        # A format without hard links repeats the data for a further name: read, compared, and linked nonetheless.
        target = lander if has_data and record.link is None else None
        if has_data:
            if target is not None:
                target.begin(record)
            _read(reader, record, tick, target, hasher)
            if target is not None:
                target.end(record)
        if lander is not None and target is None:
            lander.plain(record)
        count += 1
    missing = next(expected, None)
    if missing is not None:
        raise mismatch(missing.name, "a member is missing", "the end of the archive", missing.name)
    return count


def _say(part: Part) -> str:
    return f"{part.bytes} bytes, {part.sha256}"


def _compare(member: Member, record: FileRecord, attributes: bool) -> None:
    pairs: list[tuple[str, object, object]] = [
        ("name", member.name, record.name),
        ("type", member.type, record.type),
        ("target", member.target, record.target),
    ]
    if member.type != "symlink" and attributes:
        pairs.append(("mode", member.mode, record.mode))
    if member.type == FILE and member.link is None:
        pairs.append(("size", member.size, record.size))
    if member.link is not None:
        pairs.append(("first name of the file", member.link, record.link))
    kept: tuple[tuple[str, object, object], ...] = (
        ("uid", member.uid, record.uid),
        ("gid", member.gid, record.gid),
        ("mtime_ns", member.mtime_ns, record.mtime_ns),
    )
    # A format that does not keep one of these has None there.
    pairs += [pair for pair in kept if attributes and pair[1] is not None]
    for what, found, expected in pairs:
        if found != expected:
            raise mismatch(record.name, what, found, expected)


class _Hasher(Behind):
    """Hashes what is written at the same time, as far behind as the reader's buffers allow."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self._views_stay = reader.keep(self.do)

    def release(self) -> None:
        """The view that was handed over last is about to go."""
        if not self._views_stay:
            self.wait()


def _read(
    reader: Reader, record: FileRecord, tick: t.Callable[[], None], lander: Lander | None, hasher: _Hasher | None
) -> None:
    """Read one file, hash it, compare, and lay it down."""
    digest = hashlib.sha256()
    position = 0
    later = hasher.do if hasher is not None and record.size >= _WORTH_A_THREAD else _now
    for offset, view in reader.data():
        if offset > position:
            later(partial(_zeros, digest, offset - position))
        later(partial(digest.update, view))
        if lander is not None:
            lander.write(offset, view)
        if hasher is not None:
            hasher.release()
        position = offset + len(view)
        tick()
    if record.size > position:
        later(partial(_zeros, digest, record.size - position))
    later(partial(_same, digest, record))


def _now(work: t.Callable[[], object]) -> None:
    work()


def _same(digest: t.Any, record: FileRecord) -> None:
    found = digest.hexdigest()
    if found != record.sha256:
        raise mismatch(record.name, "SHA-256", found, record.sha256)


def _zeros(digest: t.Any, size: int) -> None:
    while size > 0:
        count = min(size, len(_ZERO))
        digest.update(_ZERO[:count])
        size -= count
