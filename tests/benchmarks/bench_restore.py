# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore with every file hashed again, against ``zstd -dc | tar -x``; both on disk when the clock stops.

.venv/bin/python tests/benchmarks/bench_restore.py --mib 1024 --rounds 5
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import data, measure

_HERE = Path(__file__).parent
_BAR = {"zstd": 1.3, "none": 1.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compression", choices=sorted(_BAR), default="zstd")
    parser.add_argument("--scratch", default=None, help="directory for data, set and what is restored")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="bench-restore-", dir=options.scratch))
    try:
        print(json.dumps(run(scratch, options.mib, options.rounds, options.compression), indent=1))
    finally:
        shutil.rmtree(scratch)


def run(scratch: Path, mib: int, rounds: int, compression: str) -> dict[str, object]:
    datadir, spool, state = scratch / "data", scratch / "spool", scratch / "state"
    files = data.make_datadir(datadir, mib * data.MIB)
    spool.mkdir(mode=0o700)
    archive = [sys.executable, str(_HERE / "archive_once.py"), str(datadir), str(spool), str(state)]
    subprocess.run([*archive, "--compression", compression, "--publish"], check=True)
    shutil.rmtree(datadir)
    (part,) = (spool / "bench").rglob("data.tar*")
    restored, peers = scratch / "restored", scratch / "peer"

    def ours() -> None:
        shutil.rmtree(restored, ignore_errors=True)
        shutil.rmtree(scratch / "restore-state", ignore_errors=True)
        command = [sys.executable, str(_HERE / "restore_once.py"), str(part.parent), str(restored)]
        subprocess.run([*command, str(scratch / "restore-state")], check=True)

    def peer() -> None:
        shutil.rmtree(peers, ignore_errors=True)
        peers.mkdir()
        unpack = "zstd -q -dc" if compression == "zstd" else "cat"
        # The paths come as parameters of the shell, never as part of its text.
        text = f'set -o pipefail; {unpack} "$1" | tar -C "$2" -xf - && sync'
        subprocess.run(["bash", "-c", text, "bash", part, peers], check=True)

    costs = measure.side_by_side({"ours": ours, "peer": peer}, rounds)
    medians = measure.medians(costs)
    return {
        "benchmark": "restore_throughput",
        "peer": ("zstd -dc | tar -x" if compression == "zstd" else "tar -x") + ", synced",
        "ratio": round(medians["ours"].wall / medians["peer"].wall, 3),
        "cpu_ratio": round(medians["ours"].cpu / medians["peer"].cpu, 3),
        "bar": _BAR[compression],
        "medians_seconds": {name: one._asdict() for name, one in medians.items()},
        "rounds_seconds": {name: [one._asdict() for one in values] for name, values in costs.items()},
        "data": {"bytes": mib * data.MIB, "files": files, "archive_bytes": part.stat().st_size},
        "machine": measure.machine(),
    }


if __name__ == "__main__":
    main()
