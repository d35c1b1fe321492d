# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In the window: the copies that were made while the server ran become those of the stopped server.

Several files at once, each by a thread: the disk has more to choose from, and the kernel does the work. The list of
the clone is written in the order of the walk all the same.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import os
import threading
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import (
    make_private_directory,
    storage_error,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import FILE, SYMLINK
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import Seen, Source
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import clone, pages
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.clone import Cloned
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.precopied import (
    INDEX,
    Area,
    Index,
    Record,
    page_of,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import Entry

_THREADS = 4
# So many files are open at once; the disk begins with each when it is opened, from so many bytes on.
_WAITING = 32
_WORTH_BEGINNING = 64 * 1024
# Seconds between two looks at what the threads have done.
_LOOK = 0.5


@dataclass
class Figures:
    """What was done in the window: files taken as they were, patched, and copied; bytes copied by the last two."""

    reused: int = 0
    patched: int = 0
    copied: int = 0
    bytes_patched: int = 0
    bytes_copied: int = 0


def finish(
    entries: t.Iterable[Entry],
    source: Source,
    store: str,
    listing: clone.Listing,
    tick: t.Callable[[int], None],
) -> tuple[int, dict[str, t.Any]]:
    """Make the copies in ``store`` those of the stopped server, and write the list of the clone.

    ``entries`` are the list, taken again from disk. Without a pre-copy everything is copied. Returns the number of
    names and :class:`Figures` as a dictionary. ``tick`` is called by this thread with all bytes of the files, some at a
    time, and may raise. Raises ReplicaBackupError.
    """
    make_private_directory(store)
    path = os.path.join(store, INDEX)
    with contextlib.ExitStack() as closing:
        area = Area(store, suffix=".late")
        closing.callback(area.close)
        index = Index(path) if os.path.exists(path) else None
        if index is not None:
            closing.callback(index.close)
        last = closing.enter_context(_Last(source, area))
        count = 0
        for cloned in _in_order(entries, index, last, tick):
            listing.write_line(cloned.to_line())
            count += 1
        tick(last.done())
    return count, dict(vars(last.figures))


def _in_order(
    entries: t.Iterable[Entry], index: Index | None, last: _Last, tick: t.Callable[[int], None]
) -> t.Iterator[Cloned]:
    waiting: collections.deque[_Name] = collections.deque()
    for entry in entries:
        tick(last.done())
        waiting.append(last.begin(entry, index.find(entry)[0] if index is not None else None))
        while waiting and (len(waiting) > _WAITING or waiting[0].is_ready):
            yield waiting.popleft().get(lambda: tick(last.done()))
    while waiting:
        yield waiting.popleft().get(lambda: tick(last.done()))


if t.TYPE_CHECKING:
    # The store, and the name in it.
    _Data = concurrent.futures.Future[tuple[str, str]]


class _GivenUp(Exception):
    """Whoever waits for the thread does not want what it does any more."""


@dataclass(frozen=True)
class _Name:
    """A name of the list, and what will be known of its data: nothing for a directory or a link."""

    entry: Entry
    seen: Seen
    data: _Data | None = None

    @property
    def is_ready(self) -> bool:
        return self.data is None or self.data.done()

    def get(self, look: t.Callable[[], None]) -> Cloned:
        if self.data is None:
            return Cloned(self.entry, self.seen)
        while not self.data.done():
            concurrent.futures.wait((self.data,), timeout=_LOOK)
            look()
        return Cloned(self.entry, self.seen, *self.data.result())


class _Last:
    """The files of the stopped server against their copies. Names are begun with by one thread."""

    def __init__(self, source: Source, area: Area) -> None:
        self.figures = Figures()
        self._source = source
        self._area = area
        self._first: dict[tuple[int, int], _Data] = {}
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="finish")
        # Of the figures, the bytes done, and the numbers of the area.
        self._lock = threading.Lock()
        self._bytes = 0
        self._given_up = False

    def __enter__(self) -> _Last:
        return self

    def __exit__(self, *exc: object) -> None:
        # Each thread closes what it has, those that have not begun too.
        self._given_up = True
        self._threads.shutdown(wait=True)

    def done(self) -> int:
        """Bytes that were dealt with since this was asked last."""
        with self._lock:
            done, self._bytes = self._bytes, 0
        return done

    def _tick(self, size: int) -> None:
        if self._given_up:
            raise _GivenUp
        with self._lock:
            self._bytes += size

    def begin(self, entry: Entry, record: Record | None) -> _Name:
        """Look at the file, and have a thread take what has changed."""
        seen = self._source.stat(entry)
        if entry.type != FILE:
            if entry.type == SYMLINK:
                self._source.read_link(entry)
            return _Name(entry, seen)
        data = self._first.get((seen.device, seen.inode)) if seen.links > 1 else None
        if data is None:
            if record is not None and record.unchanged(seen):
                data = self._as_it_was(record, seen)
            else:
                data = self._renewed(entry, seen, record)
            if seen.links > 1:
                self._first[seen.device, seen.inode] = data
        return _Name(entry, seen, data)

    def _as_it_was(self, record: Record, seen: Seen) -> _Data:
        self._tick(seen.size)
        with self._lock:
            self.figures.reused += 1
        data: _Data = concurrent.futures.Future()
        data.set_result((self._area.path, self._area.name(record.number)))
        return data

    def _renewed(self, entry: Entry, seen: Seen, record: Record | None) -> _Data:
        path = self._source.absolute(entry)
        descriptor, opened = self._source.open(entry)
        try:
            seen.compare(path, opened)
            if seen.size >= _WORTH_BEGINNING:
                pages.will_need(descriptor, 0)
            if record is not None and not record.is_of(seen):
                record = None
            return self._threads.submit(self._renew, descriptor, path, seen, record)
        except BaseException:
            os.close(descriptor)
            raise

    def _renew(self, descriptor: int, path: str, seen: Seen, record: Record | None) -> tuple[str, str]:
        try:
            self._tick(0)
            try:
                name = self._patched(descriptor, record, seen.size) if record is not None else None
                if name is None:
                    name = self._copied(descriptor, record, seen.size)
            except OSError as problem:
                raise storage_error(problem, os.path.join(self._area.path, "clone"), 0) from problem
            seen.compare(path, Seen.of(os.fstat(descriptor)))
            return self._area.path, name
        finally:
            os.close(descriptor)

    def _patched(self, descriptor: int, record: Record, size: int) -> str | None:
        if not record.page or page_of(descriptor, record) != record.page:
            return None
        with contextlib.ExitStack() as closing:
            target = self._area.open(record.number)
            closing.callback(os.close, target)
            headers = self._area.headers(record.number)
            closing.callback(os.close, headers)
            written = pages.patch(descriptor, target, headers, size, record.page, record.lsn, self._tick)
        with self._lock:
            self.figures.patched += 1
            self.figures.bytes_patched += written
        return self._area.name(record.number)

    def _copied(self, descriptor: int, record: Record | None, size: int) -> str:
        if record is None:
            with self._lock:
                name, target = self._area.add()
        else:
            name, target = self._area.name(record.number), self._area.open(record.number)
        try:
            # Holes are left out of what is copied, so nothing may show through them.
            os.ftruncate(target, 0)
            clone.copy(descriptor, target, size, self._tick)
        finally:
            os.close(target)
        with self._lock:
            self.figures.copied += 1
            self.figures.bytes_copied += size
        return name
