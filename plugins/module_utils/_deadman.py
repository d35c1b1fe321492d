# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dead-man: starts a server that we stopped when nobody else does in time.

It lives on the replica and needs neither the controller nor the connection. As root under systemd it is a
transient timer, elsewhere a detached process. Both run the same file, ``STATE_DIR/deadman.pyz``: the collection's
own code, carried along by the module that armed it, because Ansible removes a module's files when it ends.

Files in the state directory: ``deadman.json`` (armed: how and until when), ``deadman.login`` (mode 0600, how
to log in; removed when the dead-man is called off or has fired), ``deadman.fired`` (what it did; an archive during
which it fired is never published).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
import typing as t
import uuid
import zipfile
from dataclasses import replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _bringback, _ledger, _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._bringback import BringBackLimits
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

_PACKAGE = "ansible_collections.mysql_ops.replica_backup.plugins.module_utils"
_PAYLOAD = "deadman.pyz"
_ARMED = "deadman.json"
_LOGIN = "deadman.login"
_FIRED = "deadman.fired"
_MAIN = f"import sys\nfrom {_PACKAGE}._deadman import main\nsys.exit(main(sys.argv[1:]))\n"
# Attempts to bring the server back, and seconds between them.
_ATTEMPTS = 10
_PAUSE = 30.0


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


def arm(state_dir: str, login: Login, seconds: float) -> dict[str, t.Any]:
    """Let the server be started in ``seconds`` from now unless ``disarm`` comes first.

    Raises ReplicaBackupError when that cannot be arranged; the server must then not be stopped.
    """
    disarm(state_dir)
    clear_fired(state_dir)
    _write_payload(state_dir)
    # The password goes to a file that only this user can read, and only for as long as the dead-man is armed.
    _ledger.write_durably(os.path.join(state_dir, _LOGIN), json.dumps(login.to_dict()))
    token = uuid.uuid4().hex
    record: dict[str, t.Any] = {
        "token": token,
        "deadline": _ledger.utc(time.time() + seconds),
        "deadline_mono": time.monotonic() + seconds,
        "boot_id": _ledger.boot_id(),
    }
    command = [sys.executable, os.path.join(state_dir, _PAYLOAD)]
    if os.path.isdir("/run/systemd/system") and os.geteuid() == 0:
        unit = "mysql-replica-backup-deadman-" + hashlib.sha256(os.path.realpath(state_dir).encode()).hexdigest()[:12]
        record |= {"kind": "systemd", "unit": unit}
        _write_armed(state_dir, record)
        _systemctl("reset-failed", f"{unit}.service", check=False)
        _run(
            [
                "systemd-run",
                "--quiet",
                "--collect",
                f"--unit={unit}",
                f"--on-active={max(1, int(seconds))}s",
                "--timer-property=AccuracySec=100ms",
                "--description=Start the database server that a backup stopped",
                # A server that is started as a plain process must outlive the unit.
                "--property=KillMode=process",
                *command,
                "fire",
                state_dir,
                token,
            ]
        )
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
    return record


def _wait_for_watcher(state_dir: str, record: dict[str, t.Any], watcher: subprocess.Popen[bytes]) -> None:
    """A watcher that cannot run (no PyMySQL for its interpreter, say) must be noticed before the stop."""
    ready = os.path.join(state_dir, f"deadman.ready.{record['token']}")
    deadline = time.monotonic() + 30
    while not os.path.exists(ready):
        if watcher.poll() is not None or time.monotonic() > deadline:
            raise ReplicaBackupError(
                "The dead-man could not be armed",
                found=f"its process ended with code {watcher.returncode}" if watcher.returncode else "no sign of life",
                expected="a process that waits",
                server_state="running, not stopped",
            )
        time.sleep(0.05)
    os.unlink(ready)
    process = _server.read_process(watcher.pid)
    record |= {"pid": watcher.pid, "start_ticks": process.start_ticks if process else 0}
    _write_armed(state_dir, record)


def disarm(state_dir: str) -> bool:
    """Call the dead-man off. True when one was armed."""
    record = armed(state_dir)
    for name in (_ARMED, _LOGIN):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(state_dir, name))
    if record is None:
        return False
    if record.get("kind") == "systemd":
        _systemctl("stop", f"{record['unit']}.timer", check=False)
    elif record.get("pid"):
        process = _server.read_process(int(record["pid"]))
        if process is not None and process.start_ticks == record["start_ticks"]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGTERM)
    return True


def clear_fired(state_dir: str) -> None:
    """Forget a fired dead-man, once its record stands in the ledger."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(state_dir, _FIRED))


def _write_armed(state_dir: str, record: t.Mapping[str, t.Any]) -> None:
    _ledger.write_durably(os.path.join(state_dir, _ARMED), json.dumps(record) + "\n")


def _write_payload(state_dir: str) -> None:
    """Pack the collection's loaded code into one runnable file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", _MAIN)
        parts = _PACKAGE.split(".")
        for depth in range(1, len(parts) + 1):
            archive.writestr("/".join(parts[:depth]) + "/__init__.py", "")
        for name in sorted(sys.modules):
            # _module talks to Ansible, which is not there when the dead-man runs.
            if not name.startswith(f"{_PACKAGE}._") or name == f"{_PACKAGE}._module":
                continue
            spec = importlib.util.find_spec(name)
            if spec is None or spec.loader is None:
                raise ReplicaBackupError(f"The code of {name} cannot be found")
            source: str | None = t.cast(t.Any, spec.loader).get_source(name)
            path = name.replace(".", "/")
            path += "/__init__.py" if spec.submodule_search_locations is not None else ".py"
            archive.writestr(path, source or "")
    path = os.path.join(state_dir, _PAYLOAD)
    partial = f"{path}.partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as handle:
        handle.write(buffer.getvalue())
        handle.flush()
        os.fsync(handle.fileno())
    os.rename(partial, path)


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
    """Entry of ``deadman.pyz``: ``watch STATE_DIR TOKEN`` waits for the deadline, ``fire STATE_DIR TOKEN`` acts now."""
    action, state_dir, token = arguments
    if action == "watch":
        with open(os.path.join(state_dir, f"deadman.ready.{token}"), "w", encoding="utf-8"):
            pass
        while True:
            record = armed(state_dir)
            if record is None or record["token"] != token:
                return 0
            if time.monotonic() >= record["deadline_mono"]:
                break
            time.sleep(0.5)
    record = armed(state_dir)
    if record is None or record["token"] != token:
        return 0
    return fire(state_dir)


def fire(state_dir: str, *, attempts: int = _ATTEMPTS, pause: float = _PAUSE) -> int:
    """Bring the server back and leave a record. 0 when the server is as before."""
    ledger = _ledger.load(state_dir)
    if ledger is None:
        return 0
    login = login_of_armed(state_dir)
    if login is None:
        return 0
    login = replace(login, connect_timeout=10)
    record: dict[str, t.Any] = {"fired": _ledger.utc(), "run_id": ledger.run_id, "outcome": "under way"}
    path = os.path.join(state_dir, _FIRED)
    # The record comes first: whoever archives must see it before the server touches its files.
    _ledger.write_durably(path, json.dumps(record) + "\n")
    limits = BringBackLimits(stop=24 * 3600.0, start=600.0)
    for attempt in range(1, attempts + 1):
        try:
            result = _bringback.bring_back(ledger, login, limits)
        except Exception as error:  # whatever it is, the record must tell it and the next attempt may work
            record |= {"outcome": "failed", "error": str(error), "attempts": attempt}
        else:
            record |= {
                "outcome": "server started" if result.server_started else "server was running",
                "ready_mono": result.ready_mono,
                "actions": list(result.actions),
                "warnings": list(result.warnings),
                "attempts": attempt,
            }
            record.pop("error", None)
        record["finished"] = _ledger.utc()
        _ledger.write_durably(path, json.dumps(record) + "\n")
        if "error" not in record:
            break
        if attempt < attempts:
            time.sleep(pause)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(state_dir, _LOGIN))
    return 1 if "error" in record else 0
