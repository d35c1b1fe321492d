# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start what we stopped: server, threads and flags as before, dead-man off, true catch-up; or finish an earlier run."""

from __future__ import annotations

import contextlib
import os
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _bringback,
    _budget,
    _connection,
    _deadman,
    _downtime,
    _ledger,
    _ownership,
    _replication,
    _server,
    _warm,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import leftover
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.leftover import KeptSet
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._bringback import BringBackLimits
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import cleanup, orphans
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import journal


@dataclass(frozen=True)
class StartRequest:
    """What is asked for; all times in seconds.

    ``run_id`` None takes whatever ledger is open. ``recover`` finishes an earlier run, once nobody is taken to be
    working on it any more; ``take_over`` does not wait for that, ``only_own`` leaves ledgers of other runs than
    ``run_id`` alone. ``warm_timeout``: how long, after catching up, the buffer pool may take to be loaded; 0 does not
    wait. ``close`` ends the ledger of a finished run. ``host`` is the name in the inventory: a ledger of another server
    is refused.
    """

    login: Login
    state_dir: str
    run_id: str | None = None
    host: str | None = None
    shutdown_timeout: float = 1800.0
    start_timeout: float = 600.0
    catch_up: bool = True
    catch_up_timeout: float = 3600.0
    catch_up_max_lag: int = 1
    warm_timeout: float = 0.0
    recover: bool = False
    take_over: bool = False
    only_own: bool = False
    close: bool = False
    lock_timeout: float = 120.0


def start(request: StartRequest, *, check: bool = False) -> dict[str, t.Any]:
    """Do what the request says, or in check mode say what would be done. Returns the module's result."""
    with _ownership.telling_state(request.login, request.state_dir):
        return _start(request, check)


def _start(request: StartRequest, check: bool) -> dict[str, t.Any]:
    # Also for a recovery: the files may be half of two servers, and only the restore knows.
    journal.refuse_unfinished(request.state_dir)
    if check:
        return _would(request)
    deadline = time.monotonic() + request.lock_timeout
    if request.recover and request.take_over:
        _refuse_other_server(_ledger.load(request.state_dir), request)
        # The dead controller's module may be at work still; it gives up its lock and what it has begun.
        _ledger.end_holder(request.state_dir)
    while _ledger.load(request.state_dir) is not None:
        left = max(0.0, deadline - time.monotonic())
        with _ledger.locked(request.state_dir, "mysql_replica_start", timeout=left):
            ledger = _ledger.load(request.state_dir)
            if ledger is None:
                break
            journal.refuse_unfinished(request.state_dir)
            # Whoever only says "recover" may be another run than the one at work.
            ours = ledger.run_id == request.run_id or (request.run_id is None and not request.recover)
            if not ours and request.recover and request.only_own:
                return _not_ours(ledger, request)
            _refuse_other_server(ledger, request)
            if not ours and not request.recover:
                raise _ledger.unfinished(ledger)
            alive = 0.0 if ours or request.take_over else ledger.lease_left
            if alive == 0.0:
                return _work(ledger, request)
        # Its controller may be between two modules. The wait is without the lock: the next of them needs it.
        if time.monotonic() >= deadline:
            raise _ledger.unfinished(ledger)
        time.sleep(min(alive, 0.5))
    return _nothing_open(request)


def _work(ledger: Ledger, request: StartRequest) -> dict[str, t.Any]:
    if request.close:
        return _close(ledger)
    if not request.recover:
        return _do(ledger, request)
    try:
        return _do(ledger, request)
    except BaseException:
        # Its notes keep others out for the time of a lease, and nobody works on after it.
        if os.path.lexists(ledger.path):
            with contextlib.suppress(OSError):
                ledger.save(lease=0.0)
        raise


def _do(ledger: Ledger, request: StartRequest) -> dict[str, t.Any]:
    explanation = _story(ledger) if request.recover else []
    result = _bring_back(ledger, request)
    explanation += [f"Now: {action}." for action in result["actions"]]
    if request.recover:
        words, kept = _finish(ledger)
        explanation += [*words, *orphans.after(ledger, request.login)]
        result |= {"changed": True, "set_dir": "" if kept is None else kept.paths.directory}
        result |= _waiting(request)
    return {**result, "explanation": explanation}


def _waiting(request: StartRequest, *, check: bool = False) -> dict[str, t.Any]:
    """The complete sets that runs which failed have left on this host."""
    return {"kept_sets": [kept.to_dict() for kept in leftover.waiting(request.state_dir, check=check)]}


def _close(ledger: Ledger) -> dict[str, t.Any]:
    if not ledger.server_is_back:
        raise RefusedError(
            f"The run {ledger.run_id} cannot be closed: its server is not back",
            found=f"step {ledger.step}",
            expected="step serving, catch_up or archive",
            server_state="as it was",
            next_command="start the server with mysql_replica_start first",
            rule="close",
        )
    _deadman.disarm(ledger.state_dir)
    # Gone already after an archive that was made from it.
    cleanup.remove(ledger)
    ledger.close("complete")
    _deadman.clear_fired(ledger.state_dir)
    return {"changed": True, "explanation": [f"The ledger of run {ledger.run_id} is closed."], "actions": []}


def _not_ours(ledger: Ledger, request: StartRequest) -> dict[str, t.Any]:
    return {
        "changed": False,
        "explanation": [f"The open ledger is of run {ledger.run_id}, not of this one; it was left alone."],
        "actions": [],
        "server_restored": _connection.server_answers(request.login),
    }


def _refuse_other_server(ledger: Ledger | None, request: StartRequest) -> None:
    """Raise RefusedError when the open ledger is of another server than the request."""
    if ledger is not None and ledger.run_id != request.run_id:
        refusal = _ownership.other_server(ledger, request.login, request.host)
        if refusal is not None:
            raise refusal


def _would(request: StartRequest) -> dict[str, t.Any]:
    ledger = _ledger.load(request.state_dir)
    _refuse_other_server(ledger, request)
    if ledger is None:
        if request.recover:
            return _nothing_open(request, check=True)
        return {"changed": False, "explanation": ["No run is open: nothing would be done."]}
    kept = _waiting(request, check=True) if request.recover else {}
    verb = "closed" if request.close else "finished" if request.recover else "continued with the start"
    foretold = leftover.foretell(ledger) if request.recover else []
    words = [*_story(ledger), *(_alive(ledger, request) or [*foretold, f"The run would be {verb}."])]
    return {"changed": True, "explanation": words, **kept}


def _alive(ledger: Ledger, request: StartRequest) -> list[str]:
    """For check mode: who would be waited for first. Empty when nobody would be."""
    if not request.recover or ledger.run_id == request.run_id:
        return []
    holder = _ledger.holder(request.state_dir)
    if holder is None and (ledger.lease_left == 0.0 or request.take_over):
        return []
    who = (
        f"A step is at work: {holder}."
        if holder
        else f"The run may be alive: it is taken for alive until {ledger.data['lease']['until']}."
    )
    if request.take_over:
        return [who, "It would be told to end, and the run would be finished then."]
    return [
        who,
        f"Its end would be waited for, {request.lock_timeout:g} s at most, and the recovery refused after that. If its"
        " controller is dead, -e replica_backup_take_over=true does not wait.",
    ]


def _nothing_open(request: StartRequest, *, check: bool = False) -> dict[str, t.Any]:
    """No ledger: nothing of ours to start. A server that is down for other reasons is reported, not touched."""
    last = _ledger.load_last(request.state_dir)
    words = ["No unfinished run."]
    if last is not None:
        words.append(
            f"The last one, {last.run_id} (backup {last.data.get('backup_id')} of {last.data.get('host')}), "
            f"ended {last.data.get('closed')}: {last.data.get('outcome')}."
        )
    result: dict[str, t.Any] = {"changed": False, "explanation": words, "actions": []}
    if request.close:
        return result
    if request.recover:
        result |= _waiting(request, check=check)
    answers = _connection.server_answers(request.login)
    if not answers and not request.recover:
        raise ReplicaBackupError(
            "The server does not answer, and no ledger says that it was stopped by a backup",
            found=f"no open ledger in {request.state_dir}, no answer at {request.login.where()}",
            expected="an open ledger, or a running server",
            server_state="not running, or not at this address; untouched",
            next_command="look at the server's error log and start it by hand",
        )
    words.append(
        "The server answers." if answers else "The server does not answer; no backup stopped it, so it was left alone."
    )
    if request.recover:
        words += orphans.after(last, request.login)
    return {**result, "server_restored": answers}


def _bring_back(ledger: Ledger, request: StartRequest) -> dict[str, t.Any]:
    if ledger.server_is_back or not ledger.server_touched:
        return _leave_alone(ledger, request)
    limits = BringBackLimits(stop=request.shutdown_timeout, start=request.start_timeout)
    ledger.begin("start", must=False)
    try:
        brought = _bringback.bring_back(ledger, request.login, limits)
    except ReplicaBackupError as error:
        error.facts.setdefault("server_restored", False)
        raise
    fired = _deadman.fired(ledger.state_dir)
    if fired is not None:
        ledger.data["deadman_fired"] = fired
        ledger.warn(_deadman.in_words(fired))
    disarmed = _deadman.disarm(ledger.state_dir)
    for warning in brought.warnings:
        ledger.warn(warning)
    _downtime.note(ledger, brought.ready_mono if brought.server_started else (fired or {}).get("ready_mono"))
    ledger.end("start", must=False)
    ledger.begin("serving", must=False)
    ledger.end("serving", must=False)
    _budget.remember(ledger)
    return _serving(ledger, request, changed=bool(brought.actions) or disarmed, actions=list(brought.actions))


def _leave_alone(ledger: Ledger, request: StartRequest) -> dict[str, t.Any]:
    """The run has given the server back, or not touched it yet: what has happened to it since is not ours to undo.

    It may have been promoted, or stopped for good. Raises ReplicaBackupError when it is down, unless an earlier run is
    being recovered.
    """
    disarmed = _deadman.disarm(ledger.state_dir)
    if _connection.server_answers(request.login):
        return _serving(ledger, request, changed=disarmed, actions=[])
    since = "was given back by this run" if ledger.server_is_back else "had not been touched by this run"
    if not request.recover:
        raise ReplicaBackupError(
            f"The server {since}, and does not answer now",
            found=f"no answer at {request.login.where()}: it has crashed, or somebody has stopped it",
            expected="the running server",
            server_state="not running, or not at this address; not started by us, for it was not stopped by us",
            next_command="look at the server's error log and start it by hand",
            server_restored=ledger.server_is_back,
        )
    return {
        "changed": disarmed,
        "server_restored": ledger.server_is_back,
        "actions": [f"the server {since} and does not answer; it was left alone"],
        "times": _ledger.public_times(ledger),
        "warnings": list(ledger.data["warnings"]),
    }


def _serving(ledger: Ledger, request: StartRequest, *, changed: bool, actions: list[str]) -> dict[str, t.Any]:
    """The result for a server that is back; waits until it has caught up and is warm, where that is asked for."""
    result: dict[str, t.Any] = {
        "changed": changed,
        "server_restored": True,
        "actions": actions,
        "downtime_seconds": ledger.data.get("downtime_seconds"),
        "downtime_parts": _downtime.parts(ledger),
        "deadman_fired": "deadman_fired" in ledger.data,
        "caught_up": None,
    }
    # A recovery ends with the server back; how far it lags is the next run's guard to judge.
    if request.catch_up and not request.recover:
        result["catch_up_seconds"] = _catch_up(ledger, request)
        result["caught_up"] = True
        if request.warm_timeout:
            result["warm_seconds"] = _wait_warm(ledger, request)
    with _connection.connect(request.login, read_timeout=60) as session:
        channels = _replication.read_channels(session, _bringback.dialect_of(ledger))
    result["channels"] = [channel.to_dict() for channel in channels]
    result["times"] = _ledger.public_times(ledger)
    result["shutdown_waited_for"] = list(ledger.data.get("shutdown_waited_for", []))
    result["warnings"] = list(ledger.data["warnings"])
    return result


def _catch_up(ledger: Ledger, request: StartRequest) -> float:
    ledger.begin("catch_up", must=False)
    try:
        with _connection.connect(request.login, read_timeout=60) as session:
            seconds = _replication.wait_caught_up(
                session,
                _bringback.dialect_of(ledger),
                _bringback.wanted_threads(ledger),
                no_progress_timeout=request.catch_up_timeout,
                max_lag=request.catch_up_max_lag,
            )
    except ReplicaBackupError as error:
        error.facts.setdefault("server_restored", True)
        error.facts.setdefault("caught_up", False)
        raise
    ledger.end("catch_up", must=False)
    return round(seconds, 3)


def _wait_warm(ledger: Ledger, request: StartRequest) -> float:
    """Seconds; a server that stays cold is warned of and nothing more."""
    try:
        with _connection.connect(request.login, read_timeout=60) as session:
            seconds, odd = _warm.wait(session, request.warm_timeout)
    except ReplicaBackupError as error:
        seconds, odd = 0.0, f"Whether the buffer pool is warm is not known: {error.message}"
    if odd:
        ledger.warn(odd)
    return round(seconds, 3)


def _story(ledger: Ledger) -> list[str]:
    """What the ledger says happened, for a person."""
    data = ledger.data
    words = [
        f"Run {ledger.run_id} (backup {data.get('backup_id')} of {data.get('host')}) was opened {data.get('opened')} "
        f"and got as far as step '{ledger.step}'."
    ]
    words.append(
        "It had asked the server to stop." if data.get("stop_requested") else "It had not asked the server to stop."
    )
    server = data["server"]
    process = _server.find_process(datadir=server["datadir"], pid_file=server.get("pid_file"))
    words.append("The server is DOWN now." if process is None else f"A server process runs now (pid {process.pid}).")
    fired = _deadman.fired(ledger.state_dir)
    armed = _deadman.armed(ledger.state_dir)
    if fired is not None:
        words.append(f"{_deadman.in_words(fired)}.")
    elif armed is not None:
        words.append(f"The dead-man was armed for {armed.get('deadline')}.")
    return words


def _finish(ledger: Ledger) -> tuple[list[str], KeptSet | None]:
    """Publish what the dead run had captured whole, remove what is half done, close its ledger."""
    settled = leftover.settle(ledger)
    ledger.close("recovered after a run that did not finish")
    _deadman.clear_fired(ledger.state_dir)
    return [*settled.words, "The ledger is closed; the next backup may start."], settled.kept
