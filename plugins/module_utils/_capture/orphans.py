# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clones that no ledger knows any more: it was lost, or removed by hand, before the clone was.

They are told of and never removed: what no ledger names may be somebody else's. They take room, and those that share
their blocks with the server's files take more with every change.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import BACKUP_ID_PATTERN, SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import CLONE_PREFIX

# What a subvolume's top directory has for its inode (btrfs(5)).
_TOP_INODE = 256
_TAG = re.compile(re.escape(CLONE_PREFIX) + r"\d{8}T\d{6}Z-([0-9a-f]{8})")


def warnings(roots: t.Iterable[str], paths: SetPaths | None) -> list[str]:
    """A warning for each such clone, with the command that removes it. To be called while no run is open.

    It is looked for in and above the directories ``roots`` of the server, and among the unfinished sets in the spool of
    ``paths``, without its own. Never raises: this is no reason to do without a backup.
    """
    found = [path for path in _beside(roots) if paths is None or _may_be_ours(path, paths)]
    with contextlib.suppress(OSError):
        found += _in_spool(paths) if paths is not None else ()
    return [_words(path) for path in dict.fromkeys(found)]


def after(ledger: Ledger | None, login: Login) -> list[str]:
    """The same when a run is finished, or when there is none: ``ledger`` is the last that is known.

    Without one the server is asked where its data are.
    """
    datadir = (ledger.data.get("server") or {}).get("datadir") if ledger is not None else None
    if ledger is not None and datadir:
        data = ledger.data
        return warnings([str(datadir)], SetPaths(data["spool_dir"], data["host"], data["backup_id"]))
    with contextlib.suppress(ReplicaBackupError), _connection.connect(login) as session:
        return warnings([session.variables()["datadir"]], None)
    return []


def _may_be_ours(path: str, paths: SetPaths) -> bool:
    """Stores have the mark of their host and spool, and another server of this host may have one at work."""
    tag = _TAG.fullmatch(os.path.basename(path))
    return tag is None or paths.tag.endswith(tag[1])


def _beside(roots: t.Iterable[str]) -> t.Iterator[str]:
    looked: set[str] = set()
    for root in sorted(set(roots)):
        path = os.path.realpath(root)
        while path not in looked:
            looked.add(path)
            for name in _names(path):
                if name.startswith(CLONE_PREFIX) and _is_directory(os.path.join(path, name)):
                    yield os.path.join(path, name)
            path = os.path.dirname(path)


def _in_spool(paths: SetPaths) -> t.Iterator[str]:
    for backup_id in _names(os.path.join(paths.root, paths.host)):
        if backup_id == paths.backup_id or not BACKUP_ID_PATTERN.match(backup_id):
            continue
        work = SetPaths(paths.root, paths.host, backup_id).work
        for name in _names(work):
            path = os.path.join(work, name)
            if (name == "clone" or name.startswith(CLONE_PREFIX[1:])) and _is_directory(path):
                yield path


def _names(directory: str) -> list[str]:
    with contextlib.suppress(OSError):
        return fs.names(directory)
    return []


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _words(path: str) -> str:
    if _is_subvolume(path):
        commands = [f"btrfs subvolume delete {shlex.quote(path)}"]
    else:
        inner = [os.path.join(path, name) for name in _names(path) if name.startswith(CLONE_PREFIX[1:])]
        commands = [f"btrfs subvolume delete {shlex.quote(top)}" for top in inner if _is_subvolume(top)]
        commands.append(f"rm -r {shlex.quote(path)}")
    return (
        f"{fs.printable(path)} is a clone of an earlier backup that no ledger knows any more. It takes room, and is in"
        " no backup. When no backup of another server of this host is at work, remove it: " + " && ".join(commands)
    )


def _is_subvolume(path: str) -> bool:
    try:
        status, parent = os.lstat(path), os.lstat(os.path.dirname(path))
    except OSError:
        return False
    return status.st_ino == _TOP_INODE and status.st_dev != parent.st_dev
