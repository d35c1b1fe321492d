# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The replica that lost its relay logs: its channels, its appliers' workers and the relay logs on disk."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection, _replication
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _status_files as status
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._channel_names import channel_file
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs import workers
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.workers import Workers
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel


@dataclass(frozen=True)
class Replica:
    """What was seen of the replica.

    ``gtid_state`` None: only a running server tells. ``workers`` are those of a parallel applier, by channel; None when
    they could not be seen. ``relay_logs`` says what is wrong with those of a channel, ``doubt`` why its place may not
    be the one of the data. ``origin`` is where all that was read, ``state`` that of the server, in words.
    """

    dialect: Dialect
    variables: t.Mapping[str, str]
    channels: tuple[Channel, ...]
    gtid_state: str | None
    workers: Workers | None
    relay_logs: t.Mapping[str, str]
    origin: str = "the running server"
    state: str = "running, untouched"
    doubt: t.Mapping[str, str] = field(default_factory=dict)


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
        workers=_read_workers(session, dialect, variables),
        origin=f"the running server ({dialect.repository_kind(variables, 'applier')} repository)",
        relay_logs={channel.name: relay_log_trouble(channel, variables) for channel in channels},
    )


def _read_workers(session: Session, dialect: Dialect, variables: t.Mapping[str, str]) -> Workers | None:
    if not dialect.can_leave_applier_gaps:
        return {}
    if dialect.repository_kind(variables, "applier") == "TABLE":
        return workers.from_table(session)
    # With files there is only the default channel (manual, "Replication Channels").
    found = workers.from_files(
        fs.absolute(variables.get("relay_log_info_file") or "relay-log.info", variables["datadir"])
    )
    return None if found is None else {"": found}


def relay_logs_there(variables: t.Mapping[str, str], datadir: str) -> dict[str, int]:
    """Size of every file beside the relay logs, by name."""
    base = variables.get("relay_log_basename") or variables.get("relay_log") or ""
    directory = os.path.dirname(fs.absolute(base, datadir)) if base else datadir
    try:
        found = {name: fs.lstat(os.path.join(directory, name)) for name in fs.names(directory)}
    except OSError:
        return {}
    return {name: info.st_size for name, info in found.items() if info is not None}


def relay_log_trouble(channel: Channel, variables: t.Mapping[str, str]) -> str:
    """What is wrong with the relay log that the applier stands in, "" when it is listed, there, and long enough."""
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
    return "" if channel.applier_started else _index_trouble(channel, path, variables)


def relay_log_index(channel: str, variables: t.Mapping[str, str]) -> str:
    """Path of the list of a channel's relay logs, "" when it cannot be told."""
    base = variables.get("relay_log_basename") or variables.get("relay_log") or ""
    if not base:
        # MySQL 5.6 and MariaDB (seen on 5.6.24 and 10.11).
        stem = os.path.basename(variables.get("pid_file") or "").rpartition(".")[0]
        if not stem:
            return ""
        base = f"{stem}-relay-bin"
    index = variables.get("relay_log_index") or f"{base}.index"
    return channel_file(fs.absolute(index, variables["datadir"]), channel)


def _index_trouble(channel: Channel, relay_log: str, variables: t.Mapping[str, str]) -> str:
    """The server looks a relay log up in its index, whose name changes with that of the host or the pid file."""
    path = relay_log_index(channel.name, variables)
    if not path:
        return ""
    try:
        listed = status.read(status.parse_log_index, path)
    except FileNotFoundError:
        return f"{path}, which lists the relay logs, is not there"
    except OSError:
        return ""
    if os.path.basename(relay_log) in map(os.path.basename, listed):
        return ""
    return f"{path} does not list {os.path.basename(relay_log)}"
