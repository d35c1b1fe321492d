# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
import re
import typing as t
from decimal import Decimal
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _dialect
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


@dataclasses.dataclass(frozen=True)
class Words:
    """What one server says, by the manual; ``sources`` names the sections."""

    word: str
    skip: str
    channels: bool
    shutdown: bool
    groups: bool
    gaps: bool
    filters_change: bool
    channel_filters: bool
    tells_changes: bool
    sources: str


WORDS = {
    # MySQL 5.5: no workers, no channels (manual 5.5, "Replication Slave Options and Variables").
    ("mysql", (5, 5, 62)): Words("SLAVE", "slave", False, False, False, False, False, False, False, "5.5, 17.1.3.3"),
    # 13.4.2.5 START SLAVE (UNTIL SQL_AFTER_MTS_GAPS since 5.6.6); no SHUTDOWN statement: 13.7.6 has none.
    ("mysql", (5, 6, 24)): Words("SLAVE", "slave", False, False, False, True, False, False, False, "5.6, 13.4.2.5"),
    # 16.2.2 channels (5.7.6), 13.7.6.7 SHUTDOWN (5.7.9), 13.4.2.2 CHANGE REPLICATION FILTER (5.7.3), 17 (5.7.17).
    ("mysql", (5, 7, 44)): Words("SLAVE", "slave", True, True, True, True, True, False, False, "5.7, 13.4.2"),
    # 13.4.2.1 (FOR CHANNEL, 8.0.1), 27.12.14.2 variables_info and 27.12.14.1 persisted_variables.
    ("mysql", (8, 0, 20)): Words("SLAVE", "slave", True, True, True, True, True, True, True, "8.0, 13.4.2.1"),
    # 13.7.7.35: "From MySQL 8.0.22, use SHOW REPLICA STATUS"; the variables followed in 8.0.26 (17.1.6.3).
    ("mysql", (8, 0, 22)): Words("REPLICA", "slave", True, True, True, True, True, True, True, "8.0, 13.7.7.35"),
    ("mysql", (8, 0, 26)): Words("REPLICA", "replica", True, True, True, True, True, True, True, "8.0, 17.1.6.3"),
    ("mysql", (8, 0, 34)): Words("REPLICA", "replica", True, True, True, True, True, True, True, "8.0, 17.1.6.3"),
    # 1.4 "What Is New in MySQL 8.4": the statements with SLAVE and MASTER are gone.
    ("mysql", (8, 4, 3)): Words("REPLICA", "replica", True, True, True, True, True, True, True, "8.4, 1.4, 15.7.7.35"),
    ("mysql", (9, 0, 1)): Words("REPLICA", "replica", True, True, True, True, True, True, True, "9.0, 15.7.7.36"),
    ("mysql", (9, 7, 4)): Words("REPLICA", "replica", True, True, True, True, True, True, True, "seen on the server"),
    # Knowledge Base, "Multi-Source Replication", "SHUTDOWN", "Dynamic Replication Variables", "SYSTEM_VARIABLES Table";
    # every version still takes SLAVE.
    **{
        ("mariadb", version): Words("SLAVE", "slave", True, True, False, False, True, True, True, "Knowledge Base")
        for version in ((10, 3, 39), (10, 4, 34), (10, 5, 29), (10, 6, 22), (10, 11, 18), (11, 4, 7), (11, 8, 6))
    },
}


@pytest.mark.parametrize(("server", "words"), WORDS.items(), ids=lambda value: str(value)[:26])
def test_every_version_is_spoken_to_in_its_own_words(server: tuple[str, tuple[int, int, int]], words: Words) -> None:
    dialect = Dialect(*server)
    show = "SHOW ALL SLAVES STATUS" if server[0] == "mariadb" else f"SHOW {words.word} STATUS"
    assert (dialect.show_channels, dialect.skip_start_option) == (show, f"--skip-{words.skip}_start")
    sql, arguments = dialect.stop_thread("c", "applier")
    assert sql.split()[:2] == ["STOP", words.word]
    assert arguments == (("c",) if words.channels else ())
    found = (
        dialect.has_channels,
        dialect.has_shutdown_statement,
        dialect.has_group_replication,
        dialect.can_leave_applier_gaps,
        dialect.filters_can_change,
        dialect.has_channel_filters,
        dialect.changed_settings is not None,
    )
    assert found == (
        words.channels,
        words.shutdown,
        words.groups,
        words.gaps,
        words.filters_change,
        words.channel_filters,
        words.tells_changes,
    )
    if words.word == "REPLICA" and dialect.version >= (8, 4, 0):
        statements = (show, sql, dialect.start_thread("c", "io")[0], dialect.start_until_gaps_filled("c")[0])
        assert not any(word in statement for statement in statements for word in ("SLAVE", "MASTER"))


@pytest.mark.parametrize(
    ("dialect", "variables", "of_channel", "expected"),
    [
        # Recorded defaults of each server, and what may be set instead.
        (MARIADB, {"slave_parallel_threads": "0", "slave_parallel_mode": "optimistic"}, "", (0, "optimistic", True)),
        (MARIADB, {"slave_parallel_threads": "4", "slave_parallel_mode": ""}, "aggressive", (4, "aggressive", True)),
        (MYSQL_56, {"slave_parallel_workers": "0"}, "", (0, "database", True)),
        (MYSQL_56, {"slave_parallel_workers": "4"}, "", (4, "database", False)),
        # 16.1.6.3: slave_parallel_type, slave_preserve_commit_order (5.7.5).
        (
            MYSQL_57,
            {
                "slave_parallel_workers": "8",
                "slave_parallel_type": "LOGICAL_CLOCK",
                "slave_preserve_commit_order": "ON",
            },
            "",
            (8, "logical_clock", True),
        ),
        (
            MYSQL_80,
            {
                "replica_parallel_workers": "4",
                "replica_parallel_type": "DATABASE",
                "replica_preserve_commit_order": "OFF",
            },
            "",
            (4, "database", False),
        ),
        (
            MYSQL_97,
            {"replica_parallel_workers": "4", "replica_preserve_commit_order": "ON"},
            "",
            (4, "logical_clock", True),
        ),
    ],
)
def test_how_a_server_applies(
    dialect: Dialect, variables: dict[str, str], of_channel: str, expected: tuple[int, str, bool]
) -> None:
    assert (
        dialect.applier_workers(variables),
        dialect.parallel_mode(variables, of_channel),
        dialect.keeps_commit_order(variables),
    ) == expected
    waits = dialect.family == "mysql" and expected[0] > 0
    assert dialect.applier_waits_for_whole_transactions(variables) is waits


@pytest.mark.parametrize(
    ("dialect", "name", "expected"),
    [
        (MARIADB, "slave_parallel_threads", True),
        (MARIADB, "rpl_semi_sync_slave_enabled", True),
        (MARIADB, "gtid_strict_mode", True),
        # Each connection has its own.
        (MARIADB, "slave_parallel_mode", False),
        (MARIADB, "replicate_do_db", False),
        (MARIADB, "sql_slave_skip_counter", False),
        (MARIADB, "gtid_slave_pos", False),
        (MYSQL_56, "sql_slave_skip_counter", True),
        (MYSQL_56, "sync_master_info", True),
        (MYSQL_97, "replica_parallel_workers", True),
        (MYSQL_97, "gtid_mode", True),
        (MYSQL_97, "gtid_executed", False),
        (MYSQL_97, "read_only", False),
    ],
)
def test_which_variables_are_about_replication(dialect: Dialect, name: str, expected: bool) -> None:
    assert dialect.is_replication_setting(name) is expected


@pytest.mark.parametrize(
    ("name", "now", "wanted", "values"),
    [
        ("slave_net_timeout", "60", "17", [17]),
        ("slave_max_statement_time", "0.000000", "1.500000", [Decimal("1.500000")]),
        ("rpl_semi_sync_slave_enabled", "OFF", "ON", ["ON"]),
        ("gtid_mode", "OFF", "ON", ["OFF_PERMISSIVE", "ON_PERMISSIVE", "ON"]),
        ("gtid_mode", "ON", "OFF_PERMISSIVE", ["ON_PERMISSIVE", "OFF_PERMISSIVE"]),
    ],
)
def test_variables_are_set_as_the_server_wants_them(name: str, now: str, wanted: str, values: list[t.Any]) -> None:
    assert MYSQL_97.set_variable(name, now, wanted) == [(f"SET GLOBAL {name} = %s", (value,)) for value in values]


# The texts are what MySQL 9.7 printed for filters that were set with the statements on the right.
@pytest.mark.parametrize(
    ("channel", "filters", "expected"),
    [
        (
            None,
            {"replicate_do_db": "a,b`c", "replicate_ignore_table": "d`b.t2,db.t"},
            (
                "CHANGE REPLICATION FILTER REPLICATE_DO_DB = (`a`, `b``c`),"
                " REPLICATE_IGNORE_TABLE = (`d``b`.`t2`, `db`.`t`)",
                (),
            ),
        ),
        (
            "c",
            {"replicate_wild_ignore_table": r"x%.y\_z,it's.%", "replicate_ignore_db": "100%"},
            (
                "CHANGE REPLICATION FILTER REPLICATE_WILD_IGNORE_TABLE = (%s, %s), REPLICATE_IGNORE_DB = (`100%%`)"
                " FOR CHANNEL %s",
                (r"x%.y\_z", "it's.%", "c"),
            ),
        ),
        (
            "",
            {"replicate_rewrite_db": "(a,b),(c,d)", "replicate_do_db": ""},
            (
                "CHANGE REPLICATION FILTER REPLICATE_REWRITE_DB = ((`a`, `b`), (`c`, `d`)), REPLICATE_DO_DB = ()"
                " FOR CHANNEL %s",
                ("",),
            ),
        ),
    ],
)
def test_filters_become_the_statement_that_sets_them(
    channel: str | None, filters: dict[str, str], expected: Statement
) -> None:
    assert MYSQL_97.change_filters(channel, filters) == expected
    assert "FOR CHANNEL" not in MYSQL_57.change_filters(channel, filters)[0]


def test_settings_of_a_connection_are_set_for_that_connection() -> None:
    assert MARIADB.set_channel_setting("it's", "parallel_mode", "minimal") == [
        ("SET @@SESSION.default_master_connection = %s", ("it's",)),
        ("SET GLOBAL slave_parallel_mode = %s", ("minimal",)),
        ("SET @@SESSION.default_master_connection = %s", ("",)),
    ]
    # A database may have a number for a name.
    assert MARIADB.set_channel_setting("", "replicate_do_db", "7")[1][1] == ("7",)
    assert MYSQL_97.channel_settings == {}


def test_no_other_file_knows_a_version() -> None:
    """Comparisons with a version, and decisions by family, are made in the dialect alone."""
    plugins = Path(_dialect.__file__).parent.parent
    compared = r"""version\w* *(<|>|<=|>=|==|!=) *\(|family *(==|!=|in) *[("']|\((5|8|9|10|11|12), \d+(, \d+)?\)"""
    pattern = re.compile(compared)
    # It tells the families' files apart by what is in them.
    parsers = {"_status_files.py"}
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted(plugins.rglob("*.py"))
        if path.name not in {"_dialect.py", *parsers}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []
