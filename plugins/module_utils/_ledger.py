# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: what a run has done to a server and the state before, on the replica's own disk.

``STATE_DIR/ledger.json`` is written and fsynced before each step that changes the host, so that whoever
comes next (the dead-man, a later run, a person) knows what to put back. ``STATE_DIR/lock`` is held by
flock while a module works: the kernel drops it when the holder dies. Between two modules of one run, when nobody
holds the lock, the ``lease`` in the ledger keeps other runs out, and the dead-man quiet, for a bounded time. All of it
is measured on the monotonic clock: a clock that is set changes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import stat
import time
import typing as t
from dataclasses import dataclass, field
from datetime import datetime, timezone

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    RefusedError,
    ReplicaBackupError,
    os_error_text,
    recover_command,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths

FORMAT = 1
_LEDGER = "ledger.json"
_LAST = "ledger.last.json"
_LOCK = "lock"
_NAMELESS = "a holder that has not written its name yet"
# Seconds for which a run is held to be alive after its last note when no module of it is at work.
DEFAULT_LEASE = 90.0


def utc(seconds: float | None = None) -> str:
    """UTC as ISO 8601 with microseconds; now when ``seconds`` (epoch) is None."""
    moment = datetime.fromtimestamp(time.time() if seconds is None else seconds, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_since(moment: str) -> float:
    """Seconds from ``moment``, as ``utc`` writes it, until now."""
    then = datetime.strptime(moment, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    return time.time() - then.timestamp()


def boot_id() -> str:
    """Changes with every boot of the host; monotonic times are comparable only within one."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as handle:
        return handle.read().strip()


def ledger_path(state_dir: str) -> str:
    return os.path.join(state_dir, _LEDGER)


def prepare_state_dir(state_dir: str) -> None:
    """Create the directory with mode 0700, or refuse one that others could tamper with."""
    try:
        os.mkdir(state_dir, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise _no_state_dir(state_dir, error.strerror or str(error)) from error
    check_state_dir(state_dir)
    if stat.S_IMODE(os.lstat(state_dir).st_mode) != 0o700:
        os.chmod(state_dir, 0o700)


def _no_state_dir(state_dir: str, found: str) -> RefusedError:
    return RefusedError(
        f"The state directory {state_dir} cannot be made",
        found=found,
        expected="a directory of this user, or a writable parent; variable replica_backup_state_dir",
        rule="state_dir",
    )


def check_state_dir(state_dir: str) -> None:
    """Refuse what ``prepare_state_dir`` would refuse, without making anything."""
    if not os.path.lexists(state_dir):
        parent = os.path.dirname(os.path.abspath(state_dir))
        if not os.access(parent, os.W_OK | os.X_OK):
            raise _no_state_dir(state_dir, f"{parent} does not exist or cannot be written")
        return
    status = os.lstat(state_dir)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise RefusedError(
            f"The state directory {state_dir} cannot be trusted",
            found=f"mode {stat.filemode(status.st_mode)}, owner {status.st_uid}",
            expected=f"a directory (no link) owned by user {os.geteuid()}; variable replica_backup_state_dir",
            rule="state_dir",
        )


def write_durably(path: str, text: str) -> None:
    """Replace ``path`` (mode 0600) so that after a crash it holds the old text or the new one, never less."""
    partial = f"{path}.partial"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.rename(partial, path)
    sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """fsync of a directory, so that names made or renamed in it survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(state_dir: str, who: str, *, timeout: float = 10.0) -> t.Iterator[None]:
    """Hold the server's lock. Waits up to ``timeout`` seconds, then refuses with the holder's name and since when."""
    prepare_state_dir(state_dir)
    path = os.path.join(state_dir, _LOCK)
    descriptor = _open_lock(path)
    try:
        # A dead-man that looks whether somebody is at work has the lock for a moment; that is no other run.
        deadline = time.monotonic() + max(timeout, 0.5)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            if time.monotonic() >= deadline:
                raise RefusedError(
                    f"Another run is at work on this server (lock {path})",
                    found=_name_in(descriptor),
                    expected="no other run",
                    next_command="wait for it to end, then start this again; if its controller is dead, "
                    f"{recover_command()} -e replica_backup_take_over=true ends it",
                    rule="lock",
                )
            time.sleep(0.2)
        # The name is for the one who waits. A disk that takes no more must not keep a server down for it.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{who}, pid {os.getpid()}, since {utc()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: str) -> int:
    """A descriptor for flock, which needs no right to write: the disk may have become read-only since the stop."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        with contextlib.suppress(OSError):
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        raise ReplicaBackupError(
            f"The lock {path} cannot be opened",
            found=os_error_text(error),
            expected="a state directory that can be written; variable replica_backup_state_dir",
            rule="state_dir",
        ) from error


def at_work(state_dir: str) -> bool:
    """Whether a module holds the lock now. Waits for nothing and writes nothing."""
    try:
        descriptor = os.open(os.path.join(state_dir, _LOCK), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


def holder(state_dir: str) -> str | None:
    """Who holds the lock now, by its own words; None when nobody does. Waits for nothing and writes nothing."""
    if not at_work(state_dir):
        return None
    try:
        descriptor = os.open(os.path.join(state_dir, _LOCK), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return _NAMELESS
    try:
        return _name_in(descriptor)
    finally:
        os.close(descriptor)


def _name_in(descriptor: int) -> str:
    return os.pread(descriptor, 4096, 0).decode("utf-8", "replace").strip() or _NAMELESS


def end_holder(state_dir: str) -> str | None:
    """Tell the module that holds the lock to end (SIGTERM); it undoes what it has begun. Returns who that was."""
    path = os.path.join(state_dir, _LOCK)
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            holder = handle.read().strip()
            inode = os.fstat(handle.fileno()).st_ino
    except OSError:
        return None
    match = re.search(r", pid (\d+),", holder)
    pid = int(match[1]) if match else 0
    if not pid or pid == os.getpid() or not _has_open(pid, inode):
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    return holder


def _has_open(pid: int, inode: int) -> bool:
    """Whether the process has the lock file open: a number in a file alone may be another process's by now."""
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:
        return False
    for name in names:
        with contextlib.suppress(OSError):
            if os.stat(os.path.join(directory, name)).st_ino == inode:
                return True
    return False


@dataclass
class Ledger:
    """The open ledger of one run. ``data`` is what stands in the file; ``save`` makes it durable."""

    state_dir: str
    data: dict[str, t.Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return ledger_path(self.state_dir)

    @property
    def run_id(self) -> str:
        return str(self.data["run_id"])

    def is_of(self, paths: SetPaths) -> bool:
        """Whether it is that of this backup of this host, whichever run of it."""
        return (self.data.get("host"), self.data.get("backup_id")) == (paths.host, paths.backup_id)

    @property
    def step(self) -> str:
        """The last step begun: opened, flush, precopy, quiesce, shutdown, stopped, capture, start, serving, catch_up,
        archive."""
        return str(self.data["step"])

    def save(self, *, lease: float | None = None) -> None:
        """Write and fsync; the run is held to be alive for another ``lease`` seconds.

        The default is what the run was opened with (``lease_seconds``), else DEFAULT_LEASE.
        """
        if lease is None:
            lease = float(self.data.get("lease_seconds", DEFAULT_LEASE))
        self.data["lease"] = {"until_mono": time.monotonic() + lease, "until": utc(time.time() + lease)}
        self.data["boot_id"] = boot_id()
        write_durably(self.path, json.dumps(self.data, indent=1, sort_keys=True) + "\n")

    def begin(self, step: str, *, must: bool = True) -> None:
        """Note that ``step`` starts now, durably, before anything of it is done.

        ``must`` False is for steps that bring the server back: they go on when the disk takes no note.
        """
        self.data["step"] = step
        self.data.setdefault("times", {})[step] = {"start": utc(), "start_mono": time.monotonic()}
        self._note(must)

    def end(self, step: str, *, must: bool = True, save: bool = True) -> None:
        """Note that ``step`` has ended; with ``save`` False the next note makes it durable."""
        now = self.data["times"][step]
        now["end"] = utc()
        now["seconds"] = round(time.monotonic() - now["start_mono"], 3)
        if save:
            self._note(must)

    def hand_on(self, *, must: bool = True) -> None:
        """A module of the run ends while the server is down; the next one may be as long in coming as was agreed.

        ``gap_seconds`` says how long: a controller with several hosts under way may be held up by another of them.
        """
        self._note(must, lease=float(self.data.get("gap_seconds", DEFAULT_LEASE)))

    def wait_for_transfer(self) -> None:
        """Data leave the host, the server is down and no module is at work: alive until the dead-man's deadline."""
        left = float((self.data.get("deadman") or {}).get("deadline_mono", 0.0)) - time.monotonic()
        self._note(must=True, lease=max(left, DEFAULT_LEASE))

    @property
    def server_is_back(self) -> bool:
        """Whether the run has started the server again (or the dead-man has, and the run has seen it)."""
        return self.step in ("serving", "catch_up", "archive")

    @property
    def server_touched(self) -> bool:
        """Whether the run may have changed anything of the server: not before the flush or the stop of the threads."""
        return self.step not in ("opened", "precopy")

    @property
    def server_is_down(self) -> bool:
        """Whether the run has stopped the server and not begun to start it."""
        return self.step in ("stopped", "capture")

    def _note(self, must: bool, lease: float | None = None) -> None:
        try:
            self.save(lease=lease)
        except OSError as error:
            if must:
                raise ReplicaBackupError(
                    f"The ledger {self.path} cannot be written",
                    found=error.strerror,
                    expected="a state directory that can be written; variable replica_backup_state_dir",
                ) from error
            self.warn(f"The ledger {self.path} could not be written: {error.strerror}")

    @property
    def lease_left(self) -> float:
        """Seconds for which the run must still be held to be alive; 0 after a reboot."""
        lease = self.data.get("lease")
        if not lease or self.data.get("boot_id") != boot_id():
            return 0.0
        return max(0.0, float(lease["until_mono"]) - time.monotonic())

    def warn(self, text: str) -> None:
        warnings = self.data.setdefault("warnings", [])
        if text not in warnings:
            warnings.append(text)

    def close(self, outcome: str) -> None:
        """The run is over and nothing is left to put back. The ledger stays readable as ``ledger.last.json``."""
        self.data["status"] = "closed"
        self.data["outcome"] = outcome
        self.data["closed"] = utc()
        self._note(must=True, lease=0.0)
        os.rename(self.path, os.path.join(self.state_dir, _LAST))
        sync_directory(self.state_dir)


def public_times(ledger: Ledger) -> dict[str, dict[str, t.Any]]:
    """Per step: ``start`` and ``end`` (UTC, ISO 8601) and ``seconds``; for results and manifests."""
    return {
        step: {key: value for key, value in span.items() if key in ("start", "end", "seconds")}
        for step, span in ledger.data.get("times", {}).items()
    }


def load(state_dir: str) -> Ledger | None:
    """The open ledger, or None when no run is open. Raises ReplicaBackupError when it cannot be read."""
    return _read(state_dir, _LEDGER)


def load_of(state_dir: str, paths: SetPaths) -> Ledger | None:
    """The open ledger when it is that of this backup of this host; None when there is none, or another run's."""
    ledger = load(state_dir)
    return ledger if ledger is not None and ledger.is_of(paths) else None


def load_last(state_dir: str) -> Ledger | None:
    """The ledger of the last run that ended."""
    return _read(state_dir, _LAST)


def _read(state_dir: str, name: str) -> Ledger | None:
    path = os.path.join(state_dir, name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ReplicaBackupError(
            f"The ledger {path} cannot be read", found=error.strerror, expected="the user that the backup runs as"
        ) from error
    with open(descriptor, encoding="utf-8") as handle:
        try:
            data = json.load(handle)
            if not isinstance(data, dict) or data.get("format") != FORMAT:
                raise ValueError(f"not a ledger of format {FORMAT}")
        except ValueError as error:
            raise ReplicaBackupError(
                f"The ledger {path} is not readable",
                found=str(error),
                expected=f"a ledger of format {FORMAT}",
                server_state="not known from here",
                next_command=f"look at the server and at {path}, start the server by hand, then move the file away",
            ) from error
    return Ledger(state_dir, data)


def open_new(state_dir: str, data: t.Mapping[str, t.Any]) -> Ledger:
    """Open the ledger of a new run. Refuses while another run's ledger is open."""
    present = load(state_dir)
    if present is not None:
        raise unfinished(present)
    ledger = Ledger(state_dir, {"format": FORMAT, "status": "open", "opened": utc(), "warnings": [], **data})
    ledger.begin("opened")
    ledger.end("opened")
    return ledger


def unfinished(ledger: Ledger) -> RefusedError:
    """The refusal that an open ledger of another run earns."""
    holder = ledger.data
    recover = recover_command(holder.get("host"))
    if ledger.lease_left:
        advice = (
            "wait for it to end, then start this again; if its controller is dead: "
            f"{recover} -e replica_backup_take_over=true"
        )
    else:
        advice = recover
    return RefusedError(
        f"An earlier run on this server is not finished (ledger {ledger.path})",
        found=f"run {holder.get('run_id')} of backup {holder.get('backup_id')}, opened {holder.get('opened')}, "
        f"step {holder.get('step')}, taken for alive until {holder.get('lease', {}).get('until')}",
        expected="no open ledger",
        next_command=advice,
        rule="lock",
    )
