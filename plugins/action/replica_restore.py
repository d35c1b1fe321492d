# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends a set to the replica. Documented in the module of the same name, which is its half there."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import time
import typing as t
import uuid

from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.backup_set import BackupSet, open_set
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._handoff import hash_file
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import MANIFEST_NAME, SUMS_NAME
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import inbox
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.choose import choose_set
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.inbox import Listing
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.rclone import is_remote
from ansible_collections.mysql_ops.replica_backup.plugins.plugin_utils import _pieces
from ansible_collections.mysql_ops.replica_backup.plugins.plugin_utils._ssh_options import for_transfer

_MODULE = "mysql_ops.replica_backup.replica_restore"
_AT_WORK = ("starting", "running")
# Seconds between two looks at the worker, and at the inbox while it is full.
_LOOK_FIRST, _LOOK_LAST = 0.5, 10.0
_ROOM_FIRST, _ROOM_LAST = 0.2, 2.0
# A worker that was killed leaves its inbox full: after so long without room it is asked for.
_DOUBT = 10.0


class _FarEndError(Exception):
    """The module on the replica failed; its result says why."""

    def __init__(self, result: dict[str, t.Any]) -> None:
        super().__init__(result.get("msg", "no message"))
        self.result = result


class _WorkerGoneError(Exception):
    """The worker has ended, well or not; its status says which."""


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """See the documentation of the module."""

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        self._vars = task_vars or {}
        self._module_args = dict(self._task.args)
        try:
            result.update(self._work())
        except _FarEndError as error:
            result.update(error.result)
            result["failed"] = True
        except ReplicaBackupError as error:
            result.update(error.to_result())
            result["failed"] = True
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _work(self) -> dict[str, t.Any]:
        src = self._module_args.get("src")
        there = boolean(self._module_args.get("remote_src", False), strict=False)
        if not isinstance(src, str) or there or is_remote(src):
            return self._finish({}, None)
        wanted = (str(self._module_args.get(name) or "") for name in ("sets_dir", "host"))
        path = choose_set(src, *wanted)
        self._module_args["src"] = path
        backup = open_set(path)
        _pieces.check(backup)
        return self._finish(self._introduce(backup), backup)

    def _introduce(self, backup: BackupSet) -> dict[str, t.Any]:
        """Manifest and checksums, in Ansible's own directory of the login user on the replica."""
        self._make_tmp_path()
        directory = self._connection._shell.tmpdir
        files = {}
        for name in (MANIFEST_NAME, SUMS_NAME):
            near = os.path.join(backup.directory, name)
            if not os.path.exists(near):
                raise ReplicaBackupError(f"{backup.directory} is not complete", found="no such file", expected=name)
            far = self._connection._shell.join_path(directory, name)
            self._transfer_file(near, far)
            files[name] = [far, hash_file(near)[1]]
        self._fixup_perms2([directory, *(path for path, _digest in files.values())])
        return {"files": files, "from": backup.directory, "login_uid": self._login_uid()}

    def _finish(self, introduced: dict[str, t.Any], backup: BackupSet | None) -> dict[str, t.Any]:
        if self._task.check_mode:
            return self._ask("plan", **introduced)
        worker = self._ask("start", **introduced)["worker"]
        if backup is not None and worker["state"] in _AT_WORK:
            try:
                self._push(backup, worker["inbox"])
            except _WorkerGoneError:
                pass
            except AnsibleConnectionFailure:
                # The worker waits for a while: the same task, run again, goes on.
                raise
            except (AnsibleError, ReplicaBackupError, OSError) as error:
                self._give_up(error)
        return self._outcome()

    def _give_up(self, error: Exception) -> t.NoReturn:
        worker = self._ask("end")["worker"]
        if isinstance(error, ReplicaBackupError):
            raise error
        raise ReplicaBackupError(
            f"The set could not be sent: {error}",
            found=f"the restore on the replica is {worker['state']}" if worker else None,
            server_state="see the error of the restore" if worker and worker["state"] in _AT_WORK else None,
            next_command="run the restore again",
        ) from error

    def _outcome(self) -> dict[str, t.Any]:
        pause = _LOOK_FIRST
        while True:
            worker = self._ask("status")["worker"]
            if worker is None or worker["state"] not in _AT_WORK:
                break
            time.sleep(pause)
            pause = min(_LOOK_LAST, pause * 1.5)
        if worker is None:
            raise ReplicaBackupError("The status of the restore is gone from the replica", expected="its result")
        if worker["state"] != "done":
            raise _FarEndError(worker["error"])
        result: dict[str, t.Any] = worker["result"]
        for warning in result.pop("warnings", ()):
            self._display.warning(warning)
        return result

    # -- the far end ---------------------------------------------------------------------------------------------

    def _ask(self, ask: str, **request: t.Any) -> dict[str, t.Any]:
        result: dict[str, t.Any] = self._execute_module(
            module_name=_MODULE,
            module_args={**self._module_args, "request": {"ask": ask, **request}},
            task_vars=self._vars,
        )
        if result.get("failed") or "module_stderr" in result:
            raise _FarEndError(result)
        return result

    def _login_uid(self) -> int:
        answer = self._low_level_execute_command("id -u", sudoable=False)
        try:
            return int(answer["stdout"].strip().splitlines()[-1])
        except (ValueError, IndexError):
            raise ReplicaBackupError(
                "The login user's number is not known",
                found=repr(answer.get("stdout") or answer.get("stderr")),
                expected="a number from 'id -u'",
            ) from None

    # -- the transfer --------------------------------------------------------------------------------------------

    def _push(self, backup: BackupSet, directory: str) -> None:
        """Every piece that the worker does not have yet, never more than two of them at a time."""
        # What an interrupted run had not sent to its end only takes room.
        listing = self._list(directory, f"rm -f {shlex.quote(directory)}/incoming-* && ")
        near = tempfile.mkdtemp(prefix="replica-restore-", dir=constants.DEFAULT_LOCAL_TMP)
        try:
            path = os.path.join(near, "piece")
            for piece in _pieces.cut(backup, path, listing.next):
                self._wait_for_room(directory, listing)
                listing = self._put(path, directory, piece)
        finally:
            shutil.rmtree(near, ignore_errors=True)

    def _put(self, path: str, directory: str, piece: inbox.Piece) -> Listing:
        incoming = f"{directory}/incoming-{uuid.uuid4().hex}"
        # Not over the connection that is open already: that one compresses what is compressed.
        with for_transfer(self._connection, is_ssh=self._connection.transport == "ssh", bounded=True):
            try:
                self._connection.put_file(path, incoming)
            except AnsibleConnectionFailure:
                raise
            except (AnsibleError, OSError):
                # Where there is no inbox any more there is nothing to write to.
                self._list(directory)
                raise
        return self._list(directory, f"mv -f {shlex.quote(incoming)} {shlex.quote(f'{directory}/{piece.name}')} && ")

    def _wait_for_room(self, directory: str, listing: Listing) -> None:
        pause = _ROOM_FIRST
        doubt = time.monotonic() + _DOUBT
        while len(listing.pieces) >= inbox.PIECES:
            time.sleep(pause)
            pause = min(_ROOM_LAST, pause * 1.5)
            before, listing = listing, self._list(directory)
            if listing != before:
                doubt = time.monotonic() + _DOUBT
            elif time.monotonic() > doubt:
                worker = self._ask("status")["worker"]
                if worker is None or worker["state"] not in _AT_WORK:
                    raise _WorkerGoneError
                doubt = time.monotonic() + _DOUBT

    def _list(self, directory: str, before: str = "") -> Listing:
        answer = self._low_level_execute_command(f"{before}ls -1 {shlex.quote(directory)}", sudoable=False)
        if answer["rc"] != 0:
            raise _WorkerGoneError
        return inbox.parse(answer["stdout"].split())
