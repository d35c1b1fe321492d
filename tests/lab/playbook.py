# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the collection's playbooks against local servers, as a user would from a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

COLLECTION = "mysql_ops.replica_backup"


@dataclass(frozen=True)
class Run:
    """What a finished ansible-playbook left."""

    status: int
    output: str


def environment() -> dict[str, str]:
    """Return the environment of Ansible commands: this checkout, and nothing of the user's configuration."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    bin_directory = Path(sys.executable).parent
    return {
        **variables,
        "PATH": f"{bin_directory}:{variables.get('PATH', '')}:/usr/sbin:/sbin",
        "ANSIBLE_COLLECTIONS_PATH": f"{CHECKOUT}/.ansible/collections:{CHECKOUT}/.cache/colls",
        "ANSIBLE_HOME": str(CHECKOUT / ".cache" / "ansible"),
        "ANSIBLE_CONFIG": str(Path(__file__).with_name("ansible.cfg")),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_DEPRECATION_WARNINGS": "False",
    }


def inventory(
    root: Path, servers: Sequence[Server], *, group: str = "mysql_replicas", **variables: t.Any
) -> dict[str, t.Any]:
    """Return an inventory with one local host per server, its state and spool below ``root``."""
    # The collection makes one directory, not a path to it: a mistyped path shall not become a new one.
    for parent in ("state", "spool"):
        (root / parent).mkdir(mode=0o700, parents=True, exist_ok=True)
    hosts = {
        server.name: {
            "replica_backup_login_unix_socket": str(server.socket),
            "replica_backup_state_dir": str(root / "state" / server.name),
            "replica_backup_spool_dir": str(root / "spool" / server.name),
        }
        for server in servers
    }
    common = {
        "ansible_connection": "local",
        # Nothing is left in the home of whoever runs it.
        "ansible_async_dir": str(CHECKOUT / ".cache" / "ansible" / "async"),
        "ansible_remote_tmp": str(CHECKOUT / ".cache" / "ansible" / "remote"),
        # The interpreter that has PyMySQL here; on a real replica it is the system's.
        "ansible_python_interpreter": sys.executable,
        "replica_backup_login_user": "root",
        "replica_backup_config_file": "",
        "replica_backup_service_manager": "none",
        "replica_backup_dest": str(root / "backups"),
        **variables,
    }
    return {"all": {"children": {group: {"hosts": hosts, "vars": common}}}}


def write_inventory(path: Path, content: Mapping[str, t.Any]) -> Path:
    """Write an inventory; JSON is YAML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def run_playbook(
    playbook: str,
    inventory_file: Path,
    *arguments: str,
    extra_vars: Mapping[str, t.Any] | None = None,
    echo: bool = False,
    timeout: float = 600,
) -> Run:
    """Run a playbook of the collection (``backup``) or a file (``path.yml``) and return its status and output."""
    name = playbook if "/" in playbook or playbook.endswith(".yml") else f"{COLLECTION}.{playbook}"
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory_file), name, *arguments]
    if extra_vars:
        command += ["-e", json.dumps(dict(extra_vars))]
    if echo:
        done = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, check=False, timeout=timeout)
        return Run(done.returncode, "")
    captured = subprocess.run(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout,
    )
    return Run(captured.returncode, captured.stdout)
