# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole backup of one local server as the role does it, in a process that can be killed at any note of its ledger."""

from __future__ import annotations

import mmap
import os
import signal
import sys
import traceback
import types
import typing as t
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _handover, _ledger, _start, _stop
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Limits
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._start import StartRequest
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._stop import StopRequest
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server


@dataclass(frozen=True)
class OneRun:
    """The ``number``-th backup of a server. State and spool are below ``root``, unless they are given."""

    server: Server
    root: Path
    number: int
    spool: str = ""
    state: str = ""
    # Between two modules; short, so that the dead-man need not be waited for.
    gap: float = 3.0
    changes: dict[str, t.Any] = field(default_factory=dict)

    @property
    def login(self) -> Login:
        return Login(user="root", unix_socket=str(self.server.socket), config_file=None)

    @property
    def paths(self) -> SetPaths:
        return SetPaths(self.spool or str(self.root / "spool"), self.server.name, f"20260101T{self.number:06d}Z")

    @property
    def state_dir(self) -> str:
        return self.state or str(self.root / "state")

    @property
    def run_id(self) -> str:
        return f"run-{self.number}"

    def start_request(self, **changes: t.Any) -> StartRequest:
        return StartRequest(
            **{
                "login": self.login,
                "state_dir": self.state_dir,
                "run_id": self.run_id,
                "shutdown_timeout": 60,
                "start_timeout": 60,
                "catch_up_timeout": 60,
                "lock_timeout": 60,
                **changes,
            }
        )

    def recover(self, *, take_over: bool = False) -> dict[str, t.Any]:
        """What the recover playbook asks for, and (without ``take_over``) every backup before its own work."""
        return _start.start(self.start_request(run_id="", recover=True, take_over=take_over))

    def stop(self) -> None:
        request = StopRequest(
            login=self.login,
            paths=self.paths,
            state_dir=self.state_dir,
            run_id=self.run_id,
            limits=Limits(drain=30, temp_tables=10, gaps=30),
            compression="none",
            shutdown_timeout=60,
            start_timeout=60,
            downtime_budget=300,
            lease=self.gap,
            gap=self.gap,
            look_every=0.2,
        )
        _stop.stop(StopRequest(**{**request.__dict__, **self.changes}))

    def archive(self) -> dict[str, t.Any]:
        """Capture, and start the server at once."""
        request = self.request()
        return _handover.capture_then_start(lambda: _handover.by_plan(request), self.state_dir)[1]

    def request(self) -> job.Request:
        return job.Request(paths=self.paths, state_dir=self.state_dir, compression="none")

    def finish(self) -> None:
        _start.start(self.start_request())
        # From the clone, if the capture made one; else it has been captured already.
        job.capture(self.request())
        job.publish(self.request())
        _start.start(self.start_request(close=True))

    def __call__(self) -> None:
        self.recover()
        self.stop()
        self.archive()
        self.finish()


@dataclass(frozen=True)
class Note:
    """A note in the ledger: the ``number``-th of a run, while it stood at ``step``; ``after``: it is on the disk."""

    number: int
    step: str
    after: bool

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} note {self.number} ({self.step})"


def killed(work: Callable[[], object], number: int, *, after: bool) -> Note | None:
    """Do ``work`` in a child that ``kill -9`` ends at a note of its ledger; None when it made fewer notes.

    The interpreter itself tells of every call, so the code under test needs no hook for it.
    """
    shared = mmap.mmap(-1, 1 << 16)
    pid = os.fork()
    if pid == 0:
        _die_at(number, after, shared)
        try:
            work()
        except BaseException:
            sys.setprofile(None)
            shared[1:5000] = traceback.format_exc()[-4999:].encode("ascii", "replace").ljust(4999, b"\0")
            shared[0] = 2
        finally:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    text = shared[1:].split(b"\0", 1)[0].decode("ascii")
    if shared[0] == 2:
        raise RuntimeError(f"the run failed by itself:\n{text}")
    return Note(number, text, after) if status == -signal.SIGKILL else None


def _die_at(number: int, after: bool, shared: mmap.mmap) -> None:
    seen = 0
    code = _ledger.Ledger.save.__code__

    def look(frame: types.FrameType, event: str, _argument: object) -> None:
        nonlocal seen
        if frame.f_code is not code or event != ("return" if after else "call"):
            return
        seen += 1
        if seen == number:
            step = str(frame.f_locals["self"].data.get("step")).encode("ascii")
            shared[1 : 1 + len(step)] = step
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(look)


def killed_by_itself(work: Callable[[], object]) -> bool:
    """Do ``work`` in a child; True when ``kill -9`` ended it, whoever sent that."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
