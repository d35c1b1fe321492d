# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An archive that is made while the server serves: last in the queue for CPU and disk, and no faster than asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time

_NICE = 19
# At least so many seconds are waited at once: short waits are not kept exactly.
_LEAST_WAIT = 0.02


class Pace:
    """Holds a stream to ``rate`` bytes per second; 0 lets it run. Time that was not used is not made up for."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0
        # Several threads may share one rate.
        self._lock = threading.Lock()

    def spend(self, size: int) -> None:
        """Wait until ``size`` more bytes are allowed."""
        if self._rate <= 0:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + size / self._rate
            wait = self._free_at - now
        if wait >= _LEAST_WAIT:
            time.sleep(wait)


def stand_back(thread: int | None = None) -> None:
    """Lowest priority for this process and its children, or for one ``thread`` (native id) alone.

    For the CPU by nice, for the disk by the idle class where there is a tool: both go with the thread on Linux. Best
    effort: the rate is what is promised.
    """
    pid = os.getpid() if thread is None else thread
    try:
        os.setpriority(os.PRIO_PROCESS, pid, _NICE)
    except OSError:
        return
    tool = shutil.which("ionice", path=os.environ.get("PATH", "") + os.pathsep + "/usr/bin:/bin")
    if tool is not None:
        subprocess.run(
            [tool, "-c", "3", "-p", str(pid)],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
