# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes to a source until told to stop (SIGTERM), and counts what the server confirmed.

Stands alone: needs Python 3.9 and PyMySQL, so that it also runs inside a container. Every transaction leaves
one row in the table ``journal``; statement and row format alternate, and one table is not transactional.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import time
import typing as t
from pathlib import Path

import pymysql
import pymysql.cursors

# Every statement names the database itself: {0}.
SCHEMA = (
    "CREATE DATABASE IF NOT EXISTS {0}",
    "CREATE TABLE IF NOT EXISTS {0}.journal (id BIGINT PRIMARY KEY AUTO_INCREMENT, writer VARCHAR(40) NOT NULL,"
    " number BIGINT NOT NULL, written DATETIME(6) NOT NULL, UNIQUE KEY (writer, number)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {0}.accounts (id INT PRIMARY KEY, balance BIGINT NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {0}.notes (id BIGINT PRIMARY KEY AUTO_INCREMENT, body MEDIUMBLOB) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS {0}.hits (page INT PRIMARY KEY, hits BIGINT NOT NULL) ENGINE=MyISAM",
)
ACCOUNTS = 200


class Tally:
    """What was written so far, kept in a file that others may read at any time."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._saved = 0.0
        self.committed = 0
        self.errors = 0

    def save(self, *, now: bool = False) -> None:
        if self._path is None or (not now and time.monotonic() - self._saved < 0.5):
            return
        self._saved = time.monotonic()
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({"committed": self.committed, "errors": self.errors}), encoding="utf-8")
        partial.replace(self._path)


class Writer:
    """One session that writes to one database."""

    def __init__(self, cursor: pymysql.cursors.Cursor, database: str) -> None:
        self._cursor = cursor
        self._database = database
        self._name = f"{os.uname().nodename[:20]}-{os.getpid()}-{int(time.time())}"
        self._dice = random.Random(self._name)

    def _run(self, statement: str, *values: t.Any) -> None:
        self._cursor.execute(statement.format(self._database), values)

    def prepare(self) -> None:
        """Create the tables and the accounts that money is moved between."""
        for statement in SCHEMA:
            self._run(statement)
        rows = ", ".join(f"({number}, 1000)" for number in range(ACCOUNTS))
        self._run(f"INSERT IGNORE INTO {{0}}.accounts VALUES {rows}")

    def write_once(self, number: int) -> None:
        """Run one transaction; it counts only when COMMIT has returned."""
        dice = self._dice
        self._run(f"SET SESSION binlog_format = {'STATEMENT' if number % 2 else 'ROW'}")
        giver, taker = dice.sample(range(ACCOUNTS), 2)
        amount = dice.randint(1, 50)
        self._run("START TRANSACTION")
        self._run("UPDATE {0}.accounts SET balance = balance - %s WHERE id = %s", amount, giver)
        self._run("UPDATE {0}.accounts SET balance = balance + %s WHERE id = %s", amount, taker)
        if number % 3 == 0:
            self._run("INSERT INTO {0}.notes (body) VALUES (%s)", dice.randbytes(dice.randint(10, 8000)))
        self._run("INSERT INTO {0}.journal (writer, number, written) VALUES (%s, %s, NOW(6))", self._name, number)
        self._run("COMMIT")
        if number % 10 == 0:
            # Alone, outside of a transaction: engines are not mixed in one, as GTID mode demands.
            self._run("INSERT INTO {0}.hits VALUES (%s, 1) ON DUPLICATE KEY UPDATE hits = hits + 1", number % 37)


def main() -> int:
    """Write until SIGTERM, or until ``--transactions`` are committed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--user", default="root")
    parser.add_argument("--database", default="lab")
    parser.add_argument("--tally", type=Path)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between transactions")
    parser.add_argument("--transactions", type=int, default=0, help="stop after so many; 0 = until SIGTERM")
    parser.add_argument("--prepare-only", action="store_true")
    options = parser.parse_args()

    stopping: list[int] = []
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda received, frame: stopping.append(received))

    tally = Tally(options.tally)
    tally.save(now=True)
    connection = pymysql.connect(unix_socket=options.socket, user=options.user, autocommit=True, charset="utf8mb4")
    with contextlib.closing(connection), connection.cursor() as cursor:
        writer = Writer(cursor, options.database)
        writer.prepare()
        number = 0
        while not stopping and not options.prepare_only:
            number += 1
            try:
                writer.write_once(number)
            except pymysql.Error as error:
                tally.errors += 1
                tally.save(now=True)
                print(f"transaction {number}: {error}", file=sys.stderr, flush=True)
                return 1
            tally.committed += 1
            tally.save()
            if tally.committed == options.transactions:
                break
            time.sleep(options.pause)
    tally.save(now=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
