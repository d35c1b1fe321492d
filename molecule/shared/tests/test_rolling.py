# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roll as the servers themselves saw it, and the fleet afterwards."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import REPLICAS, SOURCES, BackupSet, Host


def test_each_replica_was_away_once_and_alone(hosts: dict[str, Host], sets: dict[str, BackupSet]) -> None:
    away = []
    for name in REPLICAS:
        # The first stop of each server was its configuration, before it replicated.
        absence = hosts[name].absences()[-1]
        requested = sets[name].manifest["times"]
        assert absence.back is not None, f"{name} logged no start after its last stop: {requested}"
        away.append(absence)
    away.sort(key=lambda absence: absence.gone)
    for earlier, later in zip(away, away[1:]):
        assert earlier.back is not None
        assert earlier.back <= later.gone


def test_each_replica_was_stopped_exactly_once_by_the_roll(hosts: dict[str, Host], sets: dict[str, BackupSet]) -> None:
    for name in REPLICAS:
        began = sets[name].manifest["backup_id"]
        during = [a for a in hosts[name].absences() if a.gone.strftime("%Y%m%dT%H%M%SZ") >= began]
        assert len(during) == 1, during


@pytest.mark.parametrize("name", SOURCES)
def test_the_source_was_never_away(hosts: dict[str, Host], sets: dict[str, BackupSet], name: str) -> None:
    first = min(backup.manifest["backup_id"] for backup in sets.values())
    assert [a for a in hosts[name].absences() if a.gone.strftime("%Y%m%dT%H%M%SZ") >= first] == []


@pytest.mark.parametrize("name", REPLICAS)
def test_replication_is_as_it_was(hosts: dict[str, Host], name: str) -> None:
    host = hosts[name]
    status = host.replication()
    assert status["Replica_IO_Running"] == "Yes"
    assert status["Replica_SQL_Running"] == "Yes"
    assert status["Last_IO_Error"] == status["Last_SQL_Error"] == ""
    assert status[host.words["lab_gtid_column"]] == host.words["lab_gtid_values"][host.settings["lab_gtid"]]
    # Set at run time, in no option file: a restart alone would have lost it.
    assert host.sql(f"SELECT @@GLOBAL.{host.words['lab_read_only']}").strip() == "1"


@pytest.mark.parametrize("name", REPLICAS)
def test_the_service_is_as_the_package_left_it(hosts: dict[str, Host], name: str) -> None:
    host = hosts[name]
    units = host.words["lab_units"]
    assert host.run(f"systemctl is-active {' '.join(units)}").split() == ["active"] * len(units)
    assert host.run("systemctl show --property=DropInPaths,NeedDaemonReload %s", host.words["lab_unit"]).split() == [
        "DropInPaths=",
        "NeedDaemonReload=no",
    ]
    words = host.run(f"tr '\\0' ' ' < /proc/$(pidof {host.words['lab_server']})/cmdline")
    assert host.words["lab_server"] in words
    assert "skip" not in words


@pytest.mark.parametrize("name", REPLICAS)
def test_nothing_is_left_on_the_replica(hosts: dict[str, Host], name: str) -> None:
    host = hosts[name]
    assert host.run("find /var/backups/mysql-replica -type f").split() == []
    assert (
        host.run("systemctl list-units --all --plain --no-legend '*replica-backup*' '*replica_backup*'").strip() == ""
    )
    assert "replica_backup" not in host.run("ps -eo args")


@pytest.mark.parametrize("name", REPLICAS)
def test_caught_up_and_equal_to_the_source(
    hosts: dict[str, Host], quiet: Mapping[str, tuple[str, int]], name: str
) -> None:
    host, source = hosts[name], hosts[hosts[name].source]
    host.wait_for_source_position(*quiet[source.name])
    assert host.history() == source.history() != ""
    assert host.checksums() == source.checksums()
