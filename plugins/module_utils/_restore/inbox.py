# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory in which the pieces of a stream arrive, put there by the login user and taken away by the worker.

A piece is ``piece-NUMBER-BYTES-SHA256-more`` (of the last one ``-last``), renamed to that when it is whole. The worker
removes a piece when it has read it, and ``want-NUMBER`` names the one that it reads, or waits for. So the sender sees
in one listing how far the worker is, and where to go on after the connection was lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import threading
import time
import typing as t
import uuid
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _handoff, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError

# At most so many on the host at a time.
PIECES = 2
_PIECE = re.compile(r"piece-([0-9]{8})-([0-9]{1,12})-([0-9a-f]{64})-(more|last)")
_WANT = re.compile(r"want-([0-9]{8})")
_RECORD = "inbox.json"
_PREFIX = ".replica-restore-"
_PLACES = ("/var/tmp", "/tmp")
_POLL = 0.1


@dataclass(frozen=True)
class Piece:
    """One piece: its number from 0, size in bytes, SHA-256 in hex, and whether it is the last one."""

    number: int
    bytes: int
    sha256: str
    last: bool

    @property
    def name(self) -> str:
        return f"piece-{self.number:08d}-{self.bytes}-{self.sha256}-{'last' if self.last else 'more'}"


@dataclass(frozen=True)
class Listing:
    """What lies in an inbox: the pieces, and the number that the worker is at."""

    pieces: tuple[Piece, ...]
    wanted: int

    @property
    def next(self) -> int:
        """Number of the piece to send next."""
        return max([self.wanted, *(piece.number + 1 for piece in self.pieces)])


def parse(names: t.Iterable[str]) -> Listing:
    """Names in an inbox; those that are neither piece nor mark (one on its way, say) are passed over."""
    pieces: list[Piece] = []
    wanted = 0
    for name in names:
        if match := _PIECE.fullmatch(name):
            pieces.append(Piece(int(match[1]), int(match[2]), match[3], match[4] == "last"))
        elif match := _WANT.fullmatch(name):
            wanted = max(wanted, int(match[1]))
    return Listing(tuple(sorted(pieces, key=lambda piece: piece.number)), wanted)


def open_inbox(work: str, login_uid: int) -> str:
    """A new inbox that the login user can write to; noted in ``work``, a private directory, before it is made.

    Raises RefusedError when no place for it is found, or this user may not give a directory away.
    """
    own = login_uid == os.geteuid()
    if not own and os.geteuid() != 0:
        raise RefusedError(
            "The set cannot be handed over to this user",
            found=f"user {os.geteuid()}, while the connection logs in as user {login_uid}",
            expected="become root, or log in as the user who restores",
            server_state="not touched",
        )
    reasons: list[str] = []
    parents = (work,) if own else (os.path.dirname(os.path.dirname(os.path.abspath(work))), *_PLACES)
    for parent in parents:
        path = os.path.join(parent, f"{_PREFIX}{uuid.uuid4().hex}")
        _ledger.write_durably(os.path.join(work, _RECORD), json.dumps({"directory": path}))
        try:
            room = os.statvfs(parent)
            if room.f_bavail * room.f_frsize < (PIECES + 1) * _handoff.PIECE_BYTES:
                reasons.append(f"{parent}: too little room")
                continue
            os.mkdir(path, 0o700)
            if not own:
                os.chown(path, login_uid, -1)
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
            continue
        if _handoff.reachable(path, login_uid):
            return path
        reasons.append(f"{parent}: the login user cannot reach it")
        close_inbox(work)
    close_inbox(work)
    raise RefusedError(
        "There is no place where the set could arrive",
        found="; ".join(reasons),
        expected=f"{(PIECES + 1) * _handoff.PIECE_BYTES >> 20} MiB in a directory that the login user can reach",
        server_state="not touched",
    )


def close_inbox(work: str) -> None:
    """Remove the inbox that is noted in ``work``, if any."""
    record = os.path.join(work, _RECORD)
    try:
        with open(os.open(record, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as handle:
            directory = json.load(handle)["directory"]
    except FileNotFoundError:
        return
    _handoff.remove_directory(directory)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(record)


class PieceStream:
    """The :class:`~.stream.ByteStream` of what arrives in ``directory``.

    It is held to be interrupted when nothing arrives for ``patience`` seconds: not a byte, nor of a piece on its way.
    """

    def __init__(self, directory: str, patience: float, name: str) -> None:
        self.name = name
        self._directory = directory
        self._patience = patience
        self._cancelled = threading.Event()
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        self._number = 0
        self._file: t.BinaryIO | None = None
        self._piece: Piece | None = None
        self._digest = hashlib.sha256()
        self._left = 0
        self._at_end = False
        os.close(os.open(f"want-{0:08d}", os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o644, dir_fd=self._fd))

    def readinto(self, view: memoryview) -> int:
        while not self._at_end:
            if self._file is None:
                self._begin(self._wait())
            elif self._left:
                count = os.readv(self._file.fileno(), [view[: self._left]])
                if not count:
                    raise self._damaged(f"{self._left} bytes are missing")
                self._digest.update(view[:count])
                self._left -= count
                return count
            else:
                self._end()
        return 0

    def cancel(self) -> None:
        self._cancelled.set()

    def close(self) -> None:
        self._close_file()
        if self._fd >= 0:
            descriptor, self._fd = self._fd, -1
            os.close(descriptor)

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _wait(self) -> Piece:
        before: object = None
        deadline = 0.0
        while True:
            names = os.listdir(self._fd)
            for piece in parse(names).pieces:
                if piece.number == self._number:
                    return piece
            now = self._look(names)
            if now != before:
                before, deadline = now, time.monotonic() + self._patience
            elif time.monotonic() >= deadline:
                raise ReplicaBackupError(
                    f"{self.name} has stopped coming",
                    found=f"nothing arrived for {self._patience:g} seconds, {self._number} pieces had",
                    expected="the next piece from the controller",
                    next_command="run the restore again",
                )
            if self._cancelled.wait(_POLL):
                raise ReplicaBackupError(f"{self.name} is not read any further")

    def _look(self, names: t.Iterable[str]) -> object:
        seen = []
        for name in sorted(names):
            with contextlib.suppress(OSError):
                status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
                seen.append((name, status.st_size, status.st_mtime_ns))
        return seen

    def _begin(self, piece: Piece) -> None:
        # The directory is the login user's: nothing in it is followed, or waited for.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._piece, self._digest, self._left = piece, hashlib.sha256(), piece.bytes
        try:
            self._file = open(os.open(piece.name, flags, dir_fd=self._fd), "rb", buffering=0)  # noqa: SIM115 - closed in _end() or close()
        except OSError as error:
            raise self._damaged(f"it cannot be opened ({error.strerror})") from error
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size != piece.bytes:
            raise self._damaged(f"{status.st_size} bytes")

    def _end(self) -> None:
        piece = t.cast(Piece, self._piece)
        found = self._digest.hexdigest()
        if found != piece.sha256:
            raise self._damaged(f"sha256 {found}")
        self._close_file()
        self._number += 1
        if piece.last:
            self._at_end = True
        # The mark before the piece: a sender who looks in between still counts the piece.
        os.rename(f"want-{piece.number:08d}", f"want-{self._number:08d}", src_dir_fd=self._fd, dst_dir_fd=self._fd)
        os.unlink(piece.name, dir_fd=self._fd)

    def _damaged(self, found: str) -> ReplicaBackupError:
        piece = t.cast(Piece, self._piece)
        return ReplicaBackupError(
            f"Piece {piece.number} of {self.name} did not arrive as it was sent",
            found=found,
            expected=f"{piece.bytes} bytes, sha256 {piece.sha256}",
            next_command="run the restore again",
        )
