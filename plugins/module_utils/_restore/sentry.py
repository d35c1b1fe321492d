# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands by while a restore has stopped a server whose own files are still in place: if the restore dies, it starts it.

It is posted before the stop, as root under systemd as a transient service of its own, elsewhere as a detached process,
and runs ``STATE_DIR/restore.sentry.pyz``, the collection's own code. The lock of the state directory is the restore's
sign of life: the kernel drops it when the restore dies. From the first exchanged file on (phase "switching") it does
nothing any more, for then only the restore knows what the files are.

``STATE_DIR/restore.sentry.json`` says that it stands by, and what it did.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger, _server, _service
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.interface import ServiceManager
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._payload import (
    systemd_run,
    under_systemd,
    write_payload,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import asleep
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import journal as journals
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.journal import Journal

_PAYLOAD = "restore.sentry.pyz"
_RECORD = "restore.sentry.json"
_STANDING_BY, _STARTED, _FAILED = "stands by", "server started", "server not started"
_STOPPING = "stopping"
_READY_SECONDS = 30.0
_LOOK_EVERY = 1.0
# A shutdown that was under way when the restore died is waited for, beyond what the restore itself would have waited.
_SPARE_SECONDS = 300.0
# A journal that cannot be read may be readable again: for so long it is looked at.
_UNREADABLE_SECONDS = 3600.0
_ATTEMPTS = 5
_PAUSE = 30.0
# A server that gives up does so in its first seconds.
_STAYS_SECONDS = 3.0


def post(
    journal: Journal, manager: ServiceManager, process: _server.ServerProcess, datadir: str, shutdown_timeout: float
) -> None:
    """Call this right before the server is asked to stop. Raises ReplicaBackupError when nobody can stand by."""
    state_dir = journal.state_dir
    journal.work[_STOPPING] = {
        "manager": manager.to_dict(),
        "pid": process.pid,
        "start_ticks": process.start_ticks,
        "datadir": datadir,
        "seconds": shutdown_timeout + _SPARE_SECONDS,
    }
    journal.write()
    _forget(state_dir)
    write_payload(os.path.join(state_dir, _PAYLOAD), "_restore.sentry")
    command = [sys.executable, os.path.join(state_dir, _PAYLOAD), state_dir, journal.restore_id]
    problem = _launch(command, journal.restore_id)
    deadline = time.monotonic() + _READY_SECONDS
    while not problem and (_read(state_dir) or {}).get("restore_id") != journal.restore_id:
        if time.monotonic() > deadline:
            problem = f"no sign of life within {_READY_SECONDS:g} seconds"
        time.sleep(0.05)
    if problem:
        raise ReplicaBackupError(
            "Nobody can stand by to start the server again if the restore dies, so it is not stopped",
            found=problem,
            expected="a process that waits",
            server_state=f"running, pid {process.pid}, untouched",
            next_command="mend the cause, or stop the server yourself, and run the restore again",
        )


def _launch(command: list[str], restore_id: str) -> str:
    """Empty, or why it could not be started."""
    if not under_systemd():
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            close_fds=True,
            cwd="/",
        )
        return ""
    done = subprocess.run(
        [
            *systemd_run(),
            f"--unit=mysql-replica-backup-sentry-{restore_id}-{os.getpid()}",
            "--description=Start the database server that a restore stopped, if the restore dies",
            # A server that is started as a plain process must outlive the unit.
            "--property=KillMode=process",
            *command,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    return f"systemd-run: exit code {done.returncode}: {done.stderr.strip()}" if done.returncode else ""


def in_words(state_dir: str) -> str | None:
    """What became of a server that a restore had stopped before it died; None when it had not stopped one."""
    record = _read(state_dir)
    if record is None:
        return None
    if record["outcome"] == _STANDING_BY:
        return "if it had been stopped already, it is being started again, on its own files"
    return f"{record['outcome']} again on its own files at {record['at']}{record.get('error', '')}"


def start_stopped(journal: Journal) -> bool:
    """For the next run: start what a restore that died before the exchange had stopped, where the sentry could not (the
    host went down). True when something was started."""
    noted = journal.work.get(_STOPPING)
    _forget(journal.state_dir)
    if noted is None or journal.phase != "staged" or journals.over_another(journal.state_dir):
        return False
    if _process(noted) is not None:
        return False
    # What comes after this says more about a server that does not start.
    with contextlib.suppress(ReplicaBackupError, OSError):
        _start(journal, noted)
        return True
    return False


def _start(journal: Journal, noted: t.Mapping[str, t.Any]) -> None:
    # Its sockets first: systemd starts none whose service runs.
    asleep.wake(journal)
    manager = _service.from_dict(noted["manager"])
    manager.start()
    manager.after_start()


def _process(noted: t.Mapping[str, t.Any]) -> _server.ServerProcess | None:
    datadir = str(noted["datadir"])
    return _server.find_process(datadir=datadir) if fs.is_directory(datadir) else None


def _forget(state_dir: str) -> None:
    for name in (_RECORD, _PAYLOAD):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(state_dir, name))


def _read(state_dir: str) -> dict[str, t.Any] | None:
    path = os.path.join(state_dir, _RECORD)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as handle:
            found = json.load(handle)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "outcome" in found else None


def _tell(state_dir: str, restore_id: str, outcome: str, error: str = "") -> None:
    record = {"restore_id": restore_id, "outcome": outcome, "at": _ledger.utc(), "error": error}
    # A disk that takes no note must not keep the server down.
    with contextlib.suppress(OSError):
        _ledger.write_durably(os.path.join(state_dir, _RECORD), json.dumps(record) + "\n")


# -- in the sentry's own process ---------------------------------------------------------------------------------------


def main(arguments: t.Sequence[str]) -> int:
    """Entry of ``restore.sentry.pyz``: the state directory, and the restore it stands by. 1: the server stays down."""
    state_dir, restore_id = arguments
    _tell(state_dir, restore_id, _STANDING_BY)
    since: float | None = None
    seconds = 0.0
    while os.path.isdir(state_dir):
        time.sleep(_LOOK_EVERY)
        # Held by the restore as long as it lives; or by the next one, which sees to the server itself.
        with contextlib.suppress(ReplicaBackupError, OSError), _ledger.locked(state_dir, "restore sentry", timeout=0.0):
            since = since or time.monotonic()
            seconds = _journal_seconds(state_dir)
            done = _look(state_dir, restore_id)
            if done is not None:
                return done
        if since is not None and time.monotonic() > since + seconds:
            break
    _forget(state_dir)
    return 0


def _journal_seconds(state_dir: str) -> float:
    try:
        journal = journals.load(state_dir)
    except (ReplicaBackupError, OSError):
        return _UNREADABLE_SECONDS
    if journal is not None and _STOPPING in journal.work:
        return float(journal.work[_STOPPING]["seconds"])
    return 0.0


def _look(state_dir: str, restore_id: str) -> int | None:
    """With the lock in hand, so the restore is over or dead. None: look again."""
    try:
        journal = journals.load(state_dir)
    except (ReplicaBackupError, OSError):
        # That is not "no journal": the server may be down.
        return None
    if journal is None or journal.restore_id != restore_id or journal.phase != "staged":
        _forget(state_dir)
        return 0
    noted = journal.work[_STOPPING]
    process = _process(noted)
    if process is not None:
        if (process.pid, process.start_ticks) == (noted["pid"], noted["start_ticks"]):
            return None
        # Somebody has started it.
        _forget(state_dir)
        return 0
    return _bring_back(journal, noted)


def _bring_back(journal: Journal, noted: t.Mapping[str, t.Any]) -> int:
    for attempt in range(1, _ATTEMPTS + 1):
        error = "it did not stay"
        try:
            _start(journal, noted)
            time.sleep(_STAYS_SECONDS)
            if _process(noted) is not None:
                _tell(journal.state_dir, journal.restore_id, _STARTED)
                return 0
        except Exception as problem:  # whatever it is, the next attempt may work
            error = str(problem)
        _tell(journal.state_dir, journal.restore_id, _FAILED, f": {error}")
        if attempt < _ATTEMPTS:
            time.sleep(_PAUSE)
    return 1
