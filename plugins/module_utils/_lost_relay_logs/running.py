# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All channels of a replica: planned together, refused together, carried out one after the other."""

from __future__ import annotations

import typing as t
from dataclasses import replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.coordinates import (
    coordinates_of,
    from_manifest,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.execute import (
    execute,
    refuse_without_reload,
    save_files,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.plan import Healing, plan
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.replica import Replica
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.request import Request
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.source import (
    SourceView,
    ask_source,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel


def plan_channels(replica: Replica, request: Request) -> list[Healing]:
    """One plan for each channel that is asked for. Raises RefusedError when one of them cannot be healed."""
    plans = [_plan_channel(replica, channel, request) for channel in _chosen(replica, request.names)]
    bad = [healing for healing in plans if healing.refused]
    if bad:
        raise RefusedError(
            f"The channel '{bad[0].channel}' must not be set on its way again: {bad[0].refused}",
            found=bad[0].coordinates.text(),
            expected="a place that is certain, and a source that has everything after it",
            server_state=replica.state,
            next_command="; or ".join(bad[0].alternatives),
            rule="reposition",
            channels=[healing.to_dict() for healing in plans],
        )
    return plans


def refuse_unasked(replica: Replica, plans: t.Sequence[Healing]) -> None:
    """Raise RefusedError when the source of a channel that is to be healed was not asked."""
    unasked = [healing.channel for healing in plans if healing.needed and not healing.source.asked]
    if unasked:
        raise RefusedError(
            "The source was not asked whether it still has what is needed",
            found=f"no login for the source of channel {', '.join(repr(name) for name in unasked)}",
            expected="source_login_user and source_login_password",
            server_state=replica.state,
            next_command="set replica_reposition_source_login_user and replica_reposition_source_login_password",
            rule="source",
            channels=[healing.to_dict() for healing in plans],
        )


def carry_out(session: Session, replica: Replica, plans: t.Sequence[Healing], request: Request) -> dict[str, t.Any]:
    """Run the statements of every channel that needs them; what that adds to the result."""
    if any(healing.needed for healing in plans):
        refuse_without_reload(session, replica.state)
    saved = list(save_files(replica.variables, request.save_to)) if request.save_to else []
    return {
        "saved": saved,
        "replicating": [execute(session, replica, healing).to_dict() for healing in plans if healing.needed],
    }


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
            server_state=replica.state,
            next_command="correct replica_reposition_channels, or leave it out for all channels",
            rule="channels",
        )
    return [known[name] for name in names]


def _plan_channel(replica: Replica, channel: Channel, request: Request) -> Healing:
    coordinates = coordinates_of(replica, channel)
    if request.manifest_channels is not None:
        coordinates = from_manifest(coordinates, channel, request.manifest_channels, replica.state)
    view = SourceView(None, "not asked: no login for the source", asked=False)
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
                server_state=replica.state,
                next_command="set replica_reposition_source_ca_cert, so that the login goes over TLS (or install"
                " python3-cryptography)"
                if "cryptography" in str(error.found)
                else "try that login by hand from this host; correct replica_reposition_source_login_user and"
                " replica_reposition_source_login_password",
                rule="source",
            ) from error
    return plan(replica, channel, coordinates, view, force=request.force, trust=request.trust)
