# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database session from the login options that every server module takes.

The option names and their precedence (explicit options beat the option file, a socket beats host and
port) are those of the ansible.mysql collection.
"""

from __future__ import annotations

import decimal
import os
import re
import struct
import traceback
import typing as t
from dataclasses import asdict, dataclass, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

try:
    import pymysql
    import pymysql.constants.COMMAND
    import pymysql.constants.FIELD_TYPE
    import pymysql.cursors
except ImportError:
    PYMYSQL_ERROR: str | None = traceback.format_exc()
else:
    PYMYSQL_ERROR = None

# In a binary log's stream: the event with which every log begins (MySQL source, libbinlogevents: binlog_event.h).
_FORMAT_DESCRIPTION = 15
_DUMP_WITHOUT_WAITING = 1

# Client error numbers that mean "nobody answered" (MySQL manual, Client Error Message Reference).
_NOT_ANSWERING = frozenset({2002, 2003, 2006, 2013, 2055})
# Errors that show a server at work although it refused this login.
_REFUSED_LOGIN = frozenset({1044, 1045, 1130, 1698, 1040, 1129, 1203, 1226, 1251, 2054, 2059, 2061})


@dataclass(frozen=True)
class Login:
    """How to log in. ``connect_timeout`` is in seconds; None means "as the option file or the library says"."""

    user: str | None = None
    password: str | None = None
    host: str = "localhost"
    port: int = 3306
    unix_socket: str | None = None
    config_file: str | None = None
    connect_timeout: int = 30
    ca_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    check_hostname: bool | None = None

    def __repr__(self) -> str:
        return f"Login({self.where()})"

    def where(self) -> str:
        """The address in words, without anything secret."""
        place = self.unix_socket or f"{self.host}:{self.port}"
        return f"{self.user or '(user of the option file)'} at {place}"

    def to_dict(self) -> dict[str, t.Any]:
        """All fields, password included: only for a file of mode 0600."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Login:
        return cls(**data)


class ServerUnreachableError(ReplicaBackupError):
    """Nobody answered at the address."""


class LoginRefusedError(ReplicaBackupError):
    """A server answered and refused this login."""


class QueryError(ReplicaBackupError):
    """The server answered a statement with an error; ``code`` is its number."""

    def __init__(self, message: str, code: int, **facts: t.Any) -> None:
        super().__init__(message, **facts)
        self.code = code


class Session:
    """One connection, autocommit on, rows as dictionaries."""

    def __init__(self, connection: pymysql.connections.Connection[t.Any]) -> None:
        self._connection = connection

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._connection.open:
            self._connection.close()

    def query(self, sql: str, args: t.Sequence[t.Any] | None = None) -> list[dict[str, t.Any]]:
        """Rows of ``sql``. Bytes become str (UTF-8 with surrogateescape)."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, args or None)
                rows = cursor.fetchall()
        except pymysql.MySQLError as error:
            raise _query_error(sql, error) from error
        return [{key: _text(value) for key, value in row.items()} for row in rows]

    def execute(self, sql: str, args: t.Sequence[t.Any] | None = None) -> None:
        self.query(sql, args)

    def scalar(self, sql: str, args: t.Sequence[t.Any] | None = None) -> t.Any:
        rows = self.query(sql, args)
        return next(iter(rows[0].values())) if rows else None

    def variables(self) -> dict[str, str]:
        """``SHOW GLOBAL VARIABLES`` with lower-case names; NULL is an empty text."""
        return self._named_values("SHOW GLOBAL VARIABLES")

    def status(self) -> dict[str, str]:
        """``SHOW GLOBAL STATUS`` with lower-case names."""
        return self._named_values("SHOW GLOBAL STATUS")

    def _named_values(self, sql: str) -> dict[str, str]:
        return {str(row["Variable_name"]).lower(): str(row["Value"] or "") for row in self.query(sql)}

    def shutdown_by_protocol(self) -> None:
        """COM_SHUTDOWN, the way of servers without the SHUTDOWN statement (before MySQL 5.7.9)."""
        # PyMySQL has no public call for it; the command byte is part of the documented protocol.
        connection: t.Any = self._connection
        try:
            connection._execute_command(pymysql.constants.COMMAND.COM_SHUTDOWN, b"\x00")
            connection._read_packet()
        except pymysql.MySQLError as error:
            failure = _query_error("COM_SHUTDOWN", error)
            if failure.code not in _NOT_ANSWERING:
                raise failure from error

    def binary_log_begin(self, name: str, position: int) -> int | None:
        """When this server began the binary log ``name``: seconds since the epoch by its own clock, None if unsaid.

        No statement tells. It asks as mysqlbinlog does with --read-from-remote-server, as server 0, which disturbs no
        replica; ``position`` is the log's size, so that little but its first event comes. Needs REPLICATION SLAVE, and
        leaves the session of no further use. Raises QueryError.
        """
        connection: t.Any = self._connection
        for side in ("master", "source"):
            # A reader that does not speak of checksums gets nothing from a log that has them.
            self.execute(f"SET @{side}_binlog_checksum = 'NONE'")
        asked = struct.pack("<IHI", position, _DUMP_WITHOUT_WAITING, 0) + name.encode("utf-8", "surrogateescape")
        try:
            connection._execute_command(pymysql.constants.COMMAND.COM_BINLOG_DUMP, asked)
            # The first event is made up and names the log.
            for _number in range(4):
                data = bytes(connection._read_packet().get_all_data())
                if data[:1] != b"\0" or len(data) < 20:
                    return None
                moment, kind = struct.unpack_from("<IB", data, 1)
                if kind == _FORMAT_DESCRIPTION:
                    return int(moment) or None
        except pymysql.MySQLError as error:
            raise _query_error("COM_BINLOG_DUMP", error) from error
        return None


def connect(login: Login, *, read_timeout: float | None = None) -> Session:
    """Open a session.

    ``read_timeout`` (seconds) bounds the wait for each answer; without it a statement may wait for ever.

    Raises ServerUnreachableError, LoginRefusedError, or ReplicaBackupError for an unusable option file.
    """
    options: dict[str, t.Any] = {
        "charset": "utf8mb4",
        # Status columns quote statements, and those hold any byte: PyMySQL would raise for the first that is no UTF-8.
        "use_unicode": False,
        "autocommit": True,
        "cursorclass": pymysql.cursors.DictCursor,
        "connect_timeout": login.connect_timeout,
    }
    if read_timeout is not None:
        options["read_timeout"] = max(1, int(read_timeout))
    config_file = os.path.expanduser(login.config_file) if login.config_file else None
    if config_file and os.path.exists(config_file):
        options["read_default_file"] = config_file
    if login.user is not None:
        options["user"] = login.user
    if login.password is not None:
        options["password"] = login.password
    if login.unix_socket:
        options["unix_socket"] = login.unix_socket
    else:
        options["host"] = login.host
        options["port"] = login.port
    if login.ca_cert:
        options["ssl_ca"] = login.ca_cert
    if login.client_cert:
        options["ssl_cert"] = login.client_cert
    if login.client_key:
        options["ssl_key"] = login.client_key
    if login.check_hostname is not None and (login.ca_cert or login.client_cert):
        options["ssl_verify_identity"] = login.check_hostname
    try:
        connection = pymysql.connect(**options)
        # The one kind of number whose converter takes no bytes.
        connection.decoders[pymysql.constants.FIELD_TYPE.NEWDECIMAL] = _decimal
        return Session(connection)
    except pymysql.MySQLError as error:
        code = _code(error)
        refused = code in _REFUSED_LOGIN
        failure = LoginRefusedError if refused else ServerUnreachableError
        raise failure(
            f"Cannot log in to the server as {login.where()}",
            found=_message(error),
            expected="a running server that accepts this login",
            error_code=code,
            server_answers=refused,
        ) from error
    except Exception as error:  # configparser errors, unreadable key files: all are bad input
        raise ReplicaBackupError(
            f"The login options cannot be used for {login.where()}",
            found=f"{type(error).__name__}: {error}",
            expected="an option file with a [client] section and no !include lines, and readable key files",
            server_state="not asked, for nobody could log in",
            next_command="correct the login variables (config_file, ca_cert, client_cert, client_key), then try again",
        ) from error


def server_answers(login: Login) -> bool:
    """True when a server answers at the address, whatever it thinks of the login."""
    try:
        connect(replace(login, connect_timeout=min(login.connect_timeout, 5)), read_timeout=5).close()
    except LoginRefusedError:
        return True
    except ServerUnreachableError:
        return False
    return True


@dataclass(frozen=True)
class Identity:
    """Which server this is. ``family`` is "mysql" or "mariadb"."""

    family: str
    version: tuple[int, int, int]
    version_text: str


def identify(session: Session) -> Identity:
    """Family and version from ``SELECT VERSION()``; MariaDB's protocol prefix ``5.5.5-`` is dropped."""
    rows = session.query("SELECT VERSION() AS version, @@version_comment AS comment")
    return parse_identity(str(rows[0]["version"]), str(rows[0]["comment"]))


def parse_identity(version_text: str, comment: str = "") -> Identity:
    text = re.sub(r"\A5\.5\.5-(?=\d)", "", version_text)
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    if not match:
        raise ReplicaBackupError("The server's version is not understood", found=version_text, expected="like 8.4.3")
    family = "mariadb" if "mariadb" in f"{version_text} {comment}".lower() else "mysql"
    return Identity(family, (int(match[1]), int(match[2]), int(match[3])), version_text)


def _decimal(value: t.Any) -> decimal.Decimal:
    return decimal.Decimal(value.decode("ascii"))


def _text(value: t.Any) -> t.Any:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "surrogateescape")
    return value


def _code(error: pymysql.MySQLError) -> int:
    return int(error.args[0]) if error.args and isinstance(error.args[0], int) else 0


def _message(error: pymysql.MySQLError) -> str:
    return f"{_code(error)} {error.args[1] if len(error.args) > 1 else error}"


def _query_error(sql: str, error: pymysql.MySQLError) -> QueryError:
    return QueryError(f"The server refused '{sql.split(' %')[0][:120]}'", _code(error), found=_message(error))
