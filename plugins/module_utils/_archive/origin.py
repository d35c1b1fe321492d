# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an archive is made from: the files of a server that this run has stopped, or the clone that it took of them."""

from __future__ import annotations

import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _filelist, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.guard import (
    STOPPED,
    Guard,
    refuse_inside,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import ListedFile, read_records
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.request import Request
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import Readable, Source
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.writer import Watch, compare_again
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import cleanup, clone, room, throttle
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    RefusedError,
    ReplicaBackupError,
    recover_command,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery


class Origin(t.Protocol):
    """``step`` is what the archive counts as: "capture" costs downtime, "archive" does not."""

    step: str
    ledger: Ledger
    watch: Watch
    discovery: Discovery

    def open(self) -> t.ContextManager[Readable]: ...
    def entries(self) -> t.Iterable[ListedFile]: ...

    def compare(self, source: Readable, records_path: str, seen_path: str) -> None:
        """Raise when something has changed since it was read."""

    def check(self) -> None:
        """Raise when what is read is no cold copy any more."""

    def server_state(self) -> str:
        """How the server is when the archive fails."""

    def on_disk(self, size: int) -> int:
        """Of ``size`` bytes read, those that were on disk."""

    def release(self) -> list[str]:
        """The archive is whole; warnings."""


def source_of(discovery: Discovery) -> Source:
    """Reads the places of a discovery."""
    return Source(
        {place.name: place.root() for place in discovery.places},
        shared=[place.name for place in discovery.places if place.select != "tree"],
    )


class StoppedServer:
    """The files themselves; nothing but us may be at work on them."""

    step = "capture"

    def __init__(self, request: Request) -> None:
        self._guard = Guard(request)
        self._guard.enter()
        self.ledger = self._guard.ledger
        self.watch = self._guard.watch
        self.discovery = self._guard.discovery()
        refuse_inside(request, self.discovery)

    def open(self) -> t.ContextManager[Readable]:
        return source_of(self.discovery)

    def entries(self) -> t.Iterable[ListedFile]:
        return _filelist.retake(self.discovery)

    def compare(self, source: Readable, records_path: str, seen_path: str) -> None:
        walked = _filelist.walk(self.discovery)
        compare_again(walked, t.cast(Source, source), read_records(records_path), seen_path, self.watch)

    def check(self) -> None:
        self._guard.check()

    def server_state(self) -> str:
        return STOPPED

    def on_disk(self, size: int) -> int:
        return self._guard.on_disk(size)

    def release(self) -> list[str]:
        return []


def _copied(stores: t.Sequence[t.Mapping[str, t.Any]]) -> set[str]:
    """The stores whose data were all written by us."""
    shared = {store["directory"] for store in stores if store["by"] == "reflink"}
    return {store["directory"] for store in stores} - shared


class Clone:
    """What stood still while it was cloned; the server may be at work on the originals again."""

    step = "archive"

    def __init__(self, request: Request, ledger: Ledger) -> None:
        self.ledger = ledger
        self._plan = ledger.data["clone"]
        self._snapshots = cleanup.snapshots(ledger)
        self._room = room.watch(ledger)
        self.watch = Watch(self.check, pace=throttle.Pace(request.bytes_per_second).spend)
        self.discovery = _filelist.read_plan(request.paths.discovered)

    def open(self) -> t.ContextManager[Readable]:
        for snapshot in self._snapshots:
            snapshot.open()
        places = {place.name: place.root() for place in self.discovery.places}
        stores = self._plan["stores"]
        return clone.CloneSource(
            places,
            private=[store["directory"] for store in stores],
            written=_copied(stores),
        )

    def entries(self) -> t.Iterable[ListedFile]:
        return clone.read(self._plan["list"])

    def compare(self, source: Readable, records_path: str, seen_path: str) -> None:
        """Nobody but us writes to a clone."""

    def check(self) -> None:
        self._room()
        for snapshot in self._snapshots:
            snapshot.check()

    def server_state(self) -> str:
        return "started again before the archive began, and not touched since"

    def on_disk(self, size: int) -> int:
        return size

    def release(self) -> list[str]:
        try:
            cleanup.remove(self.ledger)
        except (ReplicaBackupError, OSError) as problem:
            return [f"The clone could not be removed and takes room until it is: {problem}"]
        return []


def of(request: Request) -> Origin:
    """The clone when this run has taken one, else the stopped server. Raises RefusedError when there is neither."""
    paths = request.paths
    ledger = _ledger.load_of(request.state_dir, paths)
    if ledger is None or not ledger.data.get("clone"):
        return StoppedServer(request)
    if not cleanup.stands(ledger):
        raise RefusedError(
            "The clone that this archive was to be made from does not stand",
            found="removed" if ledger.data["clone"].get("removed") else "not complete, or of an earlier boot",
            expected="a complete clone of this boot (mysql_replica_stop with a capture, or replica_snapshot)",
            next_command=recover_command(paths.host),
            rule="clone",
        )
    if not ledger.server_is_back:
        # What is noted from here on says that it serves: nobody would start it.
        raise RefusedError(
            "The clone stands, and its server has not been started yet",
            found=f"step {ledger.step}",
            expected="a server that serves while its clone is archived",
            server_state="stopped by this run",
            next_command="start the server with mysql_replica_start, then archive the clone",
            rule="clone",
        )
    return Clone(request, ledger)
