# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the pre-copy leaves to the window: numbered copies, headers of pages, and a record of what each file was."""

from __future__ import annotations

import contextlib
import json
import os
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import to_bytes
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import Seen
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import pages
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import Entry

INDEX = "index"
# A clock that was set back by more than this many seconds has made all times doubtful.
_SET_BACK = 1.0
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Record:
    """A file that was copied: its name then, what ``stat`` said before, and the number of its copy.

    ``settled``: the same times later mean the same data. ``page`` is the physical size of its pages when their headers
    were noted, else 0 (``page_size``: the server's own); ``lsn`` the checkpoint from before it was copied.
    """

    place: str
    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    number: int
    settled: bool
    page: int = 0
    page_size: int = 0
    lsn: int = 0

    def is_of(self, seen: Seen) -> bool:
        return (self.device, self.inode) == (seen.device, seen.inode)

    def unchanged(self, seen: Seen) -> bool:
        return (
            self.settled
            and self.is_of(seen)
            and (self.size, self.mtime_ns, self.ctime_ns) == (seen.size, seen.mtime_ns, seen.ctime_ns)
        )


class Area:
    """The store: numbered files, the noted headers of some (``N.pages``), and the index.

    ``suffix`` keeps the numbers of the window apart from those of the pre-copy.
    """

    def __init__(self, path: str, suffix: str = "") -> None:
        self.path = path
        self.last = 0
        self._suffix = suffix
        self._directory = os.open(to_bytes(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._directory)

    @staticmethod
    def name(number: int) -> str:
        return f"{number:09d}"

    def add(self) -> tuple[str, int]:
        """A new file and a descriptor of it; its number is ``last``."""
        self.last += 1
        name = self.name(self.last) + self._suffix
        return name, os.open(name, _OPEN | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._directory)

    def open(self, number: int) -> int:
        return os.open(self.name(number), _OPEN, dir_fd=self._directory)

    def headers(self, number: int, *, create: bool = False) -> int:
        flags = _OPEN | (os.O_CREAT | os.O_TRUNC if create else 0)
        return os.open(self.name(number) + ".pages", flags, 0o600, dir_fd=self._directory)

    def drop(self, number: int) -> None:
        for name in (self.name(number), self.name(number) + ".pages"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._directory)


def clock() -> int:
    """Nanoseconds between the clock that files are stamped by and one that nobody sets."""
    return time.time_ns() - time.monotonic_ns()


class Index:
    """The records in the order of the walk, read alongside a later walk: nothing is held in memory."""

    def __init__(self, path: str) -> None:
        self._stream = open(to_bytes(path), "rb")  # noqa: SIM115
        head = json.loads(self._stream.readline())
        self._places = {name: number for number, name in enumerate(head["places"])}
        self.doubtful = clock() < head["clock"] - int(_SET_BACK * 1e9)
        self._next = self._read()

    def close(self) -> None:
        self._stream.close()

    def _read(self) -> Record | None:
        line = self._stream.readline()
        if not line:
            return None
        record = Record(*json.loads(line))
        return replace(record, settled=False) if self.doubtful else record

    def _key(self, item: Record | Entry) -> tuple[int, list[bytes]]:
        return self._places.get(item.place, -1), to_bytes(item.path).split(b"/")

    def find(self, entry: Entry) -> tuple[Record | None, list[Record]]:
        """The record of that name, and those before it that no entry of the walk has asked for."""
        passed: list[Record] = []
        if entry.place not in self._places:
            return None, passed
        wanted = self._key(entry)
        while self._next is not None and self._key(self._next) <= wanted:
            record, self._next = self._next, self._read()
            if (record.place, record.path) == (entry.place, entry.path):
                return record, passed
            passed.append(record)
        return None, passed

    def rest(self) -> t.Iterator[Record]:
        while self._next is not None:
            record, self._next = self._next, self._read()
            yield record


# One for all lines: json.dumps() with options makes a new one at every call.
_encode = json.JSONEncoder(separators=(",", ":")).encode


def to_line(value: object) -> bytes:
    return _encode(value).encode("ascii") + b"\n"


def page_of(descriptor: int, old: Record) -> int:
    """The size of pages that the file tells now: what was found for its copy may be over."""
    return pages.physical_size(os.pread(descriptor, 4096, 0), old.page_size, system=old.page == old.page_size)
