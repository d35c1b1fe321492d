# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One discovery, as a program of its own: what ``replica_files_discover`` does, without Ansible around it.

The server is a real one and is asked all that the module asks. It holds a few tables only; for the others, whose files
lie in its data directory, rows are added to the answers about its dictionary, page by page as a server gives them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login, Session, connect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._discovery import Request, discover

_PAGE = re.compile(r"SELECT (\w+) AS number, \w+ AS path FROM .* > (-?\d+) .* LIMIT (\d+)\Z")
_TABLES_EACH = 1000
# Numbers of tablespaces that a small server does not reach.
_FIRST = 1_000_000


def table_path(number: int, elsewhere: str = "") -> str:
    """File of the table without its suffix, as the dictionary names it; every hundredth lies elsewhere."""
    root = elsewhere if number % 100 == 0 and elsewhere else "."
    return f"{root}/shop@0020{number // _TABLES_EACH}/order@0023line_{number:06}"


class Crowded:
    """A session with a server that seems to have many more tables."""

    def __init__(self, session: Session, tables: int, elsewhere: str) -> None:
        self._session = session
        self._tables = tables
        self._elsewhere = elsewhere

    def __getattr__(self, name: str) -> t.Any:
        return getattr(self._session, name)

    def query(self, sql: str, args: t.Sequence[t.Any] | None = None) -> list[dict[str, t.Any]]:
        rows = self._session.query(sql, args)
        page = _PAGE.match(sql)
        if page is not None:
            start = max(int(page[2]) + 1 - _FIRST, 0)
            end = min(self._tables, start + int(page[3]) - len(rows))
            rows += [
                {"number": _FIRST + number, "path": table_path(number, self._elsewhere) + ".ibd"}
                for number in range(start, end)
            ]
        return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("spool")
    parser.add_argument("elsewhere")
    parser.add_argument("tables", type=int)
    options = parser.parse_args()
    with connect(Login(user="root", unix_socket=options.socket, config_file=None)) as session:
        crowded = t.cast("Session", Crowded(session, options.tables, options.elsewhere))
        result = discover(crowded, Request(options.spool, "bench", "20260101T000000Z"))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
