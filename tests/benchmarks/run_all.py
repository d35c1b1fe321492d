# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All benchmarks, one after the other: their documents, the plots, and the tables of docs/performance.md.

With --docs what was measured replaces what the documentation says of the same benchmarks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import report
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

_HERE = Path(__file__).parent
_DOCS = CHECKOUT / "docs"
RESULTS = _DOCS / "performance" / "results.json"
_PLOTTER = CHECKOUT / ".cache" / "bench" / "venv" / "bin" / "python"


def plan(sizes: t.Sequence[str], rounds: int, *, quick: bool) -> dict[str, list[str]]:
    """The command line of each benchmark, by the name of its result. Those whose program is missing are left out."""
    once, mib = str(rounds), "256" if quick else "1024"
    hosts = ["1", "2"] if quick else ["1", "10", "50"]
    planned = {
        "downtime": ["bench_downtime.py", "--sizes", *sizes, "--rounds", once],
        "archive_zstd": ["bench_archive.py", "--mib", mib, "--rounds", once],
        "archive_plain": ["bench_archive.py", "--mib", mib, "--rounds", once, "--compression", "none"],
        "restore_zstd": ["bench_restore.py", "--mib", mib, "--rounds", once],
        "restore_plain": ["bench_restore.py", "--mib", mib, "--rounds", once, "--compression", "none"],
        "peers": ["bench_peers.py", "--mib", mib, "--rounds", once, *([] if quick else ["--slow"])],
        "flush": ["bench_flush.py"],
        "memory": ["bench_memory.py", "--mib", "64", mib],
        "latency": ["bench_latency.py", "--mib", mib, "--seconds", "5" if quick else "20"],
        "orchestration": ["bench_orchestration.py", "--hosts", *hosts],
        "planning": ["bench_planning.py", "--hosts", "100" if quick else "1000"],
        "discover": ["bench_discover.py", "--rounds", "1", "--tables", "1000", *([] if quick else ["10000"])],
    }
    return {name: command for name, command in planned.items() if (_HERE / command[0]).exists()}


def run(planned: t.Mapping[str, list[str]], into: Path) -> list[str]:
    """Run them; returns the names of those that failed."""
    into.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, (script, *arguments) in planned.items():
        print(f"\n===== {name}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, str(_HERE / script), *arguments], stdout=subprocess.PIPE, text=True, check=False
        )
        try:
            found = json.loads(done.stdout)
        except ValueError:
            found = None
        if done.returncode or found is None:
            failed.append(name)
            continue
        found.setdefault("date", report.now())
        found.setdefault("command", report.command([str(_HERE / script), *arguments]))
        (into / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return failed


def write_docs(found: t.Mapping[str, report.Document], order: t.Sequence[str]) -> None:
    """Into the stored results, the page and the plots."""
    known = {one["name"]: one for one in json.loads(RESULTS.read_text(encoding="utf-8"))} if RESULTS.exists() else {}
    known.update({name: {"name": name, **report.for_docs(document)} for name, document in found.items()})
    ranks = {name: number for number, name in enumerate(order)}
    results = sorted(known.values(), key=lambda one: ranks.get(one["name"], len(ranks)))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    page = _DOCS / "performance.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(report.put_between_markers(text, report.markdown(results)), encoding="utf-8")
    if _PLOTTER.exists():
        subprocess.run([str(_PLOTTER), str(_HERE / "plots.py"), str(RESULTS), str(RESULTS.parent)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["0.6", "2.5", "10"], help="GiB, for the downtime")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=None, help="names of benchmarks")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that they work")
    parser.add_argument("--docs", action="store_true", help="write the documentation's tables and plots")
    parser.add_argument("--stored", action="store_true", help="measure nothing: from the documents of an earlier run")
    parser.add_argument("--into", type=Path, default=CHECKOUT / ".test" / "results-bench")
    options = parser.parse_args()
    planned = plan(options.sizes, options.rounds, quick=options.quick)
    chosen = {name: command for name, command in planned.items() if options.only is None or name in options.only}
    failed = [] if options.stored else run(chosen, options.into)
    found = {
        name: json.loads((options.into / f"{name}.json").read_text(encoding="utf-8"))
        for name in chosen
        if name not in failed and (options.into / f"{name}.json").exists()
    }
    print("\n" + report.table(found.values()))
    if options.docs:
        write_docs(found, list(planned))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
