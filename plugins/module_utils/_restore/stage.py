# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lay a set down beside the files of this host, every byte hashed on the way, and make it fit this host's paths."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _offline
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.extract import Directories, Owners
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.formats import COPY
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.parts import prove_parts
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import FileRecord
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import Feed
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.mapping import Mapping
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.rewrite import Rewritten, rewrite
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.roots import (
    SHARED,
    Located,
    Root,
    Roots,
    Survey,
)

_NOWHERE = ""
_MODE = 0o750


class _Mapped:
    """A lander that sends every member to its root on this host."""

    def __init__(
        self, inner: Directories, mapping: Mapping, roots: Roots, first_names: t.Mapping[str, Located]
    ) -> None:
        self._inner = inner
        self._mapping = mapping
        self._roots = roots
        self._first_names = first_names
        self._last: tuple[FileRecord, FileRecord] | None = None

    def plain(self, record: FileRecord) -> None:
        moved = self._moved(record)
        if moved.path == "." and record.place != "datadir" and moved.place == self._datadir_key:
            # The directory of another place is the data directory here; that has an entry of its own.
            return
        if moved.path == "." and any(root.key == moved.place and _private(root) for root in self._roots.all):
            return
        self._inner.plain(moved)

    def begin(self, record: FileRecord) -> None:
        self._inner.begin(self._moved(record))

    def write(self, offset: int, view: memoryview) -> None:
        self._inner.write(offset, view)

    def end(self, record: FileRecord) -> None:
        self._inner.end(self._moved(record))

    @property
    def _datadir_key(self) -> str:
        return self._roots.locate(self._mapping.target.datadir).root.key

    def _moved(self, record: FileRecord) -> FileRecord:
        if self._last is None or self._last[0] is not record:
            self._last = (record, self._move(record))
        return self._last[1]

    def _move(self, record: FileRecord) -> FileRecord:
        path = self._mapping.path(record)
        if path is None:
            return dataclasses.replace(record, place=_NOWHERE)
        located = self._roots.locate(path)
        target, link = record.target, record.link
        if target is not None and target.startswith("/"):
            target = self._mapping.text(target)
        if link is not None:
            first = self._first_names.get(link)
            if first is None:
                raise ReplicaBackupError(
                    f"{record.name} is a further name of {link}, which is not restored",
                    expected="both names in places that are restored",
                    file=record.name,
                )
            link = f"{first.root.key}/{first.relative}"
        return dataclasses.replace(record, place=located.root.key, path=located.relative, target=target, link=link)


@dataclass(frozen=True)
class Staged:
    """``bytes`` written and ``files`` laid down; ``unknown_owners`` are names that this host does not know."""

    files: int
    bytes: int
    rewritten: Rewritten
    unknown_owners: tuple[str, ...]


def make_directories(roots: t.Iterable[Root], survey: Survey, owners: Owners, made: list[str]) -> None:
    """Make staging directories, and directories of the host that are missing; ``made`` grows by each of the latter."""
    datadir_record = next((record for record in survey.own_records.values() if record.place == "datadir"), None)
    for root in roots:
        if root.staging == root.path:
            os.makedirs(fs.encode(root.path), 0o700, exist_ok=True)
            continue
        if root.staging.startswith(root.path + "/") and not fs.is_directory(root.path):
            _make_missing(root.path, survey.own_records.get(root.key) or datadir_record, owners, made)
        elif not fs.is_directory(os.path.dirname(root.path)):
            _make_missing(os.path.dirname(root.path), None, owners, made)
        os.mkdir(fs.encode(root.staging), 0o700)


def _make_missing(path: str, like: FileRecord | None, owners: Owners, made: list[str]) -> None:
    missing = []
    while not os.path.lexists(fs.encode(path)):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        os.mkdir(fs.encode(directory), 0o755)
        made.append(directory)
    if missing and like is not None:
        if os.geteuid() == 0:
            os.chown(fs.encode(missing[0]), *owners.of(like))
        os.chmod(fs.encode(missing[0]), like.mode if like.path == "." else _MODE)


def lay_down(
    feed: Feed,
    mapping: Mapping,
    roots: Roots,
    survey: Survey,
    owners: Owners,
    tick: t.Callable[[], None] = lambda: None,
) -> Staged:
    """Read the set once, lay every file into the staging directory of its root, and prove it against the manifest.

    Raises ReplicaBackupError at the first difference, or when the disk is full; the caller removes the directories.
    """
    # One for each part: several are laid down at a time.
    backup, landings = feed.backup, list[Directories]()
    try:
        for _part in backup.parts:
            landings.append(Directories({root.key: root.staging for root in roots.all}, owners))
        prove_parts(
            feed.reader,
            backup.records,
            backup.wholes,
            tick,
            # Owners and modes of a plain directory live in the manifest: whoever fetched the copy owns its files.
            attributes=backup.part.form != COPY,
            landers=[_Mapped(landing, mapping, roots, survey.first_names) for landing in landings],
            at_a_time=1 if feed.in_turn else 0,
        )
        rewritten = rewrite(mapping, survey.specials)
        _dress_directories(roots, survey, owners)
        for landing in landings:
            landing.finish()
    except ReplicaBackupError as error:
        error.message = f"The set {backup.label} ({feed.where}) was not laid down: {error.message}"
        error.facts.setdefault("set", backup.label)
        raise
    finally:
        for landing in landings:
            landing.close()
    files, size = sum(landing.files for landing in landings), sum(landing.bytes for landing in landings)
    return Staged(files, size, rewritten, tuple(sorted(owners.unknown)))


def _private(root: Root) -> bool:
    """A staging directory inside of one that others may write to, as /tmp: what it holds is renamed into that by root,
    so nobody else may put anything into it. It is removed in the end, and its owner and mode with it."""
    return root.style == SHARED and root.staging != root.path


def _dress_directories(roots: Roots, survey: Survey, owners: Owners) -> None:
    """A root that has no entry of its own in the set is as the data directory is."""
    like = next((record for record in survey.own_records.values() if record.place == "datadir"), None)
    for root in roots.all:
        if root.key not in survey.own_records and like is not None and not _private(root):
            if os.geteuid() == 0:
                os.chown(fs.encode(root.staging), *owners.of(like))
            os.chmod(fs.encode(root.staging), _MODE)


def remove_staging(roots: t.Iterable[Root], made: t.Sequence[str]) -> None:
    """Nothing of an unfinished restore is left: staging directories, and the empty ones that were made for it."""
    for root in roots:
        remove_tree(root.staging)
    for path in reversed(made):
        try:
            os.rmdir(fs.encode(path))
        except OSError:
            continue


def remove_tree(path: str) -> None:
    status = fs.lstat(path)
    if status is not None and stat.S_ISDIR(status.st_mode):
        shutil.rmtree(fs.encode(path))


def check_persisted(survey: Survey, mapping: Mapping, *, clone: bool) -> list[str]:
    """Look at the set's mysqld-auto.cnf, which wins over this host's option files once it is in place.

    Of a clone it is removed from the staged copy (it may hold the old identity). Returns warnings.
    Raises RefusedError when it would send the server to other directories than the set was laid into.
    """
    for special in survey.specials:
        if special.what != "persisted_settings":
            continue
        try:
            settings = _offline.persisted_settings(fs.read_text(special.located.staged))
        except (OSError, ValueError) as problem:
            raise RefusedError(
                "The set's mysqld-auto.cnf cannot be understood", found=str(problem), expected="JSON", rule="persisted"
            ) from problem
        if clone:
            os.unlink(fs.encode(special.located.staged))
            names = ", ".join(sorted(settings))
            return [f"Persisted settings are not taken over by a clone; set them anew: {names}"] if settings else []
        paths = {name: value for name, value in settings.items() if name in _PATHS}
        wrong = {name: value for name, value in paths.items() if mapping.origin.get(name) != value or _moved(mapping)}
        if wrong:
            raise RefusedError(
                "The set's mysqld-auto.cnf persists directories, and this host has others",
                found=", ".join(f"{name}={value}" for name, value in sorted(wrong.items())),
                expected="the same directories as on the set's server",
                server_state="as it was, nothing was changed",
                next_command="set the same directories on this host, or restore as clone",
                rule="persisted",
            )
    return []


def _moved(mapping: Mapping) -> bool:
    return mapping.origin.layout != mapping.target


_PATHS = frozenset(
    {
        "innodb_data_home_dir",
        "innodb_directories",
        "innodb_doublewrite_dir",
        "innodb_log_group_home_dir",
        "innodb_undo_directory",
        "log_bin",
        "relay_log",
        "relay_log_index",
        "relay_log_info_file",
        "replica_load_tmpdir",
        "slave_load_tmpdir",
    }
)
