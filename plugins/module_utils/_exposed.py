# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else may exchange a directory of ours: anybody who may write in a directory on the way to it.

What the ledger says is executed with our rights, and what lies in the spool becomes a backup. The owner of the
database's files must not be able to put another directory there, nor a symbolic link.
"""

from __future__ import annotations

import os
import stat

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError


def on_the_way(path: str) -> list[str]:
    """Directories in which a name on the way to ``path`` stands, as it is written and with its links resolved."""
    found: dict[str, None] = {}
    for way in (os.path.abspath(path), fs.real(os.path.abspath(path))):
        while way != os.path.dirname(way):
            way = os.path.dirname(way)
            found[way] = None
    return list(found)


def by_whom(directory: str) -> str | None:
    """Who but root and this user may exchange names in it, in words; None: nobody, or it does not exist.

    In a directory with the sticky bit nobody may exchange what is another's (manual page inode(7)).
    """
    status = fs.follow(directory)
    if status is None:
        return None
    if status.st_uid not in (0, os.geteuid()):
        return f"its owner, user {status.st_uid}"
    if status.st_mode & stat.S_ISVTX:
        return None
    if status.st_mode & stat.S_IWOTH:
        return "everybody"
    if status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getegid()):
        return f"its group {status.st_gid}"
    return None


def refuse(path: str, variable: str, *, itself: bool = False) -> None:
    """Raise RefusedError when somebody else could exchange ``path``; with ``itself`` also a name in it."""
    for directory in on_the_way(os.path.join(path, "name") if itself else path):
        who = by_whom(directory)
        if who is not None:
            raise RefusedError(
                f"Somebody else could put another directory in the place of {path}",
                found=f"{directory}, in which {who} may rename and replace directories",
                expected=f"only root and user {os.geteuid()} may write in the directories on the way to it",
                server_state="running, untouched",
                next_command=f"set {variable} to a directory elsewhere, or change owner and mode of {directory}",
                rule="exposed_directory",
            )
