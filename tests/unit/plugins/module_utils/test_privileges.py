# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What SHOW GRANTS says is taken for what the account may do. The lines are those of real servers."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _privileges
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect, Right
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError

HASH = "*B69027D44F6E5EDC07F1AEAD1477967B16F28227"
MYSQL56 = [f"GRANT SHUTDOWN, PROCESS, SUPER ON *.* TO 'backup'@'localhost' IDENTIFIED BY PASSWORD '{HASH}'"]
MARIADB = [
    "GRANT SHUTDOWN, PROCESS, READ_ONLY ADMIN, REPLICATION SLAVE ADMIN, SLAVE MONITOR ON *.* TO `backup`@`localhost` "
    f"IDENTIFIED BY PASSWORD '{HASH}'"
]
MARIADB_ROLE = [
    "GRANT `br` TO `r2`@`localhost`",
    f"GRANT USAGE ON *.* TO `r2`@`localhost` IDENTIFIED BY PASSWORD '{HASH}'",
    "GRANT PROCESS ON *.* TO `br`",
    "SET DEFAULT ROLE `br` FOR `r2`@`localhost`",
]
MARIADB_ROOT = [
    "GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION",
    "GRANT PROXY ON ``@`%` TO `root`@`localhost` WITH GRANT OPTION",
]
MYSQL97 = [
    "GRANT SHUTDOWN, PROCESS, REPLICATION CLIENT ON *.* TO `backup`@`localhost`",
    "GRANT REPLICATION_SLAVE_ADMIN,SYSTEM_VARIABLES_ADMIN ON *.* TO `backup`@`localhost`",
    "GRANT SELECT ON `performance_schema`.`replication_applier_filters` TO `backup`@`localhost`",
    "GRANT SELECT ON `performance_schema`.`replication_group_members` TO `backup`@`localhost`",
]
MYSQL97_SUPER = ["GRANT SUPER ON *.* TO `sup`@`localhost`"]
MYSQL97_REVOKED = [
    "GRANT SELECT, PROCESS, SUPER, REPLICATION CLIENT ON *.* TO `al`@`localhost`",
    "GRANT REPLICATION_SLAVE_ADMIN,SYSTEM_VARIABLES_ADMIN ON *.* TO `al`@`localhost`",
    "REVOKE SELECT ON `performance_schema`.* FROM `al`@`localhost`",
]
MEMBERS = Right("SELECT", "look", on="performance_schema.replication_group_members")
GLOBAL_FILTERS = Right("SELECT", "look", on="performance_schema.replication_applier_global_filters")


@pytest.mark.parametrize(
    ("family", "version", "lines", "missing"),
    [
        ("mysql", (5, 6, 24), MYSQL56, []),
        ("mysql", (5, 6, 24), ["GRANT USAGE ON *.* TO ''@'localhost'"], ["PROCESS", "SUPER"]),
        # What one version calls enough is not enough for the next.
        ("mysql", (5, 7, 44), MYSQL56, ["SELECT"]),
        ("mysql", (8, 0, 36), MYSQL56, ["SELECT", "SELECT", "SELECT"]),
        ("mysql", (9, 7, 4), MYSQL97, ["SELECT"]),
        ("mysql", (9, 7, 4), MYSQL97_SUPER, ["PROCESS", "SELECT", "SELECT", "SELECT"]),
        ("mysql", (9, 7, 4), MYSQL97_REVOKED, ["SELECT", "SELECT", "SELECT"]),
        ("mariadb", (10, 4, 34), MYSQL56, []),
        ("mariadb", (10, 5, 4), MARIADB, []),
        ("mariadb", (10, 11, 18), MARIADB, []),
        ("mariadb", (10, 11, 18), MARIADB_ROOT, []),
        ("mariadb", (10, 11, 18), MARIADB_ROLE, ["REPLICATION SLAVE ADMIN", "REPLICA MONITOR"]),
        ("mariadb", (10, 11, 18), MYSQL56, []),
        ("mariadb", (11, 4, 2), MYSQL56, ["REPLICATION SLAVE ADMIN", "REPLICA MONITOR"]),
    ],
)
def test_what_every_backup_needs(
    family: str, version: tuple[int, int, int], lines: list[str], missing: list[str]
) -> None:
    privileges = _privileges.parse("'a'@'b'", lines)
    rights = _privileges.needed_always(Dialect(family, version))
    assert [right.grant for right in rights if not privileges.has(right)] == missing


@pytest.mark.parametrize(
    ("family", "version", "variable", "right"),
    [
        ("mysql", (5, 7, 44), "read_only", "SUPER"),
        ("mysql", (8, 4, 0), "super_read_only", "SYSTEM_VARIABLES_ADMIN"),
        ("mariadb", (10, 4, 34), "read_only", "SUPER"),
        ("mariadb", (10, 11, 18), "read_only", "READ_ONLY ADMIN"),
        ("mariadb", (10, 11, 18), "innodb_fast_shutdown", "SUPER"),
        ("mariadb", (10, 11, 18), "sql_slave_skip_counter", "SUPER"),
        ("mariadb", (10, 11, 18), "slave_parallel_threads", "REPLICATION SLAVE ADMIN"),
        ("mariadb", (10, 11, 18), "rpl_semi_sync_slave_enabled", "REPLICATION SLAVE ADMIN"),
        ("mariadb", (10, 11, 18), "rpl_semi_sync_master_enabled", "REPLICATION MASTER ADMIN"),
        ("mariadb", (10, 11, 18), "gtid_domain_id", "REPLICATION MASTER ADMIN"),
    ],
)
def test_what_a_variable_needs(family: str, version: tuple[int, int, int], variable: str, right: str) -> None:
    rights = _privileges.needed_to_stop(Dialect(family, version), by_sql=True, variables=[variable])
    assert [needed.grant for needed in rights] == ["SHUTDOWN", right]


def test_super_does_not_stand_for_everything() -> None:
    only_super = _privileges.parse("'a'@'b'", MYSQL97_SUPER)
    for version, may in (((10, 6, 0), True), ((10, 11, 0), False)):
        assert only_super.has(Dialect("mariadb", version).right_to_set("read_only")) is may


@pytest.mark.parametrize(
    ("lines", "may"),
    [
        (["GRANT SELECT ON *.* TO `a`@`b`"], True),
        (["GRANT SELECT ON `performance\\_schema`.* TO `a`@`b`"], True),
        (['GRANT SELECT ON "performance_schema"."replication_group_members" TO "a"@"b"'], True),
        (
            ["GRANT SELECT (`MEMBER_ID`, `X`) ON `performance_schema`.`replication_group_members` TO `a`@`b`"],
            0,
        ),
        (["GRANT SELECT ON `performance_schema`.`other` TO `a`@`b`"], False),
        (["GRANT ALL PRIVILEGES ON `lab`.* TO `a`@`b`"], False),
        # A name that looks like the end of a grant.
        (["GRANT INSERT ON `x` ON *`.`performance_schema` TO `a`@`b`"], False),
    ],
)
def test_tables(lines: list[str], may: bool) -> None:
    assert _privileges.parse("'a'@'b'", lines).has(MEMBERS) is bool(may)


class Answers:
    """A session that knows two answers."""

    def __init__(self, user: str, grants: t.Sequence[str] | QueryError) -> None:
        self._user, self._grants = user, grants

    def query(self, sql: str, args: t.Sequence[t.Any] | None = None) -> list[dict[str, t.Any]]:
        if isinstance(self._grants, QueryError):
            raise self._grants
        return [{"Grants for x": line} for line in self._grants]

    def scalar(self, sql: str, args: t.Sequence[t.Any] | None = None) -> t.Any:
        return self._user


def test_the_refusal_is_a_statement_and_tells_no_hash() -> None:
    privileges = _privileges.read(Answers("o'no@%@10.0.0.%", MYSQL97))
    rights = (*_privileges.needed_always(Dialect("mysql", (9, 7, 4))), Right("RELOAD", "reload"))
    with pytest.raises(RefusedError) as refused:
        _privileges.refuse_missing(privileges, rights)
    account = "'o''no@%'@'10.0.0.%'"
    assert refused.value.facts["missing_grants"] == [
        f"GRANT SELECT ON performance_schema.replication_applier_global_filters TO {account};",
        f"GRANT RELOAD ON *.* TO {account};",
    ]
    # On the replica it must not become a transaction that the source does not have.
    given = " ".join(refused.value.facts["missing_grants"])
    assert refused.value.next_command == f"SET SESSION sql_log_bin = 0; {given}"
    with pytest.raises(RefusedError) as refused:
        _privileges.refuse_missing(_privileges.read(Answers("r2@localhost", MARIADB_ROLE)), [Right("SUPER", "set x")])
    assert HASH not in str(refused.value.to_result())


def test_a_server_without_grant_tables_lets_everybody() -> None:
    privileges = _privileges.read(Answers("root@", QueryError("refused", 1290)))
    assert privileges.has(GLOBAL_FILTERS)
    assert privileges.has(Right("SUPER", "all"))
    with pytest.raises(QueryError):
        _privileges.read(Answers("root@", QueryError("gone", 2006)))
