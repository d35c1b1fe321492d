# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""zstd where its tool is missing: ``compression.zstd`` (Python 3.14) or the package ``zstandard``, behind a pipe.

It runs as a program of its own like the tool, so that all else is the same: its memory, its end, what it complains of.
"""

from __future__ import annotations

import functools
import subprocess
import sys

# Arguments: what to do, level, threads. The options of a library that was built without threads are passed over.
_PROGRAM = """
import shutil, sys
what, level, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
source, target = sys.stdin.buffer, sys.stdout.buffer
try:
    from compression import zstd
    def pack():
        most = zstd.CompressionParameter.nb_workers.bounds()[1]
        options = {zstd.CompressionParameter.compression_level: level,
                   zstd.CompressionParameter.nb_workers: min(threads, most)}
        return source, zstd.ZstdFile(target, "wb", options=options)
    def unpack():
        return zstd.ZstdFile(source, "rb"), target
except ImportError:
    import zstandard
    def pack():
        return source, zstandard.ZstdCompressor(level=level, threads=threads).stream_writer(target, closefd=False)
    def unpack():
        return zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True), target
if what != "look":
    reading, writing = pack() if what == "pack" else unpack()
    shutil.copyfileobj(reading, writing, 1 << 20)
    if what == "pack":
        writing.close()
    target.flush()
"""


def commands(level: int, threads: int) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Commands that compress and decompress; None when this Python has neither library."""
    if not _is_there():
        return None
    return _command("pack", level, threads), _command("unpack", 0, 0)


def _command(what: str, level: int, threads: int) -> tuple[str, ...]:
    # Isolated: nothing is imported from the working directory, which is somebody's.
    return (sys.executable, "-I", "-c", _PROGRAM, what, str(level), str(threads))


@functools.lru_cache(maxsize=1)
def _is_there() -> bool:
    """Asked of the same program: this process may see other packages than an isolated one."""
    try:
        done = subprocess.run(
            _command("look", 1, 1),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
