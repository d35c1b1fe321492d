# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one controller pays to plan a roll over many replicas, and to ask each for its facts.

Planning is the first play of the playbook, which connects to nobody, with all names. The facts are asked of two
samples of names that all stand for one server, over pipelined ssh; the CPU of the controller grows by so much for each,
and that is extrapolated to all names on all CPUs. What the module takes on the host is not in it: here it runs on the
same machine. Needs root and sshd.

.venv/bin/python tests/benchmarks/bench_planning.py --hosts 1000
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import measure, remote, report, servers
from ansible_collections.mysql_ops.replica_backup.tests.lab import playbook
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

_BAR = 60.0
_SAMPLES = (10, 40)
_PLAN = {
    "name": "Choose hosts and batches",
    "hosts": "all",
    "gather_facts": False,
    "tasks": [
        {
            "ansible.builtin.import_tasks": str(CHECKOUT / "playbooks" / "tasks" / "choose.yml"),
            "vars": {
                "prefix": "replica_backup",
                "hosts_variable": "replica_backup_hosts",
                "serial_variable": "replica_backup_serial",
                "purpose": "back up",
            },
        }
    ],
}
_FACTS = {
    "name": "Facts of every replica",
    "hosts": "all",
    "gather_facts": False,
    "tasks": [
        {
            "mysql_ops.replica_backup.mysql_replica_info": {
                "login_user": "root",
                "login_unix_socket": "{{ replica_backup_login_unix_socket }}",
                "config_file": "",
            }
        }
    ],
}


def run(hosts: int, forks: int, parent: Path | None) -> tuple[list[report.Measure], dict[str, t.Any]]:
    costs: dict[str, measure.Cost] = {}
    with servers.scratch_directory("bench-planning", parent) as base, servers.replica(base) as (_topology, server):
        ssh = base / "ssh"
        ssh.mkdir()
        with remote.ssh_server(ssh) as variables:

            def play(name: str, content: dict[str, t.Any], count: int) -> measure.Cost:
                book = base / f"{name}.yml"
                book.write_text(json.dumps([content]), encoding="utf-8")
                inventory = remote.names(base, server, count, **variables)

                def work() -> None:
                    done = playbook.run_playbook(str(book), inventory, f"--forks={forks}", timeout=1800)
                    if done.status:
                        raise SystemExit(done.output)

                cost = costs[f"{name}, {count}"] = measure.cost(work)
                print(f"{name}, {count} names: {cost}", file=sys.stderr, flush=True)
                return cost

            planning = play("planning", _PLAN, hosts)
            few, many = (play("facts", _FACTS, count) for count in _SAMPLES)
    cpus = len(os.sched_getaffinity(0))
    each = (many.cpu - few.cpu) / (_SAMPLES[1] - _SAMPLES[0])
    facts = few.cpu / cpus + each * (hosts - _SAMPLES[0]) / cpus
    measures = [
        report.figure(f"planning for {hosts} replicas", planning.wall, report.SECONDS),
        report.figure("CPU of the controller for the facts of one replica", each, report.SECONDS),
        report.figure(
            f"planning and facts for {hosts} replicas, CPU of the controller on {cpus} CPUs",
            planning.wall + facts,
            report.SECONDS,
            _BAR * hosts / 1000,
        ),
    ]
    return measures, {"costs": {name: cost._asdict() for name, cost in costs.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--forks", type=int, default=10)
    parser.add_argument("--scratch", type=Path, default=None)
    options = parser.parse_args()
    measures, facts = run(options.hosts, options.forks, options.scratch)
    report.publish(report.document("planning", measures, **facts))


if __name__ == "__main__":
    main()
