# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose ledger it is. Several servers of one machine are several hosts, each with a state directory of its own.

Where two of them share one by mistake, the one must never start, stop or set threads on the word of the other's ledger.
"""

from __future__ import annotations

import contextlib
import os
import typing as t
from dataclasses import replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    RefusedError,
    ReplicaBackupError,
    recover_command,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger

_SECONDS = 5


def other_server(ledger: Ledger, login: Login, host: str | None) -> RefusedError | None:
    """The refusal (rule "lock") that is due when the ledger is of another server than ``login`` and ``host`` mean.

    A server that answers is known by its data directory. While it is down, its socket and its name in the inventory are
    left; None means that the caller does not know the name. The socket suffices: hosts get other names, and whoever
    recovers may have another inventory.
    """
    noted = str(ledger.data.get("server", {}).get("datadir"))
    owner = str(ledger.data.get("host"))
    datadir = _datadir_behind(login)
    if datadir is not None:
        if os.path.realpath(datadir) == os.path.realpath(noted):
            return None
    elif host in (None, owner) or _at_noted_socket(ledger, login):
        return None
    run = f"run {ledger.run_id} of host {owner}, data directory {noted}, step {ledger.step}"
    here = f"{login.where()}, " + ("which does not answer" if datadir is None else f"data directory {datadir}")
    if host in (None, owner):
        return RefusedError(
            f"The ledger {ledger.path} is of another server than the one that the login leads to",
            found=f"{run}; the login leads to {here}",
            expected="a login to the server of the ledger; each server of a machine has a state directory of its own",
            server_state="untouched",
            next_command="correct replica_backup_login_unix_socket (or _host and _port), or set "
            "replica_backup_state_dir to a directory of this server's own",
            rule="lock",
        )
    return RefusedError(
        f"The ledger {ledger.path} is of another server, host {owner}",
        found=f"{run}; this is host {host}, {here}",
        expected="a state directory of its own for each server of a machine",
        server_state="untouched",
        next_command=f"set replica_backup_state_dir of host {host} to a directory of its own, such as "
        f"{ledger.state_dir.rstrip('/')}-{host}. What is open is finished with: "
        f"{recover_command(owner)}",
        rule="lock",
    )


def _at_noted_socket(ledger: Ledger, login: Login) -> bool:
    """Two servers of a machine never have one socket."""
    server = ledger.data.get("server", {})
    noted = str(server.get("variables", {}).get("socket", ""))
    if not (login.unix_socket and noted):
        return False
    return os.path.realpath(login.unix_socket) == os.path.realpath(os.path.join(str(server["datadir"]), noted))


def _datadir_behind(login: Login) -> str | None:
    """The data directory of the server that answers, None when none does or the login is refused."""
    try:
        session = _connection.connect(
            replace(login, connect_timeout=min(login.connect_timeout, _SECONDS)), read_timeout=_SECONDS
        )
        with session:
            return str(session.scalar("SELECT @@GLOBAL.datadir"))
    except ReplicaBackupError:
        return None


@contextlib.contextmanager
def telling_state(login: Login, state_dir: str) -> t.Iterator[None]:
    """A refusal for another run's sake (rule "lock") says how the server is: that run may have stopped it."""
    try:
        yield
    except RefusedError as refusal:
        if refusal.facts.get("rule") == "lock":
            _tell_state(refusal, login, state_dir)
        raise


def _tell_state(refusal: RefusedError, login: Login, state_dir: str) -> None:
    # The refusal is what counts, whatever login options and ledger look like.
    with contextlib.suppress(ReplicaBackupError, OSError):
        answers = _connection.server_answers(login)
        refusal.facts["server_answers"] = answers
        if refusal.server_state is not None:
            return
        ledger = _ledger.load(state_dir)
        if answers:
            refusal.server_state = "running"
        elif ledger is not None and ledger.data.get("stop_requested"):
            refusal.server_state = "down: another run has stopped it"
        else:
            refusal.server_state = "it does not answer: down, or not at this address"
