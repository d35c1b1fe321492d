# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fixtures of every molecule scenario: its hosts and its sets. A scenario's conftest.py imports them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import BARE, REPLICAS, SOURCES, BackupSet, Host

__all__ = ["hosts", "quiet", "sets"]


@pytest.fixture(scope="session")
def hosts() -> dict[str, Host]:
    """Every host by name."""
    return {name: Host(name) for name in SOURCES + REPLICAS + BARE}


@pytest.fixture(scope="session")
def sets() -> dict[str, BackupSet]:
    """The one set of each replica; more or fewer than one is an error of every test that asks."""
    root = Path(os.environ["LAB_SCRATCH"]) / "backups"
    found = {name: [entry for entry in (root / name).iterdir() if entry.is_dir()] for name in REPLICAS}
    assert {name: len(entries) for name, entries in found.items()} == dict.fromkeys(REPLICAS, 1)
    return {name: BackupSet(entries[0]) for name, entries in found.items()}


@pytest.fixture(scope="session")
def quiet(hosts: dict[str, Host]) -> Mapping[str, tuple[str, int]]:
    """Stop the loads; return how far each source's binary log goes for good."""
    return {name: _still(hosts[name]) for name in SOURCES}


def _still(source: Host) -> tuple[str, int]:
    source.run("systemctl stop lab-load")
    tally = json.loads(source.run("cat /var/tmp/lab-load.json"))
    assert tally["errors"] == 0
    assert int(source.sql("SELECT COUNT(*) FROM lab.journal")) == tally["committed"] > 0
    status = source.row(source.words["lab_show_source"])
    return status["File"], int(status["Position"])
