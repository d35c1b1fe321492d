# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server as the operating system sees it: its process, its locks, its open files.

Everything here is read-only. A server is known by its data directory, never by its name alone, because one
host may run several. Where something cannot be seen (another user's process, a container without ptrace) the
answer is "unknown" and never "not there".
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import struct
import time
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

_SERVER_NAME = re.compile(r"\A(?:mysqld|mariadbd)(?:[-.][\w.-]*)?\Z")
_NOT_A_SERVER = re.compile(r"safe|multi|helper|admin|dump")
# Files that a server keeps locked while it runs, named below its data directory.
LOCKED_IN_DATADIR = ("ibdata1", "aria_log_control", "mysql.ibd")


@dataclass(frozen=True)
class ServerProcess:
    """One process, told apart from a later one of the same number by ``start_ticks``.

    ``start_ticks`` is field 22 of /proc/PID/stat. ``exe`` and ``cwd`` are empty where the kernel does not let
    us read them (a foreign user's process, or root in a container without CAP_SYS_PTRACE).
    """

    pid: int
    start_ticks: int
    exe: str
    argv: tuple[str, ...]
    cwd: str
    uid: int
    gid: int
    parent_pid: int

    def to_dict(self) -> dict[str, t.Any]:
        return {**asdict(self), "argv": list(self.argv)}

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> ServerProcess:
        return cls(
            pid=int(data["pid"]),
            start_ticks=int(data["start_ticks"]),
            exe=str(data["exe"]),
            argv=tuple(str(word) for word in data["argv"]),
            cwd=str(data["cwd"]),
            uid=int(data["uid"]),
            gid=int(data["gid"]),
            parent_pid=int(data["parent_pid"]),
        )


def read_bytes(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def proc_text(pid: int, name: str) -> str:
    """A file of /proc/PID as text; empty when it cannot be read."""
    try:
        return os.fsdecode(read_bytes(f"/proc/{pid}/{name}"))
    except OSError:
        return ""


def _readlink(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _stat_fields(pid: int) -> tuple[str, int, int] | None:
    """State letter, parent and start ticks of a process; ``None`` when there is none."""
    try:
        text = read_bytes(f"/proc/{pid}/stat").decode("utf-8", "surrogateescape")
    except OSError:
        return None
    # The command stands in parentheses and may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return (fields[0], int(fields[1]), int(fields[19])) if len(fields) > 19 else None


def read_process(pid: int) -> ServerProcess | None:
    """The process of that number, or ``None`` when it is gone or only a zombie."""
    before = _stat_fields(pid)
    if before is None or before[0] in "ZX":
        return None
    try:
        command_line = read_bytes(f"/proc/{pid}/cmdline")
        status = read_bytes(f"/proc/{pid}/status").decode("utf-8", "replace")
    except OSError:
        return None
    ids = dict(re.findall(r"^(Uid|Gid):\s+\d+\s+(\d+)", status, re.MULTILINE))
    words = command_line.rstrip(b"\0").split(b"\0") if command_line else []
    process = ServerProcess(
        pid=pid,
        start_ticks=before[2],
        exe=_readlink(f"/proc/{pid}/exe").replace(" (deleted)", ""),
        argv=tuple(os.fsdecode(word) for word in words),
        cwd=_readlink(f"/proc/{pid}/cwd"),
        uid=int(ids.get("Uid", -1)),
        gid=int(ids.get("Gid", -1)),
        parent_pid=before[1],
    )
    # Fields read one after the other belong together only if it is still the same process.
    return process if is_alive(process) else None


def is_alive(process: ServerProcess) -> bool:
    """Whether that very process still runs (same number and start time, not a zombie)."""
    fields = _stat_fields(process.pid)
    return fields is not None and fields[0] not in "ZX" and fields[2] == process.start_ticks


def _command_name(pid: int) -> str:
    try:
        return read_bytes(f"/proc/{pid}/comm").decode("utf-8", "replace").rstrip("\n")
    except OSError:
        return ""


def is_server(process: ServerProcess) -> bool:
    """Whether the process is a mysqld or mariadbd (not mysqld_safe and not a client)."""
    names = [os.path.basename(process.exe)]
    if not names[0]:
        names = [_command_name(process.pid), os.path.basename(process.argv[0]) if process.argv else ""]
    return any(_SERVER_NAME.match(name) and not _NOT_A_SERVER.search(name) for name in names)


def _all_pids() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def _same_directory(one: str, other: str) -> bool:
    """False too when one of them is gone by now: a process that ends takes its ``cwd`` in /proc along."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        pass
    try:
        return os.path.realpath(one) == os.path.realpath(other)
    except OSError:
        return False


def _option(argv: t.Sequence[str], name: str) -> str | None:
    """Last value of ``--name=value`` or ``--name value``; dashes and underscores are the same to a server."""
    found = None
    for index, word in enumerate(argv):
        key, equals, value = word.partition("=")
        if key.replace("_", "-") == f"--{name}":
            if equals:
                found = value
            elif index + 1 < len(argv):
                found = argv[index + 1]
    return found


def _serves(process: ServerProcess, datadir: str, pid_file: str | None) -> bool | None:
    """Whether this server process works on ``datadir``; ``None`` when that cannot be told."""
    if process.cwd:
        # Servers change into their data directory. Comparing through /proc works across mount namespaces too.
        return _same_directory(f"/proc/{process.pid}/cwd", datadir)
    owners = [owner for owner in (_lock(os.path.join(datadir, name)) for name in LOCKED_IN_DATADIR) if owner]
    if owners:
        # The kernel says who holds the lock, also where it hides cwd and exe from us.
        pids = {owner.pid for owner in owners if owner.held}
        if process.pid in pids:
            return True
        if 0 not in pids and -1 not in pids:
            return False
    named = _option(process.argv, "datadir")
    if named is not None and named.startswith("/"):
        return _same_directory(named, datadir)
    if pid_file is not None and _pid_in(pid_file) == process.pid:
        return True
    return None


def absolute(path: str, datadir: str) -> str:
    """A server resolves relative paths against its data directory."""
    return os.path.normpath(os.path.join(datadir, path))


def _pid_in(pid_file: str) -> int | None:
    try:
        return int(read_bytes(pid_file).split()[0])
    except (OSError, ValueError, IndexError):
        return None


def find_process(*, datadir: str, pid_file: str | None = None) -> ServerProcess | None:
    """The server that works on ``datadir``, or ``None`` when there certainly is none.

    The pid file is only a hint and is checked; a relative name counts from ``datadir``, as for the server. Raises
    ReplicaBackupError when a server process runs whose data directory cannot be found out: unknown is never
    "not running".
    """
    pids = _all_pids()
    pid_file = absolute(pid_file, datadir) if pid_file else None
    hint = _pid_in(pid_file) if pid_file else None
    if hint in pids:
        pids.insert(0, hint)
    unknown = []
    for pid in pids:
        process = read_process(pid)
        if process is None or not is_server(process):
            continue
        verdict = _serves(process, datadir, pid_file)
        if verdict:
            return process
        if verdict is None:
            unknown.append(pid)
    if unknown:
        raise ReplicaBackupError(
            "It cannot be told whether a running server uses this data directory",
            found=f"server process {', '.join(map(str, unknown))} whose directory is not readable for us",
            expected=f"to be allowed to look into every server process to know the one of {datadir}",
            server_state="unknown",
            next_command="run the play with become: true",
        )
    if not os.path.isdir("/proc/1") and os.geteuid() != 0:
        raise ReplicaBackupError(
            "Other users' processes are hidden on this host",
            found="/proc is mounted with hidepid",
            expected=f"to see every process to know the one of {datadir}",
            server_state="unknown",
            next_command="run the play with become: true",
        )
    return None


def wait_gone(
    process: ServerProcess,
    timeout: float,
    poll: float = 0.05,
    on_poll: t.Callable[[float], None] | None = None,
) -> float:
    """Wait until the process has ended; returns the seconds waited.

    ``on_poll`` is called with the seconds waited so far after each look. Raises ReplicaBackupError after
    ``timeout`` seconds; the server is then still stopping and is not touched.
    """
    start = time.monotonic()
    while is_alive(process):
        waited = time.monotonic() - start
        if on_poll is not None:
            on_poll(waited)
        if waited >= timeout:
            raise ReplicaBackupError(
                "The server has not ended within its limit",
                found=f"process {process.pid} alive after {waited:.0f} s",
                expected=f"its end within {timeout:.0f} s",
                server_state=f"still stopping, pid {process.pid}",
            )
        time.sleep(poll)
    return time.monotonic() - start


def open_files(process: ServerProcess) -> tuple[str, ...] | None:
    """Regular files that the process has open, sorted; ``None`` when we may not look.

    Files that are already deleted (temporary ones) are left out.
    """
    base = f"/proc/{process.pid}/fd"
    found = set()
    try:
        for name in os.listdir(base):
            link = os.path.join(base, name)
            try:
                target = os.readlink(link)
                # A name may really end in " (deleted)", so the link count decides, not the text.
                status = os.stat(link)
            except FileNotFoundError:
                continue
            if target.startswith("/") and stat.S_ISREG(status.st_mode) and status.st_nlink > 0:
                found.add(target)
    except OSError:
        return None
    return tuple(sorted(found))


@dataclass(frozen=True)
class _Lock:
    """Who holds the whole-file write lock; pid 0 or -1 means somebody that we cannot name."""

    held: bool
    pid: int


def _lock(path: str) -> _Lock | None:
    """Ask the kernel about a POSIX lock on the file, without taking one.

    A lock taken only to probe could make a server that starts in this moment give up.
    """
    # struct flock: type, whence, start, length, pid.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        answer = fcntl.fcntl(handle, fcntl.F_GETLK, struct.pack("@hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        return None
    finally:
        # Closing drops locks of this process on the file. We are never the server and hold none.
        os.close(handle)
    kind, _whence, _start, _length, pid = struct.unpack("@hhqqi", answer)
    return _Lock(held=kind != fcntl.F_UNLCK, pid=pid)


def lock_state(path: str) -> bool | None:
    """``True``: nobody holds an fcntl lock on the file; ``False``: somebody does; ``None``: cannot tell or absent."""
    lock = _lock(path)
    return None if lock is None else not lock.held


class Holder(t.NamedTuple):
    """One open file: by whom, and whether it is open for writing (``None``: cannot tell)."""

    pid: int
    command: str
    path: str
    writes: bool | None


@dataclass(frozen=True)
class Holders:
    """Who has files open below the directories; ``unreadable`` counts processes that we may not look into."""

    found: tuple[Holder, ...]
    unreadable: int


def holders(directories: t.Sequence[str]) -> Holders:
    """Open files below ``directories`` in every process but our own."""
    roots = tuple(os.path.realpath(directory).rstrip("/") + "/" for directory in directories)
    found = []
    unreadable = 0
    for pid in _all_pids():
        if pid == os.getpid():
            continue
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except PermissionError:
            unreadable += 1
            continue
        except OSError:
            continue
        hidden = False
        for name in names:
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")
            except PermissionError:
                hidden = True
                continue
            except OSError:
                continue
            if target.startswith(roots) and _is_ours(pid, name, target):
                found.append(Holder(pid, _command_name(pid), target, _opened_for_writing(pid, name)))
        unreadable += hidden
    return Holders(tuple(found), unreadable)


def _is_ours(pid: int, descriptor: str, path: str) -> bool:
    """Whether an open file is the one that we know by that name; a container may have another under the same name.

    One that we have no name for (deleted, or only there in the container) is ours when its process sees our mounts.
    """
    try:
        there = os.stat(f"/proc/{pid}/fd/{descriptor}")
        try:
            here = os.stat(path)
        except FileNotFoundError:
            here, there = os.stat("/proc/self/ns/mnt"), os.stat(f"/proc/{pid}/ns/mnt")
    except OSError:
        return True
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _opened_for_writing(pid: int, descriptor: str) -> bool | None:
    try:
        text = read_bytes(f"/proc/{pid}/fdinfo/{descriptor}").decode("ascii", "replace")
    except OSError:
        return None
    flags = re.search(r"^flags:\s+([0-7]+)", text, re.MULTILINE)
    return None if flags is None else int(flags.group(1), 8) & os.O_ACCMODE != os.O_RDONLY
