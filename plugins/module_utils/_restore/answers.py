# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What module replica_restore answers its action plugin: the plan, a worker that was started, its status.

The action asks with a dict: ``ask`` is ``plan``, ``start``, ``status`` or ``end``. When the set is on the controller,
``files`` (``{name: [path, sha256]}``: manifest and checksums, put where the login user can write), ``from`` (what the
controller calls the set) and ``login_uid`` come with ``plan`` and ``start``.
"""

from __future__ import annotations

import os
import tempfile
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import HashedFile
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import MANIFEST_NAME, SUMS_NAME
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import worker
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import Feed, ManifestFeed
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.rclone import is_remote
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.worker import Source, Task

_BLOCK = 1024 * 1024


def answer(
    ask: t.Mapping[str, t.Any] | None,
    *,
    state_dir: str,
    src: str,
    rclone_config: str | None,
    timeout: float,
    entry: str,
    request: dict[str, t.Any],
    plan: t.Callable[[Feed], dict[str, t.Any]],
) -> dict[str, t.Any]:
    """``src`` is the option of that name, ``timeout`` how many seconds nothing may arrive of a set that comes as a
    stream. ``entry`` and ``request``: see Task; ``plan`` says what it would do. Returns the module's result."""
    if not ask:
        raise RefusedError("replica_restore was run without its action plugin")
    asked = ask["ask"]
    if asked == "status":
        return _say(worker.status(state_dir))
    if asked == "end":
        return _say(worker.end(state_dir))
    files = ask.get("files")
    if files:
        source = Source(worker.PIECES, str(ask["from"]), None, timeout, str(files[MANIFEST_NAME][1]))
    elif is_remote(src):
        source = Source(worker.RCLONE, src, rclone_config, timeout)
    else:
        source = Source(worker.LOCAL, os.path.abspath(os.path.expanduser(src)))
    if asked == "plan":
        return _plan(source, files, plan)
    _ledger.check_state_dir(state_dir)
    task = Task(entry, request, source)
    if not files:
        return _say(worker.start(state_dir, task))
    return _say(
        worker.start(
            state_dir,
            task,
            login_uid=int(ask["login_uid"]),
            prepare=lambda directory: _take(files, directory),
        )
    )


def _say(found: worker.Status | None) -> dict[str, t.Any]:
    return {"changed": False, "worker": None if found is None else found.to_result()}


def _plan(
    source: Source, files: t.Mapping[str, t.Any] | None, plan: t.Callable[[Feed], dict[str, t.Any]]
) -> dict[str, t.Any]:
    with tempfile.TemporaryDirectory(prefix=".replica-restore-") as work:
        if files:
            _take(files, work)
            return plan(ManifestFeed(work, source.where))
        feed = worker.make_feed(source, work)
        try:
            return plan(feed)
        finally:
            feed.close()


def _take(files: t.Mapping[str, t.Any], directory: str) -> None:
    """Copy what the controller sent into a directory of our own, proven."""
    for name in (MANIFEST_NAME, SUMS_NAME):
        path, expected = files[name]
        copy = HashedFile(os.path.join(directory, name))
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0) as handle:
                while block := handle.read(_BLOCK):
                    copy.write(block)
            found = copy.publish().sha256
        finally:
            copy.discard()
        if found != expected:
            raise ReplicaBackupError(
                f"{name} did not arrive as it was sent", found=f"sha256 {found}", expected=f"sha256 {expected}"
            )
