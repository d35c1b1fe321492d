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

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _budget, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import manifest, origin
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.compress import Compressor, chunk_of
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import (
    COPY,
    Output,
    open_output,
    part_name,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.guard import (
    storage_errors,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import (
    PARTIAL_SUFFIX,
    HashedFile,
    Part,
    make_private_directory,
    remove_if_there,
    remove_tree,
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
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.request import (
    Outcome,
    Request,
    check_form,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.shards import (
    ShardedOutput,
    SharedWatch,
    write_shards,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import Readable
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.writer import (
    Notes,
    Totals,
    Watch,
    write_files,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import throttle
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import MANIFEST_NAME, SetPaths

# What the step is asked and what it tells are its callers' words, too.
__all__ = ["Outcome", "Request", "capture", "plan", "present", "publish", "remove", "stand_back_for_the_server"]

_SEEN_NAME = "seen"


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
    check_form(request)
    return Outcome(changed=not os.path.exists(paths.head), set_dir=paths.directory)


def capture(request: Request) -> Outcome:
    """Archive the files of the stopped server into the set's directory: data, sums and work files; no manifest yet.

    Takes the lock of the state directory. Captured already by this run: nothing is done. Raises
    :class:`RefusedError` with nothing touched, or :class:`ReplicaBackupError` with everything partial removed.
    """
    check_form(request)
    with storage_errors(request), _ledger.locked(request.state_dir, who="replica_archive"):
        return _capture_locked(request)


def publish(request: Request) -> Outcome:
    """Read back what was captured, prove it, write the manifest last, remove the work files.

    The server may run again. A set that is published already is left alone.
    """
    with storage_errors(request), _ledger.locked(request.state_dir, who="replica_archive"):
        return publish_locked(request)


def present(request: Request) -> Outcome:
    """Capture and publish in one go."""
    check_form(request)
    with storage_errors(request), _ledger.locked(request.state_dir, who="replica_archive"):
        first = _capture_locked(request)
        second = publish_locked(request)
    return replace(second, changed=first.changed or second.changed)


def stand_back_for_the_server(request: Request) -> None:
    """Give this process the lowest priority when the server of the run serves again; not while it waits for us."""
    ledger = _ledger.load(request.state_dir)
    if ledger is not None and ledger.server_is_back:
        throttle.stand_back()


def remove(request: Request) -> Outcome:
    """Remove the set's directory below the spool, finished or not. True in ``changed`` when there was one."""
    paths = request.paths
    with storage_errors(request), _ledger.locked(request.state_dir, who="replica_archive"):
        real_directories(paths)
        if os.path.lexists(paths.manifest):
            # Without its manifest a set is none: a removal that is cut short must not leave half a backup.
            os.unlink(paths.manifest)
            sync_directory(paths.directory)
        return Outcome(changed=remove_tree(paths.directory), set_dir=paths.directory)


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
    source = origin.of(request)
    ledger = source.ledger
    ledger.begin(source.step)
    clock = time.monotonic()
    try:
        with storage_errors(request):
            head, totals, parts = _write_set(request, source, compressor)
    except BaseException as problem:
        if isinstance(problem, ReplicaBackupError) and problem.server_state is None:
            problem.server_state = source.server_state()
        # What cannot be removed now (the disk has failed) is no set without a manifest; the cause is what counts.
        with contextlib.suppress(OSError):
            _remove_partial(paths)
        if getattr(problem, "facts", {}).get("rule") == "snapshot_overflow":
            # The server needs the room now.
            source.release()
        if getattr(problem, "facts", {}).get("rule") == "downtime_budget":
            # The next run is to know before the stop what this one found out during it.
            size = source.on_disk(source.watch.done)
            _budget.note_capture(ledger, request.way, size, time.monotonic() - clock, whole=False)
            ledger.end(source.step, must=False)
        raise
    fresh = _ledger.load(request.state_dir)
    if fresh is not None and fresh.run_id == ledger.run_id:
        fresh.data["times"][source.step] = ledger.data["times"][source.step]
        if source.step == "capture":
            _budget.note_capture(fresh, request.way, source.on_disk(totals.bytes), time.monotonic() - clock)
        # The archive is whole; a disk that takes no more notes does not undo it.
        fresh.end(source.step, must=False)
        if source.step == "capture":
            fresh.hand_on(must=False)
    head["warnings"] += source.release()
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


def _write_set(
    request: Request, made_from: origin.Origin, compressor: Compressor | None
) -> tuple[dict[str, t.Any], Totals, tuple[dict[str, t.Any], ...]]:
    paths, discovery = request.paths, made_from.discovery
    start, clock = _ledger.utc(), time.monotonic()
    make_private_directory(os.path.dirname(paths.directory))
    make_private_directory(paths.directory)
    make_private_directory(paths.work)
    _remove_partial(paths)
    watch = made_from.watch
    with contextlib.ExitStack() as cleanup:
        notes = Notes(HashedFile(paths.files), HashedFile(paths.sums), HashedFile(os.path.join(paths.work, _SEEN_NAME)))
        for file in (notes.records, notes.sums, notes.seen):
            cleanup.callback(file.discard)
        source = cleanup.enter_context(made_from.open())
        data = _open_data(request, compressor, watch)
        try:
            totals = data.write(made_from, source, notes)
            records, sums, seen = notes.records.publish(), notes.sums.publish(), notes.seen.publish()
            made_from.compare(source, paths.files, os.path.join(paths.work, seen.name))
            written = data.finish()
            made_from.check()
        except BaseException:
            data.abort()
            raise
    if not written:
        written = (Part(part_name(COPY, ""), totals.bytes, sums.sha256),)
    parts = tuple(manifest.part_entry(part, request.form, request.observed_compression) for part in written)
    ledger = made_from.ledger
    end, seconds = _ledger.utc(), round(time.monotonic() - clock, 3)
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
            made_from.step: {"start": start, "end": end, "seconds": seconds},
            "downtime_seconds": None,
        },
        "warnings": list(dict.fromkeys((*ledger.data.get("warnings", ()), *discovery.warnings))),
        "capture": manifest.capture_section(ledger.data, end=end, seconds=seconds),
        # The three below are for the publication only and stay out of the manifest.
        "records": asdict(records),
        "totals": asdict(totals),
        "request": _asked(request),
    }
    write_head(paths, head)
    return head, totals, parts


def _asked(request: Request) -> dict[str, t.Any]:
    return {"format": request.form, "compression": request.compression, "shards": request.shard_count}


class _Data(t.Protocol):
    """What the files go into: one archive, or several at a time."""

    def write(self, made_from: origin.Origin, source: Readable, notes: Notes) -> Totals: ...
    def finish(self) -> tuple[Part, ...]: ...
    def abort(self) -> None: ...


class _One:
    def __init__(self, output: Output, watch: Watch) -> None:
        self._output = output
        self._watch = watch
        self.abort = output.abort

    def write(self, made_from: origin.Origin, source: Readable, notes: Notes) -> Totals:
        return write_files(made_from.entries(), source, self._output, notes, self._watch)

    def finish(self) -> tuple[Part, ...]:
        """None for a plain directory."""
        part = self._output.finish(self._watch.tick)
        return () if part is None else (part,)


class _Several:
    def __init__(self, output: ShardedOutput, watch: SharedWatch, work: str) -> None:
        self._output = output
        self._watch = watch
        self._work = work
        self.abort = output.abort

    def write(self, made_from: origin.Origin, source: Readable, notes: Notes) -> Totals:
        return write_shards(made_from.entries(), made_from.open, self._output, notes, self._watch, self._work)

    def finish(self) -> tuple[Part, ...]:
        return self._output.finish(self._watch.tick)


def _open_data(request: Request, compressor: Compressor | None, watch: Watch) -> _Data:
    count = request.shard_count
    how = (request.paths.directory, request.form, request.observed_compression, compressor, request.level)
    if count == 1:
        return _One(open_output(*how, watch.tick), watch)
    shared = SharedWatch(watch)
    outputs: list[Output] = []
    try:
        for shard in range(count):
            outputs.append(open_output(*how, shared.tick, shard=shard, chunk=chunk_of(count)))
    except BaseException:
        ShardedOutput(outputs).abort()
        raise
    return _Several(ShardedOutput(outputs), shared, request.paths.work)


def _already_captured(request: Request) -> Outcome:
    head = read_head(request.paths)
    asked = _asked(request)
    if head["request"] != asked:
        raise RefusedError(
            f"Backup {request.paths.backup_id} was captured already in another way",
            found=head["request"],
            expected=asked,
            rule="backup_id",
        )
    return outcome_of(request.paths, head, changed=False)


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
