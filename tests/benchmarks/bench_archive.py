# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Throughput of the archive against ``tar | zstd -1 -T2``, both to a file that is on disk when the clock stops.

.venv/bin/python tests/benchmarks/bench_archive.py --mib 1024 --rounds 5
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import data, measure, report

_ONCE = Path(__file__).with_name("archive_once.py")
_BAR = {"zstd": (1.3, 1.0), "none": (1.5, 1.2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compression", choices=sorted(_BAR), default="zstd")
    parser.add_argument("--shards", type=int, default=2, help="a set in so many parts, measured as well")
    parser.add_argument("--scratch", default=None, help="directory for data and archives")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="bench-archive-", dir=options.scratch))
    try:
        report.publish(run(scratch, options.mib, options.rounds, options.compression, options.shards))
    finally:
        shutil.rmtree(scratch)


def run(scratch: Path, mib: int, rounds: int, compression: str, shards: int) -> report.Document:
    datadir, spool, state = scratch / "data", scratch / "spool", scratch / "state"
    files = data.make_datadir(datadir, mib * data.MIB)
    spool.mkdir(mode=0o700)
    reference = scratch / "reference.tar"
    bars = _BAR[compression]
    pipe = "| zstd -q -1 -T2 " if compression == "zstd" else ""

    once = [sys.executable, str(_ONCE), str(datadir), str(spool), str(state), "--compression", compression]

    def ours(parts: int = 1) -> None:
        shutil.rmtree(spool / "bench", ignore_errors=True)
        subprocess.run([*once, "--shards", str(parts)], check=True)

    def peer() -> None:
        reference.unlink(missing_ok=True)
        # The path comes as a parameter of the shell, never as part of its text.
        subprocess.run(
            [
                "bash",
                "-c",
                f'set -o pipefail; tar -C "$1" -cf - . {pipe}> "$2" && sync "$2"',
                "bash",
                datadir,
                reference,
            ],
            check=True,
        )

    costs = measure.side_by_side({"ours": ours, "shards": lambda: ours(shards), "peer": peer}, rounds)
    medians = measure.medians(costs)
    archived = sum(path.stat().st_size for path in (spool / "bench").rglob("data.*"))
    name = "tar | zstd -1 -T2" if pipe else "tar"
    return report.document(
        "archive_throughput",
        [
            report.figure(f"archive against {name}", medians["ours"].wall / medians["peer"].wall, report.RATIO, *bars),
            report.figure(f"the same in {shards} parts", medians["shards"].wall / medians["peer"].wall, report.RATIO),
            report.figure("processor time of the archive", medians["ours"].cpu / medians["peer"].cpu, report.RATIO),
        ],
        medians_seconds={way: one._asdict() for way, one in medians.items()},
        rounds_seconds={way: [one._asdict() for one in values] for way, values in costs.items()},
        data={
            "bytes": mib * data.MIB,
            "files": files,
            "archive_bytes": archived,
            "peer_bytes": reference.stat().st_size,
        },
    )


if __name__ == "__main__":
    main()
