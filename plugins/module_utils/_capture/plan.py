# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which capture: decided from the file systems, the room, and the seconds that each would take."""

from __future__ import annotations

import contextlib
import math
import os
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._budget import Prediction, in_bytes
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import room, stores, volumes
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.volumes import Snapshot, Volume
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery

AUTO = "auto"
COLD, SNAPSHOT, STAGED, COPY = "cold", "snapshot", "staged", "copy"
CAPTURES = (COLD, SNAPSHOT, STAGED, COPY)
# What a file system that cannot be cloned may hold at most and still be copied within a snapshot's window, in bytes:
# option files, status files, an interrupted LOAD DATA.
_LITTLE = 64 * 1024 * 1024
# A cold archive of so many seconds at most is not worth a second copy of the data.
_QUICK = 5.0
# Of a host that nothing was measured on, an archive of so many bytes is taken to be that quick.
EASY_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class Means:
    """How the files of one file system would be cloned at once.

    ``by``: "reflink", "btrfs", "lvm", "zfs", "copy" (little enough to be copied in the window) or "" (not at all, and
    ``why``). ``bytes`` is about what they take.
    """

    volume: Volume
    bytes: int
    by: str
    why: str = ""
    store: str = ""
    snapshot: Snapshot | None = None

    def text(self) -> str:
        where = ", ".join(self.volume.roots)
        if not self.by:
            return self.why_not()
        how = {"copy": f"copied, {in_bytes(self.bytes)}", "reflink": "by reflink"}.get(self.by, f"{self.by} snapshot")
        return f"{where} ({self.volume.fs_type}) {how}"

    def why_not(self) -> str:
        """Why it cannot be cloned at once, in words."""
        return f"{', '.join(self.volume.roots)} ({self.volume.fs_type}) cannot be cloned: {self.why}"


def look(discovery: Discovery, sizes: t.Mapping[str, int], paths: SetPaths, *, size_percent: int) -> tuple[Means, ...]:
    """The means for each file system that has files of the server. Changes nothing.

    ``sizes`` has the bytes of each place; ``size_percent`` is the room for a classic LVM snapshot in percent of its
    origin.
    """
    roots = [(place.root(), sizes.get(place.name, 0)) for place in discovery.places]
    return tuple(
        _means(volume, _bytes_on(volume, roots), paths, size_percent) for volume in volumes.volumes_of(discovery)
    )


def _bytes_on(volume: Volume, places: t.Sequence[tuple[str, int]]) -> int:
    """About the bytes that the places (root, size) have on a file system, and what is mounted below one of them."""
    size = 0
    for root, place_size in places:
        with contextlib.suppress(OSError):
            # One that lies in another place of the same file system is no root of the volume.
            size += place_size if os.lstat(root).st_dev == volume.device else 0
    known = {root for root, _place_size in places}
    return size + sum(_size(root) for root in volume.roots if root not in known)


def _size(root: str) -> int:
    """About the bytes of a file or directory that is mounted below a place; counted until it is too much."""
    size = os.lstat(root).st_size
    for directory, _names, files in os.walk(root):
        for name in files:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(directory, name)).st_size
        if size > _LITTLE:
            break
    return size


def _means(volume: Volume, size: int, paths: SetPaths, size_percent: int) -> Means:
    snapshot, why = volumes.find(volume, backup_id=paths.tag, work=paths.work, size_percent=size_percent)
    # Its cost does not grow with the number of files and extents, as that of a reflink does.
    if snapshot is not None and snapshot.kind != "lvm":
        return Means(volume, size, snapshot.kind, snapshot=snapshot)
    store = stores.on_device(volume.device, volume.roots, paths)
    full = ""
    if volumes.shares_blocks(stores.existing(os.path.dirname(store)), *volume.roots):
        full = room.refusal(store)
        if not full:
            return Means(volume, size, "reflink", store=store)
    if snapshot is not None:
        return Means(volume, size, snapshot.kind, snapshot=snapshot)
    if size <= _LITTLE:
        return Means(
            volume, size, "copy", full or f"its files share no blocks, and {why}", store=stores.in_spool(paths)
        )
    return Means(volume, size, "", full or f"its files share no blocks, and {why}")


@dataclass(frozen=True)
class Facts:
    """What a capture is chosen by; sizes in bytes.

    ``copied_bytes``: what a copy of the data takes, ``data_bytes`` unless given. ``reserve_bytes``: what a backup from
    a running server has to leave free in the spool.
    ``stays_down``: the server is not started before the set has reached its destination. ``predicted``: the downtime of
    each capture, as far as it is known; ``budget``: the seconds of downtime that are allowed.
    """

    asked: str
    stays_down: bool
    means: tuple[Means, ...]
    data_bytes: int
    archive_bytes: int
    free_bytes: int
    predicted: t.Mapping[str, Prediction | None] = field(default_factory=dict)
    budget: float = math.inf
    copied_bytes: int | None = None
    reserve_bytes: int = 0

    @property
    def to_copy(self) -> int:
        return self.data_bytes if self.copied_bytes is None else self.copied_bytes

    def seconds(self, capture: str) -> float | None:
        """The predicted downtime, where it is known."""
        prediction = self.predicted.get(capture)
        return None if prediction is None else prediction.seconds


@dataclass(frozen=True)
class Choice:
    """The capture, why, and what it takes.

    ``extra_bytes``: room in the spool beside the archive; ``reserve_bytes``: what has to be left free there.
    ``predicted``: seconds of downtime by capture, of those that are known.
    """

    capture: str
    why: str
    means: tuple[Means, ...] = ()
    extra_bytes: int = 0
    reserve_bytes: int = 0
    predicted: t.Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, t.Any]:
        return {
            "capture": self.capture,
            "why": self.why,
            "predicted": dict(self.predicted),
            "by": [{"roots": list(means.volume.roots), "by": means.by} for means in self.means],
        }


def choose(facts: Facts) -> Choice:
    """The capture that was asked for, or with "auto" the quickest that the host can do.

    Raises RefusedError when the one that was asked for is not possible.
    """
    if facts.asked == AUTO:
        known = {name: seconds for name in CAPTURES if (seconds := facts.seconds(name)) is not None}
        return replace(_auto(facts), predicted=known)
    if facts.asked == COLD:
        return Choice(COLD, "asked for")
    if facts.stays_down:
        raise _refused(
            f"A {facts.asked} capture starts the server before the set leaves the host",
            "replica_backup_restart_after=fetch",
            "replica_backup_restart_after=archive, or replica_backup_capture=cold",
        )
    if facts.asked == SNAPSHOT:
        why_not = cannot(facts.means)
        if why_not:
            raise _refused(
                "Not every file system of the server can be cloned",
                "; ".join(why_not),
                "file systems that share blocks between files (XFS with reflink, btrfs), or snapshots of the volume"
                " (btrfs, LVM, ZFS); else replica_backup_capture=staged, copy or cold",
            )
        return Choice(SNAPSHOT, "asked for", facts.means, reserve_bytes=facts.reserve_bytes)
    return Choice(facts.asked, "asked for", extra_bytes=facts.to_copy, reserve_bytes=facts.reserve_bytes)


def cannot(means: tuple[Means, ...]) -> list[str]:
    """Why these are no snapshot, in words; empty when they are."""
    found = [one.text() for one in means if not one.by]
    if found or any(one.by != "copy" for one in means):
        return found
    # To copy all there is, however little, is no snapshot.
    return [one.why_not() for one in means] or ["no file system of the server is known"]


def _auto(facts: Facts) -> Choice:
    """The first of those that are possible, the best first, that is not predicted to exceed the budget.

    When all are, the quickest: the guard that judges the budget speaks then.
    """
    passed: list[str] = []
    possible = list(_possible(facts))
    for choice in possible:
        seconds = facts.seconds(choice.capture)
        if seconds is None or seconds <= facts.budget:
            return replace(choice, why="; ".join([*passed, choice.why]))
        if len(possible) > 1:
            words = f"{choice.capture} is predicted to take {seconds:.0f} s, more than the downtime budget"
            passed.append(f"{words} ({facts.budget:g} s)")
    return min(possible, key=lambda choice: facts.seconds(choice.capture) or 0.0)


def _possible(facts: Facts) -> t.Iterator[Choice]:
    """The captures that the host can do and that are worth it, the best first; a cold archive always is."""
    if facts.stays_down:
        yield Choice(COLD, "the server stays down until the set has reached its destination")
        return
    why_not = cannot(facts.means)
    beside = facts.archive_bytes + facts.reserve_bytes
    if not why_not and facts.reserve_bytes and facts.free_bytes < beside:
        why_not = [
            f"{in_bytes(facts.free_bytes)} are free in the spool, which the server shares: an archive that is made"
            f" while it serves needs {in_bytes(beside)}"
        ]
    reason = ""
    if not why_not:
        how = "; ".join(means.text() for means in facts.means)
        yield Choice(SNAPSHOT, how, facts.means, reserve_bytes=facts.reserve_bytes)
    else:
        reason = f"{why_not[0]}; "
    cold = facts.predicted.get(COLD)
    if cold is None and facts.data_bytes <= EASY_BYTES:
        yield Choice(COLD, f"{reason}{in_bytes(facts.data_bytes)} are archived quickly")
        return
    if cold is not None and cold.seconds <= _QUICK:
        yield Choice(COLD, f"{reason}a cold archive is quick enough: {cold.text()}")
        return
    needed = beside + facts.to_copy
    if facts.free_bytes < needed:
        yield Choice(
            COLD,
            f"{reason}a staged copy needs {in_bytes(needed)} in the spool, {in_bytes(facts.free_bytes)} are free",
        )
        return
    instead = f" instead of {cold.seconds:.0f} s for a cold archive" if cold is not None else ""
    yield Choice(
        STAGED,
        f"{reason}the spool has room for a copy, so that only what changes meanwhile takes downtime{instead}",
        extra_bytes=facts.to_copy,
        reserve_bytes=facts.reserve_bytes,
    )
    yield Choice(COLD, f"{reason}a cold archive needs no copy")


def _refused(message: str, found: str, expected: str) -> RefusedError:
    return RefusedError(
        message,
        found=found,
        expected=expected,
        server_state="running, untouched",
        next_command="set replica_backup_capture to auto, which takes the quickest that the host can do",
        rule="capture",
        variable="replica_backup_capture",
    )


def to_clone(choice: Choice, paths: SetPaths) -> dict[str, t.Any]:
    """What the ledger says of a clone before anything of it is made; empty for a cold capture.

    ``stores`` and ``snapshots`` name everything that has to be removed.
    """
    if choice.capture == COLD:
        return {}
    if choice.capture == SNAPSHOT:
        kept = [
            {"device": means.volume.device, "by": means.by, "directory": means.store}
            for means in choice.means
            if means.snapshot is None
        ]
        # For what lies where nobody knew of it before the stop: a table in a new directory, a rescued file.
        kept.append({"device": None, "by": COPY, "directory": stores.in_spool(paths)})
        taken = [
            {"device": means.volume.device, "snapshot": means.snapshot.to_dict()}
            for means in choice.means
            if means.snapshot is not None
        ]
    else:
        kept, taken = [{"device": None, "by": choice.capture, "directory": stores.in_spool(paths)}], []
    return {
        "capture": choice.capture,
        "why": choice.why,
        "list": os.path.join(paths.work, "clone.jsonl"),
        "stores": kept,
        "snapshots": taken,
        "complete": False,
    }
