# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Downtime against the size of the data, for each capture and for what others do in the same window.

A real MariaDB whose files lie on XFS, quiet; spool and copies are on another file system, so that nothing but the
snapshot shares blocks. The downtime is the longest time without an answer to SELECT 1, asked every few milliseconds.
The floor is a stop and a start with nothing between. No file of the server is in the page cache at first. Needs root.

.venv/bin/python tests/benchmarks/bench_downtime.py --sizes 0.6 2.5 10 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import report, servers
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server

_ONCE = Path(__file__).with_name("capture_once.py")
CAPTURES = ("snapshot", "staged", "staged 5 %", "copy", "cold")
FLOOR, CP, TAR, TAR_ZSTD = "stop + start", "cp -a", "tar", "tar | zstd -1 -T2"
_QUICK = (FLOOR, "snapshot")
# From so many GiB on the slow ways are tried once only.
_LARGE = 5.0


class Bench:
    """The ways to measure; each gives the seconds without an answer."""

    def __init__(self, server: Server, scratch: Path) -> None:
        self._server = server
        self._scratch = scratch
        self._target = scratch / "target"
        self.windows: dict[str, t.Any] = {}

    def measure(self, way: str) -> float:
        shutil.rmtree(self._target, ignore_errors=True)
        self._target.mkdir(mode=0o700)
        servers.settle(self._server)
        if way.startswith("staged"):
            # The pre-copy does not trust what has just been written.
            servers.rest(self._server)
        servers.evict(self._server.datadir)
        with servers.Absence(self._server) as absence:
            if way in CAPTURES:
                self._capture(way)
            else:
                servers.restart(self._server, lambda: self._by_others(way))
        shutil.rmtree(self._target)
        return absence.seconds

    def _by_others(self, way: str) -> None:
        commands = {
            CP: 'cp -a --reflink=never "$1" "$2/copy"',
            TAR: 'tar -C "$1" -cf "$2/data.tar" .',
            TAR_ZSTD: 'set -o pipefail; tar -C "$1" -cf - . | zstd -q -1 -T2 > "$2/data.tar.zst"',
        }
        if way in commands:
            datadir = str(self._server.datadir)
            subprocess.run(["bash", "-c", commands[way], "bash", datadir, str(self._target)], check=True)

    def _capture(self, way: str) -> None:
        capture, _space, percent = way.removesuffix(" %").partition(" ")
        command = [sys.executable, str(_ONCE), str(self._server.socket), str(self._target), "--capture", capture]
        if percent:
            command += ["--change", percent]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        result = json.loads(done.stdout.splitlines()[-1])
        made = result.get("clone") or result.get("archive") or {}
        steps = {name: step["seconds"] for name, step in result["times"].items() if isinstance(step, dict)}
        self.windows[way] = {
            "steps": steps,
            "capture": {name: made[name] for name in sorted(made) if isinstance(made[name], (int, float))},
        }


def run(sizes: t.Sequence[float], rounds: int, captures: t.Sequence[str], parent: Path | None) -> dict[str, t.Any]:
    ways = [FLOOR, *captures, CP, TAR, TAR_ZSTD]
    results = []
    largest = max(sizes)
    with (
        servers.scratch_directory("bench-downtime", parent) as base,
        servers.disk(base, int(largest * 1024 * 1.6) + 2048) as mount_point,
        servers.replica(mount_point) as (_topology, server),
    ):
        filled = servers.Filled(server)
        for size in sorted(sizes):
            print(f"{size} GiB: making data", file=sys.stderr, flush=True)
            filled.grow(int(size * 1024))
            bench = Bench(server, base)
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(rounds):
                for way in ways:
                    if number and size >= _LARGE and way not in _QUICK:
                        continue
                    seconds[way].append(round(bench.measure(way), 3))
                    print(f"{size} GiB, {way}: {seconds[way][-1]} s", file=sys.stderr, flush=True)
            files = sum(1 for path in server.datadir.rglob("*") if path.is_file())
            used = subprocess.run(["du", "-sb", str(server.datadir)], check=True, capture_output=True, text=True)
            results.append(
                {
                    "gib": size,
                    "bytes": int(used.stdout.split()[0]),
                    "files": files,
                    "seconds": seconds,
                    "medians": {way: round(statistics.median(values), 3) for way, values in seconds.items()},
                    "windows": bench.windows,
                }
            )
    return {"results": results}


def measures(results: t.Sequence[t.Mapping[str, t.Any]]) -> list[report.Measure]:
    found = []
    for one in results:
        medians, at = one["medians"], f"{one['gib']:g} GiB"
        floor, cp = medians[FLOOR], medians[CP]
        found.append(report.figure(f"stop and start with nothing between, {at}", floor, report.SECONDS))
        for way in ("snapshot", "staged"):
            if way in medians:
                stretch = 0.2 if way == "snapshot" else None
                what = f"downtime with capture {way} over stop and start, {at}"
                found.append(report.figure(what, medians[way] - floor, report.SECONDS, 1.0, stretch))
        for way, limit, stretch, said in (
            ("staged 5 %", 0.25, None, "staged, 5 % of the pages changed meanwhile,"),
            ("copy", 1.2, 1.0, "copy"),
        ):
            if way in medians:
                what = f"downtime with capture {said} against cp -a, {at}"
                found.append(report.figure(what, medians[way] / cp, report.RATIO, limit, stretch))
        if "cold" in medians:
            what = f"downtime with capture cold against {TAR_ZSTD}, {at}"
            found.append(report.figure(what, medians["cold"] / medians[TAR_ZSTD], report.RATIO))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.6, 2.5, 10.0], help="GiB, rising")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--captures", nargs="*", choices=CAPTURES, default=list(CAPTURES))
    parser.add_argument("--scratch", type=Path, default=None, help="directory for the file system and the copies")
    options = parser.parse_args()
    found = run(options.sizes, options.rounds, options.captures, options.scratch)
    # For the plot.
    series = [{"gib": one["gib"], "bytes": one["bytes"], "medians": one["medians"]} for one in found["results"]]
    report.publish(report.document("downtime", measures(found["results"]), downtime=series, **found))


if __name__ == "__main__":
    main()
