# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that a script in /etc/init.d starts and stops."""

from __future__ import annotations

import os
import shutil
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers import (
    by_hand,
    commands,
    init_script,
    launch,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.interface import (
    Found,
    ServiceManager,
    Stopped,
    refuse,
    refuse_stopped,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.launch import Launch
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess

_SCRIPT_DIRECTORY = "/etc/init.d"
_SCRIPT_NAMES = ("mariadb", "mysql", "mysqld")
_SCRIPT_TIMEOUT = 120.0


@dataclass
class SysVinit(by_hand.ByHand):
    """Scripts that kill by name or with SIGKILL when their own shutdown fails are not used for the stop.

    They hit other servers of the host as well. The server then gets SQL SHUTDOWN, which is what such a script sends.
    """

    safe_stop: bool
    kind: str = "sysvinit"
    _ended_at: float | None = field(default=None, compare=False, repr=False)

    @property
    def start_command(self) -> str:
        return f"{self.name} start"

    @property
    def stops_by_sql(self) -> bool:
        return not self.safe_stop

    def request_stop(self) -> bool:
        if self.stops_by_sql:
            return False
        launch.spawn(self._launch("stop"), [], self._output)
        return True

    def start(self, options: t.Sequence[str] = (), *, must: bool = False) -> None:
        if self._is_running():
            return
        if options and not self.takes_options:
            raise ReplicaBackupError(
                f"{self.name} does not hand options on to the server",
                found=f"no use of its arguments in {self.name}",
                expected=f"that '{self.name} start {' '.join(options)}' reaches the server",
                server_state="stopped",
                next_command=f"{self.name} start",
            )
        pid, self._complaint = launch.spawn(self._launch("start"), options, self._output, scope=True)
        # The script is done when the server answers or has failed; a server slower than that is waited for elsewhere.
        limit = time.monotonic() + _SCRIPT_TIMEOUT
        while _server.read_process(pid) is not None and time.monotonic() < limit:
            if self._is_running():
                break
            time.sleep(by_hand.POLL)
        self._ended_at = time.monotonic()

    def failure(self) -> str | None:
        if self._ended_at is None or not self._given_up(self._ended_at):
            return None
        return f"'{self.name} start' brought up no server{by_hand.last_lines(self._output)}"

    def status(self) -> str:
        return self._status_of(f"init script {self.name}: server")

    def _launch(self, action: str) -> Launch:
        # The same bare environment that service(8) gives.
        return Launch(
            argv=(self.name, action),
            executable=self.name,
            cwd="/",
            uid=os.geteuid(),
            gid=os.getegid(),
            environment=tuple(sorted({**commands.environment(), "TERM": "dumb"}.items())),
        )


def find(found: Found, *, required: bool) -> ServiceManager | None:
    """The init script of the server; ``None`` when there is none and none is ``required``."""
    guardian = by_hand.guardian_of(found.process)
    names = [found.name] if found.name and (required or "/" in found.name) else list(_SCRIPT_NAMES)
    scripts = [os.path.join(_SCRIPT_DIRECTORY, name) for name in names]
    script = next((path for path in scripts if _script_owns(path, found.process, guardian, found.datadir)), None)
    if script is None or os.geteuid() != 0:
        if required:
            raise refuse(
                "No init script is known to manage this server",
                found=f"{', '.join(scripts)} for {found.datadir}, as user id {os.geteuid()}",
                expected="a script whose status is 0 and whose data directory is this one, and root",
            )
        return None
    warnings = []
    gentle = init_script.stops_gently(script)
    if not gentle:
        warnings.append(f"{script} kills servers by force when its stop is slow: SQL SHUTDOWN is used instead")
    hands_on = init_script.hands_on(script)
    if not hands_on:
        warnings.append(f"{script} does not hand {found.own_options[0]} on to the server")
    return SysVinit(
        name=script,
        takes_options=hands_on,
        state_dir=found.state_dir,
        datadir=found.datadir,
        pid_file=found.pid_file,
        safe_stop=gentle,
        guardian=guardian,
        warnings=tuple(warnings),
    )


def of_stopped(server: Stopped) -> ServiceManager:
    """The init script ``server.service`` of a server that is down. Raises RefusedError when it is another server's."""
    script = server.service
    datadirs = init_script.default_datadirs(script, server.exe)
    real = os.path.realpath(server.datadir)
    if os.geteuid() != 0 or not os.access(script, os.X_OK) or not any(os.path.realpath(p) == real for p in datadirs):
        raise refuse_stopped(
            f"{script} is not known to manage this server",
            found=f"data directories {', '.join(datadirs)}, as user id {os.geteuid()}",
            expected=f"a script whose data directory is {server.datadir}, and root",
        )
    gentle, hands_on = init_script.stops_gently(script), init_script.hands_on(script)
    return SysVinit(
        name=script,
        takes_options=hands_on,
        state_dir=server.state_dir,
        datadir=server.datadir,
        pid_file=server.pid_file,
        safe_stop=gentle,
        guardian=None,
        warnings=() if hands_on else (f"{script} does not hand {server.own_options[0]} on to the server",),
    )


def _script_owns(script: str, process: ServerProcess, guardian: ServerProcess | None, datadir: str) -> bool:
    """Whether the script manages exactly this server and not another one of the host."""
    if not os.access(script, os.X_OK):
        return False
    argv = (guardian or process).argv
    special = [word for word in argv if word.startswith(("--defaults-", "--no-defaults"))]
    text = init_script.text(script)
    if any((word.partition("=")[2] or word) not in text for word in special):
        return False
    server = process.exe or next((path for path in (shutil.which("mariadbd"), shutil.which("mysqld")) if path), "")
    if not server:
        return False
    real = os.path.realpath(datadir)
    if not any(os.path.realpath(name) == real for name in init_script.default_datadirs(script, server)):
        return False
    return commands.run([script, "status"]).returncode == 0
