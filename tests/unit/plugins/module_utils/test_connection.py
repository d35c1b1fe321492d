# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import threading
import typing as t
import uuid
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import (
    Login,
    LoginRefusedError,
    QueryError,
    ServerUnreachableError,
    connect,
    identify,
    parse_identity,
    server_answers,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

SECRET = "pa'ss%word"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Topology(CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8], replicas=0) as topology:
        topology.source.query("CREATE USER app@'127.0.0.1' IDENTIFIED BY %s", (SECRET,))
        yield topology.source


@pytest.mark.parametrize(
    ("text", "comment", "expected"),
    [
        ("5.5.5-10.11.18-MariaDB-0+deb12u1-log", "", ("mariadb", (10, 11, 18))),
        ("11.8.3-MariaDB-0+deb13u1 from Debian", "", ("mariadb", (11, 8, 3))),
        ("10.4.32", "MariaDB Server", ("mariadb", (10, 4, 32))),
        ("5.5.5", "Source distribution", ("mysql", (5, 5, 5))),
        ("5.6.24-log", "MySQL Community Server (GPL)", ("mysql", (5, 6, 24))),
        ("9.7.4-0ubuntu1", "(Debian)", ("mysql", (9, 7, 4))),
    ],
)
def test_identity(text: str, comment: str, expected: tuple[str, tuple[int, int, int]]) -> None:
    identity = parse_identity(text, comment)
    assert (identity.family, identity.version) == expected
    assert identity.version_text == text


def test_a_version_that_is_not_one() -> None:
    with pytest.raises(ReplicaBackupError, match="not understood"):
        parse_identity("unknown")


def test_socket_beats_host_and_port(server: Server) -> None:
    login = Login(user="root", host="192.0.2.1", port=1, unix_socket=str(server.socket))
    with connect(login) as session:
        assert identify(session).family == "mariadb"
        assert session.variables()["port"] == str(server.port)
        assert session.variables()["ssl_ca"] == ""
        assert int(session.status()["uptime"]) >= 0
        assert session.scalar("SELECT 1 FROM DUAL WHERE 0") is None
        assert session.query("SELECT %s AS x, x'ff' AS raw", ("a'b",)) == [{"x": "a'b", "raw": "\udcff"}]
    session.close()


def test_password_and_option_file(server: Server, tmp_path: Path) -> None:
    direct = Login(user="app", password=SECRET, host="127.0.0.1", port=server.port)
    with connect(direct, read_timeout=5) as session:
        assert session.scalar("SELECT CURRENT_USER()") == "app@127.0.0.1"
    options = tmp_path / "my.cnf"
    options.write_text(f"[client]\nuser = app\npassword = {SECRET.replace('%', '%%')}\n", encoding="utf-8")
    from_file = Login(host="127.0.0.1", port=server.port, config_file=str(options))
    try:
        with connect(from_file) as session:
            assert session.scalar("SELECT CURRENT_USER()") == "app@127.0.0.1"
    except LoginRefusedError:
        # PyMySQL reads option files without % interpolation in some versions.
        options.write_text(f"[client]\nuser = app\npassword = {SECRET}\n", encoding="utf-8")
        with connect(from_file) as session:
            assert session.scalar("SELECT CURRENT_USER()") == "app@127.0.0.1"


def test_a_refused_login_names_everything_but_the_password(server: Server) -> None:
    login = Login(user="app", password="wrong-and-secret", host="127.0.0.1", port=server.port)
    with pytest.raises(LoginRefusedError) as caught:
        connect(login)
    text = str(caught.value)
    assert "1045" in text and f"app at 127.0.0.1:{server.port}" in text
    assert "wrong-and-secret" not in text + repr(login)
    assert server_answers(login)


def test_nobody_answers(tmp_path: Path) -> None:
    login = Login(user="root", unix_socket=str(tmp_path / "none.sock"))
    with pytest.raises(ServerUnreachableError):
        connect(login)
    assert not server_answers(login)


@pytest.mark.parametrize("text", ["!includedir /etc/mysql/conf.d/\n", "user = app\n"])
def test_an_option_file_that_cannot_be_used(server: Server, tmp_path: Path, text: str) -> None:
    options = tmp_path / "my.cnf"
    options.write_text(text, encoding="utf-8")
    with pytest.raises(ReplicaBackupError, match="login options"):
        connect(Login(unix_socket=str(server.socket), config_file=str(options)))


@pytest.mark.parametrize("changes", [{"ca_cert": "/none/ca"}, {"client_cert": "/none/c", "client_key": "/none/k"}])
def test_tls_files_that_are_not_there(server: Server, changes: dict[str, t.Any]) -> None:
    login = dataclasses.replace(
        Login(user="app", password=SECRET, host="127.0.0.1", port=server.port, check_hostname=True), **changes
    )
    with pytest.raises(ReplicaBackupError):
        connect(login)


def test_statements_that_fail_keep_number_and_arguments_apart(server: Server) -> None:
    with connect(Login(user="root", unix_socket=str(server.socket))) as session:
        with pytest.raises(QueryError) as caught:
            session.execute("SELECT * FROM no_such.t WHERE a = %s", ("secret argument",))
        assert caught.value.code in (1049, 1146)
        assert "secret argument" not in str(caught.value)


def test_rows_hold_any_byte(server: Server) -> None:
    opened: t.Any = pymysql.connect(user="root", unix_socket=str(server.socket))
    with contextlib.closing(opened) as other:
        busy = threading.Thread(target=lambda: other.query(b"DO SLEEP(600) /* \xdd */"))
        with connect(Login(user="root", unix_socket=str(server.socket))) as session:
            busy.start()
            shown: list[str] = []
            while not shown:
                assert busy.is_alive()
                rows = session.query("SHOW PROCESSLIST")
                shown = [row["Info"] for row in rows if str(row["Info"]).startswith("DO SLEEP")]
            session.execute(f"KILL QUERY {other.thread_id()}")
            (row,) = session.query("SELECT 1 AS a, 1.5 AS b, 1e0 AS c, NULL AS d, DATE '2001-02-03' AS e, x'dd' AS f")
        busy.join()
    assert shown == ["DO SLEEP(600) /* \udcdd */"]
    day = datetime.date(2001, 2, 3)
    assert row == {"a": 1, "b": decimal.Decimal("1.5"), "c": 1.0, "d": None, "e": day, "f": "\udcdd"}


def test_login_survives_its_dict() -> None:
    login = Login(user="a", password="b", unix_socket="/s", check_hostname=False)
    assert Login.from_dict(login.to_dict()) == login


def test_shutdown_by_the_protocol(server: Server) -> None:
    """The way of MySQL before 5.7.9; the last test here, for it stops the server."""
    account = "root"
    with connect(Login(user=account, unix_socket=str(server.socket))) as session:
        session.shutdown_by_protocol()
        server.wait_gone()
        with pytest.raises(QueryError):
            session.query("SELECT 1")
    server.start()
    with connect(Login(user="app", password=SECRET, host="127.0.0.1", port=server.port)) as session:
        with pytest.raises(QueryError) as caught:
            session.shutdown_by_protocol()
        assert caught.value.code in (1227, 1045)
    assert server.is_running()
    assert _connection.server_answers(Login(user=account, unix_socket=str(server.socket)))


@pytest.mark.parametrize("host", ["", ".", "..", "a/b", "-x", "a\nb", "a\x00"])
def test_host_names_that_cannot_name_a_directory(host: str) -> None:
    with pytest.raises(RefusedError, match="cannot name a directory"):
        SetPaths("/spool", host, "20260101T000000Z")


@pytest.mark.parametrize("backup_id", ["", "2026", "20260101T000000Z/..", "20260101T000000Z\n"])
def test_backup_ids_of_another_form(backup_id: str) -> None:
    with pytest.raises(RefusedError, match="YYYYMMDDTHHMMSSZ"):
        SetPaths("/spool", "db1", backup_id)


def test_error_texts() -> None:
    error = ReplicaBackupError("It broke.", found=1, expected=2, server_state="up", next_command="do this", rule="r")
    assert str(error) == "It broke. Found: 1. Expected: 2. State of the server: up. Next: do this"
    assert error.to_result() == {
        "msg": str(error),
        "found": 1,
        "expected": 2,
        "server_state": "up",
        "next_command": "do this",
        "rule": "r",
    }
    assert ReplicaBackupError("Bare").to_result() == {"msg": "Bare."}
