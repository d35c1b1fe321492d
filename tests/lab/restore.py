# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The restore playbook run onto a host of a molecule scenario."""

from __future__ import annotations

import os
import typing as t
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.lab.hosts import Host
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import Run, run_playbook, write_inventory


def restore(host: Host, set_name: str, **variables: t.Any) -> Run:
    """Make ``set_name`` ("HOST/latest") of the scenario a clone on the host; further variables without their prefix."""
    scratch = Path(os.environ["LAB_SCRATCH"])
    given = {
        "hosts": host.name,
        "dest": str(scratch / "backups"),
        "set": set_name,
        "identity": "clone",
        "login_user": "root",
        "login_unix_socket": "/run/mysqld/mysqld.sock",
        **variables,
    }
    connection = {
        "ansible_connection": "containers.podman.podman",
        "ansible_host": host.container,
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    content = {
        "all": {
            "hosts": {host.name: connection},
            "vars": {f"replica_restore_{name}": value for name, value in given.items()},
        }
    }
    return run_playbook("restore", write_inventory(scratch / "restore-inventory.yml", content))
