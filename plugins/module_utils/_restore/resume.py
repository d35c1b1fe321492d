# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After the files of a restored server lie in place: start it quietly, look at it, and let it replicate again.

Every step may be interrupted; the journal says where a second call goes on. What fails leaves the threads stopped that
were not started yet, and the journal open.
"""

from __future__ import annotations

import os
import shutil
import time
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _connection,
    _ledger,
    _replication,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _status_files as status
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._channel_names import channel_file
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login, QueryError, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.coordinates import (
    MANIFEST,
    Coordinates,
    gtid_mode,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.execute import (
    refuse_without_reload,
    save_files,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.plan import plan, render
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.replica import Replica, look
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.source import (
    SourceView,
    ask_source,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel, Threads
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import came_up, first_start, journal
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.choice import Choice, Place, choose
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.first_start import AGAIN, Target
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.journal import Journal

# For the look into every table; what is not opened by then is counted.
_TABLES_SECONDS = 60.0
# For receivers to connect where nobody waits for catch-up.
_SETTLE_SECONDS = 10.0
# Seconds that a source may take to forget a replica that is gone (it notices when it sends to it again).
_FORGET_SECONDS = 60.0
_READY = ("laid", "starting", "serving")


@dataclass(frozen=True)
class Request:
    """``resume`` is one of choice.REQUESTS; ``source_login`` has user and password for the sources, whose host and port
    are those of the channels; all times in seconds, ``catch_up_timeout`` is without progress."""

    login: Login
    state_dir: str
    resume: str = "auto"
    service_manager: str = "auto"
    service_name: str | None = None
    source_login: Login | None = None
    start_timeout: float = 600.0
    catch_up: bool = True
    catch_up_timeout: float = 3600.0
    catch_up_max_lag: int = 1
    lock_timeout: float = 120.0


def resume(request: Request, *, check: bool = False) -> dict[str, t.Any]:
    """Bring a restored server to where it replicates; in check mode say how. Returns the module's result.

    Raises RefusedError when there is no restore to resume, or what came up is not what the set promises, and
    ReplicaBackupError for all else; both say in what state the server is.
    """
    record = _unfinished(request.state_dir)
    if check:
        return _would(record, request)
    with _ledger.locked(
        request.state_dir, f"mysql_replica_resume of {record.restore_id}", timeout=request.lock_timeout
    ):
        record = _unfinished(request.state_dir)
        record.work.setdefault("resume", {}).setdefault("channels", {})
        try:
            return _Resume(record, request).run()
        except ReplicaBackupError as error:
            error.next_command = error.next_command or AGAIN
            error.facts.setdefault("restore_id", record.restore_id)
            error.facts.setdefault("phase", record.phase)
            error.facts.setdefault("moved_aside", list(record.moved_aside))
            raise


def _unfinished(state_dir: str) -> Journal:
    record = journal.load(state_dir)
    if record is not None and record.phase in _READY:
        return record
    last = None if record is not None else journal.load_last(state_dir)
    raise RefusedError(
        "There is no restored server here that waits to be started"
        if record is None
        else "The files of the restored server do not lie in place yet",
        found=f"phase {record.phase} of the restore of {record.set_label}"
        if record is not None
        else f"no {journal.journal_path(state_dir)}"
        + (f"; the last restore, of {last.set_label}, was finished {last.times.get('done')}" if last else ""),
        expected="a restore whose files are laid down",
        server_state="as it was",
        next_command="run replica_restore (or the restore playbook) first",
        rule="restore",
    )


def _would(record: Journal, request: Request) -> dict[str, t.Any]:
    target = _target(record, request)
    lost = _lost_on_disk(record)
    choices = _choose(record, request, target, lost)
    _refuse_impossible(choices, "not touched")
    running = target.process()
    options: tuple[str, ...] = ()
    if running is None:
        options = first_start.options_for(target, recover_relay_logs=_needs_recovery(record, target, lost))
    return {
        "changed": True,
        "restore_id": record.restore_id,
        "set": record.set_label,
        "identity": record.identity,
        "phase": record.phase,
        "plan": {
            "start": running is None,
            "service_manager": target.manager.kind,
            "service_name": target.manager.name,
            "start_options": list(options),
            "channels": [choice.to_dict() for choice in choices],
        },
        "moved_aside": list(record.moved_aside),
        "warnings": [*record.warnings, *target.manager.warnings],
    }


# -- how each channel goes on ------------------------------------------------------------------------------------------


def _target(record: Journal, request: Request) -> Target:
    return first_start.target_of(record, service_manager=request.service_manager, service_name=request.service_name)


def _choose(
    record: Journal,
    request: Request,
    target: Target,
    lost: t.Mapping[str, str],
    variables: t.Mapping[str, str] | None = None,
) -> list[Choice]:
    """``lost``: what is wrong with the relay logs of a channel. ``variables``: of the running server, once it runs."""
    recovery = (target.variables if variables is None else variables).get("relay_log_recovery", "OFF")
    ours = target.dialect.relay_log_recovery_option in record.work.get("resume", {}).get("options", ())
    return [
        choose(
            channel,
            request.resume,
            Place(
                lost=record.relay_logs_unusable or lost.get(channel["name"], ""),
                recovers=recovery.upper() in ("ON", "1", "TRUE") and not ours,
                drops=target.dialect.drops_relay_logs_with_gtid,
                may_ask=request.source_login is not None,
            ),
        )
        for channel in record.head["channels"]
    ]


def _lost_on_disk(record: Journal) -> dict[str, str]:
    """Relay logs that relay-log.info names and that are not there, by channel; a table tells once the server runs."""
    lost: dict[str, str] = {}
    datadir, base = record.target["datadir"], record.target["layout"]["applier_info"]
    for channel in record.head["channels"]:
        name = channel["name"]
        try:
            info = status.read(status.parse_applier_info, channel_file(base, name))
        except (OSError, status.StatusFileError):
            continue
        if info.relay_log_file and info.source_log_file:
            path = fs.absolute(info.relay_log_file, datadir)
            if not fs.is_file(path):
                lost[name] = f"{path} is not there"
    return lost


def _needs_recovery(record: Journal, target: Target, lost: t.Mapping[str, str]) -> bool:
    """MariaDB with named connections aborts at its start when their relay logs are not as it expects.

    Relay logs that are well stay, also when they are not to be used: the source may turn out to have less than they.
    """
    begun = record.work.get("resume", {}).get("channels")
    fragile = target.dialect.needs_relay_logs_of_named_connections
    return fragile and bool(record.relay_logs_unusable or lost) and not begun


def _refuse_impossible(choices: t.Iterable[Choice], state: str) -> None:
    for choice in choices:
        if choice.refused:
            label = f"channel '{choice.name}'" if choice.name else "the default channel"
            raise RefusedError(
                f"{label[0].upper()}{label[1:]} cannot go on as asked ({choice.how})",
                found=choice.refused,
                expected="another way for this channel",
                server_state=state,
                next_command="; or ".join(choice.alternatives),
                rule="resume",
                channels=[one.to_dict() for one in choices],
            )


# -- doing it ----------------------------------------------------------------------------------------------------------


@dataclass
class _Resume:
    """One call. ``record`` is durable before each step; everything else is of this call alone."""

    record: Journal
    request: Request
    actions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def _begun(self) -> dict[str, t.Any]:
        return t.cast("dict[str, t.Any]", self.record.work["resume"]["channels"])

    def run(self) -> dict[str, t.Any]:
        target = _target(self.record, self.request)
        # As it was before the first start: a start may have healed what it threw away.
        lost = self.record.work["resume"].setdefault("lost", _lost_on_disk(self.record))
        choices = _choose(self.record, self.request, target, lost)
        started = not first_start.is_up(target, self.request.login, self.request.start_timeout)
        if started:
            _refuse_impossible(choices, "not running; the restored files are in place")
        self._start(target, lost, running=not started)
        with self._connect() as session:
            had_run = False if started else self._stop_what_runs(session, target)
            seen = self._look(session, target, had_run)
            checks = came_up.judge(seen, self.record)
            self._refuse_unless_as_promised(checks)
            replica = look(session)
            if not self._begun:
                lost.update({name: trouble for name, trouble in replica.relay_logs.items() if trouble})
                self.record.write()
            choices = _choose(self.record, self.request, target, lost, seen.variables)
            _refuse_impossible(choices, self._state())
            plans = self._plan(replica, choices)
            self._note_read_only(seen.variables)
            if self.record.phase != "serving":
                self.record.advance("serving")
            saved = self._read_again(session, replica, plans)
            self._start_threads(session, target, choices)
            seconds = self._catch_up(session, target, choices)
            channels = _replication.read_channels(session, target.dialect)
        if saved:
            # Its password is in the set as well; a second copy serves nobody now.
            shutil.rmtree(saved, ignore_errors=True)
        took = first_start.restore_seconds(self.record)
        self.record.finish()
        left = {choice.name: self._left_to_start(choice, target) for choice in choices}
        return self._result(checks, choices, plans, channels, left, seconds, took, started=started)

    def _state(self) -> str:
        running = "running" + ("" if self._begun else ", all replication threads stopped")
        return f"{running}; the restore is not finished (phase {self.record.phase})"

    # -- start and look

    def _start(self, target: Target, lost: t.Mapping[str, str], *, running: bool) -> None:
        self.warnings += target.manager.warnings
        limit = self.request.start_timeout
        if running:
            self.actions += first_start.settle(target, self.request.login, limit, first_start.log_of(self.record))
            return
        recover = _needs_recovery(self.record, target, lost)
        options = first_start.options_for(target, recover_relay_logs=recover)
        self.actions += first_start.start(self.record, target, self.request.login, options, limit)
        warning = first_start.keeps_options(target.process(), options)
        if warning:
            self.warnings.append(warning)

    def _connect(self) -> Session:
        try:
            return _connection.connect(self.request.login, read_timeout=60)
        except ReplicaBackupError as error:
            error.server_state = self._state()
            error.next_command = (
                "the accounts are those of the set: correct the login options, then run the restore playbook (or"
                " mysql_replica_resume) again"
            )
            raise

    def _stop_what_runs(self, session: Session, target: Target) -> bool:
        """Somebody else has started the server, threads and all: nothing may go on before it was looked at."""
        if self._begun:
            return False
        had_run = False
        for channel in _replication.read_channels(session, target.dialect):
            for thread, runs in (("io", channel.io_started), ("applier", channel.applier_started)):
                if runs:
                    session.execute(*target.dialect.stop_thread(channel.name, thread))
                    had_run = True
                    self.actions.append(f"stopped the {thread} of {channel.label()}")
        if had_run:
            self.warnings.append(
                "Somebody else had started the restored server, replication threads and all; these were stopped until"
                " it was looked at"
            )
        return had_run

    def _look(self, session: Session, target: Target, had_run: bool) -> came_up.CameUp:
        log = first_start.log_of(self.record)
        with _connection.connect(self.request.login, read_timeout=2 * _TABLES_SECONDS) as patient:
            tables = came_up.open_tables(patient, _TABLES_SECONDS)
        variables = session.variables()
        return came_up.CameUp(
            identity=_connection.identify(session),
            variables=variables,
            channels=tuple(_replication.read_channels(session, target.dialect)),
            tables=tables,
            log=None if log is None else log.text(),
            # Once a thread has run, this server is among them itself.
            registered=None if self._begun or had_run else self._registered(target, variables.get("server_id", "")),
            had_run=had_run,
        )

    def _registered(self, target: Target, ours: str) -> tuple[dict[str, str], ...] | None:
        """Replicas that the sources know; what they do not tell is warned of.

        A source lists the server that ran here before for a while longer: it is given time to notice that it is gone.
        """
        if self.request.source_login is None:
            return None
        # Of the same server only a word of warning hangs on it.
        patient = self.record.identity == "clone" and self.record.moved_aside
        deadline = time.monotonic() + (_FORGET_SECONDS if patient else 0)
        while True:
            found = self._asked(target)
            if time.monotonic() >= deadline or not any(row["server_id"] == ours for row in found):
                return tuple(found)
            time.sleep(1.0)

    def _asked(self, target: Target) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        for host, port in {(c["source_host"], int(c["source_port"])) for c in self.record.head["channels"]}:
            try:
                with _connection.connect(self._source_login(host, port), read_timeout=60) as source:
                    rows = source.query(target.dialect.show_replicas)
            except ReplicaBackupError as error:
                words = (
                    f"The source {host}:{port} does not tell which replicas it has, so nobody has looked whether one of"
                    f" them has this server_id: {error.message} ({error.found})"
                )
                if words not in self.warnings:
                    self.warnings.append(words)
                continue
            for row in rows:
                low = {key.lower(): str(value) for key, value in row.items()}
                uuid = low.get("replica_uuid") or low.get("slave_uuid") or ""
                found.append({"server_id": low["server_id"], "host": low.get("host", ""), "uuid": uuid})
        return found

    def _source_login(self, host: str, port: int) -> Login:
        return replace(t.cast(Login, self.request.source_login), host=host, port=port, unix_socket=None)

    def _refuse_unless_as_promised(self, checks: t.Sequence[came_up.Check]) -> None:
        wrong = [check for check in checks if check.verdict is False]
        self.warnings += [
            f"{check.name}: {check.detail}"
            for check in checks
            if check.verdict is None and "an earlier call" not in check.detail
        ]
        if not wrong:
            return
        raise RefusedError(
            "The restored server is not what the set promises",
            found="; ".join(f"{check.name}: {check.detail}" for check in wrong),
            expected=f"the server of {self.record.set_label} as {self.record.identity}",
            server_state=self._state(),
            next_command="correct what is named (settings of this server), stop it and run the restore playbook again;"
            " or restore another set with replica_restore_force=true",
            rule="came_up",
            checks=[check.to_dict() for check in checks],
        )

    def _note_read_only(self, variables: t.Mapping[str, str]) -> None:
        """It comes up as its option files say. What was switched at run time is not in the set, but maybe here."""
        last = _ledger.load_last(self.request.state_dir)
        if last is None or last.data.get("backup_id") != self.record.head["backup_id"]:
            return
        before = (last.data.get("before") or {}).get("read_only") or {}
        differ = [
            f"{name} was {value} when the backup was made, is {variables[name]}"
            for name, value in (before.get("switches") or {}).items()
            if variables.get(name, value) != value
        ]
        if differ:
            self.warnings.append(f"Set at run time and not part of the set: {'; '.join(differ)}")

    # -- the plan, after the server was seen

    def _plan(self, replica: Replica, choices: t.Sequence[Choice]) -> dict[str, _ChannelPlan]:
        """All channels before the first is touched. Raises RefusedError when a source cannot continue one."""
        now = {channel.name: channel for channel in replica.channels}
        plans = {}
        for choice in choices:
            recorded = self._recorded(choice.name)
            channel = replace(
                now[choice.name],
                # A reset has taken the delay with it; a channel that never ran here does not know its source.
                delay=int(recorded.get("delay") or 0),
                source_uuid=now[choice.name].source_uuid or str(recorded.get("source_uuid") or ""),
                source_server_id=now[choice.name].source_server_id or int(recorded.get("source_server_id") or 0),
            )
            plans[choice.name] = self._plan_channel(replica, channel, choice)
        return plans

    def _recorded(self, name: str) -> t.Mapping[str, t.Any]:
        return next(channel for channel in self.record.head["channels"] if channel["name"] == name)

    def _plan_channel(self, replica: Replica, channel: Channel, choice: Choice) -> _ChannelPlan:
        if choice.name in self._begun and self._begun[choice.name].get("done"):
            return _ChannelPlan(choice, (), SourceView(None, "not asked again"))
        if choice.how in ("none", "stopped"):
            return _ChannelPlan(choice, (), SourceView(None, "not asked"))
        if not choice.reads_again:
            view = self._ask(_with_downloaded(replica, channel, choice), channel, choice, _next_needed(channel, choice))
            self._refuse_without_source(channel, choice, view)
            return _ChannelPlan(choice, (), view)
        recorded = self._recorded(choice.name)
        coordinates = Coordinates(
            str(recorded.get("source_log_file") or ""),
            int(recorded.get("source_log_pos") or 0),
            gtid_mode(recorded.get("gtid") or {}),
            MANIFEST,
        )
        view = self._ask(replica, channel, choice, coordinates)
        healing = plan(replica, channel, coordinates, view, force=True)
        if healing.refused:
            raise RefusedError(
                f"{channel.label()} cannot go on: {healing.refused}",
                found=coordinates.text(),
                expected="a source that has everything after it",
                server_state=self._state(),
                next_command="; or ".join((*healing.alternatives, "resume=none ends the restore with it stopped")),
                rule="source",
            )
        statements = tuple(one for one in healing.statements if not one[0].startswith("START "))
        return _ChannelPlan(choice, statements, view, coordinates.text())

    def _ask(self, replica: Replica, channel: Channel, choice: Choice, coordinates: Coordinates) -> SourceView:
        if self.request.source_login is None:
            return SourceView(None, "not asked: no login for the source")
        try:
            login = self._source_login(channel.source_host, channel.source_port)
            with _connection.connect(login, read_timeout=60) as source:
                return ask_source(source, replica, channel, coordinates)
        except ReplicaBackupError as error:
            if choice.reads_again and not coordinates.gtid:
                raise RefusedError(
                    f"The source of {channel.label()} cannot be asked: {error.message}",
                    found=error.found,
                    expected="a source that answers, and an account with REPLICATION CLIENT and REPLICATION SLAVE on it"
                    " (MariaDB 10.5 and newer: BINLOG MONITOR, REPLICATION SLAVE)",
                    server_state=self._state(),
                    next_command=AGAIN,
                    rule="source",
                ) from error
            self.warnings.append(f"The source of {channel.label()} could not be asked: {error.message} ({error.found})")
            return SourceView(None, f"could not be asked: {error.message}")

    def _refuse_without_source(self, channel: Channel, choice: Choice, view: SourceView) -> None:
        if view.has is not False:
            return
        raise RefusedError(
            f"{channel.label()} cannot go on with {choice.how}: the source cannot continue it",
            found=view.reason,
            expected="a source that has what comes next",
            server_state=self._state(),
            next_command="point it at the right source; or restore a newer backup; or resume=none, which ends the"
            " restore with it stopped",
            rule="source",
        )

    # -- the action

    def _read_again(self, session: Session, replica: Replica, plans: t.Mapping[str, _ChannelPlan]) -> str:
        """RESET and CHANGE where that was decided; returns where the repositories' files were saved, "" for nowhere."""
        work = {name: one for name, one in plans.items() if one.statements}
        if work:
            refuse_without_reload(session, self._state())
        for name in plans:
            # Durable before the first thread starts or is reset: from here on coordinates move.
            self._begun.setdefault(name, {"how": plans[name].choice.how, "begun": _ledger.utc()})
        self.record.write()
        if not work:
            return ""
        saved = os.path.join(self.request.state_dir, f"restore-{self.record.restore_id}-{time.time_ns()}")
        copies = save_files(replica.variables, saved)
        for name, one in work.items():
            done: list[str] = []
            for number, statement in enumerate(one.statements):
                try:
                    session.execute(*statement)
                except ReplicaBackupError as error:
                    rest = [render(later) for later in one.statements[number:]]
                    raise ReplicaBackupError(
                        f"Channel '{name}' could not be set on its way again: {error.message}",
                        found=error.found,
                        expected=f"replication from {one.place}",
                        server_state=f"running, threads stopped; done so far: {' '.join(done) or 'nothing'}",
                        next_command=f"{AGAIN}; or type: {' '.join(rest)}",
                    ) from error
                done.append(render(statement))
            self._begun[name]["done"] = _ledger.utc()
            self.record.write()
            self.actions += done
        return saved if copies else ""

    def _start_threads(self, session: Session, target: Target, choices: t.Sequence[Choice]) -> None:
        wanted = [choice.threads for choice in choices]
        try:
            started = _replication.resume(session, target.dialect, wanted)
            self.actions += [f"started the {item}" for item in started]
            missing, extra = _replication.differing_threads(session, target.dialect, wanted)
        except QueryError as error:
            missing, extra = [f"{error.message}: {error.found}"], []
        self.warnings += [f"A thread runs that was stopped in the backup; somebody else started it: {x}" for x in extra]
        if missing:
            raise ReplicaBackupError(
                "The replication threads do not run as they did",
                found="; ".join(missing),
                expected="; ".join(_words(threads) for threads in wanted),
                server_state=f"running; the restore is not finished (phase {self.record.phase})",
                next_command="look at SHOW REPLICA STATUS and the error log; where it speaks of relay logs, resume=auto"
                " or resume=reposition with a login for the source reads them again",
                rule="threads",
            )

    def _catch_up(self, session: Session, target: Target, choices: t.Sequence[Choice]) -> float | None:
        wanted = [choice.threads for choice in choices]
        request = self.request
        if not request.catch_up:
            self._settle(session, target, wanted)
            return None
        try:
            seconds = _replication.wait_caught_up(
                session,
                target.dialect,
                wanted,
                no_progress_timeout=request.catch_up_timeout,
                max_lag=request.catch_up_max_lag,
            )
        except ReplicaBackupError as error:
            error.server_state = (
                f"running, replicating or not as named; the restore is not finished ({self.record.phase})"
            )
            error.next_command = AGAIN
            error.facts.setdefault("caught_up", False)
            raise
        return round(seconds, 3)

    def _settle(self, session: Session, target: Target, wanted: t.Sequence[Threads]) -> None:
        deadline = time.monotonic() + _SETTLE_SECONDS
        receivers = {threads.name for threads in wanted if threads.io}
        while True:
            channels = _replication.read_channels(session, target.dialect)
            waiting = [c for c in channels if c.name in receivers and c.io.lower() != "yes"]
            if not waiting:
                return
            if time.monotonic() >= deadline:
                self.warnings += [
                    f"The receiver of {c.label()} has not connected yet: {c.io}, '{c.io_state}' {c.io_error}"
                    for c in waiting
                ]
                return
            time.sleep(0.25)

    def _left_to_start(self, choice: Choice, target: Target) -> list[str]:
        """What a person types to start the threads that "none" has left stopped."""
        if choice.how != "none":
            return []
        before = self._recorded(choice.name)["threads_before"]
        threads = [thread for thread in ("applier", "io") if before[thread]]
        return [render(target.dialect.start_thread(choice.name, thread)) for thread in threads]

    def _result(
        self,
        checks: t.Sequence[came_up.Check],
        choices: t.Sequence[Choice],
        plans: t.Mapping[str, _ChannelPlan],
        channels: t.Sequence[Channel],
        left: t.Mapping[str, list[str]],
        caught_up_seconds: float | None,
        took: float | None,
        *,
        started: bool,
    ) -> dict[str, t.Any]:
        now = {channel.name: channel.to_dict() for channel in channels}
        record = self.record
        return {
            "changed": True,
            "restore_id": record.restore_id,
            "set": record.set_label,
            "identity": record.identity,
            "phase": record.phase,
            "server_started": started,
            "datadir": record.target["datadir"],
            "actions": self.actions,
            "checks": [check.to_dict() for check in checks],
            "channels": [
                {
                    **now.get(choice.name, {}),
                    "resumed": choice.how,
                    "why": choice.why,
                    "source_answer": plans[choice.name].source.reason,
                    "start_statements": left[choice.name],
                }
                for choice in choices
            ],
            "caught_up": None if caught_up_seconds is None else True,
            "catch_up_seconds": caught_up_seconds,
            "moved_aside": list(record.moved_aside),
            "restore_seconds": took,
            "times": dict(record.times),
            "warnings": list(dict.fromkeys([*record.warnings, *self.warnings])),
        }


@dataclass(frozen=True)
class _ChannelPlan:
    """``statements`` reset and place the channel, without starting it; ``place`` is where it reads from then."""

    choice: Choice
    statements: tuple[tuple[str, tuple[t.Any, ...]], ...]
    source: SourceView
    place: str = ""


def _with_downloaded(replica: Replica, channel: Channel, choice: Choice) -> Replica:
    """Transactions in relay logs that are gone on with need not be on the source any more."""
    downloaded = channel.gtid.get("retrieved", "")
    if choice.how != "relay_logs" or not downloaded:
        return replica
    return replace(replica, gtid_state=",".join(part for part in (replica.gtid_state, downloaded) if part))


def _next_needed(channel: Channel, choice: Choice) -> Coordinates:
    """What the source has to have next: after what was downloaded, or after what was executed where relay logs go."""
    mode = gtid_mode(channel.gtid)
    log_file, log_pos = channel.read if choice.how == "relay_logs" and channel.read_log_file else channel.executed
    return Coordinates(log_file, log_pos, mode, "the running server")


def _words(threads: Threads) -> str:
    words = {True: "running", False: "stopped"}
    return f"'{threads.name}' receiver {words[threads.io]}, applier {words[threads.applier]}"
