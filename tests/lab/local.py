# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A source and its replicas as plain processes of this machine, each with its own directories and port."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import typing as t
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pymysql
import pymysql.cursors

from ansible_collections.mysql_ops.replica_backup.tests.lab import processes, scratch
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import ChannelState, Flavor, MariaDB, Row

REPLICATION_USER = "repl"
REPLICATION_PASSWORD = "not-secret"


class LabError(Exception):
    """The lab itself could not do what a test asked of it."""


def free_port() -> int:
    """Return a port of 127.0.0.1 nobody listens on, below the range that outgoing connections are given."""
    for port in random.sample(range(20000, 32000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise LabError("no free port between 20000 and 32000")


class Server:
    """One server below ``ROOT/NAME``: its own data directory, logs, port, socket and configuration file.

    :arg separate_logs: binary and relay logs in directories of their own instead of the data directory.
    :arg settings: further lines of the configuration file; they win over the flavor's.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        flavor: Flavor,
        *,
        server_id: int,
        separate_logs: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.flavor = flavor
        self.server_id = server_id
        self.port = free_port()
        self.directory = root / name
        self.datadir = self.directory / "data"
        self.binlog_directory = self.directory / "binlog" if separate_logs else self.datadir
        self.relay_log_directory = self.directory / "relay" if separate_logs else self.datadir
        self.tmpdir = self.directory / "tmp"
        self.socket = self.directory / "mysqld.sock"
        self.pid_file = self.directory / "mysqld.pid"
        self.error_log = self.directory / "error.log"
        self.config = self.directory / "my.cnf"
        self.extra_settings = dict(settings or {})
        self._account = scratch.server_account()

    # -- files ----------------------------------------------------------------------------------------

    def create(self, template: Path | None = None) -> None:
        """Make the directories, the configuration file and, from ``template`` if given, the data directory."""
        self.directory.mkdir()
        for directory in (self.datadir, self.binlog_directory, self.relay_log_directory, self.tmpdir):
            directory.mkdir(exist_ok=True)
            self._give(directory)
        self._give(self.directory)
        if template is None:
            self.flavor.initialise(self.datadir, self._account)
        else:
            # cp keeps holes and owners, and shares the blocks where the file system can.
            subprocess.run(["cp", "-a", "--reflink=auto", f"{template}/.", str(self.datadir)], check=True)
        self.write_config()

    def settings(self) -> dict[str, str]:
        """Return every setting of the configuration file."""
        return {
            "datadir": str(self.datadir),
            # Not the shared /tmp: a server that starts removes every "#sql" file it finds in its tmpdir.
            "tmpdir": str(self.tmpdir),
            "socket": str(self.socket),
            "pid_file": str(self.pid_file),
            "log_error": str(self.error_log),
            "port": str(self.port),
            "bind_address": "127.0.0.1",
            "skip_name_resolve": "ON",
            "server_id": str(self.server_id),
            "report_host": self.name,
            "log_bin": str(self.binlog_directory / "binlog"),
            "relay_log": str(self.relay_log_directory / "relaylog"),
            **self.flavor.settings,
            **self.extra_settings,
        }

    def write_config(self) -> None:
        """Write the configuration file anew, after a change of ``extra_settings`` say."""
        lines = ["[mysqld]", *(f"{name} = {value}" for name, value in self.settings().items())]
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _give(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, self._account.uid, self._account.gid)

    # -- process --------------------------------------------------------------------------------------

    @property
    def command(self) -> list[str]:
        return [str(self.flavor.server), f"--defaults-file={self.config}"]

    def pids(self) -> list[int]:
        """Return the server processes of this configuration file, whoever started them."""
        return [pid for pid in processes.all_pids() if self.command[1] in processes.arguments(pid)[1:2]]

    def is_running(self) -> bool:
        return bool(self.pids())

    def launch(self, *arguments: str) -> None:
        """Start the server and return at once."""
        # setsid --fork: the server becomes a child of init, as it would be in production, and leaves no
        # zombie behind when something else than this process shuts it down.
        subprocess.run(
            ["setsid", "--fork", *self.command, *arguments],
            check=True,
            cwd=self.datadir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self.flavor.environment},
            umask=0o027,
            **self._as_account(),
        )

    def _as_account(self) -> dict[str, t.Any]:
        if os.geteuid() != 0:
            return {}
        return {"user": self._account.uid, "group": self._account.gid, "extra_groups": []}

    def start(self, *arguments: str, timeout: float = 60) -> None:
        """Start the server and wait until it answers."""
        self.launch(*arguments)
        self.wait_ready(timeout)

    def wait_ready(self, timeout: float = 60) -> None:
        """Wait until the server answers; fail with its own last words when it ends or the time is over."""
        deadline = time.monotonic() + timeout
        seen = False
        while time.monotonic() < deadline:
            with contextlib.suppress(pymysql.err.OperationalError):
                self.query("SELECT 1")
                return
            alive = self.is_running()
            if seen and not alive:
                break
            seen = seen or alive
            time.sleep(0.05)
        raise LabError(f"{self.name} does not answer:\n{self.last_words()}")

    def stop(self, timeout: float = 60) -> None:
        """Shut the server down cleanly and wait until it is gone."""
        if not self.is_running():
            return
        # The way that every version knows: SIGTERM is a clean shutdown.
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self.wait_gone(timeout)

    def wait_gone(self, timeout: float = 60) -> None:
        """Wait until no process of this server is left."""
        deadline = time.monotonic() + timeout
        while self.is_running():
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} is still running after {timeout} s:\n{self.last_words()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End the server as a crash would."""
        processes.end(self.pids())

    def last_words(self, lines: int = 15) -> str:
        """Return the end of the error log."""
        try:
            return "\n".join(self.error_log.read_text(errors="replace").splitlines()[-lines:])
        except OSError as error:
            return str(error)

    # -- statements -----------------------------------------------------------------------------------

    def query(self, statement: str, arguments: Sequence[t.Any] | None = None) -> list[Row]:
        """Run one statement as root over the socket and return its rows."""
        connection = pymysql.connect(
            unix_socket=str(self.socket),
            user="root",
            autocommit=True,
            charset="utf8mb4",
            cursorclass=pymysql.cursors.DictCursor,
        )
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(statement, arguments)
            return [dict(row) for row in cursor.fetchall()]

    def checksums(self) -> dict[str, int | None]:
        """Return CHECKSUM TABLE of every table that is not the server's own."""
        tables = self.query(
            "SELECT table_schema AS d, table_name AS n FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
            " AND table_schema NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema') ORDER BY 1, 2"
        )
        found = {}
        for table in tables:
            name = f"{table['d']}.{table['n']}"
            quoted = ".".join("`" + table[part].replace("`", "``") + "`" for part in ("d", "n"))
            found[name] = self.query(f"CHECKSUM TABLE {quoted}")[0]["Checksum"]
        return found

    def channel(self) -> ChannelState | None:
        """Return the state of the only replication channel, None when there is none."""
        return self.flavor.channel(self.query)


class Load:
    """A process that writes to a source until it is stopped."""

    def __init__(self, server: Server, *, pause: float = 0.02) -> None:
        self._tally = server.directory / "load.json"
        self._log = server.directory / "load.log"
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    str(Path(__file__).with_name("load.py")),
                    f"--socket={server.socket}",
                    f"--tally={self._tally}",
                    f"--pause={pause}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while self.committed == 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise LabError(f"the write load did not start:\n{self._log.read_text(encoding='utf-8')}")
            time.sleep(0.05)

    @property
    def committed(self) -> int:
        """Transactions that the source confirmed, as of half a second ago."""
        try:
            return int(json.loads(self._tally.read_text(encoding="utf-8"))["committed"])
        except (OSError, ValueError):
            return 0

    def stop(self) -> int:
        """Stop writing and return how many transactions were committed; an error while writing is an error here."""
        self._process.terminate()
        status = self._process.wait(timeout=30)
        if status != 0:
            raise LabError(f"the write load failed ({status}):\n{self._log.read_text(encoding='utf-8')}")
        return self.committed


class Topology:
    """One source and its replicas below one scratch directory. Use as a context manager."""

    def __init__(
        self,
        root: Path,
        *,
        replicas: int = 2,
        flavor: Flavor | None = None,
        separate_logs: Sequence[bool] = (),
        settings: Mapping[str, str] | None = None,
        replica_settings: Mapping[str, str] | None = None,
        region: Path | None = None,
    ) -> None:
        self.flavor: Flavor = flavor or MariaDB()
        self.wanted = root
        self.root = scratch.create(root, region=region)
        self._next_id = 1
        self.source = self._make("source", settings=settings)
        self.replicas = [
            self._make(
                f"replica{number}",
                separate_logs=bool(separate_logs[number - 1 : number] and separate_logs[number - 1]),
                settings={"read_only": "ON", **(settings or {}), **(replica_settings or {})},
            )
            for number in range(1, replicas + 1)
        ]

    def _make(self, name: str, *, separate_logs: bool = False, settings: Mapping[str, str] | None = None) -> Server:
        server = Server(
            self.root, name, self.flavor, server_id=self._next_id, separate_logs=separate_logs, settings=settings
        )
        self._next_id += 1
        return server

    def __enter__(self) -> Topology:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def servers(self) -> list[Server]:
        return [self.source, *self.replicas]

    def add(self, name: str, *, separate_logs: bool = False, settings: Mapping[str, str] | None = None) -> Server:
        """Make one more server, neither started nor replicating."""
        server = self._make(name, separate_logs=separate_logs, settings=settings)
        server.create(self._template())
        return server

    def start(self) -> None:
        """Create every server, start it and let the replicas follow the source."""
        template = self._template()
        for server in self.servers:
            server.create(template)
            server.launch()
        for server in self.servers:
            server.wait_ready()
        self.flavor.forget_history(self.source.query)
        self.source.query(f"CREATE USER {REPLICATION_USER}@'127.0.0.1' IDENTIFIED BY '{REPLICATION_PASSWORD}'")
        self.source.query(f"GRANT REPLICATION SLAVE ON *.* TO {REPLICATION_USER}@'127.0.0.1'")
        for replica in self.replicas:
            self.flavor.forget_history(replica.query)
            self.follow(replica)
        self.wait_caught_up()

    def follow(self, replica: Server) -> None:
        """Make a fresh server a replica of the source."""
        self.flavor.follow(
            replica.query,
            host="127.0.0.1",
            port=self.source.port,
            user=REPLICATION_USER,
            password=REPLICATION_PASSWORD,
        )

    def _template(self) -> Path:
        """Return a data directory to copy from; made once per topology."""
        template = self.root / "template"
        if not template.exists():
            account = scratch.server_account()
            template.mkdir()
            if os.geteuid() == 0:
                os.chown(template, account.uid, account.gid)
            self.flavor.initialise(template, account)
        return template

    def load(self, *, pause: float = 0.02) -> contextlib.AbstractContextManager[Load]:
        """Write to the source for as long as the context lasts."""

        @contextlib.contextmanager
        def running() -> Iterator[Load]:
            load = Load(self.source, pause=pause)
            try:
                yield load
            finally:
                load.stop()

        return running()

    def wait_caught_up(self, *replicas: Server, timeout: float = 60) -> None:
        """Wait until the replicas (default: all) applied what the source has written so far."""
        position = self.flavor.position(self.source.query)
        for replica in replicas or self.replicas:
            if not self.flavor.wait_for(replica.query, position, timeout):
                raise LabError(f"{replica.name} did not reach {position} in {timeout} s: {replica.channel()}")

    def differences(self, *replicas: Server) -> dict[str, dict[str, t.Any]]:
        """Return, per replica, the tables whose checksum differs from the source's; call with no writes under way."""
        self.wait_caught_up(*replicas)
        expected = self.source.checksums()
        found = {}
        for replica in replicas or self.replicas:
            actual = replica.checksums()
            found[replica.name] = {
                name: (expected.get(name, "absent"), actual.get(name, "absent"))
                for name in {*expected, *actual}
                if name not in expected or name not in actual or expected[name] != actual[name]
            }
        return {name: tables for name, tables in found.items() if tables}

    def close(self) -> None:
        """End every process of the scratch directory, started by us or by others, and delete it."""
        scratch.remove(self.wanted)
