# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets that come as a stream: what sends them, and what takes them."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
import typing as t
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import extract, job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.backup_set import BackupSet, open_set
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import COPY
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import Part
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.parts import prove_parts
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.proof import prove
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.reader import Reader
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import inbox
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import Feed
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.inbox import Piece
from ansible_collections.mysql_ops.replica_backup.plugins.plugin_utils import _pieces
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import Site

PLACE = "datadir"
TARS = (("tar", "none"), ("tar", "gzip"), ("tar", "zstd"), ("tar", "lz4"), ("tar", "xz"))
STREAMS = (*TARS, ("copy", "none"))
WAYS = (*STREAMS, ("zip", "zstd"))


def made(site: Site, form: str, compression: str, shards: int = 1) -> BackupSet:
    """A real set of the site's tree."""
    job.present(site.request(form=form, compression=compression, shards=shards))
    return open_set(site.paths.directory)


def land(reader: Reader, backup: BackupSet, target: Path) -> None:
    """Lay a set down the way a restore does, into ``target``/datadir."""
    place = target / PLACE
    place.mkdir(parents=True)
    part = backup.part
    landing = extract.Directories({PLACE: str(place)}, extract.Owners())
    try:
        whole = None if part.form == COPY else Part(part.name, part.bytes, part.sha256)
        prove(reader, backup.records(), whole, lander=landing)
        landing.finish()
    finally:
        landing.close()
        reader.close()


def land_parts(feed: Feed, target: Path) -> None:
    """The same for a set that may have several parts."""
    place = target / PLACE
    place.mkdir(parents=True)
    landings = [extract.Directories({PLACE: str(place)}, extract.Owners()) for _part in feed.backup.parts]
    turns = 1 if feed.in_turn else 0
    try:
        prove_parts(feed.reader, feed.backup.records, feed.backup.wholes, landers=landings, at_a_time=turns)
        for landing in landings:
            landing.finish()
    finally:
        for landing in landings:
            landing.close()


def manifest_only(backup: BackupSet, directory: Path) -> Path:
    """What is on the host of a set that comes as a stream."""
    directory.mkdir(mode=0o700)
    for name in ("manifest.json", "SHA256SUMS"):
        shutil.copy(os.path.join(backup.directory, name), directory / name)
    return directory


class Sender(threading.Thread):
    """The controller's side: puts pieces into an inbox, never more than are allowed at a time.

    ``change`` may exchange a piece's bytes, or return None to stop there.
    """

    def __init__(
        self,
        backup: BackupSet,
        directory: Path,
        scratch: Path,
        limit: int,
        *,
        change: t.Callable[[int, bytes], bytes | None] = lambda _number, data: data,
    ) -> None:
        super().__init__(daemon=True)
        self._backup = backup
        self._directory = directory
        self._path = scratch
        self._limit = limit
        self._change = change
        self.most = 0
        self.sent: list[int] = []
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            self._send()
        except FileNotFoundError:
            return
        except BaseException as problem:
            self.problem = problem

    def _send(self) -> None:
        first = inbox.parse(os.listdir(self._directory)).next
        for piece in _pieces.cut(self._backup, str(self._path), first, self._limit):
            while len(inbox.parse(os.listdir(self._directory)).pieces) >= inbox.PIECES:
                time.sleep(0.002)
            data = self._path.read_bytes()
            assert hashlib.sha256(data).hexdigest() == piece.sha256
            changed = self._change(piece.number, data)
            if changed is None:
                return
            put(self._directory, piece, changed)
            self.sent.append(piece.number)
            self.most = max(self.most, len(inbox.parse(os.listdir(self._directory)).pieces))


def put(directory: Path, piece: Piece, data: bytes) -> None:
    incoming = directory / "incoming-1"
    incoming.write_bytes(data)
    incoming.rename(directory / piece.name)
