# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the data of a clone lie: one private directory on each file system that has files of the server.

A clone that shares blocks with the originals must lie on their file system. In the spool, where that is the same one;
else beside a directory of the server; inside of it only where it is a mount point of its own, under a name that no
backup takes. There a MariaDB or MySQL 5.x server shows it among its databases for as long as it exists.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import CLONE_PREFIX, Exclusion


def in_spool(paths: SetPaths) -> str:
    """The store for what is copied."""
    return os.path.join(paths.work, "clone")


def on_device(device: int, roots: t.Sequence[str], paths: SetPaths) -> str:
    """A store on the file system ``device`` (``st_dev``), which has the directories ``roots``; nothing is made.

    Raises OSError when they cannot be looked at.
    """
    if os.stat(existing(paths.work)).st_dev == device:
        return in_spool(paths)
    name = CLONE_PREFIX + paths.tag
    for root in roots:
        parent = os.path.dirname(root)
        if os.stat(parent).st_dev == device:
            return os.path.join(parent, name)
    return os.path.join(roots[0], name)


def existing(path: str) -> str:
    """The directory itself or the nearest above it that is there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def exclusions(directories: t.Iterable[str]) -> tuple[Exclusion, ...]:
    """What keeps a clone that has to lie inside a directory of the server out of the list of files."""
    return tuple(
        Exclusion(path, "clone", "the clone that this backup is made from", "tree") for path in sorted(set(directories))
    )
