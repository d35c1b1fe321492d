# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A finished backup set on disk: found, opened, and refused when it is not one."""

from __future__ import annotations

import os
import re
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import manifest
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.compress import (
    chunk_of,
    find_compressor,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import COPY, FORMATS, TAR, ZIP
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import Part
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.reader import (
    CopyArchive,
    Reader,
    TarArchive,
    ZipArchive,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import FileRecord
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.stream import ByteStream, SizedStream
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.streamed_copy import receive
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import MANIFEST_NAME, SUMS_NAME

BACKUP_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_PART_NAME = re.compile(r"data(?:\.[0-9]+)?(?:\.tar(?:\.(?:zst|gz|lz4|xz))?|\.zip)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SetPart:
    """The file (or, for ``copy``, the directory) that holds the data. ``bytes`` is its size, of a directory that of all
    its files; ``sha256`` its hash, of a directory that of SHA256SUMS."""

    name: str
    bytes: int
    sha256: str
    form: str
    compression: str


@dataclass(frozen=True)
class BackupSet:
    """A set with its manifest read: ``head`` is everything but ``files``."""

    directory: str
    head: t.Mapping[str, t.Any]
    parts: tuple[SetPart, ...]

    @property
    def part(self) -> SetPart:
        """The first part; all are of one format and compression."""
        return self.parts[0]

    @property
    def wholes(self) -> tuple[Part | None, ...]:
        """What must be found of each part when it has been read; a directory is no file that could be hashed."""
        return tuple(None if part.form == COPY else Part(part.name, part.bytes, part.sha256) for part in self.parts)

    @property
    def backup_id(self) -> str:
        return str(self.head["backup_id"])

    @property
    def host(self) -> str:
        return str(self.head["host"])

    @property
    def label(self) -> str:
        return f"{self.host}/{self.backup_id}"

    @property
    def sums(self) -> str:
        return os.path.join(self.directory, SUMS_NAME)

    def records(self) -> t.Iterator[FileRecord]:
        """The files of the manifest in the order of the archive, one at a time."""
        return manifest.read(os.path.join(self.directory, MANIFEST_NAME))[1]

    def reader(self, stream: ByteStream | None = None, number: int = 0) -> Reader:
        """Open the data of a part, in the directory or from ``stream`` (of a directory: that of ``streamed_copy``).

        Raises RefusedError when the tool that unpacks them is missing, and for a zip file as a stream: its directory
        stands at its end.
        """
        part = self.parts[number]
        path = os.path.join(self.directory, part.name)
        chunk = chunk_of(len(self.parts))
        if stream is not None:
            if part.form == COPY:
                return receive(part.name, stream, self.records())
            if part.form == ZIP:
                raise RefusedError(
                    f"{part.name} cannot be read as a stream",
                    found="a zip file, which has its directory at its end",
                    expected="the whole file",
                )
            return TarArchive(path, find_compressor(part.compression), SizedStream(stream, part.bytes), chunk)
        if part.form == COPY:
            return CopyArchive(path, self.records())
        if part.form == ZIP:
            return ZipArchive(path)
        return TarArchive(path, find_compressor(part.compression), chunk=chunk)


def open_set(directory: str) -> BackupSet:
    """The set in ``directory``.

    Raises RefusedError when it is no complete set: there is no manifest, or the manifest names what is not there.
    """
    found = open_manifest(directory)
    for part in found.parts:
        there = os.path.join(directory, part.name)
        kind = stat.S_ISDIR if part.form == COPY else stat.S_ISREG
        try:
            status = os.lstat(there)
        except FileNotFoundError:
            raise RefusedError(
                f"{there} is missing", found="no such file", expected=part.name, rule="manifest"
            ) from None
        if not kind(status.st_mode):
            raise RefusedError(f"{there} is not what the manifest says", found="another kind of file", rule="manifest")
    return found


def open_manifest(directory: str) -> BackupSet:
    """The set whose manifest lies in ``directory``, wherever its data are.

    Raises RefusedError when there is none, or it is not that of a proven backup.
    """
    path = os.path.join(directory, MANIFEST_NAME)
    if not os.path.isdir(directory):
        raise RefusedError(
            f"{directory} is no backup set", found="no such directory", expected="a directory with a manifest.json"
        )
    if not os.path.exists(path):
        raise RefusedError(
            f"{directory} is no backup: it has no manifest, which is written last",
            found=", ".join(sorted(os.listdir(directory))) or "an empty directory",
            expected=MANIFEST_NAME,
            next_command="take another set; this one belongs to a backup that was interrupted",
            rule="manifest",
        )
    try:
        head, records = manifest.read(path)
    except ReplicaBackupError as error:
        raise RefusedError(error.message, found=error.found, expected=error.expected, rule="manifest") from error
    close = getattr(records, "close", None)
    if close is not None:
        close()
    return BackupSet(directory, head, _checked_parts(path, head))


def _checked_parts(path: str, head: t.Mapping[str, t.Any]) -> tuple[SetPart, ...]:
    missing = [key for key in manifest.HEAD_KEYS if key not in head]
    if missing:
        raise RefusedError(f"{path} is not complete", found=f"no {', '.join(missing)}", rule="manifest")
    if not BACKUP_ID.fullmatch(str(head["backup_id"])) or not (head["clean_stop"] or {}).get("clean"):
        raise RefusedError(
            f"{path} does not belong to a proven backup",
            found=f"backup_id {head['backup_id']!r}, clean_stop {head['clean_stop']!r}",
            expected="a backup id and a clean stop",
            rule="manifest",
        )
    parts = head["parts"]
    if not isinstance(parts, list) or not parts:
        raise RefusedError(f"{path} names no part", found=parts, expected="one part or more", rule="manifest")
    found = tuple(_checked_part(path, part) for part in parts)
    alike = {(part.form, part.compression) for part in found} == {(TAR, found[0].compression)}
    if len(found) > 1 and (not alike or len({part.name for part in found}) < len(found)):
        raise RefusedError(
            f"{path} describes parts that do not belong together",
            found=parts,
            expected="tar files with names of their own, compressed in the same way",
            rule="manifest",
        )
    return found


def _checked_part(path: str, entry: t.Any) -> SetPart:
    try:
        part = SetPart(
            str(entry["name"]),
            int(entry["bytes"]),
            str(entry["sha256"]),
            str(entry.get("format", TAR)),
            str(entry.get("compression", "none")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RefusedError(f"{path} does not describe its part: {error}", found=entry, rule="manifest") from error
    if not _PART_NAME.fullmatch(part.name) or not _SHA256.fullmatch(part.sha256) or part.form not in FORMATS:
        raise RefusedError(f"{path} describes a part that no set has", found=entry, rule="manifest")
    return part
