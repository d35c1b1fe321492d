# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring a server back to what the ledger says it was: running, its threads as before, its flags as before.

The one path for everybody: the start module, the recovery of an earlier run, and the dead-man.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import threading
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _connection,
    _error_log,
    _flush,
    _read_only,
    _replication,
    _run_time,
    _server,
    _service,
    _warm,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    ReplicaBackupError,
    recover_command,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.interface import ServiceManager
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._read_only import NotBack, ReadOnly
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Threads
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._run_time import RunTime

_POLL = 0.1
# A server asked to stop closes its listeners at once; one that still answers after this time was never asked.
_STILL_ANSWERS_SECONDS = 10.0


@dataclass(frozen=True)
class BringBackLimits:
    """Seconds: for a stop still under way, and from the start command to the first answer."""

    stop: float = 1800.0
    start: float = 600.0


@dataclass(frozen=True)
class BroughtBack:
    """What was done. ``ready_mono`` is the monotonic time of the first answer when we started the server."""

    server_started: bool
    ready_mono: float | None
    actions: tuple[str, ...]
    warnings: tuple[str, ...]


def wanted_threads(ledger: Ledger) -> list[Threads]:
    """The threads of every channel as they were before the run."""
    return [Threads(**item) for item in ledger.data["before"]["threads"]]


def run_time_before(ledger: Ledger) -> RunTime:
    """Replication's settings in memory as they were before the run."""
    return RunTime.from_dict(ledger.data["before"].get("run_time") or RunTime().to_dict())


def read_only_before(ledger: Ledger) -> ReadOnly:
    """The read-only switches as they were before the run."""
    return ReadOnly.from_dict(ledger.data["before"]["read_only"])


def dialect_of(ledger: Ledger) -> Dialect:
    server = ledger.data["server"]
    major, minor, patch = server["version"]
    return Dialect(server["family"], (major, minor, patch))


def bring_back(ledger: Ledger, login: Login, limits: BringBackLimits) -> BroughtBack:
    """Start the server if it is down, then put threads, flags and service units back.

    Safe to call at any time and from several processes: a lock of its own lets only one start the server.

    Raises ReplicaBackupError with the state the server is in.
    """
    with uninterrupted():
        return _bring_back(ledger, login, limits)


def _bring_back(ledger: Ledger, login: Login, limits: BringBackLimits) -> BroughtBack:
    manager = _service.from_dict(ledger.data["service"])
    actions: list[str] = []
    warnings: list[str] = []
    ready_mono = None
    with _start_lock(ledger.state_dir, limits.start):
        running = _wait_for_running_or_gone(ledger, login, limits.stop)
        error_log = ledger.data["server"].get("error_log")
        mark = _error_log.mark_end(error_log) if error_log else None
        if not running:
            options = _start_options(ledger, manager)
            manager.start(options)
            if options and manager.keeps_options:
                warnings.append(
                    f"mysqld_safe runs with {' '.join(options)} now, and hands that to the server again if it starts it"
                    " after a crash (threads stopped, read-only); the next backup leaves it out, and so does"
                    " a restart through its own script or command"
                )
            actions.append(f"started the server through {manager.kind} {manager.name}".rstrip())
        # Also for a server that somebody else started a moment ago: it may not answer yet.
        answered = _wait_until_it_answers(ledger, login, manager, mark, limits.start)
        if not running:
            ready_mono = answered
        for done in (*manager.after_start(), *manager.release()):
            (warnings if "could not" in done else actions).append(done)
    left: list[NotBack] = []
    try:
        # A connection of its own: one that is lost in a wait for a lock must not keep the threads stopped.
        with _connection.connect(login, read_timeout=60) as session:
            done_first, left = _put_flags_back(session, ledger)
            actions += done_first
        with _connection.connect(login, read_timeout=60) as session:
            put_back, odd = _put_back(session, ledger)
            actions += put_back
            warnings += odd + _lost_settings(session, ledger)
            # Last: its reading must not be in the way of the threads.
            done_last, odd = _load_buffer_pool(session, ledger)
            actions += done_last
            warnings += odd
    except ReplicaBackupError as error:
        also = "".join(f"; also {flag.name} is {flag.found}, was {flag.expected} ({flag.reason})" for flag in left)
        if error.facts.get("rule") == _run_time.RULE:
            # Threads are stopped on purpose; who reads this must not be told to start them.
            error.found = f"{error.found}{also}"
            error.facts["server_started"] = not running
            raise
        raise ReplicaBackupError(
            "The server runs, but its replication threads could not be put back",
            found=f"{error}{also}",
            expected="threads: " + "; ".join(_in_words(item) for item in wanted_threads(ledger)),
            server_state="running, replication threads not as before",
            next_command="START the threads named above by hand, or, with a login that works, "
            + recover_command(ledger.data.get("host")),
            server_started=not running,
        ) from error
    if left:
        names = " and ".join(flag.name for flag in left)
        verb = "is" if len(left) == 1 else "are"
        raise ReplicaBackupError(
            f"The server runs with its replication threads as before, but {names} could not be put back",
            found="; ".join(f"{flag.name} = {flag.found} ({flag.reason})" for flag in left),
            expected="; ".join(f"{flag.name} = {flag.expected}" for flag in left),
            server_state=f"running, threads as before, {names} {verb} not",
            next_command="; ".join(flag.statement for flag in left)
            + f"; then {recover_command(ledger.data.get('host'))}",
            server_started=not running,
            actions=actions,
            warnings_after=warnings,
        )
    return BroughtBack(not running, ready_mono, tuple(actions), tuple(warnings))


def _start_options(ledger: Ledger, manager: ServiceManager) -> list[str]:
    """What this one start adds to the server's command line, so that it is as before from its first moment."""
    options = []
    every_thread_ran = all(item.io and item.applier for item in wanted_threads(ledger))
    if not every_thread_ran or run_time_before(ledger).starts_quietly:
        options.append(dialect_of(ledger).skip_start_option)
    # Without these the server still comes back; SQL puts the switches back a moment later.
    return options + list(read_only_before(ledger).options if manager.takes_options else ())


def _in_words(threads: Threads) -> str:
    words = {True: "running", False: "stopped"}
    return f"'{threads.name}' receiver {words[threads.io]}, applier {words[threads.applier]}"


@contextlib.contextmanager
def uninterrupted() -> t.Iterator[None]:
    """A polite signal to end must not leave the server half way up; what is under way is bounded by its own limits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A handler, not SIG_IGN: a child would inherit that, and mysqld_safe could never be told to end.
    before = {number: signal.signal(number, _ignore) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore(_number: int, _frame: t.Any) -> None:
    pass


@contextlib.contextmanager
def _start_lock(state_dir: str, timeout: float) -> t.Iterator[None]:
    """Only one process at a time starts the server. A lock that nobody gives back must not keep it down."""
    try:
        descriptor = os.open(
            os.path.join(state_dir, "start.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
    except OSError:
        # A full disk or a state directory that is gone: bringing the server back matters more than the lock.
        yield
        return
    try:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)


def _find(ledger: Ledger) -> _server.ServerProcess | None:
    server = ledger.data["server"]
    return _server.find_process(datadir=server["datadir"], pid_file=server.get("pid_file"))


def is_running(ledger: Ledger) -> bool:
    """Whether a server process runs on the data directory now."""
    return _find(ledger) is not None


def _wait_for_running_or_gone(ledger: Ledger, login: Login, limit: float) -> bool:
    """True when a server runs on the datadir and is not on its way down; False when none does."""
    asked = bool(ledger.data.get("stop_requested"))
    before = _server.ServerProcess.from_dict(ledger.data["server"]["process"])
    deadline = time.monotonic() + limit
    answering_since: float | None = None
    while True:
        process = _find(ledger)
        if process is None:
            return False
        stopping = asked and (process.pid, process.start_ticks) == (before.pid, before.start_ticks)
        if not stopping:
            return True
        now = time.monotonic()
        if _connection.server_answers(replace(login, connect_timeout=2)):
            answering_since = answering_since or now
            if now - answering_since >= _STILL_ANSWERS_SECONDS:
                return True
        else:
            answering_since = None
        if now >= deadline:
            raise ReplicaBackupError(
                "The server was asked to stop and is still stopping",
                found=f"process {process.pid} still there after {limit:g} s",
                expected="an end of the process; it is not killed, for a killed server must recover",
                server_state=f"stopping (process {process.pid})",
                next_command=f"watch the server's error log, then {recover_command(ledger.data.get('host'))}",
            )
        time.sleep(_POLL)


def _wait_until_it_answers(
    ledger: Ledger,
    login: Login,
    manager: ServiceManager,
    mark: _error_log.ErrorLogMark | None,
    limit: float,
) -> float:
    """Monotonic time at which the server answered."""
    deadline = time.monotonic() + limit
    seen = False
    missing_since: float | None = None
    while True:
        if _connection.server_answers(replace(login, connect_timeout=2)):
            return time.monotonic()
        now = time.monotonic()
        process = _find(ledger)
        seen = seen or process is not None
        missing_since = None if process is not None else missing_since or now
        failure = manager.failure()
        # Somebody else's start, or a manager that cannot tell: a process that appeared and is gone for a while has
        # given up (units with Restart= come back sooner).
        gave_up = seen and missing_since is not None and now - missing_since > 20
        never_came = not seen and missing_since is not None and now - missing_since > 60
        if now >= deadline or failure is not None or gave_up or never_came:
            said = _error_log.in_words(mark)
            raise ReplicaBackupError(
                "The server does not come up",
                found=f"{(failure or manager.status()).splitlines()[0]}; the error log says: {said}",
                expected=f"an answer within {limit:g} s at {login.where()}",
                server_state="down" if process is None else f"starting (process {process.pid})",
                next_command=f"read the error log, start the server by hand ({manager.start_command}), "
                f"then {recover_command(ledger.data.get('host'))}",
            )
        time.sleep(_POLL)


def _put_flags_back(session: Session, ledger: Ledger) -> tuple[list[str], list[NotBack]]:
    """(What was done, what could not be.) None of them is worth a replica that stands still, so nothing is raised."""
    actions, left = _read_only.put_back(session, read_only_before(ledger))
    fast_shutdown = ledger.data["before"].get("innodb_fast_shutdown")
    if fast_shutdown:
        done, failed = _read_only.put_variable_back(session, "innodb_fast_shutdown", fast_shutdown, fast_shutdown)
        actions += done
        left += failed
    done, failed = _flush.put_back(session, dialect_of(ledger), _flush_settings_before(ledger))
    return actions + done, left + failed


def _flush_settings_before(ledger: Ledger) -> dict[str, str]:
    """What the flush before the stop has changed on the process that still runs; a restart has undone it already."""
    return dict(ledger.data["before"].get("flush") or {}) if _never_stopped(ledger) else {}


def _never_stopped(ledger: Ledger) -> bool:
    """Whether the server process of before the run is the one of now."""
    process = _find(ledger)
    then = _server.ServerProcess.from_dict(ledger.data["server"]["process"])
    return process is not None and (process.pid, process.start_ticks) == (then.pid, then.start_ticks)


def _load_buffer_pool(session: Session, ledger: Ledger) -> tuple[list[str], list[str]]:
    """(What was done, warnings). Once for a run that stopped the server."""
    warm = ledger.data["before"].get("warm") or {}
    if not warm.get("load") or ledger.data.get("buffer_pool_loaded") or _never_stopped(ledger):
        return [], []
    ledger.data["buffer_pool_loaded"] = True
    return _warm.load(session)


def _put_back(session: Session, ledger: Ledger) -> tuple[list[str], list[str]]:
    """Replication's settings and threads as before: (what was done, warnings)."""
    dialect = dialect_of(ledger)
    wanted_by_channel = wanted_threads(ledger)
    before = run_time_before(ledger)
    if ledger.data.get("skip_counters_were_back"):
        before = before.without_skip_counters()
    actions, odd = _run_time.put_back(session, dialect, before)
    if before.skips:
        ledger.data["skip_counters_were_back"] = True
        # A disk that is full must not keep the threads stopped.
        with contextlib.suppress(OSError):
            ledger.save()
    started = _replication.resume(session, dialect, wanted_by_channel)
    actions += [f"started the {item}" for item in started]
    done, failed = _run_time.put_back_after_threads(session, dialect, before)
    actions += done
    odd += failed
    missing, extra = _replication.differing_threads(session, dialect, wanted_by_channel)
    if missing:
        raise ReplicaBackupError("The replication threads are not as before", found="; ".join(missing))
    odd += [f"A thread runs that did not run before; somebody else started it: {item}" for item in extra]
    return actions, odd


# Values that every start or every second changes; they say nothing about lost settings.
_VOLATILE = frozenset(
    {
        "timestamp",
        "rand_seed1",
        "rand_seed2",
        "pseudo_thread_id",
        "identity",
        "last_insert_id",
        "insert_id",
        "innodb_fast_shutdown",
        "server_uid",
        # Not a setting but how this one start was made.
        "skip_replica_start",
        "skip_slave_start",
    }
)


def comparable_settings(variables: t.Mapping[str, str]) -> dict[str, str]:
    """The settings worth comparing before and after a restart: no GTID state, nothing secret."""
    # The key of MariaDB's file_key_management is shown in clear text.
    secret = ("password", "secret", "passphrase", "auth_string", "filekey", "token", "sst_auth", "_pwd")
    return {
        name: value
        for name, value in variables.items()
        if name not in _VOLATILE and not name.startswith("gtid_") and not any(word in name for word in secret)
    }


def _lost_settings(session: Session, ledger: Ledger) -> list[str]:
    """Settings made at run time that the restart has undone: said, not guessed at."""
    before = ledger.data["before"].get("settings")
    if not before:
        return []
    now = comparable_settings(session.variables())
    lost = [
        f"{name} was {before[name]!r}, is {now[name]!r}"
        for name in sorted(before)
        if now.get(name, before[name]) != before[name]
    ]
    if not lost:
        return []
    return ["Settings made at run time, in no option file, are gone after the restart: " + "; ".join(lost[:20])]
