# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica of two sources, each channel in its own mode: after the backup as before, and again from the set."""

from __future__ import annotations

import json
import os
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import BackupSet, Host, settings_of
from ansible_collections.mysql_ops.replica_backup.tests.lab.restore import restore

_ODD = str(settings_of("replica3")["lab_channel"]).lower()
_SET_AT_RUN_TIME = {
    "replica_net_timeout": "17",
    "replica_preserve_commit_order": "0",
    "rpl_semi_sync_replica_enabled": "1",
    "super_read_only": "1",
}
_QUERY = "mysql --default-character-set=utf8mb4 --batch --skip-column-names --raw --execute %s"


@pytest.fixture(scope="module")
def replica() -> Host:
    return Host("replica3")


@pytest.fixture(scope="module")
def backup() -> BackupSet:
    (directory,) = (Path(os.environ["LAB_SCRATCH"]) / "backups" / "replica3").iterdir()
    return BackupSet(directory)


def channels(host: Host) -> dict[str, dict[str, t.Any]]:
    """Every channel's row, by name."""
    script = (
        "import json, pymysql, pymysql.cursors as c;"
        "q = pymysql.connect(unix_socket='/run/mysqld/mysqld.sock', user='root', charset='utf8mb4',"
        " cursorclass=c.DictCursor).cursor();"
        "q.execute('SHOW REPLICA STATUS'); print(json.dumps(q.fetchall(), default=str))"
    )
    return {row["Channel_Name"]: row for row in json.loads(host.run("python3 -c %s", script))}


def wait_until(condition: t.Callable[[], bool], what: t.Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.3)


def test_the_manifest_tells_each_channel_by_itself(backup: BackupSet) -> None:
    found = {channel["name"]: channel for channel in backup.manifest["channels"]}
    assert set(found) == {"", _ODD}
    assert {name: channel["positioning"] for name, channel in found.items()} == {"": "gtid", _ODD: "file"}
    assert {name: channel["delay"] for name, channel in found.items()} == {"": 0, _ODD: 3600}
    assert found[""]["filters"] == {"replicate_ignore_db": "a b"}
    assert found[_ODD]["filters"] == {
        "replicate_ignore_db": "a b",
        "replicate_ignore_table": "db.unwanted",
        "replicate_wild_ignore_table": r"out\_%.%",
    }
    assert found[_ODD]["repository"] == {"connection": "TABLE", "applier": "TABLE"}
    assert found[_ODD]["parallel"] == {"workers": 4, "mode": "logical_clock", "keeps_commit_order": False}
    assert found[_ODD]["source_log_pos"] < found[_ODD]["read_log_pos"], "nothing waits for the delay"
    assert all(channel["threads_before"] == {"io": True, "applier": True} for channel in found.values())


def test_it_is_as_it_was(replica: Host, backup: BackupSet) -> None:
    for name, value in _SET_AT_RUN_TIME.items():
        assert replica.sql(f"SELECT @@GLOBAL.{name}").strip() == value, name
    assert replica.sql("SELECT @@GLOBAL.replica_transaction_retries").strip() == "11"
    wait_until(
        lambda: {row["Replica_IO_Running"] for row in channels(replica).values()} == {"Yes"}, lambda: channels(replica)
    )
    rows = channels(replica)
    for channel in backup.manifest["channels"]:
        row = rows[channel["name"]]
        assert row["Replica_SQL_Running"] == "Yes"
        assert (row["Last_IO_Error"], row["Last_SQL_Error"]) == ("", "")
        assert row["SQL_Delay"] == channel["delay"]
        assert ("gtid" if row["Auto_Position"] else "file") == channel["positioning"]
        filters = {key.lower(): row[key] for key in row if key.startswith("Replicate_") and row[key]}
        assert filters == channel["filters"]
    assert rows[_ODD]["Exec_Source_Log_Pos"] == next(
        channel["source_log_pos"] for channel in backup.manifest["channels"] if channel["name"] == _ODD
    )
    assert replica.sql("SELECT COUNT(*) FROM zwei.t").strip() == "0"
    origins = replica.sql(
        "SELECT CONFIGURED_BY FROM performance_schema.replication_applier_filters ORDER BY CHANNEL_NAME, FILTER_NAME"
    ).split()
    assert set(origins) <= {"CHANGE_REPLICATION_FILTER", "CHANGE_REPLICATION_FILTER_FOR_CHANNEL"}


def test_a_copy_goes_on_with_each_channel_in_its_own_mode(replica: Host, backup: BackupSet) -> None:
    host = Host("restored")
    host.run("systemctl unmask --runtime -q mysql; systemctl stop mysql; systemctl reset-failed mysql || true")
    host.run("rm -rf /var/lib/mysql/*")
    backup.lay_down(host, without=("config", "keys"))
    host.run("rm -f /var/lib/mysql/auto.cnf")
    settings = replica.run("cat %s", host.words["lab_settings_file"])
    settings += "\nserver_id = 93\nskip_replica_start = ON\n"
    settings += f"relay_log = {backup.manifest['server']['settings']['relay_log_basename']}\n"
    host.run("printf %s > %s", settings, host.words["lab_settings_file"])
    host.run("systemctl start mysql")
    rows = channels(host)
    for channel in backup.manifest["channels"]:
        row = rows[channel["name"]]
        assert (row["Relay_Source_Log_File"], row["Exec_Source_Log_Pos"]) == (
            channel["source_log_file"],
            channel["source_log_pos"],
        )
        assert row["SQL_Delay"] == channel["delay"]
        assert ("gtid" if row["Auto_Position"] else "file") == channel["positioning"]
    # The filters were in memory only; the manifest knows them. The delay is over.
    host.run(
        _QUERY,
        "CHANGE REPLICATION FILTER REPLICATE_IGNORE_TABLE = (db.unwanted),"
        f" REPLICATE_WILD_IGNORE_TABLE = ('out\\\\_%.%') FOR CHANNEL '{_ODD}';"
        f" CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 0 FOR CHANNEL '{_ODD}'; START REPLICA",
    )
    wait_until(lambda: host.sql("SELECT COUNT(*) FROM zwei.t").strip() == "2", lambda: channels(host))
    source, second = Host("source"), Host("source2")
    assert host.sql("CHECKSUM TABLE zwei.t") == second.sql("CHECKSUM TABLE zwei.t")
    assert host.sql("SHOW DATABASES LIKE 'out%'").split() == []
    # The writes go on: what was in the journal at one moment has to be in the copy's, once.
    last = source.sql("SELECT MAX(id) FROM lab.journal").strip()
    status = source.row("SHOW BINARY LOG STATUS")
    waited = host.run(_QUERY, f"SELECT SOURCE_POS_WAIT('{status['File']}', {status['Position']}, 60, '')").strip()
    assert waited.isdigit(), channels(host)
    journal = f"SELECT COUNT(*), SUM(CRC32(CONCAT(id, writer, number, written))) FROM lab.journal WHERE id <= {last}"
    assert host.sql(journal) == source.sql(journal)
    rows = channels(host)
    assert {row["Replica_IO_Running"] for row in rows.values()} == {"Yes"}
    assert {name: row["Auto_Position"] for name, row in rows.items()} == {"": 1, _ODD: 0}


def test_the_set_becomes_another_replica_of_both_sources(replica: Host, backup: BackupSet) -> None:
    host = Host("restored")
    settings = replica.run("cat %s", replica.words["lab_settings_file"]) + "\nserver_id = 73\n"
    host.run("printf %s > %s", settings, host.words["lab_settings_file"])
    run = restore(host, f"replica3/{backup.manifest['backup_id']}", force=True)
    assert run.status == 0, run.output
    found = channels(host)
    assert set(found) == {"", _ODD}
    for name, row in found.items():
        assert (row["Replica_IO_Running"], row["Replica_SQL_Running"], row["Last_SQL_Error"]) == ("Yes", "Yes", ""), (
            name
        )
        # With the relay logs of the set, under this host's name: they go on where the applier stood.
        (recorded,) = (channel for channel in backup.manifest["channels"] if channel["name"] == name)
        assert int(row["SQL_Delay"]) == recorded["delay"]
    assert found[_ODD]["Exec_Source_Log_Pos"] >= next(
        channel["source_log_pos"] for channel in backup.manifest["channels"] if channel["name"] == _ODD
    )
    assert host.sql("SELECT @@server_uuid") != replica.sql("SELECT @@server_uuid")
