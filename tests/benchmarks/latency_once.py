# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of a server: reads rows by their primary key until SIGTERM, then prints the times in milliseconds.

A table that is larger than the buffer pool makes most of them reads of the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import statistics
import time

import pymysql


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("table")
    parser.add_argument("--pause", type=float, default=0.002, help="seconds between two reads")
    options = parser.parse_args()
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda received, frame: ended.append(received))
    connection = pymysql.connect(unix_socket=options.socket, user="root", autocommit=True)
    times: list[float] = []
    dice = random.Random(1)
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(f"SELECT MAX(id) FROM {options.table}")
        (rows,) = cursor.fetchone() or (0,)
        while not ended:
            key = dice.randint(1, rows)
            start = time.perf_counter()
            cursor.execute(f"SELECT body FROM {options.table} WHERE id = {key}")
            cursor.fetchall()
            times.append((time.perf_counter() - start) * 1000)
            time.sleep(options.pause)
    cuts = statistics.quantiles(times, n=1000)
    found = {"reads": len(times), "p50": cuts[499], "p95": cuts[949], "p99": cuts[989], "largest": max(times)}
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))


if __name__ == "__main__":
    main()
