# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The replica that lost its relay logs: its channels, its appliers' workers and the relay logs on disk."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection, _replication
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _status_files as status
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel, position_key


@dataclass(frozen=True)
class Replica:
    """What was seen of the replica. ``workers_ahead`` are workers of a parallel applier that are beyond the position of
    their channel, by channel; None when that could not be seen."""

    dialect: Dialect
    variables: t.Mapping[str, str]
    channels: tuple[Channel, ...]
    gtid_state: str
    workers_ahead: t.Mapping[str, tuple[str, ...]] | None
    relay_logs: t.Mapping[str, str]


def look(session: Session) -> Replica:
    """Read the replica. Raises RefusedError when it has no channel."""
    identity = _connection.identify(session)
    dialect = Dialect(identity.family, identity.version)
    variables = session.variables()
    channels = tuple(_replication.read_channels(session, dialect))
    if not channels:
        raise RefusedError(
            "This server has no replication channel",
            found="no source in SHOW REPLICA STATUS",
            expected="a replica whose connection to its source is configured",
            server_state="running, untouched",
            next_command="configure the source, with user, password and the coordinates of relay-log.info or of the"
            " backup's manifest (CHANGE without coordinates begins at the source's first binary log)",
            rule="replica",
        )
    state = variables.get(dialect.gtid_state_variable, "")
    return Replica(
        dialect=dialect,
        variables=variables,
        channels=channels,
        gtid_state=state.replace("\n", ""),
        workers_ahead=_workers_ahead(session, dialect, variables, channels),
        relay_logs={channel.name: _relay_log_trouble(channel, variables) for channel in channels},
    )


def _workers_ahead(
    session: Session, dialect: Dialect, variables: t.Mapping[str, str], channels: t.Sequence[Channel]
) -> dict[str, tuple[str, ...]] | None:
    if not dialect.can_leave_applier_gaps:
        return {}
    executed = {channel.name: channel.executed for channel in channels}
    found: dict[str, list[str]] = {name: [] for name in executed}
    if dialect.repository_kind(variables, "applier") == "TABLE":
        try:
            rows = session.query("SELECT * FROM mysql.slave_worker_info")
        except QueryError:
            return None
        workers = [
            (str(row.get("Channel_name", "")), int(row["Id"]), str(row["Master_log_name"]), int(row["Master_log_pos"]))
            for row in rows
        ]
    else:
        workers = []
        directory, stem = os.path.split(
            fs.absolute(variables.get("relay_log_info_file") or "relay-log.info", variables["datadir"])
        )
        try:
            for name in fs.names(directory):
                if name.startswith(f"worker-{stem}."):
                    info = status.read(status.parse_worker_info, os.path.join(directory, name))
                    workers.append(("", info.id, info.source_log_file, info.source_log_pos))
        except OSError:
            return None
    for channel, number, log_file, log_pos in workers:
        if channel in executed and log_file and position_key((log_file, log_pos)) > position_key(executed[channel]):
            found[channel].append(f"worker {number} at {log_file}:{log_pos}")
    return {name: tuple(ahead) for name, ahead in found.items()}


def _relay_log_trouble(channel: Channel, variables: t.Mapping[str, str]) -> str:
    """What is wrong with the relay log that the applier stands in, "" when it is there and long enough."""
    if not channel.relay_log_file:
        return "" if not channel.source_log_file else "the server names no relay log"
    base = variables.get("relay_log_basename") or variables.get("relay_log") or ""
    directory = os.path.dirname(fs.absolute(base, variables["datadir"])) if base else variables["datadir"]
    path = fs.absolute(channel.relay_log_file, directory if "/" not in channel.relay_log_file else variables["datadir"])
    info = fs.lstat(path)
    if info is None:
        return f"{path} is not there"
    if info.st_size < channel.relay_log_pos:
        return f"{path} has {info.st_size} bytes, and the applier stands at {channel.relay_log_pos}"
    return ""
