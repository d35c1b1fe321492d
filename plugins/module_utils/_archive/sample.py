# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast this host reads, hashes and compresses its own data: a bounded sample, whose output goes nowhere."""

from __future__ import annotations

import hashlib
import heapq
import os
import select
import stat
import subprocess
import time
import typing as t
import zlib

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.compress import CHUNK, Compressor

_BYTES = 128 * 1024 * 1024
_SECONDS = 2.0
# The data are in the largest files; small ones would measure the search for their names.
_FILES = 16
_SMALLEST = 1024 * 1024
_DEPTH = 2


def largest_files(directory: str) -> list[str]:
    """The largest regular files below ``directory``, by what they take on disk."""
    found: list[tuple[int, str]] = []
    _collect(directory, _DEPTH, found)
    return [path for _size, path in heapq.nlargest(_FILES, found)]


def _collect(directory: str, depth: int, found: list[tuple[int, str]]) -> None:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISDIR(status.st_mode) and depth > 0:
                    _collect(entry.path, depth - 1, found)
                elif stat.S_ISREG(status.st_mode) and status.st_blocks * 512 >= _SMALLEST:
                    found.append((status.st_blocks * 512, entry.path))
    except OSError:
        return


def take(
    paths: t.Sequence[str],
    compressor: Compressor | None,
    *,
    deflate: int | None = None,
    size: int = _BYTES,
    seconds: float = _SECONDS,
) -> tuple[int, float]:
    """(bytes, seconds) of reading parts of ``paths`` as an archive does, but for the writing.

    Through ``compressor``, or zlib at level ``deflate``, or neither. Ends after ``size`` bytes or ``seconds``. What a
    compressor has taken in and not worked off by then counts as done: the real rate may be lower, not higher.
    """
    started = time.monotonic()
    ends = started + seconds
    digest = hashlib.sha256()
    packer = None if deflate is None else zlib.compressobj(deflate)
    stage = None if compressor is None else _Sink(compressor)
    done = 0
    try:
        for chunk in _chunks(paths, size):
            digest.update(chunk)
            if packer is not None:
                packer.compress(chunk)
            if stage is not None and not stage.feed(chunk, ends):
                break
            done += len(chunk)
            if time.monotonic() >= ends:
                break
        if stage is not None:
            stage.end(ends)
        return done, time.monotonic() - started
    finally:
        if stage is not None:
            stage.kill()


def _chunks(paths: t.Sequence[str], size: int) -> t.Iterator[bytes]:
    """Up to ``size`` bytes, evenly spread over every file. A live server may change or remove them meanwhile."""
    share = max(CHUNK, size // max(1, len(paths)))
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            length = os.fstat(descriptor).st_size
            step = max(CHUNK, length * CHUNK // share)
            for offset in range(0, length, step):
                chunk = os.pread(descriptor, CHUNK, offset)
                if chunk:
                    yield chunk
        except OSError:
            continue
        finally:
            os.close(descriptor)


class _Sink:
    """The compressor, its output thrown away."""

    def __init__(self, compressor: Compressor) -> None:
        self._process = subprocess.Popen(
            compressor.pack,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            bufsize=0,
        )
        self._input = t.cast(t.IO[bytes], self._process.stdin)
        os.set_blocking(self._input.fileno(), False)

    def feed(self, chunk: bytes, ends: float) -> bool:
        """False when it did not take all of it in time."""
        view = memoryview(chunk)
        while view:
            left = ends - time.monotonic()
            if left <= 0 or not select.select([], [self._input], [], left)[1]:
                return False
            try:
                view = view[os.write(self._input.fileno(), view) :]
            except BlockingIOError:
                continue
            except OSError:
                return False
        return True

    def end(self, ends: float) -> None:
        """No more is to come: wait for what it has taken in, as long as there is time."""
        self._input.close()
        try:
            self._process.wait(max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            return

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if not self._input.closed:
            self._input.close()
