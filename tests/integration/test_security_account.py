# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The account of the README does all that a backup does; with any one of its rights less nothing is touched."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _deadman
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.lab import accounts, systemd_host
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import Flavor, MariaDB, MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

PASSWORD = "of-the-documented-account"
FLAVORS: dict[str, tuple[type[Flavor], str]] = {
    "mariadb": (MariaDB, "MariaDB 10.5 and newer"),
    "mysql56": (MySQL56, "MySQL 5.6 and 5.7, MariaDB 10.4 and older"),
}


@dataclasses.dataclass(frozen=True)
class Case:
    topology: Topology
    given: list[str]

    @property
    def replica(self) -> Server:
        return self.topology.replicas[0]

    @property
    def login(self) -> Login:
        return Login(accounts.USER, PASSWORD, unix_socket=str(self.replica.socket), config_file=None)

    def only_here(self, statement: str) -> None:
        """Run a statement on the replica that its binary log does not get."""
        connection = pymysql.connect(unix_socket=str(self.replica.socket), user="root", autocommit=True)
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("SET SESSION sql_log_bin = 0")
            cursor.execute(statement)

    def window(self) -> Window:
        root = self.topology.root / os.urandom(4).hex()
        root.mkdir(mode=0o700)
        return Window(self.replica, root)


@pytest.fixture(scope="module", params=FLAVORS)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    flavor, heading = FLAVORS[request.param]
    with Topology(lab_root(), replicas=1, flavor=flavor()) as topology:
        given = accounts.statements(heading, PASSWORD)
        for statement in given:
            topology.source.query(statement)
        topology.wait_caught_up()
        # So that a restart loses it, and it has to be put back.
        topology.replicas[0].query("SET GLOBAL read_only = 1")
        yield Case(topology, given)


def as_before(case: Case) -> None:
    case.replica.wait_ready()
    channel = case.replica.channel()
    assert channel is not None
    assert channel.io_running
    assert channel.applier_running
    assert str(case.replica.query("SELECT @@GLOBAL.read_only AS r")[0]["r"]) == "1"
    assert not case.topology.differences()


def test_without_any_one_right_nothing_is_touched(case: Case) -> None:
    pids = case.replica.pids()
    for right, on in accounts.single_rights(case.given):
        window = case.window()
        case.only_here(f"REVOKE {right} ON {on} FROM {accounts.ACCOUNT}")
        for check in (True, False):
            with pytest.raises(RefusedError) as refused:
                window.stop(login=case.login, check=check)
            assert refused.value.facts["rule"] == "privileges", refused.value
            assert refused.value.facts["missing_grants"] == [f"GRANT {right} ON {on} TO 'backup'@'localhost';"]
            assert f"no {right}" in str(refused.value.found)
            assert not Path(window.state, "ledger.json").exists()
        # The statement that the refusal names is the one that mends it.
        case.only_here(refused.value.facts["missing_grants"][0].rstrip(";"))
        assert window.stop(login=case.login, check=True)["changed"]
    assert case.replica.pids() == pids
    as_before(case)


def test_with_all_of_them_a_backup_comes_back_in_every_way(case: Case) -> None:
    """By the start, by a recovery, and by the dead-man; what was set at run time is put back."""
    window = case.window()
    window.stop(login=case.login)
    assert not case.replica.is_running()
    assert window.archive()["clean_stop"]["clean"]
    window.start(login=case.login)
    as_before(case)

    window = case.window()
    window.stop(login=case.login)
    window.start(login=case.login, run_id=None, recover=True, take_over=True, close=False)
    as_before(case)

    window = case.window()
    window.stop(login=case.login)
    assert _deadman.fire(window.state, attempts=1) == 0
    as_before(case)
    window.start(login=case.login, run_id=None, recover=True, take_over=True, close=False)


def test_what_was_set_at_run_time_asks_for_its_own_right(case: Case) -> None:
    """An unclean kind of shutdown has to be changed first, and MariaDB lets only SUPER do that."""
    if "SUPER" in case.given[1]:
        return
    case.replica.query("SET GLOBAL innodb_fast_shutdown = 2, GLOBAL rpl_semi_sync_master_timeout = 1234")
    try:
        with pytest.raises(RefusedError) as refused:
            case.window().stop(login=case.login)
        grant = "GRANT SUPER, REPLICATION MASTER ADMIN ON *.* TO 'backup'@'localhost';"
        assert refused.value.next_command == f"SET SESSION sql_log_bin = 0; {grant}"
        assert "set rpl_semi_sync_master_timeout" in str(refused.value.found)
    finally:
        case.replica.query("SET GLOBAL innodb_fast_shutdown = 1")
        case.replica.stop()
        case.replica.start()
        case.replica.query("SET GLOBAL read_only = 1")


MYSQL97 = """
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _stop
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths

systemctl("start", "mysql")
wait_ready()
root = connect().cursor()
for statement in given:
    root.execute(statement)
login = Login("backup", password, unix_socket=SOCKET, config_file=None)
request = _stop.StopRequest(login, SetPaths("/root/spool", "h", "20260101T000000Z"), "/root/state", "run")

def refusal():
    try:
        _stop.stop(request, check=True)
    except RefusedError as error:
        return error.facts["rule"], error.next_command

answer = [refusal()]
for right, on in rights:
    root.execute(f"REVOKE {right} ON {on} FROM backup@localhost")
    answer.append(refusal())
    root.execute(f"GRANT {right} ON {on} TO backup@localhost")
# By a role that is active after the login.
for statement in ("CREATE ROLE backups", *(text.replace("backup@localhost", "backups") for text in given[1:]),
                  "CREATE USER other@localhost IDENTIFIED BY '" + password + "'", "GRANT backups TO other@localhost"):
    root.execute(statement)
request = _stop.StopRequest(Login("other", password, unix_socket=SOCKET, config_file=None), request.paths, STATE, "run")
answer.append(refusal())
root.execute("SET DEFAULT ROLE ALL TO other@localhost")
answer.append(refusal())
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("podman") is None, reason="containers need root and podman")
def test_mysql97() -> None:
    """No replica there: with all rights another rule refuses. The whole backup by this account is molecule's."""
    given = accounts.statements("MySQL 8.0 and newer", PASSWORD)
    rights = accounts.single_rights(given)
    before = f"given, rights, password = {given!r}, {rights!r}, {PASSWORD!r}\n"
    with systemd_host.running("localhost/replica-host:trixie-mysql97") as host:
        first, *rest = host.python(before + MYSQL97)
    *without, unset, by_role = t.cast("list[list[str]]", rest)
    assert first[0] == by_role[0] == "replica"
    # Nothing was set at run time there, and systemd stops it.
    conditional = ("SHUTDOWN", "SYSTEM_VARIABLES_ADMIN")
    for (right, on), (rule, statement) in zip(rights, without, strict=True):
        if right in conditional:
            assert rule == "replica"
        else:
            grant = f"GRANT {right} ON {on} TO 'backup'@'localhost';"
            assert (rule, statement) == ("privileges", f"SET SESSION sql_log_bin = 0; {grant}")
    assert unset[0] == "privileges"
