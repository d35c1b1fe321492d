# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which dictionary views are asked, per server; the answers are those that the real servers gave."""

from __future__ import annotations

import re
import typing as t

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _dictionary
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dictionary import dictionary_files
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError

# Columns that exist, by server (MySQL 5.6 and MariaDB seen; 8.0 and 9.7 after the manual).
COLUMNS = {
    "mysql 5.5": [("FILES", "FILE_NAME")],
    "mysql 5.6": [("FILES", "FILE_NAME"), ("INNODB_SYS_DATAFILES", "PATH")],
    "mysql 8.0": [("FILES", "FILE_NAME"), ("INNODB_DATAFILES", "PATH")],
    "mariadb 10.11": [("FILES", "FILE_NAME"), ("INNODB_SYS_TABLESPACES", "FILENAME")],
}


class Recorded:
    """A session that answers from tables of rows and pages as the statement asks."""

    def __init__(self, server: str, rows: dict[str, list[tuple[int, t.Any]]], engine: str = "DEFAULT") -> None:
        self.server = server
        self.rows = rows
        self.engine = engine
        self.asked: list[str] = []

    def query(self, sql: str, args: t.Sequence[t.Any] | None = None) -> list[dict[str, t.Any]]:
        if "ENGINES" in sql:
            return [{"support": self.engine}] if self.engine else []
        if "information_schema.COLUMNS" in sql:
            return [{"table_name": table, "column_name": column} for table, column in COLUMNS[self.server]]
        table, last, limit = re.findall(r"FROM information_schema\.(\w+).*> (-?\d+) ORDER.*LIMIT (\d+)", sql)[0]
        self.asked.append(table)
        if table not in self.rows:
            raise ReplicaBackupError("The server refused it", found="1227 Access denied; you need PROCESS")
        found = [row for row in self.rows[table] if row[0] > int(last)]
        return [{"number": number, "path": path} for number, path in found[: int(limit)]]


@pytest.mark.parametrize(
    ("server", "rows", "files"),
    [
        ("mysql 5.5", {"FILES": []}, ()),
        (
            "mysql 5.6",
            {"FILES": [], "INNODB_SYS_DATAFILES": [(5, "./a/t.ibd"), (6, "/x/a/u.ibd")]},
            ("./a/t.ibd", "/x/a/u.ibd"),
        ),
        (
            "mysql 8.0",
            {"FILES": [(0, "./ibdata1"), (4294967279, "./undo_001")], "INNODB_DATAFILES": [(9, b"/\xff/t.ibd")]},
            ("./ibdata1", "./undo_001", "/\udcff/t.ibd"),
        ),
        (
            "mariadb 10.11",
            {"FILES": [], "INNODB_SYS_TABLESPACES": [(0, "./ibdata1"), (5, ""), (7, "./a/v#P#p0.ibd")]},
            ("./a/v#P#p0.ibd", "./ibdata1"),
        ),
    ],
)
def test_what_a_server_has_is_asked(
    server: str, rows: dict[str, list[tuple[int, t.Any]]], files: tuple[str, ...]
) -> None:
    session = Recorded(server, rows)
    assert dictionary_files(session) == files
    assert set(session.asked) == set(rows)


def test_rows_come_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dictionary, "_PAGE", 3)
    session = Recorded("mysql 5.6", {"FILES": [], "INNODB_SYS_DATAFILES": [(n, f"./{n}.ibd") for n in range(7)]})
    assert len(dictionary_files(session)) == 7
    assert session.asked.count("INNODB_SYS_DATAFILES") == 3


@pytest.mark.parametrize("engine", ["", "NO", "DISABLED"])
def test_without_innodb_there_is_nothing_to_ask(engine: str) -> None:
    assert dictionary_files(Recorded("mysql 5.6", {}, engine)) == ()


def test_a_refused_question_is_no_empty_dictionary() -> None:
    with pytest.raises(RefusedError, match="PROCESS privilege") as caught:
        dictionary_files(Recorded("mysql 5.6", {"FILES": []}))
    assert "INNODB_SYS_DATAFILES" in str(caught.value)
