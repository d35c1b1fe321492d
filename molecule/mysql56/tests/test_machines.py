# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two servers on one machine, by systemd, init script and mysqld_safe: what the roll did to each and its neighbour."""

from __future__ import annotations

import json
import re
import typing as t

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import REPLICAS, Absence, BackupSet, Host

_DEFAULT_STATE_DIR = "/var/lib/mysql-replica-backup"
# Of the dead-man and the modules, which all name the collection; the brackets keep the search itself out.
_OURS = "ps -eo args= | grep -e 'replica[_-]backup' -e 'dead[m]an' || true"


def _absences(host: Host, backup: BackupSet) -> list[Absence]:
    """Its orderly stops since the run began, and the starts after them."""
    began = backup.manifest["backup_id"]
    return [absence for absence in host.absences() if absence.gone.strftime("%Y%m%dT%H%M%SZ") >= began]


def _ledger(host: Host) -> dict[str, t.Any]:
    """What the last run noted about this server, from its own state directory."""
    directory = host.settings.get("replica_backup_state_dir", _DEFAULT_STATE_DIR)
    return t.cast("dict[str, t.Any]", json.loads(host.run("cat %s/ledger.last.json", directory)))


@pytest.mark.parametrize("name", REPLICAS)
def test_its_neighbour_stayed_up(hosts: dict[str, Host], sets: dict[str, BackupSet], name: str) -> None:
    host = hosts[name]
    (neighbour,) = [other for other in hosts.values() if other.container == host.container and other.name != name]
    (away,) = _absences(host, sets[name])
    assert away.back is not None
    (other,) = _absences(neighbour, sets[neighbour.name])
    assert other.back is not None
    assert other.back <= away.gone or away.back <= other.gone


@pytest.mark.parametrize("name", REPLICAS)
def test_its_ledger_is_its_own(hosts: dict[str, Host], sets: dict[str, BackupSet], name: str) -> None:
    ledger = _ledger(hosts[name])
    assert ledger["host"] == name
    assert ledger["backup_id"] == sets[name].manifest["backup_id"]
    assert ledger["server"]["datadir"].rstrip("/") == hosts[name].settings["lab_datadir"]
    assert ledger["outcome"] == "complete"


@pytest.mark.parametrize("name", REPLICAS)
def test_it_went_through_its_own_manager(hosts: dict[str, Host], name: str) -> None:
    service = _ledger(hosts[name])["service"]
    assert service["kind"] == hosts[name].settings["lab_manager"]
    assert service["name"].endswith(hosts[name].settings["lab_manager_name"])


@pytest.mark.parametrize("name", REPLICAS)
def test_it_runs_as_it_was_started_before(hosts: dict[str, Host], name: str) -> None:
    host = hosts[name]
    before = host.run(f"cat /var/tmp/{host.settings['lab_instance']}.processes")
    assert len(before.splitlines()) == 2
    # What it had been set to at run time it has from its first moment.
    assert host.run(host.words["lab_processes"]).replace(" --read_only=On", "") == before
    if host.settings["lab_manager"] == "systemd":
        (unit,) = host.words["lab_units"]
        assert host.run("systemctl is-active %s", unit).strip() == "active"
        assert host.run("systemctl show --property=DropInPaths,NeedDaemonReload %s", unit).split() == [
            "DropInPaths=",
            "NeedDaemonReload=no",
        ]


@pytest.mark.parametrize("name", REPLICAS)
def test_nothing_is_left(hosts: dict[str, Host], name: str) -> None:
    host = hosts[name]
    assert host.run("find /var/backups/mysql-replica -type f").split() == []
    assert host.run(f"find {_DEFAULT_STATE_DIR}* -name ledger.json -o -name 'deadman.login*'").split() == []
    assert host.run(_OURS).strip() == ""
    if host.settings["lab_manager"] == "systemd":
        assert host.run("systemctl list-units --all --plain --no-legend '*replica*backup*'").strip() == ""


@pytest.mark.parametrize("name", [name for name in REPLICAS if name in ("replica1", "replica4")])
def test_mysqld_safe_did_not_win(hosts: dict[str, Host], sets: dict[str, BackupSet], name: str) -> None:
    """Its loop ended with the server, and started it no second time while the files were read."""
    (away,) = _absences(hosts[name], sets[name])
    day, clock = away.gone.strftime("%y%m%d"), away.gone.strftime("%H:%M:%S")
    lines = re.findall(r"^(\d{6}) +(\d?\d:\d\d:\d\d) mysqld_safe (.*)$", hosts[name].log, re.MULTILINE)
    since = [text for when, at, text in lines if (when, at.zfill(8)) >= (day, clock)]
    assert [text.split()[0] for text in since] == ["mysqld", "Starting"], since
    assert since[0].endswith("ended")
    # It hands the options of its start to every server it starts after a crash, which has to be known.
    assert [text for text in sets[name].manifest["warnings"] if "mysqld_safe runs with --read_only=On" in text]


@pytest.mark.parametrize("name", ["replica1", "replica4"])
def test_mysqld_safe_is_on_guard_again(
    hosts: dict[str, Host], quiet: t.Mapping[str, tuple[str, int]], name: str
) -> None:
    """Only a loop that would start the server again can lose."""
    host = hosts[name]
    host.wait_for_source_position(*quiet["source"])
    pid_file = host.settings["lab_socket"].replace(".sock", ".pid")
    pid = host.run("cat %s", pid_file).strip()
    host.run("kill -9 %s", pid)
    host.run(
        f"for n in $(seq 300); do {host.words['lab_client']} --execute 'SELECT 1' && exit; sleep 0.1; done; exit 1"
    )
    assert host.run("cat %s", pid_file).strip() != pid
    assert host.checksums() == hosts["source"].checksums()
