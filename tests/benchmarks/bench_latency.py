# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client of a replica notices while its clone is archived, without a limit and with one.

A real replica on XFS that applies a stream of writes and has data beyond its buffer pool; one client reads rows by
their primary key. The clone shares its blocks. Needs root.

.venv/bin/python tests/benchmarks/bench_latency.py --mib 1024 --seconds 20
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import data, report, servers
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server

_HERE = Path(__file__).parent
_TABLE = "bench.big_1_3"
IDLE, ARCHIVED, TAR = "nothing else", "archive", "tar | zstd -1 -T2"


def _measure(server: Server, ended: t.Callable[[], bool], seconds: float) -> dict[str, float]:
    """The client's times until ``ended``, for ``seconds`` at most."""
    argv = [sys.executable, str(_HERE / "latency_once.py"), str(server.socket), _TABLE]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as client:
        deadline = time.monotonic() + seconds
        while not ended() and time.monotonic() < deadline:
            time.sleep(0.1)
        client.send_signal(signal.SIGTERM)
        output = client.communicate()[0]
    found: dict[str, float] = json.loads(output)
    return found


def _archive(server: Server, target: Path, capture: str, rate: float, seconds: float) -> dict[str, float]:
    target.mkdir(mode=0o700)
    command = [sys.executable, str(_HERE / "capture_once.py"), str(server.socket), str(target), "--archive"]
    with subprocess.Popen(
        [*command, "--capture", capture, "--rate", str(rate)], stdout=subprocess.PIPE, text=True
    ) as archiving:
        # It says so when the server is back and the archive is about to begin.
        assert archiving.stdout is not None
        if not archiving.stdout.readline():
            raise SystemExit("the capture failed")
        found = _measure(server, lambda: archiving.poll() is not None, seconds)
        archiving.communicate()
    if archiving.returncode:
        raise SystemExit(archiving.returncode)
    return found


def _tar(server: Server, target: Path, seconds: float) -> dict[str, float]:
    """What somebody's own script would do with a clone, neither niced nor held back."""
    text = 'tar -C "$1" -cf - . 2>/dev/null | zstd -q -1 -T2 > "$2"'
    target.mkdir(mode=0o700)
    with subprocess.Popen(["bash", "-c", text, "bash", str(server.datadir), str(target / "data")]) as other:
        return _measure(server, lambda: other.poll() is not None, seconds)


def run(mib: int, seconds: float, rate_mib: float, capture: str, parent: Path | None) -> dict[str, dict[str, float]]:
    with (
        servers.scratch_directory("bench-latency", parent) as base,
        servers.disk(base, mib * 2 + 2048) as mount_point,
        servers.replica(mount_point, innodb_buffer_pool_size="64M") as (topology, server),
    ):
        servers.Filled(server).grow(mib)
        limited = f"archive, {rate_mib:g} MiB/s"
        with topology.load(pause=0.01):
            found: dict[str, dict[str, float]] = {}
            for way in (IDLE, TAR, ARCHIVED, limited):
                servers.evict(server.datadir)
                target = base / f"way{len(found)}"
                if way == IDLE:
                    found[way] = _measure(server, lambda: False, seconds)
                elif way == TAR:
                    found[way] = _tar(server, target, seconds)
                else:
                    rate = rate_mib * data.MIB if way == limited else 0.0
                    found[way] = _archive(server, target, capture, rate, seconds)
                print(f"{way}: {found[way]}", file=sys.stderr, flush=True)
    return found


def measures(found: t.Mapping[str, t.Mapping[str, float]]) -> list[report.Measure]:
    idle = found[IDLE]
    measured = [report.figure(f"read of a row, {part}, {IDLE}", idle[part], "ms") for part in ("p50", "p95", "p99")]
    for way, times in found.items():
        if way != IDLE:
            measured += [
                report.figure(f"read of a row, {part}, {way}, against {IDLE}", times[part] / idle[part], report.RATIO)
                for part in ("p50", "p95", "p99")
            ]
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the data")
    parser.add_argument("--seconds", type=float, default=20.0, help="the longest time that each way is watched")
    parser.add_argument("--rate", type=float, default=20.0, help="the limit, MiB per second")
    parser.add_argument("--capture", default="snapshot")
    parser.add_argument("--scratch", type=Path, default=None, help="directory for servers and archives")
    options = parser.parse_args()
    found = run(options.mib, options.seconds, options.rate, options.capture, options.scratch)
    report.publish(report.document("latency", measures(found), milliseconds=found))


if __name__ == "__main__":
    main()
