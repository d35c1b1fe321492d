# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Five sources of one replica and an interrupted LOAD DATA on another: state kept, sets complete, copies that go on.

The copies are made by hand on a host of another name; nothing of the collection takes part.
"""

from __future__ import annotations

import json
import os
import re
import typing as t
from collections.abc import Mapping
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import (
    BackupSet,
    Host,
    log_of_this_start,
    settings_of,
)

CONNECTIONS: dict[str, dict[str, t.Any]] = {each["name"]: each for each in settings_of("replica1")["lab_connections"]}
ESCAPED = {
    "Größe é": "gr@1i@1je@0020@0p",
    "A-b/C": "a@002db@002fc",
    'it\'s "odd"': "it@0027s@0020@0022odd@0022",
    "UPPER lower": "upper@0020lower",
}
# What a restart or the passing of time changes: positions, counters, states of waiting. All else has to stay.
MOVING = frozenset(
    [
        "Slave_IO_State",
        "Slave_SQL_State",
        "Slave_SQL_Running_State",
        "Master_Log_File",
        "Read_Master_Log_Pos",
        "Relay_Log_File",
        "Relay_Log_Pos",
        "Relay_Master_Log_File",
        "Exec_Master_Log_Pos",
        "Relay_Log_Space",
        "Seconds_Behind_Master",
        "SQL_Remaining_Delay",
        "Gtid_IO_Pos",
        "Gtid_Slave_Pos",
        "Retried_transactions",
        "Executed_log_entries",
        "Slave_received_heartbeats",
        "Connects_Tried",
        "Slave_DDL_Groups",
        "Slave_Non_Transactional_Groups",
        "Slave_Transactional_Groups",
        "Slave_last_event_time",
        "Master_last_event_time",
        "Master_Slave_time_diff",
    ]
)
Rows = dict[str, dict[str, str]]


def quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def parsed(table: str) -> Rows:
    """Return the rows of SHOW ALL SLAVES STATUS, as ``mariadb --batch`` prints them, by connection name."""
    head, *lines = (line.split("\t") for line in table.strip("\n").split("\n"))
    return {row["Connection_name"]: row for row in (dict(zip(head, line)) for line in lines)}


def status(host: Host) -> Rows:
    return parsed(host.run("mariadb --batch --execute 'SHOW ALL SLAVES STATUS'"))


def before(name: str) -> Rows:
    return parsed((Path(os.environ["LAB_SCRATCH"]) / f"before-{name}.tsv").read_text(encoding="utf-8"))


def on_source(source: Host, connection: Mapping[str, t.Any], statement: str) -> str:
    socket = f"/run/mysqld/{connection['database']}.sock"
    return source.run("mariadb --socket=%s --batch --skip-column-names --raw --execute %s", socket, statement)


def checksum_statement(host: Host, database: str) -> str:
    names = host.sql(f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{database}' ORDER BY 1")
    assert names, f"{host.name} has no table in {database}"
    return "CHECKSUM TABLE " + ", ".join(f"{database}.{name}" for name in names.split())


def arrive(host: Host, name: str, file: str, position: int) -> None:
    waited = host.sql(f"SELECT MASTER_POS_WAIT('{file}', {position}, 60, {quoted(name)})").strip()
    assert waited.isdigit(), f"{name!r} of {host.name} did not reach {file}:{position}: {status(host)[name]}"


@pytest.fixture(scope="session")
def still(hosts: dict[str, Host]) -> dict[str, tuple[str, int]]:
    """Stop all writes; return by connection how far its source's binary log goes for good."""
    source = hosts["source"]
    source.run("systemctl stop 'lab-load-*'")
    for name in [connection["database"] for connection in CONNECTIONS.values()]:
        assert json.loads(source.run("cat %s", f"/var/tmp/lab-load-{name}.json"))["errors"] == 0
    ends = {}
    for name, connection in CONNECTIONS.items():
        file, position = on_source(source, connection, "SHOW MASTER STATUS").split("\t")[:2]
        ends[name] = (file, int(position))
    return ends


def assert_equal_to_sources(hosts: dict[str, Host], host: Host, names: t.Iterable[str]) -> None:
    for name in names:
        connection = CONNECTIONS[name]
        statement = checksum_statement(host, connection["database"])
        assert host.sql(statement) == on_source(hosts["source"], connection, statement), name


# --- the replicas themselves -------------------------------------------------------------------------


def test_every_connection_is_as_it_was(hosts: dict[str, Host]) -> None:
    then, now = before("replica1"), status(hosts["replica1"])
    assert set(then) == set(now) == set(CONNECTIONS)
    assert {then[name]["Slave_SQL_Running"] for name in then} == {"Yes", "No"}
    for name, row in then.items():
        # A server learns the source's number by connecting, and this one has not connected since its start.
        moving = MOVING | ({"Master_Server_Id"} if row["Slave_IO_Running"] == "No" else set())
        kept = {key: value for key, value in row.items() if key not in moving}
        assert {key: value for key, value in now[name].items() if key not in moving} == kept, name
    # At rest from before the backup until now, to the byte.
    for column in ("Exec_Master_Log_Pos", "Read_Master_Log_Pos", "Relay_Log_Pos", "Relay_Log_File"):
        assert now["UPPER lower"][column] == then["UPPER lower"][column]


def test_the_interrupted_replica_is_as_it_was(hosts: dict[str, Host]) -> None:
    then, now = before("replica2")[""], status(hosts["replica2"])[""]
    # The error itself is known to the server that met it only.
    forgotten = {"Last_Errno", "Last_Error", "Last_SQL_Errno", "Last_SQL_Error"}
    assert (then["Last_SQL_Errno"], then["Slave_IO_Running"], then["Slave_SQL_Running"]) == ("1146", "Yes", "No")
    for key in set(then) - MOVING - forgotten:
        assert now[key] == then[key], key
    assert hosts["replica2"].row("SHOW STATUS LIKE 'Rpl_semi_sync_slave_status'")["Value"] == "ON"
    assert hosts["source"].row("SHOW STATUS LIKE 'Rpl_semi_sync_master_clients'")["Value"] == "1"


def test_settings_are_as_they_were(hosts: dict[str, Host]) -> None:
    parallel = hosts["replica1"].sql("SELECT @@slave_parallel_threads, @@slave_parallel_mode").split()
    assert parallel == ["4", "optimistic"]
    for name in ("replica1", "replica2"):
        # Set at run time, in no option file.
        assert hosts[name].sql("SELECT @@GLOBAL.read_only").strip() == "1"


def test_a_client_that_never_stops_asking_did_not_wake_the_server(
    hosts: dict[str, Host], sets: dict[str, BackupSet]
) -> None:
    for name in ("replica1", "replica2"):
        host = hosts[name]
        began = sets[name].manifest["backup_id"]
        (absence,) = [a for a in host.absences() if a.gone.strftime("%Y%m%dT%H%M%SZ") >= began]
        assert absence.back is not None
        asked = [line.split(" ", 2) for line in host.run("cat /var/tmp/lab-client.log").splitlines()]
        # The shutdown's and the start's message are in whole seconds.
        away = [
            (answer, address)
            for when, answer, address in asked
            if absence.gone.timestamp() <= float(when) <= absence.back.timestamp() + 1
        ]
        assert {address for answer, address in away if answer == "no"} == {address for _when, _answer, address in asked}
        assert asked[0][1] == asked[-1][1] == "yes"
        assert host.run("systemctl is-active mariadb.service mariadb.socket").split() == ["active", "active"]


def test_the_next_start_is_as_it_was(hosts: dict[str, Host]) -> None:
    for name, drop_in in (("replica1", ""), ("replica2", "/etc/systemd/system/mariadb.service.d/private.conf")):
        shown = hosts[name].run("systemctl show --property=DropInPaths,NeedDaemonReload mariadb").split()
        assert shown == [f"DropInPaths={drop_in}", "NeedDaemonReload=no"]


# --- the sets ----------------------------------------------------------------------------------------


def listed(backup: BackupSet) -> set[str]:
    return {f"{entry['place']}/{entry['path']}" for entry in backup.manifest["files"]}


def test_the_set_holds_the_files_of_every_connection(sets: dict[str, BackupSet]) -> None:
    backup = sets["replica1"]
    names = listed(backup)
    needed = {"datadir/multi-master.info", "datadir/master.info", "datadir/relay-log.info", "relay_log/replica1.index"}
    for escaped in ESCAPED.values():
        needed |= {f"datadir/master-{escaped}.info", f"datadir/relay-log-{escaped}.info"}
        needed.add(f"relay_log/replica1-{escaped}.index")
    needed |= {f"datadir/undo00{number}" for number in (1, 2, 3)}
    needed |= {"binlog/mysql-bin.000001", "binlog/mysql-bin.000001.idx", "binlog/mysql-bin.state"}
    assert needed <= names
    for channel in backup.manifest["channels"]:
        assert f"relay_log/{channel['relay_log_file']}" in names


def test_the_manifest_tells_every_connection(hosts: dict[str, Host], sets: dict[str, BackupSet]) -> None:
    channels = {channel["name"]: channel for channel in sets["replica1"].manifest["channels"]}
    assert set(channels) == set(CONNECTIONS)
    for name, channel in channels.items():
        connection = CONNECTIONS[name]
        assert channel["source_port"] == connection["port"]
        assert channel["delay"] == connection.get("delay", 0)
        assert channel["gtid"]["using"] == ("Slave_Pos" if connection["gtid"] else "No")
        logs = dict(
            line.split("\t")[:2] for line in on_source(hosts["source"], connection, "SHOW BINARY LOGS").splitlines()
        )
        assert 4 < int(channel["source_log_pos"]) <= int(logs[channel["source_log_file"]])
        behind = channel["read_log_pos"] > channel["source_log_pos"]
        assert behind is (name == "A-b/C")


def test_the_set_holds_what_the_load_had_left(hosts: dict[str, Host], sets: dict[str, BackupSet]) -> None:
    loads = [entry for entry in sets["replica2"].manifest["files"] if entry["place"] == "load_data"]
    (entry,) = [entry for entry in loads if entry["type"] == "file"]
    assert re.fullmatch(rf"SQL_LOAD-{hosts['replica2'].sql('SELECT @@server_id').strip()}-1-\d+\.data", entry["path"])
    assert entry["sha256"] == hosts["source"].run("sha256sum /var/tmp/words").split()[0]


# --- restored by hand --------------------------------------------------------------------------------


def lay_down(host: Host, origin: Host, backup: BackupSet) -> None:
    """Put the set onto the host, its places where they were, and configure the server without starting it."""
    # Other tests leave it killed and masked.
    host.run("systemctl unmask --runtime --quiet mariadb; systemctl stop mariadb.socket mariadb")
    host.run("systemctl reset-failed mariadb || true")
    host.run("rm -rf /var/lib/mysql/* /srv/binlog/* /srv/relay/*")
    backup.lay_down(host, without=("config", "keys"))
    settings = origin.run("cat %s", host.words["lab_settings_file"])
    # Another pid file, as under another name of the service: relay logs are named after it unless told otherwise.
    settings += f"\nserver_id = 9{origin.name[-1]}\nskip_slave_start = ON\npid_file = /run/mysqld/copy.pid\n"
    host.run("printf '%%s' %s > %s", settings, host.words["lab_settings_file"])


def test_another_relay_log_name_keeps_the_copy_from_starting(
    hosts: dict[str, Host], sets: dict[str, BackupSet]
) -> None:
    host = hosts["restored"]
    lay_down(host, hosts["replica1"], sets["replica1"])
    host.run("sed -i /^relay_log/d %s", host.words["lab_settings_file"])
    assert host.run("systemctl start mariadb 2>/dev/null && echo up || echo down").strip() == "down"
    assert "Failed to initialize multi master structures" in log_of_this_start(host)


@pytest.mark.parametrize("way", ["relay logs", "coordinates"])
def test_a_copy_goes_on_with_every_connection(
    hosts: dict[str, Host], sets: dict[str, BackupSet], request: pytest.FixtureRequest, way: str
) -> None:
    host, backup = hosts["restored"], sets["replica1"]
    lay_down(host, hosts["replica1"], backup)
    host.run("systemctl start mariadb")
    log = log_of_this_start(host)
    assert "[ERROR]" not in log
    assert "crash recovery" not in log.lower()
    assert host.sql("SELECT @@hostname").strip() == "restored"

    now = status(host)
    channels = {channel["name"]: channel for channel in backup.manifest["channels"]}
    for name, channel in channels.items():
        assert now[name]["Slave_IO_Running"] == now[name]["Slave_SQL_Running"] == "No"
        told = (channel["source_log_file"], channel["source_log_pos"], channel["relay_log_pos"])
        found = now[name]["Relay_Master_Log_File"], now[name]["Exec_Master_Log_Pos"], now[name]["Relay_Log_Pos"]
        assert found == tuple(str(value) for value in told), name
        assert now[name]["Relay_Log_File"] == channel["relay_log_file"]
        assert now[name]["Gtid_Slave_Pos"] == channel["gtid"]["replica_pos"]

    late = "A-b/C"
    if way == "relay logs":
        # What it had only downloaded is executed with no source to ask.
        row = now[late]
        host.sql(
            f"CHANGE MASTER {quoted(late)} TO MASTER_DELAY = 0, RELAY_LOG_FILE = '{row['Relay_Log_File']}',"
            f" RELAY_LOG_POS = {row['Relay_Log_Pos']}; START SLAVE {quoted(late)} SQL_THREAD"
        )
        arrive(host, late, channels[late]["read_log_file"], channels[late]["read_log_pos"])
        assert status(host)[late]["Slave_IO_Running"] == "No"
    else:
        for name, channel in channels.items():
            place = "MASTER_USE_GTID = slave_pos"
            if not CONNECTIONS[name]["gtid"]:
                place = (
                    f"MASTER_LOG_FILE = '{channel['source_log_file']}', MASTER_LOG_POS = {channel['source_log_pos']}"
                )
            host.sql(f"RESET SLAVE {quoted(name)}; CHANGE MASTER {quoted(name)} TO {place}, MASTER_DELAY = 0")
    host.sql("START ALL SLAVES")
    # Only now are the writes stopped (once for all tests): it joins while they go on.
    for name, (file, position) in request.getfixturevalue("still").items():
        arrive(host, name, file, position)
    after = status(host)
    for name in CONNECTIONS:
        assert after[name]["Slave_IO_Running"] == after[name]["Slave_SQL_Running"] == "Yes"
    assert_equal_to_sources(hosts, host, CONNECTIONS)
    assert "left_out" not in host.sql("SHOW DATABASES").split()


def test_a_copy_finishes_the_load(
    hosts: dict[str, Host], sets: dict[str, BackupSet], still: dict[str, tuple[str, int]]
) -> None:
    host = hosts["restored"]
    lay_down(host, hosts["replica2"], sets["replica2"])
    # The default connection alone does not keep a server from starting, but it has to find its relay logs.
    host.run("printf 'relay_log = mysqld-relay-bin\\n' >> %s", host.words["lab_settings_file"])
    host.run("systemctl start mariadb")
    assert host.run("ls /tmp/SQL_LOAD-*").split()
    finish_the_load(hosts, host, still)


def finish_the_load(hosts: dict[str, Host], host: Host, still: dict[str, tuple[str, int]]) -> None:
    host.sql("SET sql_log_bin = 0; CREATE TABLE lab.words (n INT PRIMARY KEY, word VARCHAR(60) NOT NULL)")
    host.sql("START SLAVE")
    arrive(host, "", *still[""])
    assert host.sql("SELECT COUNT(*) FROM lab.words").strip() == "40000"
    assert_equal_to_sources(hosts, host, [""])


# --- the replicas in the end -------------------------------------------------------------------------


def test_the_replica_equals_its_sources(hosts: dict[str, Host], still: dict[str, tuple[str, int]]) -> None:
    host = hosts["replica1"]
    running = [name for name, each in CONNECTIONS.items() if "delay" not in each and "stopped" not in each]
    for name in running:
        arrive(host, name, *still[name])
    assert_equal_to_sources(hosts, host, running)


def test_the_interrupted_replica_finishes_the_load(hosts: dict[str, Host], still: dict[str, tuple[str, int]]) -> None:
    finish_the_load(hosts, hosts["replica2"], still)
