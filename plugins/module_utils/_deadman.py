# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dead-man: starts a server that we stopped when nobody else does in time.

It lives on the replica and needs neither the controller nor the connection. A watcher looks every few seconds for signs
of life: a module that holds the lock of the state directory, or a lease in the ledger that runs still. When there is
neither, or when the deadline is over, it acts. As root under systemd the watcher is a transient service, and a
transient timer stands behind it for the deadline; elsewhere it is a detached process. All run the same file,
``STATE_DIR/deadman.pyz``: the collection's own code, carried along by the module that armed it, because Ansible removes
a module's files when it ends. The watcher has all of it in memory: a state directory that is lost does not stop it.
Only the monotonic clock counts.

Files in the state directory: ``deadman.json`` (armed: how, until when, and a copy of all that bringing the server
back takes, so that a damaged ledger does not disarm it), ``deadman.login`` (mode 0600, how to log in; removed when the
dead-man is called off or has fired), ``deadman.fired`` (what it did; an archive during which it fired is never
published), ``deadman.reserve`` (room for that record on a disk that has become full).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import typing as t
import uuid
from dataclasses import replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _bringback, _ledger, _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._bringback import BringBackLimits
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import PYMYSQL_ERROR, Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._payload import (
    systemd_run,
    under_systemd,
    write_payload,
)

_PAYLOAD = "deadman.pyz"
_ARMED = "deadman.json"
_LOGIN = "deadman.login"
_FIRED = "deadman.fired"
_RESERVE = "deadman.reserve"
_RESERVE_BYTES = 16384
# What of the ledger it takes to bring the server back.
_NEEDED = ("run_id", "backup_id", "host", "server", "before", "service")
# Attempts to bring the server back, and seconds between the first two; the pauses double, up to the longest. A day in
# all: what keeps a server down (a full disk, a mount that is gone) may be mended by then.
_ATTEMPTS = 150
_PAUSE = 30.0
_LONGEST_PAUSE = 600.0
# Seconds between two looks at the signs of life. A look reads one small file and tries one lock.
LOOK_EVERY = 5.0
DEADLINE = "the deadline was over"
# How a dead-man that has brought the server back says so in its record.
STARTED, WAS_RUNNING = "server started", "server was running"
BROUGHT_BACK = (STARTED, WAS_RUNNING)


def fired(state_dir: str) -> dict[str, t.Any] | None:
    """The record of a dead-man that fired in the run of this state directory, or None."""
    try:
        with open(os.path.join(state_dir, _FIRED), encoding="utf-8") as handle:
            record = json.load(handle)
    except FileNotFoundError:
        return None
    except ValueError:
        return {"outcome": "its record is not readable"}
    return record if isinstance(record, dict) else {"outcome": "its record is not readable"}


def in_words(record: t.Mapping[str, t.Any]) -> str:
    """What a record of ``fired`` says, for a person."""
    reason = f" because {record['reason']}" if record.get("reason") else ""
    return f"The dead-man fired at {record.get('fired')}{reason}: {record.get('outcome')}"


def armed(state_dir: str) -> dict[str, t.Any] | None:
    """How the dead-man is armed (kind, deadline), or None."""
    try:
        with open(os.path.join(state_dir, _ARMED), encoding="utf-8") as handle:
            record = json.load(handle)
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def login_of_armed(state_dir: str) -> Login | None:
    """The login that the dead-man would use, or None when none is armed."""
    try:
        with open(os.path.join(state_dir, _LOGIN), encoding="utf-8") as handle:
            return Login.from_dict(json.load(handle))
    except FileNotFoundError:
        return None


def arm(ledger: Ledger, login: Login, seconds: float, *, look_every: float = LOOK_EVERY) -> dict[str, t.Any]:
    """Let the server of ``ledger`` be started in ``seconds`` from now unless ``disarm`` comes first.

    It is started before that when in two looks in a row, ``look_every`` seconds apart, no module holds the lock and the
    ledger's lease is over. One that this run has armed before and that waits still gets the new time without a gap.
    Raises ReplicaBackupError when that cannot be arranged; the server must then not be stopped.
    """
    state_dir = ledger.state_dir
    earlier = armed(state_dir)
    if earlier is not None and _waits(state_dir, earlier, ledger.run_id):
        return _postpone(ledger, earlier, seconds)
    disarm(state_dir)
    clear_fired(state_dir)
    write_payload(os.path.join(state_dir, _PAYLOAD), "_deadman")
    _ledger.write_durably(os.path.join(state_dir, _RESERVE), " " * _RESERVE_BYTES)
    # The password goes to a file that only this user can read, and only for as long as the dead-man is armed.
    _ledger.write_durably(os.path.join(state_dir, _LOGIN), json.dumps(login.to_dict()))
    record = {"token": uuid.uuid4().hex, "look_every": look_every, **_until(ledger, seconds)}
    _arm(state_dir, record, seconds)
    return _public(record)


def _until(ledger: Ledger, seconds: float) -> dict[str, t.Any]:
    return {
        "deadline": _ledger.utc(time.time() + seconds),
        "deadline_mono": time.monotonic() + seconds,
        "boot_id": _ledger.boot_id(),
        "run": {name: ledger.data[name] for name in _NEEDED},
    }


def _public(record: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    return {name: value for name, value in record.items() if name != "run"}


def _waits(state_dir: str, record: t.Mapping[str, t.Any], run_id: str) -> bool:
    """This run has armed it, and its watcher has not acted yet."""
    if (record.get("run") or {}).get("run_id") != run_id or not record.get("pid") or fired(state_dir) is not None:
        return False
    process = _server.read_process(int(record["pid"]))
    return process is not None and process.start_ticks == record.get("start_ticks")


def _postpone(ledger: Ledger, earlier: t.Mapping[str, t.Any], seconds: float) -> dict[str, t.Any]:
    """The watcher takes the new time from the record; the timer is another one, which runs before the old one goes."""
    record = {**earlier, **_until(ledger, seconds)}
    if record["kind"] == "systemd":
        (record["unit"],) = set(_units(earlier)) - {earlier["unit"]}
        _start_timer(ledger.state_dir, record, seconds)
    _write_armed(ledger.state_dir, record)
    if record["kind"] == "systemd":
        _stop_timers(earlier["unit"])
    return _public(record)


def _unit_of(state_dir: str) -> str:
    return "mysql-replica-backup-deadman-" + hashlib.sha256(os.path.realpath(state_dir).encode()).hexdigest()[:12]


def _units(record: t.Mapping[str, t.Any]) -> tuple[str, str]:
    """The two names that its timers have by turns, so that also one whose record was never written is found."""
    unit = str(record["unit"])
    first = unit[: -len(_SECOND)] if unit.endswith(_SECOND) else unit
    return first, first + _SECOND


def _command(state_dir: str) -> list[str]:
    return [sys.executable, os.path.join(state_dir, _PAYLOAD)]


_SECOND = "_again"
_UNIT_OPTIONS = (
    "--description=Start the database server that a backup stopped",
    # A server that is started as a plain process must outlive the unit.
    "--property=KillMode=process",
)


def _start_timer(state_dir: str, record: t.Mapping[str, t.Any], seconds: float) -> None:
    # One whose record was lost.
    _stop_timers(record["unit"])
    _systemctl("reset-failed", f"{record['unit']}.service", check=False)
    when = [f"--on-active={max(1, int(seconds))}s", "--timer-property=AccuracySec=100ms"]
    fire_it = [*_command(state_dir), "fire", state_dir, record["token"]]
    _run([*systemd_run(), f"--unit={record['unit']}", *when, *_UNIT_OPTIONS, *fire_it])


def _arm(state_dir: str, record: dict[str, t.Any], seconds: float) -> None:
    token = record["token"]
    command = _command(state_dir)
    if under_systemd():
        unit = _unit_of(state_dir)
        # A name of its own for each watcher: one that was called off may need a moment to end.
        record |= {"kind": "systemd", "unit": unit, "watcher": f"{unit}-{token[:8]}"}
        _write_armed(state_dir, record)
        _stop_timers(*_units(record))
        # What the timer will run is tried in the service manager's environment first.
        _run([*systemd_run(), "--wait", "--pipe", *command, "probe", state_dir, token])
        _start_timer(state_dir, record, seconds)
        watch = [*systemd_run(), f"--unit={record['watcher']}", *_UNIT_OPTIONS]
        # A watcher that is killed comes again. Old releases of systemd cannot be told that of a transient service.
        again = ["--property=Restart=on-failure", "--property=RestartSec=1"]
        try:
            _run([*watch, *again, *command, "watch", state_dir, token])
        except ReplicaBackupError:
            _run([*watch, *command, "watch", state_dir, token])
        _wait_for_watcher(state_dir, record, None)
    else:
        record["kind"] = "process"
        _write_armed(state_dir, record)
        watcher = subprocess.Popen(
            [*command, "watch", state_dir, token],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            close_fds=True,
            cwd="/",
        )
        _wait_for_watcher(state_dir, record, watcher)


def _wait_for_watcher(state_dir: str, record: dict[str, t.Any], watcher: subprocess.Popen[bytes] | None) -> None:
    """A watcher that cannot run (no PyMySQL for its interpreter, say) must be noticed before the stop."""
    ready = _ready_path(state_dir, record["token"])
    deadline = time.monotonic() + 30
    while not (pid := _read_pid(ready)):
        code = None if watcher is None else watcher.poll()
        if code is not None or time.monotonic() > deadline:
            raise ReplicaBackupError(
                "The dead-man could not be armed",
                found="no sign of life" if code is None else f"its process ended with code {code}",
                expected="a process that waits",
                server_state="running, not stopped",
            )
        time.sleep(0.05)
    os.unlink(ready)
    process = _server.read_process(pid)
    record |= {"pid": pid, "start_ticks": process.start_ticks if process else 0}
    _write_armed(state_dir, record)


def _ready_path(state_dir: str, token: str) -> str:
    return os.path.join(state_dir, f"deadman.ready.{token}")


def _read_pid(path: str) -> int:
    """The number that a watcher has written, 0 as long as it has not."""
    try:
        with open(path, encoding="ascii") as handle:
            text = handle.read()
    except FileNotFoundError:
        return 0
    return int(text) if text.endswith("\n") else 0


def disarm(state_dir: str) -> bool:
    """Call the dead-man off. True when one was armed."""
    record = armed(state_dir)
    for name in (_ARMED, _LOGIN, _RESERVE):
        # What cannot be removed now (the disk has become read-only) goes when the run is closed; its process ends here.
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(state_dir, name))
    if record is None:
        return False
    if record.get("kind") == "systemd":
        _stop_timers(*_units(record))
    if record.get("pid"):
        # Not through systemd, which kills what does not end in time: one that is at work ends when that is done.
        process = _server.read_process(int(record["pid"]))
        if process is not None and process.start_ticks == record["start_ticks"]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGTERM)
    return True


def _stop_timers(*units: str) -> None:
    _systemctl("stop", *(f"{unit}.timer" for unit in units), check=False)


def clear_fired(state_dir: str) -> None:
    """Forget a fired dead-man, once its record stands in the ledger."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(state_dir, _FIRED))


def _write_armed(state_dir: str, record: t.Mapping[str, t.Any]) -> None:
    _ledger.write_durably(os.path.join(state_dir, _ARMED), json.dumps(record) + "\n")


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if done.returncode:
        raise ReplicaBackupError(
            f"{command[0]} failed",
            found=f"exit code {done.returncode}: {done.stderr.strip()}",
            server_state="running, not stopped",
        )


def _systemctl(*arguments: str, check: bool) -> None:
    try:
        _run(["systemctl", *arguments])
    except ReplicaBackupError:
        if check:
            raise


def main(arguments: t.Sequence[str]) -> int:
    """Entry of ``deadman.pyz``.

    ``probe`` says whether it could work, ``watch`` waits for a reason to act, ``fire`` acts now; each with the state
    directory and the token that it was armed with.
    """
    action, state_dir, token = arguments
    if PYMYSQL_ERROR is not None:
        sys.stderr.write(f"{sys.executable} has no PyMySQL\n")
        return 3
    record: t.Mapping[str, t.Any] | None = armed(state_dir)
    if record is None or record["token"] != token:
        return 0
    if action == "probe":
        return 0
    login = login_of_armed(state_dir)
    reason = DEADLINE
    if action == "watch":
        look = _Look(state_dir, record)
        # One that systemd has started again is not waited for.
        if "pid" not in record:
            with open(_ready_path(state_dir, token), "w", encoding="ascii") as ready:
                ready.write(f"{os.getpid()}\n")
        found = look.wait()
        if found is None:
            return 0
        reason, record = found, look.record
    with _claim(state_dir):
        if _done(state_dir, token):
            return 0
        return fire(state_dir, record=record, login=login, reason=reason)


class _Look:
    """What the watcher looks at. The state directory may become unreadable, damaged, full or another one meanwhile."""

    def __init__(self, state_dir: str, record: t.Mapping[str, t.Any]) -> None:
        self._state_dir = state_dir
        self.record = record
        self._home = self._directory()
        self._last_sign = time.monotonic()
        self._last_sign_utc = _ledger.utc()

    def wait(self) -> str | None:
        """Until there is a reason to act, which is returned; None when the dead-man was called off."""
        every = float(self.record.get("look_every", LOOK_EVERY))
        quiet = 0
        while True:
            at_home = self._directory() == self._home
            if at_home:
                now = _record_now(self._state_dir, self.record)
                if now is None:
                    return None
                self.record = now
            left = float(self.record["deadline_mono"]) - time.monotonic()
            if left <= 0:
                return DEADLINE
            # Without the directory nothing is known of who is at work: then the deadline alone counts. One look is not
            # enough: a module may just have given the lock back for the next one to take.
            quiet = quiet + 1 if at_home and self._nobody_at_work() else 0
            if quiet > 1:
                return f"nobody has been at work on the run since {self._last_sign_utc}"
            time.sleep(min(every, left))

    def _directory(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._state_dir)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _nobody_at_work(self) -> bool:
        if _ledger.at_work(self._state_dir):
            return self._seen()
        try:
            ledger = _ledger.load(self._state_dir)
        except (ReplicaBackupError, OSError):
            ledger = None
        if ledger is None or ledger.data.get("run_id") != self.record["run"]["run_id"]:
            # Damaged or gone: no module can go on with it, nor say that it lives.
            return time.monotonic() - self._last_sign > _ledger.DEFAULT_LEASE
        return ledger.lease_left <= 0 or self._seen()

    def _seen(self) -> bool:
        self._last_sign = time.monotonic()
        self._last_sign_utc = _ledger.utc()
        return False


@contextlib.contextmanager
def _claim(state_dir: str) -> t.Iterator[None]:
    """Timer and watcher act one after the other. The code that both run is there to be locked also on a full disk."""
    try:
        descriptor = os.open(os.path.join(state_dir, _PAYLOAD), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        # A state directory that is gone must not keep the server down.
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _done(state_dir: str, token: str) -> bool:
    """Whether this dead-man, armed once, has brought the server back already."""
    try:
        record = fired(state_dir)
    except OSError:
        return False
    return record is not None and record.get("token") == token and "finished" in record and "error" not in record


def fire(
    state_dir: str,
    *,
    record: t.Mapping[str, t.Any] | None = None,
    login: Login | None = None,
    reason: str = DEADLINE,
    attempts: int = _ATTEMPTS,
    pause: float = _PAUSE,
) -> int:
    """Bring the server back and leave a record. 0 when the server is as before, or none is armed.

    ``record`` and ``login`` are what it was armed with, read from the state directory when not given. Nothing that is
    wrong with the state directory (full, damaged, gone) keeps the server down.
    """
    record = record or armed(state_dir)
    login = login or login_of_armed(state_dir)
    if record is None or login is None:
        return 0
    login = replace(login, connect_timeout=10)
    ledger = _ledger_or_copy(state_dir, record)
    told: dict[str, t.Any] = {
        "fired": _ledger.utc(),
        "token": record.get("token"),
        "run_id": ledger.run_id,
        "reason": reason,
        "outcome": "under way",
    }
    # The record comes first: whoever archives must see it before the server touches its files.
    _tell(state_dir, told)
    limits = BringBackLimits(stop=24 * 3600.0, start=600.0)
    for attempt in range(1, attempts + 1):
        try:
            result = _bringback.bring_back(ledger, login, limits)
        except Exception as error:  # whatever it is, the record must tell it and the next attempt may work
            told |= {"outcome": "failed", "error": str(error), "attempts": attempt}
        else:
            told |= {
                "outcome": STARTED if result.server_started else WAS_RUNNING,
                "ready_mono": result.ready_mono,
                "actions": list(result.actions),
                "warnings": list(result.warnings),
                "attempts": attempt,
            }
            told.pop("error", None)
        told["finished"] = _ledger.utc()
        _tell(state_dir, told)
        if "error" not in told:
            break
        if attempt < attempts:
            time.sleep(min(pause * 2.0 ** min(attempt - 1, 10), max(pause, _LONGEST_PAUSE)))
            if os.path.isdir(state_dir) and _record_now(state_dir, record) is None:
                # Recover, or the next run, has done it meanwhile.
                return 0
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(state_dir, _LOGIN))
    if "error" in told:
        return 1
    if record.get("kind") == "systemd":
        _stop_timers(*_units(record))
    return 0


def _record_now(state_dir: str, record: t.Mapping[str, t.Any]) -> t.Mapping[str, t.Any] | None:
    """As armed now, perhaps for another time; None when called off, or another one was armed since.

    A record that cannot be read says neither: then it is as it was.
    """
    try:
        with open(os.path.join(state_dir, _ARMED), encoding="utf-8") as handle:
            now = json.load(handle)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return record
    if not isinstance(now, dict) or "token" not in now:
        return record
    if now["token"] != record["token"]:
        return None
    return {**record, **now}


def _ledger_or_copy(state_dir: str, record: t.Mapping[str, t.Any]) -> Ledger:
    """The open ledger, or the copy made when the dead-man was armed if that one is damaged or gone."""
    try:
        ledger = _ledger.load(state_dir)
    except (ReplicaBackupError, OSError):
        ledger = None
    # The copy is from before the shutdown; that the server was asked to stop is the safe assumption.
    return ledger or Ledger(state_dir, {**record["run"], "stop_requested": True})


def _tell(state_dir: str, told: t.Mapping[str, t.Any]) -> None:
    """Write the record; into room kept for it when the disk is full; not at all when there is none."""
    path = os.path.join(state_dir, _FIRED)
    text = json.dumps(told) + "\n"
    try:
        _ledger.write_durably(path, text)
        return
    except OSError:
        pass
    reserve = os.path.join(state_dir, _RESERVE)
    for name in (reserve, path):
        with contextlib.suppress(OSError), open(name, "r+", encoding="utf-8") as handle:
            handle.write(text[: _RESERVE_BYTES - 1].ljust(_RESERVE_BYTES))
            handle.flush()
            os.rename(name, path)
            return
