# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file systems that have files of a server, and snapshots of them. (Interface first; VOLUMES fills this in.)"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery


@dataclass(frozen=True)
class Volume:
    device: int
    roots: tuple[str, ...]
    mount_point: str
    fs_type: str
    source: str
    root_in_fs: str


class Snapshot(t.Protocol):
    kind: str

    def to_dict(self) -> dict[str, t.Any]: ...
    def translate(self, path: str) -> tuple[str, str]: ...
    def excluded(self) -> list[str]: ...
    def take(self) -> None: ...
    def open(self) -> None: ...
    def check(self) -> None: ...
    def remove(self) -> bool: ...


def volumes_of(discovery: Discovery) -> list[Volume]:
    return []


def shares_blocks(directory: str) -> bool:
    return False


def find(volume: Volume, *, backup_id: str, work: str, size_percent: int) -> tuple[Snapshot | None, str]:
    return None, "there is no snapshot of its volume"


def load(data: t.Mapping[str, t.Any]) -> Snapshot:
    raise KeyError(data.get("kind"))
