# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real servers to measure with: a replica whose data grow as asked, and how long it does not answer."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pymysql

from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import data
from ansible_collections.mysql_ops.replica_backup.tests.lab import disks, processes, scratch
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import LabError, Server, Topology

# Two rows fill a page; and what compresses well is as much as in data.py.
_ROW = 7500
_POOL = 2048
# A file of a table that holds nothing, in bytes.
_EMPTY_TABLE = 64 * 1024
_BIG_SHARES = (0.06, 0.14, 0.20, 0.60)
# While data are loaded nothing has to outlive a crash.
_LOADING = (
    "--innodb-flush-method=nosync",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--sync-frm=0",
    "--skip-slave-start",
)
_SETTINGS = {"innodb_buffer_pool_size": "512M", "innodb_log_file_size": "96M", "innodb_flush_method": "O_DIRECT"}


@contextlib.contextmanager
def disk(base: Path, mib: int, kind: str = "xfs") -> Iterator[Path]:
    """A file system on a loop device below ``base``, whose image is not cached beside its files."""
    with disks.mounted(kind, base / "disk", mib=mib, options="noatime") as mount_point:
        found = subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", str(mount_point)], check=True, capture_output=True, text=True
        )
        subprocess.run(["losetup", "--direct-io=on", found.stdout.strip()], check=True)
        yield mount_point


@contextlib.contextmanager
def scratch_directory(name: str, parent: Path | None = None) -> Iterator[Path]:
    """A directory for one run, which ``make clean`` finds when the run is killed."""
    wanted = (parent or scratch.CHECKOUT / ".test" / "lab") / f"{name}-{os.getpid()}"
    try:
        yield scratch.create(wanted)
    finally:
        # It may be a link to where the servers can reach it.
        scratch.remove(wanted)


@contextlib.contextmanager
def replica(root: Path, **settings: str) -> Iterator[tuple[Topology, Server]]:
    """A source that is nearly empty, and a replica of it that is there to be filled."""
    with Topology(root / "servers", replicas=1, replica_settings={**_SETTINGS, **settings}) as topology:
        yield topology, topology.replicas[0]


class Filled:
    """The data of one server, grown as asked: half in many small tables, half in four large ones."""

    def __init__(self, server: Server, seed: int = 1) -> None:
        self._server = server
        self._rng = random.Random(seed)
        self._words = data.make_words(self._rng)
        self._part = 0
        self.mib = 0

    def grow(self, mib: int) -> None:
        """Add tables until there are about ``mib`` MiB; the server is restarted for it, and runs as before after."""
        server = self._server
        server.stop()
        server.start(*_LOADING)
        connection = pymysql.connect(unix_socket=str(server.socket), user="root", autocommit=True, charset="utf8mb4")
        with contextlib.closing(connection), connection.cursor() as cursor:
            for statement in ("sql_log_bin = 0", "unique_checks = 0", "foreign_key_checks = 0"):
                cursor.execute(f"SET SESSION {statement}")
            self._fill_pool(cursor)
            self._part += 1
            self._add((mib - self.mib) * data.MIB, cursor)
        self.mib = mib
        server.stop(timeout=600)
        server.start()
        server.flavor.start_replication(server.query)

    def _fill_pool(self, cursor: pymysql.cursors.Cursor) -> None:
        cursor.execute("CREATE DATABASE IF NOT EXISTS bench")
        cursor.execute("CREATE TABLE IF NOT EXISTS bench.pool (id INT PRIMARY KEY, body VARBINARY(8000) NOT NULL)")
        cursor.execute("SELECT COUNT(*) FROM bench.pool")
        (count,) = cursor.fetchone() or (0,)
        if count:
            return
        rows = [(number, data.random_page(self._rng, self._words)[:_ROW]) for number in range(_POOL)]
        cursor.executemany("INSERT INTO bench.pool VALUES (%s, %s)", rows)

    def _add(self, size: int, cursor: pymysql.cursors.Cursor) -> None:
        for number, share in enumerate(_BIG_SHARES):
            self._table(cursor, f"bench.big_{self._part}_{number}", int(size / 2 * share))
        left, number = size // 2, 0
        while left > 0:
            schema = f"bench{number % 10}"
            if number < 10:
                cursor.execute(f"CREATE DATABASE IF NOT EXISTS {schema}")
            length = self._rng.choice((64 * 1024, 96 * 1024, 112 * 1024, 2 * data.MIB))
            self._table(cursor, f"{schema}.t_{self._part}_{number}", length)
            left -= length
            number += 1

    def _table(self, cursor: pymysql.cursors.Cursor, name: str, size: int) -> None:
        cursor.execute(f"CREATE TABLE {name} (id INT PRIMARY KEY, body VARBINARY(8000) NOT NULL) ENGINE=InnoDB")
        rows = (size - _EMPTY_TABLE) // data.PAGE * 2
        if rows > 0:
            # Another place in the pool for every table, so that no two are the same.
            start = self._rng.randrange(_POOL)
            cursor.execute(
                f"INSERT INTO {name} SELECT STRAIGHT_JOIN seq, body FROM bench.seq_1_to_{rows}"
                f" JOIN bench.pool ON pool.id = (seq * 7919 + {start}) % {_POOL}"
            )

    def big_tables(self) -> list[str]:
        return [f"bench.big_{part}_{number}" for part in range(1, self._part + 1) for number in range(len(_BIG_SHARES))]


def change(socket: str, percent: float) -> None:
    """Change a row in ``percent`` of all pages that rows are in, spread evenly; nothing of it is in the binary log."""
    every = round(2 * 100 / percent)
    connection = pymysql.connect(unix_socket=socket, user="root", autocommit=True)
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_log_bin = 0")
        cursor.execute(
            "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables"
            " WHERE table_schema LIKE 'bench%' AND table_name <> 'pool'"
        )
        for (name,) in cursor.fetchall():
            # In place, as long as before.
            cursor.execute(f"UPDATE {name} SET body = REVERSE(body) WHERE id % {every} = 0")


def evict(directory: Path) -> None:
    """Out of the page cache, where the files of a server that reads with O_DIRECT are not either."""
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def settle(server: Server, timeout: float = 300) -> None:
    """Wait until no page is dirty, as on a server that was idle for a while. The setting is put back."""
    before = server.query("SELECT @@innodb_max_dirty_pages_pct AS p, @@innodb_max_dirty_pages_pct_lwm AS l")[0]
    server.query("SET GLOBAL innodb_max_dirty_pages_pct_lwm = 0")
    server.query("SET GLOBAL innodb_max_dirty_pages_pct = 0")
    deadline = time.monotonic() + timeout
    try:
        while int(server.query("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'")[0]["Value"]) > 0:
            if time.monotonic() > deadline:
                raise LabError(f"{server.name} still has dirty pages after {timeout} s")
            time.sleep(0.1)
    finally:
        server.query(f"SET GLOBAL innodb_max_dirty_pages_pct = {before['p']}")
        server.query(f"SET GLOBAL innodb_max_dirty_pages_pct_lwm = {before['l']}")


def rest(server: Server, seconds: float = 62) -> None:
    """Wait until the tables were not written to for so long, as those of a server that was idle for a while."""
    while True:
        newest = max((path.stat().st_mtime for path in server.datadir.glob("bench*/*")), default=0.0)
        left = newest + seconds - time.time()
        if left <= 0:
            return
        time.sleep(left)


class Absence(threading.Thread):
    """Asks a server for one row again and again; ``seconds`` is the longest time without an answer."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._socket = str(server.socket)
        self._ended = threading.Event()
        self.seconds = 0.0

    def __enter__(self) -> Absence:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        # One more answer, when all is done.
        time.sleep(0.1)
        self._ended.set()
        self.join()

    def run(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(0.003):
            try:
                self._ask()
            except (pymysql.Error, OSError):
                continue
            now = time.monotonic()
            self.seconds = max(self.seconds, now - last)
            last = now

    def _ask(self) -> None:
        connection = pymysql.connect(unix_socket=self._socket, user="root", connect_timeout=5, read_timeout=5)
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT 1")


def restart(server: Server, between: t.Callable[[], object] = lambda: None, timeout: float = 300) -> None:
    """Stop a server and start it with nothing but ``between`` in the middle: what nobody can be quicker than."""
    pids = server.pids()
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    # Not is_running(), which looks through all processes of the machine.
    while any(processes.is_running(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise LabError(f"{server.name} is still running after {timeout} s:\n{server.last_words()}")
        time.sleep(0.002)
    between()
    server.start(timeout=timeout)
