# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore that is killed after it has stopped the server: its own files are in place, so the host starts it again."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import time
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import job, journal, sentry
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import LocalFeed
from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import Faults, LocalReplica, faults
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

__all__ = ["faults"]


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with Topology(lab_root(), replicas=1) as made:
        made.wait_caught_up()
        yield made


@pytest.fixture(scope="module")
def directory(topology: Topology) -> Path:
    """A set of the replica, as it was before these tests."""
    window = Window(topology.replicas[0], topology.root / "window")
    window.root.mkdir()
    window.stop()
    window.archive()
    window.start()
    return Path(window.paths.directory)


@pytest.fixture
def server(topology: Topology, directory: Path) -> Iterator[Server]:
    replica = topology.replicas[0]
    yield replica
    if not replica.is_running():
        replica.start()
    shutil.rmtree(replica.directory / "state", ignore_errors=True)


def restore(server: Server, directory: Path, **changes: t.Any) -> dict[str, t.Any]:
    made = job.Request(
        state_dir=str(server.directory / "state"),
        hints=Hints(defaults_file=str(server.config), server_binary=str(server.flavor.server)),
        force=True,
    )
    return job.restore(dataclasses.replace(made, **changes), LocalFeed(str(directory)))


def killed(server: Server, directory: Path, where: str) -> None:
    """A restore in a process of its own that kills itself with SIGKILL right before this step."""
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        return

    def die(*_arguments: t.Any) -> t.NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    try:
        if where == "the end of the shutdown":
            job._server.wait_gone = die  # type: ignore[attr-defined]
        elif where == "the exchange is noted":
            real = journal.Journal.advance
            journal.Journal.advance = lambda self, phase: (  # type: ignore[method-assign]
                die() if phase == "switching" else real(self, phase)
            )
        else:
            job.switch = die  # type: ignore[attr-defined, assignment]
        restore(server, directory)
    finally:
        os._exit(1)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def told(server: Server) -> str:
    record = server.directory / "state" / "restore.sentry.json"
    return str(json.loads(record.read_text())["outcome"]) if record.exists() else ""


@pytest.mark.parametrize("where", ["the end of the shutdown", "the exchange is noted"])
def test_a_server_that_was_stopped_comes_back_on_its_own_files(
    topology: Topology, server: Server, directory: Path, faults: Faults, where: str
) -> None:
    subject = LocalReplica(topology, server, (directory.parent,))
    before, pids, files = subject.state(), server.pids(), server.datadir.stat().st_ino
    killed(server, directory, where)
    wait_for(lambda: told(server) == "server started")
    server.wait_ready()
    assert server.pids() != pids
    assert server.datadir.stat().st_ino == files
    state = str(server.directory / "state")
    assert "server started again on its own files" in str(sentry.in_words(state))
    going = journal.load(state)
    assert going is not None and going.phase == "staged"
    faults.settle(f"restore killed before {where}", subject, before)
    # The same command again: what was laid down goes, and it begins anew. Refused, nothing of the first one stays.
    with pytest.raises(RefusedError, match="A server is running"):
        restore(server, directory, force=False)
    assert journal.load(state) is None
    assert sentry.in_words(state) is None
    assert not list(server.datadir.parent.glob("*.restoring-*"))


def test_where_the_host_went_down_the_next_run_starts_it(
    topology: Topology, server: Server, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted_only(record: journal.Journal, manager: t.Any, process: t.Any, datadir: str, _seconds: float) -> None:
        record.work["stopping"] = {
            "manager": manager.to_dict(),
            "pid": process.pid,
            "start_ticks": process.start_ticks,
            "datadir": datadir,
            "seconds": 1.0,
        }
        record.write()

    monkeypatch.setattr(sentry, "post", noted_only)
    killed(server, directory, "the exchange is noted")
    monkeypatch.undo()
    assert not server.is_running()
    with pytest.raises(RefusedError, match="A server is running"):
        restore(server, directory, force=False)
    server.wait_ready()
    topology.wait_caught_up()
    assert topology.differences(server) == {}


def test_a_half_exchanged_server_is_never_started(topology: Topology, server: Server, directory: Path) -> None:
    killed(server, directory, "the first exchange")
    # It goes away by itself, having done nothing.
    wait_for(lambda: not told(server))
    assert not server.is_running()
    going = journal.load(str(server.directory / "state"))
    assert going is not None and going.phase == "switching"
    assert restore(server, directory)["phase"] == "laid"
    assert not server.is_running()
    server.start()
    topology.wait_caught_up()
    assert topology.differences(server) == {}
