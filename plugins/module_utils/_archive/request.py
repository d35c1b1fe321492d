# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of the archive step, and what it made."""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.compress import (
    NONE,
    Compressor,
    cpus,
    find_compressor,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import COPY, FORMATS, TAR, ZIP
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import Part
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._budget import Way
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths

MAX_SHARDS = 32


@dataclass(frozen=True)
class Request:
    """What is asked of the archive step.

    ``level`` None is the compressor's quick default; ``threads`` 0 one for each CPU. ``shards``: into how many tar
    files the data go, which are written at the same time; 0: one for each CPU. ``times`` are further steps (name to
    start and end, UTC) for the manifest. ``bytes_per_second``: how fast a clone is read at most; 0: no limit.
    """

    paths: SetPaths
    state_dir: str
    form: str = TAR
    compression: str = "zstd"
    level: int | None = None
    threads: int = 0
    shards: int = 1
    bytes_per_second: float = 0.0
    times: t.Mapping[str, t.Any] = field(default_factory=dict)

    def compressor(self) -> Compressor | None:
        """The external tool that the data pass through; zip brings its own and a plain directory has none."""
        if self.form != TAR:
            return None
        # Each shard has its own; together they have as many threads as one would.
        threads = max(1, (self.threads or cpus()) // self.shard_count) if self.shard_count > 1 else self.threads
        return find_compressor(self.compression, level=self.level, threads=threads)

    @property
    def shard_count(self) -> int:
        """How many tar files that is on this host."""
        return self.shards or min(cpus(), MAX_SHARDS)

    @property
    def deflate_level(self) -> int | None:
        """Level of the zip's own compression, None when it has none."""
        return (self.level or 1) if self.form == ZIP and self.compression != NONE else None

    @property
    def way(self) -> Way:
        """What decides how long the capture takes."""
        return Way(
            format=self.form,
            compression=self.compression,
            level=self.level,
            threads=self.threads,
            shards=self.shard_count,
        )

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

    kind: t.ClassVar[str] = "archive"

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


def check_form(request: Request) -> None:
    """Raise RefusedError when format and shards do not go together."""
    if request.form not in FORMATS:
        raise RefusedError("Unknown archive format", found=repr(request.form), expected=", ".join(FORMATS))
    if not 0 <= request.shards <= MAX_SHARDS:
        raise RefusedError(
            "The number of shards does not fit",
            found=f"replica_backup_shards={request.shards}",
            expected=f"0 (one for each CPU) to {MAX_SHARDS}",
            server_state="not touched",
            next_command="set replica_backup_shards to another number",
            variable="replica_backup_shards",
        )
    if request.form != TAR and request.shards != 1:
        raise RefusedError(
            "Only a tar can be made in shards",
            found=f"replica_backup_shards={request.shards}, replica_backup_format={request.form}",
            expected="replica_backup_shards=1, or replica_backup_format=tar",
            server_state="not touched",
            next_command="set one of the two",
            variable="replica_backup_shards",
        )
