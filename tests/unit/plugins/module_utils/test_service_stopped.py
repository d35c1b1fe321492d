# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service manager of a server that is down: found from how this host would start it, and with real servers."""

from __future__ import annotations

import os
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server, _service
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.interface import ServiceManager
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils.real_server import (
    SERVER,
    RealServer,
    needs_server,
    template_datadir,
)

SKIP = "--skip-slave_start"


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    with template_datadir() as path:
        yield path


@pytest.fixture
def server(template: Path) -> Iterator[RealServer]:
    made = RealServer(template)
    try:
        yield made
    finally:
        made.close()


def of_stopped(server: RealServer, **changes: t.Any) -> ServiceManager:
    # As root the account is that of the data directory, and no option says so.
    words = [word for word in server.arguments() if not word.startswith("--user=")]
    facts: dict[str, t.Any] = {
        "start": {"exe": SERVER, "argv": [SERVER, *words], "environment": {"HOME": "/nowhere"}, "service": ""},
        "requested": "auto",
        "name": None,
        "datadir": str(server.datadir),
        "pid_file": str(server.pid_file),
        "own_options": (SKIP,),
        "state_dir": str(server.base),
    }
    return _service.of_stopped(**{**facts, **changes})


def processes(server: RealServer) -> list[str]:
    found = _server.find_process(datadir=str(server.datadir), pid_file=str(server.pid_file))
    return [] if found is None else list(found.argv)


@needs_server
def test_a_server_without_a_service_is_started_by_its_own_command(server: RealServer) -> None:
    manager = of_stopped(server)
    assert (manager.kind, manager.takes_options, manager.keeps_options) == ("none", True, False)
    # It survives the process that found it.
    again = _service.from_dict(manager.to_dict())
    again.start([SKIP], must=True)
    server.wait_ready()
    words = processes(server)
    assert words[-1] == SKIP
    process = _server.find_process(datadir=str(server.datadir))
    assert process is not None
    assert process.uid == server.datadir.stat().st_uid
    server.shutdown()


@needs_server
@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"requested": "launchd"}, "not known"),
        ({"requested": "mysqld_safe"}, "no mysqld_safe service"),
        ({"requested": "systemd"}, "no systemd service"),
        ({"name": "/no/such/program --option"}, "cannot be run"),
        ({"datadir": "/no/such/directory"}, "cannot be seen"),
        ({"name": "/etc/init.d/no-such-script"}, "not known to manage"),
    ],
)
def test_refused(server: RealServer, changes: dict[str, t.Any], word: str) -> None:
    with pytest.raises(RefusedError, match=word) as refused:
        of_stopped(server, **changes)
    assert refused.value.facts["rule"] == "service_manager"
    assert not processes(server)


@needs_server
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has other users' data before it")
def test_the_server_of_another_user_is_refused(server: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(RefusedError, match="belongs to another user"):
        of_stopped(server)
