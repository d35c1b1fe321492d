# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What servers outside systemd have in common: nobody but a guardian (mysqld_safe) watches over them."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.interface import OnPoll, Recorded
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess

POLL = 0.2
# A server that has just been executed is not yet in its data directory and so not yet recognised.
_GRACE = 10.0
OUTPUT_NAME = "service-output.log"


@dataclass
class ByHand(Recorded):
    """A server known by its data directory. ``guardian`` is the mysqld_safe above it."""

    name: str
    takes_options: bool
    state_dir: str
    datadir: str
    pid_file: str | None
    guardian: ServerProcess | None
    warnings: tuple[str, ...]
    # Of the start that this object asked for; no field of the record.
    _complaint = ""

    @property
    def keeps_options(self) -> bool:
        return self.guardian is not None

    def hold(self) -> list[str]:
        return []

    def wait_stopped(self, timeout: float, on_poll: OnPoll = None) -> float:
        """Wait until the guardian has ended, watching that no new server comes up."""
        guardian = self.guardian
        begin = time.monotonic()
        while True:
            server = _server.find_process(datadir=self.datadir, pid_file=self.pid_file)
            waited = time.monotonic() - begin
            if server is not None:
                raise ReplicaBackupError(
                    "The server was started again while the backup needs it stopped",
                    found=f"process {server.pid} on {self.datadir}",
                    expected=f"no server on {self.datadir}",
                    server_state=f"running again, pid {server.pid}",
                )
            if guardian is None or not _server.is_alive(guardian):
                return waited
            if on_poll is not None:
                on_poll(waited)
            if waited >= timeout:
                raise ReplicaBackupError(
                    "The process that watches over the server has not ended after it",
                    found=f"process {guardian.pid} ({shlex.join(guardian.argv)}) alive after {waited:.0f} s",
                    expected=f"its end within {timeout:.0f} s",
                    server_state="stopped, but its guardian may start it again",
                )
            time.sleep(POLL)

    def after_start(self) -> list[str]:
        complaint, self._complaint = self._complaint, ""
        if not complaint:
            return []
        return [f"The server could not be taken out of the session that started it and may end with it: {complaint}"]

    def release(self) -> list[str]:
        return []

    def _is_running(self) -> bool:
        try:
            return _server.find_process(datadir=self.datadir, pid_file=self.pid_file) is not None
        except ReplicaBackupError:
            # Cannot be told. The server's own locks keep a second one out, so a start does no harm.
            return False

    def _given_up(self, ended_at: float) -> bool:
        """Whether the start command has been over for long enough without a server to be seen."""
        return not self._is_running() and time.monotonic() - ended_at >= _GRACE

    def _status_of(self, what: str) -> str:
        try:
            server = _server.find_process(datadir=self.datadir, pid_file=self.pid_file)
        except ReplicaBackupError as error:
            return f"{what} on {self.datadir}: {error.message}"
        return f"{what} on {self.datadir} " + (f"runs as process {server.pid}" if server else "is not running")

    @property
    def _output(self) -> str:
        """Where the output of commands goes that we start."""
        return os.path.join(self.state_dir, OUTPUT_NAME)


def last_lines(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            stream.seek(max(stream.seek(0, os.SEEK_END) - 1000, 0))
            text = stream.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""
    return f": {text}" if text else ""


def guardian_of(process: ServerProcess) -> ServerProcess | None:
    """The mysqld_safe above the server, if there is one."""
    current: ServerProcess | None = process
    for _step in range(8):
        if current is None or current.parent_pid <= 1:
            return None
        current = _server.read_process(current.parent_pid)
        if current is not None and any(
            os.path.basename(word) in ("mysqld_safe", "mariadbd-safe") for word in current.argv[:3]
        ):
            return current
    return None
