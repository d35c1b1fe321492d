# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set restored with zstd and tar alone on a host that never saw it, which then goes on as a replica.

Nothing of the collection takes part.
"""

from __future__ import annotations

import subprocess

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import BackupSet, Host

# One replica by file and position, which goes on with its relay logs, and one by GTID with its logs elsewhere.
ORIGINS = ("replica2", "replica3")


@pytest.fixture(scope="module", params=ORIGINS)
def restored(
    request: pytest.FixtureRequest, hosts: dict[str, Host], sets: dict[str, BackupSet]
) -> tuple[Host, BackupSet]:
    """Return a started server made of the set, its replication threads not started yet."""
    host, origin, backup = hosts["restored"], hosts[request.param], sets[request.param]
    host.run("systemctl stop mariadb.socket mariadb.service")
    host.run("rm -rf /restore /var/lib/mysql/* /var/log/mysql/* && mkdir -p /restore")
    archive = f"{host.container}:/restore/data.tar.zst"
    subprocess.run(["podman", "cp", str(backup.directory / "data.tar.zst"), archive], check=True)
    host.run("cd /restore && zstd -q -dc data.tar.zst | tar -x")
    for place in backup.manifest["places"]:
        if place["name"] not in ("config", "keys"):
            host.run("cp -a %s/. %s/", f"/restore/{place['name']}", place["path"])
    # The configuration of where it came from; its server_id must differ from every other.
    settings = origin.run("cat /etc/mysql/mariadb.conf.d/90-replication.cnf")
    host.run(
        "printf %s > /etc/mysql/mariadb.conf.d/90-replication.cnf",
        f"{settings}\nserver_id = 9{origin.name[-1]}\nskip_slave_start = ON\n",
    )
    host.run("systemctl start mariadb.service")
    return host, backup


def test_it_starts_without_recovery(restored: tuple[Host, BackupSet]) -> None:
    host, _backup = restored
    invocation = host.run("systemctl show --value --property=InvocationID mariadb.service").strip()
    log = host.run("journalctl --no-pager --output=cat _SYSTEMD_INVOCATION_ID=%s", invocation)
    log += (
        host.run("cat /var/log/mysql/error.log 2>/dev/null || true") if "replica3" in _backup.manifest["host"] else ""
    )
    assert "crash recovery" not in log
    assert "[ERROR]" not in log


def test_it_stands_where_the_manifest_says(restored: tuple[Host, BackupSet]) -> None:
    host, backup = restored
    status, channel = host.row("SHOW SLAVE STATUS"), backup.channel
    assert status["Slave_IO_Running"] == status["Slave_SQL_Running"] == "No"
    assert status["Relay_Master_Log_File"] == channel["source_log_file"]
    assert int(status["Exec_Master_Log_Pos"]) == int(channel["source_log_pos"])
    assert status["Relay_Log_File"] == channel["relay_log_file"]
    assert int(status["Relay_Log_Pos"]) == int(channel["relay_log_pos"])


def test_it_goes_on_from_there_and_equals_the_source(
    restored: tuple[Host, BackupSet], hosts: dict[str, Host], request: pytest.FixtureRequest
) -> None:
    host, backup = restored
    assert host.checksums() != hosts["source"].checksums(), "nothing was written since the backup: this proves nothing"
    host.sql("START SLAVE")
    # Only now are the writes stopped (once for all tests): it joins while they go on.
    host.wait_for_source_position(*request.getfixturevalue("quiet"))
    status = host.row("SHOW SLAVE STATUS")
    assert status["Slave_IO_Running"] == status["Slave_SQL_Running"] == "Yes"
    assert status["Last_IO_Error"] == status["Last_SQL_Error"] == ""
    assert host.sql("SELECT @@server_id").strip() == f"9{backup.manifest['host'][-1]}"
    assert host.checksums() == hosts["source"].checksums()
