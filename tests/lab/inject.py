# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""System calls that fail: strace attaches to a child right before its work begins, and makes one call of it fail."""

from __future__ import annotations

import json
import mmap
import os
import re
import signal
import subprocess
import time
import traceback
import typing as t
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

# What a disk can refuse. strace passes over names that this machine's kernel does not have.
SYSCALLS = ("openat", "mkdir", "write", "pwrite64", "fsync", "fdatasync", "rename", "link", "unlink", "ftruncate")
# All of one kind: the C library decides which of them it calls.
_FAMILIES = {
    "mkdir": "mkdir,mkdirat",
    "rename": "rename,renameat,renameat2",
    "link": "link,linkat",
    "unlink": "unlink,unlinkat,rmdir",
}
_CALL = re.compile(r"^\d+ +([a-z0-9_]+)\(")
_PATH = re.compile(r'"(/[^"]+)"')
_INJECTED = "(INJECTED)"


@dataclass(frozen=True)
class Injection:
    """The ``number``-th call of this kind, of each thread, gets ``error`` (a name as ENOSPC) and is not made."""

    syscall: str
    number: int
    error: str

    def __str__(self) -> str:
        return f"{self.error} for {self.syscall} number {self.number}"


@dataclass(frozen=True)
class Outcome:
    """How the work ended: ``raised`` is the name of the exception's type, empty when there was none."""

    raised: str = ""
    clear: bool = True
    """The exception is the collection's own, whose message is for a person."""
    text: str = ""
    server_state: str | None = None
    calls: tuple[str, ...] = ()
    """The traced calls, each a line of strace."""

    @property
    def hit(self) -> str:
        """The call that failed, empty when there was no such call."""
        return next((call for call in self.calls if _INJECTED in call), "")

    def opened(self, below: str) -> set[str]:
        """Every path below a directory that a call has named."""
        return {path for call in self.calls for path in _PATH.findall(call) if path.startswith(below)}

    def count(self) -> Counter[str]:
        found = Counter(match[1] for match in map(_CALL.match, self.calls) if match)
        return Counter({kind: sum(found[name] for name in family(kind).split(",")) for kind in SYSCALLS})


def family(syscall: str) -> str:
    return _FAMILIES.get(syscall, syscall)


def run(
    work: Callable[[], object], log: Path, injection: Injection | None = None, *, paths: t.Iterable[str] = ()
) -> Outcome:
    """Do ``work`` in a child of this process, with one call failing; without an injection only look at its calls.

    With ``paths`` only calls that name one of them, or a descriptor of it, are counted and made to fail.
    """
    # Shared with the child, so that neither waiting nor telling takes a call that could be made to fail.
    shared = mmap.mmap(-1, 1 << 16)
    pid = os.fork()
    if pid == 0:
        while shared[0] == 0:
            time.sleep(0.001)
        _tell(shared, work)
        os.kill(os.getpid(), signal.SIGKILL)
    kinds = ",".join(map(family, SYSCALLS)) if injection is None else family(injection.syscall)
    options = ["-e", f"trace={kinds}"]
    if injection is not None:
        options += ["-e", f"inject={kinds}:error={injection.error}:when={injection.number}"]
    options += [option for path in paths for option in ("-P", path)]
    with subprocess.Popen(
        ["strace", "-f", "-o", str(log), *options, "-p", str(pid)], stderr=subprocess.PIPE, text=True
    ) as strace:
        assert strace.stderr is not None
        said = strace.stderr.readline()
        shared[0] = 1
        os.waitpid(pid, 0)
        said += strace.stderr.read()
    if "attached" not in said:
        raise RuntimeError(f"strace could not attach: {said}")
    told = json.loads(shared[1:].split(b"\0", 1)[0])
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return Outcome(**told, calls=tuple(line for line in lines if _CALL.match(line)))


def _tell(shared: mmap.mmap, work: Callable[[], object]) -> None:
    told: dict[str, t.Any] = {}
    try:
        work()
    except ReplicaBackupError as error:
        told = {"raised": type(error).__name__, "text": str(error), "server_state": error.server_state}
    except BaseException as error:
        told = {"raised": type(error).__name__, "clear": False, "text": traceback.format_exc()[-8000:]}
    text = json.dumps(told).encode("ascii")
    shared[1 : 1 + len(text)] = text
