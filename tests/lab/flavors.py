# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server products that the lab can run, and what each calls things.

On purpose independent of the collection's own dialect table: what is under test must not be its own yardstick.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
import typing as t
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.lab import scratch
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import Account

Row = dict[str, t.Any]
Query = t.Callable[..., list[Row]]

_SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


class MissingProgram(Exception):
    """A program that the lab needs is not installed."""


def program(*names: str) -> Path:
    """Return the first of these programs that is installed; an ordinary user's PATH often lacks the sbin folders."""
    for name in names:
        found = shutil.which(name, path=_SYSTEM_PATH)
        if found:
            return Path(found)
    raise MissingProgram(f"none of {', '.join(names)} is installed; 'make setup' as root installs it")


@dataclass(frozen=True)
class ChannelState:
    """How one replica stands, in the same words for every product."""

    io_running: bool
    applier_running: bool
    error: str
    seconds_behind: int | None

    @property
    def replicating(self) -> bool:
        return self.io_running and self.applier_running and not self.error


class Flavor(t.Protocol):
    """One server product: its programs, its settings and its statements."""

    @property
    def name(self) -> str: ...

    @property
    def family(self) -> str: ...

    @property
    def server(self) -> Path: ...

    @property
    def environment(self) -> Mapping[str, str]: ...

    @property
    def settings(self) -> Mapping[str, str]: ...

    def initialise(self, datadir: Path, account: Account) -> None:
        """Fill an empty data directory with the system tables."""

    def follow(self, query: Query, *, host: str, port: int, user: str, password: str) -> None:
        """Make a fresh server a replica of that source, by GTID, and start it."""

    def start_replication(self, query: Query) -> None: ...

    def stop_replication(self, query: Query) -> None: ...

    def forget_history(self, query: Query) -> None:
        """Empty the binary logs and the GTID state of a fresh server."""

    def position(self, query: Query) -> str:
        """Return, on a source, the GTID position of everything written so far."""

    def wait_for(self, query: Query, position: str, timeout: float) -> bool:
        """Wait, on a replica, until that position is applied; False when the time is over."""

    def channel(self, query: Query) -> ChannelState | None:
        """Return the state of the only channel, or None on a server that is no replica."""


class _OldWords:
    """Statements that MariaDB and MySQL 5.6 share."""

    def start_replication(self, query: Query) -> None:
        query("START SLAVE")

    def stop_replication(self, query: Query) -> None:
        query("STOP SLAVE")

    def channel(self, query: Query) -> ChannelState | None:
        rows = query("SHOW SLAVE STATUS")
        if not rows:
            return None
        row = rows[0]
        return ChannelState(
            io_running=row["Slave_IO_Running"] == "Yes",
            applier_running=row["Slave_SQL_Running"] == "Yes",
            error=row["Last_IO_Error"] or row["Last_SQL_Error"],
            seconds_behind=row["Seconds_Behind_Master"],
        )


@dataclass(frozen=True)
class MariaDB(_OldWords):
    """MariaDB as the distribution packages it."""

    name: str = "mariadb"
    family: str = "mariadb"
    server: Path = field(default_factory=lambda: program("mariadbd"))
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(
        default_factory=lambda: {
            "gtid_strict_mode": "ON",
            "log_slave_updates": "ON",
            "slave_net_timeout": "10",
            # Small files: a scratch server is made, copied and archived over and over.
            "innodb_buffer_pool_size": "32M",
            "innodb_log_file_size": "16M",
            "loose_innodb_log_file_buffering": "ON",
        }
    )

    def initialise(self, datadir: Path, account: Account) -> None:
        command = [
            str(program("mariadb-install-db", "mysql_install_db")),
            "--no-defaults",
            f"--datadir={datadir}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            "--force",  # whether or not this machine can look up its own name
            "--innodb-log-file-size=16M",
        ]
        # Not the shared /tmp: a server that starts removes every "#sql" file it finds in its tmpdir.
        temporary = Path(tempfile.mkdtemp(dir=datadir.parent))
        if os.geteuid() == 0:
            os.chown(temporary, account.uid, account.gid)
        command.append(f"--tmpdir={temporary}")
        if os.geteuid() == 0:
            command.append(f"--user={account.name}")
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        shutil.rmtree(temporary)
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed ({done.returncode}):\n{done.stdout}{done.stderr}")

    def follow(self, query: Query, *, host: str, port: int, user: str, password: str) -> None:
        query(
            "CHANGE MASTER TO MASTER_HOST=%s, MASTER_PORT=%s, MASTER_USER=%s, MASTER_PASSWORD=%s,"
            " MASTER_CONNECT_RETRY=1, MASTER_USE_GTID=slave_pos",
            (host, port, user, password),
        )
        self.start_replication(query)

    def forget_history(self, query: Query) -> None:
        query("RESET MASTER")
        query("SET GLOBAL gtid_slave_pos = ''")

    def position(self, query: Query) -> str:
        return str(query("SELECT @@GLOBAL.gtid_binlog_pos AS position")[0]["position"])

    def wait_for(self, query: Query, position: str, timeout: float) -> bool:
        return bool(query("SELECT MASTER_GTID_WAIT(%s, %s) AS late", (position, timeout))[0]["late"] == 0)


@functools.cache
def _mysql56_home() -> Path:
    """Where the server lies: in the checkout, or in a copy where its account can reach it (root's home is closed)."""
    packed = scratch.CHECKOUT / ".cache" / "mysql56" / "server"
    if not (packed / "mysqld").exists():
        raise MissingProgram(f"no {packed}/mysqld; 'make setup-tests' brings it")
    if scratch.may_pass(packed, scratch.server_account()):
        return packed
    root = scratch.create(scratch.CHECKOUT / ".test" / "lab" / f"mysql56-{os.getpid()}")
    atexit.register(scratch.remove, root)
    subprocess.run(["cp", "-a", str(packed), str(root)], check=True)
    return root / "server"


@dataclass(frozen=True)
class MySQL56(_OldWords):
    """MySQL 5.6.24 from the npm registry (``tests/lab/mysql56.sh``): old words, FILE or TABLE repositories."""

    name: str = "mysql56"
    family: str = "mysql"
    home: Path = field(default_factory=_mysql56_home)
    repositories: str = "FILE"

    @property
    def server(self) -> Path:
        return self.home / "mysqld"

    @property
    def environment(self) -> Mapping[str, str]:
        return {"LD_LIBRARY_PATH": str(self.home)}

    @property
    def settings(self) -> Mapping[str, str]:
        return {
            "basedir": str(self.home),
            "lc_messages_dir": str(self.home / "share"),
            "log_slave_updates": "ON",
            "slave_net_timeout": "10",
            "master_info_repository": self.repositories,
            "relay_log_info_repository": self.repositories,
            "innodb_buffer_pool_size": "32M",
            "innodb_log_file_size": "8M",
            "binlog_format": "MIXED",
            "performance_schema": "OFF",
            "character_set_server": "utf8",
        }

    def initialise(self, datadir: Path, account: Account) -> None:
        subprocess.run(["cp", "-R", f"{self.home}/data/mysql/.", str(datadir)], check=True)
        # The package's own redo logs have another size, and its identity is everybody's.
        for name in ("auto.cnf", "ib_logfile0", "ib_logfile1"):
            (datadir / name).unlink(missing_ok=True)
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", f"{account.uid}:{account.gid}", str(datadir)], check=True)

    def follow(self, query: Query, *, host: str, port: int, user: str, password: str) -> None:
        query(
            "CHANGE MASTER TO MASTER_HOST=%s, MASTER_PORT=%s, MASTER_USER=%s, MASTER_PASSWORD=%s,"
            " MASTER_CONNECT_RETRY=1",
            (host, port, user, password),
        )
        self.start_replication(query)

    def forget_history(self, query: Query) -> None:
        query("RESET MASTER")

    def position(self, query: Query) -> str:
        row = query("SHOW MASTER STATUS")[0]
        return f"{row['File']}:{row['Position']}"

    def wait_for(self, query: Query, position: str, timeout: float) -> bool:
        name, offset = position.split(":")
        waited = query("SELECT MASTER_POS_WAIT(%s, %s, %s) AS events", (name, int(offset), timeout))[0]["events"]
        return waited is not None and waited >= 0
