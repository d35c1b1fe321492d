# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import typing as t

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect, Statement, neutral

MARIADB = Dialect("mariadb", (10, 11, 18))
MYSQL_56 = Dialect("mysql", (5, 6, 24))
MYSQL_57 = Dialect("mysql", (5, 7, 44))
MYSQL_80 = Dialect("mysql", (8, 0, 40))
MYSQL_97 = Dialect("mysql", (9, 7, 4))


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        (MARIADB, "SHOW ALL SLAVES STATUS"),
        (MYSQL_56, "SHOW SLAVE STATUS"),
        (MYSQL_57, "SHOW SLAVE STATUS"),
        (Dialect("mysql", (8, 0, 21)), "SHOW SLAVE STATUS"),
        (Dialect("mysql", (8, 0, 22)), "SHOW REPLICA STATUS"),
        (MYSQL_97, "SHOW REPLICA STATUS"),
    ],
)
def test_show_channels(dialect: Dialect, expected: str) -> None:
    assert dialect.show_channels == expected


@pytest.mark.parametrize(
    ("dialect", "thread", "expected"),
    [
        (MARIADB, "io", ("STOP SLAVE %s IO_THREAD", ("c",))),
        (MARIADB, "applier", ("STOP SLAVE %s SQL_THREAD", ("c",))),
        (MYSQL_56, "io", ("STOP SLAVE IO_THREAD", ())),
        (MYSQL_57, "applier", ("STOP SLAVE SQL_THREAD FOR CHANNEL %s", ("c",))),
        (MYSQL_80, "io", ("STOP REPLICA IO_THREAD FOR CHANNEL %s", ("c",))),
        (MYSQL_97, "applier", ("STOP REPLICA SQL_THREAD FOR CHANNEL %s", ("c",))),
    ],
)
def test_stop_and_start_name_the_channel_as_an_argument(dialect: Dialect, thread: str, expected: Statement) -> None:
    assert dialect.stop_thread("c", thread) == expected
    assert dialect.start_thread("c", thread) == (expected[0].replace("STOP", "START"), expected[1])


def test_gaps_are_filled_by_mysql_only() -> None:
    assert MYSQL_56.start_until_gaps_filled("") == ("START SLAVE SQL_THREAD UNTIL SQL_AFTER_MTS_GAPS", ())
    assert MYSQL_97.start_until_gaps_filled("c") == (
        "START REPLICA SQL_THREAD UNTIL SQL_AFTER_MTS_GAPS FOR CHANNEL %s",
        ("c",),
    )
    assert MYSQL_56.can_leave_applier_gaps
    assert not MARIADB.can_leave_applier_gaps


@pytest.mark.parametrize(
    ("dialect", "skip", "statement", "groups"),
    [
        (MARIADB, "--skip-slave_start", True, False),
        (MYSQL_56, "--skip-slave_start", False, False),
        (MYSQL_57, "--skip-slave_start", True, True),
        (Dialect("mysql", (8, 0, 25)), "--skip-slave_start", True, True),
        (Dialect("mysql", (8, 0, 26)), "--skip-replica_start", True, True),
        (MYSQL_97, "--skip-replica_start", True, True),
    ],
)
def test_words_that_changed(dialect: Dialect, skip: str, statement: bool, groups: bool) -> None:
    found = (dialect.skip_start_option, dialect.has_shutdown_statement, dialect.has_group_replication)
    assert found == (skip, statement, groups)


@pytest.mark.parametrize(
    ("dialect", "variables", "expected"),
    [
        (MARIADB, {}, ("FILE", "FILE")),
        (MYSQL_56, {"master_info_repository": "FILE", "relay_log_info_repository": "TABLE"}, ("FILE", "TABLE")),
        (MYSQL_97, {}, ("TABLE", "TABLE")),
    ],
)
def test_repository_kind(dialect: Dialect, variables: dict[str, str], expected: tuple[str, str]) -> None:
    found = tuple(dialect.repository_kind(variables, which) for which in ("connection", "applier"))
    assert found == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Relay_Master_Log_File", "relay_source_log_file"),
        ("Replica_IO_Running", "replica_io_running"),
        ("Slave_SQL_Running_State", "replica_sql_running_state"),
        ("Exec_Source_Log_Pos", "exec_source_log_pos"),
    ],
)
def test_neutral_names(name: str, expected: str) -> None:
    assert neutral(name) == expected


def test_every_thread_has_a_word() -> None:
    unknown: t.Any = "worker"
    with pytest.raises(KeyError):
        MARIADB.stop_thread("", unknown)
