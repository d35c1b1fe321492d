# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write InnoDB's dirty pages while the server still serves, so that its shutdown has little left to write.

A shutdown writes every dirty page while nobody is served. The page cleaner does the same work in the background when
it is told that none may stay: innodb_max_dirty_pages_pct = 0 (manual, "Configuring Buffer Pool Flushing": above that
mark it flushes at the full innodb_io_capacity). That capacity is 200 pages a second by default on MariaDB and before
MySQL 8.4, which would take minutes, and is raised for the time. Nothing waits for it: pages are written in the order
of their age, clients go on, and the redo log covers the rest as ever.

The settings die with the server. They are put back by hand only on the very process that they were set on: after a
restart the option files and SET PERSIST have their say.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _privileges
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._privileges import Privileges
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._read_only import NotBack

# What is dirtied anew while the appliers run is left to ``settle``, down to this part of what there was.
_PART_LEFT = 20
# Less than this is written by the shutdown itself in no time worth a word.
WORTH_BYTES = 16 << 20
# So much may stay dirty: the background always dirties a few pages of its own.
_ENOUGH_BYTES = 1 << 20
# Pages a second. More than disks do; the device sets the pace then, and not the server's guess about it.
_IO_CAPACITY = 20000
# Progress is a new low by so many pages. A page cleaner works in rounds of a second and reports at their end, MySQL 5.6
# after two (seen); no new low in this time means that as much is dirtied as is written.
_STEP_PAGES = 64
_STALLED_SECONDS = 5.0
_POLL = 0.1
# The same for the moment between the end of the appliers and the shutdown, when replication stands still: what the
# shutdown writes in a moment is not waited for.
_SETTLE_SECONDS = 10.0
_SETTLE_STALLED = 3.0
_SETTLE_BYTES = 8 << 20

FEW_LEFT, NO_PROGRESS, TIME_OVER = "few are left", "as much is dirtied as is written", "time is over"


@dataclass(frozen=True)
class Flush:
    """What would be done. ``timeout`` in seconds, ``dirty_pages`` of ``page_size`` bytes.

    ``settings``: variables to set, in this order, all but empty when there is nothing to do; ``before``: every variable
    that changes with them, in the order of putting back. ``why_not``: in words, where it would help and cannot be done.
    """

    timeout: float = 0.0
    dirty_pages: int = 0
    page_size: int = 16384
    settings: t.Mapping[str, str] = field(default_factory=dict)
    before: t.Mapping[str, str] = field(default_factory=dict)
    why_not: str = ""

    @property
    def wanted(self) -> bool:
        return bool(self.settings)

    @property
    def dirty_bytes(self) -> int:
        return self.dirty_pages * self.page_size

    def to_dict(self) -> dict[str, t.Any]:
        return {
            "wanted": self.wanted,
            "timeout": self.timeout,
            "dirty_pages": self.dirty_pages,
            "dirty_bytes": self.dirty_bytes,
            "settings": dict(self.settings),
            "why_not": self.why_not,
        }


@dataclass(frozen=True)
class Flushed:
    """How it went: pages dirty at first and at last, seconds, and why it ended."""

    first: int
    last: int
    seconds: float
    ended: str

    def to_dict(self) -> dict[str, t.Any]:
        return {"first": self.first, "last": self.last, "seconds": round(self.seconds, 3), "ended": self.ended}


def dirty_pages(session: Session) -> tuple[int, int] | None:
    """(Dirty pages of the buffer pool, bytes of a page), or None when the server does not say."""
    rows = session.query(
        "SHOW GLOBAL STATUS WHERE Variable_name IN ('Innodb_buffer_pool_pages_dirty', 'Innodb_page_size')"
    )
    found = {str(row["Variable_name"]).lower(): str(row["Value"]) for row in rows}
    try:
        return int(found["innodb_buffer_pool_pages_dirty"]), int(found["innodb_page_size"])
    except (KeyError, ValueError):
        return None


def plan(
    session: Session, dialect: Dialect, variables: t.Mapping[str, str], privileges: Privileges, timeout: float
) -> Flush:
    """Read-only. ``variables`` is SHOW GLOBAL VARIABLES; ``timeout`` 0 switches it off."""
    seen = dirty_pages(session) if timeout > 0 else None
    if seen is None or "innodb_max_dirty_pages_pct" not in variables:
        return Flush(timeout)
    pages, page_size = seen
    if pages * page_size < WORTH_BYTES:
        return Flush(timeout, pages, page_size)
    settings = _settings(variables)
    missing = [right for right in map(dialect.right_to_set, settings) if not privileges.has(right)]
    if missing:
        grants = " ".join(_privileges.statements(privileges.account, missing))
        return Flush(
            timeout,
            pages,
            page_size,
            why_not=f"{pages * page_size >> 20} MiB of dirty pages cannot be written before the stop, which takes"
            f" longer for it: the account {privileges.account} may not set {', '.join(settings)}."
            f" {_privileges.UNLOGGED} {grants} (or replica_backup_flush_timeout=0, which leaves them to the shutdown)",
        )
    # Capacity under its limit at any moment: the mark for dirty pages and its low one come first.
    order = ("innodb_max_dirty_pages_pct", "innodb_max_dirty_pages_pct_lwm", "innodb_io_capacity")
    before = {name: variables[name] for name in (*order, "innodb_io_capacity_max") if name in variables}
    return Flush(timeout, pages, page_size, settings, before)


def _settings(variables: t.Mapping[str, str]) -> dict[str, str]:
    """Capacity is never lowered; a server that has more is left with it."""
    settings = {}
    # The limit before the capacity: MySQL cuts the one down to the other.
    for name in ("innodb_io_capacity_max", "innodb_io_capacity"):
        if name in variables and int(variables[name]) < _IO_CAPACITY:
            settings[name] = str(_IO_CAPACITY)
    # The low mark cannot stay above the mark (a warning and a change by the server itself otherwise).
    if not _same(variables.get("innodb_max_dirty_pages_pct_lwm", "0"), "0"):
        settings["innodb_max_dirty_pages_pct_lwm"] = "0"
    settings["innodb_max_dirty_pages_pct"] = "0"
    return settings


def run(session: Session, dialect: Dialect, flush: Flush, tell: t.Callable[[str], None]) -> Flushed | None:
    """Set and wait. Trouble is told to ``tell`` and ends it: a stop that takes longer is better than none.

    ``flush.before`` must stand in the ledger by now. None when nothing was to be done, or could be.
    """
    if not flush.wanted:
        return None
    try:
        for name, value in flush.settings.items():
            for sql, args in dialect.set_variable(name, flush.before.get(name, ""), value):
                session.execute(sql, args)
        return _wait(session, flush.timeout, _STALLED_SECONDS, _ENOUGH_BYTES, part_left=_PART_LEFT)
    except QueryError as error:
        tell(f"Dirty pages could not be written before the stop: {error.message} ({error.found})")
        return None


def settle(session: Session, flush: Flush) -> Flushed | None:
    """Wait for what the appliers have dirtied at last, now that they are off; the settings of ``run`` still hold.

    Clients are served yet, so what is written here is not written in the downtime; replication stands still, so it does
    not take long.
    """
    if not flush.wanted:
        return None
    try:
        return _wait(session, min(_SETTLE_SECONDS, flush.timeout), _SETTLE_STALLED, _SETTLE_BYTES)
    except QueryError:
        return None


def _wait(session: Session, limit: float, stalled: float, enough: int, part_left: int = 0) -> Flushed | None:
    start = time.monotonic()
    first = lowest = None
    progress = start
    while True:
        seen = dirty_pages(session)
        if seen is None:
            return None
        pages, page_size = seen
        now = time.monotonic()
        first = pages if first is None else first
        if lowest is None or pages <= lowest - _STEP_PAGES:
            lowest, progress = pages, now
        ended = None
        if pages * page_size <= enough or (part_left and pages * part_left <= first):
            ended = FEW_LEFT
        elif now - progress >= stalled:
            ended = NO_PROGRESS
        elif now - start >= limit:
            ended = TIME_OVER
        if ended is not None:
            return Flushed(first, pages, now - start, ended)
        time.sleep(_POLL)


def put_back(session: Session, dialect: Dialect, before: t.Mapping[str, str]) -> tuple[list[str], list[NotBack]]:
    """Set those that are not as before: (what was done, what could not be).

    For the process that ``run`` has set them on. Raises nothing that a server answers.
    """
    done: list[str] = []
    left: list[NotBack] = []
    for name, value in before.items():
        found = "not known"
        try:
            found = str(session.scalar(f"SELECT @@GLOBAL.{name}"))
            if _same(found, value):
                continue
            for sql, args in dialect.set_variable(name, found, value):
                session.execute(sql, args)
            done.append(f"set {name} back to {value}")
        except QueryError as error:
            statement = f"SET GLOBAL {name} = {value}"
            left.append(NotBack(name, found, value, statement, str(error.found or error.message)))
    return done, left


def _same(one: str, other: str) -> bool:
    """Whether two numbers are the same however they are written: 90, 90.000000."""
    try:
        return Decimal(one) == Decimal(other)
    except InvalidOperation:
        return one == other
