# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a look may take, and what counts as the end of a job. Lost links are in the scenario "faults"."""

from __future__ import annotations

import signal
import threading
import types
import typing as t

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.action.mysql_replica_start import ActionModule
from ansible_collections.mysql_ops.replica_backup.plugins.plugin_utils import _detached
from ansible_collections.mysql_ops.replica_backup.plugins.plugin_utils._detached import (
    DetachedAction,
    _at_most,
    _has_ended,
    _SilenceError,
)


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        ({"finished": False, "started": True}, False),
        ({"finished": 1}, True),
        ({"skipped": True}, True),
        # A file that is being written cannot be read; a job that nobody knows will never have one.
        ({"failed": True, "msg": "could not parse"}, False),
        ({"failed": True, "_ansible_parsed": True, "msg": "could not find job"}, True),
    ],
)
def test_what_counts_as_the_end(answer: dict[str, t.Any], ended: bool) -> None:
    assert _has_ended(answer) is ended


def test_a_look_that_hangs_is_ended_whatever_catches_exceptions() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(_SilenceError, match="no answer within 0 s"), _at_most(0.05):
        while True:
            try:
                signal.pause()
            except Exception:
                continue
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_look_in_time_leaves_no_alarm() -> None:
    with _at_most(60):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_the_alarm_of_somebody_else_stays() -> None:
    signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        with _at_most(1):
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_threads_have_no_alarm() -> None:
    seen = []

    def work() -> None:
        with _at_most(60):
            seen.append(signal.getitimer(signal.ITIMER_REAL)[0])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0.0]


class Job(DetachedAction):
    """A job that has ended with ``answer`` after its file of results held each of ``files``.

    Its host does not let go of what tidies up after it.
    """

    def __init__(self, answer: dict[str, t.Any], cleanup: t.Callable[[], None], files: tuple[str, ...] = ("",)) -> None:
        self._files = list(files)
        self.asked = 0
        self._task = types.SimpleNamespace(poll=0.0, action="mysql_ops.replica_backup.replica_archive")
        self._vars = {"inventory_hostname": "db2"}
        self._answer = answer
        self._cleanup = cleanup

    def _status(self, job: str) -> dict[str, t.Any]:
        self.asked += 1
        return self._answer

    def _low_level_execute_command(self, cmd: str, **_options: t.Any) -> dict[str, t.Any]:
        if cmd == "cat '/root/.a b/j1.2'":
            return {"stdout": self._files.pop(0)}
        assert cmd == "rm -f '/root/.a b/j1.2'"
        self._cleanup()
        return {}


FILE = "/root/.a b/j1.2"
UNDER_WAY = '{"started": 1, "finished": 0, "ansible_job_id": "j1.2"}'


@pytest.mark.parametrize("last", ['{"changed": true, "started": "2026-01-01"}', '["odd"]', '{"cut', ""])
def test_the_module_is_asked_only_when_the_file_no_longer_says_that_the_job_is_under_way(last: str) -> None:
    answer = {"finished": 1, "changed": True}
    job = Job(answer, lambda: None, (UNDER_WAY, UNDER_WAY.replace("0", "false"), last))
    assert job._wait("j1.2", FILE, 1e12) == answer
    assert job.asked == 1


def test_without_a_file_the_module_is_asked() -> None:
    answer = {"finished": 1, "changed": True}
    assert Job(answer, lambda: None, ())._wait("j1.2", "", 1e12) == answer


WRAPPER = "Traceback (most recent call last):\n  ...\nValueError: No start of json char found\n"


@pytest.mark.parametrize(
    ("stderr", "found"),
    [
        ("", "killed by hand or for lack of memory; see journalctl -k"),
        ("Traceback (most recent call last):\n  ...\nMemoryError\n", "with the error: MemoryError"),
    ],
)
def test_a_module_that_was_killed_is_told_without_the_traceback_of_ansible(stderr: str, found: str) -> None:
    answer = {"finished": 1, "failed": True, "cmd": "x", "data": "", "stderr": stderr, "msg": WRAPPER}
    result = Job(answer, lambda: None)._wait("j1.2", FILE, 1e12)
    assert result["failed"]
    assert found in result["msg"]
    assert "Next: ansible-playbook mysql_ops.replica_backup.recover --limit db2" in result["msg"]
    assert "json" not in result["msg"]


def test_tidying_up_neither_fails_nor_hangs_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("the link is cut")

    monkeypatch.setattr(_detached, "_LOOK_SECONDS", 0.2)
    for cleanup in (fail, signal.pause):
        answer = {"finished": 1, "changed": True}
        assert Job(answer, cleanup)._wait("j1.2", FILE, 1e12) == answer


class Recovery(ActionModule):
    """A recovery that is asked for first in check mode, where it answers ``found``."""

    def __init__(self, arguments: dict[str, t.Any], found: dict[str, t.Any]) -> None:
        self._task = types.SimpleNamespace(args=arguments, async_val=60, check_mode=False)
        self._connection = types.SimpleNamespace(_shell=types.SimpleNamespace(tmpdir=""))
        self._vars = {}
        self._found = found
        self.seen: list[tuple[bool, int]] = []

    def _execute_module(self, **_options: t.Any) -> dict[str, t.Any]:
        self.seen.append((self._task.check_mode, self._task.async_val))
        return self._found

    def _remove_tmp_path(self, tmp_path: str, force: bool = False) -> None:
        pass


def test_a_recovery_of_nothing_is_answered_at_once() -> None:
    found = {"changed": False, "explanation": ["No unfinished run."]}
    recovery = Recovery({"recover": "true", "take_over": "no"}, found)
    assert recovery._before() == found
    assert recovery.seen == [(True, 0)]
    assert (recovery._task.check_mode, recovery._task.async_val) == (False, 0)


@pytest.mark.parametrize(
    ("arguments", "found", "asked"),
    [
        ({"recover": True}, {"changed": True}, 1),
        ({"recover": True}, {"failed": True, "msg": "no login"}, 1),
        ({"recover": True, "take_over": True}, {"changed": False}, 0),
        ({"catch_up": True}, {"changed": False}, 0),
    ],
)
def test_whatever_else_is_detached(arguments: dict[str, t.Any], found: dict[str, t.Any], asked: int) -> None:
    recovery = Recovery(arguments, found)
    assert recovery._before() is None
    assert len(recovery.seen) == asked
    assert (recovery._task.check_mode, recovery._task.async_val) == (False, 60)
