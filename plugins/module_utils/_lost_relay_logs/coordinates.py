# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Up to where in the source's binary logs the applier of a channel has executed."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.replica import Replica
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.workers import reached
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel

# Where coordinates are from that a backup recorded.
MANIFEST = "the backup's manifest"


@dataclass(frozen=True)
class Coordinates:
    """What the applier of a channel has executed: ``log_file``/``log_pos`` of the source.

    ``gtid`` is how the channel finds its place instead ("auto_position", "slave_pos", "current_pos"), "" when by these
    coordinates. ``origin`` says where they are from.
    """

    log_file: str
    log_pos: int
    gtid: str
    origin: str

    def text(self) -> str:
        if self.gtid:
            return f"by GTID ({self.gtid}); executed up to {self.log_file or 'nothing'}:{self.log_pos}"
        return f"{self.log_file}:{self.log_pos}"


def gtid_mode(gtid: t.Mapping[str, str]) -> str:
    """From the ``gtid`` of a channel, live or recorded; each family has its own key there."""
    using = gtid.get("using", "").lower()
    if using in ("slave_pos", "current_pos"):
        return using
    return "auto_position" if gtid.get("auto_position") == "1" else ""


def coordinates_of(replica: Replica, channel: Channel) -> Coordinates:
    """From the status of the running server, which takes them from relay-log.info or its table and tells them also when
    the relay logs are gone; from the same file when it is down."""
    gtid = gtid_mode(channel.gtid)
    position, origin = channel.executed, replica.origin
    if not gtid and replica.workers:
        position = reached(channel.executed, replica.workers.get(channel.name, ())).position
        if position != channel.executed:
            origin += ", and its workers, which have left no gap"
    return Coordinates(position[0], position[1], gtid, origin)


def from_manifest(
    coordinates: Coordinates, channel: Channel, recorded: t.Sequence[t.Mapping[str, t.Any]], state: str
) -> Coordinates:
    for entry in recorded:
        if entry.get("name") == channel.name:
            return replace(
                coordinates,
                log_file=str(entry.get("source_log_file") or ""),
                log_pos=int(entry.get("source_log_pos") or 0),
                # RESET leaves MariaDB with Slave_Pos, so what the server says now may be no more than that.
                gtid=gtid_mode(entry["gtid"]) if entry.get("gtid") else coordinates.gtid,
                origin=MANIFEST,
            )
    raise RefusedError(
        f"The manifest knows no {channel.label()}",
        found=f"channels {sorted(str(entry.get('name')) for entry in recorded)}",
        expected=channel.label(),
        server_state=state,
        next_command="give the manifest of the backup that this server was restored from, or none",
        rule="manifest",
    )
