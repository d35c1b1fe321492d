# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clone the files of a stopped server by the plan in the ledger, so that it can be started at once; remove clones."""

from __future__ import annotations

import contextlib
import os
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _budget, _filelist, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.guard import (
    STOPPED,
    Guard,
    refuse_inside,
    storage_errors,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.origin import source_of
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import make_private_directory
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.request import Request
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._budget import Way
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import cleanup, clone, finishing, stores
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.plan import STAGED
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.volumes import Snapshot
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    RefusedError,
    ReplicaBackupError,
    recover_command,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery

_DUPLICATE: t.Mapping[str, clone.Duplicate] = {"reflink": clone.reflink, "copy": clone.copy}


@dataclass(frozen=True)
class Outcome:
    """A clone that stands: names in it, logical bytes, seconds that it took while the server was down."""

    kind: t.ClassVar[str] = "clone"

    capture: str
    why: str
    files: int
    bytes: int
    seconds: float
    changed: bool = True
    details: t.Mapping[str, t.Any] | None = None

    def to_result(self) -> dict[str, t.Any]:
        return {
            "changed": self.changed,
            "capture": self.capture,
            "why": self.why,
            "files": self.files,
            "bytes": self.bytes,
            "seconds": self.seconds,
            **(self.details or {}),
        }


def way(capture: str) -> Way:
    """What decides how long such a clone takes: nothing of the archive's."""
    return Way(capture=capture, format="", compression="")


def take(request: Request) -> Outcome:
    """Clone the files of the stopped server as the ledger's plan says.

    Takes the lock of the state directory. Raises RefusedError with nothing touched, or ReplicaBackupError; what was
    made by then is for :func:`tidy`, when the server is back. A clone that stands already is left as it is.
    """
    with storage_errors(request), _ledger.locked(request.state_dir, who="replica_snapshot"):
        known = _ledger.load_of(request.state_dir, request.paths)
        if known is not None and cleanup.stands(known):
            return Outcome(**{**known.data["clone"]["outcome"], "changed": False})
        return _take_locked(request)


def plan(request: Request) -> dict[str, t.Any]:
    """For check mode: what would be cloned. Raises RefusedError when the run has planned a cold capture."""
    ledger = _ledger.load_of(request.state_dir, request.paths)
    if ledger is None:
        # In check mode nobody has stopped it.
        return {"changed": True, "capture": "", "why": "decided when the server is stopped"}
    planned = ledger.data.get("clone")
    if not planned:
        raise _no_plan(ledger)
    return {"changed": not planned["complete"], "capture": planned["capture"], "why": planned["why"]}


def remove(request: Request, *, check: bool = False) -> list[str]:
    """Remove the clone of this run; what was there, or with ``check`` would be removed. Raises ReplicaBackupError."""
    if check:
        return cleanup.found(_ledger.load_of(request.state_dir, request.paths))
    with _ledger.locked(request.state_dir, who="replica_snapshot"):
        ledger = _ledger.load_of(request.state_dir, request.paths)
        return [] if ledger is None else cleanup.remove(ledger)


def _no_plan(ledger: Ledger) -> RefusedError:
    return RefusedError(
        "This run has no plan for a clone",
        found=f"capture {(ledger.data.get('capture') or {}).get('capture', 'cold')}",
        expected="mysql_replica_stop with capture snapshot, staged or copy",
        server_state=STOPPED,
        next_command="archive the files with replica_archive, or "
        f"{recover_command(ledger.data.get('host'))} and stop the server with another capture",
        rule="capture",
    )


def tidy(state_dir: str) -> None:
    """Remove what a clone that failed has left, once the server is back: it must not wait for this. Never raises.

    What cannot be removed stands in the ledger, and the recovery tries again.
    """
    with contextlib.suppress(ReplicaBackupError, OSError), _ledger.locked(state_dir, who="replica_snapshot"):
        ledger = _ledger.load(state_dir)
        if ledger is not None and not cleanup.stands(ledger):
            cleanup.remove(ledger)


def _take_locked(request: Request) -> Outcome:
    guard = Guard(request)
    guard.enter()
    ledger = guard.ledger
    planned = ledger.data.get("clone")
    if not planned:
        raise _no_plan(ledger)
    discovery = guard.discovery()
    refuse_inside(request, discovery)
    _clear_earlier(ledger, planned)
    ledger.begin("capture")
    clock = time.monotonic()
    try:
        with storage_errors(request):
            count, details = _make(request, discovery, planned, guard)
    except BaseException as problem:
        if isinstance(problem, ReplicaBackupError) and problem.server_state is None:
            problem.server_state = STOPPED
        if getattr(problem, "facts", {}).get("rule") == "downtime_budget":
            # The next run is to know before the stop what this one found out during it.
            spent, done = time.monotonic() - clock, guard.on_disk(guard.watch.done)
            _budget.note_capture(ledger, way(planned["capture"]), done, spent, whole=False)
            ledger.end("capture", must=False)
        if isinstance(problem, clone.CannotClone):
            raise _cannot(problem) from problem
        raise
    seconds = round(time.monotonic() - clock, 3)
    outcome = Outcome(planned["capture"], planned["why"], count, guard.watch.done, seconds, details=details)
    ledger.data["clone"] = {**planned, "complete": True, "boot_id": _ledger.boot_id(), "outcome": {**vars(outcome)}}
    _budget.note_capture(ledger, way(planned["capture"]), guard.on_disk(outcome.bytes), seconds)
    # One note for three things: every one costs a write to disk while the server is down.
    ledger.end("capture", must=False, save=False)
    ledger.hand_on()
    return outcome


def _clear_earlier(ledger: Ledger, planned: dict[str, t.Any]) -> None:
    """What an earlier attempt of the same run has left must not be taken for a part of this one."""
    if planned.get("attempted"):
        planned["removed"] = False
        cleanup.remove(ledger)
    planned.update(attempted=True, removed=False, complete=False)


def _cannot(problem: clone.CannotClone) -> ReplicaBackupError:
    return ReplicaBackupError(
        "A file could not be cloned, although its file system had shared blocks when it was tried",
        found=str(problem),
        expected="FICLONE to succeed for every file (no swap file, no DAX, no other mount in between)",
        server_state=STOPPED,
        next_command="set replica_backup_capture to staged or cold, then start the backup again",
        rule="capture",
    )


def _make(
    request: Request, discovery: Discovery, plan: t.Mapping[str, t.Any], guard: Guard
) -> tuple[int, dict[str, t.Any]]:
    tick = guard.watch.tick
    snapshots = cleanup.snapshots(guard.ledger)
    discovery = replace(discovery, exclusions=(*discovery.exclusions, *stores.exclusions(cleanup.exclusions(plan))))
    for path in (os.path.dirname(request.paths.directory), request.paths.directory, request.paths.work):
        make_private_directory(path)
    with contextlib.ExitStack() as closing:
        source = closing.enter_context(source_of(discovery))
        listing = clone.Listing(plan["list"])
        closing.callback(listing.close)
        entries = _filelist.retake(discovery)
        if plan["capture"] == STAGED:
            count, details = finishing.finish(entries, source, plan["stores"][0]["directory"], listing, tick)
        else:
            means = _Means(plan, snapshots)
            closing.callback(means.close)
            count, details = clone.take(entries, source, means, listing, tick), {}
        listing.write_line(clone.end_of_list(count))
        listing.close()
        # Before the snapshots, one of which may have to lie inside a directory of the server.
        clone.compare_originals(plan["list"], source, tick)
        for snapshot in snapshots:
            snapshot.take()
        guard.check()
    return count, details


class _Means:
    """The means of the plan by device; where all is copied, the same for all devices."""

    def __init__(self, plan: t.Mapping[str, t.Any], snapshots: t.Sequence[Snapshot]) -> None:
        # Two file systems may share the store in the spool.
        self._stores: dict[str, clone.Store] = {}
        self._by_device: dict[int | None, clone.Means] = {}
        for store in plan["stores"]:
            path = store["directory"]
            into = self._stores[path] = self._stores.get(path) or clone.Store(path)
            self._by_device[store["device"]] = clone.Numbered(into, _DUPLICATE[store["by"]])
        for item, snapshot in zip(plan["snapshots"], snapshots):
            self._by_device[item["device"]] = clone.Within(snapshot)

    def __call__(self, device: int) -> clone.Means:
        return self._by_device.get(device) or self._by_device[None]

    def close(self) -> None:
        for store in self._stores.values():
            store.close()
