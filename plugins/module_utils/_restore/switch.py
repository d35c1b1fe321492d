# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exchange a server's files for those that were laid down beside them: by renames alone, forward only.

Every step may be interrupted and is then done again: a name is moved only while its source is there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.journal import Journal
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.roots import ENTRIES, RENAME, Root

_FILE_SYSTEM = "lost+found"


def switch(journal: Journal, roots: t.Sequence[Root], mounts: t.Collection[str]) -> None:
    """Move the old files aside, the new ones in. The server must be down.

    Raises ReplicaBackupError with the state of the files; the journal stays, and a second call goes on from there.
    """
    try:
        if not journal.work.get("aside"):
            for root in roots:
                _aside(journal, root, mounts)
            journal.work["aside"] = True
            journal.write()
        for root in roots:
            _bring_in(journal, root)
    except OSError as problem:
        raise ReplicaBackupError(
            f"The files could not be exchanged: {problem.filename or ''} {problem.strerror}",
            found="old files under .before names, new ones under .restoring names",
            expected="renames without error",
            server_state="stopped; its files are half exchanged, and nothing of this collection starts it",
            next_command="mend the cause and run the restore again with the same set: it goes on from here",
        ) from problem


def _aside(journal: Journal, root: Root, mounts: t.Collection[str]) -> None:
    if root.style == RENAME:
        if os.path.lexists(fs.encode(root.staging)):
            _move_directory_aside(journal, root)
    elif root.style == ENTRIES:
        if os.geteuid() == 0:
            # A server that somebody starts meanwhile cannot even enter.
            os.chmod(fs.encode(root.path), 0)
        for name in fs.names(root.path):
            path = os.path.join(root.path, name)
            if path not in (root.staging, root.before) and name != _FILE_SYSTEM and path not in mounts:
                _to_before(journal, root, name)
    else:
        for relative in list(_stale(root)):
            _to_before(journal, root, relative)
    _sync(root)


def _stale(root: Root) -> t.Iterator[str]:
    """Former files of the server in a shared directory, and below it where the set brings directories of that name."""
    if not root.stale:
        return
    pattern = re.compile(root.stale, re.DOTALL)
    for directory, _subdirectories, _files in os.walk(fs.encode(root.staging)):
        relative = os.path.relpath(fs.decode(directory), root.staging)
        there = fs.absolute(relative, root.path)
        if not fs.is_directory(there):
            continue
        for name in fs.names(there):
            path = name if relative == "." else f"{relative}/{name}"
            if pattern.fullmatch(path):
                yield path


def _bring_in(journal: Journal, root: Root) -> None:
    if not os.path.lexists(fs.encode(root.staging)):
        return
    if root.style == RENAME:
        _move_directory_aside(journal, root)
        os.rename(fs.encode(root.staging), fs.encode(root.path))
    else:
        status = os.stat(fs.encode(root.staging))
        _merge(journal, root, ".")
        if root.style == ENTRIES:
            if os.geteuid() == 0:
                os.chown(fs.encode(root.path), status.st_uid, status.st_gid)
            os.chmod(fs.encode(root.path), stat.S_IMODE(status.st_mode))
    _sync(root)


def _merge(journal: Journal, root: Root, relative: str) -> None:
    """Move what lies in a staged directory to its place; directories that are there already keep their other files."""
    staged, there = fs.absolute(relative, root.staging), fs.absolute(relative, root.path)
    for name in fs.names(staged):
        path = name if relative == "." else f"{relative}/{name}"
        source, target = os.path.join(staged, name), os.path.join(there, name)
        both = fs.lstat(target)
        if both is not None and stat.S_ISDIR(both.st_mode) and stat.S_ISDIR(os.lstat(fs.encode(source)).st_mode):
            _merge(journal, root, path)
            continue
        if both is not None:
            _to_before(journal, root, path)
        os.rename(fs.encode(source), fs.encode(target))
    _ledger.sync_directory(there)
    os.rmdir(fs.encode(staged))


def _move_directory_aside(journal: Journal, root: Root) -> None:
    status = fs.lstat(root.path)
    if status is None:
        return
    if stat.S_ISDIR(status.st_mode):
        with contextlib.suppress(OSError):
            os.rmdir(fs.encode(root.path))
            return
    # An interrupted move goes on to where it was going.
    before, number = journal.work.get("moving") or root.before, 1
    while os.path.lexists(fs.encode(before)) and not journal.work.get("moving"):
        # Somebody made the directory anew after an interruption.
        number += 1
        before = f"{root.before}-{number}"
    _note(journal, root.path, before)
    try:
        os.rename(fs.encode(root.path), fs.encode(before))
    except OSError as problem:
        if problem.errno not in (errno.EXDEV, errno.ENOTEMPTY, errno.EEXIST):
            raise
        journal.work["moving"] = before
        journal.write()
        _move_tree(root.path, before)
    if journal.work.pop("moving", None):
        journal.write()


def _move_tree(source: str, target: str) -> None:
    """Move a directory that the file system does not rename: overlayfs, when it comes from a lower layer (kernel
    documentation, "Overlay Filesystem", renaming directories). Files are renamed; what was moved before stays moved."""
    status = os.stat(fs.encode(source))
    if not os.path.isdir(fs.encode(target)):
        os.mkdir(fs.encode(target), 0o700)
    for name in fs.names(source):
        old, new = os.path.join(source, name), os.path.join(target, name)
        directory = stat.S_ISDIR(os.lstat(fs.encode(old)).st_mode)
        if directory and os.path.isdir(fs.encode(new)):
            _move_tree(old, new)
            continue
        try:
            os.rename(fs.encode(old), fs.encode(new))
        except OSError as problem:
            if problem.errno != errno.EXDEV or not directory:
                raise
            _move_tree(old, new)
    if os.geteuid() == 0:
        os.chown(fs.encode(target), status.st_uid, status.st_gid)
    os.chmod(fs.encode(target), stat.S_IMODE(status.st_mode))
    os.rmdir(fs.encode(source))


def _to_before(journal: Journal, root: Root, relative: str) -> None:
    target = fs.absolute(relative, root.before)
    _note(journal, root.path, root.before)
    if not os.path.isdir(fs.encode(root.before)):
        os.mkdir(fs.encode(root.before), 0o700)
    os.makedirs(fs.encode(os.path.dirname(target)), 0o700, exist_ok=True)
    free, number = target, 1
    while os.path.lexists(fs.encode(free)):
        number += 1
        free = f"{target}-{number}"
    source = fs.absolute(relative, root.path)
    try:
        os.rename(fs.encode(source), fs.encode(free))
    except OSError as problem:
        if problem.errno != errno.EXDEV:
            raise
        _move_tree(source, free)


def _note(journal: Journal, path: str, before: str) -> None:
    entry = {"path": path, "before": before}
    if entry not in journal.moved_aside:
        journal.moved_aside.append(entry)
        journal.write()


def _sync(root: Root) -> None:
    for path in (os.path.dirname(root.path), root.path, root.before):
        if os.path.isdir(fs.encode(path)):
            _ledger.sync_directory(path)
