# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tablespace files that InnoDB's dictionary names."""

from __future__ import annotations

import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    RefusedError,
    ReplicaBackupError,
)

# Rows fetched at once: a server may have hundreds of thousands of tablespaces.
_PAGE = 20_000


class Queries(t.Protocol):
    """The part of a session that is used here."""

    def query(self, sql: str, args: t.Sequence[t.Any] | None = None) -> list[dict[str, t.Any]]: ...


class _Source(t.NamedTuple):
    """A view of the dictionary: the column with the path, the one with the tablespace number, a condition."""

    table: str
    path: str
    number: str
    condition: str


# Whichever of these a server has are asked, so that no version has to be known: FILES carries InnoDB from MySQL 5.7 on
# (with undo and general tablespaces), *_DATAFILES until and after the renaming of 8.0, the FILENAME column only on
# MariaDB that dropped INNODB_SYS_DATAFILES. (MySQL 8.0 manual 28.3.15, 28.4.15; MariaDB: INNODB_SYS_TABLESPACES.)
_SOURCES = (
    _Source("FILES", "FILE_NAME", "FILE_ID", "ENGINE = 'InnoDB' AND FILE_TYPE <> 'TEMPORARY'"),
    _Source("INNODB_DATAFILES", "PATH", "SPACE", "1 = 1"),
    _Source("INNODB_SYS_DATAFILES", "PATH", "SPACE", "1 = 1"),
    _Source("INNODB_SYS_TABLESPACES", "FILENAME", "SPACE", "NAME <> 'innodb_temporary'"),
)


def _text(value: t.Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _has_innodb(session: Queries) -> bool:
    rows = session.query("SELECT SUPPORT AS support FROM information_schema.ENGINES WHERE ENGINE = 'InnoDB'")
    return any(str(row["support"]).upper() in ("YES", "DEFAULT") for row in rows)


def _available(session: Queries) -> list[_Source]:
    rows = session.query(
        "SELECT TABLE_NAME AS table_name, COLUMN_NAME AS column_name FROM information_schema.COLUMNS"
        " WHERE TABLE_SCHEMA = 'information_schema'"
        " AND TABLE_NAME IN ('FILES', 'INNODB_DATAFILES', 'INNODB_SYS_DATAFILES', 'INNODB_SYS_TABLESPACES')"
    )
    present = {(str(row["table_name"]).upper(), str(row["column_name"]).upper()) for row in rows}
    return [source for source in _SOURCES if (source.table, source.path) in present]


def _read(session: Queries, source: _Source) -> t.Iterator[str]:
    last = -1
    while True:
        rows = session.query(
            f"SELECT {source.number} AS number, {source.path} AS path FROM information_schema.{source.table}"
            f" WHERE {source.condition} AND {source.path} IS NOT NULL AND {source.number} > {last}"
            f" ORDER BY {source.number} LIMIT {_PAGE}"
        )
        for row in rows:
            path = _text(row["path"])
            if path:
                yield path
        if len(rows) < _PAGE:
            return
        last = int(rows[-1]["number"])


def dictionary_files(session: Queries) -> tuple[str, ...]:
    """Paths of all tablespaces as the server writes them (relative ones start at its data directory).

    Empty when the server has no InnoDB, or an InnoDB without such views (MySQL 5.5: it knows no files elsewhere
    than in the data directory). Raises RefusedError when the account may not read the dictionary.
    """
    if not _has_innodb(session):
        return ()
    found: set[str] = set()
    for source in _available(session):
        try:
            found.update(_read(session, source))
        except ReplicaBackupError as error:
            # Error 1227 (PROCESS missing) must not be taken for an empty dictionary.
            raise RefusedError(
                f"information_schema.{source.table} cannot be read, so the file list cannot be proven complete",
                found=str(error),
                expected="an account with the PROCESS privilege",
                rule="dictionary",
            ) from error
    return tuple(sorted(found))
