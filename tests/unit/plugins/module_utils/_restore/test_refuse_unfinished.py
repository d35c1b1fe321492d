# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""While a restore is not finished, no backup and no recovery stops or starts the server, and none is even asked."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _start, _stop
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import journal, sentry
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.journal import PHASES, Journal
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._start import StartRequest
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._stop import StopRequest

NOBODY = Login(user="root", unix_socket="/nonexistent/socket", config_file=None)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


def begun(state: Path, phase: str) -> Journal:
    record = Journal(str(state), "20260101T000000Z-1", "db1/20260101T000000Z", "same", {}, {}, phase=phase)
    record.write()
    return record


def calls(state: Path) -> dict[str, t.Callable[[], t.Any]]:
    paths = SetPaths(str(state.parent / "spool"), "db1", "20260101T000000Z")
    stop = StopRequest(login=NOBODY, paths=paths, state_dir=str(state), run_id="run-1")

    def start(**changes: t.Any) -> StartRequest:
        return StartRequest(login=NOBODY, state_dir=str(state), **changes)

    return {
        "stop": lambda: _stop.stop(stop),
        "stop in check mode": lambda: _stop.stop(stop, check=True),
        "start": lambda: _start.start(start()),
        "start in check mode": lambda: _start.start(start(), check=True),
        "recover": lambda: _start.start(start(recover=True)),
        "take over": lambda: _start.start(start(recover=True, take_over=True)),
        "close": lambda: _start.start(start(run_id="run-1", close=True)),
    }


@pytest.mark.parametrize("call", ["stop", "stop in check mode", "start", "start in check mode", "recover", "take over"])
@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "done"])
def test_an_unfinished_restore_is_in_the_way_of_everything(state: Path, phase: str, call: str) -> None:
    begun(state, phase)
    before = sorted(path.name for path in state.iterdir())
    with pytest.raises(RefusedError) as refused:
        calls(state)[call]()
    assert refused.value.facts["rule"] == "restore"
    assert f"phase {phase}" in str(refused.value.found)
    assert "restore playbook" in str(refused.value.next_command)
    assert sorted(path.name for path in state.iterdir()) == before
    assert not (state.parent / "spool").exists()


def test_one_that_began_while_the_lock_was_waited_for_counts(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a race makes this, so the first look finds nothing."""
    begun(state, "staging")
    real = journal.refuse_unfinished
    looks: list[str] = []

    def refuse(path: str) -> None:
        looks.append(path)
        if len(looks) > 1:
            real(path)

    monkeypatch.setattr(journal, "refuse_unfinished", refuse)
    with pytest.raises(RefusedError) as refused:
        calls(state)["stop"]()
    assert refused.value.facts["rule"] == "restore"


def test_a_record_that_cannot_be_read_is_in_the_way_too(state: Path) -> None:
    (state / "restore.json").write_text("{", encoding="utf-8")
    for call in calls(state).values():
        with pytest.raises(ReplicaBackupError, match=r"restore\.json cannot be read"):
            call()


def test_a_finished_one_is_not(state: Path) -> None:
    begun(state, "serving").finish()
    assert journal.load(str(state)) is None
    assert (state / "restore.last.json").exists()
    assert calls(state)["start in check mode"]()["changed"] is False


def test_a_record_that_cannot_be_read_is_not_the_end_of_a_restore(tmp_path: Path) -> None:
    """Whoever stands by looks again; only without any record is there nothing to start."""
    record = Path(journal.journal_path(str(tmp_path)))
    record.write_text("{")
    assert sentry._look(str(tmp_path), "r1") is None
    assert sentry._journal_seconds(str(tmp_path)) > 0
    record.unlink()
    assert sentry._look(str(tmp_path), "r1") == 0
