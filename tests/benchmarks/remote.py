# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""This machine as the remote host of a playbook: an ssh server on the loopback, and names that lead there."""

from __future__ import annotations

import contextlib
import getpass
import socket
import subprocess
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.lab import playbook
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import LabError, Server, free_port


@contextlib.contextmanager
def ssh_server(root: Path) -> Iterator[dict[str, t.Any]]:
    """The variables of a host that is reached through it, pipelined, as whoever runs this. Needs root."""
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / key)], check=True)
    (root / "authorized").write_bytes((root / "user.pub").read_bytes())
    port = free_port()
    (root / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {root}/host\nAuthorizedKeysFile {root}/authorized\n"
        "StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin prohibit-password\nMaxStartups 100\n"
        "MaxSessions 200\nSubsystem sftp internal-sftp\n",
        encoding="utf-8",
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", str(root / "sshd_config"), "-E", str(root / "sshd.log")])
    try:
        _wait_listening(port)
        yield {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": port,
            "ansible_user": getpass.getuser(),
            "ansible_ssh_private_key_file": str(root / "user"),
            "ansible_host_key_checking": False,
            "ansible_pipelining": True,
            "ansible_ssh_extra_args": "-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            "ansible_control_path_dir": str(root / "cp"),
        }
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_listening(port: int) -> None:
    for _attempt in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise LabError(f"sshd does not listen on port {port}")


def names(root: Path, server: Server, count: int, **variables: t.Any) -> Path:
    """An inventory of ``count`` names that all stand for one server, each with directories of its own."""
    content = playbook.inventory(root, [server], **variables)
    group = content["all"]["children"]["mysql_replicas"]
    (template,) = group["hosts"].values()
    group["hosts"] = {
        f"db{number:04d}": {
            **template,
            "replica_backup_state_dir": str(root / "state" / f"db{number:04d}"),
            "replica_backup_spool_dir": str(root / "spool" / f"db{number:04d}"),
        }
        for number in range(count)
    }
    return playbook.write_inventory(root / f"inventory-{count}.yml", content)
