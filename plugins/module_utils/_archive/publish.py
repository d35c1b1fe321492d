# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prove what was captured, write the manifest last, remove the work files; the server may run again."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import manifest
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.compress import (
    chunk_of,
    find_compressor,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import COPY, ZIP
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import (
    PARTIAL_SUFFIX,
    HashedFile,
    Part,
    remove_if_there,
    remove_tree,
    storage_error,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.parts import prove_parts
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.reader import (
    CopyArchive,
    Paced,
    Reader,
    TarArchive,
    ZipArchive,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import read_records
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.request import Outcome, Request
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import throttle
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import (
    RefusedError,
    ReplicaBackupError,
    recover_command,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import MANIFEST_NAME, SetPaths

# A snapshot cannot be written to, and what is mounted is busy.
_HELD = (errno.EROFS, errno.EBUSY)


def publish_locked(request: Request) -> Outcome:
    """As :func:`publish`, for a caller that holds the lock of the state directory."""
    paths = request.paths
    real_directories(paths)
    if os.path.lexists(paths.manifest):
        head, records = manifest.read(paths.manifest)
        count = bytes_ = 0
        for record in records:
            count += 1
            bytes_ += record.size if record.link is None else 0
        left = _remove_work(paths)
        known = {**head, "warnings": [*head["warnings"], *left], "totals": {"count": count, "bytes": bytes_}}
        return outcome_of(paths, known, changed=False, made=_hash_manifest(paths))
    head = read_head(paths)
    start, clock = _ledger.utc(), time.monotonic()
    entries = head["parts"]
    parts = [
        None if entry["format"] == COPY else Part(entry["name"], entry["bytes"], entry["sha256"]) for entry in entries
    ]
    pace = _pace(request)
    try:
        count = prove_parts(
            lambda number: _open_paced(paths, entries[number], len(entries), pace),
            lambda: read_records(paths.files),
            parts,
        )
    except ReplicaBackupError as problem:
        problem.facts.setdefault("backup_usable", False)
        problem.next_command = problem.next_command or "check the disk of the spool, then back up again"
        raise
    if count != head["totals"]["count"]:
        raise ReplicaBackupError(
            "The archive read back has another number of members", found=count, expected=head["totals"]["count"]
        )
    ledger = _ledger.load_of(request.state_dir, paths)
    final = {key: head[key] for key in (*manifest.HEAD_KEYS, *manifest.OPTIONAL_KEYS) if key in head}
    final["times"] = {
        **final["times"],
        **(_ledger.public_times(ledger) if ledger is not None else {}),
        **request.times,
        "proof": {"start": start, "end": _ledger.utc(), "seconds": round(time.monotonic() - clock, 3)},
    }
    if ledger is not None:
        final["times"]["downtime_seconds"] = request.times.get(
            "downtime_seconds", ledger.data.get("downtime_seconds", final["times"].get("downtime_seconds"))
        )
        final["warnings"] = list(dict.fromkeys((*final["warnings"], *ledger.data.get("warnings", ()))))
    made = _write_manifest(paths, final, head["records"])
    final["warnings"] = [*final["warnings"], *_remove_work(paths)]
    return outcome_of(paths, {**final, "totals": head["totals"]}, changed=True, made=made)


def _remove_work(paths: SetPaths) -> list[str]:
    """The set is whole; a clone in its work directory that could not be removed does not make it less. Warnings."""
    names = os.listdir(paths.work) if os.path.isdir(paths.work) and not os.path.islink(paths.work) else []
    left = []
    for name in names:
        path = os.path.join(paths.work, name)
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            continue
        try:
            remove_tree(path)
        except OSError as problem:
            if problem.errno not in _HELD:
                raise
            left.append(
                f"{path} could not be removed ({problem.strerror}): the clone that the archive was made from; it takes"
                f" room until it is removed: {recover_command(paths.host)}"
            )
    if not left:
        remove_tree(paths.work)
    return left


def _pace(request: Request) -> throttle.Pace:
    """As asked for where the server serves meanwhile; after a cold capture it may be waiting for this."""
    ledger = _ledger.load_of(request.state_dir, request.paths)
    serves = ledger is not None and bool(ledger.data.get("clone"))
    return throttle.Pace(request.bytes_per_second if serves else 0.0)


def _open_paced(paths: SetPaths, entry: t.Mapping[str, t.Any], parts: int, pace: throttle.Pace) -> Reader:
    return Paced(_open_reader(paths, entry, parts, pace), pace.spend)


def _open_reader(paths: SetPaths, entry: t.Mapping[str, t.Any], parts: int, pace: throttle.Pace) -> Reader:
    path = os.path.join(paths.directory, entry["name"])
    if not os.path.lexists(path):
        raise ReplicaBackupError(f"{path} is gone", found="no such file", expected="what was captured")
    if entry["format"] == COPY:
        return CopyArchive(path, read_records(paths.files))
    if entry["format"] == ZIP:
        return ZipArchive(path, pace.spend)
    return TarArchive(path, find_compressor(entry["compression"]), chunk=chunk_of(parts))


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


def write_head(paths: SetPaths, head: t.Mapping[str, t.Any]) -> None:
    file = HashedFile(paths.head)
    try:
        file.write(json.dumps(head, indent=1).encode("ascii"))
        file.publish()
    finally:
        file.discard()


def read_head(paths: SetPaths) -> dict[str, t.Any]:
    try:
        with open(paths.head, encoding="ascii") as stream:
            return t.cast("dict[str, t.Any]", json.load(stream))
    except FileNotFoundError:
        raise nothing_captured(paths) from None
    except (ValueError, OSError) as problem:
        raise ReplicaBackupError(f"{paths.head} cannot be read: {problem}") from problem


def outcome_of(paths: SetPaths, head: t.Mapping[str, t.Any], *, changed: bool, made: Part | None = None) -> Outcome:
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


def nothing_captured(paths: SetPaths) -> RefusedError:
    return RefusedError(
        f"There is nothing to publish for backup {paths.backup_id}",
        found=f"no {paths.head}",
        expected="a set that replica_archive has captured (state=captured)",
    )


def real_directories(paths: SetPaths) -> None:
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
