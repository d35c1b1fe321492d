# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold while the files of a stopped server are read."""

from __future__ import annotations

import contextlib
import json
import os
import typing as t
from dataclasses import replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _filelist, _ledger, _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import storage_error
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.request import Request
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.writer import Watch
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._budget import Clock
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    RefusedError,
    ReplicaBackupError,
    recover_command,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery

_STOPPED_STEPS = ("stopped", "capture")
# How the server is when a capture from the stopped server fails.
STOPPED = "stopped by this run, clean; nothing has started it yet"
_FIRED_NAME = "deadman.fired"


def fired(state_dir: str) -> dict[str, t.Any] | None:
    """The record of a dead-man that has fired; read here, so that no database driver is loaded for it."""
    try:
        with open(os.path.join(state_dir, _FIRED_NAME), encoding="utf-8") as stream:
            record = json.load(stream)
    except FileNotFoundError:
        return None
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {"outcome": "its record is not readable"}


class Guard:
    """What must hold while the files are read: our run's ledger, no server, and a dead-man that has not fired."""

    def __init__(self, request: Request) -> None:
        self._request = request
        ledger = _ledger.load(request.state_dir)
        paths = request.paths
        if ledger is None or not ledger.is_of(paths) or ledger.step not in _STOPPED_STEPS:
            raise RefusedError(
                "No server has been stopped for this backup, so there is nothing cold to archive",
                found="no ledger"
                if ledger is None
                else f"ledger of host {ledger.data.get('host')}, backup {ledger.data.get('backup_id')},"
                f" step {ledger.step}",
                expected=f"a ledger in {request.state_dir} of {paths.host}, backup {paths.backup_id}, step stopped",
                next_command="run mysql_replica_stop first",
                rule="stopped",
            )
        if not (ledger.data.get("clean_stop") or {}).get("clean"):
            raise RefusedError(
                "The stop of the server is not proven clean",
                found=ledger.data.get("clean_stop"),
                expected="clean_stop.clean in the ledger",
                rule="clean_stop",
            )
        self.ledger = ledger
        self._clock = Clock.of(ledger)
        self.watch = Watch(self._watch)
        self._datadir = str(ledger.data["server"]["datadir"])
        self._pid_file = ledger.data["server"].get("pid_file") or None

    def _watch(self) -> None:
        self.check()
        if self._clock is not None:
            self._clock.check(self.watch.done)

    def discovery(self) -> Discovery:
        """What was discovered before the stop, with what is known since then to be required."""
        discovery = _filelist.read_plan(self._request.paths.discovered)
        required = (*discovery.required, *self.ledger.data.get("required_files", ()))
        return replace(discovery, required=tuple(dict.fromkeys(required)))

    def on_disk(self, size: int) -> int:
        """Of ``size`` bytes read, those that were on disk: the rest are holes, which cost next to nothing."""
        planned = self.ledger.data.get("budget") or {}
        share = planned.get("allocated", 0) / planned["bytes"] if planned.get("bytes") else 1.0
        return int(size * min(1.0, share))

    def enter(self) -> None:
        """As ``check``, before anything is made: raises RefusedError."""
        try:
            self.check()
        except ReplicaBackupError as problem:
            raise RefusedError(
                problem.message,
                found=problem.found,
                expected=problem.expected,
                server_state=problem.server_state,
                next_command=problem.next_command,
                **problem.facts,
            ) from problem

    def check(self) -> None:
        """Raise when the server is, or may be, at work on the files."""
        record = fired(self._request.state_dir)
        if record is not None:
            raise ReplicaBackupError(
                "The dead-man has started the server, so its files are no cold copy any more",
                found=f"fired at {record.get('fired')} ({record.get('reason', 'no reason given')}): "
                f"{record.get('outcome')}",
                expected="the archive to be done before the deadline (replica_backup_downtime_budget)",
                server_state="started by the dead-man",
                next_command=recover_command(self._request.paths.host),
                rule="deadman",
            )
        process = _server.find_process(datadir=self._datadir, pid_file=self._pid_file)
        if process is not None:
            raise ReplicaBackupError(
                f"The server of {self._datadir} is running, so its files cannot be archived",
                found=f"pid {process.pid}, {process.exe}",
                expected="no server on this data directory",
                server_state=f"running, pid {process.pid}",
                next_command=recover_command(self._request.paths.host),
                rule="server_running",
            )


@contextlib.contextmanager
def storage_errors(request: Request) -> t.Iterator[None]:
    """Whatever a disk refuses where nobody looked for it is told like every other failure of the storage."""
    try:
        yield
    except OSError as problem:
        raise storage_error(problem, os.fsdecode(problem.filename or request.paths.directory), 0) from problem


def refuse_inside(request: Request, discovery: Discovery) -> None:
    """Spool and state must not lie in what is archived: they change while we read."""
    for what, path in (("spool_dir", request.paths.root), ("state_dir", request.state_dir)):
        real = os.path.realpath(path)
        for place in discovery.places:
            if place.select == "tree" and (real + "/").startswith(place.root().rstrip("/") + "/"):
                raise RefusedError(
                    f"The {what} lies inside a directory that is backed up",
                    found=f"{real} inside {place.root()} ({place.name})",
                    expected=f"a replica_backup_{what} outside of every directory of the server",
                    rule=what,
                )
