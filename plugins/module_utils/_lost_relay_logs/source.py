# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the source says of the coordinates: whether it is the right server, and has what comes next."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs import forecast
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.coordinates import Coordinates
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.forecast import Forecast
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.replica import Replica
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel

# SHOW BINLOG EVENTS at an offset where no event begins.
_NO_EVENT_THERE = 1220


@dataclass(frozen=True)
class SourceView:
    """What the source says. ``has`` None: not known, as when it was not ``asked``. ``keeps``: for how long."""

    has: bool | None
    reason: str
    keeps: Forecast | None = None
    asked: bool = True


def ask_source(session: Session, replica: Replica, channel: Channel, coordinates: Coordinates) -> SourceView:
    """Whether ``session`` leads to the source of this channel, and it still has what comes after the coordinates."""
    variables = session.variables()
    stranger = _stranger(variables, channel)
    if stranger:
        return SourceView(False, stranger)
    logs = [(str(row["Log_name"]), int(row["File_size"])) for row in session.query("SHOW BINARY LOGS")]
    if not logs:
        return SourceView(False, "the source has no binary logs")
    how = {
        "": _by_position,
        "auto_position": _by_auto_position,
        "slave_pos": _by_mariadb_gtid,
        "current_pos": _by_mariadb_gtid,
    }[coordinates.gtid]
    if coordinates.gtid and replica.gtid_state is None:
        how = _before_the_start
    view = how(session, replica, coordinates, logs)
    identity = _connection.identify(session)
    dialect = Dialect(identity.family, identity.version)
    return replace(view, keeps=forecast.ask(session, dialect, variables, logs, coordinates.log_file))


def _stranger(variables: t.Mapping[str, str], channel: Channel) -> str:
    uuid, number = variables.get("server_uuid", ""), variables.get("server_id", "0")
    if channel.source_uuid and uuid and uuid != channel.source_uuid:
        return f"it is another server: server_uuid {uuid}, and this channel replicated from {channel.source_uuid}"
    if channel.source_server_id and int(number) != channel.source_server_id:
        return f"it is another server: server_id {number}, and this channel replicated from {channel.source_server_id}"
    return ""


def _by_position(
    session: Session, replica: Replica, coordinates: Coordinates, logs: t.Sequence[tuple[str, int]]
) -> SourceView:
    sizes = dict(logs)
    where = f"{coordinates.log_file}:{coordinates.log_pos}"
    if coordinates.log_file not in sizes:
        return SourceView(False, f"it no longer has {coordinates.log_file}; its oldest is {logs[0][0]}")
    size = sizes[coordinates.log_file]
    if size < coordinates.log_pos:
        return SourceView(
            False, f"its {coordinates.log_file} ends at {size}, before {where}: it was rebuilt or restored"
        )
    if size > coordinates.log_pos:
        try:
            session.query("SHOW BINLOG EVENTS IN %s FROM %s LIMIT 1", (coordinates.log_file, coordinates.log_pos))
        except QueryError as error:
            if error.code != _NO_EVENT_THERE:
                raise
            return SourceView(False, f"no event begins at {where}: it is another server with logs of the same names")
    return SourceView(True, f"it has {where} and what follows ({sum(s for _n, s in logs)} bytes in {len(logs)} logs)")


def _before_the_start(
    session: Session, replica: Replica, coordinates: Coordinates, logs: t.Sequence[tuple[str, int]]
) -> SourceView:
    """By GTID, and the server is down: its GTIDs are in a table. File and position tell most of it."""
    said = _by_position(session, replica, coordinates, logs).reason if coordinates.log_file else "it has binary logs"
    return SourceView(None, f"{said}; whether it has what is needed by GTID shows once this server runs")


def _by_auto_position(
    session: Session, replica: Replica, coordinates: Coordinates, logs: t.Sequence[tuple[str, int]]
) -> SourceView:
    row = session.query(
        "SELECT GTID_SUBSET(@@GLOBAL.gtid_purged, %s) AS has, GTID_SUBTRACT(@@GLOBAL.gtid_purged, %s) AS gone,"
        " GTID_SUBTRACT(%s, @@GLOBAL.gtid_executed) AS lost, @@GLOBAL.server_uuid AS uuid",
        (replica.gtid_state, replica.gtid_state, replica.gtid_state),
    )[0]
    # Of its own ones alone: the same comparison that it makes itself when a receiver connects (error 1236).
    lost = [part.strip() for part in str(row["lost"]).split(",") if part.strip().startswith(f"{row['uuid']}:")]
    if lost:
        return SourceView(
            False, f"it lacks transactions of its own that this server has ({lost[0]}): it was restored or set back"
        )
    if not int(row["has"] or 0):
        return SourceView(False, f"it has purged transactions that this server lacks: {row['gone']}")
    return SourceView(True, "it has purged nothing that this server lacks")


def _by_mariadb_gtid(
    session: Session, replica: Replica, coordinates: Coordinates, logs: t.Sequence[tuple[str, int]]
) -> SourceView:
    row = session.query("SELECT BINLOG_GTID_POS(%s, 4) AS oldest, @@GLOBAL.gtid_binlog_state AS newest", (logs[0][0],))[
        0
    ]
    oldest, newest, ours = (_domains(str(text or "")) for text in (row["oldest"], row["newest"], replica.gtid_state))
    for domain, number in ours.items():
        if domain in newest and newest[domain] < number:
            return SourceView(
                False, f"it has written GTID domain {domain} up to {newest[domain]} only, and this server has {number}"
            )
    for domain, number in oldest.items():
        if ours.get(domain, 0) < number:
            found = f"and this server has {ours.get(domain, 0)}"
            return SourceView(False, f"its oldest log begins behind {number} of GTID domain {domain}, {found}")
    return SourceView(True, f"its logs begin at or before {replica.gtid_state or 'the beginning'}")


def _domains(gtids: str) -> dict[int, int]:
    """Highest sequence number of each domain of a MariaDB GTID list ("0-1-10,1-2-3")."""
    found: dict[int, int] = {}
    for part in filter(None, (part.strip() for part in gtids.split(","))):
        domain, _server, number = (int(word) for word in part.split("-"))
        found[domain] = max(found.get(domain, 0), number)
    return found
