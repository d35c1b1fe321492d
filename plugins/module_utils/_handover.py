# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hand over from the capture to the start: the server comes back the moment its files are no longer needed.

No task boundary of Ansible lies between the two, and no controller is needed: the login is the one that the dead-man
was armed with.
"""

from __future__ import annotations

import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _deadman, _ledger, _start
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._start import StartRequest

T = t.TypeVar("T")


def capture_then_start(capture: t.Callable[[], T], state_dir: str) -> tuple[T, dict[str, t.Any]]:
    """(what ``capture`` returned, how the start went). A failed capture starts the server too, then raises.

    A start that fails is told in the result (``server_restored`` False, ``start_error``) and does not spoil the
    capture: the start module, the recovery and the dead-man are still to come.
    """
    try:
        captured = capture()
    except BaseException as problem:
        started = start_now(state_dir)
        if isinstance(problem, ReplicaBackupError):
            problem.facts.update(started)
            problem.server_state = (
                "running, threads as before" if started["server_restored"] else f"not back: {started['start_error']}"
            )
        raise
    return captured, start_now(state_dir)


def start_now(state_dir: str) -> dict[str, t.Any]:
    """Start the server of the open ledger; does not wait for catch-up. Never raises ReplicaBackupError."""
    try:
        ledger = _ledger.load(state_dir)
        if ledger is not None and ledger.step in ("serving", "catch_up"):
            return {"server_restored": True, "start_error": ""}
        login = _deadman.login_of_armed(state_dir)
        if login is None:
            return {"server_restored": False, "start_error": "the dead-man is not armed any more, it is at work itself"}
        result = _start.start(StartRequest(login=login, state_dir=state_dir, catch_up=False))
    except (ReplicaBackupError, OSError) as error:
        return {"server_restored": False, "start_error": str(error)}
    return {"server_restored": bool(result.get("server_restored")), "start_error": ""}
