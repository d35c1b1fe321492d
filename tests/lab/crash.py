# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that lose their power, and the points at which they do: before each call that changes a file system."""

from __future__ import annotations

import contextlib
import enum
import fcntl
import functools
import io
import itertools
import os
import struct
import subprocess
import sys
import threading
import time
import traceback
import types
import typing as t
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# XFS_IOC_GOINGDOWN of linux/xfs_fs.h and EXT4_IOC_SHUTDOWN of fs/ext4/ext4.h are one number: _IOR('X', 125, __u32).
_GOING_DOWN = 0x8004587D
# A number that no code under test has open.
_ANSWER = 198
_SYNCS = frozenset(("fdatasync", "fsync", "sync"))
# What changes no name.
_MODES = ("chmod", "chown", "fchmod", "fchown", "lchown", "utime")
_DATA = ("copy_file_range", "flush", "ftruncate", "posix_fallocate", "pwrite", "pwritev", "sendfile", "truncate")
_QUIET = frozenset((*_MODES, *_DATA, "write", "writev"))
# Opening is none: the next call on the list finds the file that it made.
_CHANGES = _SYNCS | _QUIET | frozenset(("link", "mkdir", "remove", "rename", "replace", "rmdir", "symlink", "unlink"))
EVERY_POINT = os.environ.get("FAULTS") == "all"


class Loss(enum.IntEnum):
    """What of the unsynced work is on the disk after the cut, the two ends of what a journal may have done.

    The values are the flags of the ioctl (LOGFLUSH and NOLOGFLUSH).
    """

    DATA = 1
    """Every name and size is there, of the data only what was synced: the journal was written a moment before."""
    EVERYTHING = 2
    """Nothing is there that was not synced."""


@dataclass(frozen=True)
class Disk:
    """A file system in a file. ``template`` keeps the state that each loss begins with."""

    kind: str
    directory: Path

    @property
    def image(self) -> Path:
        return self.directory / f"{self.kind}.image"

    @property
    def template(self) -> Path:
        return self.directory / f"{self.kind}.template"

    @property
    def root(self) -> Path:
        """Where it is mounted."""
        return self.directory / self.kind

    def make(self) -> None:
        """Make an empty file system, not mounted."""
        self.root.mkdir()
        with self.image.open("wb") as stream:
            # The least that mkfs.xfs takes.
            stream.truncate((300 if self.kind == "xfs" else 48) << 20)
        force = "-f" if self.kind == "xfs" else "-F"
        subprocess.run([f"mkfs.{self.kind}", "-q", force, str(self.image)], check=True, capture_output=True)

    @contextlib.contextmanager
    def mounted(self) -> Iterator[Path]:
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.root)], check=True)
        try:
            yield self.root
        finally:
            _unmount(self.root)
            self._wait_until_free()

    def _wait_until_free(self) -> None:
        """Wait until no other mount namespace has it: the next mount would be of the file system that has ended.

        A container that starts takes a copy of every mount along for a moment.
        """
        deadline = time.monotonic() + 60
        while self._loops() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _loops(self) -> list[Path]:
        found = []
        for path in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if path.read_text(encoding="utf-8").startswith(str(self.image)):
                    found.append(path)
        return found

    def keep(self) -> None:
        """Remember the state of now, unmounted, for ``restore``."""
        _copy(self.image, self.template)

    def restore(self) -> None:
        _copy(self.template, self.image)


def _copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", str(source), str(target)], check=True)


def _unmount(target: Path) -> None:
    for _attempt in range(20):
        if subprocess.run(["umount", str(target)], check=False, capture_output=True).returncode == 0:
            return
        # Somebody who looks at every mount (a service manager, say) holds it for a moment.
        time.sleep(0.1)
    # A test that has failed keeps files open in its traceback.
    subprocess.run(["umount", "--lazy", str(target)], check=True)


@dataclass(frozen=True)
class Point:
    """The cut came before the ``number``-th change, which was a call of ``name``; "" is behind the last one."""

    number: int
    name: str

    @property
    def done(self) -> bool:
        """The work had returned."""
        return not self.name

    def __str__(self) -> str:
        return f"before change {self.number} ({self.name})" if self.name else "behind the last change"


def power_losses(disk: Disk, loss: Loss, work: Callable[[Path], object], look: Callable[[Path, Point], object]) -> int:
    """Do ``work`` on the disk's template again and again, and cut its power one change later each time.

    The last point is behind the last change, when ``work`` has returned. After each the disk is mounted anew and
    ``look`` may judge it. Returns how many points there were.
    """
    for number in itertools.count(1):
        disk.restore()
        with disk.mounted() as root:
            point = Point(number, _in_child(functools.partial(_work_until, root, number, loss, work)))
        with disk.mounted() as root:
            look(root, point)
        if point.done:
            return number
    raise AssertionError("counting does not end")


def _work_until(root: Path, number: int, loss: Loss, work: Callable[[Path], object]) -> t.NoReturn:
    descriptor = os.open(root, os.O_RDONLY)

    def cut(name: str) -> t.NoReturn:
        fcntl.ioctl(descriptor, _GOING_DOWN, struct.pack("=I", loss.value))
        answer(name)

    at_change(number, cut, syncs_only=loss is Loss.EVERYTHING)
    work(root)
    sys.setprofile(None)
    cut("")


def at_change(number: int, act: Callable[[str], object], *, syncs_only: bool = False) -> None:
    """Call ``act`` with the name of the call, right before this process makes its ``number``-th change to a file.

    The interpreter itself tells of every call, so the code under test needs no hook for it. Left out, unless FAULTS=all
    wants every point, are those that find what the one before has found: a call of the same name again, a further one
    that changes no name, and with ``syncs_only`` all but the calls that make something durable.
    """
    count = itertools.count(1)
    last = ""

    def look(frame: types.FrameType, event: str, called: t.Any) -> None:
        nonlocal last
        if event != "c_call" or not _is_change(called):
            return
        before, last = last, called.__name__
        if not EVERY_POINT and last not in _SYNCS and (syncs_only or last == before or {last, before} <= _QUIET):
            return
        if next(count) == number:
            act(last)

    threading.setprofile(look)
    sys.setprofile(look)


def _is_change(called: t.Any) -> bool:
    if called.__name__ not in _CHANGES:
        return False
    return called.__module__ == "posix" or isinstance(getattr(called, "__self__", None), io.IOBase)


def answer(text: str) -> t.NoReturn:
    """End this child at once, as a power loss or ``kill -9`` would, and tell its parent where."""
    os.write(_ANSWER, text.encode())
    os._exit(0)


def _in_child(work: Callable[[], t.NoReturn]) -> str:
    """Run ``work`` in a child that ends with ``answer``; returns what it answered."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writing, _ANSWER)
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)
    os.close(writing)
    with open(reading, encoding="utf-8") as stream:
        text = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise RuntimeError(f"the child ended with {status} and not where it should have; it said {text!r}")
    return text
