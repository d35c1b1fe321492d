# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Throw-away directories of drills: made, known again after a run that was killed, and removed with their servers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import stat
import tempfile
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError

PREFIX = "replica-drill-"
OPTION_FILE = "my.cnf"
SOCKET = "s"
# Marks a directory that was to be kept.
_KEPT = "kept"
# sun_path holds 108 bytes with the one that ends it (unix(7)).
_LONGEST_SOCKET = 107
_KILL_SECONDS = 30.0


@dataclass(frozen=True)
class Account:
    """Who the private server runs as: servers do not run as root."""

    name: str
    uid: int
    gid: int


def server_account() -> Account | None:
    """The account for servers of root's; None when we are not root and the server runs as we do."""
    if os.geteuid() != 0:
        return None
    for name in ("mysql", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise RefusedError(
        "There is no account that a private server could run as",
        found="neither mysql nor nobody on this host",
        expected="one of them, or a drill that is not run by root",
        rule="account",
    )


def command_of(exe: str, directory: str) -> list[str]:
    """The command line of the private server in a scratch directory; by it a later run knows the process."""
    return [exe, f"--defaults-file={os.path.join(directory, OPTION_FILE)}"]


class Scratch:
    """A directory of one drill, with everything in it. Use as a context manager; ``keep`` leaves the directory."""

    def __init__(self, parent: str, *, keep: bool = False) -> None:
        self.parent = usable(parent)
        self.keep = keep
        self.directory = ""
        self.removed: tuple[str, ...] = ()
        self._lock = -1

    def __enter__(self) -> Scratch:
        with _locked(self.parent):
            self.removed = remove_leftovers(self.parent)
            self.directory = tempfile.mkdtemp(prefix=PREFIX, dir=self.parent)
            # Whoever can lock it is not us: our own lock ends with our process, however it ends.
            self._lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *exception: object) -> None:
        with uninterrupted():
            try:
                end_servers(self.directory)
                if self.keep:
                    open(os.path.join(self.directory, _KEPT), "wb").close()
                else:
                    _remove(self.directory)
            finally:
                os.close(self._lock)

    def give_to(self, account: Account | None) -> None:
        """Let the account have everything; owners in a set are those of another host."""
        if account is None:
            return
        for directory, names, files in os.walk(os.fsencode(self.directory)):
            for name in [b".", *names, *files]:
                os.chown(os.path.join(directory, name), account.uid, account.gid, follow_symlinks=False)


def usable(parent: str) -> str:
    """The directory with its links resolved. Raises RefusedError when no drill can be done below it."""
    path = os.path.realpath(parent)
    if not os.path.isdir(path):
        raise RefusedError(
            f"The scratch directory {parent} does not exist",
            found="no such directory",
            expected="a directory on a disk with room for the whole set",
            next_command="make it, or name another in scratch_dir",
            rule="scratch_dir",
        )
    longest = os.path.join(path, f"{PREFIX}xxxxxxxx", SOCKET)
    if len(os.fsencode(longest)) > _LONGEST_SOCKET:
        raise RefusedError(
            "The name of the scratch directory is too long for a socket below it",
            found=f"{longest}, {len(os.fsencode(longest))} bytes",
            expected=f"at most {_LONGEST_SOCKET} bytes",
            next_command="name another directory in scratch_dir",
            rule="scratch_dir",
        )
    return path


@contextlib.contextmanager
def _locked(directory: str) -> t.Iterator[None]:
    """While a drill makes its directory no other takes it for a leftover."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sweep(parent: str) -> tuple[str, ...]:
    """Remove what killed runs have left below ``parent``; returns their directories."""
    with _locked(usable(parent)):
        return remove_leftovers(usable(parent))


@contextlib.contextmanager
def uninterrupted() -> t.Iterator[None]:
    """A second signal does not stop the cleaning up that the first one caused."""
    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        # Only the main thread may; elsewhere no handler runs either.
        with contextlib.suppress(ValueError):
            before[number] = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def remove_leftovers(parent: str) -> tuple[str, ...]:
    """End the servers and remove the directories of runs that were killed; returns these directories.

    Only directories of our own account that no living run holds.
    """
    account = server_account()
    ours = {os.geteuid(), *([account.uid] if account else [])}
    removed = []
    for name in sorted(os.listdir(parent)):
        path = os.path.join(parent, name)
        if not name.startswith(PREFIX):
            continue
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid not in ours:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.exists(os.path.join(path, _KEPT)):
                    continue
                end_servers(path)
                _remove(path)
                removed.append(path)
            finally:
                os.close(descriptor)
    return tuple(removed)


def servers_of(directory: str) -> list[_server.ServerProcess]:
    """The processes that were started with the option file in this directory."""
    wanted = command_of("", directory)[1]
    found = (_server.read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [process for process in found if process is not None and wanted in process.argv[1:2]]


def end_servers(directory: str) -> None:
    """Kill the servers of this directory and wait until they are gone; their data are thrown away with it."""
    for process in servers_of(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        deadline = time.monotonic() + _KILL_SECONDS
        while _server.is_alive(process):
            if time.monotonic() > deadline:
                raise ReplicaBackupError(
                    "A private server does not end",
                    found=f"process {process.pid} of {directory} {_KILL_SECONDS:g} s after SIGKILL",
                    expected="its end",
                )
            time.sleep(0.02)


def _remove(directory: str) -> None:
    try:
        shutil.rmtree(os.fsencode(directory))
    except FileNotFoundError:
        return
    except OSError as error:
        raise ReplicaBackupError(
            f"The scratch directory {directory} could not be removed",
            found=str(error),
            expected="nothing of a drill left",
            next_command=f"rm -r {directory}",
        ) from error
