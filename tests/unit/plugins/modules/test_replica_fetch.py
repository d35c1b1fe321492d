# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a run is held to be alive while its set is on the way to the controller, and afterwards."""

from __future__ import annotations

import json
import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger
from ansible_collections.mysql_ops.replica_backup.plugins.modules import replica_fetch

BACKUP_ID = "20260101T000000Z"


@pytest.fixture
def options(tmp_path: Path) -> dict[str, t.Any]:
    """A run that has stopped its server and captured a set, as options of the module."""
    paths = SetPaths(str(tmp_path / "spool"), "db1", BACKUP_ID)
    Path(paths.work).mkdir(parents=True, mode=0o700)
    Path(paths.directory, "data.tar").write_bytes(b"x" * 4096)
    part = {"name": "data.tar", "bytes": 4096, "sha256": "0" * 64, "format": "tar", "compression": "none"}
    Path(paths.head).write_text(json.dumps({"parts": [part]}), encoding="ascii")
    Path(paths.sums).write_text("", encoding="ascii")
    state = str(tmp_path / "state")
    _ledger.prepare_state_dir(state)
    ledger = _ledger.open_new(
        state,
        {
            "run_id": "r1",
            "backup_id": BACKUP_ID,
            "host": "db1",
            "deadman": {"deadline_mono": time.monotonic() + 3000},
        },
    )
    ledger.begin("stopped")
    ledger.begin("capture")
    return {"spool_dir": paths.root, "state_dir": state, "host": "db1", "backup_id": BACKUP_ID}


def ask(options: dict[str, t.Any], request: dict[str, t.Any]) -> Ledger:
    replica_fetch.answer({**options, "request": request})
    ledger = _ledger.load(options["state_dir"])
    assert ledger is not None
    return ledger


OFFER = {"ask": "offer", "login_uid": 0, "worse_than": ""}


def test_a_server_that_waits_for_the_transfer_is_left_down_until_the_deadline(options: dict[str, t.Any]) -> None:
    ledger = ask(options, OFFER)
    assert 2900 < ledger.lease_left <= 3000
    # The set has arrived, or not: now the next step is awaited, which takes no longer than between any two.
    assert 80 < ask(options, {"ask": "release"}).lease_left <= 90
    ledger.data["gap_seconds"] = 2000.0
    ledger.save(lease=3000.0)
    assert 1900 < ask(options, {"ask": "release"}).lease_left <= 2000


def test_a_look_at_the_set_changes_no_lease(options: dict[str, t.Any]) -> None:
    assert ask(options, {**OFFER, "look": True}).lease_left <= 90


def test_while_the_server_serves_the_lease_is_as_long_as_a_slow_transfer(options: dict[str, t.Any]) -> None:
    ledger = _ledger.load(options["state_dir"])
    assert ledger is not None
    ledger.begin("serving")
    assert 290 < ask(options, OFFER).lease_left <= 301
    assert ask(options, {"ask": "release"}).lease_left > 290, "nobody is waited for; the rest of the run follows"
