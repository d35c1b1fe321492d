# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's error log: where it is, and what was written to it since a moment."""

from __future__ import annotations

import os
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server

_LOG_TAIL = 1 << 20


@dataclass(frozen=True)
class ErrorLogMark:
    """Where the error log ended at one moment."""

    path: str
    inode: int
    size: int


def path_of(variables: t.Mapping[str, str]) -> str | None:
    """Absolute path of the server's error log; ``None`` when it logs to stderr (journal, syslog)."""
    name = variables.get("log_error") or ""
    return None if name in ("", "stderr") else _server.absolute(name, variables["datadir"])


def mark_end(path: str) -> ErrorLogMark | None:
    """Remember the end of the log; ``None`` when it is no regular file that we may see."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return ErrorLogMark(path, status.st_ino, status.st_size) if stat.S_ISREG(status.st_mode) else None


def since(mark: ErrorLogMark, limit: int = _LOG_TAIL) -> str:
    """What was logged after the mark, at most the last ``limit`` bytes; follows a rotation. Raises OSError."""
    text = b""
    current: os.stat_result | None
    try:
        current = os.stat(mark.path)
    except FileNotFoundError:
        current = None
    start = 0
    if current is not None and current.st_ino == mark.inode and current.st_size >= mark.size:
        start = mark.size
    elif current is None or current.st_ino != mark.inode:
        # Moved away: the lines written before the move are in the file with the old inode.
        moved = _file_with_inode(os.path.dirname(mark.path), mark.inode)
        if moved is not None:
            text = _tail(moved, mark.size, limit)
    if current is not None:
        text += _tail(mark.path, start, limit)
    return text[-limit:].decode("utf-8", "replace")


def in_words(mark: ErrorLogMark | None) -> str:
    """For messages: the errors since ``mark``, and how the log ends."""
    if mark is None:
        return "(not in a file that can be read)"
    try:
        return gist(since(mark))
    except OSError as error:
        return f"(cannot be read: {error.strerror})"


def gist(text: str) -> str:
    """The errors in some lines of a log, and its last lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return " / ".join(dict.fromkeys([*errors[-5:], *lines[-3:]])) or "(nothing new)"


def _file_with_inode(directory: str, inode: int) -> str | None:
    with os.scandir(directory) as entries:
        return next((entry.path for entry in entries if entry.inode() == inode), None)


def _tail(path: str, start: int, limit: int) -> bytes:
    with open(path, "rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(start, end - limit, 0))
        return stream.read(limit)
