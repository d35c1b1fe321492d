# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The restore playbook on MySQL 5.6: sets with FILE and with TABLE repositories become clones of other instances.

It comes after the restores by hand, which leave stopped servers with other data and their settings on that machine.
"""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import (
    REPLICAS,
    BackupSet,
    Host,
    assert_started_without_recovery,
    settings_of,
)
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import Run
from ansible_collections.mysql_ops.replica_backup.tests.lab.restore import restore

ORIGINS = tuple(name for name in REPLICAS if settings_of(name).get("lab_restore"))


@pytest.fixture(scope="module", params=ORIGINS)
def restored(
    request: pytest.FixtureRequest, hosts: dict[str, Host], sets: dict[str, BackupSet]
) -> t.Iterator[tuple[Host, Host, Run]]:
    """Return the restored server, the origin of its set, and what the playbook said."""
    origin, bare = hosts[request.param], hosts["restored"]
    unit, settings_file, log = (origin.words[word] for word in ("lab_unit", "lab_settings_file", "lab_error_log"))
    bare.run("systemctl stop 'mysql@*'; rm -rf /var/log/mysql/*; install -o mysql -g mysql /dev/null %s", log)
    settings = origin.run("cat %s", settings_file) + f"\nserver_id = 8{origin.name[-1]}\n"
    # Relay logs of the TABLE repository go to another directory than the table says: they cannot be gone on with.
    bare.run("mkdir -p /srv/relays && chown mysql: /srv/relays")
    settings += "relay_log = /srv/relays/other\n"
    bare.run("printf %s > %s", settings, settings_file)
    # Where the relay logs are read again, the source is asked first.
    hosts["source"].sql("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO asks@'%' IDENTIFIED BY 'not-secret'")
    host = Host(origin.name)
    host.container, host._host = bare.container, bare._host
    run = restore(
        host,
        f"{origin.name}/latest",
        login_unix_socket=origin.settings["lab_socket"],
        service_name=f"{unit}.service",
        state_dir=f"/var/lib/restore-{origin.name}",
        source_login_user="asks",
        source_login_password="not-secret",
    )
    yield host, origin, run
    bare.run("systemctl stop %s", unit)


def test_it_replicates_and_equals_the_source(
    restored: tuple[Host, Host, Run], hosts: dict[str, Host], request: pytest.FixtureRequest
) -> None:
    host, origin, run = restored
    assert run.status == 0, run.output
    source = hosts["source"]
    host.wait_for_source_position(*request.getfixturevalue("quiet")["source"])
    if origin.settings["lab_gtid"]:
        assert_started_without_recovery(host, host.log)
    # The other one starts with errors about the relay logs that its table names, until they are read again.
    assert "crash recovery" not in host.log.lower()
    status = host.replication()
    assert status["Replica_IO_Running"] == status["Replica_SQL_Running"] == "Yes"
    assert status["Last_IO_Error"] == status["Last_SQL_Error"] == ""
    assert status[host.words["lab_gtid_column"]] == host.words["lab_gtid_values"][host.settings["lab_gtid"]]
    assert host.sql("SELECT @@server_id").strip() == f"8{origin.name[-1]}"
    assert host.sql("SELECT @@server_uuid") != origin.sql("SELECT @@server_uuid")
    assert host.checksums() == source.checksums()
    # The applier's new relay logs are where this machine wants them.
    assert host.run("ls /srv/relays").split()


def test_what_was_there_was_moved_aside(restored: tuple[Host, Host, Run]) -> None:
    host, origin, run = restored
    assert run.status == 0, run.output
    datadir = origin.settings["lab_datadir"]
    assert host.run("ls -d %s.before-*", datadir).split()
    assert host.run(f"find {datadir} /srv -name '*.restoring-*'") == ""
