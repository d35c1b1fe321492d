# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shutdown of a replica that is being written to, with its dirty pages flushed before, against without.

A real MariaDB with a buffer pool of 2 GiB: about ``--mib`` of pages are dirtied before each stop, and the applier goes
on writing what a source sends without a pause. What is compared is the step "shutdown" of a stop as a backup makes it,
from the moment before the request to the proof that it was clean. The quiet one had nothing to write.

.venv/bin/python tests/benchmarks/bench_flush.py --mib 600 --rounds 5
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import typing as t
from pathlib import Path

import pymysql

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import data, report, servers
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

_QUIET, _WITHOUT, _WITH = "quiet", "without", "with"
# Pages that one statement dirties: those of the rows and those of the index on what it changes.
_ROWS_PER_PAGE = 37


def _execute(server: Server, *statements: str) -> None:
    connection = pymysql.connect(unix_socket=str(server.socket), user="root", autocommit=True)
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_log_bin = 0")
        for statement in statements:
            cursor.execute(statement)


def _fill(server: Server, mib: int) -> None:
    rows = mib * 1024 * 1024 // 260
    _execute(
        server,
        "CREATE DATABASE bench",
        "CREATE TABLE bench.t (id INT PRIMARY KEY, k INT, v VARCHAR(200), KEY (k)) ENGINE = InnoDB",
        f"INSERT INTO bench.t SELECT seq, FLOOR(RAND() * 1e9), REPEAT('y', 180) FROM bench.seq_1_to_{rows}",
    )


def _stop(server: Server, root: Path, flush_timeout: float) -> dict[str, t.Any]:
    root.mkdir(mode=0o700)
    window = Window(server, root)
    stopped = window.stop(flush_timeout=flush_timeout)
    back = window.start(catch_up=True)
    return {
        "shutdown": stopped["times"]["shutdown"]["seconds"],
        "flush": stopped["times"].get("flush", {}).get("seconds", 0.0),
        "quiesce": stopped["times"]["quiesce"]["seconds"],
        "downtime": back["downtime_seconds"],
        "waited_for": stopped["shutdown_waited_for"],
    }


def run(mib: int, rounds: int) -> dict[str, list[dict[str, t.Any]]]:
    stops: dict[str, list[dict[str, t.Any]]] = {_QUIET: [], _WITHOUT: [], _WITH: []}
    settings = {"innodb_buffer_pool_size": "2G", "innodb_log_file_size": "1G", "sync_binlog": "0"}
    with (
        servers.scratch_directory("bench-flush") as base,
        servers.replica(base, **settings) as (topology, server),
    ):
        _fill(server, mib)
        _stop(server, base / "first", 60)
        for number in range(rounds):
            stops[_QUIET].append(_stop(server, base / f"{_QUIET}{number}", 0))
            for way, timeout in ((_WITHOUT, 0), (_WITH, 60)):
                with topology.load(pause=0):
                    _execute(
                        server, f"UPDATE bench.t SET k = FLOOR(RAND() * 1e9) WHERE id % {_ROWS_PER_PAGE} = {number}"
                    )
                    stops[way].append(_stop(server, base / f"{way}{number}", timeout))
                print(f"{way}: {stops[way][-1]}", file=sys.stderr, flush=True)
    return stops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    stops = run(options.mib, options.rounds)

    def median(way: str, step: str) -> float:
        return float(statistics.median(one[step] for one in stops[way]))

    measures = [
        report.figure("shutdown with nothing to write", median(_QUIET, "shutdown"), report.SECONDS),
        report.figure("shutdown of a busy replica", median(_WITHOUT, "shutdown"), report.SECONDS),
        report.figure("the same, flushed before", median(_WITH, "shutdown"), report.SECONDS),
        report.figure("flush while the replica serves", median(_WITH, "flush"), report.SECONDS),
        report.figure(
            "shutdown of a busy replica flushed before, against not flushed",
            median(_WITH, "shutdown") / median(_WITHOUT, "shutdown"),
            report.RATIO,
            0.5,
            0.2,
        ),
    ]
    steps = ("shutdown", "flush", "quiesce", "downtime")
    medians = {way: {step: median(way, step) for step in steps} for way in stops}
    report.publish(
        report.document(
            "flush", measures, medians_seconds=medians, rounds_seconds=stops, data={"bytes": options.mib * data.MIB}
        )
    )


if __name__ == "__main__":
    main()
