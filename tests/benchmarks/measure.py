# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the benchmarks measure: wall time, peak memory of a process tree, and what machine it was."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import threading
import time
import typing as t
from pathlib import Path


def machine() -> dict[str, t.Any]:
    """Facts that a figure depends on."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    memory = next((int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": cpu,
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "memory_bytes": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "zstd": _first_line(["zstd", "--version"]),
        "tar": _first_line(["tar", "--version"]),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _first_line(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip("* ")


class Cost(t.NamedTuple):
    """Seconds on the clock, and seconds of all CPUs together: the second hardly depends on who else is at work."""

    wall: float
    cpu: float


def cost(work: t.Callable[[], object]) -> Cost:
    """What ``work`` takes; it must do everything in child processes that it waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(round(seconds, 4), round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 4))


def side_by_side(ways: t.Mapping[str, t.Callable[[], object]], rounds: int) -> dict[str, list[Cost]]:
    """Every way once a round, so that a slow minute of the machine hits them all; the first round only warms up."""
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, work in ways.items():
            one = cost(work)
            if number:
                costs[name].append(one)
    return costs


def medians(costs: t.Mapping[str, list[Cost]]) -> dict[str, Cost]:
    return {
        name: Cost(
            round(statistics.median(one.wall for one in values), 4),
            round(statistics.median(one.cpu for one in values), 4),
        )
        for name, values in costs.items()
    }


class PeakMemory(threading.Thread):
    """Watches a process and all its children; ``peaks`` has the largest resident size in bytes of each program."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = pid
        self._ended = threading.Event()
        self.peaks: dict[str, int] = {}

    def run(self) -> None:
        while not self._ended.wait(0.01):
            self._look()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _look(self) -> None:
        for pid in self._tree(self._root):
            try:
                status = dict(line.split(":", 1) for line in _lines(f"/proc/{pid}/status") if ":" in line)
            except OSError:
                continue
            if "VmHWM" in status:
                name = status["Name"].strip()
                self.peaks[name] = max(self.peaks.get(name, 0), int(status["VmHWM"].split()[0]) * 1024)

    def _tree(self, pid: int) -> list[int]:
        found = [pid]
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
            for task in tasks:
                for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                    found += self._tree(int(child))
        except OSError:
            return found
        return found
