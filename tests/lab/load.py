# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes to a source until told to stop (SIGTERM), and counts what the server confirmed.

Stands alone: needs Python 3.9 and PyMySQL, so that it also runs inside a container. Every transaction leaves
one row in ``lab.journal``; statement and row format alternate, and one table is not transactional.
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
from pathlib import Path

import pymysql
import pymysql.cursors

SCHEMA = (
    "CREATE DATABASE IF NOT EXISTS lab",
    "CREATE TABLE IF NOT EXISTS lab.journal (id BIGINT PRIMARY KEY AUTO_INCREMENT, writer VARCHAR(40) NOT NULL,"
    " number BIGINT NOT NULL, written DATETIME(6) NOT NULL, UNIQUE KEY (writer, number)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS lab.accounts (id INT PRIMARY KEY, balance BIGINT NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS lab.notes (id BIGINT PRIMARY KEY AUTO_INCREMENT, body MEDIUMBLOB) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS lab.hits (page INT PRIMARY KEY, hits BIGINT NOT NULL) ENGINE=MyISAM",
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


def prepare(cursor: pymysql.cursors.Cursor) -> None:
    """Create the tables and the accounts that money is moved between."""
    for statement in SCHEMA:
        cursor.execute(statement)
    cursor.executemany("INSERT IGNORE INTO lab.accounts VALUES (%s, 1000)", [(n,) for n in range(ACCOUNTS)])


def write_once(cursor: pymysql.cursors.Cursor, writer: str, number: int, dice: random.Random) -> None:
    """Run one transaction; it counts only when COMMIT has returned."""
    form = "STATEMENT" if number % 2 else "ROW"
    cursor.execute(f"SET SESSION binlog_format = {form}")
    giver, taker = dice.sample(range(ACCOUNTS), 2)
    amount = dice.randint(1, 50)
    cursor.execute("START TRANSACTION")
    cursor.execute("UPDATE lab.accounts SET balance = balance - %s WHERE id = %s", (amount, giver))
    cursor.execute("UPDATE lab.accounts SET balance = balance + %s WHERE id = %s", (amount, taker))
    if number % 3 == 0:
        cursor.execute("INSERT INTO lab.notes (body) VALUES (%s)", (dice.randbytes(dice.randint(10, 8000)),))
    cursor.execute("INSERT INTO lab.journal (writer, number, written) VALUES (%s, %s, NOW(6))", (writer, number))
    cursor.execute("COMMIT")
    if number % 10 == 0:
        # Alone, outside of a transaction: engines are not mixed in one, as GTID mode demands.
        cursor.execute("INSERT INTO lab.hits VALUES (%s, 1) ON DUPLICATE KEY UPDATE hits = hits + 1", (number % 37,))


def main() -> int:
    """Write until SIGTERM, or until ``--transactions`` are committed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--user", default="root")
    parser.add_argument("--tally", type=Path)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between transactions")
    parser.add_argument("--transactions", type=int, default=0, help="stop after so many; 0 = until SIGTERM")
    parser.add_argument("--prepare-only", action="store_true")
    options = parser.parse_args()

    stopping: list[int] = []
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda received, frame: stopping.append(received))

    writer = f"{os.uname().nodename[:20]}-{os.getpid()}-{int(time.time())}"
    dice = random.Random(writer)
    tally = Tally(options.tally)
    tally.save(now=True)
    connection = pymysql.connect(unix_socket=options.socket, user=options.user, autocommit=True, charset="utf8mb4")
    with contextlib.closing(connection), connection.cursor() as cursor:
        prepare(cursor)
        number = 0
        while not stopping and not options.prepare_only:
            number += 1
            try:
                write_once(cursor, writer, number, dice)
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
