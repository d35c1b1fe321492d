# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real processes that hold files and locks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils.real_process import Spawn


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    children: list[subprocess.Popen[bytes]] = []

    def start(*argv: str | Path, **arguments: object) -> subprocess.Popen[bytes]:
        child = subprocess.Popen([str(word) for word in argv], **arguments)  # type: ignore[call-overload]
        children.append(child)
        return child  # type: ignore[no-any-return]

    yield start
    for child in children:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


HOLDER = """
import fcntl, os, sys, time
handle = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(handle, fcntl.LOCK_EX)
print(flush=True)
time.sleep(600)
"""


@pytest.fixture
def lock(spawn: Spawn) -> Callable[[Path], int]:
    """Give a process that holds a POSIX lock on a file, as servers do on theirs."""

    def take(path: Path) -> int:
        child = spawn(sys.executable, "-c", HOLDER, path, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        return child.pid

    return take


OPENER = """
import os, sys, time
kept = open(sys.argv[1] + "/kept", "w"), open(sys.argv[1] + "/read"), open(sys.argv[1] + "/gone", "w")
os.unlink(sys.argv[1] + "/gone")
pipe = os.pipe()
print(flush=True)
time.sleep(600)
"""


@pytest.fixture
def opener(spawn: Spawn, tmp_path: Path) -> ServerProcess:
    (tmp_path / "read").write_text("")
    child = spawn(sys.executable, "-c", OPENER, tmp_path, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    process = _server.read_process(child.pid)
    assert process is not None
    return process
