# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that is a unit of systemd: services, their instances, and the sockets that wake them."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _error_log, _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers import commands, init_script, unit_file
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.interface import (
    Found,
    OnPoll,
    Recorded,
    ServiceManager,
    Stopped,
    refuse,
    refuse_stopped,
)

_RUNTIME_UNITS = commands.SYSTEMD
_DROP_IN = "zz-replica-backup.conf"
_ASKED = (
    *("Id", "LoadState", "ActiveState", "SubState", "MainPID", "TimeoutStopUSec", "SendSIGKILL", "NeedDaemonReload"),
    # UpheldBy and, below, PropagatesStopTo: from systemd 249; others leave them out of their answer.
    *("KillMode", "Transient", "RefuseManualStart", "RefuseManualStop", "UpheldBy"),
)
_STOPPED_ALONG = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo")
_POLL = 0.2
_DATABASE_WORD = re.compile(r"mysql|mariadb", re.IGNORECASE)
# What people and jobs start servers from by hand, whatever its instance or its repository is called.
_HANDWORK = re.compile(
    r"(?:sshd?|crond?|anacron|atd|user|(?:[\w-]+-)?getty)(?:@.*)?\.service\Z"
    r"|actions\.runner\.|(?:(?:act|actions|ci|forgejo|gitea|github|gitlab)[-_]runner|buildkite-agent|jenkins)\b"
)


def _systemctl(*words: str) -> str:
    return commands.must(["systemctl", "--no-pager", "--no-ask-password", *words])


def _show(unit: str, *properties: str) -> dict[str, str]:
    output = _systemctl("show", f"--property={','.join(properties)}", "--", unit)
    pairs = (line.partition("=") for line in output.splitlines() if "=" in line)
    # A property that occurs more than once (ExecStart) is never asked for here.
    return {key: value for key, _equals, value in pairs}


def _journal_of_last_start(unit: str) -> str:
    """What the processes of that start said to the journal, in short: the error log of many servers is there."""
    command = ["journalctl", "--no-pager", "--output=cat", "--lines=200"]
    try:
        invocation = _show(unit, "InvocationID").get("InvocationID")
        match = f"_SYSTEMD_INVOCATION_ID={invocation}"
        text = commands.must([*command, match]).encode("utf-8", "replace").decode() if invocation else ""
    except ReplicaBackupError:
        # Without a journal, or without the right to read it.
        return ""
    return f"; its journal says: {_error_log.gist(text)}" if text.strip() else ""


def _active(unit: str) -> bool:
    return _show(unit, "ActiveState").get("ActiveState") in ("active", "activating", "reloading")


@dataclass
class Systemd(Recorded):
    """A unit of the system's service manager.

    ``wakers``: units (sockets, timers) that were active and start the service by themselves.
    ``dependents``: units that systemd stops together with the service, and that were active.
    ``endless_stop``: whether systemd's own limit for the stop has to be lifted, because at its end systemd
    kills the server or forgets about it.
    ``by_script``: the unit stands for an init script that kills every server of the host when its own stop fails. It is
    run only when the server is down already.
    """

    name: str
    takes_options: bool
    endless_stop: bool
    by_script: bool = False
    wakers: tuple[str, ...] = ()
    dependents: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    kind: str = "systemd"
    _left_out: str | None = field(default=None, compare=False, repr=False)

    @property
    def start_command(self) -> str:
        return f"systemctl start {shlex.quote(self.name)}"

    @property
    def keeps_options(self) -> bool:
        return False

    @property
    def _drop_in(self) -> str:
        return os.path.join(_RUNTIME_UNITS, f"{self.name}.d", _DROP_IN)

    def hold(self) -> list[str]:
        done = []
        if self.endless_stop and self._write_drop_in("TimeoutStopSec=infinity", "SendSIGKILL=no"):
            self._check_lifted()
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

    def _check_lifted(self) -> None:
        """Another drop-in, one that is read after ours, may set the limit again."""
        state = _show(self.name, "TimeoutStopUSec", "SendSIGKILL")
        if state.get("TimeoutStopUSec") != "infinity" and state.get("SendSIGKILL") != "no":
            raise ReplicaBackupError(
                f"systemd would kill {self.name} before its shutdown is done, and that cannot be lifted",
                found=f"TimeoutStopSec={state.get('TimeoutStopUSec')}, SendSIGKILL={state.get('SendSIGKILL')} in spite "
                f"of {self._drop_in}",
                expected="TimeoutStopSec=infinity",
                server_state="running",
                next_command=f"systemctl cat {self.name}; then set TimeoutStopSec=infinity where it is set last",
            )

    @property
    def stops_by_sql(self) -> bool:
        return self.by_script

    def request_stop(self) -> bool:
        if self.stops_by_sql:
            return False
        _systemctl("stop", "--no-block", "--", self.name)
        return True

    def wait_stopped(self, timeout: float, on_poll: OnPoll = None) -> float:
        begin = time.monotonic()
        if self.by_script:
            _systemctl("stop", "--no-block", "--", self.name)
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

    def start(self, options: t.Sequence[str] = (), *, must: bool = False) -> None:
        state = _show(self.name, "ActiveState", "SubState")
        if state.get("SubState") == "exited":
            # Of a unit with RemainAfterExit=, as generated for init scripts, a start would do nothing now.
            _systemctl("stop", "--", self.name)
        elif state.get("ActiveState") in ("active", "activating", "reloading"):
            return
        self._left_out = None
        if options:
            problem = self._add_options(options)
            if problem is not None:
                # A server that is down is worse than one that lacks them: the caller compares its threads and
                # switches with what they were, and is told through after_start().
                self._left_out = _without(self.name, options, problem)
                with contextlib.suppress(OSError, ReplicaBackupError):
                    self._remove_drop_in()
                if must:
                    self._left_out = None
                    raise ReplicaBackupError(
                        f"{self.name} cannot be started with {' '.join(options)}",
                        found=problem,
                        expected="an ExecStart= that a further option can be added to",
                        server_state="not running; it was not started",
                        next_command=f"systemctl cat {self.name}",
                    )
        else:
            self._remove_drop_in()
        # Earlier failures must not count against the limit on starts.
        commands.run(["systemctl", "--no-ask-password", "reset-failed", "--", self.name])
        # systemd refuses to start a socket unit once its service is active, so sockets come first. If a client
        # wakes the service now, it is started just as the next command would.
        for unit in self.wakers:
            commands.run(["systemctl", "--no-ask-password", "start", "--", unit])
        _systemctl("start", "--no-block", "--", self.name)

    def _add_options(self, options: t.Sequence[str]) -> str | None:
        """Make the next start one with ``options``; why that is not possible, when it is not."""
        try:
            starts = self.start_commands()
            command = unit_file.with_options(starts, options)
            if command is None:
                return f"its ExecStart= is not understood ({'; '.join(starts) or 'none'})"
            self._write_drop_in("ExecStart=", f"ExecStart={command}")
        except OSError as error:
            return f"{self._drop_in} cannot be written ({error.strerror})"
        except ReplicaBackupError as error:
            return f"{error.message}: {error.found}"
        return None

    def failure(self) -> str | None:
        state = _show(self.name, "ActiveState", "SubState", "Result")
        if state.get("ActiveState") != "failed":
            return None
        words = f"{self.name} failed ({state.get('Result')}); see: journalctl -u {self.name}"
        return words + _journal_of_last_start(self.name)

    def after_start(self) -> list[str]:
        done = [f"removed the run-time settings of {self.name}"] if self._remove_drop_in() else []
        if self._left_out is not None:
            done.append(self._left_out)
            self._left_out = None
        return done

    def release(self) -> list[str]:
        done = []
        for unit in (*self.wakers, *self.dependents):
            if _active(unit):
                continue
            answer = commands.run(["systemctl", "--no-ask-password", "start", "--", unit])
            if answer.returncode == 0:
                done.append(f"started {unit}")
            else:
                done.append(f"{unit} was active before and could not be started: {answer.stderr.strip()[-300:]}")
        return done

    def status(self) -> str:
        state = _show(self.name, "ActiveState", "SubState")
        return f"systemd unit {self.name} is {state.get('ActiveState')} ({state.get('SubState')})"

    def start_commands(self) -> list[str]:
        """Raw ``ExecStart=`` values in effect, our own drop-in left out."""
        return unit_file.exec_start(_systemctl("cat", "--", self.name), self._drop_in)

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


def _without(unit: str, options: t.Sequence[str], problem: str) -> str:
    """What to say of a start that had to do without ``options``."""
    said = f"{unit} could not be started with {' '.join(options)} and was started without: {problem}"
    if any(option.startswith("--skip") for option in options):
        return (
            f"{said}. REPLICATION THREADS THAT WERE STOPPED MAY HAVE STARTED WITH THE SERVER and may have applied "
            "transactions: compare them with the threads before the backup, and STOP those that were stopped"
        )
    return f"{said}. It may have taken writes until SQL put its read-only switches back"


def _triggers(unit: str) -> list[str]:
    return _show(unit, "TriggeredBy").get("TriggeredBy", "").split()


def _stopped_along(unit: str) -> list[str]:
    """Active units that systemd stops when it stops ``unit``, and those that depend on them in turn."""
    found: list[str] = []
    queue = [unit]
    while queue:
        state = _show(queue.pop(0), *_STOPPED_ALONG)
        for name in dict.fromkeys(" ".join(state.values()).split()):
            if name not in found and name != unit and _active(name):
                found.append(name)
                queue.append(name)
    return found


def find(found: Found, *, required: bool) -> ServiceManager | None:
    """The unit that the server belongs to; ``None`` when there is none and none is ``required``."""
    unit = _unit_of(_server.proc_text(found.process.pid, "cgroup"))
    if not os.path.isdir(_RUNTIME_UNITS) or unit is None:
        if required:
            raise refuse(
                "The server is not run by systemd",
                found=f"process {found.process.pid} outside every system service",
                expected="a server in the control group of a .service unit",
            )
        return None
    state = _show(unit, *_ASKED)
    unit = state.get("Id") or unit
    manager = Systemd(
        name=unit,
        takes_options=False,
        endless_stop=state.get("TimeoutStopUSec") != "infinity",
    )
    starts = manager.start_commands() if state.get("LoadState") == "loaded" else []
    owns = state.get("MainPID") == str(found.process.pid) or any(
        unit_file.SERVER_WORD.search(command) or re.search(r"/init\.d/(?:mysql|mariadb|mysqld)\s", command)
        for command in starts
    )
    wanted = _wanted_unit(found)
    if wanted is not None:
        owns = _show(wanted, "Id").get("Id") == unit
    if not owns:
        if required or wanted is not None:
            raise refuse(
                "The unit does not manage this server",
                found=f"process {found.process.pid} belongs to {unit}",
                expected=wanted or "a unit that runs the server",
            )
        _refuse_if_about_databases(unit, state, starts, found)
        # Such as a server that was started by hand in a session of ssh.service.
        return None
    _refuse_unless_it_can_come_back(unit, state)
    if state.get("ActiveState") != "active":
        raise refuse(
            f"{unit} is not at rest",
            found=f"{state.get('ActiveState')} ({state.get('SubState')})",
            expected="active (running)",
            next_command="wait until it is and try again",
        )
    if os.geteuid() != 0:
        raise refuse(
            f"Only root may stop and start {unit}",
            found=f"user id {os.geteuid()}",
            expected="root",
            next_command="run the play with become: true",
        )
    script = unit_file.script_of(starts[0]) if len(starts) == 1 else None
    manager.by_script = script is not None and not init_script.stops_gently(script)
    manager.takes_options = unit_file.with_options(starts, found.own_options) is not None
    manager.wakers = tuple(name for name in _triggers(unit) if _active(name))
    manager.dependents = tuple(_stopped_along(unit))
    manager.warnings = tuple(_warnings(manager, state, starts, found))
    return manager


def of_stopped(server: Stopped) -> ServiceManager:
    """The unit ``server.service`` of a server that is down. ``wakers`` are those that are active now."""
    state = _show(server.service, *_ASKED)
    unit = state.get("Id") or server.service
    obstacles = (
        (state.get("LoadState") != "loaded", f"its unit file is {state.get('LoadState')}"),
        (state.get("RefuseManualStart") == "yes", "RefuseManualStart=yes"),
        (os.geteuid() != 0, f"user id {os.geteuid()}, and only root may"),
    )
    for met, obstacle in obstacles:
        if met:
            raise refuse_stopped(
                f"{unit} cannot be started",
                found=obstacle,
                expected="a loaded unit, and root",
                next_command=f"systemctl status {unit}",
            )
    manager = Systemd(name=unit, takes_options=False, endless_stop=state.get("TimeoutStopUSec") != "infinity")
    starts = manager.start_commands()
    script = unit_file.script_of(starts[0]) if len(starts) == 1 else None
    manager.by_script = script is not None and not init_script.stops_gently(script)
    manager.takes_options = unit_file.with_options(starts, server.own_options) is not None
    manager.wakers = tuple(name for name in _triggers(unit) if _active(name))
    if not manager.takes_options:
        manager.warnings = (
            f"{unit} cannot be given {server.own_options[0]}: its ExecStart is not understood "
            f"({'; '.join(starts) or 'none'})",
        )
    return manager


def _refuse_if_about_databases(unit: str, state: t.Mapping[str, str], starts: t.Sequence[str], found: Found) -> None:
    """A unit that starts its server through mysqld_multi or a script is not left for a start by hand unasked.

    Only words tell: MainPID is 0 after ``mysqld_multi start``, and servers that a job runs in the background have
    left the process tree of its service just like those that a controller starts.
    """
    if found.name is not None:
        # A start command or a script: the administrator has decided.
        return
    if state.get("Transient") == "yes" or _HANDWORK.match(unit):
        # Made by systemd-run for one job, nothing that brings the server back by itself later.
        return
    if not any(_DATABASE_WORD.search(text) for text in (unit, *starts)):
        return
    raise refuse(
        f"The server runs inside {unit}, whose start command does not name it: who stops and starts it is not clear",
        found=f"process {found.process.pid} in {unit}, ExecStart={'; '.join(starts) or '(none)'}",
        expected="a unit that runs mysqld, mariadbd or mysqld_safe, or a server outside every database service",
        next_command=f"set replica_backup_service_manager=systemd with replica_backup_service_name={unit} if the "
        "unit's stop and start are the right ones, or replica_backup_service_manager=none (or mysqld_safe)",
    )


def _refuse_unless_it_can_come_back(unit: str, state: t.Mapping[str, str]) -> None:
    """What runs now need not be what systemd would start again."""
    upholders = [name for name in state.get("UpheldBy", "").split() if _active(name)]
    obstacles = (
        (state.get("LoadState") != "loaded", f"its unit file is {state.get('LoadState')}", f"systemctl status {unit}"),
        (
            state.get("Transient") == "yes",
            "it is transient: with its stop systemd forgets it",
            "make a unit file for it, or set replica_backup_service_manager to none",
        ),
        (state.get("RefuseManualStop") == "yes", "RefuseManualStop=yes", f"systemctl edit {unit}"),
        (state.get("RefuseManualStart") == "yes", "RefuseManualStart=yes", f"systemctl edit {unit}"),
        (
            bool(upholders),
            f"{', '.join(upholders)} would start it at once (Upholds=)",
            f"systemctl stop {' '.join(upholders)}",
        ),
    )
    for met, obstacle, next_command in obstacles:
        if met:
            raise refuse(
                f"{unit} cannot be stopped for a while and started again",
                found=obstacle,
                expected="a loaded unit that stays stopped until it is started",
                next_command=next_command,
            )


def _wanted_unit(found: Found) -> str | None:
    """The unit that the administrator named; a name with spaces or slashes is a command or a script."""
    if found.name is None or re.search(r"[\s/]", found.name):
        return None
    return found.name if found.name.endswith(".service") else found.name + ".service"


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


def _warnings(manager: Systemd, state: t.Mapping[str, str], starts: t.Sequence[str], found: Found) -> list[str]:
    said = []
    if state.get("NeedDaemonReload") == "yes":
        said.append(f"{manager.name} was edited since systemd read it: the restart will use the new text")
    if not manager.takes_options:
        said.append(
            f"{manager.name} cannot be given {found.own_options[0]}: its ExecStart is not understood "
            f"({'; '.join(starts) or 'none'})"
        )
    if manager.by_script:
        said.append(f"{manager.name} kills servers by force when its stop is slow: SQL SHUTDOWN is used instead")
    if manager.dependents:
        said.append(f"systemd stops {', '.join(manager.dependents)} together with {manager.name}")
    limit = _seconds(state.get("TimeoutStopUSec", "infinity"))
    # Without a main process and with KillMode=process there is nothing that systemd would kill.
    kills = state.get("SendSIGKILL") == "yes" and (state.get("KillMode"), state.get("MainPID")) != ("process", "0")
    if limit < found.shutdown_timeout and kills:
        said.append(
            f"systemd kills {manager.name} {limit:g} s after it was asked to stop (TimeoutStopSec=, SendSIGKILL=yes), "
            f"sooner than replica_backup_shutdown_timeout ({found.shutdown_timeout:g} s). The backup lifts that for "
            f"its own stop. For every other one: systemctl edit {manager.name}, then [Service] TimeoutStopSec=infinity"
        )
    return said


_SPAN = re.compile(r"([\d.]+)(y|month|w|d|h|min|s|ms|us)\b")
_SPAN_UNITS = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    "month": 2629800.0,
    "y": 31557600.0,
}


def _seconds(span: str) -> float:
    """A time span as systemctl prints it, such as ``1min 30s``; ``infinity`` as well."""
    if span == "infinity":
        return math.inf
    return sum(float(number) * _SPAN_UNITS[unit] for number, unit in _SPAN.findall(span))
