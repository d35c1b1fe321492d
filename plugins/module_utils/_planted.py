# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No file goes into a backup that the server itself could not read.

The account that owns the data directory can plant links in it and write names into the server's own lists of files. We
read as root: without this, whoever has that account could have any file of the host copied.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Place

# Names in the data directory are the server's own, whoever owns the files; its option files are read by root, too.
_NOT_ASKED = frozenset({"datadir", "config"})


class Listed(t.Protocol):
    """What is asked of an entry of the file list."""

    @property
    def place(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...


_Entry = t.TypeVar("_Entry", bound=Listed)


@dataclass(frozen=True)
class Account:
    """Who the server runs as: the owner of its data directory."""

    uid: int
    gid: int
    groups: frozenset[int]

    @classmethod
    def of_datadir(cls, datadir: str) -> Account | None:
        """None when there is no such directory."""
        status = fs.follow(datadir)
        if status is None:
            return None
        groups = {status.st_gid}
        with contextlib.suppress(KeyError):
            entry = pwd.getpwuid(status.st_uid)
            groups.update(os.getgrouplist(entry.pw_name, entry.pw_gid))
        return cls(status.st_uid, status.st_gid, frozenset(groups))

    def may(self, path: str, mode: int) -> bool:
        """``os.access`` as that account, which counts access control lists as well; asked by a child that is it."""
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            status = 1
            try:
                os.setgroups(sorted(self.groups))
                os.setgid(self.gid)
                os.setuid(self.uid)
                status = 0 if os.access(fs.encode(path), mode) else 1
            finally:
                os._exit(status)
        return os.waitpid(child, 0)[1] == 0


class OnlyOwn:
    """Lets entries pass, and raises for a file outside of the data directory that the account could not read.

    RefusedError as long as the server runs (``live``), ReplicaBackupError otherwise. Nothing is asked when we are not
    root, or the server is.
    """

    def __init__(self, datadir: str, places: t.Iterable[Place], *, live: bool) -> None:
        self._live = live
        self._roots = {
            place.name: place.root() for place in places if place.kind not in _NOT_ASKED and not place.read_from
        }
        account = Account.of_datadir(datadir)
        self._account = account if account is not None and account.uid != 0 and os.geteuid() == 0 else None
        self._directories: dict[str, bool] = {}

    def __call__(self, entries: t.Iterable[_Entry]) -> t.Iterator[_Entry]:
        for entry in entries:
            if self._account is not None and entry.type == "file" and entry.place in self._roots:
                self._ask(self._account, entry)
            yield entry

    def _ask(self, account: Account, entry: Listed) -> None:
        path = os.path.join(self._roots[entry.place], entry.path)
        directory = os.path.dirname(path)
        reached = self._directories.get(directory)
        if reached is None:
            reached = self._directories[directory] = account.may(directory, os.X_OK)
        # The owner of a file may read it whenever he wants to.
        by_mode = entry.uid == account.uid or entry.mode & 0o004 or (entry.mode & 0o040 and entry.gid in account.groups)
        if reached and (by_mode or account.may(path, os.R_OK)):
            return
        error = RefusedError if self._live else ReplicaBackupError
        raise error(
            f"{fs.printable(path)} is none of this server's files: something that the server's account may write "
            "(a link in the data directory, a list of logs) leads there",
            found=f"a file that user {account.uid} may not read (owner {entry.uid}, mode {entry.mode:04o})",
            expected="only files that the server itself can read",
            file=fs.printable(path),
            next_command=f"look who made what leads there: find DATADIR -lname '*{fs.printable(directory)}*'; remove "
            "it, or let the server's account read the file",
            rule="foreign_file",
        )
