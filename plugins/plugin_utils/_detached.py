# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waits for a module that works detached from the connection, without waiting for ever.

Ansible's own wait for an ``async`` task takes every failure to connect for a passing one, and a job whose process is
gone for one that is still at work: with a host that is lost for good, or was restarted, it ends when the time of the
task is over, which for a backup is days. This one ends when the host has given no answer for
``replica_backup_link_timeout`` seconds (the host then counts as unreachable), and when the job's process is gone.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import threading
import time
import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.playbook.task import Task
from ansible.plugins.action import ActionBase

DEFAULT_LINK_TIMEOUT = 60
# Seconds for one look. A shared ssh connection whose link was cut hangs for a quarter of an hour otherwise.
_LOOK_SECONDS = 20.0
# Seconds before the first looks; those after them come every "poll" seconds. Many steps end within the first.
_FIRST_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)
# Seconds between two looks at the process of the job, and looks that must agree: it ends just after it has answered.
_LOOK_EVERY = 10.0
_LOOKS = 3

_GONE = "its process is gone: the host was restarted, or the process was killed"


class _SilenceError(BaseException):
    """A look that takes too long. Connection plugins catch and retry every Exception."""


class DetachedAction(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Runs the module of the same name, as Ansible does where no action plugin is; only the wait differs."""

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        self._vars = task_vars or {}
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        detached = bool(self._task.async_val) and not self._connection.has_native_async
        if detached and (answer := self._before()) is not None:
            return {**result, **answer}
        result.update(self._execute_module(task_vars=self._vars, wrap_async=detached))
        if not detached:
            self._remove_tmp_path(self._connection._shell.tmpdir)
            return result
        if self._task.poll <= 0 or result.get("failed") or "ansible_job_id" not in result:
            return result
        limit = time.monotonic() + self._task.async_val
        # Ansible's own wait begins only where this is set.
        self._task.async_val = 0
        return self._wait(result["ansible_job_id"], str(result.get("results_file", "")), limit)

    def _before(self) -> dict[str, t.Any] | None:
        limit, self._task.async_val = self._task.async_val, 0
        answer = None
        try:
            answer = self._at_once()
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
            # Ansible's own wait begins only where this is set.
            if answer is None:
                self._task.async_val = limit
        return answer

    def _at_once(self) -> dict[str, t.Any] | None:
        """The answer of a module that has nothing to do and so need not be detached; for whom that is known."""
        return None

    def _wait(self, job: str, results_file: str, limit: float) -> dict[str, t.Any]:
        answered = looked = time.monotonic()
        gone = 0
        answer: dict[str, t.Any]
        waits = iter(_FIRST_WAITS)
        while True:
            time.sleep(min(next(waits, self._task.poll), self._task.poll))
            try:
                with _at_most(_LOOK_SECONDS):
                    if not self._is_unfinished(results_file):
                        answer = self._status(job)
                        if _has_ended(answer):
                            break
                    now = answered = time.monotonic()
                    if now - looked >= _LOOK_EVERY / (_LOOKS if gone else 1):
                        looked = now
                        gone = 0 if self._is_at_work(job) else gone + 1
            except (AnsibleError, _SilenceError) as error:
                silent = time.monotonic() - answered
                if silent > self._patience():
                    raise AnsibleConnectionFailure(self._lost(silent, error)) from error
                # A shared connection may hang for longer than a new one takes.
                with contextlib.suppress(AttributeError, AnsibleError):
                    self._connection.reset()
                continue
            if gone >= _LOOKS or time.monotonic() > limit:
                found = _GONE if gone else "it is at work for longer than the task allows"
                return {"failed": True, "changed": True, "msg": self._ended_silently(job, found)}
        if answer.get("finished") and results_file:
            # Only tidiness, and the result is here: neither a lost link nor one that hangs may spoil it.
            with contextlib.suppress(Exception, _SilenceError), _at_most(_LOOK_SECONDS):
                self._low_level_execute_command(f"rm -f {shlex.quote(results_file)}")
        found = _no_result(answer)
        if found:
            return {**answer, "changed": True, "msg": self._ended_silently(job, found)}
        return answer

    def _patience(self) -> float:
        return float(self._templar.template(self._vars.get("replica_backup_link_timeout", DEFAULT_LINK_TIMEOUT)))

    def _is_unfinished(self, results_file: str) -> bool:
        """Whether the job's file of results says so: a command, where Ansible's own look sends a module each time.

        False for whatever else is found there: what that means is for Ansible to say.
        """
        if not results_file:
            return False
        said = self._low_level_execute_command(f"cat {shlex.quote(results_file)}").get("stdout", "")
        try:
            found = json.loads(said)
        except ValueError:
            return False
        # What async_wrapper writes before the module begins has both; the result that takes its place has neither.
        return isinstance(found, dict) and bool(found.get("started")) and not found.get("finished", True)

    def _status(self, job: str) -> dict[str, t.Any]:
        look = Task.load(
            {
                "action": "ansible.legacy.async_status",
                "args": {"jid": job, "mode": "status"},
                "environment": self._task.environment,
            }
        )
        handler = self._shared_loader_obj.action_loader.get(
            "ansible.legacy.async_status",
            task=look,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        try:
            answer: dict[str, t.Any] = handler.run(task_vars=self._vars)
        finally:
            handler.cleanup(force=True)
        return answer

    def _is_at_work(self, job: str) -> bool:
        """Whether a process on the host has the job's number among its words."""
        number = job.split(".")[0]
        # In brackets, so that the command does not find itself.
        words = f"grep -lsa '[{number[0]}]{number[1:]}' /proc/[0-9]*/cmdline; echo asked"
        said = str(self._low_level_execute_command(words).get("stdout", ""))
        return "/proc/" in said or "asked" not in said

    def _lost(self, silent: float, error: BaseException) -> str:
        return (
            f"The host has given no answer for {silent:.0f} s (replica_backup_link_timeout: {self._patience():.0f})"
            f" while {self._module} was at work there. Server state: not known from here; that step goes on without the"
            " connection, and a server that a backup has stopped is started again by it or by the dead-man."
            f" Next: when the host answers, {self._recover}. The last answer of the connection: {error}"
        )

    def _ended_silently(self, job: str, found: str) -> str:
        return (
            f"{self._module} has left no result. Found: {found} (job {job}). Expected: a result. Server state: not"
            " known from here; a server that a backup has stopped is started again by the role or by the dead-man."
            f" Next: {self._recover}."
        )

    @property
    def _module(self) -> str:
        return str(self._task.action).rpartition(".")[2]

    @property
    def _recover(self) -> str:
        host = self._vars.get("inventory_hostname", "HOST")
        return f"ansible-playbook mysql_ops.replica_backup.recover --limit {host}"


@contextlib.contextmanager
def _at_most(seconds: float) -> t.Iterator[None]:
    """Raise in the midst of what is done in the context when it takes longer, where nobody else uses the alarm."""
    if threading.current_thread() is not threading.main_thread() or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def end(_number: int, _frame: object) -> None:
        raise _SilenceError(f"no answer within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _has_ended(answer: dict[str, t.Any]) -> bool:
    """A result that could not be read is one that is being written."""
    if answer.get("finished") or answer.get("skipped"):
        return True
    return bool(answer.get("failed") and answer.get("_ansible_parsed"))


def _no_result(answer: dict[str, t.Any]) -> str:
    """What is known of a module that left no result, for which async_wrapper tells its own traceback; else ""."""
    # Its fields for the output that held no JSON; results of modules have none called "data" beside a traceback.
    message = str(answer.get("msg", ""))
    if not (answer.get("failed") and "data" in answer and "cmd" in answer and "Traceback" in message):
        return ""
    said = str(answer.get("stderr") or "").strip()
    if "Traceback" in said:
        return f"its process ended without a result, with the error: {said.splitlines()[-1]}"
    return "its process ended without a result: killed by hand or for lack of memory; see journalctl -k" + (
        f"; it had said: {said[-500:]}" if said else ""
    )
