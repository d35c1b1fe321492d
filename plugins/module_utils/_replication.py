# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replication channels: read them, bring them to rest, put their threads back, wait for catch-up."""

from __future__ import annotations

import re
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import FILTERS, Dialect, neutral
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

# Channels that group replication owns; they must not be stopped or started by hand.
_GROUP_CHANNELS = frozenset({"group_replication_applier", "group_replication_recovery"})
_POLL = 0.25
# For the rest of a transaction to arrive and be applied; without it the applier's own limit of 60 s applies.
_COMPLETION_SECONDS = 15.0
# Filters that are kept with the connection's settings on disk.
_STORED_FILTERS = ("replicate_ignore_server_ids", "replicate_do_domain_ids", "replicate_ignore_domain_ids")

Position = tuple[str, int]


@dataclass(frozen=True)
class Channel:
    """One channel (MySQL) or connection (MariaDB), in neutral words; ``name`` is "" for the default one.

    ``source_log_file``/``source_log_pos`` is what the applier has *executed* (Relay_Source_Log_File,
    Exec_Source_Log_Pos); ``read_*`` is what the receiver has downloaded. ``lag`` and ``delay`` are seconds.
    ``filters`` holds those that filter something, ``until`` the condition that a START ... UNTIL has set ("" for none).
    ``parallel_mode`` and ``max_relay_log_size`` are known where each channel has its own (MariaDB), else "".
    """

    name: str
    source_host: str
    source_port: int
    source_user: str
    source_uuid: str
    source_server_id: int
    io: str
    io_state: str
    applier: str
    applier_state: str
    source_log_file: str
    source_log_pos: int
    read_log_file: str
    read_log_pos: int
    relay_log_file: str
    relay_log_pos: int
    lag: int | None
    delay: int
    io_error: str
    applier_error: str
    gtid: dict[str, str]
    connection_info: str
    filters: dict[str, str]
    until: str
    skip_counter: str
    parallel_mode: str
    max_relay_log_size: str

    @property
    def io_started(self) -> bool:
        """The receiver was started, connected or not."""
        return self.io.lower() != "no"

    @property
    def applier_started(self) -> bool:
        return self.applier.lower() != "no"

    @property
    def executed(self) -> Position:
        return (self.source_log_file, self.source_log_pos)

    @property
    def read(self) -> Position:
        return (self.read_log_file, self.read_log_pos)

    @property
    def positioning(self) -> str:
        """ "gtid" when the receiver asks the source for what is missing by GTID, else "file"."""
        by_gtid = self.gtid.get("auto_position") == "1" or self.gtid.get("using", "No").lower() != "no"
        return "gtid" if by_gtid else "file"

    @property
    def applied_all(self) -> bool:
        """Everything that was downloaded is executed (an incomplete last transaction does not count)."""
        return self.executed == self.read or "has read all relay log" in self.applier_state.lower()

    def label(self) -> str:
        return f"channel '{self.name}'" if self.name else "the default channel"

    def to_dict(self) -> dict[str, t.Any]:
        """For results, ledger and manifest."""
        return {
            "name": self.name,
            "source_host": self.source_host,
            "source_port": self.source_port,
            "source_user": self.source_user,
            "source_uuid": self.source_uuid,
            "source_server_id": self.source_server_id,
            "source_log_file": self.source_log_file,
            "source_log_pos": self.source_log_pos,
            "read_log_file": self.read_log_file,
            "read_log_pos": self.read_log_pos,
            "relay_log_file": self.relay_log_file,
            "relay_log_pos": self.relay_log_pos,
            "positioning": self.positioning,
            "gtid": self.gtid,
            "delay": self.delay,
            "lag": self.lag,
            "filters": self.filters,
            "io": self.io,
            "io_state": self.io_state,
            "applier": self.applier,
            "applier_state": self.applier_state,
            "io_error": self.io_error,
            "applier_error": self.applier_error,
        }


@dataclass(frozen=True)
class Threads:
    """Which threads of a channel are to run."""

    name: str
    io: bool
    applier: bool

    def to_dict(self) -> dict[str, t.Any]:
        return {"name": self.name, "io": self.io, "applier": self.applier}

    @classmethod
    def of(cls, channel: Channel) -> Threads:
        return cls(channel.name, channel.io_started, channel.applier_started)


def channel_from_row(row: t.Mapping[str, t.Any]) -> Channel:
    """Normalise a row of SHOW SLAVE/REPLICA STATUS (any version) or SHOW ALL SLAVES STATUS."""
    values = {neutral(key): value for key, value in row.items()}

    def text(*names: str) -> str:
        for name in names:
            if values.get(name) is not None:
                return str(values[name])
        return ""

    def number(name: str) -> int:
        return int(values.get(name) or 0)

    def error(thread: str) -> str:
        code = number(f"last_{thread}_errno")
        return f"{code} {text(f'last_{thread}_error')}" if code else ""

    lag = values.get("seconds_behind_source")
    until = text("until_condition")
    gtid_names = {
        "retrieved": "retrieved_gtid_set",
        "executed": "executed_gtid_set",
        "auto_position": "auto_position",
        "using": "using_gtid",
        "io_pos": "gtid_io_pos",
        "replica_pos": "gtid_replica_pos",
    }
    return Channel(
        name=text("channel_name", "connection_name"),
        source_host=text("source_host"),
        source_port=number("source_port"),
        source_user=text("source_user"),
        source_uuid=text("source_uuid"),
        source_server_id=number("source_server_id"),
        io=text("replica_io_running"),
        io_state=text("replica_io_state"),
        applier=text("replica_sql_running"),
        applier_state=text("replica_sql_running_state", "replica_sql_state"),
        source_log_file=text("relay_source_log_file"),
        source_log_pos=number("exec_source_log_pos"),
        read_log_file=text("source_log_file"),
        read_log_pos=number("read_source_log_pos"),
        relay_log_file=text("relay_log_file"),
        relay_log_pos=number("relay_log_pos"),
        lag=None if lag is None else int(lag),
        delay=number("sql_delay"),
        io_error=error("io"),
        applier_error=error("sql"),
        gtid={key: text(name).replace("\n", "") for key, name in gtid_names.items() if name in values},
        connection_info=text("source_info_file"),
        filters={name: text(name) for name in (*FILTERS, *_STORED_FILTERS) if text(name)},
        until="" if until.lower() == "none" else until,
        skip_counter=text("skip_counter"),
        parallel_mode=text("parallel_mode"),
        max_relay_log_size=text("max_relay_log_size"),
    )


def read_channels(session: Session, dialect: Dialect) -> list[Channel]:
    """All channels that have a source, group replication's own left out."""
    channels = [channel_from_row(row) for row in session.query(dialect.show_channels)]
    return [channel for channel in channels if channel.source_host and channel.name not in _GROUP_CHANNELS]


def fetched_again(dialect: Dialect, channels: t.Iterable[Channel]) -> list[str]:
    """Warnings about channels that will not be drained and whose relay logs any restart of the server drops."""
    return [
        f"{channel.label()} uses GTIDs and has transactions that wait (delay {channel.delay} s, applier "
        f"{channel.applier}): this server drops their relay logs at every restart and fetches them once more. If the "
        f"source has purged them, the receiver fails with error 1236; look there for logs back to "
        f"{channel.source_log_file} before"
        for channel in channels
        if dialect.drops_relay_logs_with_gtid
        and channel.positioning == "gtid"
        and (channel.delay or not channel.applier_started)
        and channel.executed != channel.read
    ]


def open_temp_tables(session: Session, dialect: Dialect) -> int:
    """Temporary tables that the applier holds open; they would be lost by a restart."""
    status = session.status()
    for name in dialect.open_temp_tables_status:
        if name in status:
            return int(status[name])
    raise ReplicaBackupError(
        "The server does not say how many temporary tables the applier holds open",
        expected=f"one of the status variables {', '.join(dialect.open_temp_tables_status)}",
    )


@dataclass(frozen=True)
class Limits:
    """Seconds that quiescing may take. ``drain`` is time without progress."""

    drain: float = 300.0
    temp_tables: float = 60.0
    gaps: float = 60.0


def quiesce(session: Session, dialect: Dialect, limits: Limits) -> list[Channel]:
    """Receivers off, appliers drained, no open temporary tables, no applier gaps, appliers off.

    Returns the channels as they stand at rest. A delayed channel is not drained (it would take as long as its
    delay): its relay logs are part of the backup. A channel whose applier was stopped stays as it is.

    Raises ReplicaBackupError when a limit is reached; the caller puts the threads back.
    """
    started = {channel.name: Threads.of(channel) for channel in read_channels(session, dialect)}
    deadline = time.monotonic() + limits.temp_tables
    while True:
        for threads in started.values():
            if threads.io:
                session.execute(*dialect.stop_thread(threads.name, "io"))
        _drain(session, dialect, started, limits.drain)
        count = open_temp_tables(session, dialect)
        if count == 0:
            _stop_appliers(session, dialect, started)
            # To stop they may have had to go on a little.
            count = open_temp_tables(session, dialect)
            if count == 0:
                break
            for threads in started.values():
                if threads.applier:
                    session.execute(*dialect.start_thread(threads.name, "applier"))
        if time.monotonic() >= deadline:
            raise ReplicaBackupError(
                "The applier holds temporary tables open, and a restart would lose them",
                found=f"{count} open after {limits.temp_tables:g} s of trying",
                expected="0 open temporary tables (Slave_open_temp_tables)",
                next_command="try again later, or replicate in row format; "
                "variable replica_backup_temp_tables_timeout waits longer",
                rule="temp_tables",
            )
        # Only more events from the source can close them.
        for threads in started.values():
            if threads.io:
                session.execute(*dialect.start_thread(threads.name, "io"))
        time.sleep(1.0)
    _fill_gaps(session, dialect, limits.gaps)
    channels = read_channels(session, dialect)
    running = [channel.label() for channel in channels if channel.io_started or channel.applier_started]
    if running:
        raise ReplicaBackupError(
            "Replication threads run although they were stopped",
            found=", ".join(running),
            expected="nobody else starting replication during a backup",
            rule="quiesce",
        )
    return channels


def _stop_appliers(session: Session, dialect: Dialect, started: t.Mapping[str, Threads]) -> None:
    """Stop those that were started. The receivers stand still."""
    inside: dict[str, Position] = {}
    if dialect.applier_waits_for_whole_transactions(session.variables()):
        channels = read_channels(session, dialect)
        inside = {c.name: c.executed for c in channels if c.executed != c.read and not c.delay}
    for threads in started.values():
        if not threads.applier:
            continue
        # The receiver was stopped inside a transaction, and the applier would wait for the rest of it.
        complete = threads.io and threads.name in inside
        if complete:
            session.execute(*dialect.start_thread(threads.name, "io"))
            _wait_for_progress(session, dialect, threads.name, inside[threads.name])
        session.execute(*dialect.stop_thread(threads.name, "applier"))
        if complete:
            session.execute(*dialect.stop_thread(threads.name, "io"))


def _wait_for_progress(session: Session, dialect: Dialect, name: str, executed: Position) -> None:
    """Until the applier has got over the transaction it was in; told to stop too early, it may still wait for ever."""
    deadline = time.monotonic() + _COMPLETION_SECONDS
    while time.monotonic() < deadline:
        if any(channel.name == name and channel.executed != executed for channel in read_channels(session, dialect)):
            return
        time.sleep(_POLL)


def _drain(session: Session, dialect: Dialect, started: t.Mapping[str, Threads], limit: float) -> None:
    """Wait until every started, undelayed applier has executed what was downloaded."""
    seen: dict[str, Position] = {}
    quiet: dict[str, int] = {}
    last_progress = time.monotonic()
    while True:
        waiting = []
        for channel in read_channels(session, dialect):
            if not channel.applier_started:
                if channel.applier_error and channel.name in started and started[channel.name].applier:
                    raise ReplicaBackupError(
                        f"The applier of {channel.label()} stopped with an error while draining",
                        found=channel.applier_error,
                        rule="drain",
                    )
                continue
            if channel.delay:
                continue
            if seen.get(channel.name) != channel.executed:
                seen[channel.name] = channel.executed
                quiet[channel.name] = 0
                last_progress = time.monotonic()
            else:
                quiet[channel.name] = quiet.get(channel.name, 0) + 1
            # Positions are equal, or the applier waits for more and did not move between two looks: the second
            # form is an incomplete transaction at the end of the relay log, or a worker checkpoint still to come.
            if channel.executed != channel.read and not (channel.applied_all and quiet[channel.name] >= 4):
                waiting.append(channel)
        if not waiting:
            return
        if time.monotonic() - last_progress > limit:
            worst = waiting[0]
            raise ReplicaBackupError(
                f"The applier of {worst.label()} makes no progress",
                found=f"executed {worst.executed}, downloaded {worst.read}, state '{worst.applier_state}', "
                f"for {limit:g} s",
                expected="an applier that executes what was downloaded",
                next_command="look for a lock that blocks it (SHOW PROCESSLIST); "
                "variable replica_backup_drain_timeout waits longer",
                rule="drain",
            )
        time.sleep(_POLL)


def _fill_gaps(session: Session, dialect: Dialect, limit: float) -> None:
    """Run a stopped multi-threaded applier up to the point where every earlier transaction is committed."""
    if not dialect.can_leave_applier_gaps:
        return
    if dialect.applier_workers(session.variables()) < 2:
        return
    for channel in read_channels(session, dialect):
        # Everything executed leaves no gap, auto-positioning fetches what is missing by GTID (manual, "START REPLICA
        # Statement"), and without a source log name the applier has never run.
        by_gtid = channel.gtid.get("auto_position") == "1"
        if channel.executed == channel.read or by_gtid or not channel.source_log_file:
            continue
        session.execute(*dialect.start_until_gaps_filled(channel.name))
        deadline = time.monotonic() + limit
        while True:
            now = next((c for c in read_channels(session, dialect) if c.name == channel.name), channel)
            if not now.applier_started and not now.applier_error:
                break
            if now.applier_error or time.monotonic() > deadline:
                raise ReplicaBackupError(
                    f"The gaps of the multi-threaded applier of {channel.label()} were not filled",
                    found=now.applier_error or f"still applying after {limit:g} s",
                    expected="every transaction before the recorded position to be applied, and none after it",
                    next_command="mend what stops the applier, or let it finish, then run the backup again",
                    rule="applier_gaps",
                )
            time.sleep(_POLL)


def resume(session: Session, dialect: Dialect, wanted: t.Iterable[Threads]) -> list[str]:
    """Start the threads that are wanted and do not run. Never starts another. Returns what was started."""
    now = {channel.name: channel for channel in read_channels(session, dialect)}
    done = []
    for threads in wanted:
        channel = now.get(threads.name)
        if channel is None:
            raise ReplicaBackupError(
                f"The channel '{threads.name}' is gone", found=f"channels {sorted(now)}", expected="as before the stop"
            )
        for thread, wants, runs in (
            ("applier", threads.applier, channel.applier_started),
            ("io", threads.io, channel.io_started),
        ):
            if wants and not runs:
                session.execute(*dialect.start_thread(threads.name, thread))
                done.append(f"{thread} of {channel.label()}")
    return done


def differing_threads(session: Session, dialect: Dialect, wanted: t.Iterable[Threads]) -> tuple[list[str], list[str]]:
    """What differs from ``wanted``, in words: (threads that are missing, threads that run and should not)."""
    now = {channel.name: channel for channel in read_channels(session, dialect)}
    missing, extra = [], []
    for threads in wanted:
        channel = now.get(threads.name)
        if channel is None:
            missing.append(f"channel '{threads.name}' is gone")
            continue
        words = f"{channel.label()}: receiver {channel.io}, applier {channel.applier}"
        if (threads.io and not channel.io_started) or (threads.applier and not channel.applier_started):
            errors = [error for error in (channel.io_error, channel.applier_error) if error]
            missing.append(f"{words} ({'; '.join(errors)})" if errors else words)
        if (channel.io_started and not threads.io) or (channel.applier_started and not threads.applier):
            extra.append(words)
    return missing, extra


def position_key(position: Position) -> tuple[int, str, int]:
    """Order of positions in one source's binary logs: by number of the file, then offset."""
    name, offset = position
    match = re.search(r"\.(\d+)\Z", name)
    return (int(match[1]) if match else -1, name, offset)


class CatchUp:
    """The catch-up test, fed with one look after another; pure, so that recorded rows can be replayed.

    A channel has caught up when, for ``settle`` looks in a row, its receiver is connected and waits for the
    source, its lag (beyond its delay) is at most ``max_lag`` seconds, and the applier has passed what had been
    downloaded at the first of these looks. One low value alone proves nothing: Seconds_Behind_Source is 0
    whenever the applier has emptied the relay log, however far the receiver is behind.
    """

    def __init__(self, wanted: t.Iterable[Threads], *, max_lag: int, settle: int = 4) -> None:
        self._wanted = {threads.name: threads for threads in wanted}
        self._max_lag = max_lag
        self._settle = settle
        self._calm: dict[str, int] = {}
        self._mark: dict[str, Position] = {}
        self._last: dict[str, tuple[Position, Position]] = {}

    def look(self, channels: t.Iterable[Channel]) -> tuple[list[str], bool]:
        """(what is still behind in words, whether anything moved since the last look)."""
        behind = []
        moved = False
        for channel in channels:
            threads = self._wanted.get(channel.name)
            if threads is None or not (threads.io and threads.applier):
                continue
            moved |= self._last.get(channel.name) != (channel.read, channel.executed)
            self._last[channel.name] = (channel.read, channel.executed)
            if not self._is_calm(channel):
                self._calm[channel.name] = 0
                self._mark.pop(channel.name, None)
            else:
                self._mark.setdefault(channel.name, channel.read)
                self._calm[channel.name] = self._calm.get(channel.name, 0) + 1
            passed = channel.name in self._mark and (
                channel.applied_all
                or bool(channel.delay)
                or position_key(channel.executed) >= position_key(self._mark[channel.name])
            )
            if self._calm[channel.name] < self._settle or not passed:
                behind.append(
                    f"{channel.label()}: receiver {channel.io} ('{channel.io_state}'), lag {channel.lag}, "
                    f"executed {channel.executed}, downloaded {channel.read}"
                )
        return behind, moved

    def _is_calm(self, channel: Channel) -> bool:
        connected = channel.io.lower() == "yes" and channel.applier_started
        return connected and channel.lag is not None and channel.lag - channel.delay <= self._max_lag


def wait_caught_up(
    session: Session,
    dialect: Dialect,
    wanted: t.Sequence[Threads],
    *,
    no_progress_timeout: float,
    max_lag: int,
) -> float:
    """Seconds until every channel has caught up; channels that are to stay stopped do not count.

    Raises ReplicaBackupError when a thread stops with an error, or nothing moved for ``no_progress_timeout`` seconds.
    """
    start = last_move = time.monotonic()
    test = CatchUp(wanted, max_lag=max_lag)
    while True:
        channels = read_channels(session, dialect)
        behind, moved = test.look(channels)
        if not behind:
            return time.monotonic() - start
        now = time.monotonic()
        if moved:
            last_move = now
        for channel in channels:
            dead = [
                error
                for started, error in (
                    (channel.io_started, channel.io_error),
                    (channel.applier_started, channel.applier_error),
                )
                if error and not started
            ]
            if dead and any(threads.name == channel.name and threads.applier for threads in wanted):
                raise ReplicaBackupError(
                    f"Replication of {channel.label()} stopped with an error after the start",
                    found="; ".join(dead),
                    expected="a replica that catches up",
                    server_state="running, replication broken",
                    rule="catch_up",
                )
        if now - last_move > no_progress_timeout:
            raise ReplicaBackupError(
                "The replica does not catch up",
                found=f"{'; '.join(behind)}; no progress for {no_progress_timeout:g} s",
                expected=f"a lag of at most {max_lag} s",
                server_state="running, threads as before",
                next_command="look at SHOW REPLICA STATUS; variable replica_backup_catch_up_timeout waits longer",
                rule="catch_up",
            )
        time.sleep(_POLL)


def connected_replicas(session: Session, *, threads_running: bool) -> list[str] | None:
    """Who reads this server's binary log now ("user@host"), from the process list.

    None when the account cannot see other sessions: while replication threads run, an account with the PROCESS
    privilege always sees them. SHOW REPLICAS is no help: it lists only registered replicas and keeps dead ones.
    """
    rows = session.query("SHOW PROCESSLIST")
    users = {str(row.get("User")) for row in rows}
    if threads_running and "system user" not in users:
        return None
    return sorted(f"{row['User']}@{row['Host']}" for row in rows if str(row.get("Command")).startswith("Binlog Dump"))


def cluster_membership(session: Session, dialect: Dialect, variables: t.Mapping[str, str]) -> str | None:
    """ "Galera" or "group replication" when this server is a member, else None."""
    if variables.get("wsrep_on", "OFF").upper() == "ON" and variables.get("wsrep_provider", "none") not in ("", "none"):
        return "Galera"
    if not dialect.has_group_replication:
        return None
    rows = session.query(
        "SELECT MEMBER_STATE FROM performance_schema.replication_group_members"
        " WHERE MEMBER_STATE NOT IN ('', 'OFFLINE')"
    )
    return "group replication" if rows else None
