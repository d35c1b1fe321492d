# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nobody is to wake a server whose files are being exchanged: a socket unit starts it at the first connection."""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _service
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.journal import (
    Journal,
    load,
    over_another,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.origin import origin_of


def keep(journal: Journal, *, service_manager: str, service_name: str | None) -> None:
    """Stop what would wake the server's unit; durable in the journal before it is done, for whoever starts the server.

    Does nothing where there is no unit. Raises ReplicaBackupError when such a waker cannot be stopped.
    """
    noted = journal.work.get("manager")
    if noted is None:
        options = origin_of(journal.head).dialect.own_start_options
        try:
            manager = _service.of_stopped(
                start=journal.target,
                requested=service_manager,
                name=service_name,
                datadir=journal.target["datadir"],
                pid_file=journal.target["variables"].get("pid_file"),
                own_options=options,
                state_dir=journal.state_dir,
            )
        except RefusedError as error:
            # Who starts the server is the next step's question, and refused there.
            journal.warnings.append(f"Nothing keeps the server asleep while its files are exchanged: {error}")
            return
        if manager.kind != "systemd":
            return
    else:
        manager = _service.from_dict(noted)
    journal.work["manager"] = manager.to_dict()
    journal.write()
    manager.hold()
    if manager.to_dict() != journal.work["manager"]:
        # One more was active by now.
        journal.work["manager"] = manager.to_dict()
        journal.write()


def handed_on(state_dir: str) -> dict[str, t.Any]:
    """What a restore that is begun over one that was never resumed has to know of it: what that had stopped."""
    earlier = load(state_dir)
    noted = None if earlier is None else earlier.work.get("manager")
    return {} if noted is None else {"manager": noted}


def wake(journal: Journal) -> None:
    """Everything as before ``keep``: the restore came to nothing. systemd starts no socket whose service runs.

    A restore below it that waits to be resumed is not to be woken either.
    """
    noted = journal.work.get("manager")
    if noted is not None and not over_another(journal.state_dir):
        # What has to be cleared away after a failure must not be kept from it.
        with contextlib.suppress(ReplicaBackupError, OSError):
            manager = _service.from_dict(noted)
            manager.after_start()
            manager.release()
