# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set against its own manifest, anywhere, without a server: every byte is read and hashed again."""

from __future__ import annotations

import glob
import hashlib
import os
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.backup_set import BackupSet, open_set
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import COPY
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.parts import prove_parts
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import sums_line
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import MANIFEST_NAME, SUMS_NAME

_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Verified:
    """What was read: ``files`` names of any kind, ``bytes`` of the parts on disk, wall clock ``seconds``."""

    backup: BackupSet
    files: int
    bytes: int
    seconds: float
    warnings: tuple[str, ...] = ()

    def to_result(self) -> dict[str, t.Any]:
        server = self.backup.head["server"]
        return {
            "verified": True,
            "set_dir": self.backup.directory,
            "host": self.backup.host,
            "backup_id": self.backup.backup_id,
            "server": {key: server.get(key) for key in ("family", "version", "uuid", "server_id")},
            "files": self.files,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "warnings": list(self.warnings),
        }


def verify(directory: str) -> Verified:
    """Read the set in ``directory`` and compare it with its manifest.

    Raises RefusedError when there is no set, and ReplicaBackupError, with ``file`` and ``verified`` false among its
    facts, at the first difference.
    """
    started = time.monotonic()
    backup = open_set(directory)
    try:
        warnings = _other_names(backup)
        files = _verify(backup)
    except RefusedError:
        raise
    except ReplicaBackupError as error:
        error.facts.update(verified=False, set_dir=backup.directory, host=backup.host, backup_id=backup.backup_id)
        error.facts.setdefault("file", backup.part.name)
        error.next_command = (
            error.next_command or "do not restore this set; take another, and look at the disk it was on"
        )
        raise
    return Verified(backup, files, sum(part.bytes for part in backup.parts), time.monotonic() - started, warnings)


def find_sets(patterns: t.Iterable[str]) -> tuple[str, ...]:
    """Directories with a manifest that paths or globs name, sorted; unfinished sets are passed over.

    Raises RefusedError when there is none, or when a path without wildcards is no set.
    """
    found: set[str] = set()
    wanted = [pattern.strip().rstrip("/") for pattern in patterns if pattern.strip()]
    for pattern in wanted:
        if glob.has_magic(pattern) and not os.path.isdir(pattern):
            found.update(os.path.dirname(path) for path in glob.glob(os.path.join(pattern, MANIFEST_NAME)))
        else:
            found.add(open_set(pattern).directory)
    if not found:
        raise RefusedError(
            "There is no backup set",
            found=f"no directory with a {MANIFEST_NAME}, which is written last, at {', '.join(wanted) or 'nothing'}",
            expected="directories of sets, HOST/BACKUP_ID",
        )
    return tuple(sorted(found))


def verify_all(patterns: t.Iterable[str]) -> list[dict[str, t.Any]]:
    """Verify every set that the patterns name. Returns a result for each.

    Raises ReplicaBackupError after the last one when any is bad, with all results as the fact ``sets``.
    """
    results: list[dict[str, t.Any]] = []
    errors: list[ReplicaBackupError] = []
    for directory in find_sets(patterns):
        try:
            results.append(verify(directory).to_result())
        except ReplicaBackupError as error:
            errors.append(error)
            results.append({**error.to_result(), "verified": False, "set_dir": directory})
    if errors:
        bad = [str(result["set_dir"]) for result in results if not result["verified"]]
        first = errors[0]
        raise ReplicaBackupError(
            f"{len(bad)} of {len(results)} sets are bad ({', '.join(bad)}): {first.message}",
            found=first.found,
            expected=first.expected,
            next_command=first.next_command,
            sets=results,
            **{name: first.facts[name] for name in ("file", "part_sha256_matches") if name in first.facts},
        )
    return results


def _verify(backup: BackupSet) -> int:
    _same_sizes(backup)
    _compare_sums(backup)
    # Owners and modes of a plain directory live in the manifest: whoever fetched the copy owns its files.
    attributes = backup.part.form != COPY
    try:
        return prove_parts(
            lambda number: backup.reader(number=number), backup.records, backup.wholes, attributes=attributes
        )
    except RefusedError:
        raise
    except ReplicaBackupError as error:
        _say_which_file(backup, error)
        raise


def _other_names(backup: BackupSet) -> tuple[str, ...]:
    """A second archive in the set is an error, as nobody knows which one counts; anything else is worth a word."""
    names = sorted(
        set(os.listdir(backup.directory)) - {MANIFEST_NAME, SUMS_NAME, *(part.name for part in backup.parts)}
    )
    second = [name for name in names if name.startswith("data")]
    if second:
        raise ReplicaBackupError(
            f"{backup.directory} holds more than one archive",
            found=", ".join(second),
            expected=f"{', '.join(part.name for part in backup.parts)} alone",
            file=second[0],
        )
    return (f"{backup.directory} also holds {', '.join(names)}, which the set does not know",) if names else ()


def _same_sizes(backup: BackupSet) -> None:
    for part in backup.parts if backup.part.form != COPY else ():
        path = os.path.join(backup.directory, part.name)
        found = os.lstat(path).st_size
        if found != part.bytes:
            how = "cut short" if found < part.bytes else "longer than it was written"
            raise ReplicaBackupError(
                f"{path} is {how}", found=f"{found} bytes", expected=f"{part.bytes} bytes", file=part.name
            )


def _compare_sums(backup: BackupSet) -> None:
    """SHA256SUMS must say what the manifest says, line by line; of a plain directory the manifest has its hash too."""
    digest = hashlib.sha256()
    try:
        with open(backup.sums, "rb") as stream:
            for record in backup.records():
                if record.sha256 is None:
                    continue
                expected = sums_line(record.sha256, record.name)
                found = stream.read(len(expected))
                digest.update(found)
                if found != expected:
                    raise _sums_differ(found + stream.readline(), expected)
            rest = stream.readline()
            if rest:
                raise _sums_differ(rest, b"the end of the file")
    except OSError as problem:
        raise ReplicaBackupError(
            f"{backup.sums} cannot be read", found=problem.strerror, expected=SUMS_NAME, file=SUMS_NAME
        ) from problem
    if backup.part.form == COPY and digest.hexdigest() != backup.part.sha256:
        raise ReplicaBackupError(
            "SHA256SUMS is another than the manifest names",
            found=digest.hexdigest(),
            expected=backup.part.sha256,
            file=SUMS_NAME,
        )


def _sums_differ(found: bytes, expected: bytes) -> ReplicaBackupError:
    return ReplicaBackupError(
        "SHA256SUMS and the manifest differ",
        found=found.decode("utf-8", "backslashreplace").strip() or "the end of the file",
        expected=expected.decode("utf-8", "backslashreplace").strip(),
        file=SUMS_NAME,
    )


def _say_which_file(backup: BackupSet, error: ReplicaBackupError) -> None:
    """Add whether the archive as a whole is the one that was written, or another, or a damaged one."""
    if backup.part.form == COPY:
        return
    bad = [part.name for part in backup.parts if _hash(os.path.join(backup.directory, part.name)) != part.sha256]
    error.facts["part_sha256_matches"] = not bad
    if bad:
        error.message += f"; {', '.join(bad)} is not the archive that was written, or is damaged"


def _hash(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
