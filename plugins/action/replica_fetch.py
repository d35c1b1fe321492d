# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings a set to the controller. Documented in the module of the same name, which is its half on the replica."""

from __future__ import annotations

import base64
import contextlib
import os
import time
import typing as t

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._handoff import (
    CHUNK_BYTES,
    INDEX_NAME,
    PIECE_BYTES,
    Item,
    hash_file,
    quote,
    unquote,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import utc
from ansible_collections.mysql_ops.replica_backup.plugins.plugin_utils import _landing
from ansible_collections.mysql_ops.replica_backup.plugins.plugin_utils._ssh_options import for_transfer

_COLLECTION = "mysql_ops.replica_backup"
_WAYS = ("direct", "link", "piece", "chunk")


class _FarEndError(Exception):
    """A module on the replica failed; its result says why."""

    def __init__(self, result: dict[str, t.Any]) -> None:
        super().__init__(result.get("msg", "no message"))
        self.result = result


class _TransferError(Exception):
    """The connection could not read what was handed over; another way may work."""


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """See the documentation of the module."""

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result: dict[str, t.Any] = super().run(tmp, task_vars)
        self._vars = task_vars or {}
        _checked, self._args = self.validate_argument_spec(
            argument_spec={
                "spool_dir": {"type": "path", "required": True},
                "state_dir": {"type": "path", "required": True},
                "host": {"type": "str"},
                "backup_id": {"type": "str"},
                "dest": {"type": "path"},
                "state": {"type": "str", "choices": ["fetched", "ready", "released"], "default": "fetched"},
                "publish": {"type": "bool", "default": True},
                "request": {"type": "dict"},
            },
            required_if=[
                ("state", "fetched", ("host", "backup_id", "dest")),
                ("state", "ready", ("host", "backup_id")),
            ],
        )
        try:
            result.update(self._work())
        except _FarEndError as error:
            result.update(error.result)
            result["failed"] = True
        except ReplicaBackupError as error:
            result.update(error.to_result())
            result["failed"] = True
        except OSError as error:
            result.update(self._in_words(error).to_result())
            result["failed"] = True
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _work(self) -> dict[str, t.Any]:
        state = self._args["state"]
        dest = self._args["dest"]
        if state == "released":
            if self._task.check_mode:
                return {"changed": False, "cleared": []}
            answer = self._ask("release")
            cleared = self._clear_unfinished(answer)
            return {"changed": bool(answer.get("changed") or cleared), "cleared": cleared}
        far = SetPaths(self._args["spool_dir"], self._args["host"], self._args["backup_id"])
        near = SetPaths(os.path.abspath(dest or "."), far.host, far.backup_id)
        if state == "ready":
            if dest:
                _landing.check_destination(near, may_write=not self._task.check_mode)
            answer = self._ask("ready")
            cleared = [] if self._task.check_mode else self._clear_unfinished(answer)
            return {"changed": bool(cleared), "cleared": cleared}
        return self._fetch(near)

    def _clear_unfinished(self, answer: dict[str, t.Any]) -> list[str]:
        """Transfers that nobody will finish: the replica, whose answer this is, has nothing of them any more."""
        dest, host = self._args["dest"], self._args["host"]
        if not dest or not host:
            return []
        return _landing.clear_unfinished(os.path.abspath(dest), host, answer.get("backup_ids", ()))

    def _fetch(self, near: SetPaths) -> dict[str, t.Any]:
        started, started_at = time.monotonic(), utc()
        complete = os.path.exists(near.manifest)
        if complete or self._task.check_mode:
            there = self._look(near, complete)
            if self._task.check_mode:
                return {"changed": not complete, "set_dir": near.directory}
            if not there:
                # Brought over earlier, and cleared from the spool then: the set here is the only one.
                size = _landing.verify_set(near)
                return self._outcome(near, size, 0, started, "none", changed=False, published=True)
        landing = _landing.Landing(near)
        with contextlib.ExitStack() as stack:
            _landing.make_private(near.directory)
            stack.callback(_landing.remove_if_empty, near.directory)
            stack.enter_context(_landing.held(near.directory))
            # Nothing stays readable for the login user. When the connection is lost the next call does it.
            self._arrived = False
            stack.callback(self._release)
            method, size = self._bring(landing)
            times = {"fetch": {"start": started_at, "end": utc(), "seconds": round(time.monotonic() - started, 3)}}
            publish = self._args["publish"] and not complete
            if publish:
                self._publish(landing, times)
            self._arrived = bool(self._args["publish"])
        changed = publish or landing.moved > 0
        return self._outcome(near, size, landing.moved, started, method, changed=changed, published=publish or complete)

    def _look(self, near: SetPaths, complete: bool) -> bool:
        """Whether the set is on the replica. Refuses when it is nowhere, or another than the one at the destination."""
        look = self._ask("offer", look=True)
        if not complete and not look["there"]:
            raise self._nothing_there()
        if complete and look["there"] and tuple((look["manifest"] or ["", 0, ""])[1:]) != hash_file(near.manifest):
            raise RefusedError(
                f"Backup id {near.backup_id} exists at the destination and is another set",
                found=near.manifest,
                expected="a destination without it, or the same set",
            )
        return bool(look["there"])

    def _outcome(
        self, near: SetPaths, size: int, moved: int, started: float, method: str, *, changed: bool, published: bool
    ) -> dict[str, t.Any]:
        return {
            "changed": changed,
            "set_dir": near.directory,
            "bytes": size,
            "moved": moved,
            "seconds": round(time.monotonic() - started, 3),
            "method": method if moved else "none",
            "verified": True,
            "published": published,
        }

    def _nothing_there(self) -> RefusedError:
        return RefusedError(
            f"There is no backup {self._args['backup_id']} of {self._args['host']} to bring over",
            found=f"nothing below {self._args['spool_dir']} on the replica",
            expected="an archive that replica_archive has written",
            server_state=_landing.UNTOUCHED,
            next_command="look for the set below replica_backup_dest, or make a new backup",
        )

    def _in_words(self, error: OSError) -> ReplicaBackupError:
        return ReplicaBackupError(
            f"The destination {self._args['dest']} on the controller failed",
            found=f"{error.strerror}: {error.filename or 'a file that was being written'}",
            expected="a directory that this user can write to, with room for the set; variable replica_backup_dest",
            server_state=_landing.UNTOUCHED,
            next_command="mend it, then ansible-playbook mysql_ops.replica_backup.recover --limit"
            f" {self._args['host']}, which brings over what the run has left",
        )

    # -- the far end ---------------------------------------------------------------------------------------------

    def _module(self, name: str, arguments: dict[str, t.Any]) -> dict[str, t.Any]:
        result: dict[str, t.Any] = self._execute_module(
            module_name=f"{_COLLECTION}.{name}", module_args=arguments, task_vars=self._vars
        )
        if result.get("failed") or "module_stderr" in result:
            raise _FarEndError(result)
        return result

    def _ask(self, ask: str, **request: t.Any) -> dict[str, t.Any]:
        common = {key: self._args[key] for key in ("spool_dir", "state_dir", "host", "backup_id", "dest", "state")}
        arguments = {key: value for key, value in common.items() if value is not None}
        return self._module("replica_fetch", {**arguments, "request": {"ask": ask, **request}})

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

    def _release(self) -> None:
        try:
            self._ask("release", clear=self._arrived)
        except (AnsibleError, _FarEndError) as error:
            if self._arrived:
                self._display.warning(f"The set is complete here, but the spool was not cleared: {error}")

    def _bring(self, landing: _landing.Landing) -> tuple[str, int]:
        """Every file of the set but the manifest; returns the method and the size in bytes."""
        self._uid = self._login_uid()
        offered = self._offer("")
        items = [Item(unquote(name), size, digest) for name, size, digest in offered["items"]]
        while True:
            missing = [item for item in items if not landing.has(item)]
            landing.prepare(sum(item.bytes for item in missing))
            size = sum(item.bytes for item in items)
            method = offered["offer"]["method"]
            try:
                self._transfer(landing, items, missing, offered["offer"])
                if offered["tree"]:
                    size += self._transfer_tree(landing, offered)
                return method, size
            except _TransferError as error:
                offered = self._slower(method, error)

    def _slower(self, method: str, error: _TransferError) -> dict[str, t.Any]:
        if method == _WAYS[-1]:
            raise ReplicaBackupError(f"The set cannot be brought over: {error}") from error
        self._display.warning(f"replica_fetch: method {method} failed ({error}); trying a slower one")
        return self._offer(method)

    def _offer(self, worse_than: str, **request: t.Any) -> dict[str, t.Any]:
        offered = self._ask("offer", login_uid=self._uid, worse_than=worse_than, **request)
        if not offered["there"]:
            raise self._nothing_there()
        made = offered["offer"]
        if made["reason"] and made["method"] in ("piece", "chunk"):
            self._display.warning(
                f"replica_fetch: the set goes in pieces of at most {self._limit(made['method']) >> 20} MiB,"
                f" which is slower: {made['reason']}"
            )
        return offered

    @staticmethod
    def _limit(method: str) -> int:
        return CHUNK_BYTES if method == "chunk" else PIECE_BYTES

    def _transfer(
        self, landing: _landing.Landing, items: list[Item], missing: list[Item], offer: dict[str, t.Any]
    ) -> None:
        if not offer["sources"]:
            self._transfer_pieces(landing, missing, offer)
            return
        for item, source in zip(items, offer["sources"]):
            if item in missing:
                path = landing.incoming()
                self._fetch_file(source, path)
                landing.place(path, item)

    def _transfer_tree(self, landing: _landing.Landing, offered: dict[str, t.Any]) -> int:
        offer, size = offered["offer"], int(offered["index_bytes"])
        index = os.path.join(landing.paths.work, "index.jsonl")
        with open(os.open(index, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            for runs in _landing.pieces([Item(INDEX_NAME, size, "")], self._limit(offer["method"])):
                with open(self._get_piece(landing, runs, offer), "rb") as piece:
                    while block := piece.read(1024 * 1024):
                        out.write(block)
        wanted = total = 0
        for file in _landing.tree_files(index):
            total += file.item.bytes
        landing.prepare(0)
        batch: list[Item] = []
        for file in _landing.tree_files(index):
            if not landing.has(file.item):
                batch.append(file.item)
                wanted += file.item.bytes
            if len(batch) >= 1000 or wanted >= self._limit(offer["method"]):
                self._transfer_pieces(landing, batch, offer)
                batch, wanted = [], 0
        self._transfer_pieces(landing, batch, offer)
        for file in _landing.tree_files(index):
            landing.set_mtime(file)
        landing.finish_tree(index)
        return total

    def _transfer_pieces(self, landing: _landing.Landing, files: list[Item], offer: dict[str, t.Any]) -> None:
        by_name = {item.name: item for item in files}
        slicer = _landing.Slicer(landing)
        try:
            for runs in _landing.pieces(files, self._limit(offer["method"])):
                with open(self._get_piece(landing, runs, offer), "rb") as piece:
                    slicer.take(piece, runs, by_name)
        finally:
            slicer.close()

    def _get_piece(self, landing: _landing.Landing, runs: list[_landing.Run], offer: dict[str, t.Any]) -> str:
        ranges = [[quote(name), offset, length] for name, offset, length in runs]
        path = landing.incoming()
        if offer["method"] == "chunk":
            content = self._ask("chunk", ranges=ranges)["content"]
            with open(path, "wb") as out:
                out.write(base64.b64decode(content))
        else:
            self._fetch_file(self._ask("piece", ranges=ranges, login_uid=self._uid)["path"], path)
        return path

    def _fetch_file(self, source: str, path: str) -> None:
        try:
            # Only here: the modules in between go over the user's own connection, which is open already.
            with for_transfer(self._connection, is_ssh=self._connection.transport == "ssh"):
                self._connection.fetch_file(source, path)
        except AnsibleConnectionFailure:
            raise
        except (AnsibleError, OSError) as error:
            raise _TransferError(str(error)) from error

    # -- the end -------------------------------------------------------------------------------------------------

    def _publish(self, landing: _landing.Landing, times: dict[str, t.Any]) -> None:
        offered = self._offer("", publish=times)
        name, size, digest = offered["manifest"]
        manifest = Item(name, size, digest)
        landing.prepare(size)
        while True:
            try:
                path = self._get_manifest(landing, manifest, offered["offer"])
                break
            except _TransferError as error:
                offered = self._slower(offered["offer"]["method"], error)
        landing.publish(path, manifest)

    def _get_manifest(self, landing: _landing.Landing, manifest: Item, offer: dict[str, t.Any]) -> str:
        path = os.path.join(landing.paths.work, "manifest.partial")
        if offer["sources"]:
            incoming = landing.incoming()
            self._fetch_file(offer["sources"][-1], incoming)
            os.rename(incoming, path)
            return path
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            for runs in _landing.pieces([manifest], self._limit(offer["method"])):
                with open(self._get_piece(landing, runs, offer), "rb") as piece:
                    while block := piece.read(1024 * 1024):
                        out.write(block)
        return path
