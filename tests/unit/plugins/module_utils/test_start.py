# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a recovery says of other runs, and leaves of its own. With real servers it is in test_window."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _bringback, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._start import StartRequest, start


@pytest.fixture
def recovery(tmp_path: Path) -> StartRequest:
    """Of a server that does not answer."""
    state = tmp_path / "state"
    _ledger.prepare_state_dir(str(state))
    login = Login(user="root", unix_socket=str(tmp_path / "none.sock"), config_file=None, connect_timeout=1)
    return StartRequest(login=login, state_dir=str(state), recover=True, lock_timeout=0.1)


def said(request: StartRequest) -> str:
    return " ".join(start(request, check=True)["explanation"])


def stopped(request: StartRequest) -> Ledger:
    """The ledger of a run that has stopped its server."""
    datadir = Path(request.state_dir).parent / "data"
    datadir.mkdir()
    ledger = _ledger.open_new(
        request.state_dir,
        {
            "run_id": "r1",
            "backup_id": "20260101T000000Z",
            "host": "db1",
            "stop_requested": True,
            "spool_dir": str(datadir.parent),
            "server": {"datadir": str(datadir), "pid_file": None, "address": None},
        },
    )
    ledger.begin("capture")
    return ledger


@pytest.mark.parametrize("locked", [False, True])
def test_a_run_that_is_refused_for_another_tells_the_state_of_the_server(recovery: StartRequest, locked: bool) -> None:
    ledger = stopped(recovery)
    if locked:
        with _ledger.locked(recovery.state_dir, "replica_archive"), pytest.raises(RefusedError) as refused:
            start(recovery)
    else:
        with pytest.raises(RefusedError) as refused:
            start(recovery)
    assert refused.value.facts["rule"] == "lock"
    assert refused.value.facts["server_answers"] is False
    assert refused.value.server_state == "down: another run has stopped it"
    ledger.data["stop_requested"] = False
    ledger.save()
    with pytest.raises(RefusedError, match="it does not answer: down, or not at this address"):
        start(recovery)


def test_check_mode_foretells_a_run_that_may_be_alive(recovery: StartRequest) -> None:
    ledger = stopped(recovery)
    work = Path(recovery.state_dir).parent / "db1" / "20260101T000000Z"
    work.mkdir(parents=True)
    with _ledger.locked(recovery.state_dir, "replica_archive"):
        story = said(recovery)
        assert "A step is at work: replica_archive, pid " in story
        assert "would be waited for, 0.1 s at most" in story
        assert "would be removed" not in story
        assert "told to end" in said(replace(recovery, take_over=True))
    assert f"taken for alive until {ledger.data['lease']['until']}" in said(recovery)
    assert "would be removed" in said(replace(recovery, take_over=True))
    ledger.save(lease=0.0)
    assert "would be removed. The run would be finished." in said(recovery)


def test_a_recovery_that_fails_is_not_waited_for(recovery: StartRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(recovery).save(lease=0.0)

    def fail(*_arguments: object) -> None:
        raise ReplicaBackupError("The server does not come up")

    monkeypatch.setattr(_bringback, "bring_back", fail)
    with pytest.raises(ReplicaBackupError, match="does not come up"):
        start(recovery)
    left = _ledger.load(recovery.state_dir)
    assert left is not None
    assert left.step == "start"
    assert left.lease_left == 0.0
