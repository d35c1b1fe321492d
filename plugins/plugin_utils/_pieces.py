# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of a restore: the data of a set, cut into pieces that are files of their own."""

from __future__ import annotations

import hashlib
import os
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import streamed_copy
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.backup_set import BackupSet
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import COPY
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._handoff import PIECE_BYTES
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.inbox import Piece

_BLOCK = 1024 * 1024
Block = t.Union[bytes, memoryview]


def check(backup: BackupSet) -> None:
    """Refuse a set that is cut short before anything is sent; the rest is proven where it lands."""
    for part in backup.parts if backup.part.form != COPY else ():
        path = os.path.join(backup.directory, part.name)
        found = os.lstat(path).st_size
        if found != part.bytes:
            raise RefusedError(
                f"{path} is not the archive that was written",
                found=f"{found} bytes",
                expected=f"{part.bytes} bytes",
                next_command="take another set",
                rule="manifest",
            )


def cut(backup: BackupSet, path: str, first: int, limit: int = PIECE_BYTES) -> t.Iterator[Piece]:
    """The pieces from number ``first`` on, each written to ``path`` in place of the one before.

    Cut the same way every time, so that another run can go on in the middle.
    """
    size = 0
    number = 0
    digest = hashlib.sha256()
    out = _new_file(path)
    try:
        for block in _blocks(backup, first, limit):
            view = memoryview(block)
            while view:
                if size == limit:
                    out.close()
                    if number >= first:
                        yield Piece(number, size, digest.hexdigest(), False)
                    number, size, digest = number + 1, 0, hashlib.sha256()
                    out = _new_file(path)
                taken = view[: limit - size]
                # What another run has sent already is passed over: the hole is as long, and read by nobody.
                if number >= first:
                    digest.update(taken)
                    out.write(taken)
                size += len(taken)
                view = view[len(taken) :]
        out.close()
        if number >= first:
            yield Piece(number, size, digest.hexdigest(), True)
    finally:
        out.close()


def _blocks(backup: BackupSet, first: int, limit: int) -> t.Iterator[Block]:
    if backup.part.form == COPY:
        yield from streamed_copy.send(os.path.join(backup.directory, backup.part.name), backup.records())
        return
    # The pieces before the first one need not be read.
    skip = first * limit
    for part in backup.parts:
        skipped = min(skip, part.bytes)
        skip -= skipped
        yield from _part_blocks(os.path.join(backup.directory, part.name), part.bytes, skipped)


def _part_blocks(path: str, size: int, skipped: int) -> t.Iterator[Block]:
    empty = memoryview(bytes(_BLOCK))
    left = size - skipped
    with open(path, "rb", buffering=0) as stream:
        stream.seek(skipped)
        while skipped:
            yield empty[: min(skipped, _BLOCK)]
            skipped -= min(skipped, _BLOCK)
        while left:
            block = stream.read(min(left, _BLOCK))
            if not block:
                raise ReplicaBackupError(
                    f"{path} was cut short while it was sent", found=f"{left} bytes missing", expected="the whole file"
                )
            left -= len(block)
            yield block


def _new_file(path: str) -> t.BinaryIO:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb", buffering=0)
