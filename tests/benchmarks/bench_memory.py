# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Peak memory of the archiving process and its children, at two sizes of data.

.venv/bin/python tests/benchmarks/bench_memory.py --mib 100 2048
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import data, measure, report

_ONCE = Path(__file__).with_name("archive_once.py")
_BAR_MIB, _STRETCH_MIB = 64.0, 40.0


class Result(t.TypedDict):
    """Of one size: what was archived, and the peak of each program in bytes."""

    data: dict[str, int]
    peak_bytes: dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, nargs="+", default=[100, 2048], help="sizes of the data")
    parser.add_argument("--format", default="tar")
    parser.add_argument("--compression", default="zstd")
    parser.add_argument("--scratch", default=None, help="directory for data and archives")
    options = parser.parse_args()
    results: list[Result] = []
    for mib in options.mib:
        scratch = Path(tempfile.mkdtemp(prefix="bench-memory-", dir=options.scratch))
        try:
            results.append(run(scratch, mib, options.format, options.compression))
        finally:
            shutil.rmtree(scratch)
    measures = [
        report.figure(
            f"largest process while {mib} MiB are archived",
            max(result["peak_bytes"].values()) / data.MIB,
            report.MEBIBYTES,
            _BAR_MIB,
            _STRETCH_MIB,
        )
        for mib, result in zip(options.mib, results)
    ]
    report.publish(report.document("archive_memory", measures, results=results))


def run(scratch: Path, mib: int, form: str, compression: str) -> Result:
    datadir, spool, state = scratch / "data", scratch / "spool", scratch / "state"
    files = data.make_datadir(datadir, mib * data.MIB)
    spool.mkdir(mode=0o700)
    argv = [sys.executable, str(_ONCE), str(datadir), str(spool), str(state), "--publish"]
    process = subprocess.Popen([*argv, "--format", form, "--compression", compression])
    watch = measure.PeakMemory(process.pid)
    watch.start()
    code = process.wait()
    watch.stop()
    if code:
        raise SystemExit(code)
    return {"data": {"mib": mib, "files": files}, "peak_bytes": watch.peaks}


if __name__ == "__main__":
    main()
