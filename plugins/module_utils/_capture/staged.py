# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A clone that is copied while the server runs, and made true while it is down.

``precopy`` copies every file into the store and notes in an *index* what each was. When the server is down, ``finish``
writes the list of the clone: a file that has certainly not changed is taken as it was copied, of an InnoDB file the
pages that may have changed are copied, of all others the whole file. Anything in doubt counts as changed; that nothing
can be missed is argued in docs/captures.md.

    server = staged.Live.of(session, process)
    precopy(discovery, store, server, rate=bytes_per_second)  # before the replica is quiesced
    count, figures = finish(entries, source, store, listing, tick)  # entries: the list, taken again
"""

from __future__ import annotations

import collections
import contextlib
import errno
import json
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
    SYMLINK,
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
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.clone import Cloned
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import Entry
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess

INDEX = "index"
# Seconds that the times of a file must lie before the pre-copy to be trusted: far more than the clock tick of any file
# system (2 s), and than a write that the kernel has accepted takes to reach the file.
MARGIN = 60.0
# A clock that was set back by more than this many seconds has made all times doubtful.
_SET_BACK = 1.0
# InnoDB files from this size on are compared page by page; smaller ones are copied as quickly.
_LEAST_PAGED = 1024 * 1024
# Of less than so many bytes left to look at, another round is not worth it.
_LITTLE = 64 * 1024 * 1024
_ROUNDS = 3
_STEP = 8 * 1024 * 1024
# The connection must not be idle for longer: wait_timeout may be short.
_KEEP_ALIVE = 20.0
# So many entries before its turn the disk begins with a file that has to be read, from so many bytes on.
_EARLY = 16
_WORTH_BEGINNING = 64 * 1024
# Memory is idle when more than this part of it is used for nothing, not even as a cache.
_IDLE_SHARE = 4
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE})
# File systems of this kernel whose times move with every write call, and those that also note writes to mapped memory.
_TIMES_OF_MAPPED = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"})
_TIMES = _TIMES_OF_MAPPED | {"tmpfs", "zfs", "overlay", "jfs", "bcachefs", "reiserfs"}
# Written by write calls alone, as InnoDB's files are.
_UNMAPPED_ROLES = frozenset({"binlog", "relay_log"})
_CHECKPOINT = re.compile(r"^Last checkpoint at\s+(\d+)\s*$", re.MULTILINE)
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


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


@dataclass(frozen=True)
class _Record:
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


class _LiveSource(Source):
    """Opens files that a server is at work on: sizes and times may be others than in the list."""

    def _match(self, entry: ListedFile, seen: Seen) -> None:
        listed = t.cast(Entry, entry)
        if seen.kind != entry.type or (seen.uid, seen.gid, seen.mode & 0o7777) != (listed.uid, listed.gid, listed.mode):
            raise changed(self.absolute(entry), "type, owner or mode", entry.type, seen.kind)


class _Area:
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


def _clock() -> int:
    """Nanoseconds between the clock that files are stamped by and one that nobody sets."""
    return time.time_ns() - time.monotonic_ns()


class _Index:
    """The records in the order of the walk, read alongside a later walk: nothing is held in memory."""

    def __init__(self, path: str) -> None:
        self._stream = open(to_bytes(path), "rb")  # noqa: SIM115
        head = json.loads(self._stream.readline())
        self._places = {name: number for number, name in enumerate(head["places"])}
        self.doubtful = _clock() < head["clock"] - int(_SET_BACK * 1e9)
        self._next = self._read()

    def close(self) -> None:
        self._stream.close()

    def _read(self) -> _Record | None:
        line = self._stream.readline()
        if not line:
            return None
        record = _Record(*json.loads(line))
        return replace(record, settled=False) if self.doubtful else record

    def _key(self, item: _Record | Entry) -> tuple[int, list[bytes]]:
        return self._places.get(item.place, -1), to_bytes(item.path).split(b"/")

    def find(self, entry: Entry) -> tuple[_Record | None, list[_Record]]:
        """The record of that name, and those before it that no entry of the walk has asked for."""
        passed: list[_Record] = []
        if entry.place not in self._places:
            return None, passed
        wanted = self._key(entry)
        while self._next is not None and self._key(self._next) <= wanted:
            record, self._next = self._next, self._read()
            if (record.place, record.path) == (entry.place, entry.path):
                return record, passed
            passed.append(record)
        return None, passed

    def rest(self) -> t.Iterator[_Record]:
        while self._next is not None:
            record, self._next = self._next, self._read()
            yield record


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


def _memory_is_idle() -> bool:
    """Whether so much memory is used by nobody that what was just read need not leave it (proc_meminfo(5))."""
    try:
        with open("/proc/meminfo", encoding="ascii") as handle:
            facts = dict(line.split(":", 1) for line in handle)
        return int(facts["MemFree"].split()[0]) * _IDLE_SHARE > int(facts["MemTotal"].split()[0])
    except (OSError, KeyError, ValueError):
        return False


class _Moved(Exception):
    """The file has become shorter, or another, while it was copied."""


@dataclass
class _Round:
    """One walk over the files of the running server."""

    area: _Area
    server: Live
    spend: t.Callable[[int], None]
    trusted_before: int
    lsn: int | None
    mapped: _Mapped
    uncached: frozenset[int]
    systems: _FileSystems = field(default_factory=_FileSystems)
    copied: int = 0
    files: int = 0
    bytes: int = 0

    def take(self, entry: Entry, source: Source, old: _Record | None) -> _Record | None:
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
            record = _Record(entry.place, entry.path, seen.device, seen.inode, *times, number=0, settled=settled)
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

    def _patched(self, record: _Record, old: _Record | None, descriptor: int) -> _Record | None:
        if old is None or not old.page or not self.lsn:
            return None
        with contextlib.ExitStack() as closing:
            target = self.area.open(old.number)
            closing.callback(os.close, target)
            headers = self.area.headers(old.number)
            closing.callback(os.close, headers)
            if _page_of(descriptor, old) != old.page:
                return None
            with self._telling(old.number):
                self.copied += pages.patch(descriptor, target, headers, record.size, old.page, old.lsn, self.spend)
            self._let_go(old, descriptor, target)
        return replace(record, number=old.number, page=old.page, page_size=old.page_size, lsn=self.lsn)

    def _has_pages(self, entry: Entry, seen: Seen) -> bool:
        return bool(self.lsn) and seen.size >= _LEAST_PAGED and pages.is_tablespace(entry)

    def _whole(self, record: _Record, old: _Record | None, entry: Entry, seen: Seen, descriptor: int) -> _Record:
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

    def _let_go(self, record: _Record, source: int, target: int) -> None:
        """Have it on disk, where no flush of the server has to wait for it, and leave the page cache to the server.

        Where memory lies idle the original stays in the cache: in the window its pages are looked at from there.
        """
        if record.size >= _LEAST_PAGED:
            with self._telling(record.number):
                os.fdatasync(target)
            os.posix_fadvise(target, 0, 0, os.POSIX_FADV_DONTNEED)
            if record.inode in self.uncached and not _memory_is_idle():
                os.posix_fadvise(source, 0, 0, os.POSIX_FADV_DONTNEED)

    @contextlib.contextmanager
    def _telling(self, number: int) -> t.Iterator[None]:
        try:
            yield
        except OSError as problem:
            if problem.errno == errno.EIO and problem.strerror == clone.ENDS_EARLY:
                raise _Moved from problem
            raise storage_error(problem, os.path.join(self.area.path, self.area.name(number)), 0) from problem

    def _forget(self, old: _Record | None) -> None:
        if old is not None:
            self.area.drop(old.number)


def _page_of(descriptor: int, old: _Record) -> int:
    """The size of pages that the file tells now: what was found for its copy may be over."""
    return pages.physical_size(os.pread(descriptor, 4096, 0), old.page_size, system=old.page == old.page_size)


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
    area = _Area(store)
    copied: list[int] = []
    index = os.path.join(store, INDEX)
    try:
        while True:
            # The order matters: what is true of the server from here on holds for everything that is read below.
            trusted_before = time.time_ns() - int(margin * 1e9)
            mapped = _Mapped.of(server.process)
            this = _Round(area, server, spend, trusted_before, server.checkpoint(), mapped, _uncached(server.process))
            _one_round(discovery, index, this)
            copied.append(this.copied)
            left = _left(discovery, index, spend)
            slower = len(copied) > 1 and copied[-1] * 2 > copied[-2]
            if left <= enough or slower or len(copied) >= rounds:
                break
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
        old = _Index(index) if os.path.exists(index) else None
        if old is not None:
            closing.callback(old.close)
        listing = clone.Listing(partial)
        closing.callback(listing.close)
        listing.write_line(_line({"places": [place.name for place in discovery.places], "clock": _clock()}))
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
                listing.write_line(_line(list(vars(record_now).values())))
        for record in old.rest() if old is not None else ():
            this.area.drop(record.number)
        listing.close()
    os.rename(to_bytes(partial), to_bytes(index))


def _left(discovery: Discovery, index: str, spend: t.Callable[[int], None]) -> int:
    """Bytes of the files that would have to be looked into if the server were down now."""
    left = 0
    records = _Index(index)
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


# One for all lines: json.dumps() with options makes a new one at every call.
_encode = json.JSONEncoder(separators=(",", ":")).encode


def _line(value: object) -> bytes:
    return _encode(value).encode("ascii") + b"\n"


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
    names and :class:`Figures` as a dictionary. ``tick`` is called with all bytes of the files, some at a time, and may
    raise. Raises ReplicaBackupError.
    """
    make_private_directory(store)
    path = os.path.join(store, INDEX)
    figures = Figures()
    with contextlib.ExitStack() as closing:
        area = _Area(store, suffix=".late")
        closing.callback(area.close)
        index = _Index(path) if os.path.exists(path) else None
        if index is not None:
            closing.callback(index.close)
        last = _Last(source, area, figures)
        count = 0
        for entry, record in _begun_early(entries, index, source):
            listing.write_line(last.take(entry, record, tick).to_line())
            count += 1
    return count, dict(vars(figures))


def _begun_early(
    entries: t.Iterable[Entry], index: _Index | None, source: Source
) -> t.Iterator[tuple[Entry, _Record | None]]:
    """Each entry with its record. The disk begins with what will have to be read some entries before."""
    waiting: collections.deque[tuple[Entry, _Record | None]] = collections.deque()
    for entry in entries:
        record = index.find(entry)[0] if index is not None else None
        if entry.type == FILE and entry.link is None and entry.size >= _WORTH_BEGINNING:
            # What is wrong with it is said when its turn has come.
            with contextlib.suppress(ReplicaBackupError):
                _begin(entry, record, source)
        waiting.append((entry, record))
        if len(waiting) > _EARLY:
            yield waiting.popleft()
    yield from waiting


def _begin(entry: Entry, record: _Record | None, source: Source) -> None:
    if record is not None and record.unchanged(source.stat(entry)):
        return
    descriptor, _seen = source.open(entry)
    try:
        pages.will_need(descriptor, 0)
    finally:
        os.close(descriptor)


class _Last:
    """The files of the stopped server against their copies."""

    def __init__(self, source: Source, area: _Area, figures: Figures) -> None:
        self._source = source
        self._area = area
        self._figures = figures
        self._first: dict[tuple[int, int], tuple[str, str]] = {}

    def take(self, entry: Entry, record: _Record | None, tick: t.Callable[[int], None]) -> Cloned:
        tick(0)
        seen = self._source.stat(entry)
        if entry.type != FILE:
            if entry.type == SYMLINK:
                self._source.read_link(entry)
            return Cloned(entry, seen)
        data = self._first.get((seen.device, seen.inode)) if seen.links > 1 else None
        if data is None:
            if record is not None and record.unchanged(seen):
                self._figures.reused += 1
                tick(seen.size)
                data = self._area.path, self._area.name(record.number)
            else:
                data = self._area.path, self._renewed(entry, seen, record, tick)
            if seen.links > 1:
                self._first[seen.device, seen.inode] = data
        return Cloned(entry, seen, *data)

    def _renewed(self, entry: Entry, seen: Seen, record: _Record | None, tick: t.Callable[[int], None]) -> str:
        descriptor, opened = self._source.open(entry)
        try:
            seen.compare(self._source.absolute(entry), opened)
            if record is not None and not record.is_of(seen):
                record = None
            try:
                name = self._patched(descriptor, record, seen.size, tick) if record is not None else None
                if name is None:
                    name = self._copied(descriptor, record, seen.size, tick)
            except OSError as problem:
                raise storage_error(problem, os.path.join(self._area.path, "clone"), 0) from problem
            seen.compare(self._source.absolute(entry), Seen.of(os.fstat(descriptor)))
            return name
        finally:
            os.close(descriptor)

    def _patched(self, descriptor: int, record: _Record, size: int, tick: t.Callable[[int], None]) -> str | None:
        if not record.page or _page_of(descriptor, record) != record.page:
            return None
        with contextlib.ExitStack() as closing:
            target = self._area.open(record.number)
            closing.callback(os.close, target)
            headers = self._area.headers(record.number)
            closing.callback(os.close, headers)
            written = pages.patch(descriptor, target, headers, size, record.page, record.lsn, tick)
        self._figures.patched += 1
        self._figures.bytes_patched += written
        return self._area.name(record.number)

    def _copied(self, descriptor: int, record: _Record | None, size: int, tick: t.Callable[[int], None]) -> str:
        if record is None:
            name, target = self._area.add()
        else:
            name, target = self._area.name(record.number), self._area.open(record.number)
        try:
            # Holes are left out of what is copied, so nothing may show through them.
            os.ftruncate(target, 0)
            clone.copy(descriptor, target, size, tick)
        finally:
            os.close(target)
        self._figures.copied += 1
        self._figures.bytes_copied += size
        return name
