# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set restored with zstd and tar alone on a host that never saw it, which then goes on as a replica.

Nothing of the collection takes part.
"""

from __future__ import annotations

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import (
    REPLICAS,
    BackupSet,
    Host,
    assert_stands_where_recorded,
    assert_started_without_recovery,
    log_of_this_start,
    settings_of,
)

# Between them: by file and position, by GTID, all in the data directory, files elsewhere.
ORIGINS = tuple(name for name in REPLICAS if settings_of(name).get("lab_restore"))


@pytest.fixture(scope="module", params=ORIGINS)
def restored(
    request: pytest.FixtureRequest, hosts: dict[str, Host], sets: dict[str, BackupSet]
) -> tuple[Host, BackupSet]:
    """Return a started server made of the set, its replication threads not started yet."""
    origin, backup = hosts[request.param], sets[request.param]
    host = hosts[origin.settings.get("lab_restored", "restored")]
    host.run(f"systemctl stop {' '.join(reversed(host.words['lab_units']))}")
    host.run("rm -rf /var/lib/mysql/* /var/log/mysql/*")
    backup.lay_down(host, without=("config", "keys"))
    # The original lives: on MySQL the copy needs another server_uuid, which the server gives itself.
    host.run("rm -f /var/lib/mysql/auto.cnf")
    # The configuration of where it came from; its server_id must differ from every other.
    settings = origin.run("cat %s", host.words["lab_settings_file"])
    settings += f"\nserver_id = 9{origin.name[-1]}\nskip_slave_start = ON\n"
    if relay_logs := backup.manifest["server"]["settings"].get("relay_log_basename"):
        # MySQL names them after the host, which is another one now.
        settings += f"relay_log = {relay_logs}\n"
    host.run("printf %s > %s", settings, host.words["lab_settings_file"])
    host.run("systemctl start %s", host.words["lab_unit"])
    return host, backup


def test_it_starts_without_recovery(restored: tuple[Host, BackupSet]) -> None:
    host, _backup = restored
    assert_started_without_recovery(host, log_of_this_start(host))


def test_it_stands_where_the_manifest_says(restored: tuple[Host, BackupSet]) -> None:
    assert_stands_where_recorded(*restored)


def test_it_goes_on_from_there_and_equals_the_source(
    restored: tuple[Host, BackupSet], hosts: dict[str, Host], request: pytest.FixtureRequest
) -> None:
    host, backup = restored
    source = hosts[hosts[backup.manifest["host"]].source]
    assert host.checksums() != source.checksums(), "nothing was written since the backup: this proves nothing"
    host.sql(host.words["lab_start_replica"])
    # Only now are the writes stopped (once for all tests): it joins while they go on.
    host.wait_for_source_position(*request.getfixturevalue("quiet")[source.name])
    status = host.replication()
    assert status["Replica_IO_Running"] == status["Replica_SQL_Running"] == "Yes"
    assert status["Last_IO_Error"] == status["Last_SQL_Error"] == ""
    assert host.sql("SELECT @@server_id").strip() == f"9{backup.manifest['host'][-1]}"
    assert host.checksums() == source.checksums()
