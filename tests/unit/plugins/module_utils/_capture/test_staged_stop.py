# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy before the stop may take hours: what becomes of the server meanwhile is not undone, and is judged anew."""

from __future__ import annotations

import errno
import os
import typing as t
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import cleanup, staged, stores
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window


@pytest.fixture
def server() -> Iterator[Server]:
    with Topology(CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8], replicas=1) as topology:
        yield topology.replicas[0]


def promote(server: Server) -> None:
    for statement in ("STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = 0"):
        server.query(statement)


def restart(server: Server) -> None:
    server.stop()
    server.start()


@pytest.mark.parametrize(
    ("meanwhile", "then", "words"),
    [
        (promote, False, "rule 'replica'"),
        (promote, True, "the copy has failed"),
        (restart, False, "started anew while its files were copied"),
        (Server.stop, False, "a running replica"),
    ],
    ids=["promoted", "promoted, and the copy fails", "restarted", "stopped"],
)
def test_a_server_that_was_changed_during_the_copy_is_left_as_it_is(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: Callable[[Server], None],
    then: bool,
    words: str,
) -> None:
    window = Window(server, tmp_path)
    real = staged.precopy

    def precopy(*arguments: t.Any, **named: t.Any) -> staged.Precopied:
        copied = real(*arguments, **named)
        meanwhile(server)
        if then:
            raise ReplicaBackupError("the copy has failed")
        return copied

    monkeypatch.setattr(staged, "precopy", precopy)
    with pytest.raises(ReplicaBackupError, match=words) as caught:
        window.stop(capture="staged")
    assert "not touched by this run" in str(caught.value)
    stopped = meanwhile == Server.stop
    assert server.is_running() is not stopped
    assert caught.value.facts["server_restored"] is not stopped
    assert ("does not answer" in str(caught.value.server_state)) is stopped
    if meanwhile is promote:
        assert server.query("SHOW ALL SLAVES STATUS") == []
        assert server.query("SELECT @@read_only AS r") == [{"r": 0}]
    assert _ledger.load(window.state) is None
    assert not os.path.exists(stores.in_spool(window.paths))


def test_a_copy_that_cannot_be_removed_is_told_and_removed_by_recovery(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = Window(server, tmp_path)
    real = staged.precopy

    def precopy(*arguments: t.Any, **named: t.Any) -> t.NoReturn:
        real(*arguments, **named)
        raise ReplicaBackupError("the copy has failed")

    def fail(_path: str) -> t.NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(staged, "precopy", precopy)
        patch.setattr(cleanup, "remove_tree", fail)
        with pytest.raises(ReplicaBackupError, match="the copy has failed") as caught:
            window.stop(capture="staged")
    assert "could not be removed" in str(caught.value.next_command)
    assert "mysql_ops.replica_backup.recover" in str(caught.value.next_command)
    ledger = _ledger.load(window.state)
    assert ledger is not None
    assert cleanup.found(ledger)
    window.start(recover=True, run_id=None, take_over=True, close=False)
    assert cleanup.found(ledger) == []
    assert _ledger.load(window.state) is None
    assert server.is_running()
