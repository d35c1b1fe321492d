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
from dataclasses import dataclass, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.coordinates import (
    coordinates_of,
    from_manifest,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.execute import (
    execute,
    save_files,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.plan import Healing, plan
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.replica import Replica, look
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.source import (
    SourceView,
    ask_source,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel


@dataclass(frozen=True)
class Request:
    """``names`` None: every channel. ``source_login``: user and password for the sources, whose host and port are the
    channel's; None: they are not asked. ``manifest_channels``: take the coordinates from a backup instead."""

    login: Login
    names: tuple[str, ...] | None = None
    source_login: Login | None = None
    manifest_channels: tuple[t.Mapping[str, t.Any], ...] | None = None
    force: bool = False
    save_to: str = ""


def reposition(request: Request, *, apply: bool) -> dict[str, t.Any]:
    """Plan every channel, all before the first is touched; with ``apply`` carry it out. Returns the module's result.

    Raises RefusedError, with nothing changed, when one channel cannot be healed.
    """
    with _connection.connect(request.login, read_timeout=60) as session:
        replica = look(session)
        plans = [_plan_channel(replica, channel, request) for channel in _chosen(replica, request.names)]
        result: dict[str, t.Any] = {"changed": False, "channels": [healing.to_dict() for healing in plans]}
        bad = [healing for healing in plans if healing.refused]
        if bad:
            raise RefusedError(
                f"The channel '{bad[0].channel}' must not be set on its way again: {bad[0].refused}",
                found=bad[0].coordinates.text(),
                expected="a source that has everything after it",
                server_state="running, untouched",
                next_command="; or ".join(bad[0].alternatives),
                rule="reposition",
                channels=result["channels"],
            )
        work = [healing for healing in plans if healing.needed]
        if not work:
            return result
        result["changed"] = True
        if not apply:
            return result
        unasked = [healing.channel for healing in work if healing.source.has is None]
        if unasked:
            raise RefusedError(
                "The source was not asked whether it still has what is needed",
                found=f"no login for the source of channel {', '.join(repr(name) for name in unasked)}",
                expected="source_login_user and source_login_password",
                server_state="running, untouched",
                next_command="set replica_reposition_source_login_user and replica_reposition_source_login_password",
                rule="source",
                channels=result["channels"],
            )
        result["saved"] = list(save_files(replica, request.save_to)) if request.save_to else []
        result["replicating"] = [execute(session, replica, healing).to_dict() for healing in work]
        return result


def _chosen(replica: Replica, names: tuple[str, ...] | None) -> list[Channel]:
    if names is None:
        return list(replica.channels)
    known = {channel.name: channel for channel in replica.channels}
    missing = [name for name in names if name not in known]
    if missing:
        raise RefusedError(
            f"There is no channel {', '.join(repr(name) for name in missing)}",
            found=f"channels {sorted(known)}",
            expected="names of channels of this replica",
            server_state="running, untouched",
        )
    return [known[name] for name in names]


def _plan_channel(replica: Replica, channel: Channel, request: Request) -> Healing:
    coordinates = coordinates_of(replica, channel)
    if request.manifest_channels is not None:
        coordinates = from_manifest(coordinates, channel, request.manifest_channels)
    view = SourceView(None, "not asked: no login for the source")
    if request.source_login is not None:
        login = replace(request.source_login, host=channel.source_host, port=channel.source_port, unix_socket=None)
        try:
            with _connection.connect(login, read_timeout=60) as source:
                view = ask_source(source, replica, channel, coordinates)
        except ReplicaBackupError as error:
            raise RefusedError(
                f"The source of {channel.label()} cannot be asked: {error.message}",
                found=error.found,
                expected="a source that answers, and an account with REPLICATION CLIENT and REPLICATION SLAVE on it "
                "(MariaDB 10.5 and newer: BINLOG MONITOR, REPLICATION SLAVE)",
                server_state="running, untouched",
                rule="source",
            ) from error
    return plan(replica, channel, coordinates, view, force=request.force)
