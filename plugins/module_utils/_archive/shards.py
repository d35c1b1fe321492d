# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several archives of one set, written at the same time; each is a whole archive by itself.

One thread walks over the files and deals them out, one for each shard reads, hashes and writes what it was dealt. The
next file goes to the shard that has the fewest bytes so far, a further name of a file to where the first is, all
directories and symbolic links to the first shard. What is noted of the files is in the order of the walk in the end.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import queue
import struct
import threading
import typing as t
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import Output
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import Part, storage_error
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import (
    FILE,
    FileRecord,
    ListedFile,
    sums_line,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import Readable, Seen
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.writer import (
    FileWriter,
    Notes,
    Totals,
    Watch,
)

# Entries that wait for a shard: enough that small files do not make the others wait for the one that deals.
_WAITING = 128
# What a small file costs besides its bytes, in bytes.
_EACH = 16 * 1024
_FRAME = struct.Struct("<QLL")
_NOTES_BUFFER = 256 * 1024


class SharedWatch(Watch):
    """A watch for several threads: one at a time is counted, throttled and checked."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(lambda: None)
        self._watch = watch
        self._lock = threading.Lock()

    def tick(self, size: int = 0) -> None:
        with self._lock:
            self._watch.tick(size)


class ShardedOutput:
    """The outputs of all shards as far as they end together."""

    def __init__(self, outputs: t.Sequence[Output]) -> None:
        self.outputs = tuple(outputs)

    def finish(self, watch: t.Callable[[], None] = lambda: None) -> tuple[Part, ...]:
        """All durable under their final names. Each waits for its compressor and for the disk, so all wait at once."""
        with ThreadPoolExecutor(len(self.outputs)) as pool:
            ends = [pool.submit(output.finish, watch) for output in self.outputs]
        return tuple(t.cast(Part, end.result()) for end in ends)

    def abort(self) -> None:
        for output in self.outputs:
            output.abort()


def write_shards(
    entries: t.Iterable[ListedFile],
    open_source: t.Callable[[], t.ContextManager[Readable]],
    output: ShardedOutput,
    notes: Notes,
    watch: SharedWatch,
    work: str,
) -> Totals:
    """As :func:`~.writer.write_files`, into several outputs. ``open_source`` gives each thread its own.

    ``work`` is a directory for what is noted meanwhile; it leaves no name there. The caller aborts the output when this
    raises; then no thread is at work on it any more.
    """
    with contextlib.ExitStack() as stack:
        trouble = _Trouble()
        workers = [
            stack.enter_context(_Worker(number, stack.enter_context(open_source()), one, watch, work, trouble))
            for number, one in enumerate(output.outputs)
        ]
        source = stack.enter_context(open_source())
        # Last to come, first to go: the threads end before what they use is closed.
        stack.push(lambda *problem: _end(workers, output) if problem[0] is not None else None)
        for worker in workers:
            worker.start()
        dealer = _Dealer(len(workers))
        for sequence, entry in enumerate(entries):
            workers[dealer.choose(entry, source)].put(sequence, entry)
        for worker in workers:
            worker.put(-1, None)
        for worker in workers:
            worker.join_or_raise()
        for records, sums, seen in _in_order(workers):
            notes.records.write_line(records)
            notes.sums.write_line(sums)
            notes.seen.write_line(seen)
        totals = Totals()
        for worker in workers:
            totals.merge(worker.totals)
        return totals


class _Dealer:
    def __init__(self, shards: int) -> None:
        self._loads = [0] * shards
        self._linked: dict[tuple[int, int], int] = {}

    def choose(self, entry: ListedFile, source: Readable) -> int:
        if entry.type != FILE:
            return 0
        seen = source.stat(entry)
        inode = (seen.device, seen.inode)
        if seen.links > 1 and inode in self._linked:
            return self._linked[inode]
        shard = self._loads.index(min(self._loads))
        self._loads[shard] += seen.size + _EACH
        if seen.links > 1:
            self._linked[inode] = shard
        return shard


class _Stopped(Exception):
    """Another shard has failed."""


class _Trouble:
    """What went wrong first in any of the threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._problem: BaseException | None = None

    def note(self, problem: BaseException) -> None:
        with self._lock:
            self._problem = self._problem or problem

    def check(self) -> None:
        if self._problem is not None:
            raise self._problem


class _Worker:
    """One shard: its thread, and what that has noted."""

    def __init__(
        self, number: int, source: Readable, output: Output, watch: Watch, work: str, trouble: _Trouble
    ) -> None:
        self.totals = Totals()
        self._trouble = trouble
        self._number = number
        self._writer = FileWriter(source, output, watch)
        self._watch = watch
        self._path = os.path.join(work, f"shard-{number}")
        self._notes = _nameless(self._path)
        self._queue: queue.Queue[tuple[int, ListedFile | None]] = queue.Queue(_WAITING)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *problem: object) -> None:
        self._notes.close()

    def start(self) -> None:
        self._thread.start()

    def put(self, sequence: int, entry: ListedFile | None) -> None:
        """Wait for room; raise when any worker has failed meanwhile."""
        while True:
            self._trouble.check()
            try:
                self._queue.put((sequence, entry), timeout=0.5)
                return
            except queue.Full:
                self._watch.tick()

    def join_or_raise(self) -> None:
        """Until it ends; raise as soon as any worker has failed."""
        while self._thread.is_alive():
            self._thread.join(0.5)
            self._trouble.check()
        self._trouble.check()

    def stop(self) -> None:
        self._stop.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait((-1, None))

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()

    def frames(self) -> t.Iterator[tuple[int, bytes, bytes, bytes]]:
        self._notes.seek(0)
        while head := self._notes.read(_FRAME.size):
            sequence, records, sums = _FRAME.unpack(head)
            yield sequence, self._notes.read(records), self._notes.read(sums), self._notes.read(Seen.LENGTH)

    def _run(self) -> None:
        try:
            while True:
                sequence, entry = self._queue.get()
                if self._stop.is_set():
                    raise _Stopped
                if entry is None:
                    return
                record, seen = self._writer.put(entry)
                self._note(sequence, replace(record, part=self._number), seen)
        except BaseException as problem:
            self._trouble.note(problem)

    def _note(self, sequence: int, record: FileRecord, seen: Seen) -> None:
        self.totals.add(record)
        line = record.to_line()
        sums = b"" if record.sha256 is None else sums_line(record.sha256, record.name)
        try:
            self._notes.write(_FRAME.pack(sequence, len(line), len(sums)) + line + sums + seen.pack())
        except OSError as problem:
            raise storage_error(problem, self._path, 0) from problem


def _nameless(path: str) -> t.BinaryIO:
    """A file that is gone with its descriptor, whatever becomes of this process."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.unlink(path)
    except OSError as problem:
        raise storage_error(problem, path, 0) from problem
    return open(descriptor, "w+b", buffering=_NOTES_BUFFER)


def _in_order(workers: t.Sequence[_Worker]) -> t.Iterator[tuple[bytes, bytes, bytes]]:
    for _sequence, records, sums, seen in heapq.merge(*(worker.frames() for worker in workers)):
        yield records, sums, seen


def _end(workers: t.Sequence[_Worker], output: ShardedOutput) -> None:
    """After a failure: no thread may be left that works on what is about to be closed."""
    for worker in workers:
        worker.stop()
    # One that waits for its compressor is woken by that.
    output.abort()
    for worker in workers:
        worker.join()
