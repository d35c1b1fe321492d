# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A buffer pool that is warm after the restart: which pages it holds is noted before the stop and read again after it.

From MySQL 5.7 and MariaDB 10.2 on servers do that by themselves (innodb_buffer_pool_dump_at_shutdown and
innodb_buffer_pool_load_at_startup are on); where either is off, innodb_buffer_pool_dump_now and _load_now do it
(manual, "Saving and Restoring the Buffer Pool State"). The note is the small file ``ib_buffer_pool`` of the data
directory. It is written before the list of files is taken, and by nobody after that.
"""

from __future__ import annotations

import re
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _privileges
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._privileges import Privileges

_DUMP, _LOAD = "innodb_buffer_pool_dump_now", "innodb_buffer_pool_load_now"
_DUMP_SECONDS = 30.0
# A load is begun by a thread of its own: a server that has just been told to says so a moment later.
_BEGIN_SECONDS = 2.0
_POLL = 0.2
# "Loading buffer pool(s) from FILE", "Loaded 128/4000 pages"; "Loading of buffer pool not started" is none of these.
_UNDER_WAY = re.compile(r"(?:Loading|Loaded|Dumping)\b(?!.*not (?:yet )?started)")
_NOT_BEGUN = re.compile(r"\Z|.*not (?:yet )?started")


@dataclass(frozen=True)
class Warm:
    """What is done where the server does not do it by itself: ``dump`` before the stop, ``load`` after the start.

    ``why_not``: in words, where it would help and cannot be done.
    """

    dump: bool = False
    load: bool = False
    why_not: str = ""

    def to_dict(self) -> dict[str, t.Any]:
        return {"dump": self.dump, "load": self.load, "why_not": self.why_not}


def plan(dialect: Dialect, variables: t.Mapping[str, str], privileges: Privileges, *, wanted: bool) -> Warm:
    """``variables`` is SHOW GLOBAL VARIABLES. Nothing for servers that cannot do it (MySQL 5.5)."""

    def off(name: str) -> bool:
        return variables.get(name, "ON").upper() in ("OFF", "0")

    dump = wanted and _DUMP in variables and off("innodb_buffer_pool_dump_at_shutdown")
    load = wanted and _LOAD in variables and off("innodb_buffer_pool_load_at_startup")
    names = [name for name, asked in ((_DUMP, dump), (_LOAD, load)) if asked]
    missing = [right for right in map(dialect.right_to_set, names) if not privileges.has(right)]
    if missing:
        grants = " ".join(_privileges.statements(privileges.account, missing))
        return Warm(
            why_not="The buffer pool will be cold after the restart: the account "
            f"{privileges.account} may not set {' and '.join(names)}. {_privileges.UNLOGGED} {grants}"
            " (or replica_backup_warm=false, which leaves it so)"
        )
    return Warm(dump, load)


def _status(session: Session, what: str) -> str:
    rows = session.query(f"SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_{what}_status'")
    return str(next(iter(rows), {}).get("Value") or "")


def dump(session: Session, warm: Warm, tell: t.Callable[[str], None]) -> None:
    """Let the server note its pages, and wait for that. Trouble is told to ``tell`` and nothing more."""
    if not warm.dump:
        return
    try:
        before = _status(session, "dump")
        session.execute(f"SET GLOBAL {_DUMP} = 1")
        start = time.monotonic()
        while time.monotonic() - start < _DUMP_SECONDS:
            now = _status(session, "dump")
            # A dump in the same second as an earlier one reads like that.
            begun = now != before or time.monotonic() - start >= _BEGIN_SECONDS
            if begun and not _UNDER_WAY.match(now):
                if "completed" not in now:
                    tell(f"The buffer pool could not be noted before the stop and will be cold: {now}")
                return
            time.sleep(_POLL)
        tell(f"The buffer pool was not noted within {_DUMP_SECONDS:g} s before the stop")
    except QueryError as error:
        tell(f"The buffer pool could not be noted before the stop and will be cold: {error.message} ({error.found})")


def load(session: Session) -> tuple[list[str], list[str]]:
    """Let the server read the pages that it noted, in the background: (what was done, what is to be told)."""
    try:
        session.execute(f"SET GLOBAL {_LOAD} = 1")
    except QueryError as error:
        return [], [f"The buffer pool is cold after the restart: {error.message} ({error.found})"]
    return ["began to load the buffer pool"], []


def wait(session: Session, timeout: float) -> tuple[float, str]:
    """Wait until the pages are read, ``timeout`` seconds at most: (seconds waited, what is to be told or "").

    The server has been up for a moment when this is called; where nothing is being loaded it ends at once.
    """
    start = time.monotonic()
    try:
        loading = any(str(row["Value"]).upper() == "ON" for row in session.query(_LOADS_BY_ITSELF))
        while True:
            status = _status(session, "load")
            waited = time.monotonic() - start
            begins = bool(_NOT_BEGUN.match(status)) and loading and waited < _BEGIN_SECONDS
            if not begins and not _UNDER_WAY.match(status):
                odd = "" if "completed" in status or _NOT_BEGUN.match(status) else f"The buffer pool: {status}"
                return waited, odd
            if waited >= timeout:
                return waited, f"The buffer pool was still being loaded after {timeout:g} s: {status}"
            time.sleep(_POLL)
    except QueryError as error:
        return time.monotonic() - start, f"Whether the buffer pool is warm is not known: {error.message}"


_LOADS_BY_ITSELF = "SHOW GLOBAL VARIABLES LIKE 'innodb_buffer_pool_load_at_startup'"
