# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drills on a host that has MySQL 9.7: by GTID and by position, tables outside of the data directory, caught up."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import REPLICAS, BackupSet, Host
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import run_playbook, write_inventory


def test_every_set_is_a_server(hosts: dict[str, Host], sets: dict[str, BackupSet]) -> None:
    host, source = hosts["restored"], hosts["source"]
    # There is not memory for two of them in a container.
    host.run("systemctl stop %s", host.words["lab_unit"])
    for name in REPLICAS:
        # As on a file system that both see.
        directory = sets[name].directory
        host.run("mkdir -p %s", str(directory.parent))
        subprocess.run(["podman", "cp", str(directory), f"{host.container}:{directory.parent}"], check=True)
    host.run("mkdir -p -m 711 /srv/drills")
    unlogged = "SET SESSION sql_log_bin = 0"
    source.sql(
        f"{unlogged}; CREATE USER IF NOT EXISTS drill IDENTIFIED BY 'drills'; GRANT REPLICATION SLAVE ON *.* TO drill"
    )
    connection = {
        "ansible_connection": "containers.podman.podman",
        "ansible_host": host.container,
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    inventory = write_inventory(
        Path(os.environ["LAB_SCRATCH"]) / "drill-inventory.yml", {"all": {"hosts": {host.name: connection}}}
    )
    run = run_playbook(
        "verify",
        inventory,
        extra_vars={
            "replica_verify_sets": [str(sets[name].directory) for name in REPLICAS],
            "replica_verify_boot": True,
            "replica_verify_boot_host": host.name,
            "replica_verify_scratch_dir": "/srv/drills",
            "replica_verify_attach": True,
            "replica_verify_server_id": 90001,
            "replica_verify_source_login_user": "drill",
            "replica_verify_source_login_password": "drills",
            # All hosts are of one image, in which the server has made its authority.
            "replica_verify_source_ca_cert": "/var/lib/mysql/ca.pem",
        },
    )
    host.run("systemctl start %s", host.words["lab_unit"])
    said = " ".join(run.output.split())
    assert run.status == 0, run.output
    assert "drills'" not in said
    for name in REPLICAS:
        assert f"passed the drill: {sets[name].directory}" in said, run.output
    assert len(re.findall(r"attach'+: ", said)) == len(REPLICAS)
    assert host.run("ls -A /srv/drills") == "" and "/srv/drills" not in host.run("ps -e -o args")
    deadline = time.monotonic() + 30
    while "90001" in source.sql("SHOW REPLICAS"):
        assert time.monotonic() < deadline, source.sql("SHOW REPLICAS")
        time.sleep(0.3)
    source.sql(f"{unlogged}; DROP USER drill")
