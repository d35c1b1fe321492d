# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A topology as the integration tests and the demo use it: with inventory, state, spool and destination."""

from __future__ import annotations

import typing as t
import uuid
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import inventory, write_inventory


class Fleet:
    """A topology with the directories and the inventory that the playbooks want."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.source = topology.source
        self.replicas = topology.replicas
        self.root = topology.root / "ansible"
        self.root.mkdir()
        self.backups = self.root / "backups"

    def inventory(self, *servers: Server, group: str = "mysql_replicas", **variables: t.Any) -> Path:
        """Write an inventory of these servers (default: all replicas) and return its path."""
        content = inventory(self.root, servers or self.replicas, group=group, **variables)
        return write_inventory(self.root / f"inventory-{uuid.uuid4().hex[:8]}.yml", content)

    def set_directories(self, server: Server) -> list[Path]:
        """Return the finished sets of one server at the destination, oldest first."""
        return sorted(path.parent for path in (self.backups / server.name).glob("*/manifest.json"))
