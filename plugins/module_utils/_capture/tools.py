# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the snapshots of all volumes need of the host: tools, the right to use them, mounts of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import make_private_directory
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import mounts
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers import commands

# The tools wait for the storage below; more than this in the window would be worse than no snapshot. Seconds.
TIMEOUT = 60.0
# For what must not be killed half way. Seconds.
PATIENT = 3600.0
# What was just read may be held a moment longer by whoever looks at new devices and mounts (udev, a virus scanner).
_ATTEMPTS, _WAIT = 10, 0.5
_CAP_SYS_ADMIN = 21
# So much of a file system has to be free when a snapshot is taken: its old blocks stay as long as it lives. Bytes.
_ROOM, _ROOM_SHARE = 1024**3, 0.05


def path_of(name: str) -> str | None:
    """The absolute path of a tool, None where it is not installed."""
    return shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + commands.PATH)


def run(name: str, *arguments: str, timeout: float = TIMEOUT) -> str:
    """The output of a tool in the C locale. Raises ReplicaBackupError with its stderr."""
    tool = path_of(name)
    if tool is None:
        raise ReplicaBackupError(
            f"{name} is not installed", found="no such program", expected=f"{name} in {commands.PATH}"
        )
    return commands.must([tool, *arguments], timeout)


def run_whole(name: str, *arguments: str) -> str:
    """As ``run``, for a tool that must not be killed half way: a signal to this process waits for its end."""
    with _signals_wait():
        return run(name, *arguments, timeout=PATIENT)


@contextlib.contextmanager
def _signals_wait() -> t.Iterator[None]:
    """A handler that raises would have the tool killed (subprocess.run); what came meanwhile is answered after it."""
    came: list[int] = []

    def note(number: int, _frame: t.Any) -> None:
        came.append(number)

    before: dict[int, t.Any] = {}
    # Elsewhere no handler runs.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) is not None:
                before[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for given, handler in before.items():
            signal.signal(given, handler)
        for again in sorted(set(came)):
            signal.raise_signal(again)


def insist(action: t.Callable[[], str]) -> None:
    """Do what may be refused as long as somebody holds the thing, a few times. Raises ReplicaBackupError."""
    for attempt in range(_ATTEMPTS):
        try:
            action()
            return
        except ReplicaBackupError:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_WAIT)


def may_administer() -> bool:
    """Whether this process has CAP_SYS_ADMIN, without which a snapshot can be made but not removed on btrfs."""
    for line in fs.read_text("/proc/self/status").splitlines():
        name, _colon, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> _CAP_SYS_ADMIN & 1)
    return False


class Room(t.NamedTuple):
    """Bytes of a file system or pool that the server could still use."""

    available: int
    total: int

    @classmethod
    def of(cls, path: str) -> Room:
        status = os.statvfs(fs.encode(path))
        return cls(status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize)

    @property
    def least(self) -> int:
        return min(_ROOM, int(self.total * _ROOM_SHARE))

    def refusal(self) -> str:
        """Why there is no room for a snapshot; "" when there is."""
        if self.available >= self.least:
            return ""
        return f"{self.available // 1024**2} MiB are free, less than the {self.least // 1024**2} MiB that it needs"

    def check(self, what: str, why: str = "a snapshot holds back what the server has changed or deleted since") -> None:
        """Raise before what a backup takes fills the disk for the server: at half of what had to be free at first."""
        if self.available < self.least // 2:
            raise ReplicaBackupError(
                f"{what} is nearly full, and {why}",
                found=f"{self.available} bytes free",
                expected=f"at least {self.least // 2}",
                next_command="make room there, or set replica_backup_capture to cold, then run the backup again",
                rule="snapshot_overflow",
            )


def mount(device: str, at: str, fs_type: str, options: str) -> None:
    """Mount read-only in a private directory; nothing is done when it is mounted. Raises ReplicaBackupError."""
    if not _is_mount(at):
        make_private_directory(at)
        run("mount", "-t", fs_type, "-o", f"ro,nodev,nosuid,noexec,{options}", device, at)


def unmount(at: str) -> bool:
    """Unmount and remove the directory; whether there was one. Raises ReplicaBackupError, OSError."""
    if fs.lstat(at) is None:
        return False
    while _is_mount(at):
        insist(lambda: run("umount", at))
    os.rmdir(fs.encode(at))
    return True


def remove_if_empty(directory: str) -> None:
    """The work directory of a set that was published while a clone in it could not be removed."""
    with contextlib.suppress(OSError):
        os.rmdir(fs.encode(directory))


def _is_mount(path: str) -> bool:
    real = fs.real(path)
    return any(mount.point == real for mount in mounts.mounts())
