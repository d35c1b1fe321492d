# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a restore reads a set from. Whatever it is, the data pass once, front to back, and no second copy is kept."""

from __future__ import annotations

import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.backup_set import BackupSet, open_set
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.reader import Reader


class Feed(t.Protocol):
    """A set within reach. ``where`` names it for people; ``backup`` has its manifest on this host.

    ``part_on_disk`` says whether the data file can be opened a second time (to look at one that is damaged).
    """

    where: str
    backup: BackupSet
    part_on_disk: bool

    def reader(self) -> Reader:
        """Open the data: once only. Raises RefusedError when what unpacks them is missing on this host."""

    def close(self) -> None:
        """Remove what was brought here for reading; safe at any time, also twice."""


class LocalFeed:
    """A set in a directory of this host, also a mounted one."""

    part_on_disk = True

    def __init__(self, directory: str) -> None:
        self.where = directory
        self.backup = open_set(directory)

    def reader(self) -> Reader:
        return self.backup.reader()

    def close(self) -> None:
        """Nothing was brought here."""
