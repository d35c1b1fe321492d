# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The coordinates of a manifest are true: a copy without its relay logs, attached from them by hand, loses nothing.

Several writers work all the time, each in a database of its own. Every transaction adds the next row to its journal and
counts up: one that is lost leaves a hole, and one that is applied twice stops the applier or counts too far.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import threading
import time
import typing as t
import uuid
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pymysql.cursors
import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.tests.lab import scratch
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import (
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    Server,
    Topology,
)
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

NAMED = "Büro 'zwei'"
Manifest = dict[str, t.Any]


class Writer(threading.Thread):
    """Commits one transaction after another to one database until told to stop."""

    def __init__(self, server: Server, database: str) -> None:
        super().__init__(name=database)
        self._server, self.database = server, database
        self._stop_asked = threading.Event()
        self.committed = 0
        self.error: Exception | None = None

    def run(self) -> None:
        connection = pymysql.connect(unix_socket=str(self._server.socket), user="root", autocommit=False)
        try:
            with contextlib.closing(connection), connection.cursor() as cursor:
                while not self._stop_asked.is_set():
                    number = self.committed + 1
                    cursor.execute(f"SET SESSION binlog_format = {'STATEMENT' if number % 2 else 'ROW'}")
                    cursor.execute(f"INSERT INTO {self.database}.journal VALUES (%s)", (number,))
                    cursor.execute(f"UPDATE {self.database}.tally SET n = n + 1")
                    connection.commit()
                    self.committed = number
                    time.sleep(0.01)
        except pymysql.Error as error:
            self.error = error

    def finish(self) -> None:
        self._stop_asked.set()
        self.join()
        assert self.error is None, self.error
        assert self.committed > 0


@contextlib.contextmanager
def writing(server: Server, *databases: str) -> Iterator[list[Writer]]:
    writers = []
    for database in databases:
        server.query(f"CREATE DATABASE IF NOT EXISTS {database}")
        server.query(f"CREATE TABLE {database}.journal (id INT PRIMARY KEY) ENGINE=InnoDB")
        server.query(f"CREATE TABLE {database}.tally (n INT) ENGINE=InnoDB")
        server.query(f"INSERT INTO {database}.tally VALUES (0)")
        writers.append(Writer(server, database))
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.finish()


def wait_for_more(writers: list[Writer]) -> None:
    """Until each has committed fifty more."""
    goals = [writer.committed + 50 for writer in writers]
    deadline = time.monotonic() + 60
    while any(writer.committed < goal for writer, goal in zip(writers, goals)):
        assert time.monotonic() < deadline, [writer.error for writer in writers]
        time.sleep(0.01)


def journals(server: Server, writers: list[Writer]) -> dict[str, tuple[int, int, int]]:
    """Of each database: rows, highest number, and how often was counted."""
    found = {}
    for writer in writers:
        row = server.query(f"SELECT COUNT(*) AS c, MAX(id) AS m FROM {writer.database}.journal")[0]
        counted = server.query(f"SELECT n FROM {writer.database}.tally")[0]["n"]
        found[writer.database] = (row["c"], row["m"], counted)
    return found


def restore(topology: Topology, window: Window, manifest: Manifest, name: str, **settings: str) -> Server:
    """A new server of the set, without its relay logs, started without replication."""
    tree = window.root / name
    window.unpack(tree)
    origin = window.server
    server = topology.add(name, separate_logs=True, settings={**origin.extra_settings, "read_only": "OFF", **settings})
    subprocess.run(["rm", "-rf", str(server.datadir)], check=True)
    places = {place["name"]: place["path"] for place in manifest["places"]}
    assert {"datadir", "binlog", "relay_log"} <= set(places)
    subprocess.run(["cp", "-a", f"{tree}/datadir", str(server.datadir)], check=True)
    subprocess.run(["cp", "-a", f"{tree}/binlog/.", str(server.binlog_directory)], check=True)
    index = server.binlog_directory / "binlog.index"
    index.write_text(index.read_text("utf-8").replace(places["binlog"], str(server.binlog_directory)), "utf-8")
    # Two servers with one identity would throw each other off the source.
    (server.datadir / "auto.cnf").unlink(missing_ok=True)
    assert os.listdir(server.relay_log_directory) == []
    if os.geteuid() == 0:
        account = scratch.server_account()
        subprocess.run(["chown", "-R", f"{account.uid}:{account.gid}", str(server.directory)], check=True)
    # Without its relay logs MariaDB does not start with a named connection otherwise.
    server.start("--skip-slave-start", "--relay-log-recovery=ON")
    return server


def attach(server: Server, manifest: Manifest, *, by_gtid: t.Container[str] = ()) -> None:
    """By hand: forget the relay logs, and say where to go on."""
    mariadb = manifest["server"]["family"] == "mariadb"
    for channel in manifest["channels"]:
        named, arguments = ("%s ", (channel["name"],)) if mariadb else ("", ())
        server.query(f"RESET SLAVE {named}", arguments or None)
        more: tuple[t.Any, ...] = ()
        if channel["name"] in by_gtid:
            how = "MASTER_USE_GTID = slave_pos" if mariadb else "MASTER_AUTO_POSITION = 1"
        else:
            how = "MASTER_LOG_FILE = %s, MASTER_LOG_POS = %s"
            how += ", MASTER_USE_GTID = no" if mariadb else ", MASTER_AUTO_POSITION = 0"
            more = (channel["source_log_file"], channel["source_log_pos"])
        account = (channel["source_host"], channel["source_port"], channel["source_user"], REPLICATION_PASSWORD)
        words = "MASTER_HOST = %s, MASTER_PORT = %s, MASTER_USER = %s, MASTER_PASSWORD = %s"
        server.query(f"CHANGE MASTER {named}TO {words}, {how}", (*arguments, *account, *more))
        server.query(f"START SLAVE {named}", arguments or None)


def wait_equal(server: Server, sources: dict[Server, list[Writer]]) -> None:
    """Until the copy has what the sources have; an applier that stops with an error ends the wait."""
    deadline = time.monotonic() + 90
    for source, writers in sources.items():
        wanted = {writer.database: (writer.committed,) * 3 for writer in writers}
        assert journals(source, writers) == wanted
        while journals(server, writers) != wanted:
            rows = server.query("SHOW ALL SLAVES STATUS" if server.flavor.family == "mariadb" else "SHOW SLAVE STATUS")
            errors = [row["Last_SQL_Error"] or row["Last_IO_Error"] for row in rows]
            assert not any(row["Last_SQL_Errno"] for row in rows), errors
            assert time.monotonic() < deadline, (errors, journals(server, writers), wanted)
            time.sleep(0.1)
        checksums = source.checksums()
        assert {name: server.checksums().get(name) for name in checksums} == checksums


def test_two_connections_of_mariadb(tmp_path: Path) -> None:
    root = CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8]
    settings = {"slave_parallel_threads": "4", "slave_parallel_mode": "optimistic"}
    with Topology(root, replicas=1, separate_logs=[True], replica_settings=settings) as topology:
        source, replica, window = topology.source, topology.replicas[0], Window(topology.replicas[0], tmp_path)
        other = topology.add("other", settings={"gtid_domain_id": "7"})
        other.start()
        other.query("RESET MASTER")
        other.query(f"CREATE USER {REPLICATION_USER}@'127.0.0.1' IDENTIFIED BY '{REPLICATION_PASSWORD}'")
        other.query(f"GRANT REPLICATION SLAVE ON *.* TO {REPLICATION_USER}@'127.0.0.1'")
        other.query("RESET MASTER")
        replica.query(
            "CHANGE MASTER %s TO MASTER_HOST='127.0.0.1', MASTER_PORT=%s, MASTER_USER=%s, MASTER_PASSWORD=%s,"
            " MASTER_USE_GTID=no, MASTER_LOG_FILE='binlog.000001', MASTER_LOG_POS=4",
            (NAMED, other.port, REPLICATION_USER, REPLICATION_PASSWORD),
        )
        replica.query("START SLAVE %s", (NAMED,))
        with writing(source, "a1", "a2") as first, writing(other, "b1", "b2") as second:
            wait_for_more(first + second)
            window.stop()
            wait_for_more(first + second)
            manifest = window.archive()
            window.start()
            assert {channel["name"]: channel["positioning"] for channel in manifest["channels"]} == {
                "": "gtid",
                NAMED: "file",
            }
            copies = [restore(topology, window, manifest, name) for name in ("as-it-was", "other-way-round")]
            positions = {channel["gtid"]["replica_pos"] for channel in manifest["channels"]}
            assert positions == {copies[0].query("SELECT @@gtid_slave_pos AS p")[0]["p"]}
            attach(copies[0], manifest, by_gtid={""})
            attach(copies[1], manifest, by_gtid={NAMED})
            wait_for_more(first + second)
        for server in (replica, *copies):
            wait_equal(server, {source: first, other: second})


def gap_settings(**more: str) -> dict[str, str]:
    return {"slave_parallel_workers": "4", "sync_master_info": "1", "sync_relay_log_info": "1", **more}


@pytest.mark.parametrize("repositories", ["FILE", "TABLE"])
def test_workers_of_mysql_5_6(repositories: str, tmp_path: Path) -> None:
    root = CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8]
    gtid = {"gtid_mode": "ON", "enforce_gtid_consistency": "ON"} if repositories == "TABLE" else {}
    with Topology(
        root,
        replicas=1,
        flavor=MySQL56(repositories=repositories),
        separate_logs=[True],
        settings=gtid,
        replica_settings=gap_settings(),
    ) as topology:
        source, replica, window = topology.source, topology.replicas[0], Window(topology.replicas[0], tmp_path)
        with writing(source, "a1", "a2", "a3") as writers:
            wait_for_more(writers)
            window.stop()
            wait_for_more(writers)
            manifest = window.archive()
            window.start()
            copies = [restore(topology, window, manifest, "by-file")]
            attach(copies[0], manifest)
            if gtid:
                copies.append(restore(topology, window, manifest, "by-gtid"))
                attach(copies[1], manifest, by_gtid={""})
            wait_for_more(writers)
        for server in (replica, *copies):
            wait_equal(server, {source: writers})


@pytest.fixture
def gap(tmp_path: Path) -> Iterator[tuple[Topology, Window, list[Writer]]]:
    """A replica one of whose workers hangs behind the others: what it has executed is no one position of the source."""
    root = CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8]
    with Topology(
        root,
        replicas=1,
        flavor=MySQL56(repositories="TABLE"),
        separate_logs=[True],
        replica_settings=gap_settings(innodb_lock_wait_timeout="1000"),
    ) as topology:
        source, replica = topology.source, topology.replicas[0]
        with writing(source, "a1", "a2", "a3") as writers:
            wait_for_more(writers)
        topology.wait_caught_up()
        yield topology, Window(replica, tmp_path), writers


def hang_behind(topology: Topology, writers: list[Writer], statement: str) -> pymysql.connections.Connection[t.Any]:
    """Hold what the worker of the first database needs with this statement, while the others go on."""
    replica = topology.replicas[0]
    holder = pymysql.connect(unix_socket=str(replica.socket), user="root", autocommit=False)
    with holder.cursor() as cursor:
        cursor.execute(statement)
    before = journals(replica, writers)
    for _number, writer in itertools.product(range(20), writers):
        writer.committed += 1
        topology.source.query(f"INSERT INTO {writer.database}.journal VALUES ({writer.committed})")
        topology.source.query(f"UPDATE {writer.database}.tally SET n = n + 1")
    deadline = time.monotonic() + 60
    while journals(replica, writers)["a3"][2] < writers[2].committed:
        assert time.monotonic() < deadline, replica.query("SHOW SLAVE STATUS")
        time.sleep(0.1)
    assert journals(replica, writers)["a1"][2] == before["a1"][2]
    return holder


def test_gaps_that_a_crash_left_are_filled_before_the_coordinates_are_taken(
    gap: tuple[Topology, Window, list[Writer]],
) -> None:
    topology, window, writers = gap
    source, replica = topology.source, topology.replicas[0]
    holder = hang_behind(topology, writers, "SELECT * FROM a1.tally FOR UPDATE")
    replica.kill()
    holder.close()
    replica.start("--skip-slave-start")
    executed = replica.query("SHOW SLAVE STATUS")[0]["Exec_Master_Log_Pos"]
    state = journals(replica, writers)
    assert state["a1"][2] < writers[0].committed
    assert state["a3"][2] == writers[2].committed, "no gap, so this proves nothing"
    window.stop()
    manifest = window.archive()
    assert manifest["channels"][0]["source_log_pos"] > executed
    window.start()
    copy = restore(topology, window, manifest, "copy")
    attach(copy, manifest)
    replica.query("START SLAVE")
    for server in (replica, copy):
        wait_equal(server, {source: writers})


def test_gaps_that_cannot_be_filled_stop_the_backup(gap: tuple[Topology, Window, list[Writer]]) -> None:
    topology, window, writers = gap
    replica = topology.replicas[0]
    # A row that is in the way of one worker, when the others have got ahead of it.
    in_the_way = writers[0].committed + 1
    holder = hang_behind(topology, writers, f"INSERT INTO a1.journal VALUES ({in_the_way})")
    holder.commit()
    holder.close()
    deadline = time.monotonic() + 60
    while replica.query("SHOW SLAVE STATUS")[0]["Slave_SQL_Running"] != "No":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    pids = replica.pids()
    with pytest.raises(ReplicaBackupError, match="gaps") as caught:
        window.stop()
    assert caught.value.facts["server_restored"] is True
    assert replica.pids() == pids
    row = replica.query("SHOW SLAVE STATUS")[0]
    assert (row["Slave_IO_Running"], row["Slave_SQL_Running"]) == ("Yes", "No")
    replica.query(f"DELETE FROM a1.journal WHERE id = {in_the_way}")
    replica.query("START SLAVE SQL_THREAD")
    wait_equal(replica, {topology.source: writers})
