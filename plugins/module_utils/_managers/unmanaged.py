# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server under mysqld_safe, or one that was started by hand (kind ``none``)."""

from __future__ import annotations

import os
import re
import shlex
import time
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers import by_hand, launch
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.interface import (
    Found,
    ServiceManager,
    Stopped,
    refuse,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.launch import Launch
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess


@dataclass
class Unmanaged(by_hand.ByHand):
    """``launch`` starts mysqld_safe, or the server itself."""

    kind: str
    launch: Launch
    _started: int | None = field(default=None, compare=False, repr=False)
    _ended_at: float | None = field(default=None, compare=False, repr=False)

    @property
    def start_command(self) -> str:
        return shlex.join(self.launch.argv)

    @property
    def keeps_options(self) -> bool:
        # The one that a start of ours brings up is nobody's guardian yet.
        return super().keeps_options or self.kind == "mysqld_safe"

    @property
    def stops_by_sql(self) -> bool:
        return True

    def request_stop(self) -> bool:
        return False

    def start(self, options: t.Sequence[str] = (), *, must: bool = False) -> None:
        if self._is_running():
            return
        if self.guardian is not None:
            # Two of them over one data directory would fight.
            _server.wait_gone(self.guardian, 30, poll=by_hand.POLL)
        self._started, self._complaint = launch.spawn(self.launch, options, self._output, scope=True)

    def failure(self) -> str | None:
        if self._started is None or _server.read_process(self._started) is not None:
            return None
        self._ended_at = self._ended_at or time.monotonic()
        if not self._given_up(self._ended_at):
            return None
        said = by_hand.last_lines(self.launch.output or self._output)
        return f"'{shlex.join(self.launch.argv)}' ended by itself{said}"

    def status(self) -> str:
        return self._status_of(f"{self.kind} server")


def find_mysqld_safe(found: Found, *, required: bool) -> ServiceManager | None:
    """The mysqld_safe above the server; ``None`` when there is none and none is ``required``."""
    guardian = by_hand.guardian_of(found.process)
    if guardian is None and not (required and found.name):
        if required:
            raise refuse(
                "The server was not started by mysqld_safe",
                found=f"process {found.process.pid} has no such ancestor",
                expected="mysqld_safe or mariadbd-safe, or its command line in replica_backup_service_name",
            )
        return None
    if found.name and (required or " " in found.name or "/" in found.name):
        start = launch.of_command(found.name)
    else:
        start = _again(found, t.cast(ServerProcess, guardian))
    return _unmanaged(found, "mysqld_safe", start, guardian)


def find_none(found: Found) -> ServiceManager:
    """The server as whoever started it by hand: always possible, or refused."""
    start = launch.of_command(found.name) if found.name else _again(found, found.process)
    return _unmanaged(found, "none", start, None)


def of_stopped(server: Stopped, *, kind: str) -> ServiceManager:
    """A server that is down, started by the command ``server.service``, or by its own command line without one."""
    start = launch.of_command(server.service) if server.service else launch.of_installed(server)
    return _unmanaged(server, kind, start, None)


def _unmanaged(found: Found | Stopped, kind: str, start: Launch, guardian: ServerProcess | None) -> ServiceManager:
    return Unmanaged(
        kind=kind,
        name=shlex.join(start.argv),
        launch=start,
        takes_options=True,
        state_dir=found.state_dir,
        datadir=found.datadir,
        pid_file=found.pid_file,
        guardian=guardian,
        warnings=(),
    )


def _again(found: Found, process: ServerProcess) -> Launch:
    """How to start the process once more; refuses when that would not give the same server."""
    if os.geteuid() not in (0, process.uid):
        raise refuse(
            "The server belongs to another user and could not be started again",
            found=f"user id {process.uid} (we are {os.geteuid()})",
            expected="root or the user of the server",
            next_command="run the play with become: true",
        )
    start = launch.of_process(process, process.cwd or found.datadir)
    # What an earlier start of ours added is not part of how the server is started.
    start = replace(start, argv=tuple(word for word in start.argv if word not in found.own_options))
    # The server has left the directory it was started in; its shell's is still in its environment.
    started_in = re.search(r"(?:\A|\0)PWD=([^\0]+)", _server.proc_text(process.pid, "environ"))
    directories = [start.cwd] + ([started_in.group(1)] if started_in else [])
    fitting = [directory for directory in directories if _resolves(start, directory, found.datadir)]
    if not start.executable or not os.access(start.executable, os.X_OK) or not fitting:
        raise refuse(
            "The command that started the server cannot be repeated",
            found=f"{shlex.join(start.argv)} in {start.cwd}",
            expected="an executable that is still there and paths that still resolve",
            next_command="set replica_backup_service_name to a full start command",
        )
    return replace(start, cwd=fitting[0])


def _resolves(launch: Launch, directory: str, datadir: str) -> bool:
    """Whether the relative paths among the arguments mean the same again when started in ``directory``."""
    if not os.path.isdir(directory):
        return False
    if not launch.executable.startswith("/"):
        return False
    for word in launch.argv[1:]:
        key, _equals, value = word.partition("=")
        if key in ("--defaults-file", "--defaults-extra-file", "--basedir", "--datadir") and value:
            path = os.path.join(directory, value)
            if not os.path.exists(path):
                return False
            if key == "--datadir" and os.path.realpath(path) != os.path.realpath(datadir):
                return False
        elif not word.startswith("-") and "/" in word and not os.path.exists(os.path.join(directory, word)):
            # The script's own name, as in: sh ./bin/mysqld_safe
            return False
    return True
