# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica that is down, from the files of its repositories: relay-log.info, master.info, worker files.

Manual, "Replication Metadata Repositories". A server whose repositories are tables says nothing on disk: it has to be
started, without replication, and asked.
"""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _offline
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _status_files as status
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._channel_names import channel_file
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs import workers
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.replica import (
    Replica,
    relay_log_trouble,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.workers import Worker
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._offline import Offline
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel, channel_from_row
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._status_files import (
    ApplierInfo,
    ConnectionInfo,
    StatusFileError,
)

_STATE = "not running, untouched"


@dataclass(frozen=True)
class Down:
    """``replica`` None: its place is not on disk, and ``why`` says so."""

    offline: Offline
    dialect: Dialect
    replica: Replica | None
    why: str = ""


def look(hints: Hints, unanswered: str) -> Down:
    """Read a server that is down; nothing is started or changed.

    ``unanswered`` is what was tried before. Raises RefusedError when a process works on its data directory, when that
    is empty, and when one of the files is not as servers write them.
    """
    offline = _offline.read_offline(hints)
    facts = offline.facts
    process = _offline.running_process(facts)
    if process is not None:
        raise RefusedError(
            f"A server process works on {facts.datadir} and does not answer at the login",
            found=f"process {process.pid}" + (f"; {unanswered}" if unanswered else ""),
            expected="a server that answers, or no process",
            server_state=f"running, pid {process.pid}, untouched",
            next_command="correct the login options (login_unix_socket, login_host, login_port)",
            rule="running",
        )
    if offline.datadir_state != "filled":
        raise RefusedError(
            f"There is no server's data in {facts.datadir}",
            found=f"the directory is {offline.datadir_state}",
            expected="the data directory of a server",
            server_state=_STATE,
            next_command="say which server is meant: service_name, defaults_file or datadir",
            rule="datadir",
        )
    dialect = Dialect(offline.identity.family, offline.identity.version)
    tables = [
        name
        for name, which in (("master_info_repository", "connection"), ("relay_log_info_repository", "applier"))
        if dialect.repository_kind(facts.variables, which) == "TABLE"
    ]
    if tables:
        return Down(offline, dialect, None, f"{' and '.join(tables)} is TABLE, and only a running server reads tables")
    try:
        found = _read(facts, dialect)
    except StatusFileError as error:
        raise RefusedError(
            error.message,
            found=error.found,
            expected=error.expected,
            server_state=_STATE,
            next_command="after a restore, replica_reposition_manifest has the coordinates; without it, restore again",
            rule="status_file",
            file=error.path,
        ) from error
    except PermissionError as error:
        raise RefusedError(
            f"{error.filename!r} cannot be read",
            found=error.strerror,
            expected="root, or the account of the server",
            server_state=_STATE,
            next_command="run the play with become: true",
            rule="status_file",
        ) from error
    if not found:
        # They may still be where another setting had them: the server moves them at its start.
        return Down(offline, dialect, None, f"there is no channel in the files of {facts.datadir}")
    return Down(offline, dialect, _replica(offline, dialect, found))


def of_manifest(down: Down, recorded: t.Sequence[t.Mapping[str, t.Any]]) -> Replica:
    """The replica as a backup recorded it, for one whose repositories are tables."""
    channels = tuple(
        channel_from_row(
            {
                **{key: entry.get(key) for key in _RECORDED},
                "channel_name": entry.get("name", ""),
                "relay_source_log_file": entry.get("source_log_file"),
                "exec_source_log_pos": entry.get("source_log_pos"),
                "sql_delay": entry.get("delay"),
                "auto_position": (entry.get("gtid") or {}).get("auto_position", "0"),
                "replica_io_running": "No",
                "replica_sql_running": "No",
            }
        )
        for entry in recorded
    )
    variables = _variables(down.offline.facts)
    return Replica(
        dialect=down.dialect,
        variables=variables,
        channels=channels,
        gtid_state=None,
        workers={},
        relay_logs={channel.name: relay_log_trouble(channel, variables) for channel in channels},
        origin="the backup's manifest",
        state=_STATE,
    )


_RECORDED = (
    "source_host",
    "source_port",
    "source_user",
    "source_uuid",
    "source_server_id",
    "relay_log_file",
    "relay_log_pos",
)


# -- the files ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    name: str
    connection: ConnectionInfo
    applier: ApplierInfo | None
    applier_file: str


def _read(facts: ServerFacts, dialect: Dialect) -> list[_Found]:
    connection_file = facts.path(facts.options.get("master_info_file") or "master.info")
    applier_file = facts.path(facts.get("relay_log_info_file") or "relay-log.info")
    found = []
    for name in _names(connection_file, dialect):
        connection = _parse(status.parse_connection_info, channel_file(connection_file, name))
        path = channel_file(applier_file, name)
        applier = _parse(status.parse_applier_info, path)
        if applier is not None and applier.channel and applier.channel != name:
            raise _disagree(path, f"the channel '{applier.channel}'", f"the channel '{name}', by the file's name")
        if connection is not None and connection.host:
            found.append(_Found(name, connection, applier, path))
        elif applier is not None and not applier.never_ran:
            raise RefusedError(
                f"Where the source of the channel '{name}' is, and how to log in there, is lost",
                found=f"{path}, but no source in {channel_file(connection_file, name)}",
                expected="both files",
                server_state=_STATE,
                next_command=f"start it with {dialect.skip_start_option}, then give the channel its source again:"
                f" CHANGE MASTER TO MASTER_HOST = ..., MASTER_PORT = ..., MASTER_USER = ..., MASTER_PASSWORD = ...,"
                f" MASTER_LOG_FILE = '{applier.source_log_file}', MASTER_LOG_POS = {applier.source_log_pos}",
                rule="connection",
                source_log_file=applier.source_log_file,
                source_log_pos=applier.source_log_pos,
            )
    return found


def _names(connection_file: str, dialect: Dialect) -> list[str]:
    """Channels by name, the default one first. MariaDB has a list of the named ones; MySQL names them in the files."""
    directory, base = os.path.split(connection_file)
    stem, dot, extension = base.rpartition(".")
    pattern = re.compile(
        rf"{re.escape(stem)}-(.+){re.escape(dot + extension)}" if dot else rf"{re.escape(base)}-(.+)", re.DOTALL
    )
    files = [name for name in fs.names(directory) if pattern.fullmatch(name) and not name.startswith("multi-")]
    if not dialect.lists_named_connections:
        infos = [status.read(status.parse_connection_info, os.path.join(directory, name)) for name in files]
        return ["", *(info.channel for info in infos if info.channel)]
    listed = _parse(status.parse_connection_names, os.path.join(directory, f"multi-{base}")) or ()
    known = {os.path.basename(channel_file(connection_file, name)) for name in listed}
    unlisted = [name for name in files if name not in known]
    if unlisted:
        raise RefusedError(
            "The list of named connections does not name all that have files: the server would start without them",
            found=f"{', '.join(map(fs.printable, unlisted))}; multi-{base} names {', '.join(listed) or 'none'}",
            expected=f"every connection in multi-{base}",
            server_state=_STATE,
            next_command=f"list their names, one a line, in {os.path.join(directory, f'multi-{base}')}, or move their"
            " files away if the connections are gone",
            rule="connections",
        )
    return ["", *listed]


_Parsed = t.TypeVar("_Parsed")


def _parse(parse: t.Callable[[bytes, str], _Parsed], path: str) -> _Parsed | None:
    try:
        return status.read(parse, path)
    except FileNotFoundError:
        return None


def _disagree(path: str, found: str, expected: str) -> RefusedError:
    return RefusedError(
        f"{fs.printable(path)} belongs to another channel than its name says",
        found=found,
        expected=expected,
        server_state=_STATE,
        next_command="find out which is right before anything is started",
        rule="status_file",
    )


def _variables(facts: ServerFacts) -> dict[str, str]:
    return {**facts.variables, "datadir": facts.datadir}


def _replica(offline: Offline, dialect: Dialect, found: t.Sequence[_Found]) -> Replica:
    facts = offline.facts
    variables = _variables(facts)
    channels = tuple(_channel(one) for one in found)
    of_workers: dict[str, t.Sequence[Worker]] | None = {}
    for one in found if dialect.can_leave_applier_gaps else ():
        seen = workers.from_files(one.applier_file)
        of_workers = None if seen is None or of_workers is None else {**of_workers, one.name: seen}
    missing = {
        one.name: f"{one.applier_file}, which says where it stood, is not there" for one in found if not one.applier
    }
    return Replica(
        dialect=dialect,
        variables=variables,
        channels=channels,
        gtid_state=None,
        workers=of_workers,
        relay_logs={
            channel.name: missing.get(channel.name) or relay_log_trouble(channel, variables) for channel in channels
        },
        origin="relay-log.info of the server that is down",
        state=_STATE,
        doubt=_doubt(offline, found, missing),
    )


def _channel(found: _Found) -> Channel:
    connection, applier = found.connection, found.applier
    channel = channel_from_row(
        {
            "channel_name": found.name,
            "source_host": connection.host,
            "source_port": connection.port,
            "source_user": connection.user,
            "source_uuid": connection.uuid or "",
            "source_log_file": connection.source_log_file,
            "read_source_log_pos": connection.source_log_pos,
            "replica_io_running": "No",
            "replica_sql_running": "No",
            **({"using_gtid": connection.using_gtid} if connection.using_gtid is not None else {}),
            **({"auto_position": int(connection.auto_position)} if connection.auto_position is not None else {}),
        }
    )
    if applier is None:
        return channel
    return replace(
        channel,
        source_log_file=applier.source_log_file,
        source_log_pos=applier.source_log_pos,
        relay_log_file=applier.relay_log_file,
        relay_log_pos=applier.relay_log_pos,
        delay=applier.delay or 0,
    )


def _doubt(offline: Offline, found: t.Sequence[_Found], missing: t.Mapping[str, str]) -> dict[str, str]:
    """Why the place in the files may not be that of the data, by channel."""
    stop = _offline.clean_marks(offline)
    if stop.clean:
        return dict(missing)
    why = (
        "the server was not stopped cleanly, and it writes relay-log.info after the transaction that it speaks of, so"
        f" the file may be behind the data ({stop.summary})"
    )
    return {**{one.name: why for one in found}, **missing}
