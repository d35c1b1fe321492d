# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lost relay logs: from where the source's binary logs have to be read again, and the statements that do it.

Manual, "Backing Up Replicas": relay-log.info (or its table) still says how far the applier got. On real servers
CHANGE alone does not heal: START goes on failing (MySQL 1872, MariaDB 1201) until RESET has thrown the old relay log
position away. RESET forgets the coordinates too, so they are read, and noted, before it.
"""

from __future__ import annotations

import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import (
    ServerUnreachableError,
    Session,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.down import reposition_down
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.replica import look
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.request import IfDown, Request
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.running import (
    carry_out,
    plan_channels,
    refuse_unasked,
)

__all__ = ["IfDown", "Request", "reposition"]

# Nobody at the socket, nobody at the port (MySQL manual, Client Error Message Reference). Anything else is an answer.
_NOBODY = (2002, 2003)


def reposition(request: Request, *, apply: bool) -> dict[str, t.Any]:
    """Plan every channel, all before the first is touched; with ``apply`` carry it out. Returns the module's result.

    Raises RefusedError, with nothing changed, when one channel cannot be healed.
    """
    if request.if_down is not None and not request.if_down.ask_login:
        return reposition_down(request, request.if_down, "", apply=apply)
    try:
        session = _connection.connect(request.login, read_timeout=60)
    except ServerUnreachableError as error:
        if request.if_down is None or error.facts.get("error_code") not in _NOBODY:
            raise
        return reposition_down(request, request.if_down, f"{error.message}: {error.found}", apply=apply)
    with session:
        return _running(session, request, apply=apply)


def _running(session: Session, request: Request, *, apply: bool) -> dict[str, t.Any]:
    replica = look(session)
    plans = plan_channels(replica, request)
    needed = any(healing.needed for healing in plans)
    result: dict[str, t.Any] = {
        "changed": needed,
        "server": "running",
        "channels": [healing.to_dict() for healing in plans],
    }
    if needed and apply:
        refuse_unasked(replica, plans)
        result.update(carry_out(session, replica, plans, request))
    return result
