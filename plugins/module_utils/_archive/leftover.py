# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run that died has left in the spool: a backup that only lacks its proof, or something to remove.

``STATE_DIR/kept.json`` lists the complete sets that such runs left in the spool, until somebody has brought them away.
"""

from __future__ import annotations

import json
import os
import shlex
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import remove_tree
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.publish import publish_locked
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.request import Request
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import cleanup
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    RefusedError,
    ReplicaBackupError,
    recover_command,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger

NOTHING, COMPLETE, CAPTURED, UNFINISHED = "nothing", "complete", "captured", "unfinished"
_KEPT = "kept.json"


@dataclass(frozen=True)
class KeptSet:
    """A complete set in a spool of this host; ``set_dir`` is its directory."""

    spool_dir: str
    host: str
    backup_id: str

    @property
    def paths(self) -> SetPaths:
        return SetPaths(self.spool_dir, self.host, self.backup_id)

    def to_dict(self) -> dict[str, str]:
        return {**asdict(self), "set_dir": self.paths.directory}

    @property
    def next_command(self) -> str:
        return f"{recover_command(self.host)} brings it to the controller (with replica_backup_fetch=controller)"


@dataclass(frozen=True)
class Settled:
    """What became of it, in words; ``kept`` is the set that stays, if any."""

    words: tuple[str, ...]
    kept: KeptSet | None = None


def set_of(ledger: Ledger) -> KeptSet:
    data = ledger.data
    return KeptSet(data["spool_dir"], data["host"], data["backup_id"])


def look(ledger: Ledger) -> str:
    """COMPLETE: it has a manifest. CAPTURED: written whole from cold files, not yet proven. UNFINISHED: anything else.

    The capture writes the head of the manifest last, after it has seen once more that neither server nor dead-man
    had come to the files; a server that was started later does not spoil it.
    """
    paths = set_of(ledger).paths
    if os.path.lexists(paths.manifest):
        return COMPLETE
    if not os.path.lexists(paths.directory):
        return NOTHING
    clean = bool((ledger.data.get("clean_stop") or {}).get("clean"))
    return CAPTURED if clean and os.path.isfile(paths.head) else UNFINISHED


def foretell(ledger: Ledger) -> list[str]:
    """What ``settle`` would do, for check mode."""
    directory = set_of(ledger).paths.directory
    return {
        COMPLETE: [f"The set {directory} is complete and would be kept."],
        CAPTURED: [f"The archive {directory} is whole; it would be read back, proven and published there."],
        UNFINISHED: [f"The unfinished set {directory} would be removed."],
        NOTHING: [],
    }[look(ledger)]


def settle(ledger: Ledger) -> Settled:
    """Publish what is whole, remove what is not. The caller holds the lock; the server is back already.

    Raises ReplicaBackupError when the storage does not let a whole archive be proven or published: it stays as it is,
    and the next call tries again.
    """
    found, kept = look(ledger), set_of(ledger)
    directory = kept.paths.directory
    gone = [f"The clone {path} was removed." for path in cleanup.remove(ledger)]
    if found == NOTHING:
        return Settled(tuple(gone))
    if found == UNFINISHED:
        remove_tree(directory)
        return Settled((*gone, f"The unfinished set {directory} was removed."))
    try:
        if found == COMPLETE:
            remove_tree(kept.paths.work)
            done = "is complete and was kept"
        else:
            publish_locked(Request(paths=kept.paths, state_dir=ledger.state_dir))
            done = "had been captured whole; it was read back, proven and published, and is a complete backup"
    except (ReplicaBackupError, OSError) as problem:
        if isinstance(problem, OSError) or "errno" in problem.facts or isinstance(problem, RefusedError):
            raise _storage(problem, directory, kept.host) from problem
        remove_tree(directory)
        return Settled(
            (
                *gone,
                f"The archive {directory} did not pass its proof and was removed: {problem}",
            )
        )
    note(ledger.state_dir, kept)
    return Settled(
        (
            *gone,
            f"The set {directory} {done}.",
            f"It stays on this host until it is brought away: {kept.next_command}.",
        ),
        kept,
    )


def _storage(problem: Exception, directory: str, host: str) -> ReplicaBackupError:
    found = problem.message if isinstance(problem, ReplicaBackupError) else str(problem)
    return ReplicaBackupError(
        f"A whole archive of a run that died cannot be published in {directory}",
        found=found,
        expected="a spool that can be read and written",
        server_state="running, threads as before",
        next_command="mend the storage (room, permissions) or give the archive up: "
        f"rm -r {shlex.quote(directory)}; then {recover_command(host)}",
        server_restored=True,
    )


def note(state_dir: str, kept: KeptSet) -> None:
    """Remember a complete set that waits in the spool. A disk that takes no note does not spoil the set."""
    _write(state_dir, [*(other for other in _read(state_dir) if other != kept), kept])


def waiting(state_dir: str, *, check: bool = False) -> list[KeptSet]:
    """The sets that wait in spools of this host; those brought away since are forgotten (not in ``check``)."""
    noted = _read(state_dir)
    there = [kept for kept in noted if os.path.lexists(kept.paths.manifest)]
    if there != noted and not check:
        _write(state_dir, there)
    return there


def _write(state_dir: str, sets: t.Sequence[KeptSet]) -> None:
    try:
        _ledger.write_durably(os.path.join(state_dir, _KEPT), json.dumps([asdict(kept) for kept in sets]) + "\n")
    except OSError:
        # The set itself says that it is complete; only the recover playbook would not find it by itself.
        return


def _read(state_dir: str) -> list[KeptSet]:
    path = os.path.join(state_dir, _KEPT)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as handle:
            return [KeptSet(**item) for item in json.load(handle)]
    except (OSError, ValueError, TypeError):
        return []
