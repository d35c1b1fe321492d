# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do for one channel, from facts alone."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Statement
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.coordinates import (
    MANIFEST,
    Coordinates,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.replica import Replica
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.source import SourceView
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.workers import reached
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel


@dataclass(frozen=True)
class Healing:
    """The plan for one channel. ``needed`` False: its relay logs are well. ``refused`` is why it must not be done."""

    channel: str
    needed: bool
    why: str
    coordinates: Coordinates
    source: SourceView
    statements: tuple[Statement, ...] = ()
    refused: str = ""
    alternatives: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, t.Any]:
        return {
            "name": self.channel,
            "needed": self.needed,
            "why": self.why,
            "source_log_file": self.coordinates.log_file,
            "source_log_pos": self.coordinates.log_pos,
            "gtid": self.coordinates.gtid,
            "origin": self.coordinates.origin,
            "source_has_it": self.source.has,
            "source_answer": self.source.reason,
            "source_keeps": self.source.keeps.to_dict() if self.source.keeps else None,
            "statements": [render(statement) for statement in self.statements],
            "refused": self.refused,
            "alternatives": list(self.alternatives),
        }


def render(statement: Statement) -> str:
    """The statement as a person types it."""
    sql, args = statement
    return sql % tuple(_literal(value) for value in args) + ";" if args else sql + ";"


def _literal(value: t.Any) -> str:
    if isinstance(value, int):
        return str(value)
    return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"


def plan(
    replica: Replica,
    channel: Channel,
    coordinates: Coordinates,
    source: SourceView,
    *,
    force: bool = False,
    trust: bool = False,
) -> Healing:
    """What to do for one channel; pure. ``trust`` takes coordinates that are in doubt."""
    trouble = replica.relay_logs.get(channel.name, "")
    error = channel.applier_error
    failed = error if error and int(error.split()[0]) in replica.dialect.relay_log_gone_errors else ""
    needed = bool(trouble or failed) or force
    why = "; ".join(part for part in (trouble, failed) if part) or (
        "asked for" if force else "its relay logs are there, and its threads report no error about them"
    )
    base = Healing(channel.name, needed, why, coordinates, source)
    if not needed:
        return base
    refused, alternatives = _refusal(replica, channel, coordinates, source, trust)
    if refused:
        return replace(base, refused=refused, alternatives=alternatives)
    dialect = replica.dialect
    change = (
        dialect.change_to_gtid(channel.name, coordinates.gtid, channel.delay)
        if coordinates.gtid
        else dialect.change_coordinates(channel.name, coordinates.log_file, coordinates.log_pos, channel.delay)
    )
    return replace(
        base,
        statements=(
            dialect.stop_thread(channel.name, "io"),
            dialect.stop_thread(channel.name, "applier"),
            dialect.reset_channel(channel.name),
            change,
            dialect.start_thread(channel.name, "applier"),
            dialect.start_thread(channel.name, "io"),
        ),
    )


_ANEW = "restore a newer backup of a replica of this source, or make it anew from the source"
_TRUST = "if you know that they are right: replica_reposition_trust_coordinates=true"


def _refusal(
    replica: Replica, channel: Channel, coordinates: Coordinates, source: SourceView, trust: bool
) -> tuple[str, tuple[str, ...]]:
    doubt = replica.doubt.get(channel.name, "")
    if not coordinates.gtid and not coordinates.log_file:
        return doubt or "nothing was ever executed on this channel, so there is no place to go on from", (
            "configure it with the coordinates that belong to its data",
            "after a restore, replica_reposition_manifest has them",
        )
    if source.has is False:
        return f"the source cannot continue it: {source.reason}", (
            _ANEW,
            "if the source's binary logs were archived (mysqlbinlog), apply those first",
        )
    if coordinates.gtid:
        return "", ()
    if coordinates.origin == MANIFEST:
        return ("", ()) if trust else _other_place(channel, coordinates)
    if doubt and not trust:
        return doubt, (_ANEW, _TRUST)
    if replica.workers is None:
        return (
            "whether its parallel applier left gaps could not be seen (mysql.slave_worker_info or the worker files)",
            ("GRANT SELECT ON mysql.slave_worker_info to the account, or run with become",),
        )
    gap = reached(channel.executed, replica.workers.get(channel.name, ())).gap
    if gap:
        return (
            f"its parallel applier was interrupted: {gap}; reading again from {coordinates.text()} would apply"
            " transactions twice"
        ), (
            "if the relay logs can be brought back, start the server with them and "
            f"{replica.dialect.skip_start_option}, {render(replica.dialect.start_until_gaps_filled(channel.name))}"
            " then this again with replica_reposition_force=true",
            _ANEW,
        )
    return "", ()


def _other_place(channel: Channel, coordinates: Coordinates) -> tuple[str, tuple[str, ...]]:
    """A server that ran on after its restore, or a manifest of another backup."""
    own, recorded = channel.executed, (coordinates.log_file, coordinates.log_pos)
    if not own[0] or own == recorded:
        return "", ()
    return f"{coordinates.text()} is of the backup's manifest, and the server's own place is {own[0]}:{own[1]}", (
        "leave out replica_reposition_manifest, to go by the server's own place",
        _TRUST,
    )
