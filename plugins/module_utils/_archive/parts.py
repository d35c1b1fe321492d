# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof of a set that has several parts: each against the records that say they are in it, several at a time."""

from __future__ import annotations

import threading
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.compress import cpus
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import Part
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.proof import Lander, mismatch, prove
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.reader import Reader
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import FileRecord
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError


def prove_parts(
    open_part: t.Callable[[int], Reader],
    records: t.Callable[[], t.Iterable[FileRecord]],
    parts: t.Sequence[Part | None],
    tick: t.Callable[[], None] = lambda: None,
    *,
    attributes: bool = True,
    landers: t.Sequence[Lander] = (),
    at_a_time: int = 0,
) -> int:
    """As :func:`~.proof.prove`, for every part of a set; returns the number of members of all.

    ``open_part`` opens a part by its number and ``records`` begins the list anew, both from any thread; ``landers``
    are none, or one for each part. ``at_a_time``: so many parts, in their order; 0: one for each CPU.
    """
    if len(parts) == 1:
        lander = landers[0] if landers else None
        return _prove_one(open_part(0), records(), parts[0], tick, attributes, lander)
    return _Work(open_part, records, parts, tick, attributes, landers).run(at_a_time or cpus())


def _prove_one(
    reader: Reader,
    records: t.Iterable[FileRecord],
    part: Part | None,
    tick: t.Callable[[], None],
    attributes: bool,
    lander: Lander | None,
) -> int:
    try:
        return prove(reader, records, part, tick, attributes=attributes, lander=lander)
    finally:
        reader.close()


class _Work:
    def __init__(
        self,
        open_part: t.Callable[[int], Reader],
        records: t.Callable[[], t.Iterable[FileRecord]],
        parts: t.Sequence[Part | None],
        tick: t.Callable[[], None],
        attributes: bool,
        landers: t.Sequence[Lander],
    ) -> None:
        self._open_part = open_part
        self._records = records
        self._parts = parts
        self._tick = tick
        self._attributes = attributes
        self._landers = landers
        self._lock = threading.Lock()
        self._next = 0
        self._count = 0
        self._problem: BaseException | None = None
        self._readers: dict[int, Reader] = {}

    def run(self, at_a_time: int) -> int:
        threads = [
            threading.Thread(target=self._work, daemon=True) for _number in range(min(at_a_time, len(self._parts)))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as problem:
            # A signal, say. No thread may go on writing where the caller clears up.
            self._fail(problem)
            for thread in threads:
                thread.join()
        if self._problem is not None:
            raise self._problem
        return self._count

    def _work(self) -> None:
        try:
            while (number := self._take()) is not None:
                count = self._prove(number)
                with self._lock:
                    self._count += count
        except BaseException as problem:
            self._fail(problem)

    def _take(self) -> int | None:
        with self._lock:
            if self._problem is not None or self._next == len(self._parts):
                return None
            self._next += 1
            return self._next - 1

    def _prove(self, number: int) -> int:
        reader = self._open_part(number)
        with self._lock:
            self._readers[number] = reader
        try:
            return prove(
                reader,
                self._of(number),
                self._parts[number],
                self._alive,
                attributes=self._attributes,
                lander=self._landers[number] if self._landers else None,
            )
        finally:
            with self._lock:
                del self._readers[number]
            reader.close()

    def _of(self, number: int) -> t.Iterator[FileRecord]:
        """The records of one part. A record of no part at all would be missed by every other check."""
        for record in self._records():
            part = record.part
            if not isinstance(part, int) or not 0 <= part < len(self._parts):
                raise mismatch(record.name, "its part", part, f"0 to {len(self._parts) - 1}")
            if part == number:
                yield record

    def _alive(self) -> None:
        if self._problem is not None:
            raise ReplicaBackupError("Another part has failed")
        with self._lock:
            self._tick()

    def _fail(self, problem: BaseException) -> None:
        with self._lock:
            self._problem = self._problem or problem
            for reader in self._readers.values():
                reader.cancel()
