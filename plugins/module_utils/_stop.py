# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop a replica: guards, quiesce, record, arm the dead-man, clean shutdown, proof.

Facts first, then a plan, then the action. Whatever fails after the first change, the server is brought back here
and now; the dead-man on the host stands behind that.
"""

from __future__ import annotations

import os
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _bringback,
    _budget,
    _clean_stop,
    _connection,
    _deadman,
    _discovery,
    _error_log,
    _exposed,
    _guards,
    _ledger,
    _observe,
    _ownership,
    _privileges,
    _read_only,
    _replication,
    _run_time,
    _server,
    _service,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import compress, sample
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.request import Request as ArchiveRequest
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._bringback import BringBackLimits
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._budget import Prediction, Way
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login, QueryError, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._coordinates import (
    check_coordinates,
    refuse_differences,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    RefusedError,
    ReplicaBackupError,
    recover_command,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._guards import Policy, Verdict
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.interface import ServiceManager
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._observe import Observed
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._read_only import ReadOnly
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Threads
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import journal

# Values of innodb_fast_shutdown that leave the files as after a crash (manual, "innodb_fast_shutdown").
_UNCLEAN_SHUTDOWNS = ("2", "3")


@dataclass(frozen=True)
class StopRequest:
    """What is asked for. All limits in seconds; ``service_manager`` "auto" means found from the running process.

    ``lease``: the run is held to be alive for so long after a note in the ledger when no module of it is at work;
    ``gap``: the same after the stop, until the next step; ``look_every``: between two looks of the dead-man at that.
    """

    login: Login
    paths: SetPaths
    state_dir: str
    run_id: str
    policy: Policy = field(default_factory=Policy)
    format: str = "tar"
    compression: str = "zstd"
    compression_level: int | None = None
    compression_threads: int = 0
    include_binlogs: bool = True
    service_manager: str = "auto"
    service_name: str | None = None
    limits: _replication.Limits = field(default_factory=_replication.Limits)
    statement_timeout: float = 60.0
    shutdown_timeout: float = 1800.0
    start_timeout: float = 600.0
    downtime_budget: float = 3600.0
    lease: float = _ledger.DEFAULT_LEASE
    gap: float = _ledger.DEFAULT_LEASE
    look_every: float = _deadman.LOOK_EVERY

    @property
    def way(self) -> Way:
        """What decides how long the capture takes."""
        return self.archive.way

    @property
    def archive(self) -> ArchiveRequest:
        """The archive that is planned."""
        return ArchiveRequest(
            self.paths,
            self.state_dir,
            self.format,
            self.compression,
            self.compression_level,
            self.compression_threads,
        )


@dataclass(frozen=True)
class StopPlan:
    """What would be done, decided from facts alone."""

    observed: Observed
    manager: ServiceManager
    read_only: ReadOnly
    verdicts: tuple[Verdict, ...]
    data_bytes: int
    logical_bytes: int
    prediction: Prediction | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, t.Any]:
        observed = self.observed
        return {
            "server": f"{observed.identity.family} {observed.identity.version_text}",
            "datadir": observed.datadir,
            "process": observed.process.pid,
            "service_manager": self.manager.kind,
            "service_name": self.manager.name,
            "data_bytes": self.data_bytes,
            "predicted_downtime": None if self.prediction is None else self.prediction.to_dict(),
            "channels": [channel.label() for channel in observed.channels],
            "steps": [
                "arm the dead-man on the host",
                "stop the receivers, drain the appliers, stop the appliers",
                "record the coordinates of every channel",
                f"shut the server down through {self.manager.kind} {self.manager.name}".rstrip(),
                "prove that the stop was clean",
            ],
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
        }


def make_plan(session: Session, request: StopRequest) -> StopPlan:
    """Facts to plan, read-only. Raises RefusedError when a guard says no."""
    _exposed.refuse(request.state_dir, "replica_backup_state_dir")
    _exposed.refuse(request.paths.root, "replica_backup_spool_dir", itself=True)
    identity = _connection.identify(session)
    privileges = _privileges.read(session)
    _privileges.refuse_missing(privileges, _privileges.needed_always(Dialect(identity.family, identity.version)))
    observed = _observe.observe(session, request.login)
    manager = _service.detect(
        process=observed.process,
        requested=request.service_manager,
        name=request.service_name,
        variables=observed.variables,
        own_options=observed.dialect.own_start_options,
        state_dir=request.state_dir,
        shutdown_timeout=request.shutdown_timeout,
    )
    listed = _discovery.discover(session, _discovery_request(request, check_mode=True))
    data_bytes = int(listed["list"]["allocated"])
    missing_tools = _missing_tools(request)
    prediction = None if missing_tools else _predict(request, observed.datadir, data_bytes)
    fetched_again = tuple(_replication.fetched_again(observed.dialect, observed.channels))
    facts = _guards.Facts(
        channels=observed.channels,
        connected_replicas=observed.connected_replicas,
        cluster=observed.cluster,
        force_recovery=observed.variables.get("innodb_force_recovery", "0"),
        data_bytes=data_bytes,
        free_bytes=_guards.free_bytes(request.paths.root),
        spool_dir=request.paths.root,
        missing_tools=missing_tools,
        fetched_again=fetched_again,
        prediction=prediction,
        downtime_budget=request.downtime_budget,
    )
    verdicts = _guards.judge(facts, request.policy)
    _guards.refuse_unless_all_pass(verdicts)
    _refuse_threads_that_would_start(observed, manager)
    _run_time.refuse_unless_start_can_be_quiet(
        observed.run_time,
        skip_supported=manager.takes_options,
        start=f"{manager.kind} {manager.name}".rstrip(),
        option=observed.dialect.skip_start_option,
    )
    read_only = _read_only.capture(session, observed.dialect, observed.variables, observed.process.argv)
    _privileges.refuse_missing(
        privileges,
        _privileges.needed_to_stop(
            observed.dialect,
            by_sql=manager.stops_by_sql,
            variables=_variables_to_set(session, observed, read_only),
        ),
    )
    warnings = [*manager.warnings, *fetched_again, *_close_to_budget(prediction, request.downtime_budget)]
    if read_only.options and not manager.takes_options:
        warnings.append(
            f"The restart through {manager.kind} {manager.name} cannot be given {' '.join(read_only.options)}: the "
            "server takes writes for the moment until the switch that was set at run time is put back"
        )
    logical_bytes = int(listed["list"]["bytes"])
    return StopPlan(
        observed, manager, read_only, tuple(verdicts), data_bytes, logical_bytes, prediction, tuple(warnings)
    )


def _predict(request: StopRequest, datadir: str, size: int) -> Prediction | None:
    """The downtime to come; a sample is taken of a host that has nothing to go by and may be too slow.

    And of one that would be refused for a run that ran out of time: what slowed that one down may be over.
    """
    known, way = _budget.runs(request.state_dir), request.way

    def sampled() -> tuple[int, float]:
        archive = request.archive
        return sample.take(sample.largest_files(datadir), archive.compressor(), deflate=archive.deflate_level)

    similar = _budget.comparable(known, way, size)
    if similar:
        prediction = _budget.predict(known, way, size)
        if prediction is None or prediction.least <= request.downtime_budget or all(run.whole for run in similar):
            return prediction
        return _budget.second_look(prediction, known, size, sampled())
    measured = sampled() if _budget.worth_a_sample(size, request.downtime_budget) else None
    return _budget.predict(known, way, size, measured)


def _close_to_budget(prediction: Prediction | None, budget: float) -> list[str]:
    if prediction is None or prediction.seconds < budget * _budget.WARN_FROM:
        return []
    return [
        f"The downtime budget is {budget:g} s (replica_backup_downtime_budget), predicted are {prediction.text()}; the"
        " archive is given up when it does not end in time"
    ]


def _discovery_request(request: StopRequest, *, check_mode: bool) -> _discovery.Request:
    paths = request.paths
    return _discovery.Request(paths.root, paths.host, paths.backup_id, request.include_binlogs, check_mode)


def _variables_to_set(session: Session, observed: Observed, read_only: ReadOnly) -> list[str]:
    """Global variables that this run sets before the shutdown, or puts back because a restart loses them."""
    names = [name for name in read_only.switches if _read_only.set_at_run_time(session, observed.dialect, [name])]
    if observed.variables.get("innodb_fast_shutdown", "1") in _UNCLEAN_SHUTDOWNS:
        names.append("innodb_fast_shutdown")
    return [*names, *observed.run_time.lost_by_restart(observed.dialect)]


def _refuse_threads_that_would_start(observed: Observed, manager: ServiceManager) -> None:
    """A stopped thread must stay stopped through the restart, which takes an option on the server's command line."""
    stopped = [c.label() for c in observed.channels if not (c.io_started and c.applier_started)]
    if stopped and not manager.takes_options:
        raise RefusedError(
            f"The restart through {manager.kind} {manager.name} would start replication threads that are stopped now",
            found=f"stopped threads on {', '.join(stopped)}, and a start command that takes no further option",
            expected=f"a start command that hands {observed.dialect.skip_start_option} to the server",
            server_state="running, untouched",
            next_command="set replica_backup_service_manager and replica_backup_service_name, or put "
            f"{observed.dialect.skip_start_option.lstrip('-').replace('-', '_')} into the option file for this backup",
            rule="service_manager",
        )


def _missing_tools(request: StopRequest) -> tuple[str, ...]:
    if request.format != "tar":
        return ()
    try:
        compress.find_compressor(
            request.compression, level=request.compression_level, threads=request.compression_threads
        )
    except RefusedError as error:
        if "package" not in error.facts:
            raise
        return (request.compression,)
    return ()


def stop(request: StopRequest, *, check: bool = False) -> dict[str, t.Any]:
    """Stop the server, or in check mode say what would be done. Returns the module's result."""
    with _ownership.telling_state(request.login, request.state_dir):
        return _stop(request, check)


def _stop(request: StopRequest, check: bool) -> dict[str, t.Any]:
    journal.refuse_unfinished(request.state_dir)
    if check:
        _ledger.check_state_dir(request.state_dir)
        ledger = _ledger.load(request.state_dir)
        if ledger is not None and not _is_ours(ledger, request):
            raise _in_the_way(ledger, request)
        if ledger is not None and _is_stopped(ledger):
            return _result(ledger, changed=False)
        with _connect(request) as session:
            plan = make_plan(session, request)
        return {"changed": True, "plan": plan.to_dict(), "warnings": list(plan.warnings)}
    with _ledger.locked(request.state_dir, f"mysql_replica_stop of run {request.run_id}"):
        # One that began while we waited for the lock.
        journal.refuse_unfinished(request.state_dir)
        ledger = _ledger.load(request.state_dir)
        if ledger is not None:
            if _is_ours(ledger, request) and _is_stopped(ledger):
                return _result(ledger, changed=False)
            raise _in_the_way(ledger, request)
        with _connect(request) as session:
            plan = make_plan(session, request)
            ledger = _open_ledger(request, plan)
            try:
                _stop_server(session, request, plan, ledger)
            except BaseException as error:
                raise _undo(ledger, request, error) from error
        return {**_result(ledger, changed=True), "plan": plan.to_dict()}


def _connect(request: StopRequest) -> Session:
    try:
        return _connection.connect(request.login, read_timeout=request.statement_timeout)
    except _connection.ServerUnreachableError as error:
        raise RefusedError(
            error.message,
            found=error.found,
            expected="a running replica: a server that was down before the run is not ours to start or to archive",
            server_state="not running, or not at this address; untouched",
            next_command="start the server, or correct the login variables (replica_backup_login_*)",
            rule="login",
            server_answers=False,
        ) from error
    except _connection.LoginRefusedError as error:
        raise RefusedError(
            error.message,
            found=error.found,
            expected="a login that the server accepts (replica_backup_login_*, replica_backup_config_file)",
            server_state="running, untouched",
            next_command="correct the login variables, or the account, then start the backup again",
            rule="login",
        ) from error


def _in_the_way(ledger: Ledger, request: StopRequest) -> RefusedError:
    """What an open ledger says against this run."""
    return _ownership.other_server(ledger, request.login, request.paths.host) or _ledger.unfinished(ledger)


def _is_ours(ledger: Ledger, request: StopRequest) -> bool:
    return ledger.run_id == request.run_id


def _is_stopped(ledger: Ledger) -> bool:
    """This run has stopped the server and nobody has started it since."""
    if ledger.step not in ("stopped", "capture"):
        return False
    server = ledger.data["server"]
    return _server.find_process(datadir=server["datadir"], pid_file=server["pid_file"]) is None


def _result(ledger: Ledger, *, changed: bool) -> dict[str, t.Any]:
    data = ledger.data
    return {
        "changed": changed,
        "run_id": ledger.run_id,
        "channels": data["channels"],
        "clean_stop": data["clean_stop"],
        "service": {"manager": data["service"]["kind"], "name": data["service"].get("name", "")},
        "ledger": ledger.path,
        "deadline": data["deadline"],
        "times": _ledger.public_times(ledger),
        "warnings": data["warnings"],
    }


def _open_ledger(request: StopRequest, plan: StopPlan) -> Ledger:
    observed = plan.observed
    settings = observed.variables
    before: dict[str, t.Any] = {
        "threads": [Threads.of(channel).to_dict() for channel in observed.channels],
        "settings": _bringback.comparable_settings(settings),
        "run_time": observed.run_time.to_dict(),
        "read_only": plan.read_only.to_dict(),
    }
    return _ledger.open_new(
        request.state_dir,
        {
            "run_id": request.run_id,
            "backup_id": request.paths.backup_id,
            "host": request.paths.host,
            "spool_dir": request.paths.root,
            "server": observed.server_facts(),
            "before": before,
            "service": plan.manager.to_dict(),
            "channels": observed.channel_facts(observed.channels),
            "deadline": _ledger.utc(time.time() + request.downtime_budget),
            "budget": {
                "seconds": request.downtime_budget,
                "bytes": plan.logical_bytes,
                "allocated": plan.data_bytes,
                "start_reserve": _budget.start_reserve(_budget.runs(request.state_dir), request.downtime_budget),
            },
            "lease_seconds": request.lease,
            "gap_seconds": request.gap,
            "warnings": list(plan.warnings),
        },
    )


def _stop_server(session: Session, request: StopRequest, plan: StopPlan, ledger: Ledger) -> None:
    observed = plan.observed
    ledger.begin("quiesce")
    # Armed before the first thread is stopped: a replica that stands still is as bad as one that is down.
    ledger.data["deadman"] = _deadman.arm(ledger, request.login, request.downtime_budget, look_every=request.look_every)
    channels = _replication.quiesce(session, observed.dialect, request.limits)
    ledger.data["channels"] = observed.channel_facts(channels)
    # Before the shutdown: the next start goes by what the files say.
    refuse_differences(check_coordinates(ledger.data["channels"], ledger.data["server"], stopped=False))
    if os.path.exists(request.paths.discovered):
        _discovery.refresh(session, request.paths)
    else:
        _discovery.discover(session, _discovery_request(request, check_mode=False))
    ledger.end("quiesce")

    ledger.begin("shutdown")
    _make_shutdown_clean(session, observed.variables, ledger)
    held = plan.manager.hold()
    ledger.data["service"] = plan.manager.to_dict()
    variables = session.variables()
    error_log = _error_log.path_of(variables)
    mark = _error_log.mark_end(error_log) if error_log else None
    # What is held is in the ledger by now, and so is released again.
    _refuse_without_a_net(request, plan, ledger)
    ledger.data["stop_requested"] = True
    ledger.data["window"] = {"stop_requested_mono": time.monotonic(), "held": held}
    ledger.save()
    if not plan.manager.request_stop():
        _send_shutdown(session, observed.dialect)
    waited = _server.wait_gone(observed.process, request.shutdown_timeout)
    plan.manager.wait_stopped(min(120.0, max(10.0, request.shutdown_timeout - waited)))
    proof = _clean_stop.prove_clean_stop(
        dialect=observed.dialect,
        process=observed.process,
        variables=variables,
        error_log=mark,
    )
    compared = check_coordinates(ledger.data["channels"], ledger.data["server"])
    clean_stop = proof.to_dict()
    ledger.data["clean_stop"] = {**clean_stop, "proofs": [*clean_stop["proofs"], *(c.to_dict() for c in compared)]}
    ledger.end("shutdown")
    # It may have acted in the moment before the shutdown; then nobody stands behind what follows.
    _refuse_fired(request)
    if not proof.clean:
        raise ReplicaBackupError(
            "The server is down, but it did not stop cleanly, so its files are no backup",
            found=proof.summary,
            expected="a clean shutdown",
            rule="clean_stop",
        )
    refuse_differences(compared)
    ledger.begin("stopped")
    ledger.end("stopped")
    ledger.hand_on()


def _refuse_without_a_net(request: StopRequest, plan: StopPlan, ledger: Ledger) -> None:
    """Raise while the server still runs, when the dead-man is spent or the time left is too short to be of use.

    What came before (draining the appliers, a discovery of many tables) takes its time out of the same budget.
    """
    _refuse_fired(request)
    armed = ledger.data["deadman"]
    now = _deadman.armed(request.state_dir)
    if now is None or now.get("token") != armed["token"]:
        raise ReplicaBackupError(
            "The dead-man of this run is not armed any more, so the server is not stopped",
            found="called off, or armed by another run",
            expected="the dead-man that this run has armed",
            next_command=f"{recover_command(request.paths.host)}, then start the backup again",
            rule="deadman",
        )
    left = float(armed["deadline_mono"]) - time.monotonic()
    least = max(plan.prediction.least if plan.prediction else 0.0, float(ledger.data["budget"]["start_reserve"]))
    if left <= least:
        raise ReplicaBackupError(
            "What is left of the downtime budget does not suffice, so the server is not stopped",
            found=f"{left:.0f} s left when replication stood still: the appliers had to be waited for",
            expected=f"more than {least:.0f} s for shutdown, archive and start",
            next_command="raise replica_backup_downtime_budget, or start the backup when less is waiting to be applied",
            rule="downtime_budget",
        )


def _refuse_fired(request: StopRequest) -> None:
    fired = _deadman.fired(request.state_dir)
    if fired is not None:
        raise ReplicaBackupError(
            "The dead-man has acted before the server was down, so the backup is given up",
            found=f"fired at {fired.get('fired')} ({fired.get('reason', 'no reason given')}): {fired.get('outcome')}",
            expected="threads and server stopped within the downtime budget; variable replica_backup_downtime_budget",
            rule="deadman",
        )


def _make_shutdown_clean(session: Session, variables: t.Mapping[str, str], ledger: Ledger) -> None:
    """InnoDB must write a clean checkpoint: fast_shutdown 2 and 3 leave the files as after a crash.

    Source: manual, "innodb_fast_shutdown". The setting is lost with the shutdown, so nothing has to be put back
    unless the stop fails (then ``_undo`` does it).
    """
    value = variables.get("innodb_fast_shutdown", "1")
    if value in _UNCLEAN_SHUTDOWNS:
        ledger.data["before"]["innodb_fast_shutdown"] = value
        ledger.save()
        session.execute("SET GLOBAL innodb_fast_shutdown = 1")
        ledger.warn(f"innodb_fast_shutdown was {value}; set to 1 for this shutdown")


def _send_shutdown(session: Session, dialect: Dialect) -> None:
    if not dialect.has_shutdown_statement:
        session.shutdown_by_protocol()
        return
    try:
        session.execute("SHUTDOWN")
    except QueryError as error:
        # The connection may be cut before the answer arrives: that is the shutdown itself.
        if error.code not in (2006, 2013, 0):
            raise


def _undo(ledger: Ledger, request: StopRequest, error: BaseException) -> ReplicaBackupError:
    """Bring the server back after a failed stop, and turn ``error`` into a message that says how that went."""
    known = error if isinstance(error, ReplicaBackupError) else None
    # Its parts and not its text: how the server is, and what to type, is for the end of this.
    message = known.message if known else f"The stop was cut short by {type(error).__name__} {error}".rstrip()
    found, expected = (known.found, known.expected) if known else (None, None)
    facts = known.facts if known else {}
    next_command = known.next_command if known else None
    limits = BringBackLimits(stop=request.shutdown_timeout, start=request.start_timeout)
    try:
        ledger.begin("start", must=False)
        result = _bringback.bring_back(ledger, request.login, limits)
    except BaseException as second:
        also = f"{second.message}: {second.found}" if isinstance(second, ReplicaBackupError) else repr(second)
        return ReplicaBackupError(
            f"{message.rstrip('.')}, and then bringing the server back failed, too",
            found=also if found is None else f"{found}; and then: {also}",
            expected=expected,
            server_state=getattr(second, "server_state", None) or "not known",
            next_command=f"{recover_command(request.paths.host)} "
            f"(the dead-man tries by itself soon, at {ledger.data.get('deadline')} at the latest)",
            server_restored=False,
            **facts,
        )
    _deadman.disarm(request.state_dir)
    try:
        ledger.end("start")
        ledger.close(f"stop failed: {error or type(error).__name__}")
    except (ReplicaBackupError, OSError) as unwritten:
        next_command = f"{unwritten} Then {recover_command(ledger.data.get('host'))}, which closes the run"
    return ReplicaBackupError(
        message,
        found=found,
        expected=expected,
        server_state="running, threads as before",
        next_command=next_command or "mend what is named above, then run the backup again",
        server_restored=True,
        actions=list(result.actions),
        warnings_after=list(result.warnings),
        **facts,
    )
