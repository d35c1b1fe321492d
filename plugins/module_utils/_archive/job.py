# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive step as a whole: capture from the stopped server, then prove and publish, or remove."""

from __future__ import annotations

import contextlib
import os
import stat
import time
import typing as t
from dataclasses import asdict, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _budget, _filelist, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import manifest
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.compress import Compressor
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import (
    COPY,
    FORMATS,
    open_output,
    part_name,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.guard import Guard
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import (
    PARTIAL_SUFFIX,
    HashedFile,
    Part,
    make_private_directory,
    remove_if_there,
    remove_tree,
    storage_error,
    sync_directory,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.publish import (
    nothing_captured,
    outcome_of,
    publish_locked,
    read_head,
    real_directories,
    write_head,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import read_records
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.request import Outcome, Request
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import Source
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.writer import (
    Notes,
    Totals,
    compare_again,
    write_files,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import MANIFEST_NAME, SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery

# What the step is asked and what it tells are its callers' words, too.
__all__ = ["Outcome", "Request", "capture", "plan", "present", "publish", "remove"]

_SEEN_NAME = "seen"
_STOPPED = "stopped by this run, clean; nothing has started it yet"


def plan(request: Request, state: str) -> Outcome:
    """Check mode: everything that can be refused without touching anything is refused; no file is read."""
    paths = request.paths
    if state == "absent":
        return Outcome(changed=os.path.lexists(paths.directory), set_dir=paths.directory)
    published = os.path.lexists(paths.manifest)
    if state == "published":
        if not published and not os.path.exists(paths.head):
            raise nothing_captured(paths)
        return Outcome(changed=not published, set_dir=paths.directory)
    _refuse_existing(paths)
    request.compressor()
    _check_form(request)
    return Outcome(changed=not os.path.exists(paths.head), set_dir=paths.directory)


def capture(request: Request) -> Outcome:
    """Archive the files of the stopped server into the set's directory: data, sums and work files; no manifest yet.

    Takes the lock of the state directory. Captured already by this run: nothing is done. Raises
    :class:`RefusedError` with nothing touched, or :class:`ReplicaBackupError` with everything partial removed.
    """
    _check_form(request)
    with _storage_errors(request), _ledger.locked(request.state_dir, who="replica_archive"):
        return _capture_locked(request)


def publish(request: Request) -> Outcome:
    """Read back what was captured, prove it, write the manifest last, remove the work files.

    The server may run again. A set that is published already is left alone.
    """
    with _storage_errors(request), _ledger.locked(request.state_dir, who="replica_archive"):
        return publish_locked(request)


def present(request: Request) -> Outcome:
    """Capture and publish in one go."""
    _check_form(request)
    with _storage_errors(request), _ledger.locked(request.state_dir, who="replica_archive"):
        first = _capture_locked(request)
        second = publish_locked(request)
    return replace(second, changed=first.changed or second.changed)


def remove(request: Request) -> Outcome:
    """Remove the set's directory below the spool, finished or not. True in ``changed`` when there was one."""
    paths = request.paths
    with _storage_errors(request), _ledger.locked(request.state_dir, who="replica_archive"):
        real_directories(paths)
        if os.path.lexists(paths.manifest):
            # Without its manifest a set is none: a removal that is cut short must not leave half a backup.
            os.unlink(paths.manifest)
            sync_directory(paths.directory)
        return Outcome(changed=remove_tree(paths.directory), set_dir=paths.directory)


@contextlib.contextmanager
def _storage_errors(request: Request) -> t.Iterator[None]:
    """Whatever a disk refuses where nobody looked for it is told like every other failure of the storage."""
    try:
        yield
    except OSError as problem:
        raise storage_error(problem, os.fsdecode(problem.filename or request.paths.directory), 0) from problem


def _check_form(request: Request) -> None:
    if request.form not in FORMATS:
        raise RefusedError("Unknown archive format", found=repr(request.form), expected=", ".join(FORMATS))


def _refuse_existing(paths: SetPaths) -> None:
    if os.path.lexists(paths.manifest):
        raise RefusedError(
            f"This backup id exists already: {paths.backup_id}",
            found=paths.manifest,
            expected="a backup id of which there is no set yet",
            next_command="take another backup id, or remove the set with state=absent",
            rule="backup_id",
        )


def _capture_locked(request: Request) -> Outcome:
    paths = request.paths
    _refuse_existing(paths)
    real_directories(paths)
    if os.path.exists(paths.head):
        return _already_captured(request)
    compressor = request.compressor()
    guard = Guard(request)
    try:
        guard.check()
    except ReplicaBackupError as problem:
        raise RefusedError(
            problem.message,
            found=problem.found,
            expected=problem.expected,
            server_state=problem.server_state,
            next_command=problem.next_command,
            **problem.facts,
        ) from problem
    discovery, listed = _filelist.read_list(paths.discovered)
    listed.close()  # type: ignore[attr-defined]
    discovery = replace(
        discovery, required=tuple(dict.fromkeys((*discovery.required, *guard.ledger.data.get("required_files", ()))))
    )
    _refuse_inside(request, discovery)
    ledger = guard.ledger
    ledger.begin("capture")
    clock = time.monotonic()
    try:
        with _storage_errors(request):
            head, totals, parts = _write_set(request, discovery, compressor, guard)
    except BaseException as problem:
        if isinstance(problem, ReplicaBackupError) and problem.server_state is None:
            problem.server_state = _STOPPED
        # What cannot be removed now (the disk has failed) is no set without a manifest; the cause is what counts.
        with contextlib.suppress(OSError):
            _remove_partial(paths)
        if getattr(problem, "facts", {}).get("rule") == "downtime_budget":
            # The next run is to know before the stop what this one found out during it.
            size = _on_disk(ledger, guard.watch.done)
            _budget.note_capture(ledger, request.way, size, time.monotonic() - clock, whole=False)
            ledger.end("capture", must=False)
        raise
    fresh = _ledger.load(request.state_dir)
    if fresh is not None and fresh.run_id == ledger.run_id:
        fresh.data["times"]["capture"] = ledger.data["times"]["capture"]
        size = _on_disk(ledger, totals.bytes)
        _budget.note_capture(fresh, request.way, size, time.monotonic() - clock)
        # The capture is whole; a disk that takes no more notes does not undo it.
        fresh.end("capture", must=False)
        fresh.hand_on(must=False)
    return Outcome(
        changed=True,
        set_dir=paths.directory,
        parts=parts,
        files=totals.count,
        bytes=totals.bytes,
        times=head["times"],
        places={name: asdict(place) for name, place in totals.places.items()},
        warnings=tuple(head["warnings"]),
    )


def _on_disk(ledger: _ledger.Ledger, size: int) -> int:
    """Of ``size`` bytes read, those that were on disk: the rest are holes, which cost next to nothing."""
    planned = ledger.data.get("budget") or {}
    share = planned.get("allocated", 0) / planned["bytes"] if planned.get("bytes") else 1.0
    return int(size * min(1.0, share))


def _write_set(
    request: Request, discovery: Discovery, compressor: Compressor | None, guard: Guard
) -> tuple[dict[str, t.Any], Totals, tuple[dict[str, t.Any], ...]]:
    paths = request.paths
    start, clock = _ledger.utc(), time.monotonic()
    make_private_directory(os.path.dirname(paths.directory))
    make_private_directory(paths.directory)
    make_private_directory(paths.work)
    _remove_partial(paths)
    watch = guard.watch
    with contextlib.ExitStack() as cleanup:
        notes = Notes(HashedFile(paths.files), HashedFile(paths.sums), HashedFile(os.path.join(paths.work, _SEEN_NAME)))
        for file in (notes.records, notes.sums, notes.seen):
            cleanup.callback(file.discard)
        source = cleanup.enter_context(
            Source(
                {place.name: place.root() for place in discovery.places},
                shared=[place.name for place in discovery.places if place.select != "tree"],
            )
        )
        output = open_output(
            paths.directory, request.form, request.observed_compression, compressor, request.level, watch.tick
        )
        try:
            totals = write_files(_filelist.retake(discovery), source, output, notes, watch)
            records, sums, seen = notes.records.publish(), notes.sums.publish(), notes.seen.publish()
            compare_again(
                _filelist.walk(discovery),
                source,
                read_records(paths.files),
                os.path.join(paths.work, seen.name),
                watch,
            )
            part = output.finish(watch.tick)
            guard.check()
        except BaseException:
            output.abort()
            raise
    if part is None:
        part = Part(part_name(COPY, ""), totals.bytes, sums.sha256)
    parts = (manifest.part_entry(part, request.form, request.observed_compression),)
    ledger = guard.ledger
    head = {
        "format": manifest.FORMAT,
        "backup_id": paths.backup_id,
        "host": paths.host,
        "collection_version": manifest.COLLECTION_VERSION,
        "server": manifest.server_section(ledger.data.get("server", {})),
        "channels": manifest.without_secrets(ledger.data.get("channels", [])),
        "places": [{"name": place.name, "path": place.path} for place in discovery.places],
        "parts": list(parts),
        "clean_stop": ledger.data.get("clean_stop"),
        "times": {
            **_ledger.public_times(ledger),
            "capture": {"start": start, "end": _ledger.utc(), "seconds": round(time.monotonic() - clock, 3)},
            "downtime_seconds": None,
        },
        "warnings": list(dict.fromkeys((*ledger.data.get("warnings", ()), *discovery.warnings))),
        # The three below are for the publication only and stay out of the manifest.
        "records": asdict(records),
        "totals": asdict(totals),
        "request": {"format": request.form, "compression": request.compression},
    }
    write_head(paths, head)
    return head, totals, parts


def _already_captured(request: Request) -> Outcome:
    head = read_head(request.paths)
    asked = {"format": request.form, "compression": request.compression}
    if head["request"] != asked:
        raise RefusedError(
            f"Backup {request.paths.backup_id} was captured already in another way",
            found=head["request"],
            expected=asked,
            rule="backup_id",
        )
    return outcome_of(request.paths, head, changed=False)


def _refuse_inside(request: Request, discovery: Discovery) -> None:
    """Spool and state must not lie in what is archived: they change while we read."""
    for what, path in (("spool_dir", request.paths.root), ("state_dir", request.state_dir)):
        real = os.path.realpath(path)
        for place in discovery.places:
            if place.select == "tree" and (real + "/").startswith(place.root().rstrip("/") + "/"):
                raise RefusedError(
                    f"The {what} lies inside a directory that is backed up",
                    found=f"{real} inside {place.root()} ({place.name})",
                    expected=f"a replica_backup_{what} outside of every directory of the server",
                    rule=what,
                )


def _remove_partial(paths: SetPaths) -> None:
    """Everything that a capture may have left, except the list it works from."""
    with contextlib.suppress(FileNotFoundError):
        names = os.listdir(paths.directory)
        for name in names:
            path = os.path.join(paths.directory, name)
            if name.startswith("data") and stat.S_ISDIR(os.lstat(path).st_mode):
                remove_tree(path)
            elif name.startswith("data") or name == MANIFEST_NAME + PARTIAL_SUFFIX:
                os.unlink(path)
    for path in (paths.sums, paths.files, paths.head, os.path.join(paths.work, _SEEN_NAME)):
        remove_if_there(path)
        remove_if_there(path + PARTIAL_SUFFIX)
