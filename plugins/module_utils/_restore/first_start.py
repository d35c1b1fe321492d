# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first start of a restored server: without replication threads, watched, and the next start a normal one."""

from __future__ import annotations

import os
import time
import typing as t
from dataclasses import asdict, dataclass, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _bringback,
    _connection,
    _error_log,
    _ledger,
    _server,
    _server_help,
    _service,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._error_log import ErrorLogMark
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers import by_hand, commands
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.interface import ServiceManager
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.journal import Journal

AGAIN = (
    "mend the cause, then run the restore playbook again without replica_restore_force (or mysql_replica_resume):"
    " it goes on from here; with it everything is laid down anew"
)
_POLL = 0.1
# A process that appeared and is gone for this long, or never appeared for the second time, has given up.
_GONE_SECONDS = 20.0
_NEVER_SECONDS = 60.0


@dataclass(frozen=True)
class Target:
    """The restored server as the journal and this host's binary describe it."""

    dialect: Dialect
    datadir: str
    pid_file: str | None
    error_log: str | None
    variables: t.Mapping[str, str]
    manager: ServiceManager

    def process(self) -> _server.ServerProcess | None:
        return _server.find_process(datadir=self.datadir, pid_file=self.pid_file)

    @property
    def starts_quietly(self) -> bool:
        """Whether the server's own settings keep its threads stopped at the start."""
        names = ("skip_replica_start", "skip_slave_start")
        return any(self.variables.get(name, "").upper() in ("ON", "1", "TRUE") for name in names)


def target_of(journal: Journal, *, service_manager: str, service_name: str | None) -> Target:
    """Reads only. Raises RefusedError when nobody is known who could start the server."""
    target = journal.target
    said = _server_help.ask(target["exe"], target["environment"])
    if said is None or said.identity is None:
        raise RefusedError(
            f"{target['exe']} does not say what it is",
            found="no answer to --no-defaults --verbose --help",
            expected="the binary of the server that the set was restored for",
            server_state="not running; the restored files are in place",
            next_command=AGAIN,
            rule="server_binary",
        )
    dialect = Dialect(said.identity.family, said.identity.version)
    variables = target["variables"]
    pid_file = variables.get("pid_file") or None
    log = _error_log.path_of({**variables, "datadir": target["datadir"]})
    noted = journal.work.get("manager")
    if noted and service_manager in ("auto", noted["kind"]) and service_name in (None, "", *_names_of(noted["name"])):
        manager = _service.from_dict(noted)
    else:
        manager = _service.of_stopped(
            start=target,
            requested=service_manager,
            name=service_name,
            datadir=target["datadir"],
            pid_file=fs.absolute(pid_file, target["datadir"]) if pid_file else None,
            own_options=dialect.own_start_options,
            state_dir=journal.state_dir,
        )
    return Target(dialect, target["datadir"], pid_file, log, variables, manager)


def _names_of(unit: str) -> tuple[str, str]:
    return unit, unit.removesuffix(".service")


def options_for(target: Target, *, recover_relay_logs: bool) -> tuple[str, ...]:
    """What the first start adds to the command line. Raises RefusedError when it cannot be added."""
    options = (
        *(() if target.starts_quietly else (target.dialect.skip_start_option,)),
        *((target.dialect.relay_log_recovery_option,) if recover_relay_logs else ()),
    )
    if options and not target.manager.takes_options:
        settings = " and ".join(option.lstrip("-").replace("-", "_") for option in options)
        raise RefusedError(
            f"The restored server cannot be started without replication threads through {target.manager.kind} "
            f"{target.manager.name}".rstrip(),
            found="; ".join(target.manager.warnings) or "a start command that takes no further option",
            expected=f"a start command that hands {' '.join(options)} to the server",
            server_state="not running; the restored files are in place",
            next_command=f"put {settings} into its option file until the restore is done, or set service_manager and"
            " service_name; then run the restore playbook again",
            rule="service_manager",
        )
    return options


@dataclass(frozen=True)
class Log:
    """Where the lines of one start are: in the file ``mark``, or in systemd's journal of ``unit`` from ``since``
    (seconds of the epoch) on."""

    mark: ErrorLogMark | None
    unit: str = ""
    since: float = 0.0

    def to_dict(self) -> dict[str, t.Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Log:
        return cls(ErrorLogMark(**data["mark"]) if data["mark"] else None, data["unit"], data["since"])

    def text(self) -> str | None:
        """What was logged; None when that cannot be read, or nothing was."""
        try:
            if self.mark is not None:
                return _error_log.since(self.mark) or None
            words = ("journalctl", "--no-pager", "--output=cat", f"--unit={self.unit}", f"--since=@{int(self.since)}")
            return commands.must(words) or None
        except (OSError, ReplicaBackupError):
            return None


def log_to_come(target: Target) -> Log:
    """Where the log of the start to come begins; a server without a file logs to what its manager gives it."""
    manager = target.manager
    if target.error_log is None and manager.kind == "systemd":
        return Log(None, manager.name, time.time())
    path = target.error_log or os.path.join(getattr(manager, "state_dir", ""), by_hand.OUTPUT_NAME)
    return Log(_error_log.mark_end(path) or ErrorLogMark(path, 0, 0))


def start(journal: Journal, target: Target, login: Login, options: t.Sequence[str], limit: float) -> list[str]:
    """Start the server and wait up to ``limit`` seconds until it answers: (what was done).

    Raises ReplicaBackupError with the server's own last words; nothing of ours is left in the next start then.
    """
    log = log_to_come(target)
    journal.work["resume"].update(
        log=log.to_dict(),
        manager=target.manager.to_dict(),
        options=list(options),
    )
    if journal.phase == "laid":
        journal.advance("starting")
    else:
        journal.write()
    with _bringback.uninterrupted():
        try:
            target.manager.start(options, must=True)
        except ReplicaBackupError as error:
            error.server_state = error.server_state or "not running; the restored files are in place"
            error.next_command = error.next_command or AGAIN
            raise
        done = [f"started the server through {target.manager.kind} {target.manager.name}".rstrip()]
        if options:
            done[0] += f" with {' '.join(options)}, this once"
        return done + settle(target, login, limit, log)


def is_up(target: Target, login: Login, limit: float) -> bool:
    """Whether the server runs: waits up to ``limit`` seconds for one that is on its way up, or down."""
    deadline = time.monotonic() + limit
    while target.process() is not None:
        if time.monotonic() >= deadline or _connection.server_answers(replace(login, connect_timeout=2)):
            return True
        time.sleep(_POLL)
    return False


def settle(target: Target, login: Login, limit: float, log: Log | None) -> list[str]:
    """Wait until the server answers, then take back what was made for its start."""
    deadline = time.monotonic() + limit
    begin = missing_since = time.monotonic()
    seen = False
    while not _connection.server_answers(replace(login, connect_timeout=2)):
        now = time.monotonic()
        process = target.process()
        if process is not None:
            seen, missing_since = True, now
        missing = now - missing_since
        failure = target.manager.failure()
        gave_up = missing > (_GONE_SECONDS if seen else _NEVER_SECONDS)
        if now >= deadline or failure is not None or gave_up:
            if process is None:
                # Nobody is to inherit it who starts the server by hand now.
                target.manager.after_start()
            raise ReplicaBackupError(
                "The restored server does not come up",
                found=f"{(failure or target.manager.status()).splitlines()[0]}; its error log says: "
                f"{_error_log.gist((log and log.text()) or '')}",
                expected=f"an answer at {login.where()} within {limit:g} s",
                server_state=(
                    "not running" if process is None else f"starting (process {process.pid}), replication threads off"
                )
                + "; the restored files are in place, the restore is not finished",
                next_command=AGAIN,
                waited_seconds=round(now - begin, 1),
            )
        time.sleep(_POLL)
    return [*target.manager.after_start(), *target.manager.release()]


def log_of(journal: Journal) -> Log | None:
    """That of the start of ours that the journal has noted."""
    noted = journal.work.get("resume", {}).get("log")
    return Log.from_dict(noted) if noted else None


def keeps_options(process: _server.ServerProcess | None, options: t.Sequence[str]) -> str:
    """A warning where mysqld_safe has our options and would hand them on after a crash; "" otherwise."""
    if process is None or not options or by_hand.guardian_of(process) is None:
        return ""
    return (
        f"mysqld_safe runs with {' '.join(options)} now, and hands that to the server again if it starts it after a"
        " crash (replication threads stopped); a restart through its own script or command leaves it out"
    )


def restore_seconds(journal: Journal) -> float | None:
    """From the first byte laid down until now."""
    begin = min((journal.times[phase] for phase in ("staging", "laid") if phase in journal.times), default=None)
    return None if begin is None else round(_ledger.seconds_since(begin), 3)
