# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbook costs for each host beside the work itself.

As many inventory names as asked for stand for one small server. The whole playbook backs them up, one after the other,
over pipelined ssh to this machine. The steps on the host (stop, archive, proof, start) without Ansible are subtracted;
what is left contains the fetch of the small set. This machine is controller and host at once. Needs root and sshd.

.venv/bin/python tests/benchmarks/bench_orchestration.py --hosts 1 10 50
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import measure, remote, report, servers
from ansible_collections.mysql_ops.replica_backup.tests.lab import playbook
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server

_ONCE = Path(__file__).with_name("capture_once.py")
_BAR, _STRETCH = 7.0, 4.0
_ROUNDS_OF_WORK = 3


def _work(server: Server, target: Path) -> float:
    """Seconds of the steps on the host without Ansible."""
    target.mkdir(mode=0o700)
    argv = [sys.executable, str(_ONCE), str(server.socket), str(target), "--archive"]
    seconds = measure.cost(lambda: subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)).wall
    shutil.rmtree(target)
    return seconds


def run(counts: t.Sequence[int], parent: Path | None) -> tuple[list[report.Measure], dict[str, t.Any]]:
    results = {}
    with servers.scratch_directory("bench-hosts", parent) as base, servers.replica(base) as (_topology, server):
        ssh = base / "ssh"
        ssh.mkdir()
        work = statistics.median(_work(server, base / "work") for _round in range(_ROUNDS_OF_WORK))
        with remote.ssh_server(ssh) as variables:
            for count in counts:
                inventory = remote.names(base, server, count, **variables, replica_backup_capture="cold")

                def backup(chosen: Path = inventory) -> None:
                    done = playbook.run_playbook("backup", chosen, timeout=3600)
                    if done.status:
                        raise SystemExit(done.output)

                cost = measure.cost(backup)
                print(f"{count} hosts: {cost.wall:.1f} s, {work:.2f} s of work each", file=sys.stderr, flush=True)
                results[count] = cost
                shutil.rmtree(base / "backups")
    measures = [
        report.figure(
            f"seconds per replica beside the work, {count} of them",
            cost.wall / count - work,
            report.SECONDS,
            _BAR,
            _STRETCH,
        )
        for count, cost in results.items()
    ]
    measures += [
        report.figure(f"CPU of the controller per replica, {count} of them", cost.cpu / count, report.SECONDS)
        for count, cost in results.items()
    ]
    facts = {str(count): cost._asdict() for count, cost in results.items()}
    return measures, {"playbook_seconds": facts, "work_seconds": work}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--scratch", type=Path, default=None)
    options = parser.parse_args()
    measures, facts = run(options.hosts, options.scratch)
    report.publish(report.document("orchestration", measures, **facts))


if __name__ == "__main__":
    main()
