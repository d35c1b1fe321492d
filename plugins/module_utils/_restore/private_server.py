# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that only we can reach, on a copy that is thrown away: no network, no replication, no accounts.

It runs with ``--skip-grant-tables``: the accounts are those of the backup and nobody knows their passwords here. CHECK
TABLE, SHOW REPLICA STATUS and START REPLICA work like that (seen on MariaDB 10.11, MySQL 5.6 and 9.7). It also keeps
plugins that were installed, events and, from MySQL 8.0, the network off by itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server_help
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import (
    Identity,
    Login,
    ServerUnreachableError,
    Session,
    connect,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints, find_start
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import scratch
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.mapping import Mapping

# Settings of the backed up server without which its files do not open, or do not say the same.
_AS_RECORDED = (
    "character_set_server",
    "collation_server",
    "enforce_gtid_consistency",
    "gtid_mode",
    "gtid_strict_mode",
    "innodb_checksum_algorithm",
    "innodb_log_file_size",
    "innodb_log_files_in_group",
    "innodb_page_size",
    "innodb_redo_log_capacity",
    "innodb_undo_tablespaces",
    "log_replica_updates",
    "log_slave_updates",
    "lower_case_table_names",
    "master_info_repository",
    "relay_log_info_repository",
    "replica_parallel_workers",
    "slave_parallel_workers",
)
# Nothing that runs by itself, nothing that writes outside of the scratch directory; only where the binary knows it.
_QUIET = {
    "auto_generate_certs": "OFF",
    "event_scheduler": "OFF",
    "general_log": "OFF",
    "innodb_buffer_pool_dump_at_shutdown": "OFF",
    "innodb_buffer_pool_load_at_startup": "OFF",
    "innodb_fast_shutdown": "1",
    "innodb_flush_log_at_trx_commit": "0",
    "log_syslog": "OFF",
    "mysqlx": "OFF",
    # It takes more memory than all else that a private server needs.
    "performance_schema": "OFF",
    # Settings of the other host that SET PERSIST left in the data directory.
    "persisted_globals_load": "OFF",
    "relay_log_recovery": "OFF",
    "slow_query_log": "OFF",
    "sync_binlog": "0",
}
_MESSAGES = "errmsg.sys"
_POLL = 0.05
_LAST_LINES = 6
_TELLING = re.compile(r"\[ERROR\]|corrupt", re.IGNORECASE)


@dataclass(frozen=True)
class Binary:
    """A server program of this host. ``variables`` are the ones that it knows, with their built-in values."""

    exe: str
    identity: Identity
    variables: t.Mapping[str, str]
    environment: t.Mapping[str, str] = field(default_factory=dict)

    @property
    def dialect(self) -> Dialect:
        return Dialect(self.identity.family, self.identity.version)


def find_binary(path: str = "") -> Binary:
    """The server program at ``path``, or the only one of this host.

    Raises RefusedError when there is none, when there are several, or when it does not say what it is.
    """
    start = find_start(Hints(server_binary=path))
    said = _server_help.ask(start.exe, start.environment)
    if said is None or said.identity is None:
        raise RefusedError(
            f"{start.exe} does not say which server it is",
            found="no help text from --no-defaults --verbose --help",
            expected="a mysqld or mariadbd that runs on this host, with its libraries",
            next_command=f"run {start.exe} --no-defaults --verbose --help --user=mysql and see what is missing",
            rule="server_binary",
        )
    return Binary(start.exe, said.identity, said.variables, start.environment)


@dataclass(frozen=True)
class Extra:
    """What a drill may add. ``server_id`` replaces the recorded one; ``settings`` win over all of ours."""

    server_id: int = 0
    memory: int = 128 << 20
    settings: t.Mapping[str, str] = field(default_factory=dict)


def option_lines(binary: Binary, mapping: Mapping, directory: str, extra: Extra) -> dict[str, str | None]:
    """The private server's option file: names with underscores, None for an option without a value. Pure."""
    origin, target, known = mapping.origin, mapping.target, binary.variables
    lines: dict[str, str | None] = {
        "datadir": target.datadir,
        "socket": os.path.join(directory, scratch.SOCKET),
        "pid_file": os.path.join(directory, "server.pid"),
        "log_error": os.path.join(directory, "error.log"),
        "tmpdir": os.path.join(directory, "tmp"),
        "skip_networking": None,
        "skip_grant_tables": None,
        "skip_name_resolve": None,
        binary.dialect.skip_start_option[2:].replace("-", "_"): None,
        "server_id": str(extra.server_id or origin.server_id or 1),
        "innodb_buffer_pool_size": str(extra.memory),
        "max_connections": "20",
        "relay_log": target.relay_log_base,
        "relay_log_index": target.relay_log_index,
    }
    lines.update({name: value for name, value in _QUIET.items() if name in known})
    lines.update({name: origin.get(name) for name in _AS_RECORDED if name in known and origin.get(name)})
    places = {
        "innodb_log_group_home_dir": target.innodb_redo,
        "innodb_undo_directory": target.innodb_undo,
        "aria_log_dir_path": target.aria_log,
        "relay_log_info_file": target.applier_info,
        "master_info_file": target.connection_info,
        "replica_load_tmpdir": target.load_data,
    }
    if "replica_load_tmpdir" not in known:
        places["slave_load_tmpdir"] = target.load_data
    lines.update({name: value for name, value in places.items() if name in known})
    lines.update(_system_tablespace(mapping))
    if origin.get("innodb_doublewrite_dir") and "innodb_doublewrite_dir" in known:
        lines["innodb_doublewrite_dir"] = target.doublewrite
    if "innodb_directories" in known:
        lines["innodb_directories"] = ";".join(dict.fromkeys([*mapping.moves.values(), target.innodb_undo]))
    if target.binlog_base:
        lines.update(log_bin=target.binlog_base, log_bin_index=target.binlog_index)
    elif known.get("log_bin"):
        # This binary writes one unless it is told not to.
        lines["skip_log_bin"] = None
    lines.update(_messages(binary))
    lines.update(extra.settings)
    return lines


def _system_tablespace(mapping: Mapping) -> dict[str, str]:
    files = mapping.origin.get("innodb_data_file_path")
    if not files:
        return {"innodb_data_home_dir": mapping.target.innodb_home}
    parts = [part.strip() for part in files.split(";") if part.strip()]
    if not any(part.startswith("/") for part in parts):
        return {"innodb_data_home_dir": mapping.target.innodb_home, "innodb_data_file_path": files}
    # With an empty home every part has its own path (manual, "innodb_data_home_dir").
    moved = []
    for part in parts:
        name, colon, size = part.partition(":")
        path = fs.absolute(name, mapping.origin.layout.innodb_home)
        moved.append(f"{mapping.log('innodb_home', path)}{colon}{size}")
    return {"innodb_data_home_dir": "", "innodb_data_file_path": ";".join(moved)}


def _messages(binary: Binary) -> dict[str, str]:
    """Where the messages are, for a server from an archive that does not lie where it was built for."""
    built_in = fs.absolute(binary.variables.get("lc_messages_dir") or "share", binary.variables.get("basedir") or "/")
    if any(os.path.exists(os.path.join(built_in, *below, _MESSAGES)) for below in ((), ("english",))):
        return {}
    here = os.path.dirname(binary.exe)
    for base in (here, os.path.dirname(here)):
        for share in ("share", "share/mysql", "share/mariadb"):
            found = os.path.join(base, share)
            if os.path.exists(os.path.join(found, "english", _MESSAGES)):
                return {"basedir": base, "lc_messages_dir": found}
    return {}


class PrivateServer:
    """One server in one scratch directory. ``stop`` it in any case; the scratch directory ends what is left."""

    def __init__(self, binary: Binary, mapping: Mapping, directory: str, extra: Extra) -> None:
        self.binary = binary
        self.directory = directory
        self._account = scratch.server_account()
        self._process: subprocess.Popen[bytes] | None = None
        os.makedirs(os.path.join(directory, "tmp"), 0o700, exist_ok=True)
        # Some versions only append to a log that exists.
        open(self.error_log, "ab").close()
        lines = option_lines(binary, mapping, directory, extra)
        text = "[mysqld]\n" + "".join(
            f"{name}\n" if value is None else f"{name} = {_quoted(value)}\n" for name, value in lines.items()
        )
        with open(os.path.join(directory, scratch.OPTION_FILE), "wb") as handle:
            handle.write(fs.encode(text))

    @property
    def error_log(self) -> str:
        return os.path.join(self.directory, "error.log")

    @property
    def login(self) -> Login:
        # Without grant tables any name will do.
        return Login(user="root", unix_socket=os.path.join(self.directory, scratch.SOCKET), config_file=None)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float) -> None:
        """Start it and wait until it answers, at most ``timeout`` seconds.

        Raises ReplicaBackupError with the server's last words.
        """
        become: dict[str, t.Any] = {}
        if self._account is not None:
            become = {"user": self._account.uid, "group": self._account.gid, "extra_groups": []}
        keep = {name: self.binary.environment[name] for name in _KEEP if name in self.binary.environment}
        with open(os.path.join(self.directory, "output.log"), "ab") as output:
            try:
                self._process = subprocess.Popen(
                    list(map(fs.encode, scratch.command_of(self.binary.exe, self.directory))),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=fs.encode(self.directory),
                    env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", **keep},
                    # A Ctrl-C at the terminal is for us, who end the server then.
                    start_new_session=True,
                    **become,
                )
            except OSError as error:
                raise ReplicaBackupError(
                    "The private server could not be started", found=str(error), expected=f"{self.binary.exe} to run"
                ) from error
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(ServerUnreachableError):
                connect(self.login, read_timeout=timeout).close()
                return
            if not self.alive:
                status = self._process.returncode
                killed = ", killed, perhaps because there was no memory left" if status == -signal.SIGKILL else ""
                raise self._failed(f"it ended with status {status}{killed}")
            if time.monotonic() > deadline:
                raise self._failed(f"no answer within {timeout:g} s")
            time.sleep(_POLL)

    def _failed(self, what: str) -> ReplicaBackupError:
        return ReplicaBackupError(
            "The private server does not come up on the files of the set",
            found=f"{what}; its last words: {self.last_words()}",
            expected="a server that starts from the set as it is",
            next_command="run the drill again with keep, and look at error.log in the scratch directory",
        )

    def session(self, read_timeout: float) -> Session:
        """``read_timeout`` (seconds) bounds the wait for each answer."""
        return connect(self.login, read_timeout=read_timeout)

    def answers(self, timeout: float) -> bool:
        """Whether it still serves, after at most ``timeout`` seconds in which it may be ending itself."""
        deadline = time.monotonic() + timeout
        while self.alive:
            with contextlib.suppress(ReplicaBackupError):
                self.session(timeout).close()
                return True
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL)
        return False

    def stop(self, timeout: float) -> bool:
        """End it, cleanly if it does so within ``timeout`` seconds; returns whether it did."""
        process = self._process
        if process is None:
            return True
        clean = True
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                clean = False
        clean = clean and process.returncode == 0
        self._process = None
        return clean

    def last_words(self) -> str:
        """The end of what it logged, the errors first if there are any."""
        lines: list[str] = []
        for name in ("output.log", "error.log"):
            with contextlib.suppress(OSError), open(os.path.join(self.directory, name), "rb") as handle:
                handle.seek(max(0, os.path.getsize(handle.name) - 65536))
                lines += handle.read().decode("utf-8", "replace").splitlines()
        errors = [line for line in lines if _TELLING.search(line)]
        return " | ".join((errors or lines)[-_LAST_LINES:]) or "nothing"


_KEEP = ("LD_LIBRARY_PATH", "LD_PRELOAD")


def _quoted(value: str) -> str:
    """A value of an option file: between quotes, where only the backslash means something else than itself."""
    return '"' + value.replace("\\", "\\\\") + '"' if value else ""
