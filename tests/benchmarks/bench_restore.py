# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore with every file hashed again, against ``zstd -dc | tar -x``; both on disk when the clock stops.

.venv/bin/python tests/benchmarks/bench_restore.py --mib 1024 --rounds 5
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

_HERE = Path(__file__).parent
# Without a compressor there is no target; the figure is told for comparison.
_BAR: dict[str, tuple[float | None, float | None]] = {"zstd": (1.3, 1.0), "none": (None, None)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compression", choices=sorted(_BAR), default="zstd")
    parser.add_argument("--shards", type=int, default=2, help="a set in so many parts, measured as well")
    parser.add_argument("--scratch", default=None, help="directory for data, set and what is restored")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="bench-restore-", dir=options.scratch))
    try:
        report.publish(run(scratch, options.mib, options.rounds, options.compression, options.shards))
    finally:
        shutil.rmtree(scratch)


def run(scratch: Path, mib: int, rounds: int, compression: str, shards: int) -> report.Document:
    datadir, restored, peers = scratch / "data", scratch / "restored", scratch / "peer"
    files = data.make_datadir(datadir, mib * data.MIB)
    sets = {}
    for parts in (1, shards):
        spool = scratch / f"spool{parts}"
        spool.mkdir(mode=0o700)
        archive = [sys.executable, str(_HERE / "archive_once.py"), str(datadir), str(spool), str(scratch / f"s{parts}")]
        command = [*archive, "--compression", compression, "--publish", "--shards", str(parts)]
        subprocess.run(command, check=True)
        (manifest,) = spool.rglob("manifest.json")
        sets[parts] = manifest.parent
    shutil.rmtree(datadir)
    (part,) = sets[1].glob("data.tar*")

    def ours(parts: int = 1) -> None:
        shutil.rmtree(restored, ignore_errors=True)
        shutil.rmtree(scratch / "restore-state", ignore_errors=True)
        command = [sys.executable, str(_HERE / "restore_once.py"), str(sets[parts]), str(restored)]
        subprocess.run([*command, str(scratch / "restore-state")], check=True)

    def peer() -> None:
        shutil.rmtree(peers, ignore_errors=True)
        peers.mkdir()
        unpack = "zstd -q -dc" if compression == "zstd" else "cat"
        # The paths come as parameters of the shell, never as part of its text.
        text = f'set -o pipefail; {unpack} "$1" | tar -C "$2" -xf - && sync'
        subprocess.run(["bash", "-c", text, "bash", part, peers], check=True)

    costs = measure.side_by_side({"ours": ours, "shards": lambda: ours(shards), "peer": peer}, rounds)
    medians = measure.medians(costs)
    name = "zstd -dc | tar -x" if compression == "zstd" else "tar -x"
    return report.document(
        "restore_throughput",
        [
            report.figure(
                f"restore against {name}", medians["ours"].wall / medians["peer"].wall, report.RATIO, *_BAR[compression]
            ),
            report.figure(f"the same of {shards} parts", medians["shards"].wall / medians["peer"].wall, report.RATIO),
            report.figure("processor time of the restore", medians["ours"].cpu / medians["peer"].cpu, report.RATIO),
        ],
        medians_seconds={way: one._asdict() for way, one in medians.items()},
        rounds_seconds={way: [one._asdict() for one in values] for way, values in costs.items()},
        data={"bytes": mib * data.MIB, "files": files, "archive_bytes": part.stat().st_size},
    )


if __name__ == "__main__":
    main()
