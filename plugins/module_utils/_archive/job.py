# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive step as a whole: capture from the stopped server, then prove and publish, or remove."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
import typing as t
from dataclasses import asdict, dataclass, field, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _budget,
    _filelist,
    _ledger,
    _server,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import manifest
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.compress import (
    NONE,
    Compressor,
    find_compressor,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import (
    COPY,
    FORMATS,
    TAR,
    ZIP,
    open_output,
    part_name,
)
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
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.proof import prove
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.reader import (
    CopyArchive,
    Reader,
    TarArchive,
    ZipArchive,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import read_records
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.source import Source
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.writer import (
    Notes,
    Totals,
    Watch,
    compare_again,
    write_files,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._budget import Clock, Way
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    RefusedError,
    ReplicaBackupError,
    recover_command,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import MANIFEST_NAME, SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery

_STOPPED_STEPS = ("stopped", "capture")
_SEEN_NAME = "seen"
_FIRED_NAME = "deadman.fired"
_STOPPED = "stopped by this run, clean; nothing has started it yet"


@dataclass(frozen=True)
class Request:
    """What is asked of the archive step.

    ``level`` None is the compressor's quick default; ``threads`` 0 one for each CPU. ``times`` are further steps
    (name to start and end, UTC) for the manifest.
    """

    paths: SetPaths
    state_dir: str
    form: str = TAR
    compression: str = "zstd"
    level: int | None = None
    threads: int = 0
    times: t.Mapping[str, t.Any] = field(default_factory=dict)

    def compressor(self) -> Compressor | None:
        """The external tool that the data pass through; zip brings its own and a plain directory has none."""
        return find_compressor(self.compression, level=self.level, threads=self.threads) if self.form == TAR else None

    @property
    def deflate_level(self) -> int | None:
        """Level of the zip's own compression, None when it has none."""
        return (self.level or 1) if self.form == ZIP and self.compression != NONE else None

    @property
    def way(self) -> Way:
        """What decides how long the capture takes."""
        return Way(format=self.form, compression=self.compression, level=self.level, threads=self.threads)

    @property
    def observed_compression(self) -> str:
        """What the data will really be: zip is deflate or stored, a plain directory never compressed."""
        if self.form == COPY:
            return NONE
        if self.form == ZIP:
            return NONE if self.compression == NONE else "deflate"
        return self.compression


@dataclass(frozen=True)
class Outcome:
    """What the step found or made. ``manifest`` is set once the set is published; ``totals`` counts the files."""

    changed: bool
    set_dir: str
    parts: tuple[dict[str, t.Any], ...] = ()
    files: int = 0
    bytes: int = 0
    manifest: Part | None = None
    times: t.Mapping[str, t.Any] = field(default_factory=dict)
    places: t.Mapping[str, t.Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_result(self) -> dict[str, t.Any]:
        return {
            "changed": self.changed,
            "set_dir": self.set_dir,
            "parts": list(self.parts),
            "files": self.files,
            "bytes": self.bytes,
            "manifest": None if self.manifest is None else asdict(self.manifest),
            "times": dict(self.times),
            "places": dict(self.places),
            "warnings": list(self.warnings),
        }


def plan(request: Request, state: str) -> Outcome:
    """Check mode: everything that can be refused without touching anything is refused; no file is read."""
    paths = request.paths
    if state == "absent":
        return Outcome(changed=os.path.lexists(paths.directory), set_dir=paths.directory)
    published = os.path.lexists(paths.manifest)
    if state == "published":
        if not published and not os.path.exists(paths.head):
            raise _nothing_captured(paths)
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
        _real_directories(paths)
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


def _nothing_captured(paths: SetPaths) -> RefusedError:
    return RefusedError(
        f"There is nothing to publish for backup {paths.backup_id}",
        found=f"no {paths.head}",
        expected="a set that replica_archive has captured (state=captured)",
    )


def _refuse_existing(paths: SetPaths) -> None:
    if os.path.lexists(paths.manifest):
        raise RefusedError(
            f"This backup id exists already: {paths.backup_id}",
            found=paths.manifest,
            expected="a backup id of which there is no set yet",
            next_command="take another backup id, or remove the set with state=absent",
            rule="backup_id",
        )


def _real_directories(paths: SetPaths) -> None:
    """Refuse a symbolic link where the directories of host or set should be."""
    for path in (os.path.dirname(paths.directory), paths.directory):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(status.st_mode):
            raise RefusedError(
                f"{path} is not a directory of ours",
                found="a symbolic link" if stat.S_ISLNK(status.st_mode) else "a file",
                expected="a real directory below replica_backup_spool_dir",
                rule="spool_dir",
            )


def _fired(state_dir: str) -> dict[str, t.Any] | None:
    """The record of a dead-man that has fired; read here, so that no database driver is loaded for it."""
    try:
        with open(os.path.join(state_dir, _FIRED_NAME), encoding="utf-8") as stream:
            record = json.load(stream)
    except FileNotFoundError:
        return None
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {"outcome": "its record is not readable"}


class _Guard:
    """What must hold while the files are read: our run's ledger, no server, and a dead-man that has not fired."""

    def __init__(self, request: Request) -> None:
        self._request = request
        ledger = _ledger.load(request.state_dir)
        paths = request.paths
        found = None if ledger is None else (ledger.data.get("host"), ledger.data.get("backup_id"))
        if ledger is None or found != (paths.host, paths.backup_id) or ledger.step not in _STOPPED_STEPS:
            raise RefusedError(
                "No server has been stopped for this backup, so there is nothing cold to archive",
                found="no ledger"
                if ledger is None or found is None
                else f"ledger of host {found[0]}, backup {found[1]}, step {ledger.step}",
                expected=f"a ledger in {request.state_dir} of {paths.host}, backup {paths.backup_id}, step stopped",
                next_command="run mysql_replica_stop first",
                rule="stopped",
            )
        if not (ledger.data.get("clean_stop") or {}).get("clean"):
            raise RefusedError(
                "The stop of the server is not proven clean",
                found=ledger.data.get("clean_stop"),
                expected="clean_stop.clean in the ledger",
                rule="clean_stop",
            )
        self.ledger = ledger
        self._clock = Clock.of(ledger)
        self.watch = Watch(self._watch)
        self._datadir = str(ledger.data["server"]["datadir"])
        self._pid_file = ledger.data["server"].get("pid_file") or None

    def _watch(self) -> None:
        self.check()
        if self._clock is not None:
            self._clock.check(self.watch.done)

    def check(self) -> None:
        """Raise when the server is, or may be, at work on the files."""
        fired = _fired(self._request.state_dir)
        if fired is not None:
            raise ReplicaBackupError(
                "The dead-man has started the server, so its files are no cold copy any more",
                found=f"fired at {fired.get('fired')} ({fired.get('reason', 'no reason given')}): "
                f"{fired.get('outcome')}",
                expected="the archive to be done before the deadline (replica_backup_downtime_budget)",
                server_state="started by the dead-man",
                next_command=recover_command(self._request.paths.host),
                rule="deadman",
            )
        process = _server.find_process(datadir=self._datadir, pid_file=self._pid_file)
        if process is not None:
            raise ReplicaBackupError(
                f"The server of {self._datadir} is running, so its files cannot be archived",
                found=f"pid {process.pid}, {process.exe}",
                expected="no server on this data directory",
                server_state=f"running, pid {process.pid}",
                next_command=recover_command(self._request.paths.host),
                rule="server_running",
            )


def _capture_locked(request: Request) -> Outcome:
    paths = request.paths
    _refuse_existing(paths)
    _real_directories(paths)
    if os.path.exists(paths.head):
        return _already_captured(request)
    compressor = request.compressor()
    guard = _Guard(request)
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
    request: Request, discovery: Discovery, compressor: Compressor | None, guard: _Guard
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
    _write_head(paths, head)
    return head, totals, parts


def _write_head(paths: SetPaths, head: t.Mapping[str, t.Any]) -> None:
    file = HashedFile(paths.head)
    try:
        file.write(json.dumps(head, indent=1).encode("ascii"))
        file.publish()
    finally:
        file.discard()


def _read_head(paths: SetPaths) -> dict[str, t.Any]:
    try:
        with open(paths.head, encoding="ascii") as stream:
            return t.cast("dict[str, t.Any]", json.load(stream))
    except FileNotFoundError:
        raise _nothing_captured(paths) from None
    except (ValueError, OSError) as problem:
        raise ReplicaBackupError(f"{paths.head} cannot be read: {problem}") from problem


def _already_captured(request: Request) -> Outcome:
    head = _read_head(request.paths)
    asked = {"format": request.form, "compression": request.compression}
    if head["request"] != asked:
        raise RefusedError(
            f"Backup {request.paths.backup_id} was captured already in another way",
            found=head["request"],
            expected=asked,
            rule="backup_id",
        )
    return _outcome(request.paths, head, changed=False)


def _outcome(paths: SetPaths, head: t.Mapping[str, t.Any], *, changed: bool, made: Part | None = None) -> Outcome:
    totals = head.get("totals", {})
    return Outcome(
        changed=changed,
        set_dir=paths.directory,
        parts=tuple(head["parts"]),
        files=totals.get("count", 0),
        bytes=totals.get("bytes", 0),
        manifest=made,
        times=head["times"],
        places=totals.get("places", {}),
        warnings=tuple(head["warnings"]),
    )


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


def publish_locked(request: Request) -> Outcome:
    """As :func:`publish`, for a caller that holds the lock of the state directory."""
    paths = request.paths
    _real_directories(paths)
    if os.path.lexists(paths.manifest):
        head, records = manifest.read(paths.manifest)
        count = bytes_ = 0
        for record in records:
            count += 1
            bytes_ += record.size if record.link is None else 0
        remove_tree(paths.work)
        known = {**head, "totals": {"count": count, "bytes": bytes_}}
        return _outcome(paths, known, changed=False, made=_hash_manifest(paths))
    head = _read_head(paths)
    start, clock = _ledger.utc(), time.monotonic()
    entry = head["parts"][0]
    directory = entry["format"] == COPY
    part = None if directory else Part(entry["name"], entry["bytes"], entry["sha256"])
    reader = _open_reader(paths, entry)
    try:
        count = prove(reader, read_records(paths.files), part)
    except ReplicaBackupError as problem:
        problem.facts.setdefault("backup_usable", False)
        problem.next_command = problem.next_command or "check the disk of the spool, then back up again"
        raise
    finally:
        reader.close()
    if count != head["totals"]["count"]:
        raise ReplicaBackupError(
            "The archive read back has another number of members", found=count, expected=head["totals"]["count"]
        )
    ledger = _ledger.load(request.state_dir)
    ours = ledger is not None and ledger.data.get("backup_id") == paths.backup_id
    final = {key: head[key] for key in manifest.HEAD_KEYS}
    final["times"] = {
        **final["times"],
        **(_ledger.public_times(ledger) if ours and ledger is not None else {}),
        **request.times,
        "proof": {"start": start, "end": _ledger.utc(), "seconds": round(time.monotonic() - clock, 3)},
    }
    if ours and ledger is not None:
        final["times"]["downtime_seconds"] = request.times.get(
            "downtime_seconds", ledger.data.get("downtime_seconds", final["times"].get("downtime_seconds"))
        )
        final["warnings"] = list(dict.fromkeys((*final["warnings"], *ledger.data.get("warnings", ()))))
    made = _write_manifest(paths, final, head["records"])
    remove_tree(paths.work)
    return _outcome(paths, {**final, "totals": head["totals"]}, changed=True, made=made)


def _open_reader(paths: SetPaths, entry: t.Mapping[str, t.Any]) -> Reader:
    path = os.path.join(paths.directory, entry["name"])
    if not os.path.lexists(path):
        raise ReplicaBackupError(f"{path} is gone", found="no such file", expected="what was captured")
    if entry["format"] == COPY:
        return CopyArchive(path, read_records(paths.files))
    if entry["format"] == ZIP:
        return ZipArchive(path)
    return TarArchive(path, find_compressor(entry["compression"]))


def _write_manifest(paths: SetPaths, head: t.Mapping[str, t.Any], records: t.Mapping[str, t.Any]) -> Part:
    """Last of all. The list of files must be, byte by byte, the one that the archive was proven against."""
    remove_if_there(paths.manifest + PARTIAL_SUFFIX)
    digest = hashlib.sha256()

    def lines() -> t.Iterator[bytes]:
        with open(paths.files, "rb") as stream:
            for line in stream:
                digest.update(line)
                yield line

    file = HashedFile(paths.manifest)
    try:
        manifest.compose(file, head, lines())
        if digest.hexdigest() != records["sha256"]:
            raise ReplicaBackupError(
                "The list of files changed after it was written", found=digest.hexdigest(), expected=records["sha256"]
            )
        return file.publish()
    except OSError as problem:
        raise storage_error(problem, paths.manifest, file.bytes) from problem
    finally:
        file.discard()


def _hash_manifest(paths: SetPaths) -> Part:
    digest = hashlib.sha256()
    size = 0
    with open(paths.manifest, "rb") as stream:
        while chunk := stream.read(1024 * 1024):
            digest.update(chunk)
            size += len(chunk)
    return Part(MANIFEST_NAME, size, digest.hexdigest())
