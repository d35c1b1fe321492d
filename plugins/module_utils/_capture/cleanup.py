# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a clone stands, and its removal, whatever state it is in. The ledger names all that may be there."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import (
    remove_if_there,
    remove_tree,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import volumes
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.volumes import Snapshot
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    ReplicaBackupError,
    recover_command,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger


def stands(ledger: Ledger) -> bool:
    """Whether the run has a complete clone that the archive is made from."""
    plan = ledger.data.get("clone") or {}
    # A copy that was not on disk yet when the host went down would be read as zeros, or not at all.
    return bool(plan.get("complete")) and not plan.get("removed") and plan.get("boot_id") == _ledger.boot_id()


def snapshots(ledger: Ledger) -> list[Snapshot]:
    """The snapshots of volumes that belong to the clone, as the ledger names them."""
    return [volumes.load(item["snapshot"]) for item in (ledger.data.get("clone") or {}).get("snapshots", ())]


def found(ledger: Ledger | None) -> list[str]:
    """What ``remove`` would remove, as far as a look at the disk can tell."""
    planned = (ledger.data.get("clone") if ledger is not None else None) or {}
    if planned.get("removed"):
        return []
    there = [store["directory"] for store in planned.get("stores", ()) if os.path.lexists(store["directory"])]
    taken = planned.get("snapshots", ()) if planned.get("complete") else ()
    return there + [_name(item) for item in taken]


def _name(item: t.Mapping[str, t.Any]) -> str:
    return f"the {item['snapshot'].get('kind', '')} snapshot of device {item['device']}"


def remove(ledger: Ledger) -> list[str]:
    """Remove all that belongs to the clone of this run; returns what was there. Nothing is done the second time.

    Goes on after a failure with what is left, and raises ReplicaBackupError in the end. A link in the place of a store
    is not followed but an error.
    """
    plan = ledger.data.get("clone")
    if not plan or plan.get("removed"):
        return []
    removed, problems = [], []
    for store in plan["stores"]:
        path = store["directory"]
        try:
            if remove_tree(path):
                removed.append(path)
        except (ReplicaBackupError, OSError) as problem:
            problems.append(f"{path}: {problem}")
    for item in plan["snapshots"]:
        try:
            if volumes.load(item["snapshot"]).remove():
                removed.append(_name(item))
        except (ReplicaBackupError, OSError) as problem:
            problems.append(str(problem))
    remove_if_there(plan["list"])
    plan["complete"] = False
    if problems:
        raise ReplicaBackupError(
            "A clone of the server's files could not be removed",
            found="; ".join(problems),
            expected="no clone left when the archive is made or given up",
            next_command=f"mend what is named here, then {recover_command(ledger.data.get('host'))}",
        )
    plan["removed"] = True
    _note(ledger)
    return removed


def _note(ledger: Ledger) -> None:
    """That nothing is left is good to know; a disk that takes no note does not bring it back."""
    if os.path.lexists(ledger.path):
        try:
            ledger.save()
        except OSError:
            return


def exclusions(plan: t.Mapping[str, t.Any]) -> list[str]:
    """Directories of the clone that may lie inside those of the server."""
    inside = [excluded for item in plan["snapshots"] for excluded in volumes.load(item["snapshot"]).excluded()]
    return sorted({store["directory"] for store in plan["stores"]} | set(inside))
