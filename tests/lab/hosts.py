# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of a molecule scenario, their sets on the controller, and what their servers logged."""

from __future__ import annotations

import json
import os
import re
import typing as t
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path

import testinfra

REPLICAS = ("replica1", "replica2", "replica3")
_STOPPING = re.compile(r"(\d{4}-\d\d-\d\d +\d?\d:\d\d:\d\d) .*\(initiated by: .*Normal shutdown")
_READY = re.compile(r"(\d{4}-\d\d-\d\d +\d?\d:\d\d:\d\d) .*ready for connections")


@dataclass(frozen=True)
class Absence:
    """One time that a server was away: from its shutdown message to its ready message, in whole seconds."""

    host: str
    gone: datetime
    back: datetime | None


class Host:
    """One host of the scenario, reached with podman exec."""

    def __init__(self, name: str, scenario: str = "default") -> None:
        self.name = name
        self.container = f"{os.environ['LAB_PREFIX']}-{scenario}-{name}"
        self._host = testinfra.get_host(f"podman://{self.container}")

    def run(self, command: str, *arguments: str) -> str:
        """Run a shell command and return what it printed; it has to succeed."""
        return str(self._host.check_output(command, *arguments))

    def sql(self, statement: str) -> str:
        """Run statements as root and return the values, tab separated."""
        return self.run("mariadb --batch --skip-column-names --raw --execute %s", statement)

    def row(self, statement: str) -> dict[str, str]:
        """Return one row by column name, empty when there is none."""
        text = self.run("mariadb --vertical --execute %s", statement)
        return dict(re.findall(r"^ *(\w+): ?(.*)$", text, re.MULTILINE))

    @property
    def log(self) -> str:
        """Everything its server ever logged: in a file where it was told to, else in the journal."""
        if self.name == "replica3":
            return self.run("cat /var/log/mysql/error.log")
        return self.run("journalctl --unit=mariadb --output=cat --no-pager")

    def absences(self) -> list[Absence]:
        """Return every orderly stop and the start after it."""
        found: list[Absence] = []
        for line in self.log.splitlines():
            if match := _STOPPING.search(line):
                found.append(Absence(self.name, _when(match[1]), None))
            elif (match := _READY.search(line)) and found and found[-1].back is None:
                found[-1] = Absence(self.name, found[-1].gone, _when(match[1]))
        return found

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
        waited = self.sql(f"SELECT MASTER_POS_WAIT('{file}', {position}, {seconds})").strip()
        assert waited.isdigit(), f"{self.name} did not reach {file}:{position}: {self.row('SHOW SLAVE STATUS')}"


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


def _when(text: str) -> datetime:
    day, clock = text.split()
    return datetime.strptime(f"{day} {clock.zfill(8)}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
