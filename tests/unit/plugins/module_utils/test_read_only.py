# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which options keep a server read-only through a restart; tests/integration/test_read_only.py tries to write."""

from __future__ import annotations

import json
import typing as t

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _read_only
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._read_only import ReadOnly

MARIADB = Dialect("mariadb", (10, 11, 18))
MYSQL_56 = Dialect("mysql", (5, 6, 24))
MYSQL_84 = Dialect("mysql", (8, 4, 0))
READ, SUPER = "--read_only=On", "--super-read_only=On"


class Answers:
    """A session whose server says which settings were made at run time; None: the account may not ask."""

    def __init__(self, changed: list[str] | None) -> None:
        self._changed = changed

    def query(self, sql: str) -> list[dict[str, t.Any]]:
        if self._changed is None:
            raise QueryError("denied", code=1142)
        return [{"name": name} for name in self._changed]


@pytest.mark.parametrize(
    ("dialect", "switches", "changed", "options"),
    [
        (MARIADB, {"read_only": "ON"}, ["READ_ONLY"], (READ,)),
        (MARIADB, {"read_only": "ON"}, ["MAX_CONNECTIONS"], ()),
        (MARIADB, {"read_only": "OFF"}, ["READ_ONLY"], ()),
        (MARIADB, {"read_only": "ON"}, None, (READ,)),
        # It cannot say: better once too often.
        (MYSQL_56, {"read_only": "ON"}, [], (READ,)),
        (MYSQL_84, {"read_only": "ON", "super_read_only": "ON"}, ["super_read_only"], (SUPER, READ)),
        (MYSQL_84, {"read_only": "ON", "super_read_only": "OFF"}, ["read_only"], (READ,)),
        (MYSQL_84, {"read_only": "ON", "super_read_only": "ON"}, [], ()),
    ],
)
def test_what_a_start_takes(
    dialect: Dialect, switches: dict[str, str], changed: list[str] | None, options: tuple[str, ...]
) -> None:
    found = _read_only.capture(t.cast(t.Any, Answers(changed)), dialect, {**switches, "port": "1"}, ["mysqld"])
    assert (found.switches, found.options) == (switches, options)
    assert ReadOnly.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert set(options) <= set(dialect.own_start_options)


def test_what_an_earlier_start_took_is_taken_again() -> None:
    """The server says COMMAND-LINE then, and the next start leaves our options out."""
    session = t.cast(t.Any, Answers([]))
    found = _read_only.capture(session, MARIADB, {"read_only": "ON"}, ["mariadbd", "--port=1", READ])
    assert found.options == (READ,)
    assert _read_only.capture(session, MARIADB, {"read_only": "OFF"}, ["mariadbd", READ]).options == ()


class Refuses:
    """A session of an account that may not switch ``name``."""

    def __init__(self, name: str, values: dict[str, int]) -> None:
        self._name = name
        self.values = values

    def scalar(self, sql: str) -> int:
        return self.values[sql.rpartition(".")[2]]

    def execute(self, sql: str, args: tuple[int, ...]) -> None:
        scope, name = sql.split()[1:3]
        if scope == "SESSION":
            return
        if name == self._name:
            raise QueryError("The server refused it", code=1227, found="1227 Access denied")
        self.values[name] = args[0]


def test_a_switch_that_cannot_be_put_back_does_not_keep_the_other_from_it() -> None:
    session = Refuses("super_read_only", {"super_read_only": 0, "read_only": 0})
    before = ReadOnly({"super_read_only": "ON", "read_only": "ON"})
    done, left = _read_only.put_back(t.cast(t.Any, session), before)
    assert done == ["set read_only back to ON"]
    assert session.values == {"super_read_only": 0, "read_only": 1}
    assert left == [
        _read_only.NotBack("super_read_only", "0", "1", "SET GLOBAL super_read_only = 1", "1227 Access denied")
    ]
    assert _read_only.put_back(t.cast(t.Any, Refuses("none", {"super_read_only": 1, "read_only": 1})), before) == (
        [],
        [],
    )
