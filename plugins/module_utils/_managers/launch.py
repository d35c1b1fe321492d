# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start a command again as it ran before: same account, directory, environment and limits, and nothing of ours."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import resource
import shlex
import shutil
import signal
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers import commands
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.interface import (
    Stopped,
    refuse,
    refuse_stopped,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess

# What a server may inherit when it is started again by hand: where its libraries, its options and its temporary
# files are. Everything else, secrets of whoever runs the backup above all, stays out.
_KEPT_ENVIRONMENT = (
    "HOME",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "MYSQL_GROUP_SUFFIX",
    "MYSQL_HOME",
    "MYSQL_TCP_PORT",
    "MYSQL_UNIX_PORT",
    "PATH",
    "TMPDIR",
    "TZ",
    "UMASK",
    "UMASK_DIR",
)


_SCOPE_TIMEOUT = 10.0
_LIMIT_NAMES = {
    "Max core file size": "RLIMIT_CORE",
    "Max locked memory": "RLIMIT_MEMLOCK",
    "Max open files": "RLIMIT_NOFILE",
    "Max processes": "RLIMIT_NPROC",
    "Max stack size": "RLIMIT_STACK",
}


@dataclass(frozen=True)
class Launch:
    """Everything needed to run a command again as it ran before."""

    argv: tuple[str, ...]
    executable: str
    cwd: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    umask: int = 0o022
    limits: tuple[tuple[str, int, int], ...] = ()
    output: str = ""

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Launch:
        return cls(
            argv=tuple(str(word) for word in data["argv"]),
            executable=str(data["executable"]),
            cwd=str(data["cwd"]),
            uid=int(data["uid"]),
            gid=int(data["gid"]),
            groups=tuple(int(group) for group in data.get("groups", ())),
            environment=tuple((str(key), str(value)) for key, value in dict(data.get("environment", {})).items()),
            umask=int(data.get("umask", 0o022)),
            limits=tuple((str(name), int(soft), int(hard)) for name, soft, hard in data.get("limits", ())),
            output=str(data.get("output", "")),
        )


def of_process(process: ServerProcess, cwd: str) -> Launch:
    """How a process was started, as far as the kernel tells."""
    status = _server.proc_text(process.pid, "status")
    groups = re.search(r"^Groups:\s*([\d ]*)$", status, re.MULTILINE)
    umask = re.search(r"^Umask:\s*([0-7]+)$", status, re.MULTILINE)
    first = process.argv[0] if process.argv else ""
    executable = process.exe or (first if first.startswith("/") else shutil.which(first) or "")
    return Launch(
        argv=process.argv,
        executable=executable,
        cwd=cwd,
        # Never more rights than the process has now: its owner could have chosen its own arguments.
        uid=process.uid,
        gid=process.gid,
        groups=tuple(int(group) for group in groups.group(1).split()) if groups else (),
        environment=tuple(sorted(_kept_environment(process.pid, process.uid).items())),
        umask=int(umask.group(1), 8) if umask else 0o022,
        limits=_limits(process.pid),
        output=_output_of(process.pid),
    )


def of_command(command: str) -> Launch:
    """A start command that the administrator gave, run as whoever runs the backup."""
    try:
        words = tuple(shlex.split(command))
    except ValueError:
        words = ()
    executable = shutil.which(words[0], path=commands.PATH) if words else None
    if executable is None:
        raise refuse(
            "The start command cannot be run",
            found=repr(command),
            expected="a command line whose first word is an executable",
            next_command="set replica_backup_service_name",
        )
    uid = os.geteuid()
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        home = "/"
    return Launch(
        argv=words,
        executable=executable,
        cwd="/",
        uid=uid,
        gid=os.getegid(),
        groups=tuple(os.getgroups()),
        environment=tuple(sorted(commands.environment(home).items())),
    )


def of_installed(server: Stopped) -> Launch:
    """The server's own command line, run as the account that owns its data directory."""
    try:
        status = os.stat(server.datadir)
    except OSError as error:
        raise refuse_stopped(
            "The data directory cannot be seen", found=f"{server.datadir}: {error.strerror}", expected="a directory"
        ) from error
    if os.geteuid() not in (0, status.st_uid):
        raise refuse_stopped(
            "The server belongs to another user and could not be started",
            found=f"user id {status.st_uid} (we are {os.geteuid()})",
            expected="root or the user of the server",
            next_command="run the play with become: true",
        )
    try:
        account = pwd.getpwuid(status.st_uid)
        gid, home = account.pw_gid, account.pw_dir
        groups = tuple(os.getgrouplist(account.pw_name, gid))
    except KeyError:
        gid, home, groups = status.st_gid, "/", ()
    kept = {name: value for name, value in server.environment.items() if name in _KEPT_ENVIRONMENT}
    return Launch(
        argv=server.argv,
        executable=server.exe,
        cwd=server.datadir,
        uid=status.st_uid,
        gid=gid,
        groups=groups,
        environment=tuple(sorted({**commands.environment(home), **kept}.items())),
    )


def _limits(pid: int) -> tuple[tuple[str, int, int], ...]:
    found = []
    for line in _server.proc_text(pid, "limits").splitlines():
        match = re.match(r"(Max [a-z ]+?)\s{2,}(unlimited|\d+)\s+(unlimited|\d+)", line)
        if match is not None and match.group(1) in _LIMIT_NAMES:
            soft, hard = (resource.RLIM_INFINITY if value == "unlimited" else int(value) for value in match.group(2, 3))
            found.append((_LIMIT_NAMES[match.group(1)], soft, hard))
    return tuple(found)


def _kept_environment(pid: int, uid: int) -> dict[str, str]:
    pairs = (word.partition("=") for word in _server.proc_text(pid, "environ").split("\0") if word)
    kept = {key: value for key, _equals, value in pairs if key in _KEPT_ENVIRONMENT}
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        home = "/"
    return {**commands.environment(home), **kept}


def _output_of(pid: int) -> str:
    """The file that takes the process's stderr, when it is one that can be opened again."""
    try:
        target = os.readlink(f"/proc/{pid}/fd/2")
        regular = target == os.devnull or (os.path.isfile(target) and not os.path.islink(target))
    except OSError:
        return ""
    return target if regular else ""


class Spawned(t.NamedTuple):
    """``complaint``: why the process could not be given a scope of its own, if it was to have one."""

    pid: int
    complaint: str = ""


def spawn(launch: Launch, options: t.Sequence[str], output: str, *, scope: bool = False) -> Spawned:
    """Start the command as a daemon.

    It belongs to init: another session than ours, no terminal, no descriptor of ours, so neither the end of this
    process nor of the connection touches it. With ``scope`` it does not stay in our control group either, where systemd
    runs and we are root: logind may kill all of a session's when that ends (KillUserProcesses=).

    Raises ReplicaBackupError when it cannot be executed.
    """
    argv = [*launch.argv, *options]
    reader, writer = os.pipe()
    # The new process waits until nobody can write into this one any more.
    gate, opener = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            os.close(reader)
            os.close(opener)
            os.setsid()
            grandchild = os.fork()
            if grandchild:
                os.write(writer, b"P%d\n" % grandchild)
                os._exit(0)
            os.read(gate, 1)
            _become(launch, output, writer)
            os.execve(launch.executable, argv, dict(launch.environment))
        except BaseException as error:
            os.write(writer, f"E{type(error).__name__}: {error}\n".encode("utf-8", "replace")[:4000])
        finally:
            os._exit(127)
    os.close(writer)
    os.close(gate)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as stream:
        first = stream.readline()
        complaint = _give_scope(int(first[1:])) if scope and first.startswith(b"P") else ""
        os.close(opener)
        # Ends when the last writer is gone: at the exec, or with the child that failed.
        answer = (first + stream.read()).decode("utf-8", "replace").splitlines()
    problems = [line[1:] for line in answer if line.startswith("E")]
    if problems:
        raise ReplicaBackupError(
            f"'{shlex.join(argv)}' cannot be executed",
            found=problems[0],
            expected="the command that started the server before",
            server_state="stopped",
        )
    return Spawned(int(next(line[1:] for line in answer if line.startswith("P"))), complaint)


def _give_scope(pid: int) -> str:
    """Move a process that has not begun yet into a transient scope of the system's manager; what was in the way, if.

    ``systemd-run --scope`` would do the same from within the process, but cannot keep argv[0] and the limits.
    """
    if os.geteuid() != 0 or not os.path.isdir(commands.SYSTEMD):
        return ""
    name = f"mysql-replica-backup-{pid}-{time.time_ns()}.scope"
    properties = ("2", "Description", "s", "Database server that a backup started again", "PIDs", "au", "1", str(pid))
    manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
    method = ("StartTransientUnit", "ssa(sv)a(sa(sv))")
    try:
        commands.must(["busctl", "call", *manager, *method, name, "fail", *properties, "0"])
    except ReplicaBackupError as error:
        return str(error)
    return "" if _in_group(pid, name) else f"{name} was not made"


def _in_group(pid: int, unit: str) -> bool:
    """Wait for the job that moves the process; systemd answers when it is queued."""
    deadline = time.monotonic() + _SCOPE_TIMEOUT
    while unit not in _server.proc_text(pid, "cgroup"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _become(launch: Launch, output: str, keep: int) -> None:  # pragma: no cover - another process
    """In the new process: shed everything that is ours and take on what the command had before."""
    for caught in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGXFSZ):
        signal.signal(caught, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for name, soft, hard in launch.limits:
        # Raising a limit needs rights that we may not have; the server starts without them too.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(getattr(resource, name), (soft, hard))
    null = os.open(os.devnull, os.O_RDWR)
    log = null
    if not launch.output:
        log = _open_log(output, os.O_CREAT)
    if os.geteuid() == 0 and launch.uid != 0:
        os.setgroups(list(launch.groups) or [launch.gid])
        os.setgid(launch.gid)
        os.setuid(launch.uid)
    if launch.output and launch.output != os.devnull:
        # With the rights of the server, so that no link in its directory leads us elsewhere.
        log = _open_log(launch.output, 0)
    for number, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, number)
    top = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    top = 65536 if top == resource.RLIM_INFINITY else min(top, 65536)
    os.closerange(3, keep)
    os.closerange(keep + 1, max(top, keep + 1))
    os.set_inheritable(keep, False)
    os.umask(launch.umask)
    os.chdir(launch.cwd)


def _open_log(path: str, extra: int) -> int:  # pragma: no cover - another process
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NOCTTY | extra
    try:
        return os.open(path, flags, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)
