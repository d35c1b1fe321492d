# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the source will still have the binary log that is needed.

A server purges a log by age when it was last written longer ago than the setting says, at a start or when it begins a
new log, oldest first (manual, "binlog_expire_logs_seconds"). SQL does not tell when a log was last written, but the
next log was begun at that moment, and its first event says when. More than this bound is not promised.
"""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import utc

Logs = t.Sequence[tuple[str, int]]
# (log, its size) -> when it was begun (seconds since the epoch), None when that cannot be had.
Begin = t.Callable[[str, int], t.Optional[float]]


@dataclass(frozen=True)
class Forecast:
    """``log`` is the oldest that counts. ``seconds``: it is not purged by age before they are over, as of the question;
    None: none is purged by age. ``last_written`` in UTC, "" while it is written to or when that cannot be had.
    ``bytes_left``: what the source may write before a limit of the total size purges the log, None without a limit.
    ``text`` says it all, and what it is based on.
    """

    log: str
    seconds: int | None
    last_written: str
    bytes_left: int | None
    text: str

    def to_dict(self) -> dict[str, t.Any]:
        return asdict(self)


def forecast(
    dialect: Dialect, variables: t.Mapping[str, str], logs: Logs, needed: str, now: float, begin: Begin
) -> Forecast:
    """For the log ``needed``, or the oldest when it is none of ``logs``. ``now`` by the source's clock."""
    names = [name for name, _size in logs]
    position = names.index(needed) if needed in names else 0
    log, still_written = names[position], position == len(names) - 1
    begun = None if still_written else begin(*logs[position + 1])
    seconds, by_age = _by_age(dialect.binary_log_expiry(variables), log, still_written, begun, now)
    since = sum(size for _name, size in logs[position:])
    left, by_size = None, ""
    limit = dialect.binary_log_size_limit(variables)
    if limit:
        left = max(limit - since, 0)
        rate = (since - logs[position][1]) / (now - begun) if begun and now > begun else 0.0
        pace = f", about {left / rate:.0f} s at the pace since {utc(begun)[:19]}Z" if rate and begun else ""
        by_size = f"The limit of the total size ({limit} bytes) purges it after {left} more bytes{pace}"
    connected = dialect.replicas_needed_for_purge(variables)
    holds = f"The source purges by itself only while at least {connected} replicas are connected" if connected else ""
    counted = f"{len(logs)} binary logs, {names[0]} to {names[-1]}" if len(logs) > 1 else f"One binary log, {names[0]}"
    hand = "PURGE BINARY LOGS by hand may come at any time; a log that a connected replica still reads is kept"
    text = ". ".join(part for part in (counted, by_age, by_size, holds, hand) if part)
    return Forecast(log, seconds, "" if begun is None else utc(begun), left, text)


def _by_age(kept: float, log: str, still_written: bool, begun: float | None, now: float) -> tuple[int | None, str]:
    if not kept:
        return None, "None is purged by age"
    rule = f"kept for {kept:.0f} s after its last write"
    if still_written:
        return int(kept), (
            f"{log} is {rule} and still written to: at least {int(kept)} s, counted from when the source begins another"
            " log (after a crash of the source, from its last write)"
        )
    if begun is None:
        return 0, f"{log} is {rule}, and when that was cannot be had: it may be purged when the next log begins"
    left = int(max(begun + kept - now, 0))
    when = f"{rule}, which was {utc(begun)[:19]}Z (the first event of the log after it)"
    return left, f"{log} is {when}: " + (f"at least {left} s more" if left else "it may be purged when a log begins")


def ask(session: Session, dialect: Dialect, variables: t.Mapping[str, str], logs: Logs, needed: str) -> Forecast:
    """The forecast of a source, the last thing to ask in ``session``."""
    now = float(session.scalar("SELECT UNIX_TIMESTAMP()"))

    def begin(log: str, size: int) -> float | None:
        try:
            return session.binary_log_begin(log, size)
        except ReplicaBackupError:
            # A proxy, say, that speaks no replication; the bound is weaker then, and says so.
            return None

    return forecast(dialect, variables, logs, needed, now, begin)
