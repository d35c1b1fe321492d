# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hand over from the stop to the capture, and from the capture to the start, within one step.

The server comes back the moment its files are no longer needed. No task boundary of Ansible lies in between, and no
controller is needed: the login of the start is the one that the dead-man was armed with.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _bringback, _deadman, _ledger, _start
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.request import Request
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import window
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._start import StartRequest

T = t.TypeVar("T")
# Seconds to wait for a dead-man that is at work; it goes on trying when they are over.
_DEAD_MAN_SECONDS = 120.0


class Captured(t.Protocol):
    """The outcome of a capture; ``kind`` is its name in the result."""

    kind: t.ClassVar[str]

    def to_result(self) -> dict[str, t.Any]: ...


def stop_then_capture(
    stop: t.Callable[[], dict[str, t.Any]], capture: t.Callable[[], Captured], back: StartRequest, *, start_server: bool
) -> dict[str, t.Any]:
    """What ``stop`` returned, with what the capture made as ``archive`` or ``clone``, and how the start went.

    ``back`` says how the server is brought back. A capture that fails raises with ``stopped`` true among its facts: the
    server had been stopped by this run.
    """
    stopped = stop()
    try:
        if start_server:
            captured, started = capture_then_start(capture, back.state_dir, back)
        else:
            captured, started = capture(), {}
    except ReplicaBackupError as problem:
        problem.facts["stopped"] = True
        raise
    return {**stopped, captured.kind: captured.to_result(), **started}


def by_plan(request: Request) -> Captured:
    """What was planned before the stop: a clone, or the archive itself."""
    ledger = _ledger.load(request.state_dir)
    if ledger is not None and ledger.data.get("clone"):
        return window.take(request)
    return job.capture(request)


def capture_then_start(
    capture: t.Callable[[], T], state_dir: str, back: StartRequest | None = None
) -> tuple[T, dict[str, t.Any]]:
    """(what ``capture`` returned, how the start went). A failed capture starts the server too, then raises.

    A start that fails is told in the result (``server_restored`` False, ``start_error``) and does not spoil the
    capture: the start module, the recovery and the dead-man are still to come. A polite signal ends the capture, never
    the start.
    """
    try:
        captured = capture()
    except BaseException as problem:
        started = start_now(state_dir, back)
        if started["server_restored"]:
            window.tidy(state_dir)
        if isinstance(problem, ReplicaBackupError):
            problem.facts.update(started)
            problem.server_state = (
                "running, threads as before" if started["server_restored"] else f"not back: {started['start_error']}"
            )
        raise
    return captured, start_now(state_dir, back)


def start_now(state_dir: str, back: StartRequest | None = None) -> dict[str, t.Any]:
    """Start the server of the open ledger; does not wait for catch-up. Never raises ReplicaBackupError.

    Without ``back`` the login is the one that the dead-man was armed with.
    """
    with _bringback.uninterrupted():
        try:
            if back is None:
                login = _deadman.login_of_armed(state_dir)
                if login is None:
                    return _without_login(state_dir)
                back = StartRequest(login=login, state_dir=state_dir)
            result = _start.start(replace(back, catch_up=False))
        except (ReplicaBackupError, OSError) as error:
            return {"server_restored": False, "start_error": str(error)}
    return {"server_restored": bool(result.get("server_restored")), "start_error": ""}


def _without_login(state_dir: str) -> dict[str, t.Any]:
    """The dead-man is not armed any more: the server is back already, or the dead-man is at it."""
    deadline = time.monotonic() + _DEAD_MAN_SECONDS
    while True:
        ledger = _ledger.load(state_dir)
        fired = _deadman.fired(state_dir)
        outcome = "it is not armed any more" if fired is None else str(fired.get("outcome"))
        done = outcome in _deadman.BROUGHT_BACK or (ledger is not None and ledger.server_is_back)
        if done and ledger is not None and _bringback.is_running(ledger):
            return {"server_restored": True, "start_error": ""}
        if done or fired is None or time.monotonic() >= deadline:
            return {"server_restored": False, "start_error": f"the dead-man: {outcome}"}
        time.sleep(0.5)
