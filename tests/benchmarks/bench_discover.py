# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Discovery of many tables against two programs that only list the same files: find -printf, and tar to nowhere.

A small real MariaDB; its data directory is filled up with the (empty) files of as many tables as asked for, each with
an .frm and an .ibd, every hundredth .ibd elsewhere behind an .isl. discover_once.py adds them to the dictionary.

.venv/bin/python tests/benchmarks/bench_discover.py --tables 1000 10000 100000 --rounds 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import measure, report
from ansible_collections.mysql_ops.replica_backup.tests.benchmarks.discover_once import table_path
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

_ONCE = Path(__file__).with_name("discover_once.py")
# Ten times the tables may take this many times the processor: anything near 100 would be quadratic.
_GROWTH_BAR = 13.0


def fill(server: Server, start: int, end: int, elsewhere: Path) -> None:
    """Add the files of the tables from ``start`` to ``end``."""
    for number in range(start, end):
        inside = server.datadir / table_path(number)
        if number % 1000 == 0:
            for directory in (inside.parent, elsewhere / inside.parent.name):
                directory.mkdir(exist_ok=True)
        for suffix in (".frm", ".ibd"):
            target = inside.with_name(inside.name + suffix)
            if suffix == ".ibd" and number % 100 == 0:
                target.with_suffix(".isl").write_text(str(elsewhere / table_path(number)) + ".ibd")
                target = elsewhere / (table_path(number) + ".ibd")
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o660))


def run(server: Server, spool: Path, elsewhere: Path, tables: int, rounds: int) -> dict[str, t.Any]:
    ours = [sys.executable, str(_ONCE), str(server.socket), str(spool), str(elsewhere), str(tables)]
    places = [str(server.datadir), str(elsewhere)]
    ways: dict[str, list[str]] = {
        "discover": ours,
        "find": ["find", *places, "-printf", "%y %m %u %g %s %b %n %i %T@ %p %l\\n"],
        "tar": ["tar", "-P", "-cf", "/dev/null", "--exclude=*.sock", *places],
    }

    def runner(argv: list[str]) -> t.Callable[[], object]:
        return lambda: subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)

    costs = measure.side_by_side({name: runner(argv) for name, argv in ways.items()}, rounds)
    medians = measure.medians(costs)
    process = subprocess.Popen(ours, stdout=subprocess.PIPE, text=True)
    watch = measure.PeakMemory(process.pid)
    watch.start()
    answer = process.communicate()[0]
    watch.stop()
    if process.returncode:
        raise SystemExit(process.returncode)
    result = json.loads(answer)
    return {
        "tables": tables,
        "names": result["list"]["count"],
        "required": result["list"]["required"],
        "medians_seconds": {name: one._asdict() for name, one in medians.items()},
        "rounds_seconds": {name: [one._asdict() for one in values] for name, values in costs.items()},
        "cpu_ratio_find": round(medians["discover"].cpu / medians["find"].cpu, 2),
        "cpu_ratio_tar": round(medians["discover"].cpu / medians["tar"].cpu, 2),
        "wall_ratio_find": round(medians["discover"].wall / medians["find"].wall, 2),
        "wall_ratio_tar": round(medians["discover"].wall / medians["tar"].wall, 2),
        "peak_bytes": max(watch.peaks.values()),
        "list_bytes": os.path.getsize(result["list"]["path"]),
        "result_bytes": len(answer.encode()),
    }


def table(results: list[dict[str, t.Any]]) -> str:
    """The results for a person to read."""
    lines = [
        f"{'tables':>8} {'names':>8} {'wall s':>8} {'cpu s':>8} {'find cpu':>9} {'tar cpu':>9}"
        f" {'peak MiB':>9} {'list MiB':>9} {'result B':>9}"
    ]
    for one in results:
        medians = one["medians_seconds"]
        lines.append(
            f"{one['tables']:>8} {one['names']:>8} {medians['discover']['wall']:>8.2f}"
            f" {medians['discover']['cpu']:>8.2f} {medians['find']['cpu']:>9.2f} {medians['tar']['cpu']:>9.2f}"
            f" {one['peak_bytes'] / 2**20:>9.1f} {one['list_bytes'] / 2**20:>9.1f} {one['result_bytes']:>9}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, nargs="+", default=[1000, 10_000, 100_000], help="thousands, rising")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", default=None, help="directory for data and lists")
    options = parser.parse_args()
    root = Path(options.scratch or CHECKOUT / ".test") / f"bench-discover-{os.getpid()}"
    results: list[dict[str, t.Any]] = []
    with contextlib.ExitStack() as stack:
        topology = stack.enter_context(Topology(root, replicas=0))
        server = topology.source
        elsewhere, spool = topology.root / "elsewhere", topology.root / "spool"
        elsewhere.mkdir()
        done = 0
        for tables in options.tables:
            fill(server, done, tables, elsewhere)
            done = tables
            shutil.rmtree(spool, ignore_errors=True)
            results.append(run(server, spool, elsewhere, tables, options.rounds))
    print(table(results), file=sys.stderr)
    cpu = [one["medians_seconds"]["discover"]["cpu"] for one in results]
    measures = [
        report.figure(
            f"CPU of the discovery of {later['tables']} tables against {one['tables']}, for ten times as many",
            (after / before) / (later["tables"] / one["tables"]) * 10,
            report.RATIO,
            _GROWTH_BAR,
        )
        for one, later, before, after in zip(results, results[1:], cpu, cpu[1:])
    ]
    measures += [
        report.figure(
            f"discovery of {one['tables']} tables", one["medians_seconds"]["discover"]["wall"], report.SECONDS
        )
        for one in results
    ]
    report.publish(report.document("discover", measures, results=results))


if __name__ == "__main__":
    main()
