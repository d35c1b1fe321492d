# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries a restore out in a process of its own, so that a lost connection neither stops nor hides it.

The module starts it and asks for its status; as root under systemd it is a transient service, elsewhere a detached
process. It runs ``STATE_DIR/restore.worker/worker.pyz``, the collection's own code. Beside that lie ``request.json``
(mode 0600; gone as soon as the worker has read it), ``status.json`` (what it does, and at its end the result or the
error) and ``set/`` (manifest and checksums of a set that comes as a stream; removed at the end).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import typing as t
import uuid
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger, _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import (
    make_private_directory,
    remove_tree,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._payload import (
    PACKAGE,
    systemd_run,
    under_systemd,
    write_payload,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import inbox, sentry
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import (
    Feed,
    LocalFeed,
    PieceFeed,
    RcloneFeed,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.rclone import Remote

# States of a worker. DIED: it ended without a word (killed, or the host went down).
STARTING, RUNNING, DONE, FAILED, DIED = "starting", "running", "done", "failed", "died"
LOCAL, RCLONE, PIECES = "local", "rclone", "pieces"
_DIRECTORY = "restore.worker"
_STATUS = "status.json"
_REQUEST = "request.json"
_PAYLOAD = "worker.pyz"
_STDERR = "worker.err"
_START_SECONDS = 60.0
# rclone is started again after that long without a byte, several times.
_RCLONE_SECONDS = 60.0
_STDERR_LIMIT = 8192


@dataclass(frozen=True)
class Source:
    """Where the worker reads the set. ``where`` is a path here (LOCAL), REMOTE:PATH/HOST/ID (RCLONE), or for PIECES
    what the controller calls it. ``manifest_sha256`` tells one set that is sent in pieces from another.

    ``timeout`` in seconds: how long nothing may arrive.
    """

    kind: str
    where: str
    config: str | None = None
    timeout: float = 300.0
    manifest_sha256: str = ""


@dataclass(frozen=True)
class Task:
    """``entry`` names what is to be done, ``MODULE:FUNCTION`` below module_utils; it is called with ``request`` (JSON
    values) and the feed, and its result must be JSON."""

    entry: str
    request: dict[str, t.Any]
    source: Source

    @property
    def fingerprint(self) -> str:
        values = [self.entry, self.request, self.source.kind, self.source.where, self.source.manifest_sha256]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@dataclass
class Status:
    """What ``status.json`` says. ``result`` or ``error`` (fields of a module result) when the worker is at its end."""

    token: str
    fingerprint: str
    where: str
    state: str = STARTING
    started: str = ""
    finished: str = ""
    pid: int = 0
    start_ticks: int = 0
    boot_id: str = ""
    inbox: str = ""
    result: dict[str, t.Any] = field(default_factory=dict)
    error: dict[str, t.Any] = field(default_factory=dict)

    @property
    def at_work(self) -> bool:
        return self.state in (STARTING, RUNNING)

    def to_result(self) -> dict[str, t.Any]:
        return {
            name: getattr(self, name)
            for name in ("state", "where", "started", "finished", "pid", "inbox", "result", "error")
        }


def directory(state_dir: str) -> str:
    return os.path.join(state_dir, _DIRECTORY)


def set_directory(state_dir: str) -> str:
    """Where manifest and checksums of a set lie while it comes as a stream."""
    return os.path.join(directory(state_dir), "set")


@contextlib.contextmanager
def _alone(state_dir: str) -> t.Iterator[None]:
    """One start, or one look at a dead worker's remains, at a time. Not the server's lock: the worker holds that."""
    _ledger.prepare_state_dir(state_dir)
    make_private_directory(directory(state_dir))
    descriptor = os.open(directory(state_dir), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def start(
    state_dir: str, task: Task, *, login_uid: int | None = None, prepare: t.Callable[[str], None] | None = None
) -> Status:
    """Start a worker for ``task``; or, when one is at work on the same task already, return its status.

    For PIECES an inbox of the user ``login_uid`` is made, and ``prepare`` is called with a new private directory, into
    which it puts the manifest. Raises RefusedError while a worker is at work on another task.
    """
    with _alone(state_dir):
        found = _look(state_dir)
        if found is not None and found.at_work:
            if found.fingerprint == task.fingerprint:
                return found
            raise RefusedError(
                f"Another restore is at work on this host, from {found.where}",
                found=f"pid {found.pid}, since {found.started}",
                expected=f"none, or the same from {task.source.where}",
                server_state="in the hands of that restore",
                next_command="wait for its end, then start this again",
                rule="restore",
            )
        _clear(state_dir)
        try:
            return _start(state_dir, task, login_uid, prepare)
        except BaseException:
            _clear(state_dir)
            raise


def _start(state_dir: str, task: Task, login_uid: int | None, prepare: t.Callable[[str], None] | None) -> Status:
    work = directory(state_dir)
    status = Status(uuid.uuid4().hex, task.fingerprint, task.source.where, started=_ledger.utc())
    if task.source.kind != LOCAL:
        make_private_directory(set_directory(state_dir))
    if prepare is not None:
        prepare(set_directory(state_dir))
    if login_uid is not None:
        status.inbox = inbox.open_inbox(work, login_uid)
    # Loaded here, so that it is packed.
    _entry(task.entry)
    write_payload(os.path.join(work, _PAYLOAD), "_restore.worker")
    _write(work, status)
    request = {
        "token": status.token,
        "entry": task.entry,
        "request": task.request,
        "source": {
            "kind": task.source.kind,
            "where": task.source.where,
            "config": task.source.config,
            "timeout": task.source.timeout,
        },
    }
    _ledger.write_durably(os.path.join(work, _REQUEST), json.dumps(request))
    process = _launch(state_dir, status.token)
    return _wait_for_start(state_dir, status.token, process)


def _launch(state_dir: str, token: str) -> subprocess.Popen[bytes] | None:
    """None when systemd looks after it."""
    command = [sys.executable, os.path.join(directory(state_dir), _PAYLOAD), state_dir, token]
    if under_systemd():
        done = subprocess.run(
            [
                *systemd_run(),
                f"--unit=mysql-replica-backup-restore-{token}",
                "--description=Restore a backup of a database server",
                *command,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
        if done.returncode:
            raise _not_started(f"systemd-run: exit code {done.returncode}: {done.stderr.strip()}")
        return None
    with open(_new_file(os.path.join(directory(state_dir), _STDERR)), "wb") as words:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=words,
            start_new_session=True,
            close_fds=True,
            cwd="/",
        )


def _new_file(path: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _wait_for_start(state_dir: str, token: str, process: subprocess.Popen[bytes] | None) -> Status:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        # The process first: a worker that has ended by the time of the second look has written its status before.
        code = process.poll() if process is not None else None
        status = _read(state_dir)
        if status is not None and status.token == token and status.state != STARTING:
            return status
        if code is not None:
            raise _not_started(f"its process ended with code {code}: {_last_words(state_dir)}")
        if time.monotonic() > deadline:
            raise _not_started(f"no sign of life within {_START_SECONDS:g} seconds")
        time.sleep(0.05)


def _not_started(found: str) -> ReplicaBackupError:
    return ReplicaBackupError(
        "The worker of the restore could not be started",
        found=found,
        expected="a process that works",
        server_state="as it was, nothing was changed",
    )


def _last_words(state_dir: str) -> str:
    try:
        with open(os.path.join(directory(state_dir), _STDERR), "rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - _STDERR_LIMIT))
            return handle.read().decode("utf-8", "replace").strip() or "it said nothing"
    except OSError:
        return "what it said is lost"


def status(state_dir: str) -> Status | None:
    """The worker that is at work, or the last one; None when there never was one. Clears up after one that died."""
    if not os.path.isdir(directory(state_dir)):
        return None
    with _alone(state_dir):
        found = _look(state_dir)
        if found is not None and found.state == DIED:
            _clear(state_dir)
        return found


def end(state_dir: str, *, patience: float = 120.0) -> Status | None:
    """Tell the worker to end; it undoes what it can. Returns its last status, after ``patience`` seconds at most."""
    found = status(state_dir)
    deadline = time.monotonic() + patience
    if found is not None and found.at_work:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGTERM)
    while found is not None and found.at_work and time.monotonic() < deadline:
        time.sleep(0.2)
        found = status(state_dir)
    return found


def _look(state_dir: str) -> Status | None:
    found = _read(state_dir)
    if found is None or not found.at_work or _is_alive(found):
        return found
    # It may have written its last word since.
    again = _read(state_dir)
    if again is None or not again.at_work:
        return again
    again.state = DIED
    again.error = ReplicaBackupError(
        "The restore ended without a word: it was killed, or the host went down",
        found=f"no process {again.pid}; its last words: {_last_words(state_dir)}",
        expected="its result",
        server_state=sentry.in_words(state_dir) or "as the restore left it",
        next_command="run the restore again; it clears up, or goes on where it was",
    ).to_result()
    _write(directory(state_dir), again)
    return again


def _is_alive(found: Status) -> bool:
    if found.boot_id != _ledger.boot_id():
        return False
    process = _server.read_process(found.pid)
    return process is not None and process.start_ticks == found.start_ticks


def _read(state_dir: str) -> Status | None:
    path = os.path.join(directory(state_dir), _STATUS)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as handle:
            return Status(**json.load(handle))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as problem:
        raise ReplicaBackupError(
            f"{path} cannot be read", found=str(problem), next_command=f"look at it, then remove {path}"
        ) from problem


def _write(work: str, found: Status) -> None:
    _ledger.write_durably(os.path.join(work, _STATUS), json.dumps(found.__dict__) + "\n")


def _clear(state_dir: str) -> None:
    """What belongs to a worker that is not at work any more, but for its status."""
    work = directory(state_dir)
    inbox.close_inbox(work)
    for name in (_REQUEST, _PAYLOAD):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(work, name))
    remove_tree(set_directory(state_dir))


# -- in the worker's own process ---------------------------------------------------------------------------------------


class _Ended(BaseException):
    """A signal told the worker to end."""


def main(arguments: t.Sequence[str]) -> int:
    """Entry of ``worker.pyz``: the state directory, and the token of the request."""
    state_dir, token = arguments
    ended: list[int] = []

    def told(number: int, _frame: t.Any) -> None:
        # Once: what is undone because of it must not be cut short by the next.
        if not ended:
            ended.append(number)
            raise _Ended(f"it was told to end by signal {number} ({signal.Signals(number).name})")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, told)
    own = _read(state_dir)
    if own is None or own.token != token or own.state != STARTING:
        return 3
    process = _server.read_process(os.getpid())
    own.pid, own.start_ticks = os.getpid(), process.start_ticks if process is not None else 0
    own.boot_id = _ledger.boot_id()
    own.state = RUNNING
    work = directory(state_dir)
    try:
        request = _take_request(work, token)
        _write(work, own)
        own.result = _work(state_dir, request, own.inbox)
        own.state = DONE
    except ReplicaBackupError as error:
        own.state, own.error = FAILED, {**error.to_result(), "refused": isinstance(error, RefusedError)}
    except _Ended as error:
        own.state, own.error = FAILED, {"msg": f"The restore did not come to its end: {error}"}
    except BaseException as error:
        own.state = FAILED
        own.error = {
            "msg": f"The restore failed, by a fault of its own: {error!r}. Next: run it again; until the files are"
            " exchanged everything is as it was, from then on it goes on. Please report it with the exception",
            "exception": traceback.format_exc(),
        }
    own.finished = _ledger.utc()
    with contextlib.suppress(OSError, ReplicaBackupError):
        _clear(state_dir)
    _write(work, own)
    return 0 if own.state == DONE else 1


def _take_request(work: str, token: str) -> dict[str, t.Any]:
    path = os.path.join(work, _REQUEST)
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as handle:
        request = json.load(handle)
    os.unlink(path)
    if request["token"] != token:
        raise ReplicaBackupError("The request belongs to another worker")
    return t.cast("dict[str, t.Any]", request)


def _work(state_dir: str, request: t.Mapping[str, t.Any], inbox_path: str) -> dict[str, t.Any]:
    feed = make_feed(Source(**request["source"]), set_directory(state_dir), inbox_path)
    try:
        return _entry(request["entry"])(request["request"], feed)
    finally:
        feed.close()


def make_feed(source: Source, work: str, inbox_path: str = "") -> Feed:
    """The feed of a source. ``work``: a private directory, with the manifest in it for PIECES, empty for RCLONE."""
    if source.kind == LOCAL:
        return LocalFeed(source.where)
    if source.kind == RCLONE:
        return RcloneFeed(Remote(source.where, source.config, min(source.timeout, _RCLONE_SECONDS)), work)
    return PieceFeed(work, source.where, inbox_path, source.timeout)


def _entry(name: str) -> t.Callable[[dict[str, t.Any], Feed], dict[str, t.Any]]:
    module, _colon, function = name.partition(":")
    return t.cast(
        "t.Callable[[dict[str, t.Any], Feed], dict[str, t.Any]]",
        getattr(importlib.import_module(f"{PACKAGE}.{module}"), function),
    )
