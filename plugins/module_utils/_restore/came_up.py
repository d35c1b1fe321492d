# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What came up from restored files: is it the server that the set promises? Looked at before any thread starts."""

from __future__ import annotations

import re
import time
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import (
    Identity,
    QueryError,
    Session,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.coordinates import gtid_mode
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel, position_key
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.journal import Journal

# A clean set never says this at its start. Relay logs have troubles of their own, and are looked at elsewhere.
_RECOVERY = re.compile(
    r"crash recovery|not shut ?down normally|recovering after a crash|starting recovery|aria recovery|corrupt"
    r"|marked as crashed|tablespace .*(?:missing|not found|cannot be opened)|cannot open (?:tablespace|datafile)",
    re.IGNORECASE,
)
_RELAY = re.compile(r"relay[ _-]?log", re.IGNORECASE)
_ERROR = re.compile(r"\[ERROR\]")
# Engines whose tables are files of this server; others may reach for other machines.
_OWN_ENGINES = ("InnoDB", "MyISAM", "Aria", "ARCHIVE", "CSV", "ROCKSDB", "TokuDB", "MRG_MyISAM")
# Not allowed to see (manual, "Server Error Message Reference"): nothing is known of the table then.
_NOT_ALLOWED = frozenset({1044, 1142, 1143, 1227, 1370})


@dataclass(frozen=True)
class Check:
    """``verdict`` True: as promised; False: not, and no thread may start; None: not known, or worth a warning."""

    name: str
    verdict: bool | None
    detail: str

    def to_dict(self) -> dict[str, t.Any]:
        return asdict(self)


@dataclass(frozen=True)
class CameUp:
    """What was seen. ``log`` is what the server logged at this start, None when that cannot be read.

    ``registered`` are the replicas that the sources know ("server_id", "host", "uuid"); None: not asked. ``had_run``:
    somebody else had started the server, threads included.
    """

    identity: Identity
    variables: t.Mapping[str, str]
    channels: tuple[Channel, ...]
    tables: Tables
    log: str | None = None
    registered: tuple[t.Mapping[str, str], ...] | None = None
    had_run: bool = False


@dataclass(frozen=True)
class Tables:
    """``opened`` of ``total``; ``broken`` are those that did not open, with the server's words."""

    total: int
    opened: int
    broken: tuple[str, ...] = ()
    not_allowed: int = 0


def open_tables(session: Session, limit: float) -> Tables:
    """Open one table after the other, for at most ``limit`` seconds; reads at most one row of each."""
    rows = session.query(
        "SELECT TABLE_SCHEMA AS s, TABLE_NAME AS n, ENGINE AS e, TABLE_COMMENT AS c FROM information_schema.TABLES"
        " WHERE TABLE_TYPE = 'BASE TABLE' AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema')"
    )
    broken: list[str] = []
    opened = not_allowed = 0
    deadline = time.monotonic() + limit
    for row in rows:
        if row["e"] is None:
            # The server could not look into it; its error stands in the comment.
            broken.append(f"{row['s']}.{row['n']}: {row['c']}")
            continue
        if time.monotonic() > deadline or row["e"] not in _OWN_ENGINES:
            continue
        schema, name = (str(row[key]).replace("`", "``") for key in "sn")
        try:
            session.query(f"SELECT 1 FROM `{schema}`.`{name}` LIMIT 1")
        except QueryError as error:
            if error.code in _NOT_ALLOWED:
                not_allowed += 1
            else:
                broken.append(f"{row['s']}.{row['n']}: {error.found}")
            continue
        opened += 1
    return Tables(len(rows), opened, tuple(broken), not_allowed)


def judge(seen: CameUp, journal: Journal) -> tuple[Check, ...]:
    """Every check, in the order in which a person would make them; pure."""
    return (
        _family(seen, journal),
        _datadir(seen, journal),
        _uuid(seen, journal),
        _server_id(seen, journal),
        *_channels(seen, journal),
        _error_log(seen),
        _tables(seen),
    )


def _family(seen: CameUp, journal: Journal) -> Check:
    promised = journal.head["server"]
    is_so = seen.identity.family == promised["family"]
    version = ".".join(map(str, seen.identity.version))
    words = f"{seen.identity.family} {version}, set of {promised['family']} {promised['version']}"
    return Check("version", is_so and (True if version == str(promised["version"]) else None), words)


def _datadir(seen: CameUp, journal: Journal) -> Check:
    here, wanted = fs.real(seen.variables.get("datadir", "")), fs.real(journal.target["datadir"])
    return Check("datadir", here == wanted, f"the server that answers works on {here}, restored was {wanted}")


def _uuid(seen: CameUp, journal: Journal) -> Check:
    old, new = str(journal.head["server"].get("uuid") or ""), seen.variables.get("server_uuid", "")
    if not old and not new:
        has = Dialect(seen.identity.family, seen.identity.version).has_server_uuid
        return Check("server_uuid", None if has else True, "this server has none")
    words = f"server_uuid {new}, that of the set is {old}"
    sources = {channel.source_uuid for channel in seen.channels if channel.source_uuid}
    if new in sources:
        return Check("server_uuid", False, f"{words}; a source of this server has the same")
    return Check("server_uuid", (new == old) if journal.identity == "same" else (bool(new) and new != old), words)


def _server_id(seen: CameUp, journal: Journal) -> Check:
    ours, old = int(seen.variables.get("server_id") or 0), int(journal.head["server"].get("server_id") or 0)
    words = f"server_id {ours}, that of the set is {old}"
    recorded = [int(channel.get("source_server_id") or 0) for channel in journal.head["channels"]]
    if ours in recorded or any(ours == channel.source_server_id for channel in seen.channels):
        return Check("server_id", False, f"{words}; a source of this server has the same")
    if journal.identity == "clone" and ours == old:
        return Check("server_id", False, f"{words}; a clone needs one of its own, beside the server that it comes from")
    others = [row for row in seen.registered or () if row["server_id"] == str(ours)]
    if others:
        where = ", ".join(row["host"] or row["uuid"] or "a replica without a name" for row in others)
        said = f"{words}; its source knows a replica of this server_id already ({where})"
        if journal.identity == "clone":
            return Check("server_id", False, said)
        return Check(
            "server_id", None, f"{said}: the connection of this server before, or a second one that still runs"
        )
    if ours != old and journal.identity == "same":
        return Check("server_id", None, words)
    return Check("server_id", True, words)


def _channels(seen: CameUp, journal: Journal) -> t.Iterator[Check]:
    now = {channel.name: channel for channel in seen.channels}
    begun = journal.work.get("resume", {}).get("channels", {})
    for recorded in journal.head["channels"]:
        name = str(recorded["name"])
        label = f"channel '{name}'" if name else "the default channel"
        channel = now.pop(name, None)
        if channel is None:
            yield Check(label, False, f"it is gone; there are {sorted(now) or 'none'}")
        elif name in begun:
            yield Check(label, None, "an earlier call has set it on its way already")
        else:
            yield _coordinates(label, channel, recorded, seen)
    for name in now:
        yield Check(f"channel '{name}'", None, "the set does not know it; it is left alone")


def _coordinates(label: str, channel: Channel, recorded: t.Mapping[str, t.Any], seen: CameUp) -> Check:
    there = (str(recorded["source_log_file"] or ""), int(recorded["source_log_pos"] or 0))
    words = f"executed {channel.source_log_file}:{channel.source_log_pos}, recorded {there[0]}:{there[1]}"
    mode = gtid_mode(recorded.get("gtid") or {})
    if mode != gtid_mode(channel.gtid):
        how = {"": "file and position", "auto_position": "auto_position"}
        now, then = (how.get(m, m) for m in (gtid_mode(channel.gtid), mode))
        return Check(label, False, f"{words}; it finds its place by {now}, recorded is {then}")
    key = {"auto_position": "executed", "slave_pos": "replica_pos", "current_pos": "replica_pos"}.get(mode, "")
    if key and recorded["gtid"].get(key):
        ours, theirs = channel.gtid.get(key, ""), str(recorded["gtid"][key])
        if _as_set(ours) != _as_set(theirs) and not seen.had_run:
            return Check(label, False, f"{words}; GTIDs executed {ours or 'none'}, recorded {theirs}")
    if channel.executed == there or (not there[0] and not channel.source_log_file):
        return Check(label, True, words)
    if seen.had_run and position_key(channel.executed) >= position_key(there):
        return Check(label, None, f"{words}; somebody had started the server, and it went on")
    return Check(label, False, words)


def _as_set(gtids: str) -> frozenset[str]:
    return frozenset(part.strip().lower() for part in gtids.split(",") if part.strip())


def _error_log(seen: CameUp) -> Check:
    if seen.log is None:
        return Check("error_log", None, "what the server logged at this start cannot be read")
    lines = [line.strip() for line in seen.log.splitlines()]
    bad = [line for line in lines if _RECOVERY.search(line) and not _RELAY.search(line)]
    if bad:
        return Check("error_log", False, " / ".join(bad[:3]))
    errors = [line for line in lines if _ERROR.search(line)]
    if errors:
        return Check("error_log", None, " / ".join(errors[:3]))
    return Check("error_log", True, "this start went without recovery, and without errors")


def _tables(seen: CameUp) -> Check:
    tables = seen.tables
    words = f"{tables.opened} of {tables.total} tables opened"
    if tables.broken:
        return Check("tables", False, f"{words}; {len(tables.broken)} do not open: {'; '.join(tables.broken[:5])}")
    if tables.total == 0:
        # Every server has tables of its own; the list shows only those that the account may read.
        return Check("tables", None, f"{words}: this account may read none, so nobody has looked")
    if tables.not_allowed:
        return Check("tables", None, f"{words}; {tables.not_allowed} may not be read by this account")
    return Check("tables", True, words)
