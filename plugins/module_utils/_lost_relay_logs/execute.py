# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry out the plan of one channel."""

from __future__ import annotations

import os
import re
import shutil
import time
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _replication
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.plan import Healing, render
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.replica import Replica
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel

_WAIT_POLL = 0.25
_RELOAD = re.compile(r"\bRELOAD\b|\bALL PRIVILEGES ON \*\.\*")


def save_files(variables: t.Mapping[str, str], target: str) -> tuple[str, ...]:
    """Copy the files of the repositories to ``target`` (0700): RESET deletes them, and master.info holds the password.

    Nothing is copied where the repositories are tables. Returns the copies.
    """
    datadir = variables["datadir"]
    applier = fs.absolute(variables.get("relay_log_info_file") or "relay-log.info", datadir)
    stem = os.path.basename(applier).rpartition(".")[0] or os.path.basename(applier)
    usual = ("master", "relay-log", "worker-relay-log", "multi-master")
    wanted = [os.path.join(datadir, name) for name in fs.names(datadir) if name.startswith(usual) and ".info" in name]
    directory = os.path.dirname(applier)
    wanted += [
        os.path.join(directory, name) for name in fs.names(directory) if name.startswith((stem, f"worker-{stem}"))
    ]
    wanted = [path for path in dict.fromkeys(map(os.path.normpath, wanted)) if fs.is_file(path) and ".info" in path]
    if not wanted:
        return ()
    os.makedirs(target, mode=0o700, exist_ok=False)
    copies = []
    for path in wanted:
        copy = os.path.join(target, os.path.basename(path))
        with (
            open(os.open(fs.encode(copy), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as writer,
            open(fs.encode(path), "rb") as reader,
        ):
            shutil.copyfileobj(reader, writer)
            writer.flush()
            os.fsync(writer.fileno())
        copies.append(copy)
    return tuple(copies)


def refuse_without_reload(session: Session, server_state: str) -> None:
    """RESET REPLICA needs RELOAD (manual, "RESET REPLICA Statement"): asked before any thread is stopped for it.

    Raises RefusedError when the account certainly lacks it. What comes by a role is not looked into.
    """
    try:
        grants = [str(text) for row in session.query("SHOW GRANTS") for text in row.values()]
    except QueryError:
        return
    if any(_RELOAD.search(text) or " ON " not in text for text in grants):
        return
    raise RefusedError(
        "This account may not throw relay logs away (RESET REPLICA)",
        found="no RELOAD among its grants",
        expected="RELOAD on *.*",
        server_state=server_state,
        next_command="GRANT RELOAD ON *.* to the account that logs in here, then run this again; nothing was reset",
        rule="grants",
    )


def execute(session: Session, replica: Replica, healing: Healing, *, wait: float = 60.0) -> Channel:
    """Run the statements of one channel and wait until it replicates; ``wait`` in seconds.

    Raises ReplicaBackupError that names what was done and what has to be typed to go on.
    """
    done: list[str] = []
    for number, statement in enumerate(healing.statements):
        try:
            session.execute(*statement)
        except ReplicaBackupError as error:
            rest = [render(one) for one in healing.statements[number:]]
            raise ReplicaBackupError(
                f"The channel '{healing.channel}' could not be set on its way again: {error.message}",
                found=error.found,
                expected=f"replication from {healing.coordinates.text()}",
                server_state=f"running; done so far: {' '.join(done) or 'nothing'}",
                next_command=f"mend the cause and run this again, or type: {' '.join(rest)}",
                coordinates=healing.coordinates.text(),
            ) from error
        done.append(render(statement))
    return _wait_until_it_replicates(session, replica.dialect, healing, wait)


def start_channel(session: Session, dialect: Dialect, healing: Healing, *, wait: float = 60.0) -> Channel:
    """Start the threads of a channel whose relay logs are well, and wait until it replicates."""
    for thread in ("applier", "io"):
        session.execute(*dialect.start_thread(healing.channel, thread))
    return _wait_until_it_replicates(session, dialect, healing, wait)


def _wait_until_it_replicates(session: Session, dialect: Dialect, healing: Healing, wait: float) -> Channel:
    deadline = time.monotonic() + wait
    while True:
        channel = next(c for c in _replication.read_channels(session, dialect) if c.name == healing.channel)
        dead = [
            error
            for started, error in (
                (channel.io_started, channel.io_error),
                (channel.applier_started, channel.applier_error),
            )
            if error and not started
        ]
        if channel.io.lower() == "yes" and channel.applier_started and not dead:
            return channel
        if dead or time.monotonic() > deadline:
            raise ReplicaBackupError(
                f"{channel.label()} does not replicate again",
                found="; ".join(dead)
                or f"receiver {channel.io} ('{channel.io_state}'), applier {channel.applier}; {channel.io_error}",
                expected=f"replication from {healing.coordinates.text()}",
                server_state="running, its coordinates set",
                next_command=f"look at {dialect.show_channels}; the coordinates stay valid"
                + (f": {render(healing.statements[3])}" if healing.statements else ""),
                coordinates=healing.coordinates.text(),
            )
        time.sleep(_WAIT_POLL)
