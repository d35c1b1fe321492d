# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica that loses its relay logs, whatever its server and however it finds its place."""

from __future__ import annotations

import dataclasses
import time
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _reposition
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import Flavor, MariaDB, MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology

_GTID = {"gtid_mode": "ON", "enforce_gtid_consistency": "ON"}


@dataclasses.dataclass(frozen=True)
class Kind:
    """One way to replicate. ``change`` brings a replica there that follows as the lab does."""

    flavor: t.Callable[[], Flavor]
    change: str = ""
    mode: tuple[str, t.Any] = ("Auto_Position", 0)
    settings: t.Mapping[str, str] = dataclasses.field(default_factory=dict)


KINDS = {
    "mariadb-position": Kind(MariaDB, "CHANGE MASTER TO MASTER_USE_GTID = no", ("Using_Gtid", "No")),
    "mariadb-gtid": Kind(MariaDB, "", ("Using_Gtid", "Slave_Pos")),
    "mysql56-file": Kind(MySQL56),
    "mysql56-table": Kind(lambda: MySQL56(repositories="TABLE")),
    "mysql56-gtid": Kind(MySQL56, "CHANGE MASTER TO MASTER_AUTO_POSITION = 1", ("Auto_Position", 1), _GTID),
}


@dataclasses.dataclass
class Case:
    """A source, a replica, and an account on the source that may only look."""

    topology: Topology
    kind: Kind

    @property
    def by_gtid(self) -> bool:
        return self.kind.mode[1] not in (0, "No")

    @property
    def source(self) -> Server:
        return self.topology.source

    @property
    def replica(self) -> Server:
        return self.topology.replicas[0]

    def request(self, **changes: t.Any) -> _reposition.Request:
        request = _reposition.Request(
            login=Login(user="root", unix_socket=str(self.replica.socket), config_file=None),
            source_login=Login(user="looker", password="looks", config_file=None),
        )
        return dataclasses.replace(request, **changes)

    def write(self, rows: int = 20) -> None:
        for _number in range(rows):
            # A row applied twice, or one left out, changes the sum.
            self.source.query("UPDATE d.sum SET n = n + 1")
            self.source.query("INSERT INTO d.t (a) VALUES (NULL)")

    def status(self, name: str = "") -> dict[str, t.Any]:
        if self.topology.flavor.family == "mariadb":
            rows = [row for row in self.replica.query("SHOW ALL SLAVES STATUS") if row["Connection_name"] == name]
        else:
            rows = self.replica.query("SHOW SLAVE STATUS")
        return rows[0]

    def lose_relay_logs(self, *start: str) -> None:
        """Stop half way through what was downloaded, and remove every relay log while the server is down."""
        self.go_down()
        self.replica.start("--skip-slave-start", *start)

    def go_down(self) -> None:
        """Stop the server half way through what it downloaded, and remove every relay log."""
        self.replica.query("STOP SLAVE SQL_THREAD")
        self.write()
        deadline = time.monotonic() + 20
        newest = self.topology.flavor.position(self.source.query)
        while self.status()["Read_Master_Log_Pos"] == self.status()["Exec_Master_Log_Pos"]:
            assert time.monotonic() < deadline, newest
            time.sleep(0.05)
        self.replica.stop()
        for path in self.replica.relay_log_directory.glob("relaylog*"):
            path.unlink()

    def in_step(self) -> None:
        self.topology.wait_caught_up()
        assert self.replica.checksums() == self.source.checksums()


def prepare(case: Case) -> None:
    """The account that looks at the source, and tables in which a transaction lost or applied twice shows."""
    rights = "BINLOG MONITOR" if case.topology.flavor.family == "mariadb" else "REPLICATION CLIENT"
    case.source.query("CREATE USER looker@'127.0.0.1' IDENTIFIED BY 'looks'")
    case.source.query(f"GRANT {rights}, REPLICATION SLAVE ON *.* TO looker@'127.0.0.1'")
    case.source.query("CREATE DATABASE d")
    case.source.query("CREATE TABLE d.t (a INT PRIMARY KEY AUTO_INCREMENT)")
    case.source.query("CREATE TABLE d.sum (n INT NOT NULL)")
    case.source.query("INSERT INTO d.sum VALUES (0)")
