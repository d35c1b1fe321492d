# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lost relay logs: from where the source's binary logs have to be read again, and the statements that do it.

Manual, "Backing Up Replicas": relay-log.info (or its table) still says how far the applier got. On real servers
CHANGE alone does not heal: START goes on failing (MySQL 1872, MariaDB 1201) until RESET has thrown the old relay log
position away. RESET forgets the coordinates too, so they are read, and noted, before it.
"""

from __future__ import annotations

import os
import shutil
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection, _replication
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _status_files as status
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login, QueryError, Session
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect, Statement
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel, position_key

# SHOW BINLOG EVENTS at an offset where no event begins.
_NO_EVENT_THERE = 1220
_WAIT_POLL = 0.25


@dataclass(frozen=True)
class Replica:
    """What was seen of the replica. ``workers_ahead`` are workers of a parallel applier that are beyond the position of
    their channel, by channel; None when that could not be seen."""

    dialect: Dialect
    variables: t.Mapping[str, str]
    channels: tuple[Channel, ...]
    gtid_state: str
    workers_ahead: t.Mapping[str, tuple[str, ...]] | None
    relay_logs: t.Mapping[str, str]


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


@dataclass(frozen=True)
class SourceView:
    """What the source says. ``has`` None: not asked. ``reason`` in words; ``retention`` how long it keeps its logs."""

    has: bool | None
    reason: str
    retention: str = ""


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
            "source_retention": self.source.retention,
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


# -- what is there ---------------------------------------------------------------------------------------------------


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
        workers_ahead=_workers_ahead(session, dialect, variables, channels),
        relay_logs={channel.name: _relay_log_trouble(channel, variables) for channel in channels},
    )


def _workers_ahead(
    session: Session, dialect: Dialect, variables: t.Mapping[str, str], channels: t.Sequence[Channel]
) -> dict[str, tuple[str, ...]] | None:
    if not dialect.can_leave_applier_gaps:
        return {}
    executed = {channel.name: channel.executed for channel in channels}
    found: dict[str, list[str]] = {name: [] for name in executed}
    if dialect.repository_kind(variables, "applier") == "TABLE":
        try:
            rows = session.query("SELECT * FROM mysql.slave_worker_info")
        except QueryError:
            return None
        workers = [
            (str(row.get("Channel_name", "")), int(row["Id"]), str(row["Master_log_name"]), int(row["Master_log_pos"]))
            for row in rows
        ]
    else:
        workers = []
        directory, stem = os.path.split(
            fs.absolute(variables.get("relay_log_info_file") or "relay-log.info", variables["datadir"])
        )
        try:
            for name in fs.names(directory):
                if name.startswith(f"worker-{stem}."):
                    info = status.read(status.parse_worker_info, os.path.join(directory, name))
                    workers.append(("", info.id, info.source_log_file, info.source_log_pos))
        except OSError:
            return None
    for channel, number, log_file, log_pos in workers:
        if channel in executed and log_file and position_key((log_file, log_pos)) > position_key(executed[channel]):
            found[channel].append(f"worker {number} at {log_file}:{log_pos}")
    return {name: tuple(ahead) for name, ahead in found.items()}


def _relay_log_trouble(channel: Channel, variables: t.Mapping[str, str]) -> str:
    """What is wrong with the relay log that the applier stands in, "" when it is there and long enough."""
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
    return ""


# -- the source ------------------------------------------------------------------------------------------------------


def ask_source(session: Session, replica: Replica, channel: Channel, coordinates: Coordinates) -> SourceView:
    """Whether ``session`` leads to the source of this channel, and it still has what comes after the coordinates."""
    variables = session.variables()
    stranger = _stranger(variables, channel)
    if stranger:
        return SourceView(False, stranger)
    logs = [(str(row["Log_name"]), int(row["File_size"])) for row in session.query("SHOW BINARY LOGS")]
    retention = _retention(variables, logs)
    if not logs:
        return SourceView(False, "the source has no binary logs")
    view = {
        "": _by_position,
        "auto_position": _by_auto_position,
        "slave_pos": _by_mariadb_gtid,
        "current_pos": _by_mariadb_gtid,
    }[coordinates.gtid](session, replica, coordinates, logs)
    return replace(view, retention=retention)


def _stranger(variables: t.Mapping[str, str], channel: Channel) -> str:
    uuid, number = variables.get("server_uuid", ""), variables.get("server_id", "0")
    if channel.source_uuid and uuid and uuid != channel.source_uuid:
        return f"it is another server: server_uuid {uuid}, and this channel replicated from {channel.source_uuid}"
    if channel.source_server_id and int(number) != channel.source_server_id:
        return f"it is another server: server_id {number}, and this channel replicated from {channel.source_server_id}"
    return ""


def _retention(variables: t.Mapping[str, str], logs: t.Sequence[tuple[str, int]]) -> str:
    seconds = float(variables.get("binlog_expire_logs_seconds") or 0)
    if not seconds:
        seconds = float(variables.get("expire_logs_days") or 0) * 86400
    kept = f"each is purged {seconds:g} s after it was last written" if seconds else "none is purged by age"
    return f"{len(logs)} binary logs, {logs[0][0]} to {logs[-1][0]}; {kept}" if logs else kept


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


def _by_auto_position(
    session: Session, replica: Replica, coordinates: Coordinates, logs: t.Sequence[tuple[str, int]]
) -> SourceView:
    row = session.query(
        "SELECT GTID_SUBSET(@@GLOBAL.gtid_purged, %s) AS has, GTID_SUBTRACT(@@GLOBAL.gtid_purged, %s) AS gone,"
        " @@GLOBAL.gtid_executed AS executed",
        (replica.gtid_state, replica.gtid_state),
    )[0]
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


# -- the plan --------------------------------------------------------------------------------------------------------


def _gtid_mode(gtid: t.Mapping[str, str]) -> str:
    """From the ``gtid`` of a channel, live or recorded; each family has its own key there."""
    using = gtid.get("using", "").lower()
    if using in ("slave_pos", "current_pos"):
        return using
    return "auto_position" if gtid.get("auto_position") == "1" else ""


def coordinates_of(replica: Replica, channel: Channel) -> Coordinates:
    """From the status of the running server, which takes them from relay-log.info or its table and tells them also when
    the relay logs are gone."""
    gtid = _gtid_mode(channel.gtid)
    kind = replica.dialect.repository_kind(replica.variables, "applier")
    return Coordinates(channel.source_log_file, channel.source_log_pos, gtid, f"the running server ({kind} repository)")


def plan(
    replica: Replica, channel: Channel, coordinates: Coordinates, source: SourceView, *, force: bool = False
) -> Healing:
    """What to do for one channel; pure."""
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
    refused, alternatives = _refusal(replica, channel, coordinates, source)
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


def _refusal(
    replica: Replica, channel: Channel, coordinates: Coordinates, source: SourceView
) -> tuple[str, tuple[str, ...]]:
    anew = "restore a newer backup of a replica of this source, or make it anew from the source"
    if not coordinates.gtid and not coordinates.log_file:
        return "nothing was ever executed on this channel, so there is no place to go on from", (
            "configure it with the coordinates that belong to its data",
        )
    if source.has is False:
        return f"the source cannot continue it: {source.reason}", (
            anew,
            "if the source's binary logs were archived (mysqlbinlog), apply those first",
        )
    if coordinates.gtid:
        return "", ()
    if replica.workers_ahead is None:
        return (
            "whether its parallel applier left gaps could not be seen (mysql.slave_worker_info or the worker files)",
            ("GRANT SELECT ON mysql.slave_worker_info to the account, or run with become",),
        )
    ahead = replica.workers_ahead.get(channel.name, ())
    if ahead:
        return (
            f"its parallel applier was interrupted: {', '.join(ahead)} beyond {coordinates.text()}; reading again from"
            " there would apply transactions twice"
        ), (
            "if the relay logs can be brought back: START REPLICA UNTIL SQL_AFTER_MTS_GAPS, then this again",
            anew,
        )
    return "", ()


# -- doing it --------------------------------------------------------------------------------------------------------


def save_files(replica: Replica, target: str) -> tuple[str, ...]:
    """Copy the files of the repositories to ``target`` (0700): RESET deletes them, and master.info holds the password.

    Nothing is copied where the repositories are tables. Returns the copies.
    """
    directory = replica.variables["datadir"]
    wanted = [
        os.path.join(directory, name)
        for name in fs.names(directory)
        if name.endswith(".info") and name.startswith(("master", "relay-log", "worker-relay-log", "multi-master"))
    ]
    moved = fs.absolute(replica.variables.get("relay_log_info_file") or "relay-log.info", directory)
    if os.path.dirname(moved) != os.path.normpath(directory) and fs.is_file(moved):
        wanted.append(moved)
    if not wanted:
        return ()
    os.makedirs(target, mode=0o700, exist_ok=False)
    copies = []
    for path in wanted:
        copy = os.path.join(target, os.path.basename(path))
        with (
            open(os.open(fs.encode(copy), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as writer,
            open(fs.encode(path), "rb") as reader,
        ):
            shutil.copyfileobj(reader, writer)
            writer.flush()
            os.fsync(writer.fileno())
        copies.append(copy)
    return tuple(copies)


def execute(session: Session, replica: Replica, healing: Healing, *, wait: float = 60.0) -> Channel:
    """Run the statements of one channel and wait until it replicates; ``wait`` in seconds.

    Raises ReplicaBackupError that names what was done and what has to be typed to go on.
    """
    done: list[str] = []
    for number, statement in enumerate(healing.statements):
        try:
            session.execute(*statement)
        except ReplicaBackupError as error:
            rest = [render(one) for one in healing.statements[number:]]
            raise ReplicaBackupError(
                f"The channel '{healing.channel}' could not be set on its way again: {error.message}",
                found=error.found,
                expected=f"replication from {healing.coordinates.text()}",
                server_state=f"running; done so far: {' '.join(done) or 'nothing'}",
                next_command=" ".join(rest),
                coordinates=healing.coordinates.text(),
            ) from error
        done.append(render(statement))
    return _wait_until_it_replicates(session, replica.dialect, healing, wait)


def _wait_until_it_replicates(session: Session, dialect: Dialect, healing: Healing, wait: float) -> Channel:
    deadline = time.monotonic() + wait
    while True:
        channel = next(c for c in _replication.read_channels(session, dialect) if c.name == healing.channel)
        dead = [
            error
            for started, error in (
                (channel.io_started, channel.io_error),
                (channel.applier_started, channel.applier_error),
            )
            if error and not started
        ]
        if channel.io.lower() == "yes" and channel.applier_started and not dead:
            return channel
        if dead or time.monotonic() > deadline:
            raise ReplicaBackupError(
                f"{channel.label()} does not replicate again",
                found="; ".join(dead)
                or f"receiver {channel.io} ('{channel.io_state}'), applier {channel.applier}; {channel.io_error}",
                expected=f"replication from {healing.coordinates.text()}",
                server_state="running, its coordinates set",
                next_command="look at SHOW REPLICA STATUS; the coordinates stay valid: "
                + render(healing.statements[3]),
                coordinates=healing.coordinates.text(),
            )
        time.sleep(_WAIT_POLL)


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
        coordinates = _from_manifest(coordinates, channel, request.manifest_channels)
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


def _from_manifest(
    coordinates: Coordinates, channel: Channel, recorded: t.Sequence[t.Mapping[str, t.Any]]
) -> Coordinates:
    for entry in recorded:
        if entry.get("name") == channel.name:
            return replace(
                coordinates,
                log_file=str(entry.get("source_log_file") or ""),
                log_pos=int(entry.get("source_log_pos") or 0),
                # RESET leaves MariaDB with Slave_Pos, so what the server says now may be no more than that.
                gtid=_gtid_mode(entry["gtid"]) if entry.get("gtid") else coordinates.gtid,
                origin="the backup's manifest",
            )
    raise RefusedError(
        f"The manifest knows no {channel.label()}",
        found=f"channels {sorted(str(entry.get('name')) for entry in recorded)}",
        expected=channel.label(),
        server_state="running, untouched",
    )
