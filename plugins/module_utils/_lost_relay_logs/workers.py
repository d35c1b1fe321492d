# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers of MySQL's multi-threaded applier: up to where everything is executed, or that nobody can say.

The channel's own position moves at checkpoints only, and a worker may have executed transactions behind others that are
still missing. Each worker keeps a bitmap of the transactions since a checkpoint that it has executed; the server fills
gaps by it (rpl_replica.cc, mts_recovery_groups), with the relay logs at hand. Without them it tells as much when
every bitmap begins at the channel's position.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _status_files as status
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Position, position_key

Workers = t.Mapping[str, t.Sequence["Worker"]]


@dataclass(frozen=True)
class Worker:
    """``at`` is the end of the last transaction that it executed. Bit K of ``groups`` is transaction K since
    ``checkpoint``, and ``last`` the number of its last one."""

    number: int
    at: Position
    checkpoint: Position
    last: int
    groups: bytes

    def executed(self) -> set[int]:
        return {bit for bit in range(min(self.last + 1, len(self.groups) * 8)) if self.groups[bit // 8] >> bit % 8 & 1}

    def __str__(self) -> str:
        return f"worker {self.number} at {self.at[0]}:{self.at[1]}"


@dataclass(frozen=True)
class Reached:
    """Everything before ``position`` is executed, and nothing after it, unless there is a ``gap``: why not."""

    position: Position
    gap: str = ""


def reached(executed: Position, workers: t.Sequence[Worker]) -> Reached:
    """``executed`` is the channel's own position. Pure."""
    ahead = [worker for worker in workers if worker.at[0] and position_key(worker.at) > position_key(executed)]
    if not ahead:
        return Reached(executed)
    names = ", ".join(map(str, ahead))
    if any(worker.checkpoint != executed for worker in ahead):
        return Reached(executed, f"{names}, counted from another checkpoint, so what is missing cannot be told")
    last = max(worker.last for worker in ahead)
    missing = len(set(range(last + 1)) - set().union(*(worker.executed() for worker in ahead)))
    if missing:
        return Reached(executed, f"{names}, and {missing} of the {last + 1} transactions up to there are missing")
    return Reached(max((worker.at for worker in ahead), key=position_key))


def from_table(session: Session) -> Workers | None:
    """None when the account may not see them."""
    try:
        rows = session.query("SELECT * FROM mysql.slave_worker_info")
    except QueryError:
        return None
    found: dict[str, list[Worker]] = {}
    for row in rows:
        bitmap = row["Checkpoint_group_bitmap"]
        worker = Worker(
            int(row["Id"]),
            (str(row["Master_log_name"]), int(row["Master_log_pos"])),
            (str(row["Checkpoint_master_log_name"]), int(row["Checkpoint_master_log_pos"])),
            int(row["Checkpoint_seqno"]),
            bitmap.encode("utf-8", "surrogateescape") if isinstance(bitmap, str) else bytes(bitmap or b""),
        )
        found.setdefault(str(row.get("Channel_name", "")), []).append(worker)
    return found


def from_files(applier_file: str) -> list[Worker] | None:
    """Of the channel whose relay-log.info this is; None when they cannot be read. Raises StatusFileError."""
    directory, stem = os.path.split(applier_file)
    found = []
    try:
        for name in fs.names(directory):
            prefix, _dot, number = name.rpartition(".")
            if prefix == f"worker-{stem}" and number.isdigit():
                info = status.read(status.parse_worker_info, os.path.join(directory, name))
                found.append(
                    Worker(
                        info.id,
                        (info.source_log_file, info.source_log_pos),
                        (info.checkpoint_source_log_file, info.checkpoint_source_log_pos),
                        info.checkpoint_sequence,
                        info.groups,
                    )
                )
    except OSError:
        return None
    return found
