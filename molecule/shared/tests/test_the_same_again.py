# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The restore playbook on the replica that a set was made of: it takes its identity back and goes on from then.

It comes after everything that looks at the roll, for these replicas are stopped once more.
"""

from __future__ import annotations

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import REPLICAS, Host, settings_of
from ansible_collections.mysql_ops.replica_backup.tests.lab.restore import restore

ORIGINS = tuple(name for name in REPLICAS if settings_of(name).get("lab_restore"))


@pytest.mark.parametrize("name", ORIGINS)
def test_the_same_again(hosts: dict[str, Host], name: str, request: pytest.FixtureRequest) -> None:
    host = hosts[name]
    source = hosts[host.source]
    identity = "SELECT @@server_id" + (", @@server_uuid" if host.words["lab_dialect"] == "mysql" else "")
    before = host.sql(identity)
    host.sql(f"SET GLOBAL {host.words['lab_read_only']} = OFF")
    host.sql("SET sql_log_bin = 0; CREATE TABLE lab.not_in_the_set (n INT PRIMARY KEY)")
    run = restore(host, "latest", identity="same", force=True)
    assert run.status == 0, run.output
    assert host.sql(identity) == before
    assert "not_in_the_set" not in host.sql("SHOW TABLES FROM lab")
    assert host.run("ls /var/lib/mysql.before-*/ibdata1").split()
    host.wait_for_source_position(*request.getfixturevalue("quiet")[source.name])
    status = host.replication()
    assert status["Replica_IO_Running"] == status["Replica_SQL_Running"] == "Yes"
    assert status["Last_IO_Error"] == status["Last_SQL_Error"] == ""
    assert status[host.words["lab_gtid_column"]] == host.words["lab_gtid_values"][host.settings["lab_gtid"]]
    assert host.checksums() == source.checksums()
    # Nothing of the restore is left in the way of the next backup.
    assert host.run("ls /var/lib/mysql-replica-backup").split().count("restore.json") == 0
