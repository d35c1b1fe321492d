# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A clone that is copied while the server runs, and made true while it is down.

``precopy`` copies every file into the store and notes in an *index* what each was. When the server is down,
``finishing.finish`` writes the list of the clone: a file that has certainly not changed is taken as it was copied, of
an InnoDB file the pages that may have changed are copied, of all others the whole file. Anything in doubt counts as
changed; that nothing can be missed is argued in docs/captures.md.

    server = staged.Live.of(session, process)
    precopy(discovery, store, server, rate=bytes_per_second)  # before the replica is quiesced
    count, figures = finishing.finish(entries, source, store, listing, tick)  # entries: the list, taken again
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import time
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _filelist, _fspath, _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import (
    make_private_directory,
    remove_if_there,
    remove_tree,
    storage_error,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import (
    FILE,
    ListedFile,
    to_bytes,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import (
    Seen,
    Source,
    changed,
    find_extents,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import clone, mounts, pages, throttle
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.precopied import (
    INDEX,
    Area,
    Index,
    Record,
    clock,
    page_of,
    to_line,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import Entry
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess

# Seconds that the times of a file must lie before the pre-copy to be trusted: far more than the clock tick of any file
# system (2 s), and than a write that the kernel has accepted takes to reach the file.
MARGIN = 60.0
# InnoDB files from this size on are compared page by page; smaller ones are copied as quickly.
_LEAST_PAGED = 1024 * 1024
# Of less than so many bytes left to look at, another round is not worth it.
_LITTLE = 64 * 1024 * 1024
_ROUNDS = 3
_STEP = 8 * 1024 * 1024
# The connection must not be idle for longer: wait_timeout may be short.
_KEEP_ALIVE = 20.0
# Of the memory that the kernel could give away, this part may hold what the window will look at.
_KEPT_SHARE = 2
# File systems of this kernel whose times move with every write call, and those that also note writes to mapped memory.
_TIMES_OF_MAPPED = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"})
_TIMES = _TIMES_OF_MAPPED | {"tmpfs", "zfs", "overlay", "jfs", "bcachefs", "reiserfs"}
# Written by write calls alone, as InnoDB's files are.
_UNMAPPED_ROLES = frozenset({"binlog", "relay_log"})
_CHECKPOINT = re.compile(r"^Last checkpoint at\s+(\d+)\s*$", re.MULTILINE)


class Live:
    """The running server, as far as the pre-copy asks for it.

    ``checkpoint`` gives the LSN up to which all changes are in the files of InnoDB; None when that is not known, or
    when the server does without its redo log. ``page_size`` is ``innodb_page_size``.
    """

    def __init__(self, process: ServerProcess, page_size: int, checkpoint: t.Callable[[], int | None]) -> None:
        self.process = process
        self.page_size = page_size
        self.checkpoint = checkpoint

    @classmethod
    def of(cls, session: Session, process: ServerProcess) -> Live:
        """From an open session, which must be used by nothing else while :func:`precopy` runs."""

        def checkpoint() -> int | None:
            if session.status().get("Innodb_redo_log_enabled", "ON").upper() != "ON":
                return None
            rows = session.query("SHOW ENGINE INNODB STATUS")
            found = _CHECKPOINT.search(str(rows[0].get("Status", ""))) if rows else None
            return int(found[1]) if found else None

        return cls(process, int(session.variables().get("innodb_page_size") or 16384), checkpoint)


@dataclass(frozen=True)
class Precopied:
    """What a pre-copy has done: names and bytes on the last round, bytes copied by each, bytes it could not settle."""

    files: int
    bytes: int
    rounds: tuple[int, ...]
    left: int
    seconds: float

    def to_dict(self) -> dict[str, t.Any]:
        return {**vars(self), "rounds": list(self.rounds)}


class _LiveSource(Source):
    """Opens files that a server is at work on: sizes and times may be others than in the list."""

    def _match(self, entry: ListedFile, seen: Seen) -> None:
        listed = t.cast(Entry, entry)
        if seen.kind != entry.type or (seen.uid, seen.gid, seen.mode & 0o7777) != (listed.uid, listed.gid, listed.mode):
            raise changed(self.absolute(entry), "type, owner or mode", entry.type, seen.kind)


@dataclass(frozen=True)
class _Mapped:
    """Files that the server may write to through memory; ``known`` is False when it does not let us look."""

    known: bool
    inodes: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, process: ServerProcess) -> _Mapped:
        """From ``/proc/PID/maps`` (proc(5)): what is shared, and be it for reading, which mprotect(2) may change."""
        try:
            lines = _server.read_bytes(f"/proc/{process.pid}/maps").splitlines()
        except OSError:
            return cls(False)
        if not lines:
            return cls(False)
        inodes, names = set(), set()
        for line in lines:
            fields = line.split(None, 5)
            if fields[1].endswith(b"s") and len(fields) == 6 and fields[4] != b"0":
                # By number and name alone: the device of btrfs and overlay is another here than for stat(2).
                inodes.add(int(fields[4]))
                names.add(_fspath.decode(os.path.basename(fields[5].replace(b" (deleted)", b""))))
        return cls(True, frozenset(inodes), frozenset(names))

    def has(self, entry: Entry, seen: Seen) -> bool:
        return not self.known or seen.inode in self.inodes or os.path.basename(entry.path) in self.names


class _FileSystems:
    """The kind of each file system, asked once for each device."""

    def __init__(self) -> None:
        self._kinds: dict[int, str] = {}

    def kind(self, path: str, device: int) -> str:
        if device not in self._kinds:
            try:
                mount = mounts.mount_of(path)
            except OSError:
                mount = None
            self._kinds[device] = mount.fs_type if mount is not None else ""
        return self._kinds[device]


def _uncached(process: ServerProcess) -> frozenset[int]:
    """Inodes that the server reads and writes past the page cache (O_DIRECT): they are not to be left in it."""
    found = set()
    base = f"/proc/{process.pid}"
    try:
        for name in os.listdir(f"{base}/fd"):
            with contextlib.suppress(OSError, ValueError):
                text = _server.read_bytes(f"{base}/fdinfo/{name}").decode("ascii", "replace")
                flags = re.search(r"^flags:\s+([0-7]+)", text, re.MULTILINE)
                if flags is not None and int(flags[1], 8) & os.O_DIRECT:
                    found.add(os.stat(f"{base}/fd/{name}").st_ino)
    except OSError:
        return frozenset(found)
    return frozenset(found)


class _Kept:
    """What may stay in the page cache of files that the server reads past it: in the window they are looked at there.

    Bounded, so that it takes the place of nothing that anybody works with.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._inodes: set[int] = set()

    @classmethod
    def by_memory(cls) -> _Kept:
        """From what is free or can be given up without swapping (proc_meminfo(5))."""
        try:
            with open("/proc/meminfo", encoding="ascii") as handle:
                facts = dict(line.split(":", 1) for line in handle)
            return cls(int(facts["MemAvailable"].split()[0]) * 1024 // _KEPT_SHARE)
        except (OSError, KeyError, ValueError):
            return cls(0)

    def take(self, size: int) -> bool:
        """Whether there is room for so many bytes more; if so, they take it."""
        if size > self._room:
            return False
        self._room -= size
        return True

    def take_file(self, inode: int, size: int) -> bool:
        """The same for a whole file, which may have been taken before."""
        if inode in self._inodes:
            return True
        if self.take(size):
            self._inodes.add(inode)
            return True
        return False


class _Moved(Exception):
    """The file has become shorter, or another, while it was copied."""


@dataclass
class _Round:
    """One walk over the files of the running server."""

    area: Area
    server: Live
    spend: t.Callable[[int], None]
    trusted_before: int
    lsn: int | None
    mapped: _Mapped
    uncached: frozenset[int]
    kept: _Kept
    systems: _FileSystems = field(default_factory=_FileSystems)
    copied: int = 0
    files: int = 0
    bytes: int = 0

    def take(self, entry: Entry, source: Source, old: Record | None) -> Record | None:
        """Copy one file, or make its older copy true; None when it is gone or moves too much."""
        try:
            descriptor, seen = source.open(entry)
        except ReplicaBackupError:
            # Gone, or something else by now. If it is still in the list that counts, it is read then.
            self._forget(old)
            return None
        try:
            if old is not None and not old.is_of(seen):
                self._forget(old)
                old = None
            if old is not None and old.unchanged(seen):
                return old
            settled = self._settled(entry, seen, source.absolute(entry))
            if not (settled or self._has_pages(entry, seen)):
                # It will be copied in the window whatever is done now: a log in use, say.
                return old
            times = (seen.size, seen.mtime_ns, seen.ctime_ns)
            record = Record(entry.place, entry.path, seen.device, seen.inode, *times, number=0, settled=settled)
            try:
                return self._patched(record, old, descriptor) or self._whole(record, old, entry, seen, descriptor)
            except _Moved:
                self._forget(old)
                return None
        finally:
            os.close(descriptor)

    def _settled(self, entry: Entry, seen: Seen, path: str) -> bool:
        kind = self.systems.kind(path, seen.device)
        by_calls = pages.is_tablespace(entry) or entry.role in _UNMAPPED_ROLES
        tells = kind in _TIMES if by_calls else kind in _TIMES_OF_MAPPED
        mapped = self.mapped.has(entry, seen) and not (by_calls and not self.mapped.known)
        at_rest = max(seen.mtime_ns, seen.ctime_ns) < self.trusted_before
        return tells and at_rest and not mapped

    def _patched(self, record: Record, old: Record | None, descriptor: int) -> Record | None:
        if old is None or not old.page or not self.lsn:
            return None
        with contextlib.ExitStack() as closing:
            target = self.area.open(old.number)
            closing.callback(os.close, target)
            headers = self.area.headers(old.number)
            closing.callback(os.close, headers)
            if page_of(descriptor, old) != old.page:
                return None
            with self._telling(old.number):
                self.copied += pages.patch(descriptor, target, headers, record.size, old.page, old.lsn, self.spend)
            self._let_go(old, descriptor, target)
        return replace(record, number=old.number, page=old.page, page_size=old.page_size, lsn=self.lsn)

    def _has_pages(self, entry: Entry, seen: Seen) -> bool:
        return bool(self.lsn) and seen.size >= _LEAST_PAGED and pages.is_tablespace(entry)

    def _whole(self, record: Record, old: Record | None, entry: Entry, seen: Seen, descriptor: int) -> Record:
        self._forget(old)
        with contextlib.ExitStack() as closing:
            with self._telling(self.area.last + 1):
                _name, target = self.area.add()
            number = self.area.last
            closing.callback(os.close, target)
            try:
                with self._telling(number):
                    page = self._copy(descriptor, target, number, entry, seen)
            except _Moved:
                self.area.drop(number)
                raise
            self.copied += record.size
            self._let_go(replace(record, number=number), descriptor, target)
        lsn = (self.lsn or 0) if page else 0
        return replace(record, number=number, page=page, page_size=self.server.page_size, lsn=lsn)

    def _copy(self, source: int, target: int, number: int, entry: Entry, seen: Seen) -> int:
        """Copy the data, and note the headers of InnoDB's pages; their size, 0 when none were noted."""
        size = seen.size
        page = headers = 0
        if self._has_pages(entry, seen):
            first = os.pread(source, 4096, 0)
            page = pages.physical_size(first, self.server.page_size, system=entry.role == "innodb_system")
        extents = find_extents(source, size) if os.fstat(source).st_blocks * 512 < size else None
        with contextlib.ExitStack() as closing:
            if page:
                headers = self.area.headers(number, create=True)
                closing.callback(os.close, headers)
            for offset, length in ((0, size),) if extents is None else extents:
                for position in range(offset, offset + length, _STEP):
                    end = min(offset + length, position + _STEP)
                    self.spend(end - position)
                    clone.copy_range(source, target, position, end)
                    if page:
                        pages.save_headers(target, headers, position, end, page)
            os.ftruncate(target, size)
            if page:
                os.ftruncate(headers, size // page * pages.HEADER)
        return page

    def _let_go(self, record: Record, source: int, target: int) -> None:
        """Have it on disk, where no flush of the server has to wait for it, and leave the page cache to the server.

        Where there is room for it the original stays in the cache: in the window its pages are looked at from there.
        """
        if record.size >= _LEAST_PAGED:
            with self._telling(record.number):
                os.fdatasync(target)
            os.posix_fadvise(target, 0, 0, os.POSIX_FADV_DONTNEED)
            if record.inode in self.uncached and not self.kept.take_file(record.inode, record.size):
                os.posix_fadvise(source, 0, 0, os.POSIX_FADV_DONTNEED)

    @contextlib.contextmanager
    def _telling(self, number: int) -> t.Iterator[None]:
        try:
            yield
        except OSError as problem:
            if problem.errno == errno.EIO and problem.strerror == clone.ENDS_EARLY:
                raise _Moved from problem
            raise storage_error(problem, os.path.join(self.area.path, self.area.name(number)), 0) from problem

    def _forget(self, old: Record | None) -> None:
        if old is not None:
            self.area.drop(old.number)


def precopy(
    discovery: Discovery,
    store: str,
    server: Live,
    *,
    rate: float = 0.0,
    margin: float = MARGIN,
    rounds: int = _ROUNDS,
    enough: int = _LITTLE,
    tick: t.Callable[[], None] = lambda: None,
) -> Precopied:
    """Copy the files of the running server into the directory ``store``, which is made anew.

    At most ``rate`` bytes per second (0: no limit), last in the queue for CPU and disk. Another round goes over what
    has changed since, while more than ``enough`` bytes are left and each has far less to do than the one before.
    ``tick`` is called often and may raise. Raises ReplicaBackupError, for a full disk too; the server is not touched,
    and what was copied is the caller's to remove (``store`` is in the ledger before).
    """
    started = time.monotonic()
    pace = throttle.Pace(rate)
    pinged = time.monotonic()

    def spend(size: int) -> None:
        nonlocal pinged
        tick()
        pace.spend(size)
        if time.monotonic() - pinged > _KEEP_ALIVE:
            server.checkpoint()
            pinged = time.monotonic()

    def work(stop: threading.Event) -> Precopied:
        def watched(size: int) -> None:
            if stop.is_set():
                raise ReplicaBackupError("The pre-copy was given up", found="an interruption")
            spend(size)

        return _rounds(discovery, store, server, watched, margin, rounds, enough, started)

    return _in_background(work)


def _in_background(work: t.Callable[[threading.Event], Precopied]) -> Precopied:
    """Run it in a thread of lowest priority: the priority goes with the thread, and the window has the usual one."""
    stop = threading.Event()
    done: list[Precopied] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            throttle.stand_back(threading.get_native_id())
            done.append(work(stop))
        except BaseException as problem:
            failed.append(problem)

    thread = threading.Thread(target=run, name="pre-copy", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        stop.set()
        thread.join()
        raise
    if failed:
        raise failed[0]
    return done[0]


def _rounds(
    discovery: Discovery,
    store: str,
    server: Live,
    spend: t.Callable[[int], None],
    margin: float,
    rounds: int,
    enough: int,
    started: float,
) -> Precopied:
    remove_tree(store)
    make_private_directory(store)
    area = Area(store)
    copied: list[int] = []
    index = os.path.join(store, INDEX)
    kept = _Kept.by_memory()
    try:
        while True:
            # The order matters: what is true of the server from here on holds for everything that is read below.
            trusted_before = time.time_ns() - int(margin * 1e9)
            mapped = _Mapped.of(server.process)
            uncached = _uncached(server.process)
            this = _Round(area, server, spend, trusted_before, server.checkpoint(), mapped, uncached, kept)
            _one_round(discovery, index, this)
            copied.append(this.copied)
            left = _left(discovery, index, spend)
            slower = len(copied) > 1 and copied[-1] * 2 > copied[-2]
            if left <= enough or slower or len(copied) >= rounds:
                break
        _fetch(discovery, index, this)
    finally:
        area.close()
    seconds = round(time.monotonic() - started, 3)
    return Precopied(this.files, this.bytes, tuple(copied), left, seconds)


def _roots(discovery: Discovery) -> dict[str, str]:
    return {place.name: place.root() for place in discovery.places}


def _one_round(discovery: Discovery, index: str, this: _Round) -> None:
    partial = index + ".partial"
    remove_if_there(partial)
    with contextlib.ExitStack() as closing:
        source = closing.enter_context(_LiveSource(_roots(discovery)))
        old = Index(index) if os.path.exists(index) else None
        if old is not None:
            closing.callback(old.close)
        listing = clone.Listing(partial)
        closing.callback(listing.close)
        listing.write_line(to_line({"places": [place.name for place in discovery.places], "clock": clock()}))
        for entry in _filelist.walk(discovery, live=True):
            this.spend(0)
            known, passed = old.find(entry) if old is not None else (None, [])
            for record in passed:
                this.area.drop(record.number)
            if entry.type != FILE or entry.link is not None:
                continue
            record_now = this.take(entry, source, known)
            if record_now is not None:
                this.files += 1
                this.bytes += record_now.size
                listing.write_line(to_line(list(vars(record_now).values())))
        for record in old.rest() if old is not None else ():
            this.area.drop(record.number)
        listing.close()
    os.rename(to_bytes(partial), to_bytes(index))


def _left(discovery: Discovery, index: str, spend: t.Callable[[int], None]) -> int:
    """Bytes of the files that would have to be looked into if the server were down now."""
    left = 0
    records = Index(index)
    try:
        with _LiveSource(_roots(discovery)) as source:
            for entry in _filelist.walk(discovery, live=True):
                spend(0)
                record, _passed = records.find(entry)
                if entry.type == FILE and entry.link is None:
                    with contextlib.suppress(ReplicaBackupError):
                        seen = source.stat(entry)
                        left += 0 if record is not None and record.unchanged(seen) else seen.size
    finally:
        records.close()
    return left


def _fetch(discovery: Discovery, index: str, this: _Round) -> None:
    """Read into memory what the window will have to look at, as far as there is room and it is not there."""
    records = Index(index)
    try:
        with _LiveSource(_roots(discovery)) as source:
            for entry in _filelist.walk(discovery, live=True):
                this.spend(0)
                record, _passed = records.find(entry)
                if record is None or not record.page:
                    continue
                try:
                    descriptor, seen = source.open(entry)
                except ReplicaBackupError:
                    # Gone, or something else by now.
                    continue
                try:
                    if not record.unchanged(seen):
                        _fetch_file(descriptor, seen.size, record.page, this)
                finally:
                    os.close(descriptor)
    finally:
        records.close()


def _fetch_file(descriptor: int, size: int, page: int, this: _Round) -> None:
    for start, end in pages.not_in_memory(descriptor, size, page):
        if not this.kept.take(end - start):
            return
        this.spend(end - start)
        pages.will_need(descriptor, start, end - start)
