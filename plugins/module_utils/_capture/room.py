# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The room that a backup leaves to a server that serves meanwhile, on the file systems that both write to.

Files that share their blocks with a clone take new ones for all that is written to them, in place too; a copy or an
archive in the server's own file system takes its room directly. A server whose disk is full stops or dies.
"""

from __future__ import annotations

import os
import time
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _filelist, _guards
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import mounts, stores
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.mounts import Mount
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.tools import Room
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery

# Seconds between two looks, however often it is asked: far less than a disk takes to write half of what is left free.
_EVERY = 0.5
# They may have less on disk than a file has bytes, without a hole in it.
_COMPRESSING = frozenset({"btrfs", "zfs"})


def refusal(store: str) -> str:
    """Why a clone that shares blocks may not be kept in the directory ``store``; "" when it may. Raises OSError."""
    return Room.of(stores.existing(os.path.dirname(store))).refusal()


def reserve(discovery: Discovery, paths: SetPaths) -> int:
    """Bytes that a backup from a running server must leave free in the spool; 0 when no file of the server is there.

    Of what ``_guards.free_bytes`` counts, which for root are blocks as well that the server's account may not use.
    """
    spool = stores.existing(paths.root)
    if not _shared(spool, discovery):
        return 0
    room = Room.of(spool)
    return room.least + max(0, _guards.free_bytes(spool) - room.available)


def is_compressing(discovery: Discovery) -> bool:
    """Whether a file system of the server may hold files in less room than a copy of them takes."""
    return any(mount.fs_type in _COMPRESSING for mount in _mounts_of(discovery))


def watch(ledger: Ledger) -> t.Callable[[], None]:
    """What raises before the clone of this run, or what is made from it, fills a disk of the server.

    ReplicaBackupError of rule "snapshot_overflow": the clone has to be removed at once. Cheap enough to be called at
    every turn. What cannot be looked at is not watched.
    """
    plan = ledger.data.get("clone") or {}
    watched: dict[str, str] = {}
    for store in plan.get("stores", ()):
        if store["by"] == "reflink":
            watched[os.path.dirname(store["directory"])] = "a clone holds back what the server has changed since"
    paths = SetPaths(ledger.data["spool_dir"], ledger.data["host"], ledger.data["backup_id"])
    if plan and os.path.exists(paths.discovered):
        discovery, listed = _filelist.read_list(paths.discovered)
        t.cast("t.Generator[t.Any, None, None]", listed).close()
        if _shared(stores.existing(paths.root), discovery):
            watched.setdefault(paths.root, "the spool lies in the file system of the server")
    return _Watch(watched)


class _Watch:
    def __init__(self, watched: t.Mapping[str, str]) -> None:
        self._watched = watched
        self._next = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY
        for path, why in self._watched.items():
            Room.of(stores.existing(path)).check(f"The file system of {fs.printable(path)}", why)


def _shared(directory: str, discovery: Discovery) -> bool:
    """Whether a directory takes its room from where the server's files have theirs."""
    mount = mounts.mount_of(directory)
    return mount is not None and _source(mount) in {_source(other) for other in _mounts_of(discovery)}


def _source(mount: Mount) -> str:
    # All datasets of a pool of ZFS have their room from the pool.
    return mount.source.partition("/")[0] if mount.fs_type == "zfs" else mount.device


def _mounts_of(discovery: Discovery) -> list[Mount]:
    """The mounts that have files of the server."""
    roots = [root for root in (place.root() for place in discovery.places) if fs.follow(root) is not None]
    found = [mount for mount in map(mounts.mount_of, roots) if mount is not None]
    return found + [
        mount for mount in mounts.mounts() if any(fs.below(mount.point, root) is not None for root in roots)
    ]
