# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts and the sets of the scenario that runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import FAMILY, REPLICAS, BackupSet, Host


@pytest.fixture(scope="session")
def hosts() -> dict[str, Host]:
    """Every host by name."""
    return {name: Host(name) for name in ("source", *REPLICAS, "restored")}


@pytest.fixture(scope="session")
def sets() -> dict[str, BackupSet]:
    """The one set of each replica; more or fewer than one is an error of every test that asks."""
    root = Path(os.environ["LAB_SCRATCH"]) / "backups"
    found = {name: [entry for entry in (root / name).iterdir() if entry.is_dir()] for name in REPLICAS}
    assert {name: len(entries) for name, entries in found.items()} == dict.fromkeys(REPLICAS, 1)
    return {name: BackupSet(entries[0]) for name, entries in found.items()}


@pytest.fixture(scope="session")
def quiet(hosts: dict[str, Host]) -> tuple[str, int]:
    """Stop the load; return how far the source's binary log goes for good."""
    source = hosts["source"]
    source.run("systemctl stop lab-load")
    tally = json.loads(source.run("cat /var/tmp/lab-load.json"))
    assert tally["errors"] == 0
    assert int(source.sql("SELECT COUNT(*) FROM lab.journal")) == tally["committed"] > 0
    status = source.row(FAMILY["lab_show_source"])
    return status["File"], int(status["Position"])
