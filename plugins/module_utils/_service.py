# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who starts and stops the server: systemd, an init script, mysqld_safe, or nobody.

A manager is found while the server runs, goes into the ledger as a dictionary, and is built again from it by
whoever has to bring the server back. Nothing here ever sends SIGKILL, and nothing is run through a shell.

The order of calls: ``detect``, ``hold``, ``request_stop`` (``False``: send SQL SHUTDOWN), wait for the process,
``wait_stopped``, then ``start``, wait for the server, ``after_start``, ``release``.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import resource
import shlex
import shutil
import signal
import subprocess
import time
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess

KINDS = ("systemd", "sysvinit", "mysqld_safe", "none")

OnPoll = t.Optional[t.Callable[[float], None]]

_RUNTIME_UNITS = "/run/systemd/system"
_DROP_IN = "zz-replica-backup.conf"
_SCRIPT_DIRECTORY = "/etc/init.d"
_SCRIPT_NAMES = ("mariadb", "mysql", "mysqld")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COMMAND_TIMEOUT = 60.0
_SCRIPT_TIMEOUT = 120.0
_POLL = 0.2
# A server that has just been executed is not yet in its data directory and so not yet recognised.
_GRACE = 10.0
_OUTPUT_NAME = "service-output.log"

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


class ServiceManager(t.Protocol):
    """What the rest of the collection may ask of any manager."""

    kind: str
    name: str
    warnings: tuple[str, ...]
    skip_supported: bool

    def to_dict(self) -> dict[str, t.Any]:
        """JSON-serialisable; ``from_dict`` gives an equal manager."""

    def hold(self) -> list[str]:
        """Silence what could wake the server or cut its shutdown short. Idempotent; returns what was done."""

    def request_stop(self) -> bool:
        """Ask for a clean stop and return at once. ``False``: the caller sends SQL SHUTDOWN instead."""

    def wait_stopped(self, timeout: float, on_poll: OnPoll = None) -> float:
        """Wait until nothing is left that would start the server again, after its process has ended.

        Returns seconds waited. Raises ReplicaBackupError when the limit is over or the server came up again.
        """

    def start(self, *, skip_replication: bool) -> None:
        """Ask for a start. With ``skip_replication`` no replication thread starts, whatever the configuration."""

    def failure(self) -> str | None:
        """Why a start that this object asked for will not succeed any more; ``None`` while it may."""

    def after_start(self) -> list[str]:
        """Once the server answers: make the next start by anybody a normal one. Idempotent."""

    def release(self) -> list[str]:
        """Put what ``hold`` silenced back as it was. Idempotent; returns what was done or could not be done."""

    def status(self) -> str:
        """One line for messages."""


def _refuse(message: str, *, found: object, expected: object, next_command: str | None = None) -> RefusedError:
    return RefusedError(
        message,
        found=found,
        expected=expected,
        server_state="running, untouched",
        next_command=next_command or "set replica_backup_service_manager and replica_backup_service_name",
        rule="service_manager",
    )


def _environment(home: str = "/") -> dict[str, str]:
    return {"PATH": _PATH, "LANG": "C", "LC_ALL": "C", "HOME": home}


def _run(argv: t.Sequence[str], timeout: float = _COMMAND_TIMEOUT) -> subprocess.CompletedProcess[str]:
    """Run a short command; its output as text. Raises ReplicaBackupError when it cannot run or hangs."""
    try:
        return subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**_environment(), "PATH": os.environ.get("PATH", _PATH)},
            timeout=timeout,
            check=False,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReplicaBackupError(f"'{shlex.join(argv)}' did not work", found=str(error)) from error


def _must(argv: t.Sequence[str], timeout: float = _COMMAND_TIMEOUT) -> str:
    done = _run(argv, timeout)
    if done.returncode != 0:
        raise ReplicaBackupError(
            f"'{shlex.join(argv)}' failed",
            found=f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}",
            expected="exit code 0",
        )
    return done.stdout


def _systemctl(*words: str) -> str:
    return _must(["systemctl", "--no-pager", "--no-ask-password", *words])


def _show(unit: str, *properties: str) -> dict[str, str]:
    output = _systemctl("show", f"--property={','.join(properties)}", "--", unit)
    pairs = (line.partition("=") for line in output.splitlines() if "=" in line)
    # A property that occurs more than once (ExecStart) is never asked for here.
    return {key: value for key, _equals, value in pairs}


def _active(unit: str) -> bool:
    return _show(unit, "ActiveState").get("ActiveState") in ("active", "activating", "reloading")


# --- the unit file ---------------------------------------------------------------------------------

_CAT_FILE = re.compile(r"# (/.*\.(?:conf|service))\Z")
_SERVER_WORD = re.compile(r"(?:\A|[\s/\"'=@:+!|-])(?:mysqld|mariadbd)(?:[-_]safe|-debug|-max)?(?=[\s\"']|\Z)")
_SHELL_COMMAND = re.compile(
    r"(?P<head>[@:+!|-]*(?:/usr)?/bin/(?:ba|da)?sh\s+(?:-\w+\s+)*?-\w*c\s+)"
    r"(?P<quote>[\"'])(?P<body>(?:\\.|(?!(?P=quote)).)*)(?P=quote)(?P<rest>.*)",
    re.DOTALL,
)


def _exec_start(cat: str, own_file: str) -> list[str]:
    """Raw ``ExecStart=`` values in effect, from the output of ``systemctl cat``; our own drop-in left out."""
    values: list[str] = []
    section = ""
    ours = False
    pending: str | None = None
    for line in cat.splitlines():
        source = _CAT_FILE.match(line)
        if source is not None and pending is None:
            ours, section = source.group(1) == own_file, ""
            continue
        stripped = line.strip()
        if stripped.startswith(("#", ";")) or (pending is None and not stripped):
            # Comments are dropped, also between the lines of a continued value.
            continue
        joined = (pending or "") + line
        if joined.endswith("\\"):
            pending = joined[:-1] + " "
            continue
        pending = None
        joined = joined.strip()
        if joined.startswith("["):
            section = joined
        key, equals, value = joined.partition("=")
        if ours or section != "[Service]" or not equals or key.strip() != "ExecStart":
            continue
        if value.strip():
            values.append(value.strip())
        else:
            values.clear()
    return values


def _with_option(commands: t.Sequence[str], option: str) -> str | None:
    """The one ExecStart value with ``option`` for the server, or ``None`` when the command is not understood."""
    if len(commands) != 1 or re.search(r"\s;(?:\s|\Z)", _without_quoted(commands[0])):
        return None
    command = commands[0]
    shell = _SHELL_COMMAND.fullmatch(command)
    if shell is None:
        unquoted = _SERVER_WORD.search(command) and not re.match(r"[@:+!|-]*\S*/(?:ba|da)?sh\s", command)
        return f"{command} {option}" if unquoted or _is_script_start(command) else None
    # In sh -c "...; exec mariadbd ..." a word after the string would be $0: it has to go inside, to the last command.
    last = re.split(r"\|\||&&|[;|&\n]", shell.group("body"))[-1]
    if not _SERVER_WORD.search(last):
        return None
    quote = shell.group("quote")
    return f"{shell.group('head')}{quote}{shell.group('body').rstrip()} {option}{quote}{shell.group('rest')}"


def _without_quoted(text: str) -> str:
    return re.sub(r"\"(?:\\.|[^\"])*\"|'(?:\\.|[^'])*'", "", text)


def _is_script_start(command: str) -> bool:
    """``/etc/init.d/mysql start``, as systemd generates it, when that script hands options on to the server."""
    match = re.fullmatch(r"[@:+!|-]*(/etc/(?:rc\.d/)?init\.d/[\w.-]+)\s+start", command)
    return match is not None and _hands_on(match.group(1))


def _hands_on(script: str) -> bool:
    """Whether ``SCRIPT start --option`` gives the option to the server, as Debian's and mysql.server do."""
    text = _script_text(script)
    return re.search(r"(?:mysqld|mariadbd)\S*\s[^#\n]*(?:\$\{@:2\}|\$@|\$\*|\$other_args)", text) is not None


def _script_text(script: str) -> str:
    try:
        with open(script, encoding="utf-8", errors="replace") as stream:
            return stream.read(1 << 20)
    except OSError:
        return ""


@dataclass
class _Systemd:
    """A unit of the system's service manager.

    ``wakers``: units (sockets, timers) that were active and start the service by themselves.
    ``dependents``: units that systemd stops together with the service, and that were active.
    ``endless_stop``: whether systemd's own limit for the stop has to be lifted, because at its end systemd
    kills the server or forgets about it.
    """

    name: str
    skip_option: str
    skip_supported: bool
    endless_stop: bool
    wakers: tuple[str, ...] = ()
    dependents: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    kind: str = "systemd"

    def to_dict(self) -> dict[str, t.Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "skip_option": self.skip_option,
            "skip_supported": self.skip_supported,
            "endless_stop": self.endless_stop,
            "wakers": list(self.wakers),
            "dependents": list(self.dependents),
            "warnings": list(self.warnings),
        }

    @property
    def _drop_in(self) -> str:
        return os.path.join(_RUNTIME_UNITS, f"{self.name}.d", _DROP_IN)

    def hold(self) -> list[str]:
        done = []
        if self.endless_stop and self._write_drop_in("TimeoutStopSec=infinity", "SendSIGKILL=no"):
            done.append(f"lifted systemd's limit on the stop of {self.name}")
        active = tuple(unit for unit in _triggers(self.name) if _active(unit))
        self.wakers = tuple(dict.fromkeys([*self.wakers, *active]))
        for unit in active:
            _systemctl("stop", "--", unit)
            if _active(unit):
                raise ReplicaBackupError(
                    f"{unit} would start the server again and cannot be stopped",
                    found=f"{unit} active after systemctl stop",
                    expected=f"{unit} inactive while the server is down",
                    server_state="running",
                    next_command=f"systemctl status {unit}",
                )
            done.append(f"stopped {unit}, which would wake {self.name}")
        return done

    def request_stop(self) -> bool:
        _systemctl("stop", "--no-block", "--", self.name)
        return True

    def wait_stopped(self, timeout: float, on_poll: OnPoll = None) -> float:
        begin = time.monotonic()
        while True:
            state = _show(self.name, "ActiveState", "SubState", "MainPID")
            waited = time.monotonic() - begin
            if state.get("ActiveState") in ("inactive", "failed"):
                return waited
            line = f"{state.get('ActiveState')} ({state.get('SubState')})"
            if state.get("ActiveState") == "activating":
                raise ReplicaBackupError(
                    f"{self.name} is being started again while the backup needs it stopped",
                    found=line,
                    expected="inactive",
                    server_state=f"{self.name} {line}",
                    next_command=f"systemctl status {self.name}; journalctl -u {self.name}",
                )
            if on_poll is not None:
                on_poll(waited)
            if waited >= timeout:
                raise ReplicaBackupError(
                    f"{self.name} has not become inactive",
                    found=f"{line} after {waited:.0f} s",
                    expected=f"inactive within {timeout:.0f} s",
                    server_state=f"{self.name} {line}",
                    next_command=f"systemctl status {self.name}",
                )
            time.sleep(_POLL)

    def start(self, *, skip_replication: bool) -> None:
        if _show(self.name, "ActiveState").get("ActiveState") in ("active", "activating", "reloading"):
            return
        if skip_replication:
            commands = self._commands()
            command = _with_option(commands, self.skip_option)
            if command is None:
                raise ReplicaBackupError(
                    f"{self.name} cannot be started with {self.skip_option}",
                    found="an ExecStart= that is not understood: " + "; ".join(commands),
                    expected="one command that runs the server",
                    server_state="stopped",
                    next_command=f"systemctl start {self.name}",
                )
            self._write_drop_in("ExecStart=", f"ExecStart={command}")
        else:
            self._remove_drop_in()
        # Earlier failures must not count against the limit on starts.
        _run(["systemctl", "--no-ask-password", "reset-failed", "--", self.name])
        # systemd refuses to start a socket unit once its service is active, so sockets come first. If a client
        # wakes the service now, it is started just as the next command would.
        for unit in self.wakers:
            _run(["systemctl", "--no-ask-password", "start", "--", unit])
        _systemctl("start", "--no-block", "--", self.name)

    def failure(self) -> str | None:
        state = _show(self.name, "ActiveState", "SubState", "Result")
        if state.get("ActiveState") != "failed":
            return None
        return f"{self.name} failed ({state.get('Result')}); see: journalctl -u {self.name}"

    def after_start(self) -> list[str]:
        return [f"removed the run-time settings of {self.name}"] if self._remove_drop_in() else []

    def release(self) -> list[str]:
        done = []
        for unit in (*self.wakers, *self.dependents):
            if _active(unit):
                continue
            answer = _run(["systemctl", "--no-ask-password", "start", "--", unit])
            if answer.returncode == 0:
                done.append(f"started {unit}")
            else:
                done.append(f"{unit} was active before and could not be started: {answer.stderr.strip()[-300:]}")
        return done

    def status(self) -> str:
        state = _show(self.name, "ActiveState", "SubState")
        return f"systemd unit {self.name} is {state.get('ActiveState')} ({state.get('SubState')})"

    def _commands(self) -> list[str]:
        return _exec_start(_systemctl("cat", "--", self.name), self._drop_in)

    def _write_drop_in(self, *lines: str) -> bool:
        text = "\n".join(["# Made for a cold backup of this server; removed after it.", "[Service]", *lines, ""])
        with contextlib.suppress(OSError), open(self._drop_in, encoding="utf-8", errors="surrogateescape") as stream:
            if stream.read() == text:
                return False
        os.makedirs(os.path.dirname(self._drop_in), mode=0o755, exist_ok=True)
        partial = self._drop_in + ".partial"
        with open(partial, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(text)
            os.fchmod(stream.fileno(), 0o644)
        os.replace(partial, self._drop_in)
        _systemctl("daemon-reload")
        return True

    def _remove_drop_in(self) -> bool:
        try:
            os.unlink(self._drop_in)
        except FileNotFoundError:
            return False
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(self._drop_in))
        _systemctl("daemon-reload")
        return True


def _triggers(unit: str) -> list[str]:
    return _show(unit, "TriggeredBy").get("TriggeredBy", "").split()


def _stopped_along(unit: str) -> list[str]:
    """Active units that systemd stops when it stops ``unit``, and those that depend on them in turn."""
    found: list[str] = []
    queue = [unit]
    while queue:
        state = _show(queue.pop(0), "RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf")
        for name in dict.fromkeys(" ".join(state.values()).split()):
            if name not in found and name != unit and _active(name):
                found.append(name)
                queue.append(name)
    return found


# --- started by hand -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Launch:
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

    def to_dict(self) -> dict[str, t.Any]:
        return {
            "argv": list(self.argv),
            "executable": self.executable,
            "cwd": self.cwd,
            "uid": self.uid,
            "gid": self.gid,
            "groups": list(self.groups),
            "environment": dict(self.environment),
            "umask": self.umask,
            "limits": [list(limit) for limit in self.limits],
            "output": self.output,
        }

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> _Launch:
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


_LIMIT_NAMES = {
    "Max core file size": "RLIMIT_CORE",
    "Max locked memory": "RLIMIT_MEMLOCK",
    "Max open files": "RLIMIT_NOFILE",
    "Max processes": "RLIMIT_NPROC",
    "Max stack size": "RLIMIT_STACK",
}


def _proc_text(pid: int, name: str) -> str:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as stream:
            return os.fsdecode(stream.read())
    except OSError:
        return ""


def _limits(pid: int) -> tuple[tuple[str, int, int], ...]:
    found = []
    for line in _proc_text(pid, "limits").splitlines():
        match = re.match(r"(Max [a-z ]+?)\s{2,}(unlimited|\d+)\s+(unlimited|\d+)", line)
        if match is not None and match.group(1) in _LIMIT_NAMES:
            soft, hard = (resource.RLIM_INFINITY if value == "unlimited" else int(value) for value in match.group(2, 3))
            found.append((_LIMIT_NAMES[match.group(1)], soft, hard))
    return tuple(found)


def _kept_environment(pid: int, uid: int) -> dict[str, str]:
    pairs = (word.partition("=") for word in _proc_text(pid, "environ").split("\0") if word)
    kept = {key: value for key, _equals, value in pairs if key in _KEPT_ENVIRONMENT}
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        home = "/"
    return {**_environment(home), **kept}


def _output_of(pid: int) -> str:
    """The file that takes the process's stderr, when it is one that can be opened again."""
    try:
        target = os.readlink(f"/proc/{pid}/fd/2")
        regular = target == os.devnull or (os.path.isfile(target) and not os.path.islink(target))
    except OSError:
        return ""
    return target if regular else ""


def _launch_of(process: ServerProcess, cwd: str) -> _Launch:
    status = _proc_text(process.pid, "status")
    groups = re.search(r"^Groups:\s*([\d ]*)$", status, re.MULTILINE)
    umask = re.search(r"^Umask:\s*([0-7]+)$", status, re.MULTILINE)
    first = process.argv[0] if process.argv else ""
    executable = process.exe or (first if first.startswith("/") else shutil.which(first) or "")
    return _Launch(
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


def _launch_of_command(command: str) -> _Launch:
    """A start command that the administrator gave, run as whoever runs the backup."""
    try:
        words = tuple(shlex.split(command))
    except ValueError:
        words = ()
    executable = shutil.which(words[0], path=_PATH) if words else None
    if executable is None:
        raise _refuse(
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
    return _Launch(
        argv=words,
        executable=executable,
        cwd="/",
        uid=uid,
        gid=os.getegid(),
        groups=tuple(os.getgroups()),
        environment=tuple(sorted(_environment(home).items())),
    )


def _spawn(launch: _Launch, options: t.Sequence[str], output: str) -> int:
    """Start the command as a daemon and return its process id.

    It belongs to init: another session than ours, no terminal, no descriptor of ours, so neither the end of this
    process nor of the connection touches it. Raises ReplicaBackupError when it cannot be executed.
    """
    argv = [*launch.argv, *options]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.setsid()
            grandchild = os.fork()
            if grandchild:
                os.write(writer, b"P%d\n" % grandchild)
                os._exit(0)
            _become(launch, output, writer)
            os.execve(launch.executable, argv, dict(launch.environment))
        except BaseException as error:
            os.write(writer, f"E{type(error).__name__}: {error}\n".encode("utf-8", "replace")[:4000])
        finally:
            os._exit(127)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as stream:
        # Ends when the last writer is gone: at the exec, or with the child that failed.
        answer = stream.read().decode("utf-8", "replace").splitlines()
    problems = [line[1:] for line in answer if line.startswith("E")]
    if problems:
        raise ReplicaBackupError(
            f"'{shlex.join(argv)}' cannot be executed",
            found=problems[0],
            expected="the command that started the server before",
            server_state="stopped",
        )
    return int(next(line[1:] for line in answer if line.startswith("P")))


def _become(launch: _Launch, output: str, keep: int) -> None:
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


def _open_log(path: str, extra: int) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NOCTTY | extra
    try:
        return os.open(path, flags, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def _wait_for_none(
    process: ServerProcess | None, datadir: str, pid_file: str | None, timeout: float, on_poll: OnPoll
) -> float:
    """Wait until ``process`` (mysqld_safe) has ended, watching that no new server comes up."""
    begin = time.monotonic()
    while True:
        server = _server.find_process(datadir=datadir, pid_file=pid_file)
        waited = time.monotonic() - begin
        if server is not None:
            raise ReplicaBackupError(
                "The server was started again while the backup needs it stopped",
                found=f"process {server.pid} on {datadir}",
                expected=f"no server on {datadir}",
                server_state=f"running again, pid {server.pid}",
            )
        if process is None or not _server.is_alive(process):
            return waited
        if on_poll is not None:
            on_poll(waited)
        if waited >= timeout:
            raise ReplicaBackupError(
                "The process that watches over the server has not ended after it",
                found=f"process {process.pid} ({shlex.join(process.argv)}) alive after {waited:.0f} s",
                expected=f"its end within {timeout:.0f} s",
                server_state="stopped, but its guardian may start it again",
            )
        time.sleep(_POLL)


@dataclass
class _Unmanaged:
    """mysqld_safe, or a server that was started by hand (kind ``none``)."""

    kind: str
    name: str
    launch: _Launch
    skip_option: str
    state_dir: str
    datadir: str
    pid_file: str | None
    guardian: ServerProcess | None = None
    skip_supported: bool = True
    warnings: tuple[str, ...] = ()
    _started: int | None = field(default=None, compare=False, repr=False)
    _ended_at: float | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, t.Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "launch": self.launch.to_dict(),
            "skip_option": self.skip_option,
            "skip_supported": self.skip_supported,
            "state_dir": self.state_dir,
            "datadir": self.datadir,
            "pid_file": self.pid_file,
            "guardian": self.guardian.to_dict() if self.guardian else None,
            "warnings": list(self.warnings),
        }

    def hold(self) -> list[str]:
        return []

    def request_stop(self) -> bool:
        return False

    def wait_stopped(self, timeout: float, on_poll: OnPoll = None) -> float:
        return _wait_for_none(self.guardian, self.datadir, self.pid_file, timeout, on_poll)

    def start(self, *, skip_replication: bool) -> None:
        if _is_running(self.datadir, self.pid_file):
            return
        if self.guardian is not None:
            # Two of them over one data directory would fight.
            _server.wait_gone(self.guardian, 30, poll=_POLL)
        options = [self.skip_option] if skip_replication else []
        self._started = _spawn(self.launch, options, os.path.join(self.state_dir, _OUTPUT_NAME))

    def failure(self) -> str | None:
        if self._started is None or _server.read_process(self._started) is not None:
            return None
        self._ended_at = self._ended_at or time.monotonic()
        if not _given_up(self._ended_at, self.datadir, self.pid_file):
            return None
        return f"'{shlex.join(self.launch.argv)}' ended by itself{_last_lines(self._output())}"

    def after_start(self) -> list[str]:
        return []

    def release(self) -> list[str]:
        return []

    def status(self) -> str:
        return _process_status(f"{self.kind} server", self.datadir, self.pid_file)

    def _output(self) -> str:
        return self.launch.output or os.path.join(self.state_dir, _OUTPUT_NAME)


def _is_running(datadir: str, pid_file: str | None) -> bool:
    try:
        return _server.find_process(datadir=datadir, pid_file=pid_file) is not None
    except ReplicaBackupError:
        # Cannot be told. The server's own locks keep a second one out, so a start does no harm.
        return False


def _given_up(ended_at: float, datadir: str, pid_file: str | None) -> bool:
    """Whether the start command has been over for long enough without a server to be seen."""
    return not _is_running(datadir, pid_file) and time.monotonic() - ended_at >= _GRACE


def _process_status(what: str, datadir: str, pid_file: str | None) -> str:
    try:
        server = _server.find_process(datadir=datadir, pid_file=pid_file)
    except ReplicaBackupError as error:
        return f"{what} on {datadir}: {error.message}"
    return f"{what} on {datadir} " + (f"runs as process {server.pid}" if server else "is not running")


def _last_lines(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            stream.seek(max(stream.seek(0, os.SEEK_END) - 1000, 0))
            text = stream.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""
    return f": {text}" if text else ""


# --- init scripts ----------------------------------------------------------------------------------


@dataclass
class _SysVinit:
    """A script in /etc/init.d.

    Scripts that kill by name or with SIGKILL when their own shutdown fails are not used for the stop: they
    hit other servers of the host as well. The server then gets SQL SHUTDOWN, which is what such a script sends.
    """

    name: str
    skip_option: str
    skip_supported: bool
    state_dir: str
    datadir: str
    pid_file: str | None
    safe_stop: bool
    guardian: ServerProcess | None = None
    warnings: tuple[str, ...] = ()
    kind: str = "sysvinit"
    _ended_at: float | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, t.Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "skip_option": self.skip_option,
            "skip_supported": self.skip_supported,
            "state_dir": self.state_dir,
            "datadir": self.datadir,
            "pid_file": self.pid_file,
            "safe_stop": self.safe_stop,
            "guardian": self.guardian.to_dict() if self.guardian else None,
            "warnings": list(self.warnings),
        }

    def hold(self) -> list[str]:
        return []

    def request_stop(self) -> bool:
        if not self.safe_stop:
            return False
        _spawn(self._launch("stop"), [], self._output)
        return True

    def wait_stopped(self, timeout: float, on_poll: OnPoll = None) -> float:
        return _wait_for_none(self.guardian, self.datadir, self.pid_file, timeout, on_poll)

    def start(self, *, skip_replication: bool) -> None:
        if _is_running(self.datadir, self.pid_file):
            return
        if skip_replication and not self.skip_supported:
            raise ReplicaBackupError(
                f"{self.name} does not hand options on to the server",
                found=f"no use of its arguments in {self.name}",
                expected=f"that '{self.name} start {self.skip_option}' reaches the server",
                server_state="stopped",
                next_command=f"{self.name} start",
            )
        launch = self._launch("start")
        pid = _spawn(launch, [self.skip_option] if skip_replication else [], self._output)
        # The script is done when the server answers or has failed; a server slower than that is waited for elsewhere.
        limit = time.monotonic() + _SCRIPT_TIMEOUT
        while _server.read_process(pid) is not None and time.monotonic() < limit:
            if _is_running(self.datadir, self.pid_file):
                break
            time.sleep(_POLL)
        self._ended_at = time.monotonic()

    def failure(self) -> str | None:
        if self._ended_at is None or not _given_up(self._ended_at, self.datadir, self.pid_file):
            return None
        return f"'{self.name} start' brought up no server{_last_lines(self._output)}"

    def after_start(self) -> list[str]:
        return []

    def release(self) -> list[str]:
        return []

    def status(self) -> str:
        return _process_status(f"init script {self.name}: server", self.datadir, self.pid_file)

    @property
    def _output(self) -> str:
        return os.path.join(self.state_dir, _OUTPUT_NAME)

    def _launch(self, action: str) -> _Launch:
        # The same bare environment that service(8) gives.
        return _Launch(
            argv=(self.name, action),
            executable=self.name,
            cwd="/",
            uid=os.geteuid(),
            gid=os.getegid(),
            environment=tuple(sorted({**_environment(), "TERM": "dumb"}.items())),
        )


_KILLS = re.compile(r"\bkillall\b|\bpkill\b|kill\s+-(?:9|KILL|SIGKILL|s\s+(?:9|KILL))\b|--(?:retry|stop)\b.*\bKILL\b")


def _stops_gently(script: str) -> bool:
    text = _script_text(script)
    return bool(text) and not _KILLS.search(re.sub(r"(?m)^\s*#.*$", "", text))


def _default_datadirs(script: str, server: str) -> list[str]:
    """Data directories that a script's server uses: what the script names, and what the option files say."""
    found = re.findall(r"(?m)^\s*(?:datadir|DATADIR)=[\"']?(/[^\s\"'$]+)", _script_text(script))
    answer = _run([server, "--print-defaults"])
    named = re.findall(r"--datadir=(\S+)", answer.stdout)
    return [*found, *(named[-1:] or ["/var/lib/mysql"])]


def _script_owns(script: str, process: ServerProcess, guardian: ServerProcess | None, datadir: str) -> bool:
    """Whether the script manages exactly this server and not another one of the host."""
    if not os.access(script, os.X_OK):
        return False
    argv = (guardian or process).argv
    special = [word for word in argv if word.startswith(("--defaults-", "--no-defaults"))]
    text = _script_text(script)
    if any((word.partition("=")[2] or word) not in text for word in special):
        return False
    server = process.exe or next((path for path in (shutil.which("mariadbd"), shutil.which("mysqld")) if path), "")
    if not server:
        return False
    real = os.path.realpath(datadir)
    if not any(os.path.realpath(name) == real for name in _default_datadirs(script, server)):
        return False
    return _run([script, "status"]).returncode == 0


# --- finding the manager ---------------------------------------------------------------------------


def detect(
    *,
    process: ServerProcess,
    requested: str,
    name: str | None,
    variables: t.Mapping[str, str],
    skip_option: str,
    state_dir: str,
) -> ServiceManager:
    """The manager of a running server; reads only.

    ``requested``: ``auto`` or one of KINDS. ``name``: unit, script, or start command (mysqld_safe and none).
    ``skip_option``: the server's option against starting replication, such as ``--skip-slave-start``.
    Raises RefusedError (rule ``service_manager``) when the server could not be brought back as it is now.
    """
    if requested not in ("auto", *KINDS):
        raise _refuse("The service manager is not known", found=repr(requested), expected=", ".join(("auto", *KINDS)))
    nested = re.search(r"^NSpid:\s*\d+\s+\d", _proc_text(process.pid, "status"), re.MULTILINE)
    if nested is not None:
        raise _refuse(
            "The server runs in a container of this host and cannot be managed from outside",
            found=f"process {process.pid} in a process namespace of its own",
            expected="a server of this host",
            next_command="run the play inside the container",
        )
    found = _Found(process, name or None, variables, skip_option, state_dir)
    finders = {"systemd": found.systemd, "sysvinit": found.sysvinit, "mysqld_safe": found.mysqld_safe}
    for kind, find in finders.items():
        manager = find(required=requested == kind) if requested in ("auto", kind) else None
        if manager is not None:
            return manager
    return found.none()


class _Found(t.NamedTuple):
    """What is known of the server, and one method for each kind of manager."""

    process: ServerProcess
    name: str | None
    variables: t.Mapping[str, str]
    skip_option: str
    state_dir: str

    @property
    def datadir(self) -> str:
        return self.variables.get("datadir") or self.process.cwd

    @property
    def pid_file(self) -> str | None:
        value = self.variables.get("pid_file")
        return os.path.join(self.datadir, value) if value else None

    def _wanted_unit(self) -> str | None:
        """The unit that the administrator named; a name with spaces or slashes is a command or a script."""
        if self.name is None or re.search(r"[\s/]", self.name):
            return None
        return self.name if self.name.endswith(".service") else self.name + ".service"

    def systemd(self, *, required: bool) -> ServiceManager | None:
        unit = _unit_of(_proc_text(self.process.pid, "cgroup"))
        if not os.path.isdir(_RUNTIME_UNITS) or unit is None:
            if required:
                raise _refuse(
                    "The server is not run by systemd",
                    found=f"process {self.process.pid} outside every system service",
                    expected="a server in the control group of a .service unit",
                )
            return None
        state = _show(
            unit,
            *("Id", "LoadState", "ActiveState", "SubState", "MainPID", "TimeoutStopUSec", "SendSIGKILL", "Restart"),
            "NeedDaemonReload",
        )
        unit = state.get("Id") or unit
        manager = _Systemd(
            name=unit,
            skip_option=self.skip_option,
            skip_supported=False,
            endless_stop=state.get("TimeoutStopUSec") != "infinity",
        )
        commands = manager._commands() if state.get("LoadState") == "loaded" else []
        owns = state.get("MainPID") == str(self.process.pid) or any(
            _SERVER_WORD.search(command) or re.search(r"/init\.d/(?:mysql|mariadb|mysqld)\s", command)
            for command in commands
        )
        wanted = self._wanted_unit()
        if wanted is not None:
            owns = _show(wanted, "Id").get("Id") == unit
        if not owns:
            if required or wanted is not None:
                raise _refuse(
                    "The unit does not manage this server",
                    found=f"process {self.process.pid} belongs to {unit}",
                    expected=wanted or "a unit that runs the server",
                )
            # Such as a server that was started by hand in a session of ssh.service.
            return None
        if state.get("ActiveState") != "active":
            raise _refuse(
                f"{unit} is not at rest",
                found=f"{state.get('ActiveState')} ({state.get('SubState')})",
                expected="active (running)",
                next_command="wait until it is and try again",
            )
        if os.geteuid() != 0:
            raise _refuse(
                f"Only root may stop and start {unit}",
                found=f"user id {os.geteuid()}",
                expected="root",
                next_command="run the play with become: true",
            )
        manager.skip_supported = _with_option(commands, self.skip_option) is not None
        manager.wakers = tuple(name for name in _triggers(unit) if _active(name))
        manager.dependents = tuple(_stopped_along(unit))
        manager.warnings = tuple(_systemd_warnings(manager, state, commands))
        return manager

    def sysvinit(self, *, required: bool) -> ServiceManager | None:
        guardian = _guardian_of(self.process)
        names = [self.name] if self.name and (required or "/" in self.name) else list(_SCRIPT_NAMES)
        scripts = [os.path.join(_SCRIPT_DIRECTORY, name) for name in names]
        script = next((path for path in scripts if _script_owns(path, self.process, guardian, self.datadir)), None)
        if script is None or os.geteuid() != 0:
            if required:
                raise _refuse(
                    "No init script is known to manage this server",
                    found=f"{', '.join(scripts)} for {self.datadir}, as user id {os.geteuid()}",
                    expected="a script whose status is 0 and whose data directory is this one, and root",
                )
            return None
        warnings = []
        gentle = _stops_gently(script)
        if not gentle:
            warnings.append(f"{script} kills servers by force when its stop is slow: SQL SHUTDOWN is used instead")
        hands_on = _hands_on(script)
        if not hands_on:
            warnings.append(f"{script} does not hand {self.skip_option} on to the server")
        return _SysVinit(
            name=script,
            skip_option=self.skip_option,
            skip_supported=hands_on,
            state_dir=self.state_dir,
            datadir=self.datadir,
            pid_file=self.pid_file,
            safe_stop=gentle,
            guardian=guardian,
            warnings=tuple(warnings),
        )

    def mysqld_safe(self, *, required: bool) -> ServiceManager | None:
        guardian = _guardian_of(self.process)
        if guardian is None and not (required and self.name):
            if required:
                raise _refuse(
                    "The server was not started by mysqld_safe",
                    found=f"process {self.process.pid} has no such ancestor",
                    expected="mysqld_safe or mariadbd-safe, or its command line in replica_backup_service_name",
                )
            return None
        if self.name and (required or " " in self.name or "/" in self.name):
            launch = _launch_of_command(self.name)
        else:
            launch = self._again(t.cast(ServerProcess, guardian))
        return self._unmanaged("mysqld_safe", launch, guardian)

    def none(self) -> ServiceManager:
        launch = _launch_of_command(self.name) if self.name else self._again(self.process)
        return self._unmanaged("none", launch, None)

    def _unmanaged(self, kind: str, launch: _Launch, guardian: ServerProcess | None) -> ServiceManager:
        return _Unmanaged(
            kind=kind,
            name=shlex.join(launch.argv),
            launch=launch,
            skip_option=self.skip_option,
            state_dir=self.state_dir,
            datadir=self.datadir,
            pid_file=self.pid_file,
            guardian=guardian,
        )

    def _again(self, process: ServerProcess) -> _Launch:
        """How to start the process once more; refuses when that would not give the same server."""
        if os.geteuid() not in (0, process.uid):
            raise _refuse(
                "The server belongs to another user and could not be started again",
                found=f"user id {process.uid} (we are {os.geteuid()})",
                expected="root or the user of the server",
                next_command="run the play with become: true",
            )
        launch = _launch_of(process, process.cwd or self.datadir)
        # The option of a start for which threads had to stay stopped is not part of how the server is started.
        launch = replace(launch, argv=tuple(word for word in launch.argv if word != self.skip_option))
        # The server has left the directory it was started in; its shell's is still in its environment.
        started_in = re.search(r"(?:\A|\0)PWD=([^\0]+)", _proc_text(process.pid, "environ"))
        directories = [launch.cwd] + ([started_in.group(1)] if started_in else [])
        fitting = [directory for directory in directories if _resolves(launch, directory, self.datadir)]
        if not launch.executable or not os.access(launch.executable, os.X_OK) or not fitting:
            raise _refuse(
                "The command that started the server cannot be repeated",
                found=f"{shlex.join(launch.argv)} in {launch.cwd}",
                expected="an executable that is still there and paths that still resolve",
                next_command="set replica_backup_service_name to a full start command",
            )
        return replace(launch, cwd=fitting[0])


def _resolves(launch: _Launch, directory: str, datadir: str) -> bool:
    """Whether the relative paths among the arguments mean the same again when started in ``directory``."""
    if not os.path.isdir(directory):
        return False
    if not launch.executable.startswith("/"):
        return False
    for word in launch.argv[1:]:
        key, _equals, value = word.partition("=")
        if key in ("--defaults-file", "--defaults-extra-file", "--basedir", "--datadir") and value:
            path = os.path.join(directory, value)
            if not os.path.exists(path):
                return False
            if key == "--datadir" and os.path.realpath(path) != os.path.realpath(datadir):
                return False
        elif not word.startswith("-") and "/" in word and not os.path.exists(os.path.join(directory, word)):
            # The script's own name, as in: sh ./bin/mysqld_safe
            return False
    return True


def _unit_of(cgroup: str) -> str | None:
    """The system service that a process belongs to, from /proc/PID/cgroup; ``None`` for sessions and users."""
    lines = [line.split(":", 2) for line in cgroup.splitlines() if line.count(":") >= 2]
    # With both hierarchies mounted only the named one of version 1 is systemd's.
    paths = [path for _number, names, path in lines if names == "name=systemd"]
    paths = [path for path in paths if path != "/"] or [path for _n, names, path in lines if names == ""]
    for path in paths:
        parts = [part for part in path.split("/") if part]
        if any(part == "user.slice" or re.match(r"user@\d+\.service\Z", part) for part in parts):
            continue
        for part in reversed(parts):
            if part.endswith(".scope"):
                break
            if part.endswith(".service"):
                return part
    return None


def _guardian_of(process: ServerProcess) -> ServerProcess | None:
    """The mysqld_safe above the server, if there is one."""
    current: ServerProcess | None = process
    for _step in range(8):
        if current is None or current.parent_pid <= 1:
            return None
        current = _server.read_process(current.parent_pid)
        if current is not None and any(
            os.path.basename(word) in ("mysqld_safe", "mariadbd-safe") for word in current.argv[:3]
        ):
            return current
    return None


def _systemd_warnings(manager: _Systemd, state: t.Mapping[str, str], commands: t.Sequence[str]) -> list[str]:
    found = []
    if state.get("NeedDaemonReload") == "yes":
        found.append(f"{manager.name} was edited since systemd read it: the restart will use the new text")
    if not manager.skip_supported:
        found.append(
            f"{manager.name} cannot be given {manager.skip_option}: its ExecStart is not understood "
            f"({'; '.join(commands) or 'none'})"
        )
    if manager.dependents:
        found.append(f"systemd stops {', '.join(manager.dependents)} together with {manager.name}")
    return found


def from_dict(data: t.Mapping[str, t.Any]) -> ServiceManager:
    """A manager from what ``to_dict`` gave. Raises ReplicaBackupError on anything else."""
    try:
        kind = str(data["kind"])
        common: dict[str, t.Any] = {
            "name": str(data["name"]),
            "skip_option": str(data["skip_option"]),
            "skip_supported": bool(data["skip_supported"]),
            "warnings": tuple(str(text) for text in data["warnings"]),
        }
        if kind == "systemd":
            return _Systemd(
                **common,
                endless_stop=bool(data["endless_stop"]),
                wakers=tuple(str(unit) for unit in data["wakers"]),
                dependents=tuple(str(unit) for unit in data["dependents"]),
            )
        common.update(
            state_dir=str(data["state_dir"]),
            datadir=str(data["datadir"]),
            pid_file=None if data["pid_file"] is None else str(data["pid_file"]),
            guardian=ServerProcess.from_dict(data["guardian"]) if data["guardian"] else None,
        )
        if kind == "sysvinit":
            return _SysVinit(**common, safe_stop=bool(data["safe_stop"]))
        if kind in ("mysqld_safe", "none"):
            return _Unmanaged(**common, kind=kind, launch=_Launch.from_dict(data["launch"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReplicaBackupError(
            "The record of the service manager cannot be read", found=f"{type(error).__name__}: {error}"
        ) from error
    raise ReplicaBackupError("The record names an unknown service manager", found=repr(kind), expected=", ".join(KINDS))
