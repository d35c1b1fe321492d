# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the account may do all that a backup does, asked before anything is touched.

A right that turns out to be missing when the server is down, or its threads are stopped, is missing at the worst
moment. The server's own answer to SHOW GRANTS counts, roles that are active after the login included. It may hold the
hash of a password, so no line of it goes into a message.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect, Right
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError

RULE = "privileges"
_ALL = "ALL PRIVILEGES"
# SHOW GRANTS of a server that runs with --skip-grant-tables: everybody may do everything.
_NO_GRANT_TABLES = 1290
# Typed on a replica, a statement must not reach its own binary log: with GTIDs it would be a transaction that the
# source does not have.
UNLOGGED = "SET SESSION sql_log_bin = 0;"
# Names are in backticks, with the SQL mode ANSI_QUOTES in double quotes.
_NAME = r"(?:\*|`(?:[^`]|``)*`|\"(?:[^\"]|\"\")*\")"
_LINE = re.compile(rf"(?P<verb>GRANT|REVOKE) (?P<rights>.+?) ON (?P<on>{_NAME}\.{_NAME}) (?:TO|FROM) ")


class Queries(t.Protocol):
    """The part of a session that is used here."""

    def query(self, sql: str, args: t.Sequence[t.Any] | None = None) -> list[dict[str, t.Any]]: ...

    def scalar(self, sql: str, args: t.Sequence[t.Any] | None = None) -> t.Any: ...


@dataclass(frozen=True)
class Privileges:
    """What an account holds: privileges in upper case by what they are ON ("*.*", "db.*", "db.table").

    ``account`` is quoted for a statement. ``revoked``: what was taken off a schema again (MySQL 8.0.16).
    """

    account: str
    held: t.Mapping[str, frozenset[str]]
    revoked: t.Mapping[str, frozenset[str]]

    def has(self, right: Right) -> bool:
        names = {right.grant, _ALL}
        if right.on == "*.*":
            return bool(self.held.get("*.*", frozenset()) & names.union(right.also))
        schema = right.on.partition(".")[0] + ".*"
        if any(self.held.get(on, frozenset()) & names for on in (schema, right.on)):
            return True
        return bool(self.held.get("*.*", frozenset()) & names) and not self.revoked.get(schema, frozenset()) & names


def read(session: Queries) -> Privileges:
    """Privileges of the account that ``session`` is logged in with. Raises QueryError."""
    user, _at, host = str(session.scalar("SELECT CURRENT_USER()")).rpartition("@")
    account = "@".join("'" + part.replace("\\", "\\\\").replace("'", "''") + "'" for part in (user, host))
    try:
        rows = session.query("SHOW GRANTS")
    except QueryError as error:
        if error.code != _NO_GRANT_TABLES:
            raise
        return Privileges(account, {"*.*": frozenset({_ALL, "SUPER"})}, {})
    return parse(account, [str(text) for row in rows for text in row.values()])


def parse(account: str, lines: t.Iterable[str]) -> Privileges:
    """From the lines of SHOW GRANTS, in which every name is quoted and every wildcard of a schema escaped."""
    found: dict[str, dict[str, set[str]]] = {"GRANT": {}, "REVOKE": {}}
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue  # a role, a proxy, a default role
        on = re.sub(r'[`"\\]', "", match["on"])
        # Of single columns it says "SELECT (`a`)": not enough for any statement of ours.
        rights = {right.strip().upper() for right in re.sub(r", ?(?![^(]*\))", "\n", match["rights"]).split("\n")}
        found[match["verb"]].setdefault(on, set()).update(rights)
    held, revoked = ({on: frozenset(rights) for on, rights in found[verb].items()} for verb in ("GRANT", "REVOKE"))
    return Privileges(account, held, revoked)


def needed_always(dialect: Dialect) -> tuple[Right, ...]:
    """For every backup: without these not even the guards can look."""
    return (*dialect.rights_always_needed, *dialect.tables_always_read)


def needed_to_stop(dialect: Dialect, *, by_sql: bool, variables: t.Iterable[str]) -> tuple[Right, ...]:
    """For the stop of this server and its return as it was.

    ``by_sql``: it is shut down by a statement. ``variables``: what has to be set before the shutdown, or put back after
    the start.
    """
    rights = [dialect.right_to_shut_down] if by_sql else []
    return (*rights, *(dialect.right_to_set(name) for name in variables))


def statements(account: str, rights: t.Iterable[Right]) -> list[str]:
    """The GRANT statements that give these rights, one for each object."""
    by_object: dict[str, list[str]] = {}
    for right in rights:
        names = by_object.setdefault(right.on, [])
        if right.grant not in names:
            names.append(right.grant)
    return [f"GRANT {', '.join(names)} ON {on} TO {account};" for on, names in by_object.items()]


def refuse_missing(privileges: Privileges, rights: t.Sequence[Right]) -> None:
    """Raise RefusedError with the statements that give what is missing of ``rights``."""
    missing = [right for right in rights if not privileges.has(right)]
    if not missing:
        return
    words = dict.fromkeys(
        f"no {right.grant}{'' if right.on == '*.*' else ' on ' + right.on} (to {right.use})" for right in missing
    )
    grants = statements(privileges.account, missing)
    raise RefusedError(
        f"The account {privileges.account} may not do all that a backup of this server does",
        found="; ".join(words),
        expected="an account with the rights that the documentation lists for this version (docs/security.md)"
        "; they are given on this replica as below, or at the source without the first statement",
        server_state="running, untouched",
        next_command=" ".join((UNLOGGED, *grants)),
        rule=RULE,
        missing_grants=grants,
    )
