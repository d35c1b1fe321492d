# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CHECK TABLE on every table of a private server, whatever becomes of that server meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import (
    QueryError,
    Session,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.private_server import PrivateServer

# A server may end itself over a damaged page. It is started again for the tables that are left, so many times.
_DEATHS = 5
_GOOD = frozenset({"OK", "Table is already up to date"})
_NO_CHECK = "doesn't support check"
_TABLES = (
    "SELECT TABLE_SCHEMA AS s, TABLE_NAME AS n, TABLE_TYPE AS kind FROM information_schema.TABLES"
    " WHERE TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema') ORDER BY 1, 2"
)


@dataclass
class TableCheck:
    """``bad`` are (table, the server's words). ``without`` are tables whose engine has no check."""

    checked: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_tables(server: PrivateServer, *, timeout: float, start_timeout: float) -> TableCheck:
    """Check one table after the other, all of them within ``timeout`` seconds.

    Raises ReplicaBackupError when that is over, or when the server does not come back after it has ended itself.
    """
    deadline = time.monotonic() + timeout
    found = TableCheck()
    session = server.session(timeout)
    deaths = 0
    try:
        tables = [(str(row["s"]), str(row["n"])) for row in session.query(_TABLES) if "VIEW" not in str(row["kind"])]
        for number, (schema, name) in enumerate(tables):
            label = f"{schema}.{name}"
            if time.monotonic() > deadline:
                raise _late(label, timeout)
            try:
                _check(session, schema, name, found)
                continue
            except QueryError as error:
                if server.answers(10):
                    if time.monotonic() > deadline:
                        raise _late(label, timeout) from error
                    found.bad.append((label, str(error.found)))
                    session.close()
                    session = server.session(max(1.0, deadline - time.monotonic()))
                    continue
            deaths += 1
            found.bad.append((label, f"the server ended while it read this table: {server.last_words()}"))
            session.close()
            server.stop(0)
            if deaths >= _DEATHS:
                left = len(tables) - number - 1
                found.bad.append(("(others)", f"{left} tables are not checked: the server ended itself {deaths} times"))
                return found
            try:
                server.start(start_timeout)
            except ReplicaBackupError as error:
                found.bad.append(("(others)", f"the server does not come up again for them: {error.found}"))
                return found
            session = server.session(max(1.0, deadline - time.monotonic()))
    finally:
        session.close()
    return found


def _late(label: str, timeout: float) -> ReplicaBackupError:
    return ReplicaBackupError(
        "The check of the tables has not ended within its limit",
        found=f"{timeout:g} s are over at {label}",
        expected="the end of the last table",
        next_command="give the drill more time (check_timeout)",
    )


def _check(session: Session, schema: str, name: str, found: TableCheck) -> None:
    quoted = ".".join("`" + part.replace("`", "``") + "`" for part in (schema, name))
    label = f"{schema}.{name}"
    said = [(str(row["Msg_type"]).lower(), str(row["Msg_text"])) for row in session.query(f"CHECK TABLE {quoted}")]
    if any(_NO_CHECK in text for _kind, text in said):
        found.without.append(label)
        return
    found.checked += 1
    final = said[-1] if said else ("error", "no answer")
    if final[0] != "status" or final[1] not in _GOOD:
        found.bad.append((label, "; ".join(dict.fromkeys(text for _kind, text in said))))
        return
    found.warnings += [f"{label}: {text}" for kind, text in said if kind == "warning"]
