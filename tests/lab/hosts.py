# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of a molecule scenario, their sets on the controller, and what their servers logged."""

from __future__ import annotations

import json
import os
import re
import subprocess
import typing as t
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache, cached_property
from pathlib import Path

import jinja2
import testinfra
import yaml

from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

# Set by tests/lab/molecule.sh.
SCENARIO = os.environ.get("LAB_SCENARIO", "default")
_FAMILIES = CHECKOUT / "molecule" / "shared" / "families"
_SCENARIO = yaml.safe_load((CHECKOUT / "molecule" / SCENARIO / "molecule.yml").read_text(encoding="utf-8"))
_INVENTORY = _SCENARIO["provisioner"]["inventory"]
_GROUPS: dict[str, list[str]] = {host["name"]: host["groups"] for host in _SCENARIO["platforms"]}
SOURCES = tuple(name for name, groups in _GROUPS.items() if "sources" in groups)
# With sources, sets and tests of their own.
SEVERAL_CHANNELS = tuple(name for name, groups in _GROUPS.items() if "several_channels" in groups)
REPLICAS = tuple(
    name for name, groups in _GROUPS.items() if "mysql_replicas" in groups and name not in SEVERAL_CHANNELS
)
# What sets are restored to by hand.
BARE = tuple(name for name in _GROUPS if name not in SOURCES + REPLICAS + SEVERAL_CHANNELS)


@cache
def settings_of(name: str) -> dict[str, t.Any]:
    """Return what the scenario's inventory says of one host, with its groups' settings, templates as they stand."""
    layers = [(_INVENTORY.get("group_vars") or {}).get(group) for group in ("all", *_GROUPS[name])]
    layers.append((_INVENTORY.get("host_vars") or {}).get(name))
    found = {key: value for layer in layers for key, value in (layer or {}).items()}
    return {"inventory_hostname": name, **found}


@cache
def words_of(name: str) -> dict[str, t.Any]:
    """Return what the servers of that host's family call their units, statements and messages.

    It is the file that prepared the host; templates in it see the settings of the host. ``lab_dialect`` is the family
    as the collection names it.
    """
    family = settings_of(name)["lab_family"]
    words = yaml.safe_load((_FAMILIES / f"{family}.yml").read_text(encoding="utf-8"))
    return {"lab_dialect": family, **{word: _rendered(value, settings_of(name)) for word, value in words.items()}}


def _rendered(value: t.Any, variables: dict[str, t.Any]) -> t.Any:
    if isinstance(value, list):
        return [_rendered(item, variables) for item in value]
    return jinja2.Template(value).render(variables) if isinstance(value, str) and "{{" in value else value


@dataclass(frozen=True)
class Absence:
    """One time that a server was away: from its shutdown message to its ready message, in whole seconds."""

    host: str
    gone: datetime
    back: datetime | None


class Host:
    """One host of the scenario, reached with podman exec."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings = settings_of(name)
        self.words = words_of(name)
        self.container = f"{os.environ['LAB_PREFIX']}-{SCENARIO}-{self.settings.get('lab_container', name)}"
        self._host = testinfra.get_host(f"podman://{self.container}")

    @property
    def source(self) -> str:
        """The name of the host that it replicates from."""
        return str(self.settings.get("lab_source", "source"))

    @property
    def root(self) -> str:
        """Its root directory as this machine sees it."""
        command = ["podman", "inspect", "--format", "{{.State.Pid}}", self.container]
        pid = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        return f"/proc/{pid}/root"

    def run(self, command: str, *arguments: str) -> str:
        """Run a shell command and return what it printed; it has to succeed."""
        return str(self._host.check_output(command, *arguments))

    def sql(self, statement: str) -> str:
        """Run statements as root and return the values, tab separated."""
        return self.run(f"{self.words['lab_client']} --batch --skip-column-names --raw --execute %s", statement)

    def row(self, statement: str) -> dict[str, str]:
        """Return one row by column name, empty when there is none."""
        text = self.run(f"{self.words['lab_client']} --vertical --execute %s", statement)
        return dict(re.findall(r"^ *(\w+): ?(.*)$", text, re.MULTILINE))

    def replication(self) -> dict[str, str]:
        """Return the status of its one channel, in the words that MySQL uses today."""
        status = self.row(self.words["lab_show_replica"])
        return {name.replace("Master", "Source").replace("Slave", "Replica"): text for name, text in status.items()}

    @property
    def log(self) -> str:
        """Everything its server ever logged: in a file where it was told to, else in the journal."""
        file = self.sql("SELECT @@log_error").strip()
        if file.startswith("/"):
            return self.run("cat %s", file)
        return self.run("journalctl --unit=%s --output=cat --no-pager", self.words["lab_unit"])

    def absences(self) -> list[Absence]:
        """Return every orderly stop and the start after it."""
        found: list[Absence] = []
        for line in self.log.splitlines():
            if match := re.search(self.words["lab_stopping"], line):
                found.append(Absence(self.name, _when(*match.groups()), None))
            elif (match := re.search(self.words["lab_ready"], line)) and found and found[-1].back is None:
                found[-1] = Absence(self.name, found[-1].gone, _when(*match.groups()))
        return found

    def history(self) -> str:
        """Return the transactions that its data have seen, as global transaction identifiers."""
        return re.sub(r"\s", "", self.sql(self.words["lab_show_history"]))

    def checksums(self) -> dict[str, str]:
        """Return CHECKSUM TABLE of every table of the load."""
        tables = self.sql(
            "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables"
            " WHERE table_schema = 'lab' ORDER BY 1"
        ).split()
        assert tables, f"{self.name} has no table of the load"
        return dict(line.split("\t") for line in self.sql(f"CHECKSUM TABLE {', '.join(tables)}").splitlines())

    def wait_for_source_position(self, file: str, position: int, seconds: int = 60) -> None:
        """Wait until this replica has applied the source's binary log up to there."""
        waited = self.sql(f"SELECT {self.words['lab_wait']}('{file}', {position}, {seconds})").strip()
        assert waited.isdigit(), f"{self.name} did not reach {file}:{position}: {self.replication()}"


@dataclass(frozen=True)
class BackupSet:
    """One set on the controller."""

    directory: Path

    @cached_property
    def manifest(self) -> dict[str, t.Any]:
        return t.cast("dict[str, t.Any]", json.loads((self.directory / "manifest.json").read_text(encoding="utf-8")))

    @property
    def channel(self) -> dict[str, t.Any]:
        (channel,) = self.manifest["channels"]
        return t.cast("dict[str, t.Any]", channel)

    def lay_down(self, host: Host, *, without: Collection[str] = ()) -> None:
        """Extract the set on a host and put its places where they were, as the README says."""
        host.run("rm -rf /set /restore && mkdir -p /restore")
        subprocess.run(["podman", "cp", str(self.directory), f"{host.container}:/set"], check=True)
        host.run("cd /restore && zstd -q -dc /set/data.tar.zst | tar -x && sha256sum --quiet -c /set/SHA256SUMS")
        for place in self.manifest["places"]:
            if place["name"] not in without:
                host.run("mkdir -p %s && cp -a %s/. %s/", place["path"], f"/restore/{place['name']}", place["path"])


def assert_stands_where_recorded(host: Host, backup: BackupSet) -> None:
    """The only channel of the server is at rest at the coordinates of the manifest."""
    status, channel = host.replication(), backup.channel
    assert status["Replica_IO_Running"] == status["Replica_SQL_Running"] == "No"
    assert status["Relay_Source_Log_File"] == channel["source_log_file"]
    assert int(status["Exec_Source_Log_Pos"]) == int(channel["source_log_pos"])
    assert status["Relay_Log_File"] == channel["relay_log_file"]
    assert int(status["Relay_Log_Pos"]) == int(channel["relay_log_pos"])


def assert_started_without_recovery(host: Host, log: str) -> None:
    """The log of one start tells of neither errors nor a crash before."""
    assert re.search(host.words["lab_ready"], log)
    assert "crash recovery" not in log.lower()
    assert "[ERROR]" not in log


def log_of_this_start(host: Host) -> str:
    """What the running service logged since its start; servers that log to a file had it emptied before."""
    invocation = host.run("systemctl show --value --property=InvocationID %s", host.words["lab_unit"]).strip()
    log = host.run("journalctl --no-pager --output=cat _SYSTEMD_INVOCATION_ID=%s", invocation)
    return log + host.run("cat /var/log/mysql/error.log 2>/dev/null || true")


def _when(day: str, clock: str) -> datetime:
    return datetime.strptime(f"{day} {clock.zfill(8)}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
