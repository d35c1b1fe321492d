# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Threads beside the one that reads an archive: one that is ahead of it, one that hashes behind it.

Reading, hashing and writing let go of the interpreter's lock, so three of them run at a time.
"""

from __future__ import annotations

import queue
import threading
import typing as t

_SIZE = 1024 * 1024
_BUFFERS = 4


class ReadAhead:
    """Reads on into free buffers while somebody works on the one before.

    ``read_into`` fills a view from its start and returns the count, 0 at the end. A buffer is used again once its user
    asks for the next one and ``give_back``, which is handed what frees it, has called that.
    """

    def __init__(self, read_into: t.Callable[[memoryview], int], *, size: int = _SIZE, buffers: int = _BUFFERS) -> None:
        self._read_into = read_into
        self._free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[memoryview, int, BaseException | None]] = queue.SimpleQueue()
        for _number in range(buffers):
            self._free.put(memoryview(bytearray(size)))
        self._current: memoryview | None = None
        self._ended = False
        self.give_back: t.Callable[[t.Callable[[], None]], None] = _at_once
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def following(self) -> memoryview:
        """The next bytes, none at the end. Raises what reading them raised."""
        if self._ended:
            return memoryview(b"")
        if self._current is not None:
            self.give_back(_Return(self._free, self._current))
        self._current, size, problem = self._full.get()
        if problem is not None:
            self._ended = True
            raise problem
        self._ended = size == 0
        return self._current[:size]

    def close(self) -> None:
        """When what is read has been made to end."""
        self._free.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (buffer := self._free.get()) is not None:
            size = 0
            problem: BaseException | None = None
            try:
                # What waits for the rest of a buffer is not worth its own hand-over.
                while size < len(buffer) and (count := self._read_into(buffer[size:])):
                    size += count
            except BaseException as error:
                problem = error
            if size or problem is None:
                self._full.put((buffer, size, None))
            if problem is not None:
                self._full.put((buffer, 0, problem))
            if problem is not None or size == 0:
                return
        # Whoever still waits for more must not wait for ever.
        self._full.put((memoryview(b""), 0, None))


class _Return:
    """Puts a buffer back; an object of its own for each, so that it can be called later."""

    def __init__(self, free: queue.SimpleQueue[memoryview | None], buffer: memoryview) -> None:
        self._free = free
        self._buffer = buffer

    def __call__(self) -> None:
        self._free.put(self._buffer)


def _at_once(work: t.Callable[[], None]) -> None:
    work()


class Behind:
    """Calls what it is given, in that order, in a thread of its own."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[t.Callable[[], object] | None] = queue.SimpleQueue()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def do(self, work: t.Callable[[], object]) -> None:
        """Later. Raises what an earlier call raised."""
        if self._problem is not None:
            raise self._problem
        self._work.put(work)

    def wait(self) -> None:
        """Until all is done. Raises what a call raised; those after it were called all the same."""
        done = threading.Event()
        self._work.put(done.set)
        done.wait()
        if self._problem is not None:
            raise self._problem

    def close(self) -> None:
        """Safe to call twice, and after a failure elsewhere."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except BaseException as problem:
                # Buffers come back by this way, so it goes on: whoever waits for one must not wait for ever.
                if self._problem is None:
                    self._problem = problem
