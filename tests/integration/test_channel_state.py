# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replication after the window is what it was before it, channel by channel, also where it was set at run time only."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import typing as t
import uuid
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pymysql.cursors
import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._guards import Policy
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import (
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    Server,
    Topology,
)
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

ODD = "ünï 'q\" `b\\s%d/x-"
# These reach no source, which is a state like any other.
LOST = ("x" * 64, "UPPER Case", "quo'te%s")
# What moves by itself: a restart rotates the relay log, and these count, or say what a thread does right now.
MOVING = {
    "Executed_log_entries",
    "Gtid_IO_Pos",
    "Last_Errno",
    "Last_Error",
    "Last_IO_Errno",
    "Last_IO_Error",
    "Last_IO_Error_Timestamp",
    "Relay_Log_File",
    "Relay_Log_Pos",
    "Relay_Log_Space",
    "Retried_transactions",
    "SQL_Remaining_Delay",
    "Seconds_Behind_Master",
    "Slave_DDL_Groups",
    "Slave_IO_State",
    "Slave_Non_Transactional_Groups",
    "Slave_SQL_Running_State",
    "Slave_SQL_State",
    "Slave_Transactional_Groups",
    "Slave_received_heartbeats",
}
ABOUT_REPLICATION = ("slave", "repl", "rpl", "relay", "gtid", "read_only", "sync_master", "master_verify")
# What has been applied and fetched so far.
POSITIONS = {"gtid_slave_pos", "gtid_current_pos", "gtid_binlog_pos", "gtid_binlog_state"}
State = dict[str, dict[str, t.Any]]


def state(server: Server) -> State:
    """Everything that the server says of its replication and that does not move by itself."""
    with session(server) as query:
        settings = {
            str(row["Variable_name"]): row["Value"]
            for row in query("SHOW GLOBAL VARIABLES")
            if any(word in row["Variable_name"] for word in ABOUT_REPLICATION)
        }
        rows = query("SHOW ALL SLAVES STATUS" if server.flavor.family == "mariadb" else "SHOW SLAVE STATUS")
        found = {"settings": settings}
        for row in rows:
            name = row.get("Connection_name", "")
            # The source's server_id is learnt when the receiver connects.
            unknown = {"Master_Server_Id"} if row["Slave_IO_Running"] != "Yes" else set()
            left_out = MOVING | unknown
            found[f"channel {name}"] = {column: value for column, value in row.items() if column not in left_out}
        return found


@contextlib.contextmanager
def session(server: Server) -> Iterator[t.Callable[..., list[dict[str, t.Any]]]]:
    """Several statements of one session; settings of a connection belong to the one that the session has chosen."""
    connection = pymysql.connect(
        unix_socket=str(server.socket),
        user="root",
        autocommit=True,
        charset="utf8mb4",
        cursorclass=pymysql.cursors.DictCursor,
    )
    with contextlib.closing(connection), connection.cursor() as cursor:

        def query(statement: str, arguments: t.Any = None) -> list[dict[str, t.Any]]:
            cursor.execute(statement, arguments)
            return [dict(row) for row in cursor.fetchall()]

        yield query


def wait_until(condition: t.Callable[[], bool], what: t.Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def differences(before: State, after: State) -> dict[str, t.Any]:
    return {
        f"{part}: {name}": (before[part].get(name), after.get(part, {}).get(name))
        for part in before
        for name in before[part]
        if before[part][name] != after.get(part, {}).get(name)
    }


def wait_until_as(before: State, server: Server) -> None:
    """A receiver takes a moment to connect again; everything else must be so from the start."""
    wait_until(
        lambda: state(server) == before,
        lambda: (differences(before, state(server)), server.query("SHOW ALL SLAVES STATUS")),
    )


@dataclasses.dataclass(frozen=True)
class Lab:
    """A replica of two sources; its option file filters one database of theirs."""

    topology: Topology
    source: Server
    other: Server
    replica: Server

    def rows(self, table: str) -> int:
        with contextlib.suppress(pymysql.err.ProgrammingError):
            return int(self.replica.query(f"SELECT COUNT(*) AS n FROM {table}")[0]["n"])
        return -1


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    root = CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8]
    settings = {"replicate_ignore_db": "from_the_file", "slave_parallel_threads": "2"}
    with Topology(root, replicas=1, replica_settings=settings) as topology:
        other = topology.add("other", settings={"gtid_domain_id": "7"})
        other.start()
        other.query("RESET MASTER")
        other.query(f"CREATE USER {REPLICATION_USER}@'127.0.0.1' IDENTIFIED BY '{REPLICATION_PASSWORD}'")
        other.query(f"GRANT REPLICATION SLAVE ON *.* TO {REPLICATION_USER}@'127.0.0.1'")
        other.query("RESET MASTER")
        replica = topology.replicas[0]
        for number, name in enumerate((ODD, *LOST)):
            replica.query(
                "CHANGE MASTER %s TO MASTER_HOST='127.0.0.1', MASTER_PORT=%s, MASTER_USER=%s, MASTER_PASSWORD=%s,"
                " MASTER_CONNECT_RETRY=1, MASTER_USE_GTID=no, MASTER_LOG_FILE='binlog.000001', MASTER_LOG_POS=4",
                (name, number or other.port, REPLICATION_USER, REPLICATION_PASSWORD),
            )
        yield Lab(topology, topology.source, other, replica)


@pytest.fixture
def window(lab: Lab, tmp_path: Path) -> Window:
    return Window(lab.replica, tmp_path)


@pytest.fixture
def set_at_run_time(lab: Lab) -> None:
    """Give every connection settings of its own, none of which is in a file, and other threads."""
    with session(lab.replica) as query:
        query("STOP ALL SLAVES")
        query("SET GLOBAL slave_parallel_threads = 4")
        query("SET GLOBAL rpl_semi_sync_slave_enabled = ON")
        query("SET GLOBAL slave_net_timeout = 17")
        query("SET GLOBAL replicate_events_marked_for_skip = 'FILTER_ON_SLAVE'")
        query("SET GLOBAL read_only = OFF")
        query("SET GLOBAL replicate_ignore_db = ''")
        query("SET GLOBAL slave_parallel_mode = 'conservative'")
        query("SET @@default_master_connection = %s", (ODD,))
        query("SET GLOBAL replicate_ignore_db = 'x,y'")
        query("SET GLOBAL replicate_wild_ignore_table = 'at\\_run\\_time.%'")
        query("SET GLOBAL slave_parallel_mode = 'aggressive'")
        query("SET GLOBAL max_relay_log_size = 12345344")
        query("SET @@default_master_connection = %s", (LOST[0],))
        query("SET GLOBAL sql_slave_skip_counter = 3")
        query("SET @@default_master_connection = ''")
        query("START SLAVE")
        query("START SLAVE %s", (ODD,))
        query("START SLAVE %s IO_THREAD", (LOST[1],))
        query("START SLAVE %s SQL_THREAD", (LOST[2],))
    wait_until(
        lambda: [row["Slave_IO_Running"] for row in lab.replica.query("SHOW ALL SLAVES STATUS")].count("Yes") == 2,
        lambda: lab.replica.query("SHOW ALL SLAVES STATUS"),
    )


def make(server: Server, *databases: str) -> None:
    for database in databases:
        server.query(f"CREATE DATABASE IF NOT EXISTS {database}")
        server.query(f"CREATE TABLE IF NOT EXISTS {database}.t (a INT PRIMARY KEY AUTO_INCREMENT)")
        server.query(f"INSERT INTO {database}.t VALUES ()")


@pytest.mark.usefixtures("set_at_run_time")
@pytest.mark.parametrize("by_somebody_else", [False, True], ids=["started by us", "started by somebody else"])
def test_what_was_set_at_run_time_is_put_back(lab: Lab, window: Window, *, by_somebody_else: bool) -> None:
    make(lab.source, "d", "from_the_file")
    make(lab.other, "e", "at_run_time")
    lab.topology.wait_caught_up()
    wait_until(lambda: lab.rows("e.t") == lab.other.query("SELECT COUNT(*) AS n FROM e.t")[0]["n"], lambda: "e.t")
    before = state(lab.replica)
    assert before[f"channel {ODD}"]["Replicate_Wild_Ignore_Table"] == r"at\_run\_time.%"
    assert before[f"channel {ODD}"]["Parallel_Mode"] == "aggressive"
    assert before["channel "]["Replicate_Ignore_DB"] == ""
    assert before[f"channel {LOST[0]}"]["Skip_Counter"] == 3

    window.stop()
    # Filtered while the server was away, by filters that are in no file: whoever starts it too early applies these.
    make(lab.source, "d", "from_the_file")
    make(lab.other, "at_run_time", "e")
    if by_somebody_else:
        lab.replica.start("--skip-slave-start")
    started = window.start()

    assert any("replicate_wild_ignore_table" in action for action in started["actions"])
    assert not any("run time" in warning for warning in started["warnings"]), started["warnings"]
    lab.topology.wait_caught_up()
    wait_until(lambda: lab.rows("e.t") == lab.other.query("SELECT COUNT(*) AS n FROM e.t")[0]["n"], lambda: "e.t")
    for table in ("d.t", "from_the_file.t"):
        assert lab.rows(table) == lab.source.query(f"SELECT COUNT(*) AS n FROM {table}")[0]["n"]
    assert lab.rows("at_run_time.t") == -1
    after = state(lab.replica)
    for part in after:
        # Written while it was away.
        for moved in ("Exec_Master_Log_Pos", "Read_Master_Log_Pos", "Gtid_Slave_Pos", *POSITIONS):
            before[part].pop(moved, None)
            after[part].pop(moved, None)
    assert differences(before, after) == {}


def test_threads_that_somebody_else_started_too_early_are_told(lab: Lab, window: Window) -> None:
    before = state(lab.replica)
    window.stop()
    lab.replica.start()
    started = window.start()
    assert any("ran for a moment with the filters of the option files" in warning for warning in started["warnings"])
    wait_until_as(before, lab.replica)


def test_a_delay_and_what_waits_for_it_stay(lab: Lab, window: Window) -> None:
    with session(lab.replica) as query:
        query("STOP SLAVE")
        query("CHANGE MASTER TO MASTER_DELAY = 3600")
        query("START SLAVE")
    rows = lab.rows("d.t")
    make(lab.source, *["d"] * 5)
    end = lab.source.query("SHOW MASTER STATUS")[0]["Position"]
    wait_until(
        lambda: lab.replica.query("SHOW SLAVE STATUS")[0]["Read_Master_Log_Pos"] == end, lambda: state(lab.replica)
    )
    before = state(lab.replica)
    with pytest.raises(RefusedError, match="replica_backup_allow_refetch"):
        window.stop(policy=Policy())
    stopped = window.stop()
    channel = next(item for item in stopped["channels"] if item["name"] == "")
    assert channel["delay"] == 3600
    assert channel["source_log_pos"] < channel["read_log_pos"] == end
    assert [text for text in stopped["warnings"] if "the default channel uses GTIDs" in text]
    window.start()
    wait_until_as(before, lab.replica)
    assert lab.rows("d.t") == rows
    with session(lab.replica) as query:
        query("STOP SLAVE")
        query("CHANGE MASTER TO MASTER_DELAY = 0")
        query("START SLAVE")
    lab.topology.wait_caught_up()
    assert lab.rows("d.t") == rows + 5


def test_a_receiver_alone_and_backup_after_backup(lab: Lab, tmp_path: Path) -> None:
    """With GTIDs, the receiver's start drops the relay logs; the file of the applier follows at the shutdown only."""

    def threads() -> tuple[str, str]:
        (row,) = lab.replica.query("SHOW SLAVE STATUS")
        return str(row["Slave_IO_Running"]), str(row["Slave_SQL_Running"])

    lab.replica.query("STOP SLAVE SQL_THREAD")
    for name in ("first", "second"):
        window = Window(lab.replica, tmp_path / name)
        window.root.mkdir()
        proofs = {proof["name"]: proof["verdict"] for proof in window.stop()["clean_stop"]["proofs"]}
        assert proofs["coordinates of the default channel"] is True
        window.start()
        wait_until(lambda: threads() == ("Yes", "No"), threads)
    lab.replica.query("START SLAVE SQL_THREAD")
    lab.topology.wait_caught_up()


def test_an_applier_that_is_to_stop_somewhere_is_refused(lab: Lab, window: Window) -> None:
    lab.replica.query("STOP SLAVE SQL_THREAD")
    lab.replica.query("START SLAVE SQL_THREAD UNTIL MASTER_LOG_FILE = 'binlog.999999', MASTER_LOG_POS = 4")
    before, pids = state(lab.replica), lab.replica.pids()
    with pytest.raises(RefusedError, match="started with UNTIL Master"):
        window.stop()
    assert lab.replica.pids() == pids
    assert state(lab.replica) == before
    lab.replica.query("STOP SLAVE SQL_THREAD")
    lab.replica.query("START SLAVE SQL_THREAD")


@pytest.mark.parametrize("repositories", ["FILE", "TABLE"])
def test_state_of_mysql_5_6(repositories: str, tmp_path: Path) -> None:
    """It cannot say what was set at run time: differences are put back after the start."""
    root = CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8]
    settings = {"replicate_wild_ignore_table": "ignored.%", "slave_parallel_workers": "2"}
    flavor = MySQL56(repositories=repositories)
    with Topology(root, replicas=1, flavor=flavor, replica_settings=settings) as topology:
        replica, window = topology.replicas[0], Window(topology.replicas[0], tmp_path)
        make(topology.source, "d1", "d2", "d3", "ignored")
        topology.wait_caught_up()
        replica.query("STOP SLAVE")
        replica.query("CHANGE MASTER TO MASTER_DELAY = 1")
        replica.query("SET GLOBAL slave_parallel_workers = 4")
        replica.query("SET GLOBAL slave_net_timeout = 23")
        replica.query("SET GLOBAL read_only = OFF")
        replica.query("START SLAVE")
        wait_until(
            lambda: "Yes" in str(replica.query("SHOW SLAVE STATUS")[0]["Slave_IO_Running"]), lambda: state(replica)
        )
        before = state(replica)
        stopped = window.stop()
        assert stopped["channels"][0]["repository"] == {"connection": repositories, "applier": repositories}
        assert stopped["channels"][0]["parallel"]["workers"] == 4
        window.start()
        wait_until_as(before, replica)
        replica.query("STOP SLAVE IO_THREAD")
        before = state(replica)
        second = Window(replica, tmp_path / "second")
        second.root.mkdir()
        second.stop()
        second.start()
        wait_until_as(before, replica)
        replica.query("START SLAVE IO_THREAD")
        make(topology.source, "d1", "d2", "d3", "ignored")
        assert set(topology.differences()["replica1"]) == {"ignored.t"}
