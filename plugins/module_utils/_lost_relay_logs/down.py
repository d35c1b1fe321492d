# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica that is down and lost its relay logs: say from its files what heals it, or start it without replication.

A server of MariaDB with named connections does not come up at all without their relay logs (seen on 10.11: "Failed to
initialize multi master structures"); with relay_log_recovery it throws them away and goes on from what was executed.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs import on_disk
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.execute import (
    save_files,
    start_channel,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.on_disk import Down
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.plan import Healing
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.quiet_start import QuietStart
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.replica import (
    Replica,
    look,
    relay_log_index,
    relay_logs_there,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.request import IfDown, Request
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.running import (
    carry_out,
    plan_channels,
    refuse_unasked,
)

_SKIP_START = ("skip_slave_start", "skip_replica_start")


def reposition_down(request: Request, wanted: IfDown, unanswered: str, *, apply: bool) -> dict[str, t.Any]:
    """As ``reposition``. Without ``apply``, and when a channel is refused, the server is down again in the end."""
    down = on_disk.look(wanted.hints, unanswered)
    replica = down.replica
    if replica is None and request.manifest_channels is not None:
        replica = on_disk.of_manifest(down, request.manifest_channels)
    result: dict[str, t.Any] = {"changed": False, "server": "down", "channels": []}
    first: list[Healing] = []
    if replica is not None:
        first = plan_channels(replica, request)
        result["channels"] = [healing.to_dict() for healing in first]
        if not any(healing.needed for healing in first):
            return result
        result["changed"] = True
        result["start_options"] = _options(down, first)
        if not apply:
            return result
        refuse_unasked(replica, first)
    elif apply and request.source_login is None:
        raise RefusedError(
            "The source could not be asked whether it still has what is needed",
            found="no login for it",
            expected="source_login_user and source_login_password",
            server_state="not running, untouched",
            next_command="set replica_reposition_source_login_user and replica_reposition_source_login_password",
            rule="source",
        )
    elif not (wanted.start or apply):
        raise RefusedError(
            "The server is down, and where its channels stand is not on disk",
            found=down.why,
            expected="files, a server that may be started without replication, or the manifest of its backup",
            server_state="not running, untouched",
            next_command="run it with replica_reposition_start=true: the server is started without replication, asked,"
            " and stopped again",
            rule="repositories",
        )
    return _started(request, wanted, down, replica, first, result, apply=apply)


def _options(down: Down, plans: t.Sequence[Healing]) -> list[str]:
    """What the one start adds to the server's command line."""
    dialect = down.dialect
    unstartable = dialect.needs_relay_logs_of_named_connections and any(plan.channel and plan.needed for plan in plans)
    return [dialect.skip_start_option, *([dialect.relay_log_recovery_option] if unstartable else [])]


def _started(
    request: Request,
    wanted: IfDown,
    down: Down,
    before: Replica | None,
    first: t.Sequence[Healing],
    result: dict[str, t.Any],
    *,
    apply: bool,
) -> dict[str, t.Any]:
    server = QuietStart(down.offline, down.dialect, request.login, wanted)
    options = _options(down, first)
    recovers = len(options) > 1
    saved: list[str] = []
    if recovers:
        saved = list(save_files(before.variables, request.save_to)) if before and request.save_to else []
    there = relay_logs_there(down.offline.facts.variables, down.offline.facts.datadir)
    warnings = server.up(options)
    touched = False
    try:
        with _connection.connect(request.login, read_timeout=60) as session:
            replica = look(session)
            if not recovers:
                # The server has begun a new first log in the place of a lost one, and would leave out what that held.
                replica = replace(replica, relay_logs=_lost_before(replica, before, there))
            if before is not None and request.manifest_channels is not None:
                replica = _without_invented_places(replica, before, request.manifest_channels)
            elif before is not None:
                _refuse_another_place(before, replica)
            # What recovery has healed has new relay logs, and needs no more than its threads.
            plans = plan_channels(replace(replica, state="running without replication"), request)
            result["channels"] = [healing.to_dict() for healing in plans]
            healed = {healing.channel for healing in first if healing.needed} if recovers else set()
            _refuse_gone([healing for healing in plans if healing.channel in healed])
            work = any(healing.needed for healing in plans) or bool(healed)
            result["changed"] = result["changed"] or work
            if apply and work:
                refuse_unasked(replica, plans)
                touched = True
                done = carry_out(session, replica, plans, replace(request, save_to="") if saved else request)
                result["saved"] = saved + done["saved"]
                result["replicating"] = done["replicating"] + _start_the_others(session, down, replica, plans, healed)
    except ReplicaBackupError as error:
        if touched:
            raise
        server.down()
        if not recovers:
            _remove_begun(down, there)
        error.server_state = "not running, as before" + (
            "; its relay logs were begun anew at the same place" if recovers else ""
        )
        raise
    except BaseException:
        if not touched:
            server.down()
        raise
    if touched:
        result["server"] = "started"
    else:
        server.down()
        _remove_begun(down, there)
    result["warnings"] = warnings
    return result


def _without_invented_places(replica: Replica, before: Replica, recorded: t.Sequence[t.Mapping[str, t.Any]]) -> Replica:
    """Without relay-log.info the server takes for executed what it had downloaded, and knows no delay any more."""
    placeless = {channel.name for channel in before.channels if not channel.source_log_file}
    delays = {str(entry.get("name")): int(entry.get("delay") or 0) for entry in recorded}
    channels = tuple(
        replace(channel, source_log_file="", source_log_pos=0, delay=delays.get(channel.name, 0))
        if channel.name in placeless
        else channel
        for channel in replica.channels
    )
    return replace(replica, channels=channels)


def _lost_before(replica: Replica, before: Replica | None, there: t.Mapping[str, int]) -> dict[str, str]:
    lost = dict(replica.relay_logs)
    lost.update({name: trouble for name, trouble in (before.relay_logs if before else {}).items() if trouble})
    for channel in replica.channels:
        name = os.path.basename(channel.relay_log_file)
        if name and not lost.get(channel.name) and there.get(name, -1) < channel.relay_log_pos:
            lost[channel.name] = f"{name} was not there, or shorter, before this start"
    return lost


def _remove_begun(down: Down, there: t.Mapping[str, int]) -> None:
    """Remove the first relay logs that the start began in the place of lost ones.

    Left there, a position at the beginning of a lost first log would seem well, and what that held would be left out.
    """
    facts = down.offline.facts
    variables = {**facts.variables, "datadir": facts.datadir}
    directory = os.path.dirname(relay_log_index("", variables))
    stems = {name[: -len(".index")] for name in there if name.endswith(".index")}
    wanted = os.path.basename(relay_log_index("", variables)).rpartition(".")[0]
    for name in relay_logs_there(variables, facts.datadir) if directory else ():
        stem, _dot, end = name.rpartition(".")
        ours = stem == wanted or stem.startswith(f"{wanted}-")
        if ours and name not in there and stem not in stems and (end == "index" or end.isdigit()):
            os.unlink(fs.encode(os.path.join(directory, name)))


def _refuse_another_place(before: Replica, replica: Replica) -> None:
    """The server must read out of its files what was read here."""
    stood = {channel.name: channel for channel in before.channels}
    for channel in replica.channels:
        was = stood.pop(channel.name, None)
        if was is None or (was.positioning == "file" and was.executed != channel.executed):
            raise RefusedError(
                f"{channel.label()} stands elsewhere than its files said",
                found=f"{channel.source_log_file}:{channel.source_log_pos}",
                expected="no such channel" if was is None else f"{was.source_log_file}:{was.source_log_pos}",
                next_command="find out who has written to its files, then run this again",
                rule="place",
            )
    if stood:
        raise RefusedError(
            "The server does not know every channel that its files name",
            found=f"channels {sorted(channel.name for channel in replica.channels)}",
            expected=f"also {sorted(stood)}",
            next_command="read the error log of this start",
            rule="place",
        )


def _refuse_gone(plans: t.Sequence[Healing]) -> None:
    """Of channels by GTID the source could not be asked before the server ran."""
    for healing in plans:
        if healing.source.has is False:
            raise RefusedError(
                f"The source cannot continue the channel '{healing.channel}': {healing.source.reason}",
                found=healing.coordinates.text(),
                expected="a source that has everything after it",
                next_command="restore a newer backup of a replica of this source, or make it anew from the source",
                rule="reposition",
                channels=[one.to_dict() for one in plans],
            )


def _start_the_others(
    session: Session, down: Down, replica: Replica, plans: t.Sequence[Healing], healed: set[str]
) -> list[dict[str, t.Any]]:
    """The threads of what recovery has healed, and those that a usual start would have started."""
    given = down.offline.facts.options
    stay = any(given.get(name, "OFF").upper() not in ("OFF", "0", "FALSE", "NO") for name in _SKIP_START)
    statements_ran = {healing.channel for healing in plans if healing.needed}
    return [
        start_channel(session, replica.dialect, healing).to_dict()
        for healing in plans
        if healing.channel not in statements_ran and (healing.channel in healed or not stay)
    ]
