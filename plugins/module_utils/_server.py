# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server as the operating system sees it: its process, its locks, its log, and how it ended.

Everything here is read-only. A server is known by its data directory, never by its name alone, because one
host may run several. Where something cannot be seen (another user's process, a container without ptrace) the
answer is "unknown" and never "not there".
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

_SERVER_NAME = re.compile(r"\A(?:mysqld|mariadbd)(?:[-.][\w.-]*)?\Z")
_NOT_A_SERVER = re.compile(r"safe|multi|helper|admin|dump")
# Files that a server keeps locked while it runs, named below its data directory.
_LOCKED_IN_DATADIR = ("ibdata1", "aria_log_control", "mysql.ibd")
_LOG_TAIL = 1 << 20


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
        return {
            "pid": self.pid,
            "start_ticks": self.start_ticks,
            "exe": self.exe,
            "argv": list(self.argv),
            "cwd": self.cwd,
            "uid": self.uid,
            "gid": self.gid,
            "parent_pid": self.parent_pid,
        }

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


def _read_bytes(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _readlink(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _stat_fields(pid: int) -> tuple[str, int, int] | None:
    """State letter, parent and start ticks of a process; ``None`` when there is none."""
    try:
        text = _read_bytes(f"/proc/{pid}/stat").decode("utf-8", "surrogateescape")
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
        command_line = _read_bytes(f"/proc/{pid}/cmdline")
        status = _read_bytes(f"/proc/{pid}/status").decode("utf-8", "replace")
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
        return _read_bytes(f"/proc/{pid}/comm").decode("utf-8", "replace").rstrip("\n")
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
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


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
    owners = [owner for owner in (_lock(os.path.join(datadir, name)) for name in _LOCKED_IN_DATADIR) if owner]
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


def _pid_in(pid_file: str) -> int | None:
    try:
        return int(_read_bytes(pid_file).split()[0])
    except (OSError, ValueError, IndexError):
        return None


def find_process(*, datadir: str, pid_file: str | None = None) -> ServerProcess | None:
    """The server that works on ``datadir``, or ``None`` when there certainly is none.

    The pid file is only a hint and is checked; a relative name counts from ``datadir``, as for the server. Raises
    ReplicaBackupError when a server process runs whose data directory cannot be found out: unknown is never
    "not running".
    """
    pids = _all_pids()
    pid_file = _absolute(pid_file, datadir) if pid_file else None
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
        text = _read_bytes(f"/proc/{pid}/fdinfo/{descriptor}").decode("ascii", "replace")
    except OSError:
        return None
    flags = re.search(r"^flags:\s+([0-7]+)", text, re.MULTILINE)
    return None if flags is None else int(flags.group(1), 8) & os.O_ACCMODE != os.O_RDONLY


@dataclass(frozen=True)
class ErrorLogMark:
    """Where the error log ended at one moment."""

    path: str
    inode: int
    size: int

    def to_dict(self) -> dict[str, t.Any]:
        return {"path": self.path, "inode": self.inode, "size": self.size}

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> ErrorLogMark:
        return cls(path=str(data["path"]), inode=int(data["inode"]), size=int(data["size"]))


def error_log_path(variables: t.Mapping[str, str]) -> str | None:
    """Absolute path of the server's error log; ``None`` when it logs to stderr (journal, syslog)."""
    name = variables.get("log_error") or ""
    return None if name in ("", "stderr") else _absolute(name, variables["datadir"])


def mark_error_log(path: str) -> ErrorLogMark | None:
    """Remember the end of the log; ``None`` when it is no regular file that we may see."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return ErrorLogMark(path, status.st_ino, status.st_size) if stat.S_ISREG(status.st_mode) else None


def error_log_since(mark: ErrorLogMark, limit: int = _LOG_TAIL) -> str:
    """What was logged after the mark, at most the last ``limit`` bytes; follows a rotation. Raises OSError."""
    text = b""
    current: os.stat_result | None
    try:
        current = os.stat(mark.path)
    except FileNotFoundError:
        current = None
    start = 0
    if current is not None and current.st_ino == mark.inode and current.st_size >= mark.size:
        start = mark.size
    elif current is None or current.st_ino != mark.inode:
        # Moved away: the lines written before the move are in the file with the old inode.
        moved = _file_with_inode(os.path.dirname(mark.path), mark.inode)
        if moved is not None:
            text = _tail(moved, mark.size, limit)
    if current is not None:
        text += _tail(mark.path, start, limit)
    return text[-limit:].decode("utf-8", "replace")


def _file_with_inode(directory: str, inode: int) -> str | None:
    with os.scandir(directory) as entries:
        return next((entry.path for entry in entries if entry.inode() == inode), None)


def _tail(path: str, start: int, limit: int) -> bytes:
    with open(path, "rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(start, end - limit, 0))
        return stream.read(limit)


@dataclass(frozen=True)
class Proof:
    """One sign of a stop.

    ``verdict``: True speaks for a clean one, False against it, None does not apply or cannot be told, and
    ``detail`` says why.
    """

    name: str
    verdict: bool | None
    detail: str


# Signs that must be there, and signs of which one must be there: only these three speak of InnoDB itself.
_REQUIRED = ("process", "lock")
_MARKS = ("redo_log", "error_log", "temporary_tablespace")


@dataclass(frozen=True)
class CleanStop:
    """The signs together. ``clean`` holds only when nothing speaks against it and enough speaks for it."""

    proofs: tuple[Proof, ...]

    @property
    def clean(self) -> bool:
        verdicts = {proof.name: proof.verdict for proof in self.proofs}
        return (
            False not in verdicts.values()
            and all(verdicts.get(name) is True for name in _REQUIRED)
            and any(verdicts.get(name) is True for name in _MARKS)
        )

    @property
    def summary(self) -> str:
        """What speaks against a clean stop, for messages."""
        against = [f"{proof.name}: {proof.detail}" for proof in self.proofs if proof.verdict is False]
        seen = {proof.name: proof.verdict for proof in self.proofs}
        against += [
            f"{proof.name} unknown: {proof.detail}"
            for proof in self.proofs
            if proof.name in _REQUIRED and proof.verdict is None
        ]
        if not any(seen.get(name) is True for name in _MARKS):
            against.append("no mark of a clean stop in " + ", ".join(_MARKS))
        return "; ".join(against) if not self.clean else "clean"

    def to_dict(self) -> dict[str, t.Any]:
        return {
            "clean": self.clean,
            "proofs": [{"name": proof.name, "verdict": proof.verdict, "detail": proof.detail} for proof in self.proofs],
        }


def prove_clean_stop(
    *,
    dialect: Dialect,
    process: ServerProcess,
    variables: t.Mapping[str, str],
    error_log: ErrorLogMark | None,
) -> CleanStop:
    """Look at everything that tells a clean stop from a crash.

    ``variables`` are SHOW GLOBAL VARIABLES from before the stop, ``error_log`` the mark set right before the
    stop was asked for. Which sign means what was seen on MySQL 5.6 and 9.7 and MariaDB 10.11, each after a
    clean stop and after kill -9.
    """
    facts = _Stopped(dialect, process, variables, error_log)
    checks: tuple[tuple[str, t.Callable[[_Stopped], tuple[bool | None, str]]], ...] = (
        ("process", _prove_process),
        ("lock", _prove_lock),
        ("holders", _prove_holders),
        ("error_log", _prove_error_log),
        ("pid_file", _prove_pid_file),
        ("temporary_tablespace", _prove_temporary_tablespace),
        ("ddl_recovery_log", _prove_ddl_recovery_log),
        ("binary_log", _prove_binary_log),
        ("gtid_state", _prove_gtid_state),
        ("fast_shutdown", _prove_fast_shutdown),
        ("redo_log", _prove_redo_log),
    )
    proofs = []
    for name, check in checks:
        try:
            verdict, detail = check(facts)
        except OSError as error:
            verdict, detail = None, f"cannot be read: {error}"
        proofs.append(Proof(name, verdict, detail))
    return CleanStop(tuple(proofs))


class _Stopped(t.NamedTuple):
    dialect: Dialect
    process: ServerProcess
    variables: t.Mapping[str, str]
    error_log: ErrorLogMark | None

    @property
    def datadir(self) -> str:
        return self.variables["datadir"]

    @property
    def innodb_home(self) -> str:
        return _absolute(self.variables.get("innodb_data_home_dir") or "", self.datadir)

    @property
    def system_tablespace(self) -> list[str]:
        listed = self.variables.get("innodb_data_file_path") or "ibdata1:12M:autoextend"
        return [os.path.join(self.innodb_home, part.split(":")[0]) for part in listed.split(";") if part]


def _absolute(path: str, datadir: str) -> str:
    """A server resolves relative paths against its data directory."""
    return os.path.normpath(os.path.join(datadir, path))


def _exists(path: str) -> bool:
    """Like lexists, but raises when it cannot be known."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise
    return True


def _prove_process(facts: _Stopped) -> tuple[bool | None, str]:
    if is_alive(facts.process):
        return False, f"process {facts.process.pid} still runs"
    pid_file = facts.variables.get("pid_file")
    try:
        other = find_process(datadir=facts.datadir, pid_file=pid_file)
    except ReplicaBackupError as error:
        return None, str(error)
    if other is not None:
        return False, f"a server runs again on {facts.datadir}: process {other.pid}"
    return True, f"process {facts.process.pid} is gone and no other serves {facts.datadir}"


def _prove_lock(facts: _Stopped) -> tuple[bool | None, str]:
    paths = dict.fromkeys(
        [*facts.system_tablespace, *(os.path.join(facts.datadir, name) for name in _LOCKED_IN_DATADIR)]
    )
    states = {path: lock_state(path) for path in paths}
    held = [path for path, state in states.items() if state is False]
    free = [path for path, state in states.items() if state]
    if held:
        return False, f"locked by a process: {', '.join(held)}"
    if states[facts.system_tablespace[0]] is None:
        return None, f"the lock on {facts.system_tablespace[0]} cannot be examined"
    return True, f"no lock on {', '.join(free)}"


def _prove_holders(facts: _Stopped) -> tuple[bool | None, str]:
    logs = {error_log_path(facts.variables)}
    for name in ("general_log_file", "slow_query_log_file", "log_slow_query_file"):
        if facts.variables.get(name):
            logs.add(_absolute(facts.variables[name], facts.datadir))
    redo = _absolute(facts.variables.get("innodb_log_group_home_dir") or "", facts.datadir)
    seen = holders(list(dict.fromkeys([facts.datadir, facts.innodb_home, redo])))
    real_logs = {os.path.realpath(log) for log in logs if log}
    # Somebody who reads (a virus scanner, tail on a log) changes nothing; only writers spoil a copy.
    writers = [holder for holder in seen.found if holder.writes is not False and holder.path not in real_logs]
    if writers:
        first = writers[0]
        return False, f"{len(writers)} files open for writing, such as {first.path} by {first.command} ({first.pid})"
    readers = f"; {len(seen.found)} open for reading or logging" if seen.found else ""
    if seen.unreadable:
        return None, f"{seen.unreadable} processes cannot be looked into, the others hold nothing{readers}"
    return True, f"no process has a data file open for writing{readers}"


_LOG_END = re.compile(r"(?:mysqld|mariadbd|MY-010910|\[Server\]).*Shutdown complete\b")
_LOG_TROUBLE = re.compile(r"\[ERROR\].*Aborting|got signal \d+|Assertion failure|InnoDB: Failing assertion|mysqld got ")


def _prove_error_log(facts: _Stopped) -> tuple[bool | None, str]:
    mark = facts.error_log
    if mark is None:
        return None, "the server does not log to a file that we can read"
    text = error_log_since(mark)
    if not text.strip():
        return None, f"nothing was logged to {mark.path} since the stop was asked for"
    trouble = _LOG_TROUBLE.search(text)
    if trouble is not None:
        return False, f"{mark.path} says: {trouble.group(0)}"
    lines = text.splitlines()
    if not any(_LOG_END.search(line) for line in lines):
        return False, f"no 'Shutdown complete' in {mark.path} since the stop was asked for"
    number = next((m.group(1) for m in map(_LOG_LSN.search, reversed(lines)) if m), None)
    return True, f"{mark.path} says: Shutdown complete" + (f", log sequence number {number}" if number else "")


# With "InnoDB: " before it up to 10.11.18, without in 10.11.19.
_LOG_LSN = re.compile(r"\bShutdown completed; log sequence number (\d+)")


def _prove_pid_file(facts: _Stopped) -> tuple[bool | None, str]:
    name = facts.variables.get("pid_file")
    if not name:
        return None, "the server has no pid file"
    path = _absolute(name, facts.datadir)
    if _exists(path):
        return False, f"{path} was left behind"
    return True, f"{path} is gone"


def _prove_temporary_tablespace(facts: _Stopped) -> tuple[bool | None, str]:
    left = []
    looked = []
    listed = facts.variables.get("innodb_temp_data_file_path")
    if listed:
        looked = [os.path.join(facts.innodb_home, part.split(":")[0]) for part in listed.split(";") if part]
        left = [path for path in looked if _exists(path)]
    sessions = facts.variables.get("innodb_temp_tablespaces_dir")
    if sessions:
        directory = _absolute(sessions, facts.datadir)
        looked.append(directory)
        if os.path.isdir(directory):
            left += [
                os.path.join(directory, name)
                for name in sorted(os.listdir(directory))
                if re.match(r"temp_\d+\.ibt\Z", name)
            ]
    if not looked:
        return None, "this version has no temporary tablespace of its own"
    if left:
        return False, f"a stopped server removes {left[0]}, but it is there"
    return True, f"removed: {', '.join(looked)}"


def _prove_ddl_recovery_log(facts: _Stopped) -> tuple[bool | None, str]:
    if not facts.dialect.has_ddl_recovery_log:
        return None, "only MariaDB 10.6 and later have one"
    path = os.path.join(facts.datadir, "ddl_recovery.log")
    if _exists(path):
        return False, f"{path} was left behind"
    return True, f"{path} is gone"


def _binlog_base(facts: _Stopped) -> str | None:
    if (facts.variables.get("log_bin") or "OFF").upper() not in ("ON", "1"):
        return None
    base = facts.variables.get("log_bin_basename")
    return _absolute(base, facts.datadir) if base else None


def _prove_binary_log(facts: _Stopped) -> tuple[bool | None, str]:
    base = _binlog_base(facts)
    if base is None:
        return None, "the server writes no binary log"
    index = facts.variables.get("log_bin_index")
    index_path = _absolute(index, facts.datadir) if index else base + ".index"
    names = [line for line in os.fsdecode(_read_bytes(index_path)).split("\n") if line]
    if not names:
        return None, f"{index_path} is empty"
    path = _absolute(names[-1], facts.datadir)
    with open(path, "rb") as stream:
        head = stream.read(23)
    if head[:4] != b"\xfebin" or len(head) < 23:
        return None, f"{path} is encrypted or no binary log, so its in-use mark cannot be read"
    # Flags of the first event's header: 4 bytes of magic, then 17 bytes into the header.
    if head[21] & 1:
        return False, f"{path} is marked as in use"
    return True, f"{path} was closed"


def _prove_gtid_state(facts: _Stopped) -> tuple[bool | None, str]:
    base = _binlog_base(facts)
    if not facts.dialect.saves_gtid_state_at_shutdown or base is None:
        return None, "only MariaDB with a binary log writes one"
    path = base + ".state"
    if not _exists(path):
        return False, f"{path} is written by a clean stop and is absent"
    return True, f"{path} was written"


def _prove_fast_shutdown(facts: _Stopped) -> tuple[bool | None, str]:
    value = facts.variables.get("innodb_fast_shutdown") or ""
    if value in ("0", "1"):
        return True, f"innodb_fast_shutdown was {value}"
    if value.isdigit():
        return False, f"innodb_fast_shutdown was {value}: nothing is flushed, like after a crash"
    return None, "innodb_fast_shutdown is not known"


_MARIADB_10_8 = 0x50687973  # "Phys": one circular file, two checkpoints of two numbers each
_ENCRYPTED = 1 << 31


def _prove_redo_log(facts: _Stopped) -> tuple[bool | None, str]:
    directory = _absolute(facts.variables.get("innodb_log_group_home_dir") or "", facts.datadir)
    numbered = os.path.join(directory, "#innodb_redo")
    if os.path.isdir(numbered):
        logs = [os.path.join(numbered, name) for name in os.listdir(numbered) if re.match(r"#ib_redo\d+\Z", name)]
    else:
        logs = [os.path.join(directory, "ib_logfile0")]
    heads = []
    for path in logs:
        with open(path, "rb") as stream:
            heads.append(stream.read(12288))
    if not heads:
        return None, f"no redo log in {numbered}"
    if any(len(head) < 2048 for head in heads):
        return None, f"{logs[0]} is too short to be read"
    form = struct.unpack(">I", heads[0][:4])[0]
    if form & ~_ENCRYPTED == _MARIADB_10_8:
        return _mariadb_checkpoint(logs[0], heads[0])
    checkpoint = max(struct.unpack(">Q", head[at : at + 8])[0] for head in heads for at in (520, 1544))
    with open(facts.system_tablespace[0], "rb") as stream:
        stream.seek(26)
        flushed = struct.unpack(">Q", stream.read(8))[0]
    numbers = f"flushed up to {flushed}, checkpoint at {checkpoint}"
    if flushed == checkpoint and checkpoint > 0:
        return _numbered_log_end(dict(zip(logs, heads)), checkpoint) if os.path.isdir(numbered) else (True, numbers)
    if not facts.dialect.stamps_system_tablespace_at_shutdown:
        # Seen nowhere yet on MariaDB before 10.8: equal numbers tell something, unequal ones do not.
        return None, f"{numbers}: not a known sign on this version"
    return False, f"{numbers}: the log must be replayed"


_BLOCK = 512
_BLOCK_HEADER = 12
_NUMBERED_HEADER = 2048
# Stands in the place of a checksum while innodb_log_checksums is OFF.
_NO_CHECKSUM = 0xDEADBEEF


def _numbered_log_end(heads: t.Mapping[str, bytes], checkpoint: int) -> tuple[bool | None, str]:
    """Whether the numbered redo log files of MySQL 8.0.30 and later (``heads`` by path) end at the checkpoint.

    That the checkpoint is what ibdata1 was flushed up to does not suffice: a server that was killed, or stopped with
    innodb_fast_shutdown=2, before it made any checkpoint still shows the two equal numbers of its last clean stop.
    """
    for path, head in heads.items():
        start = struct.unpack(">Q", head[8:16])[0]
        offset = _NUMBERED_HEADER + checkpoint - start
        if start <= checkpoint and offset < os.stat(path).st_size:
            break
    else:
        return False, f"no redo log file reaches the checkpoint at {checkpoint}"
    at = checkpoint % _BLOCK
    with open(path, "rb") as stream:
        stream.seek(offset - at)
        block = stream.read(_BLOCK)
    used = _used_of_block(block, 1 + checkpoint // _BLOCK % 0x3FFFFFFF)
    if used is not None and used & 0x8000:
        return None, f"{path} is encrypted: cannot be followed beyond its checkpoint at {checkpoint}"
    if used is None and at == _BLOCK_HEADER:
        # A checkpoint at the very end of a block points behind the header of the next one, which is not written yet.
        used = at
    if used is None or used < at:
        return False, f"{path}: no valid record at the checkpoint {checkpoint}"
    if used > at:
        return False, f"{path}: the log goes on after the checkpoint at {checkpoint} and must be replayed"
    return True, f"{path}: nothing follows the checkpoint at {checkpoint}, which all data files have reached"


def _used_of_block(block: bytes, number: int) -> int | None:
    """Bytes in use of the log block with that number; ``None`` when something else, older or torn stands there.

    Layout from the server's log0types.h, checked on files of 9.7: number, bytes in use with the header (the highest
    bit: encrypted), two more fields, data, CRC-32C of all before it.
    """
    if len(block) < _BLOCK:
        return None
    found, used = struct.unpack(">IH", block[:6])
    checksum = struct.unpack(">I", block[-4:])[0]
    if found != number:
        return None
    # What the checksum of an encrypted block covers is not known here; the caller makes nothing of such a block.
    return int(used) if used & 0x8000 or checksum in (_crc32c(block[:-4]), _NO_CHECKSUM) else None


def _mariadb_checkpoint(path: str, head: bytes) -> tuple[bool | None, str]:
    if len(head) < 8208:
        return None, f"{path} is too short to be read"
    pairs = [struct.unpack(">QQ", head[at : at + 16]) for at in (4096, 8192)]
    checkpoint, end = max(pairs)
    if checkpoint != end or checkpoint == 0:
        return False, f"{path}: checkpoint at {checkpoint} but log up to {end}"
    if head[0] & 0x80:
        return None, f"{path} is encrypted: cannot be followed beyond its checkpoint at {checkpoint}"
    # Equal numbers do not suffice: a server that was killed, or stopped with innodb_fast_shutdown=2, before it
    # made any checkpoint still shows those of its last clean stop. So look at what follows the checkpoint.
    with open(path, "rb") as stream:
        log = _CircularLog(stream, first=struct.unpack(">Q", head[8:16])[0])
        own = log.end_of_group(checkpoint)
        if own is None:
            return False, f"{path}: no valid record at the checkpoint {checkpoint}"
        if log.end_of_group(own) is not None:
            return False, f"{path}: the log goes on after the checkpoint at {checkpoint} and must be replayed"
    return True, f"{path}: nothing follows the checkpoint at {checkpoint}, the log ends at {own}"


class _CircularLog:
    """Reads MariaDB's redo log (10.8 and later) just far enough to see whether a group of records is valid.

    A group: records, each with its length in the first bytes; one byte that flips each time round the file;
    CRC-32C of the records. Layout from the server's log0recv.cc, checked on real files.
    """

    _START = 12288
    _LARGEST_GROUP = 4 << 20

    def __init__(self, stream: t.BinaryIO, first: int) -> None:
        self._stream = stream
        self._first = first
        self._capacity = stream.seek(0, os.SEEK_END) - self._START
        self._window = b""
        self._window_at = 0

    def _read(self, lsn: int, size: int) -> bytes:
        offset = lsn - self._window_at
        if not (offset >= 0 and offset + size <= len(self._window)):
            self._window_at, self._window, offset = lsn, self._read_file(lsn, max(size, 4096)), 0
        return self._window[offset : offset + size]

    def _read_file(self, lsn: int, size: int) -> bytes:
        at = (lsn - self._first) % self._capacity
        self._stream.seek(self._START + at)
        data = self._stream.read(min(size, self._capacity - at))
        if len(data) < size:
            self._stream.seek(self._START)
            data += self._stream.read(size - len(data))
        return data

    def end_of_group(self, start: int) -> int | None:
        """Sequence number after the group at ``start``; ``None`` when there is no valid group."""
        limit = start + min(self._LARGEST_GROUP, self._capacity)
        lsn = start
        while lsn < limit:
            head = self._read(lsn, 5)
            if head[0] <= 1:
                break
            lsn += 1 + (head[0] & 15 or 15 + _variable_length(head[1:]))
        else:
            return None
        if lsn == start:
            return None
        mark, checksum = struct.unpack(">BI", self._read(lsn, 5))
        turn = (lsn - self._first) // self._capacity & 1
        if mark == turn or checksum != _crc32c(self._read_file(start, lsn - start)):
            return None
        return lsn + 5


def _variable_length(data: bytes) -> int:
    """InnoDB's number of one to four bytes; each longer form starts where the shorter one ends."""
    first = data[0]
    if first < 0x80:
        return first
    if first < 0xC0:
        return 0x80 + ((first & 0x3F) << 8 | data[1])
    if first < 0xE0:
        return 0x4080 + ((first & 0x1F) << 16 | data[1] << 8 | data[2])
    return 0x204080 + ((first & 0x0F) << 24 | data[1] << 16 | data[2] << 8 | data[3])


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC32C[(value ^ byte) & 255] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _bit in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()
