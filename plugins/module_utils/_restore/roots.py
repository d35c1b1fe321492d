# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directories of this host that a restore lays files into, and how each is exchanged.

New files are laid beside what is there and exchanged by renames, which no lack of space can interrupt half way.
"""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.extract import split_path
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import DIRECTORY, FileRecord
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.mapping import Mapping
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.origin import Origin

# RENAME: the directory itself is exchanged. ENTRIES: it is a mount point, so everything in it. SHARED: other files live
# there too, only the server's own are exchanged.
RENAME, ENTRIES, SHARED = "rename", "entries", "shared"


@dataclass(frozen=True)
class Root:
    """``path`` with its links resolved; ``staging`` and ``before`` are on its file system. ``stale``: expression for
    names in a shared directory that belong to the server's former files."""

    key: str
    path: str
    style: str
    staging: str
    before: str
    stale: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: t.Mapping[str, str]) -> Root:
        return cls(**data)


class Located(t.NamedTuple):
    """A file of the set on this host: ``relative`` to its root, "." for the root itself."""

    root: Root
    relative: str

    @property
    def staged(self) -> str:
        return fs.absolute(self.relative, self.root.staging)


def mount_points() -> frozenset[str]:
    """Where file systems are mounted, bind mounts among them."""
    found = set()
    with open("/proc/self/mountinfo", "rb") as handle:
        for line in handle:
            raw = line.split(b" ")[4]
            found.add(fs.decode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), raw)))
    return frozenset(found)


class Roots:
    """Which root takes a path; roots come into being when the first file goes there."""

    def __init__(
        self,
        mapping: Mapping,
        restore_id: str,
        mounts: t.Collection[str],
        stale: t.Mapping[str, str] | None = None,
        *,
        direct: bool = False,
    ) -> None:
        """``direct``: into the directories themselves, which are empty and nobody's (a drill)."""
        self._id = restore_id
        self._direct = direct
        self._mounts = mounts
        self._stale = dict(stale or {})
        self._mapping = mapping
        datadir = fs.real(mapping.target.datadir)
        self.datadir = datadir
        self._trees = [datadir, *(mount for mount in sorted(mounts) if fs.below(mount, datadir) not in (None, "."))]
        self._candidates = sorted({fs.real(path) for path in _directories(mapping)} - {"/"}, key=len, reverse=True)
        self._roots: dict[str, Root] = {}
        self._real: dict[str, str] = {}

    @property
    def all(self) -> tuple[Root, ...]:
        return tuple(self._roots.values())

    def locate(self, path: str) -> Located:
        """Root of an absolute path on this host."""
        head, tail = os.path.split(path)
        if path == self._mapping.target.datadir:
            return Located(self._root(self.datadir), ".")
        if head not in self._real:
            self._real[head] = fs.real(head)
        real = os.path.join(self._real[head], tail)
        for tree in reversed(self._trees):
            rest = fs.below(real, tree)
            if rest is not None:
                return Located(self._root(tree), rest)
        for candidate in self._candidates:
            rest = fs.below(real, candidate)
            if rest is not None:
                return Located(self._root(candidate), rest)
        return Located(self._root(self._real[head]), tail)

    def _root(self, path: str) -> Root:
        root = self._roots.get(path)
        if root is None:
            root = self._roots[path] = self._make(path)
        return root

    def _make(self, path: str) -> Root:
        if os.path.lexists(fs.encode(path)) and not fs.is_directory(path):
            raise RefusedError(
                f"{path} is no directory",
                found="a file where this host's settings name a directory",
                expected="a directory, or nothing",
                server_state="as it was, nothing was changed",
                rule="datadir",
            )
        key = f"r{len(self._roots)}"
        if self._direct:
            return Root(key, path, SHARED, path, "")
        if path not in self._trees:
            inside = (f"{path.rstrip('/')}/.restoring-{self._id}", f"{path.rstrip('/')}/.before-{self._id}")
            return Root(key, path, SHARED, *inside, stale=self._stale.get(path, ""))
        if path == self.datadir and len(self._trees) == 1 and path not in self._mounts:
            return Root(key, path, RENAME, f"{path}.restoring-{self._id}", f"{path}.before-{self._id}")
        return Root(key, path, ENTRIES, f"{path}/.restoring-{self._id}", f"{path}/.before-{self._id}")


def _directories(mapping: Mapping) -> t.Iterator[str]:
    """Where files may go outside of the data directory."""
    target = mapping.target
    for kind in ("innodb_home", "innodb_redo", "innodb_undo", "doublewrite", "aria_log", "binlog", "relay_log"):
        yield mapping.target_directory(kind)
    yield mapping.target_directory("load_data")
    for path in (target.relay_log_index, target.binlog_index, target.applier_info, target.connection_info):
        if path:
            yield os.path.dirname(path)
    for name, path in mapping.origin.places.items():
        if name.partition("-")[0] in ("tablespaces", "keys", "innodb_home"):
            yield mapping.text(path)


# -- what a set brings -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Special:
    """A file whose text names other files, or that needs a look once it is laid down."""

    what: str  # binlog_index, relay_log_index, status_file, isl, persisted_settings
    origin: str
    located: Located


@dataclass(frozen=True)
class Survey:
    """One reading of the manifest's files. ``bytes`` are logical, per root; ``not_laid`` by place, number of names."""

    files: int
    bytes: t.Mapping[str, int]
    specials: tuple[Special, ...]
    first_names: t.Mapping[str, Located]
    own_records: t.Mapping[str, FileRecord]
    not_laid: t.Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


def survey(records: t.Callable[[], t.Iterable[FileRecord]], mapping: Mapping, roots: Roots) -> Survey:
    """Find out where everything goes, before anything is touched.

    Raises RefusedError for names that lead out of their place, and for places that the manifest does not list.
    """
    files = 0
    sizes: dict[str, int] = {}
    specials: list[Special] = []
    own: dict[str, FileRecord] = {}
    not_laid: dict[str, int] = {}
    linked: set[str] = set()
    for record in records():
        split_path(record.path)
        if record.place not in mapping.origin.places:
            raise RefusedError(
                f"{record.name} is in a place that the manifest does not list",
                found=record.place,
                expected=", ".join(mapping.origin.places),
                rule="manifest",
            )
        path = mapping.path(record)
        if path is None:
            not_laid[record.place] = not_laid.get(record.place, 0) + (record.type != DIRECTORY)
            continue
        located = roots.locate(path)
        files += 1
        if record.link is not None:
            linked.add(record.link)
        else:
            sizes[located.root.key] = sizes.get(located.root.key, 0) + record.size
        if located.relative == "." and (record.place == "datadir" or located.root.path != roots.datadir):
            own.setdefault(located.root.key, record)
        what = _special(record)
        if what:
            specials.append(Special(what, mapping.origin_path(record), located))
    first_names = {}
    if linked:
        for record in records():
            if record.name in linked:
                path = mapping.path(record)
                if path is not None:
                    first_names[record.name] = roots.locate(path)
    return Survey(files, sizes, tuple(specials), first_names, own, not_laid)


def _special(record: FileRecord) -> str:
    if record.type != "file":
        return ""
    if record.role in ("binlog_index", "relay_log_index", "status_file", "persisted_settings", "identity"):
        return str(record.role)
    return "isl" if record.path.endswith(".isl") else ""


def stale_names(mapping: Mapping, origin: Origin) -> dict[str, str]:
    """For directories outside of the data directory: names of the files that a former server left there."""
    target = mapping.target
    patterns: dict[str, list[str]] = {}

    def add(directory: str, *names: str) -> None:
        if directory:
            patterns.setdefault(fs.real(directory), []).extend(names)

    add(target.innodb_redo, r"ib_logfile\d+", r"\#innodb_redo", r"ib_redo\d+")
    add(target.innodb_undo, r"undo_?\d+", r"[^/]*\.ibu", r"undo_\d+_trunc\.log")
    add(target.doublewrite, r"\#ib_\d+_\d+\.b?dblwr")
    add(target.aria_log, r"aria_log_control", r"aria_log\.\d+")
    system = [part.strip().split(":")[0] for part in origin.get("innodb_data_file_path").split(";")]
    add(target.innodb_home, *(re.escape(name) for name in system if name and "/" not in name))
    # Relay logs have the name of their channel behind the base name; binary logs so named are another server's.
    for base, index, of_channel in (
        (target.relay_log_base, target.relay_log_index, "(?:-[^/]*)?"),
        (target.binlog_base, target.binlog_index, ""),
    ):
        if base:
            name = re.escape(os.path.basename(base))
            add(os.path.dirname(base), rf"{name}{of_channel}\.\d{{6,}}(?:\.idx)?", rf"{name}\.state")
            stem = re.escape(os.path.splitext(os.path.basename(index))[0])
            add(os.path.dirname(index), rf"{stem}{of_channel}\.index(?:[._][^/]*)?")
    tables = r"[^/]*\.(?:ibd|cfg|cfp|ibu|isl|MYD|MYI|MAD|MAI|CSV|CSM|ARZ)"
    for name, path in origin.places.items():
        if name.partition("-")[0] == "tablespaces":
            add(mapping.text(path), tables, rf"(?:[^/]*/)*{tables}")
    return {path: "|".join(f"(?:{name})" for name in dict.fromkeys(names)) for path, names in patterns.items()}
