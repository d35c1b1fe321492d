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
from dataclasses import replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _bringback,
    _budget,
    _clean_stop,
    _connection,
    _deadman,
    _discovery,
    _error_log,
    _filelist,
    _flush,
    _ledger,
    _ownership,
    _replication,
    _server,
    _waited_for,
    _warm,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._bringback import BringBackLimits
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import cleanup, room, staged, stores
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import plan as capture_plan
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError, Session
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
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Threads
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import journal
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._stop_plan import (
    UNCLEAN_SHUTDOWNS,
    StopPlan,
    StopRequest,
    discovery_request,
    make_plan,
)

__all__ = ["StopPlan", "StopRequest", "make_plan", "stop"]


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
        "capture": data["capture"],
        "ledger": ledger.path,
        "deadline": data["deadline"],
        "times": _ledger.public_times(ledger),
        "shutdown_waited_for": data.get("shutdown_waited_for", []),
        "warnings": data["warnings"],
    }


def _open_ledger(request: StopRequest, plan: StopPlan) -> Ledger:
    return _ledger.open_new(
        request.state_dir,
        {
            "run_id": request.run_id,
            "backup_id": request.paths.backup_id,
            "host": request.paths.host,
            "spool_dir": request.paths.root,
            "lease_seconds": request.lease,
            "gap_seconds": request.gap,
            "capture": plan.choice.to_dict(),
            "clone": capture_plan.to_clone(plan.choice, request.paths),
            "warnings": list(plan.warnings),
            **_seen(request, plan),
        },
    )


def _seen(request: StopRequest, plan: StopPlan) -> dict[str, t.Any]:
    """What the ledger says of the server as it was before the run."""
    observed = plan.observed
    settings = observed.variables
    before: dict[str, t.Any] = {
        "threads": [Threads.of(channel).to_dict() for channel in observed.channels],
        "settings": _bringback.comparable_settings(settings),
        "run_time": observed.run_time.to_dict(),
        "read_only": plan.read_only.to_dict(),
        "flush": dict(plan.flush.before),
        "warm": plan.warm.to_dict(),
    }
    return {
        "server": observed.server_facts(),
        "before": before,
        "service": plan.manager.to_dict(),
        "channels": observed.channel_facts(observed.channels),
        "budget": {
            "seconds": request.downtime_budget,
            "bytes": plan.logical_bytes,
            "allocated": plan.data_bytes,
            "start_reserve": _budget.start_reserve(_budget.runs(request.state_dir), request.downtime_budget),
        },
    }


def _copy_while_serving(session: Session, request: StopRequest, plan: StopPlan, ledger: Ledger) -> None:
    """Copy everything to the spool, so that only what changes from here on is copied in the downtime."""
    ledger.begin("precopy")
    if not os.path.exists(request.paths.discovered):
        _discovery.discover(session, discovery_request(request, check_mode=False))
    copied = staged.precopy(
        _filelist.read_plan(request.paths.discovered),
        stores.in_spool(request.paths),
        staged.Live.of(session, plan.observed.process),
        rate=request.bytes_per_second,
        tick=room.watch(ledger),
    )
    ledger.data["precopied"] = copied.to_dict()
    ledger.end("precopy")


def _plan_again(session: Session, request: StopRequest, plan: StopPlan, ledger: Ledger) -> StopPlan:
    """The plan for the server as it is now: a copy may take hours, and it may have been promoted meanwhile."""
    again = make_plan(session, replace(request, capture=plan.choice.capture), copied=True)
    if again.observed.process != plan.observed.process:
        raise RefusedError(
            "The server was started anew while its files were copied, so the backup is given up",
            found=f"process {again.observed.process.pid}",
            expected=f"process {plan.observed.process.pid}, as before the copy",
            next_command="start the backup again",
            rule="server_restarted",
        )
    ledger.data.update(_seen(request, again))
    for warning in again.warnings:
        ledger.warn(warning)
    ledger.save()
    return again


def _arm(ledger: Ledger, request: StopRequest, seconds: float) -> None:
    ledger.data["deadman"] = _deadman.arm(ledger, request.login, seconds, look_every=request.look_every)
    ledger.data["deadline"] = ledger.data["deadman"]["deadline"]


def _flush_while_serving(session: Session, request: StopRequest, plan: StopPlan, ledger: Ledger) -> None:
    """What can be written before the replica stands still is not waited for in the downtime."""
    if not (plan.flush.wanted or plan.warm.dump):
        return
    ledger.begin("flush")
    if plan.flush.wanted:
        # Settings change: whoever is killed here has somebody who puts them back.
        _arm(ledger, request, request.flush_timeout + request.downtime_budget)
    _warm.dump(session, plan.warm, ledger.warn)
    flushed = _flush.run(session, plan.observed.dialect, plan.flush, ledger.warn)
    ledger.data["flushed"] = [flushed.to_dict()] if flushed else []
    ledger.end("flush")


def _stop_server(session: Session, request: StopRequest, plan: StopPlan, ledger: Ledger) -> None:
    if plan.choice.capture != capture_plan.STAGED:
        _stop_planned(session, request, plan, ledger)
        return
    _copy_while_serving(session, request, plan, ledger)
    # The server may have closed a connection that has been idle for so long, or have been started anew.
    session.close()
    with _connect(request) as anew:
        _stop_planned(anew, request, _plan_again(anew, request, plan, ledger), ledger)


def _stop_planned(session: Session, request: StopRequest, plan: StopPlan, ledger: Ledger) -> None:
    observed = plan.observed
    _flush_while_serving(session, request, plan, ledger)
    ledger.begin("quiesce")
    # Armed before the first thread is stopped: a replica that stands still is as bad as one that is down.
    _arm(ledger, request, request.downtime_budget)
    channels = _replication.quiesce(session, observed.dialect, request.limits)
    ledger.data["channels"] = observed.channel_facts(channels)
    # Before the shutdown: the next start goes by what the files say.
    refuse_differences(check_coordinates(ledger.data["channels"], ledger.data["server"], stopped=False))
    if os.path.exists(request.paths.discovered):
        _discovery.refresh(session, request.paths)
    else:
        _discovery.discover(session, discovery_request(request, check_mode=False))
    settled = _flush.settle(session, plan.flush)
    ledger.data.setdefault("flushed", []).extend([settled.to_dict()] if settled else [])
    ledger.end("quiesce")

    ledger.begin("shutdown")
    _make_shutdown_clean(session, observed.variables, ledger)
    held = plan.manager.hold()
    ledger.data["service"] = plan.manager.to_dict()
    variables = session.variables()
    to_write = _waited_for.look(session, variables)
    meter = _waited_for.Meter(observed.process)
    error_log = _error_log.path_of(variables)
    mark = _error_log.mark_end(error_log) if error_log else None
    # What is held is in the ledger by now, and so is released again.
    _refuse_without_a_net(request, plan, ledger)
    ledger.data["stop_requested"] = True
    ledger.data["window"] = {"stop_requested_mono": time.monotonic(), "held": held}
    ledger.save()
    # MySQL 5.6 gives every client that it finds, and be it an idle one like this, two seconds to go.
    if not plan.manager.stops_by_sql:
        session.close()
    if not plan.manager.request_stop():
        _send_shutdown(session, observed.dialect)
        session.close()
    waited = _server.wait_gone(observed.process, request.shutdown_timeout, on_poll=meter.look)
    plan.manager.wait_stopped(min(120.0, max(10.0, request.shutdown_timeout - waited)))
    seconds = time.monotonic() - ledger.data["window"]["stop_requested_mono"]
    ledger.data["shutdown_waited_for"] = _waited_for.tell(
        seconds, to_write, meter.written, mark, ledger.data["flushed"]
    )
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
    if value in UNCLEAN_SHUTDOWNS:
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


def _give_up(ledger: Ledger, outcome: str, *, step: str = "") -> str:
    """Remove the clone and close the run. Returns what to do when that fails: the ledger stays open then; else ""."""
    try:
        cleanup.remove(ledger)
        if step:
            ledger.end(step)
        ledger.close(outcome)
    except (ReplicaBackupError, OSError) as problem:
        return f"{problem} Then {recover_command(ledger.data.get('host'))}, which closes the run"
    return ""


def _undo(ledger: Ledger, request: StopRequest, error: BaseException) -> ReplicaBackupError:
    """Bring the server back after a failed stop, and turn ``error`` into a message that says how that went."""
    known = error if isinstance(error, ReplicaBackupError) else None
    # Its parts and not its text: how the server is, and what to type, is for the end of this.
    message = known.message if known else f"The stop was cut short by {type(error).__name__} {error}".rstrip()
    found, expected = (known.found, known.expected) if known else (None, None)
    facts = known.facts if known else {}
    next_command = known.next_command if known else None
    if not ledger.server_touched:
        left = _give_up(ledger, f"given up before the server was touched: {error or type(error).__name__}")
        # It had not been asked to stop, but a copy takes long enough for others to stop it, and for a crash.
        answers = _connection.server_answers(request.login)
        look = "see its error log, and start it if it should run; then start the backup again"
        return ReplicaBackupError(
            message,
            found=found,
            expected=expected,
            server_state="not touched by this run" + ("" if answers else "; it does not answer"),
            next_command=left
            or (next_command or "mend what is named above, then start the backup again" if answers else look),
            server_restored=answers,
            **facts,
        )
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
    left = _give_up(ledger, f"stop failed: {error or type(error).__name__}", step="start")
    return ReplicaBackupError(
        message,
        found=found,
        expected=expected,
        server_state="running, threads as before",
        next_command=left or next_command or "mend what is named above, then run the backup again",
        server_restored=True,
        actions=list(result.actions),
        warnings_after=list(result.warnings),
        **facts,
    )
