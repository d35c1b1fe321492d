# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths as the kernel knows them: any byte, whatever the locale of the process.

Inside the collection a path is text: UTF-8 with ``surrogateescape``. Python's own file functions would encode it
with the locale of the moment, which differs between a login shell and a cron job; these wrappers never do.
"""

from __future__ import annotations

import errno
import os
import stat
import typing as t


def encode(path: str) -> bytes:
    """Bytes of a path for the kernel."""
    return path.encode("utf-8", "surrogateescape")


def decode(path: bytes) -> str:
    """Text of a path that the kernel gave; ``encode`` turns it back into the same bytes."""
    return path.decode("utf-8", "surrogateescape")


def printable(path: str) -> str:
    """Path for messages and results: control characters and bytes that are no UTF-8 are escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in encode(path).decode("utf-8", "backslashreplace")
    )


def lstat(path: str) -> os.stat_result | None:
    """Status of the name itself; None when nothing is there. Other failures raise OSError."""
    try:
        return os.lstat(encode(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def follow(path: str) -> os.stat_result | None:
    """Status of what the name leads to; None when nothing is there or the links run in a circle."""
    try:
        return os.stat(encode(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise


def is_directory(path: str) -> bool:
    """A directory, links followed."""
    status = follow(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def is_file(path: str) -> bool:
    """A regular file, links followed."""
    status = follow(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def readable(path: str) -> bool:
    """Whether this process may read the file now."""
    try:
        os.close(os.open(encode(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def readlink(path: str) -> str:
    return decode(os.readlink(encode(path)))


def real(path: str) -> str:
    """Path with every link resolved; what does not exist keeps its name."""
    return decode(os.path.realpath(encode(path)))


def real_name(path: str) -> str:
    """Path with every link resolved but the last: the identity of a directory entry."""
    head, tail = os.path.split(path.rstrip("/") or "/")
    return os.path.join(real(head or "/"), tail) if tail else "/"


def absolute(path: str, base: str) -> str:
    """Normalised absolute path; a relative one starts at ``base``."""
    joined = os.path.normpath(os.path.join(base, path))
    return "/" + joined.lstrip("/")


def below(path: str, root: str) -> str | None:
    """Path relative to ``root`` ("." for the root itself), None when it lies elsewhere. Pure on text."""
    if path == root:
        return "."
    prefix = root if root.endswith("/") else root + "/"
    return path[len(prefix) :] if path.startswith(prefix) else None


def names(directory: str) -> list[str]:
    """Names in a directory, sorted by their bytes."""
    return [decode(name) for name in sorted(os.listdir(encode(directory)))]


def read_text(path: str, limit: int = 1 << 20) -> str:
    """At most ``limit`` bytes of a small text file."""
    with open(encode(path), "rb") as handle:
        return decode(handle.read(limit))


def links_below(root: str) -> t.Iterator[tuple[str, bool]]:
    """Every symbolic link (True) and every ``*.isl`` file (False) below a directory, as absolute paths.

    Costs no lstat per file: the directory itself tells the kind. Directories that vanish meanwhile are skipped.
    """
    pending = [encode(root)]
    while pending:
        directory = pending.pop()
        try:
            scan = os.scandir(directory)
        except FileNotFoundError:
            continue
        with scan:
            for item in scan:
                if item.is_symlink():
                    yield decode(item.path), True
                elif item.is_dir(follow_symlinks=False):
                    pending.append(item.path)
                elif item.name.endswith(b".isl"):
                    yield decode(item.path), False
