# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The small files in which a replica keeps its place: master.info, relay-log.info, worker files, index files.

Formats of every generation. Sources: manual, "Replication Metadata Repositories"; the servers' own readers
(rpl_rli.cc, rpl_mi.cc, rpl_rli_pdb.cc of MySQL; rpl_mi.cc, rpl_rli.cc of MariaDB); files that MySQL 5.6 and
MariaDB 10.11 wrote.

Two habits of the servers rule the reading: a file is rewritten in place and never shortened, so old bytes may follow
the last line that counts; and the first line says how many lines count, which newer servers raise. What a known
generation does not have is None.
"""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._channel_names import channel_file
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

# Of the longest files known, a hundred times; what lies behind cannot count.
_LIMIT = 1 << 20
_NUMBER = re.compile(rb"[0-9]{1,19}\Z")


class StatusFileError(ReplicaBackupError):
    """A status file that is not as servers write it. ``file`` and ``line`` (from 1) are among its facts."""

    def __init__(self, path: str, line: int, found: str, expected: str) -> None:
        super().__init__(
            f"{fs.printable(path)}, line {line}, is not as a server writes it",
            found=found,
            expected=expected,
            file=fs.printable(path),
            line=line,
        )
        self.path = path
        self.line = line


class _Lines:
    """The lines of a file from the first one on. Their content never gets into an error: one of them is a password."""

    def __init__(self, data: bytes, path: str) -> None:
        self._data = data
        self._start = 0
        self.path = path
        self.number = 0

    def left(self) -> bytes:
        return self._data[self._start :]

    def error(self, found: str, expected: str) -> StatusFileError:
        return StatusFileError(self.path, self.number, found, expected)

    def next(self, expected: str) -> bytes:
        self.number += 1
        end = self._data.find(b"\n", self._start)
        if end < 0:
            cut = len(self._data) > self._start
            raise self.error("the line is cut off" if cut else "the file ends before it", expected)
        line = self._data[self._start : end]
        self._start = end + 1
        return line

    def text(self, what: str) -> str:
        line = self.next(what)
        if b"\0" in line:
            raise self.error("a NUL byte", what)
        return fs.decode(line)

    def count(self, what: str) -> int:
        line = self.next(f"{what} (a whole number)")
        if not _NUMBER.match(line):
            raise self.error(f"{len(line)} bytes that are no whole number", f"{what} (a whole number)")
        return int(line)

    def flag(self, what: str) -> bool:
        number = self.count(f"{what}, 0 or 1")
        if number > 1:
            raise self.error(str(number), f"{what}, 0 or 1")
        return number == 1


def _first_is_count(lines: _Lines, what: str, least: int) -> int | None:
    """The number of lines that the first one says, None where it is already the first value (the oldest format)."""
    first = lines.next(what)
    if not _NUMBER.match(first):
        return None
    if int(first) < least:
        raise lines.error(str(int(first)), f"{what}; as a number of lines at least {least}")
    return int(first)


# -- applier --------------------------------------------------------------------------------------------------------

# By number of the lines that follow the first one.
_APPLIER_WRITERS = {
    4: "MySQL 5.5 or older, MariaDB 5.5",
    5: "MariaDB 10.0 or newer",
    7: "MySQL 5.6",
    8: "MySQL 5.7 or 8.0",
    10: "MySQL 8.0.18",
    11: "MySQL 8.0.19",
    12: "MySQL 8.0.20",
    14: "MySQL 8.0.23 or newer",
}


@dataclass(frozen=True)
class ApplierInfo:
    """relay-log.info: how far the applier is. ``lines`` is the number in the first line, None in the oldest format.

    ``source_log_file``/``source_log_pos`` is what was executed, ``relay_log_*`` where that stands in the relay logs
    (as the server writes it: ``./x`` in the data directory). ``delay`` is seconds.
    """

    lines: int | None
    relay_log_file: str
    relay_log_pos: int
    source_log_file: str
    source_log_pos: int
    delay: int | None = None
    workers: int | None = None
    id: int | None = None
    channel: str | None = None
    privilege_checks_user: str | None = None
    privilege_checks_host: str | None = None
    require_row_format: bool | None = None
    require_table_primary_key_check: str | None = None
    assign_gtids_type: str | None = None
    assign_gtids_value: str | None = None

    @property
    def never_ran(self) -> bool:
        """The applier has not executed anything of its source yet: the position means nothing."""
        return not self.source_log_file

    @property
    def written_by(self) -> str:
        """Which servers write this generation."""
        return _APPLIER_WRITERS.get(self.lines or 4, "a server that is not known here")


_APPLIER_LINES: tuple[tuple[str, str, str], ...] = (
    ("relay_log_file", "text", "the name of a relay log"),
    ("relay_log_pos", "count", "a position in the relay log"),
    ("source_log_file", "text", "the name of a binary log of the source"),
    ("source_log_pos", "count", "a position in the source's binary log"),
    ("delay", "count", "the delay in seconds"),
    ("workers", "count", "the number of workers"),
    ("id", "count", "the repository's number"),
    ("channel", "text", "the channel's name"),
    ("privilege_checks_user", "text", "the user of the privilege checks"),
    ("privilege_checks_host", "text", "the host of the privilege checks"),
    ("require_row_format", "flag", "whether row format is required"),
    ("require_table_primary_key_check", "text", "the check of primary keys"),
    ("assign_gtids_type", "text", "how GTIDs are given to anonymous transactions"),
    ("assign_gtids_value", "text", "the UUID of GTIDs given to anonymous transactions"),
)


def _take(lines: _Lines, layout: t.Sequence[tuple[str, str, str]], many: int) -> dict[str, t.Any]:
    values: dict[str, t.Any] = {}
    for name, kind, what in layout[:many]:
        values[name] = {"text": lines.text, "count": lines.count, "flag": lines.flag}[kind](what)
    for _number in range(len(layout), many):
        lines.next(f"a line that the first one promises ({many} follow it)")
    return values


def parse_applier_info(data: bytes, path: str) -> ApplierInfo:
    """relay-log.info of any generation. ``path`` is for errors only. Raises StatusFileError."""
    lines = _Lines(data, path)
    first = "a number of lines, or the name of a relay log"
    count = _first_is_count(lines, first, 5)
    if count is None:
        lines = _Lines(data, path)
    return ApplierInfo(lines=count, **_take(lines, _APPLIER_LINES, 4 if count is None else count))


# -- connection -----------------------------------------------------------------------------------------------------

# By number of lines, the first one included.
_CONNECTION_WRITERS = {
    7: "MySQL 4.0",
    14: "MySQL 4.1 or 5.0",
    15: "MySQL 5.1",
    18: "MySQL 5.5, MariaDB 5.5",
    23: "MySQL 5.6",
    25: "MySQL 5.7",
    26: "MySQL 8.0",
    27: "MySQL 8.0",
    28: "MySQL 8.0.16",
    30: "MySQL 8.0.18",
    31: "MySQL 8.0.19",
    32: "MySQL 8.0.22",
    33: "MySQL 8.0.27 or newer",
}


@dataclass(frozen=True)
class ConnectionInfo:
    """master.info: the source and what was downloaded from it. The password in the file is not kept.

    ``lines`` is the number in the first line, None in the oldest format. ``source_log_*`` is what the receiver has
    *downloaded*; where the applier stands is in ApplierInfo. ``heartbeat`` is seconds, ``connect_retry`` too.
    ``using_gtid`` and the domain lists are MariaDB's ("No", "Current_Pos", "Slave_Pos"), ``further`` the names of its
    other settings.
    """

    lines: int | None
    source_log_file: str
    source_log_pos: int
    host: str
    user: str
    port: int
    connect_retry: int
    ssl: bool | None = None
    ssl_ca: str | None = None
    ssl_capath: str | None = None
    ssl_cert: str | None = None
    ssl_cipher: str | None = None
    ssl_key: str | None = None
    ssl_verify_server_cert: bool | None = None
    heartbeat: float | None = None
    bind: str | None = None
    ignore_server_ids: tuple[int, ...] | None = None
    uuid: str | None = None
    retry_count: int | None = None
    ssl_crl: str | None = None
    ssl_crlpath: str | None = None
    auto_position: bool | None = None
    channel: str | None = None
    tls_version: str | None = None
    public_key_path: str | None = None
    get_public_key: bool | None = None
    network_namespace: str | None = None
    compression_algorithm: str | None = None
    zstd_level: int | None = None
    tls_ciphersuites: str | None = None
    failover: bool | None = None
    gtid_only: bool | None = None
    using_gtid: str | None = None
    do_domain_ids: tuple[int, ...] | None = None
    ignore_domain_ids: tuple[int, ...] | None = None
    further: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """ "mariadb" when the file has MariaDB's settings behind its lines, else "mysql"."""
        return "mysql" if self.using_gtid is None else "mariadb"

    @property
    def written_by(self) -> str:
        """Which servers write this generation."""
        if self.family == "mariadb":
            return "MariaDB 10.0 or newer"
        return _CONNECTION_WRITERS.get(self.lines or 7, "a server that is not known here")

    @property
    def tls_files(self) -> tuple[str, ...]:
        """Files (not directories) that the connection needs, as written."""
        named = (self.ssl_ca, self.ssl_cert, self.ssl_key, self.ssl_crl, self.public_key_path)
        return tuple(name for name in named if name)


_SECRET = "password"
_CONNECTION_LINES: tuple[tuple[str, str, str], ...] = (
    ("source_log_file", "text", "the name of a binary log of the source"),
    ("source_log_pos", "count", "a position in the source's binary log"),
    ("host", "text", "the source's host"),
    ("user", "text", "the user"),
    (_SECRET, "secret", "the password"),
    ("port", "count", "the source's port"),
    ("connect_retry", "count", "the seconds between attempts to connect"),
    ("ssl", "flag", "whether TLS is on"),
    ("ssl_ca", "text", "the file of the certificate authority"),
    ("ssl_capath", "text", "the directory of certificate authorities"),
    ("ssl_cert", "text", "the file of the certificate"),
    ("ssl_cipher", "text", "the ciphers"),
    ("ssl_key", "text", "the file of the key"),
    ("ssl_verify_server_cert", "flag", "whether the source's certificate is verified"),
    ("heartbeat", "seconds", "the heartbeat in seconds"),
    ("bind", "text", "the address to bind to"),
    ("ignore_server_ids", "ids", "a count and as many server ids"),
    ("uuid", "text", "the source's UUID"),
    ("retry_count", "count", "the number of attempts to connect"),
    ("ssl_crl", "text", "the file of revoked certificates"),
    ("ssl_crlpath", "text", "the directory of revoked certificates"),
    ("auto_position", "flag", "whether positions are found by GTID"),
    ("channel", "text", "the channel's name"),
    ("tls_version", "text", "the TLS versions"),
    ("public_key_path", "text", "the file of the source's public key"),
    ("get_public_key", "flag", "whether the source is asked for its public key"),
    ("network_namespace", "text", "the network name space"),
    ("compression_algorithm", "text", "the compression algorithm"),
    ("zstd_level", "count", "the level of zstd"),
    ("tls_ciphersuites", "text", "the TLS 1.3 cipher suites"),
    ("failover", "flag", "whether the connection fails over by itself"),
    ("gtid_only", "flag", "whether only GTIDs are kept"),
)
# MariaDB leaves the lines behind this one blank and writes named settings after its 33 lines.
_MARIADB_LINES = 33
_MARIADB_KNOWN = 21
_MARIADB_END = b"END_MARKER"
_SETTING = re.compile(rb"([A-Za-z0-9_]{1,64})(?:=(.*))?\Z", re.DOTALL)
_USING_GTID = {0: "No", 1: "Current_Pos", 2: "Slave_Pos"}
_SECONDS = re.compile(rb"[0-9]{1,10}(?:\.[0-9]{1,9})?\Z")
_IDS = re.compile(rb"[0-9]{1,19}(?: [0-9]{1,19})* ?\Z")


class _ConnectionLines(_Lines):
    def secret(self, what: str) -> None:
        self.next(what)

    def seconds(self, what: str) -> float:
        line = self.next(what)
        if not _SECONDS.match(line):
            raise self.error(f"{len(line)} bytes that are no number of seconds", what)
        return float(line)

    def ids(self, what: str) -> tuple[int, ...]:
        return self.as_ids(self.next(what), what)

    def as_ids(self, value: bytes, what: str) -> tuple[int, ...]:
        if not _IDS.match(value):
            raise self.error(f"{len(value)} bytes that are no list of numbers", what)
        count, *ids = map(int, value.split())
        if count != len(ids):
            raise self.error(f"{len(ids)} ids, counted as {count}", what)
        return tuple(ids)


def _is_mariadb(lines: _Lines, count: int) -> bool:
    """MariaDB leaves lines blank where MySQL 8.0, which has as many, has numbers among others."""
    unused = lines.left().split(b"\n")[_MARIADB_KNOWN : _MARIADB_LINES - 1]
    return count == _MARIADB_LINES and bool(unused) and not any(unused)


def parse_connection_info(data: bytes, path: str) -> ConnectionInfo:
    """master.info of any generation. ``path`` is for errors only. Raises StatusFileError, never with content."""
    lines = _ConnectionLines(data, path)
    first = "a number of lines, or the name of a binary log"
    count = _first_is_count(lines, first, 14)
    if count is None:
        lines = _ConnectionLines(data, path)
    mariadb = count is not None and _is_mariadb(lines, count)
    # The count includes its own line.
    many = 7 if count is None else count - 1
    known = _MARIADB_KNOWN if mariadb else len(_CONNECTION_LINES)
    values: dict[str, t.Any] = {}
    for name, kind, what in _CONNECTION_LINES[: min(many, known)]:
        value = getattr(lines, kind)(what)
        if name != _SECRET:
            values[name] = value
    for _number in range(known, many):
        lines.next(f"a line that the first one promises ({count} in all)")
    if mariadb:
        values.update(_mariadb_settings(lines))
    return ConnectionInfo(lines=count, **values)


def _mariadb_settings(lines: _ConnectionLines) -> dict[str, t.Any]:
    """The ``name=value`` lines up to END_MARKER, which every version of MariaDB 10 and newer writes."""
    # A file without the setting comes from a version that does not know GTIDs.
    values: dict[str, t.Any] = {"using_gtid": "No"}
    further: list[str] = []
    while True:
        what = "a setting name=value, or END_MARKER"
        line = lines.next(what)
        if line == _MARIADB_END:
            return {**values, "further": tuple(further)}
        match = _SETTING.match(line)
        if not match:
            raise lines.error(f"{len(line)} bytes that are neither", what)
        name, value = match[1].decode("ascii"), match[2] or b""
        if name == "using_gtid":
            if not _NUMBER.match(value) or int(value) not in _USING_GTID:
                raise lines.error(f"{len(value)} bytes that are none of these", "using_gtid=0, 1 or 2")
            values[name] = _USING_GTID[int(value)]
        elif name in ("do_domain_ids", "ignore_domain_ids"):
            values[name] = lines.as_ids(value, f"{name}= with a count and as many ids")
        else:
            further.append(name)


# -- workers of the applier -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerInfo:
    """worker-relay-log.info.N of MySQL: the last group that one worker applied, and those since the checkpoint.

    All names are empty and all numbers 0 for a worker that has applied nothing since the last checkpoint. Bit K of
    ``groups`` (the lowest bit of the first byte is 0) is group K after the checkpoint.
    """

    id: int
    relay_log_file: str
    relay_log_pos: int
    source_log_file: str
    source_log_pos: int
    checkpoint_relay_log_file: str
    checkpoint_relay_log_pos: int
    checkpoint_source_log_file: str
    checkpoint_source_log_pos: int
    checkpoint_sequence: int
    groups: bytes


_WORKER_LINES: tuple[tuple[str, str, str], ...] = (
    ("id", "count", "the worker's number"),
    ("relay_log_file", "text", "the name of a relay log"),
    ("relay_log_pos", "count", "a position in the relay log"),
    ("source_log_file", "text", "the name of a binary log of the source"),
    ("source_log_pos", "count", "a position in the source's binary log"),
    ("checkpoint_relay_log_file", "text", "the relay log of the checkpoint"),
    ("checkpoint_relay_log_pos", "count", "the checkpoint's position in it"),
    ("checkpoint_source_log_file", "text", "the source's log of the checkpoint"),
    ("checkpoint_source_log_pos", "count", "the checkpoint's position in it"),
    ("checkpoint_sequence", "count", "the number of the group since the checkpoint"),
)


def parse_worker_info(data: bytes, path: str) -> WorkerInfo:
    """One worker's file. ``path`` is for errors only. Raises StatusFileError."""
    lines = _Lines(data, path)
    values = _take(lines, _WORKER_LINES, len(_WORKER_LINES))
    what = "the number of bytes that tell the groups"
    size = lines.count(what)
    groups = lines.left()[:size]
    if len(groups) < size:
        lines.number += 1
        raise lines.error(f"{len(groups)} bytes", f"{size} bytes that tell the groups")
    return WorkerInfo(groups=groups, **values)


# -- lists of names -------------------------------------------------------------------------------------------------


def _names(data: bytes, path: str, what: str) -> tuple[str, ...]:
    lines, found = _Lines(data, path), []
    while lines.left():
        name = lines.text(what)
        if not name:
            raise lines.error("an empty line", what)
        found.append(name)
    return tuple(found)


def parse_log_index(data: bytes, path: str) -> tuple[str, ...]:
    """Names in an index of relay or binary logs, oldest first, as written. Raises StatusFileError."""
    return _names(data, path, "the name of a log")


def parse_connection_names(data: bytes, path: str) -> tuple[str, ...]:
    """MariaDB's multi-master.info: the named connections in their own case; the default one is never in it."""
    return _names(data, path, "the name of a connection")


# -- from disk ------------------------------------------------------------------------------------------------------

_Parsed = t.TypeVar("_Parsed")


def read(parse: t.Callable[[bytes, str], _Parsed], path: str) -> _Parsed:
    """Read a file with one of the parsers. Raises StatusFileError, or OSError when it cannot be read."""
    with open(fs.encode(path), "rb") as handle:
        return parse(handle.read(_LIMIT), path)


# -- which files a channel has --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChannelFiles:
    """Metadata files of one channel as absolute paths; "" where a table holds it.

    ``names`` is MariaDB's list of named connections, one file for all of them.
    """

    connection: str
    applier: str
    names: str


def channel_files(variables: t.Mapping[str, str], channel: str, shown: str, option: str = "") -> ChannelFiles:
    """Where a channel's metadata lies, going by what the server says; nothing is looked up on disk.

    ``shown`` is the column Master_Info_File or Source_Info_File of its status: a path, a table, or "" on MariaDB, which
    has no such column. ``option`` is the setting master_info_file, which has no variable.
    """
    datadir = fs.absolute(variables.get("datadir", "/"), "/")
    connection = fs.absolute(option or "master.info", datadir)
    applier = fs.absolute(variables.get("relay_log_info_file") or "relay-log.info", datadir)
    # Without the variable there is one kind: tables where the column names a table (MySQL 8.3), else files (MariaDB).
    kind = variables.get("relay_log_info_repository") or ("TABLE" if shown else "FILE")
    if not shown:
        names = os.path.join(os.path.dirname(connection), f"multi-{os.path.basename(connection)}")
        return ChannelFiles(channel_file(connection, channel), channel_file(applier, channel), names)
    return ChannelFiles(
        connection=fs.absolute(shown, datadir) if "/" in shown else "",
        applier=channel_file(applier, channel) if kind.upper() == "FILE" else "",
        names="",
    )
