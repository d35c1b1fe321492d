# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real MariaDB server on scratch directories, for tests that need its process and its files."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pymysql
import pytest

SERVER = shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
needs_server = pytest.mark.skipif(SERVER is None, reason="no mariadbd on this machine")


def _user_option() -> list[str]:
    return ["--user=mysql"] if os.geteuid() == 0 else []


class RealServer:
    """One data directory and at most one server on it. Everything is removed in the end."""

    def __init__(self, template: Path | None = None) -> None:
        # Not below pytest's own directory, which the server's account may not enter. Short, for the socket's sake.
        self.base = Path(tempfile.mkdtemp(prefix="rb-unit-", dir="/tmp"))
        self.base.chmod(0o755)
        self.datadir = self.base / "data"
        self.socket = self.base / "s"
        self.pid_file = self.base / "pid"
        self.error_log = self.base / "error.log"
        self._children: list[subprocess.Popen[bytes]] = []
        if template is None:
            self._own(self.base)
            subprocess.run(
                [
                    *("mariadb-install-db", "--no-defaults", *_user_option(), f"--datadir={self.datadir}"),
                    *("--auth-root-authentication-method=normal", "--skip-test-db"),
                ],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        else:
            subprocess.run(["cp", "-a", str(template), str(self.datadir)], check=True)
            self._own(self.base)

    @staticmethod
    def _own(path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, "mysql", "mysql")

    def arguments(self, *extra: str) -> list[str]:
        return [
            *("--no-defaults", *_user_option(), f"--datadir={self.datadir}", f"--socket={self.socket}"),
            *(f"--pid-file={self.pid_file}", f"--log-error={self.error_log}", "--skip-networking", "--server-id=1"),
            *("--log-bin=bin", "--innodb-buffer-pool-size=8M", "--key-buffer-size=1M", *extra),
        ]

    def start(self, *extra: str, command: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [*(command or [str(SERVER)]), *self.arguments(*extra)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._children.append(child)
        self.wait_ready()
        return child

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self.execute("SELECT 1")
                return
            except pymysql.Error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _connect(self) -> pymysql.connections.Connection[pymysql.cursors.Cursor]:
        return pymysql.connect(unix_socket=str(self.socket), user="root", autocommit=True)

    def execute(self, *statements: str) -> None:
        with contextlib.closing(self._connect()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def variables(self) -> dict[str, str]:
        with contextlib.closing(self._connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL VARIABLES")
            return {str(name).lower(): str(value) for name, value in cursor.fetchall()}

    def fill(self) -> None:
        """Leave committed changes that are in the redo log and, most likely, nowhere else."""
        self.execute(
            "CREATE DATABASE IF NOT EXISTS x",
            "CREATE TABLE IF NOT EXISTS x.t (a INT AUTO_INCREMENT PRIMARY KEY, b TEXT)",
            *["INSERT INTO x.t (b) VALUES (REPEAT('x', 1000))"] * 5,
        )

    def shutdown(self) -> None:
        self.execute("SHUTDOWN")

    def pids(self) -> list[int]:
        """Return every process that works on the data directory or was started for it."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and os.fsencode(self.base) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def close(self) -> None:
        for _attempt in range(50):
            # mysqld_safe first, in the order of their numbers, or it would start the server again.
            pids = self.pids()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for child in self._children:
                child.poll()
            if not pids:
                break
            time.sleep(0.05)
        shutil.rmtree(self.base, ignore_errors=True)


@contextlib.contextmanager
def template_datadir() -> Iterator[Path]:
    """Give a fresh data directory to copy from."""
    server = RealServer()
    try:
        yield server.datadir
    finally:
        server.close()
