# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding and ending the processes of one scratch directory, whoever started them.

The product under test stops servers and starts them again, so a process id noted at the start says
nothing later. What stays is that every process of the lab names its scratch directory in its arguments.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path


def arguments(pid: int) -> tuple[str, ...]:
    """Return the command line of a process, empty when it is gone, a zombie or not ours to read."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(part.decode(errors="surrogateescape") for part in raw.split(b"\0")[:-1])


def start_ticks(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot; with the pid this names one process for good."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def is_running(pid: int) -> bool:
    """Return whether the process exists and is more than a zombie.

    The first thread may be one while others, and with them the open sockets and files, are still on their way out.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        if stat.rpartition(")")[2].split()[0] not in "ZX":
            return True
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def all_pids() -> Iterator[int]:
    """Yield every process id of the machine."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def ancestors() -> set[int]:
    """Return this process and everything it was started by."""
    found: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            break
        pid = int(stat.rpartition(")")[2].split()[1])
    return found


def naming(directory: Path) -> list[int]:
    """Return the processes with an argument inside ``directory``, never this one or what started it."""
    prefix = f"{directory}/"
    spared = ancestors()
    return [pid for pid in all_pids() if pid not in spared and any(f"={prefix}" in f"={a}" for a in arguments(pid))]


def end(pids: list[int], *, patience: float = 0.0) -> None:
    """Ask processes to end, then kill what is left after ``patience`` seconds."""
    for pid in pids:
        _send(pid, signal.SIGTERM if patience else signal.SIGKILL)
    deadline = time.monotonic() + patience
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in pids:
        if is_running(pid):
            _send(pid, signal.SIGKILL)
    while any(is_running(pid) for pid in pids):
        time.sleep(0.02)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        # A stopped process would keep a SIGTERM waiting for ever.
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, number)
    except ProcessLookupError:
        pass
