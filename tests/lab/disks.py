# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real file systems on loop devices: XFS and btrfs share blocks between files, ext4 does not."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_MAKE = {
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q"],
    "ext4": ["mkfs.ext4", "-q", "-F"],
}
# mkfs.xfs refuses less; btrfs takes less, but is soon full of its own metadata then.
_SMALLEST_MIB = 300


@contextlib.contextmanager
def mounted(kind: str, at: Path, *, mib: int = 512, options: str = "") -> Iterator[Path]:
    """Make a file system ("xfs", "btrfs" or "ext4") in a sparse file beside ``at``, and mount it there.

    ``at`` is made (mode 0755). Whatever happens it is unmounted, with all that is mounted below it, and the file is
    removed; the loop device goes with the mount. Needs root.
    """
    image = at.with_name(at.name + ".disk")
    at.mkdir(parents=True)
    try:
        with image.open("wb") as stream:
            stream.truncate(max(mib, _SMALLEST_MIB) * 1024 * 1024)
        _run([*_MAKE[kind], str(image)])
        _run(["mount", "-t", kind, "-o", ",".join(filter(None, ("loop", options))), str(image), str(at)])
        try:
            yield at
        finally:
            _unmount(at)
    finally:
        image.unlink(missing_ok=True)
        at.rmdir()


def mount_points(below: Path) -> list[Path]:
    """What is mounted at the directory or below it, the last mounted first."""
    found = []
    for line in Path("/proc/self/mounts").read_bytes().splitlines():
        path = Path(os.fsdecode(line.split()[1].decode("unicode_escape").encode("latin-1")))
        if path == below or below in path.parents:
            found.append(path)
    return found[::-1]


def _unmount(at: Path) -> None:
    for point in mount_points(at.resolve()):
        # A process that is being ended may hold it for a moment.
        for _attempt in range(50):
            if subprocess.run(["umount", str(point)], check=False, capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        else:
            _run(["umount", "--lazy", str(point)])


def _run(command: list[str]) -> None:
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
