# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica of two sources, one channel by GTID and one by file and position, that loses the relay logs of both."""

from __future__ import annotations

import json
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import Host, settings_of
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import Run, run_playbook, write_inventory

_ODD = str(settings_of("replica3")["lab_channel"]).lower()
_QUERY = "mysql --default-character-set=utf8mb4 --batch --skip-column-names --raw --execute %s"


@pytest.fixture(scope="module")
def replica() -> Host:
    for source in (Host("source"), Host("source2")):
        source.sql(
            "SET SESSION sql_log_bin = 0; CREATE USER IF NOT EXISTS looker@'%' IDENTIFIED BY 'looks';"
            " GRANT REPLICATION CLIENT, REPLICATION SLAVE ON *.* TO looker@'%'"
        )
    return Host("replica3")


@pytest.fixture(scope="module")
def inventory(replica: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    hosts = {
        "replica3": {
            "ansible_connection": "containers.podman.podman",
            "ansible_host": replica.container,
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "replica_reposition_login_user": "root",
            "replica_reposition_login_unix_socket": "/run/mysqld/mysqld.sock",
            "replica_reposition_source_login_user": "looker",
            "replica_reposition_source_login_password": "looks",
            # All hosts are of one image, in which the server has made its authority.
            "replica_reposition_source_ca_cert": "/var/lib/mysql/ca.pem",
        }
    }
    path: Path = tmp_path_factory.mktemp("inventory") / "hosts.yml"
    return write_inventory(path, {"all": {"children": {"mysql_replicas": {"hosts": hosts}}}})


def reposition(inventory: Path, **variables: t.Any) -> Run:
    prefixed = {f"replica_reposition_{name}": value for name, value in variables.items()}
    return run_playbook("reposition", inventory, extra_vars=prefixed)


def channels(host: Host) -> dict[str, dict[str, t.Any]]:
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


def places(host: Host) -> dict[str, tuple[str, int]]:
    return {name: (row["Relay_Source_Log_File"], row["Exec_Source_Log_Pos"]) for name, row in channels(host).items()}


def test_both_channels_are_healed_from_down(replica: Host, inventory: Path) -> None:
    replica.run(_QUERY, "STOP REPLICA SQL_THREAD FOR CHANNEL ''")
    Host("source2").sql("INSERT INTO zwei.t VALUES (11), (12)")
    wait_until(
        lambda: all(row["Exec_Source_Log_Pos"] < row["Read_Source_Log_Pos"] for row in channels(replica).values()),
        lambda: channels(replica),
    )
    replica.run(_QUERY, "STOP REPLICA")
    stood = places(replica)
    replica.run("systemctl stop mysql; rm -f /var/lib/mysql/*relay-bin*")
    blind = reposition(inventory)
    assert blind.status != 0 and "only a running server reads tables" in blind.output
    said = reposition(inventory, start="true")
    assert said.status == 0, said.output
    assert replica.run("systemctl is-active mysql || true").strip() == "inactive"
    assert replica.run("ls /var/lib/mysql | grep relay-bin || true") == ""
    for statement in (
        "RESET REPLICA FOR CHANNEL '';",
        "CHANGE REPLICATION SOURCE TO SOURCE_AUTO_POSITION = 1 FOR CHANNEL '';",
        f"SOURCE_LOG_FILE = '{stood[_ODD][0]}', SOURCE_LOG_POS = {stood[_ODD][1]}, SOURCE_DELAY = 3600 FOR CHANNEL",
    ):
        assert statement in " ".join(said.output.split()), said.output
    healed = reposition(inventory, execute="true")
    assert healed.status == 0, healed.output
    rows = channels(replica)
    assert {row["Replica_IO_Running"] for row in rows.values()} == {"Yes"}
    assert {row["Replica_SQL_Running"] for row in rows.values()} == {"Yes"}
    assert {name: row["Auto_Position"] for name, row in rows.items()} == {"": 1, _ODD: 0}
    assert {name: row["SQL_Delay"] for name, row in rows.items()} == {"": 0, _ODD: 3600}
    assert places(replica)[_ODD] == stood[_ODD]
    # The filters were in memory only; the delay is over.
    replica.run(
        _QUERY,
        f"STOP REPLICA SQL_THREAD FOR CHANNEL '{_ODD}';"
        " CHANGE REPLICATION FILTER REPLICATE_WILD_IGNORE_TABLE = ('out\\\\_%.%')"
        f" FOR CHANNEL '{_ODD}'; CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 0 FOR CHANNEL '{_ODD}';"
        f" START REPLICA SQL_THREAD FOR CHANNEL '{_ODD}'",
    )
    second, source = Host("source2"), Host("source")
    wait_until(lambda: replica.sql("SELECT MAX(a) FROM zwei.t").strip() == "12", lambda: channels(replica))
    assert replica.sql("CHECKSUM TABLE zwei.t") == second.sql("CHECKSUM TABLE zwei.t")
    last = source.sql("SELECT MAX(id) FROM lab.journal").strip()
    status = source.row("SHOW BINARY LOG STATUS")
    waited = replica.run(_QUERY, f"SELECT SOURCE_POS_WAIT('{status['File']}', {status['Position']}, 60, '')").strip()
    assert waited.isdigit(), channels(replica)
    journal = f"SELECT COUNT(*), SUM(CRC32(CONCAT(id, writer, number, written))) FROM lab.journal WHERE id <= {last}"
    assert replica.sql(journal) == source.sql(journal)
    assert "looks" not in healed.output + said.output


def test_another_server_under_the_same_name(replica: Host, inventory: Path) -> None:
    before = {name: row["Relay_Log_File"] for name, row in channels(replica).items()}
    other = replica.run("getent hosts %s", Host("source2").container).split()[0]
    replica.run("cp /etc/hosts /tmp/hosts && echo %s >> /etc/hosts", f"{other} {Host('source').container}")
    try:
        refused = reposition(inventory, execute="true", force="true")
    finally:
        replica.run("cat /tmp/hosts > /etc/hosts")
    assert refused.status != 0 and "it is another server: server_uuid" in refused.output, refused.output
    assert "running, untouched" in refused.output
    assert {name: row["Relay_Log_File"] for name, row in channels(replica).items()} == before


def test_purged_by_the_source(replica: Host, inventory: Path) -> None:
    """Only the second source: the tests of the others need the logs of the first."""
    second = Host("source2")
    replica.run(_QUERY, f"STOP REPLICA FOR CHANNEL '{_ODD}'")
    second.sql("INSERT INTO zwei.t VALUES (21)")
    second.sql("FLUSH BINARY LOGS")
    newest = second.sql("SHOW BINARY LOGS").splitlines()[-1].split()[0]
    wait_until(lambda: purged(second, newest), lambda: second.sql("SHOW BINARY LOGS"))
    before = places(replica)[_ODD]
    refused = reposition(inventory, execute="true", force="true", channels=[_ODD])
    assert refused.status != 0 and "it no longer has binlog." in refused.output, refused.output
    assert "restore a newer backup" in refused.output
    assert places(replica)[_ODD] == before
    assert channels(replica)[_ODD]["Replica_SQL_Running"] == "No"


def purged(host: Host, newest: str) -> bool:
    """Other replicas may be reading a log at that moment, which keeps it."""
    host.sql(f"PURGE BINARY LOGS TO '{newest}'")
    return host.sql("SHOW BINARY LOGS").split()[0] == newest
