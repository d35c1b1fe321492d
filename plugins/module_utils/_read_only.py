# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The read-only switches: a server that refused writes refuses them from its first moment after the restart, too.

What was switched on with SET GLOBAL is in no option file. SQL can only put it back when clients can connect already.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect

# In the order of putting back: off, the first leaves the second as it is; on, it switches the second on as well.
_SWITCHES = ("super_read_only", "read_only")
# Shorter than our connections wait for an answer: the session stays usable, and the threads do not wait for long.
_LOCK_WAIT_SECONDS = 10


@dataclass(frozen=True)
class ReadOnly:
    """``switches``: value by name, of those that the server has. ``options``: what a start takes to keep those on."""

    switches: t.Mapping[str, str]
    options: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, t.Any]:
        return {"switches": dict(self.switches), "options": list(self.options)}

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> ReadOnly:
        return cls(dict(data["switches"]), tuple(str(option) for option in data["options"]))


def capture(session: Session, dialect: Dialect, variables: t.Mapping[str, str], argv: t.Collection[str]) -> ReadOnly:
    """Read them. ``variables`` is SHOW GLOBAL VARIABLES, ``argv`` the command line that the server runs with.

    An option of ours that an earlier start has left there is not part of how the server is started: a switch that it
    holds would be lost like one that was set at run time.
    """
    switches = {name: variables[name] for name in _SWITCHES if name in variables}
    on = [name for name, value in switches.items() if value.upper() != "OFF" and name in dialect.read_only_options]
    ours = any(dialect.read_only_options[name] in argv for name in on)
    if not on or not (ours or set_at_run_time(session, dialect, on)):
        return ReadOnly(switches)
    return ReadOnly(switches, tuple(dialect.read_only_options[name] for name in on))


def set_at_run_time(session: Session, dialect: Dialect, names: t.Iterable[str]) -> bool:
    """Whether a restart would lose one of them; taken to be so when the server cannot say."""
    query = dialect.changed_settings
    if query is None:
        return True
    try:
        changed = {str(row["name"]).lower() for row in session.query(query)}
    except QueryError:
        return True
    return not changed.isdisjoint(names)


@dataclass(frozen=True)
class NotBack:
    """A global variable that could not be put back: what it is, what it was, the statement that failed, and why."""

    name: str
    found: str
    expected: str
    statement: str
    reason: str


def put_back(session: Session, before: ReadOnly) -> tuple[list[str], list[NotBack]]:
    """Set those that are not as before: (what was done, what could not be). Raises nothing that a server answers."""
    done: list[str] = []
    left: list[NotBack] = []
    for name, value in before.switches.items():
        changed, failed = put_variable_back(session, name, {"ON": "1", "OFF": "0"}.get(value.upper(), value), value)
        done += changed
        left += failed
    return done, left


def put_variable_back(session: Session, name: str, wanted: str, value: str) -> tuple[list[str], list[NotBack]]:
    """Set one global variable to ``wanted``, in words ``value``: (what was done, what could not be)."""
    found = "not known"
    argument = int(wanted) if wanted.isdigit() else wanted
    try:
        found = str(session.scalar(f"SELECT @@GLOBAL.{name}"))
        if found in (wanted, value):
            return [], []
        # Switching read_only on waits for every client's locks, by default for a day (lock_wait_timeout).
        session.execute("SET SESSION lock_wait_timeout = %s", (_LOCK_WAIT_SECONDS,))
        session.execute(f"SET GLOBAL {name} = %s", (argument,))
    except QueryError as error:
        shown = argument if isinstance(argument, int) else f"'{argument}'"
        return [], [NotBack(name, found, wanted, f"SET GLOBAL {name} = {shown}", str(error.found or error.message))]
    return [f"set {name} back to {value}"], []
