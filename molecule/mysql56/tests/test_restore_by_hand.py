# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets with FILE and with TABLE repositories, put by hand on a machine that never saw them, as the README tells.

Both go on from the relay logs in the set: what they applied first was never fetched again.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import (
    REPLICAS,
    BackupSet,
    Host,
    assert_stands_where_recorded,
    assert_started_without_recovery,
    settings_of,
)

ORIGINS = tuple(name for name in REPLICAS if settings_of(name).get("lab_restore"))


@dataclass(frozen=True)
class Restored:
    """A started server made of a set, its replication threads not started yet. ``host`` speaks to it."""

    host: Host
    origin: Host
    backup: BackupSet


@pytest.fixture(scope="module", params=ORIGINS)
def restored(
    request: pytest.FixtureRequest, hosts: dict[str, Host], sets: dict[str, BackupSet]
) -> t.Iterator[Restored]:
    origin, bare, backup = hosts[request.param], hosts["restored"], sets[request.param]
    unit, settings_file, log = (origin.words[word] for word in ("lab_unit", "lab_settings_file", "lab_error_log"))
    bare.run("systemctl stop 'mysql@*'; rm -rf /var/log/mysql/*")
    backup.lay_down(bare, without=("config", "keys", "load_data"))
    # The original lives: the copy needs another server_uuid, which the server gives itself, and another server_id.
    bare.run("rm %s/auto.cnf", origin.settings["lab_datadir"])
    # The option file in the set is the original's, and it names the relay logs by the pid file, which stays.
    lines = f"\nserver_id = 9{origin.name[-1]}\nskip_slave_start = ON\n"
    bare.run("cat /restore/config/*.cnf > %s && printf %s >> %s", settings_file, lines, settings_file)
    bare.run("install -o mysql -g mysql /dev/null %s && systemctl start %s", log, unit)
    host = Host(origin.name)
    host.container = bare.container
    host._host = bare._host
    host.run(f"for n in $(seq 300); do {host.words['lab_client']} -e 'SELECT 1' && exit; sleep 0.1; done; exit 1")
    yield Restored(host, origin, backup)
    bare.run("systemctl stop %s", unit)


def test_it_starts_without_recovery(restored: Restored) -> None:
    assert_started_without_recovery(restored.host, restored.host.log)


def test_its_repository_is_of_the_kind_that_the_manifest_says(restored: Restored) -> None:
    kind = restored.origin.settings.get("lab_settings", {}).get("master_info_repository", "FILE")
    assert restored.backup.channel["repository"] == {"connection": kind, "applier": kind}
    asked = restored.host.sql("SELECT @@master_info_repository, @@relay_log_info_repository").split()
    assert asked == [kind, kind]
    files = {file["path"] for file in restored.backup.manifest["files"] if file["place"] == "datadir"}
    assert {"master.info", "relay-log.info"} & files == ({"master.info", "relay-log.info"} if kind == "FILE" else set())


def test_it_stands_where_the_manifest_says(restored: Restored) -> None:
    assert_stands_where_recorded(restored.host, restored.backup)


def test_it_goes_on_from_there_and_equals_the_source(
    restored: Restored, hosts: dict[str, Host], request: pytest.FixtureRequest
) -> None:
    host, source = restored.host, hosts["source"]
    assert host.checksums() != source.checksums(), "nothing was written since the backup: this proves nothing"
    host.sql(host.words["lab_start_replica"])
    host.wait_for_source_position(*request.getfixturevalue("quiet")["source"])
    status = host.replication()
    assert status["Replica_IO_Running"] == status["Replica_SQL_Running"] == "Yes"
    assert status["Last_IO_Error"] == status["Last_SQL_Error"] == ""
    assert status[host.words["lab_gtid_column"]] == host.words["lab_gtid_values"][host.settings["lab_gtid"]]
    assert host.sql("SELECT @@server_id").strip() == f"9{restored.origin.name[-1]}"
    assert host.history() == source.history() != ""
    assert host.checksums() == source.checksums()
