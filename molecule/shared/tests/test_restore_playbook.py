# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The restore playbook: a set becomes another replica, on a host with another name whose server runs something else.

It comes after the restores by hand, which leave a server with other data and their settings on that host.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import (
    REPLICAS,
    BackupSet,
    Host,
    assert_started_without_recovery,
    log_of_this_start,
    settings_of,
)
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import Run
from ansible_collections.mysql_ops.replica_backup.tests.lab.restore import restore

ORIGINS = tuple(name for name in REPLICAS if settings_of(name).get("lab_restore"))


@pytest.fixture(scope="module", params=ORIGINS)
def restored(
    request: pytest.FixtureRequest, hosts: dict[str, Host], sets: dict[str, BackupSet]
) -> tuple[Host, Host, BackupSet, Run]:
    """Return the restored host, the origin of its set, the set, and what the playbook said."""
    origin = hosts[request.param]
    host = hosts[origin.settings.get("lab_restored", "restored")]
    # Relay logs are named after this host now, where the settings do not name them.
    settings = origin.run("cat %s", host.words["lab_settings_file"]) + f"\nserver_id = 8{origin.name[-1]}\n"
    host.run("printf %s > %s", settings, host.words["lab_settings_file"])
    host.run("rm -f /var/log/mysql/error.log; systemctl start %s", host.words["lab_unit"])
    refused = restore(host, f"{origin.name}/latest")
    assert refused.status != 0
    assert "A server is running" in refused.output and "replica_restore_force" in refused.output
    assert host.run("systemctl is-active %s", host.words["lab_unit"]).strip() == "active"
    assert host.run("find /var/lib -maxdepth 1 -name '*restoring*'") == ""
    return host, origin, sets[request.param], restore(host, f"{origin.name}/latest", force=True)


def test_it_says_what_was_done(restored: tuple[Host, Host, BackupSet, Run]) -> None:
    host, _origin, backup, run = restored
    assert run.status == 0, run.output
    assert f"{backup.manifest['host']}/{backup.manifest['backup_id']}" in run.output
    # Named by the time; there may be one of an earlier restore.
    aside = sorted(host.run("ls -d /var/lib/mysql.before-*").split())[-1]
    assert aside in run.output
    assert host.run("find /var/lib /srv /var/log -name '*.restoring-*'") == ""
    assert host.run("ls /var/lib/mysql-replica-backup").split().count("restore.json") == 0


def test_it_replicates_and_equals_the_source(
    restored: tuple[Host, Host, BackupSet, Run], hosts: dict[str, Host], request: pytest.FixtureRequest
) -> None:
    host, origin, backup, run = restored
    assert run.status == 0, run.output
    assert_started_without_recovery(host, log_of_this_start(host))
    quiet: Mapping[str, tuple[str, int]] = request.getfixturevalue("quiet")
    source = hosts[hosts[backup.manifest["host"]].source]
    host.wait_for_source_position(*quiet[source.name])
    status = host.replication()
    assert status["Replica_IO_Running"] == status["Replica_SQL_Running"] == "Yes"
    assert status["Last_IO_Error"] == status["Last_SQL_Error"] == ""
    assert host.sql("SELECT @@server_id").strip() == f"8{origin.name[-1]}"
    assert host.checksums() == source.checksums()
    if host.words["lab_dialect"] == "mysql":
        assert host.sql("SELECT @@server_uuid") != origin.sql("SELECT @@server_uuid")


def test_the_next_start_is_a_normal_one(restored: tuple[Host, Host, BackupSet, Run]) -> None:
    host, _origin, _backup, run = restored
    assert run.status == 0, run.output
    host.run("systemctl restart %s", host.words["lab_unit"])
    host.run(f"for n in $(seq 300); do {host.words['lab_client']} -e 'SELECT 1' && exit; sleep 0.1; done; exit 1")
    host.run(
        f"for n in $(seq 100); do {host.words['lab_client']} -E -e '{host.words['lab_show_replica']}'"
        " | grep -c 'SQL_Running: Yes\\|IO_Running: Yes' | grep -q 2 && exit; sleep 0.2; done; exit 1"
    )
