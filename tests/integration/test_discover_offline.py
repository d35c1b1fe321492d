# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of a server that is down, against the list that it gave while it ran. Real replicas, files everywhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import (
    LoginRefusedError,
    ServerUnreachableError,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import read_list
from ansible_collections.mysql_ops.replica_backup.plugins.modules import replica_files_discover
from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import Flavor, MariaDB, MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology

Result = dict[str, t.Any]


def scatter(server: Server, **more: str) -> None:
    """Give every kind of file of a fresh server that was never started a directory of its own."""
    home = server.directory / "a b"
    home.mkdir()
    moved = {"innodb": "ibdata*", "redo": "ib_logfile*", "aria": "aria_log*"}
    for name in ("innodb", "redo", "aria", "bin", "relay", "status", "load", "ext", "isam"):
        (home / name).mkdir()
        for path in server.datadir.glob(moved.get(name, "no such")):
            path.rename(home / name / path.name)
    for path in (home, *home.iterdir()):
        shutil.chown(path, "mysql", "mysql") if os.geteuid() == 0 else None
    server.extra_settings.update(
        {
            "innodb-data-home-dir": f"{home}/innodb",
            "loose_innodb_log_group_home_dir": f'"{home}/redo" # in quotes',
            "loose-aria-log-dir-path": f"{home}/aria",
            "log_bin": f"{home}/bin/own.log",
            "relay_log": f"{home}/relay/x",
            "relay_log_index": f"{home}/relay/names",
            "relay_log_info_file": "../a\\sb/status/applier.info",
            "master_info_file": f"{home}/status/source.info",
            "slave_load_tmpdir": f"{home}/load",
            **more,
        }
    )
    server.write_config()


def options(server: Server, spool: Path, **changed: t.Any) -> Result:
    """What Ansible hands to the module."""
    return {
        **dict.fromkeys(("login_password", "ca_cert", "client_cert", "client_key", "check_hostname", "config_file")),
        **dict.fromkeys(("service_name", "datadir", "defaults_group_suffix")),
        "login_user": "root",
        "login_host": "localhost",
        "login_port": 3306,
        "login_unix_socket": str(server.socket),
        "connect_timeout": 5,
        "spool_dir": str(spool),
        "host": server.name,
        "backup_id": "20260101T000000Z",
        "include_binlogs": True,
        "offline": "auto",
        "defaults_file": str(server.config),
        "server_binary": str(server.flavor.server),
        **changed,
    }


def names(result: Result) -> set[str]:
    entries = read_list(result["list"]["path"])[1]
    return {entry.name for entry in entries if entry.type != "directory"}


def state_of_disk(directory: Path) -> dict[str, tuple[int, ...]]:
    """Everything that a change, or a file that came and went, leaves a trace in."""
    found: dict[str, tuple[int, ...]] = {}
    for path in (directory, *directory.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found


@pytest.fixture(params=[MariaDB, MySQL56], ids=["mariadb", "mysql56"], scope="module")
def replica(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A replica of a real source, its files scattered."""
    flavor: Flavor = request.param()
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv(
            "LD_LIBRARY_PATH", flavor.environment.get("LD_LIBRARY_PATH", "")
        )
        topology = stack.enter_context(Topology(lab_root(), replicas=0, flavor=flavor))
        server = topology.add("replica")
        scatter(server)
        server.start()
        flavor.forget_history(server.query)
        topology.follow(server)
        home = server.directory / "a b"
        write = topology.source.query
        write("CREATE DATABASE `ü x`")
        write("CREATE TABLE `ü x`.`near#1` (id INT PRIMARY KEY)")
        write("INSERT INTO `ü x`.`near#1` VALUES (1), (2)")
        topology.wait_caught_up(server)
        # Source and replica share the machine: what names a directory is made on the replica alone.
        with contextlib.closing(pymysql.connect(unix_socket=str(server.socket), user="root")) as connection:
            for statement in (
                "SET sql_log_bin = 0",
                f"CREATE TABLE `ü x`.far (id INT PRIMARY KEY) ENGINE=InnoDB DATA DIRECTORY='{home}/ext'",
                f"CREATE TABLE `ü x`.isam (id INT) ENGINE=MyISAM DATA DIRECTORY='{home}/isam'",
            ):
                connection.cursor().execute(statement)
        own = server.query("SELECT @@server_uuid AS own")[0]["own"] if flavor.family == "mysql" else server.server_id
        (home / "load" / f"SQL_LOAD-{own}-1-1.data").write_text("ours")
        (home / "load" / "SQL_LOAD-99-1-1.data").write_text("of another server")
        yield server


def test_the_list_is_that_of_the_running_server(replica: Server, tmp_path: Path) -> None:
    live = replica_files_discover.work(options(replica, tmp_path / "live"), False)
    assert (live["offline"], live["unknown"], live["clean_stop"]) == (False, [], None)
    replica.stop()
    try:
        before = state_of_disk(replica.directory)
        down = replica_files_discover.work(options(replica, tmp_path / "down"), False)
        assert state_of_disk(replica.directory) == before
    finally:
        replica.start()
    assert down["offline"] is True and down["warnings"] == live["warnings"] == []
    mariadb = replica.flavor.family == "mariadb"
    assert {name: place["path"] for name, place in down["places"].items()} == {
        name: place["path"] for name, place in live["places"].items()
    }
    assert set(down["places"]) >= {
        *("datadir", "innodb_home", "innodb_redo", "tablespaces", "tablespaces-2"),
        *("binlog", "relay_log", "replica_status", "load_data", "config", *(["aria_log"] if mariadb else [])),
    }
    # A clean stop of MariaDB removes the first and writes the second; both servers may write ib_buffer_pool.
    assert names(live) - names(down) == ({"datadir/ddl_recovery.log"} if mariadb else set())
    written = {name for name in names(down) - names(live) if not name.endswith("/ib_buffer_pool")}
    assert written == ({"binlog/own.state"} if mariadb else set())
    assert {item["fact"] for item in down["unknown"]} == {"open_files", "dictionary"}
    assert down["clean_stop"]["clean"] is True
    assert down["service"] is None


def test_check_mode_and_a_second_look(replica: Server, tmp_path: Path) -> None:
    replica.stop()
    try:
        chosen = options(replica, tmp_path / "spool", offline="always", login_unix_socket="/nowhere")
        planned = replica_files_discover.work(chosen, True)
        assert not (tmp_path / "spool").exists()
        first = replica_files_discover.work(chosen, False)
        second = replica_files_discover.work(chosen, False)
    finally:
        replica.start()
    assert planned["list"] == {**first["list"], "path": None}
    assert [planned["changed"], first["changed"], second["changed"]] == [True, True, False]


def test_a_server_at_work_is_never_taken_for_one_that_is_down(replica: Server, tmp_path: Path) -> None:
    with pytest.raises(LoginRefusedError):
        replica_files_discover.work(options(replica, tmp_path, login_user="x", login_password="wrong"), False)
    for changed in ({"login_unix_socket": "/nowhere"}, {"offline": "always"}):
        with pytest.raises(RefusedError, match="works on") as refused:
            replica_files_discover.work(options(replica, tmp_path, **changed), False)
        assert refused.value.facts["rule"] == "running"
        assert str(replica.pids()[0]) in str(refused.value)
    assert replica.is_running() and list(tmp_path.iterdir()) == []


def test_another_server_s_files_are_never_taken(replica: Server, tmp_path: Path) -> None:
    replica.stop()
    try:
        with pytest.raises(ServerUnreachableError):
            replica_files_discover.work(options(replica, tmp_path, offline="never"), False)
        for changed in (
            {"login_unix_socket": "/nowhere"},
            {"login_unix_socket": None, "login_port": 1},
            {"login_unix_socket": None, "login_host": "192.0.2.1", "connect_timeout": 1},
        ):
            with pytest.raises(RefusedError, match="another one"):
                replica_files_discover.work(options(replica, tmp_path, **changed), False)
        empty = tmp_path / "empty"
        empty.mkdir()
        for directory, state in ((empty, "empty"), (tmp_path / "absent", "missing")):
            with pytest.raises(RefusedError, match=f"the directory is {state}"):
                replica_files_discover.work(options(replica, tmp_path, datadir=str(directory)), False)
    finally:
        replica.start()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_crashed_server_is_listed_and_called_no_backup(replica: Server, tmp_path: Path) -> None:
    replica.query("CREATE TABLE IF NOT EXISTS mysql.crash (id INT) ENGINE=InnoDB")
    replica.kill()
    try:
        before = state_of_disk(replica.directory)
        found = replica_files_discover.work(options(replica, tmp_path), True)
        assert state_of_disk(replica.directory) == before
    finally:
        replica.start()
    assert found["clean_stop"]["clean"] is False
    assert any("is no backup" in warning for warning in found["warnings"])
    assert found["list"]["count"] > 50


def test_groups_with_a_suffix_alive_and_down(tmp_path: Path) -> None:
    with Topology(lab_root(), replicas=0) as topology:
        server = topology.source
        server.stop()
        lines = server.config.read_text().splitlines()
        lines[0] = "[mysqld]\ndatadir = /of/the/first\n[mysqld.second]"
        server.config.write_text("\n".join(lines) + "\n")
        server.start("--defaults-group-suffix=.second")
        live = replica_files_discover.work(options(server, tmp_path / "live"), False)
        # Without its groups it would come up on another directory.
        server.config.write_text("\n".join(lines).replace(f"datadir = {server.datadir}", "") + "\n")
        with pytest.raises(RefusedError, match="would not come back on its data"):
            replica_files_discover.work(options(server, tmp_path / "wrong"), False)
        server.config.write_text("\n".join(lines) + "\n")
        server.stop()
        down = replica_files_discover.work(options(server, tmp_path / "down", defaults_group_suffix=".second"), False)
        assert live["places"].keys() == down["places"].keys()
        assert down["places"]["datadir"]["path"] == str(server.datadir)
