# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a backup set and its work files lie below a spool or destination directory."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError

BACKUP_ID_PATTERN = re.compile(r"\A\d{8}T\d{6}Z\Z")
MANIFEST_NAME = "manifest.json"
SUMS_NAME = "SHA256SUMS"
_WORK_NAME = ".work"


@dataclass(frozen=True)
class SetPaths:
    """Paths of one set: ``ROOT/HOST/BACKUP_ID/`` with work files in ``.work`` until it is published."""

    root: str
    host: str
    backup_id: str

    def __post_init__(self) -> None:
        if not BACKUP_ID_PATTERN.match(self.backup_id):
            raise RefusedError(
                "The backup id is not usable", found=repr(self.backup_id), expected="UTC time as YYYYMMDDTHHMMSSZ"
            )
        if self.host in ("", ".", "..") or self.host.startswith("-") or re.search(r"[/\x00-\x1f\x7f]", self.host):
            raise RefusedError(
                "The host name cannot name a directory",
                found=repr(self.host),
                expected="an inventory host name without '/', control characters or a leading '-'",
            )

    @property
    def tag(self) -> str:
        """What names things outside of the spool: no other host, nor another instance of one machine, has the same."""
        whose = f"{self.root}\0{self.host}".encode("utf-8", "surrogateescape")
        return f"{self.backup_id}-{hashlib.sha256(whose).hexdigest()[:8]}"

    @property
    def directory(self) -> str:
        return os.path.join(self.root, self.host, self.backup_id)

    @property
    def work(self) -> str:
        """Work directory; present only while the set is unfinished."""
        return os.path.join(self.directory, _WORK_NAME)

    @property
    def discovered(self) -> str:
        """List that ``replica_files_discover`` wrote before the stop (JSON lines)."""
        return os.path.join(self.work, "discovered.jsonl")

    @property
    def files(self) -> str:
        """Manifest entries that the archive wrote, one JSON object a line."""
        return os.path.join(self.work, "files.jsonl")

    @property
    def head(self) -> str:
        """Manifest without its files, until the set is published."""
        return os.path.join(self.work, "head.json")

    @property
    def manifest(self) -> str:
        return os.path.join(self.directory, MANIFEST_NAME)

    @property
    def sums(self) -> str:
        return os.path.join(self.directory, SUMS_NAME)
