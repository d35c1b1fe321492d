# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start a server that is down for one time without replication, and stop it again."""

from __future__ import annotations

import time
import typing as t
from dataclasses import replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _connection,
    _error_log,
    _ledger,
    _server,
    _service,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login, QueryError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.request import IfDown
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._offline import Offline
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import journal

_POLL = 0.2
# A server that was seen and is gone for so long has given up.
_GONE = 15.0


class QuietStart:
    """One server that is down. ``options`` are those of its one start, the one against replication among them."""

    def __init__(self, offline: Offline, dialect: Dialect, login: Login, wanted: IfDown) -> None:
        """Reads only. Raises RefusedError when the server cannot be started so, or a backup or restore owns it."""
        facts = offline.facts
        self._datadir = facts.datadir
        self._pid_file = facts.path(facts.get("pid_file")) if facts.get("pid_file") else None
        self._dialect, self._login, self._wanted = dialect, login, wanted
        self._error_log = facts.path(facts.get("log_error")) if facts.get("log_error") else None
        journal.refuse_unfinished(wanted.state_dir)
        ledger = _ledger.load(wanted.state_dir)
        if ledger is not None:
            raise _ledger.unfinished(ledger)
        self._manager = _service.of_stopped(
            start={
                "exe": offline.start.exe,
                "argv": offline.start.argv,
                "environment": offline.start.environment,
                "service": offline.start.service,
            },
            requested=wanted.service_manager,
            name=wanted.service_name,
            datadir=self._datadir,
            pid_file=self._pid_file,
            own_options=dialect.own_start_options,
            state_dir=wanted.state_dir,
        )

    def up(self, options: t.Sequence[str]) -> list[str]:
        """Start it and wait until it answers. Returns warnings. Raises ReplicaBackupError with the log's words."""
        mark = _error_log.mark_end(self._error_log) if self._error_log else None
        self._manager.start(options, must=True)
        deadline = time.monotonic() + self._wanted.start_timeout
        missing_since: float | None = None
        while not _connection.server_answers(replace(self._login, connect_timeout=2)):
            now = time.monotonic()
            process = _server.find_process(datadir=self._datadir, pid_file=self._pid_file)
            missing_since = None if process is not None else missing_since or now
            failure = self._manager.failure()
            gone = missing_since is not None and now - missing_since > _GONE
            if failure is not None or gone or now > deadline:
                self._manager.after_start()
                raise ReplicaBackupError(
                    "The server does not come up without replication",
                    found=f"{(failure or self._manager.status()).splitlines()[0]}; {_last_words(mark)}",
                    expected=f"an answer within {self._wanted.start_timeout:g} s at {self._login.where()}",
                    server_state="down" if process is None else f"starting (process {process.pid})",
                    next_command="read the error log; nothing of its replication was changed",
                )
            time.sleep(_POLL)
        warnings = [said for said in self._manager.after_start() if "could not" in said]
        if self._manager.keeps_options:
            warnings.append(
                f"mysqld_safe runs with {' '.join(options)} now, and hands that to the server again if it starts it"
                " after a crash; a restart through its own script or command leaves it out"
            )
        return warnings

    def down(self) -> None:
        """Stop it again, as it was. Raises ReplicaBackupError when it does not end."""
        process = _server.find_process(datadir=self._datadir, pid_file=self._pid_file)
        # What would wake it, a systemd socket for one, sleeps until it is down.
        self._manager.hold()
        try:
            if not self._manager.request_stop():
                self._shutdown()
            if process is not None:
                _server.wait_gone(process, self._wanted.shutdown_timeout)
            self._manager.wait_stopped(self._wanted.shutdown_timeout)
        finally:
            self._manager.after_start()
            self._manager.release()

    def _shutdown(self) -> None:
        with _connection.connect(self._login, read_timeout=60) as session:
            if not self._dialect.has_shutdown_statement:
                session.shutdown_by_protocol()
                return
            try:
                session.execute("SHUTDOWN")
            except QueryError as error:
                # Cut before the answer arrives: that is the shutdown.
                if error.code not in (2006, 2013, 0):
                    raise


def _last_words(mark: _error_log.ErrorLogMark | None) -> str:
    if mark is None:
        return "its error log is not in a file that can be read"
    try:
        lines = [line for line in _error_log.since(mark).splitlines() if line.strip()]
    except OSError as error:
        return f"its error log cannot be read: {error.strerror}"
    errors = [line for line in lines if "error" in line.lower()]
    return "the error log says: " + (" / ".join(dict.fromkeys([*errors[-5:], *lines[-2:]])) or "(nothing new)")
