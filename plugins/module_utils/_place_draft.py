# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collects wanted directories and names until the places are known: inside the data directory, merged, numbered."""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Place, one_of


@dataclass
class _Pick:
    """Names wanted from one directory (``path`` as the server names it, ``real`` with links resolved)."""

    kind: str
    path: str
    real: str
    patterns: dict[str, None] = field(default_factory=dict)
    hidden: str = ""


class Draft:
    """Grows by what each part of the server wants; ``places`` closes it."""

    def __init__(self, datadir: str) -> None:
        self._datadir = datadir
        # Real directory -> (kind, path as named), in the order of arrival.
        self._trees: dict[str, tuple[str, str]] = {fs.real(datadir): ("datadir", datadir)}
        self._picks: dict[tuple[str, str], _Pick] = {}
        self._resolved: dict[str, str] = {}
        self._roles: dict[tuple[str, str], None] = {}
        self._warnings: dict[str, None] = {}

    def warn(self, text: str) -> None:
        self._warnings[text] = None

    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def role(self, role: str, path: str) -> None:
        """What one file is."""
        self._roles[(role, re.escape(fs.real_name(path)))] = None

    def role_below(self, role: str, directory: str, *patterns: str) -> None:
        """What the files of a directory are whose relative names match."""
        for pattern in patterns:
            self._roles[(role, f"{re.escape(fs.real(directory))}/{pattern}")] = None

    def roles(self) -> tuple[tuple[str, str], ...]:
        return tuple(self._roles)

    def _in_tree(self, path: str) -> bool:
        return any(fs.below(path, root) is not None for root in self._trees)

    def add(self, kind: str, directory: str, *patterns: str) -> None:
        """Want the names in ``directory`` that match; nothing to do where a whole tree is taken anyway."""
        root = fs.real(directory)
        if self._in_tree(root) or not fs.is_directory(root):
            return
        pick = self._picks.setdefault((kind, root), _Pick(kind, directory, root))
        pick.patterns.update(dict.fromkeys(patterns))

    def add_file(self, kind: str, path: str) -> None:
        self.add(kind, os.path.dirname(path), re.escape(os.path.basename(path)))

    def add_tree(self, kind: str, directory: str) -> None:
        root = fs.real(directory)
        if not self._in_tree(root):
            for inner in [tree for tree in self._trees if fs.below(tree, root) is not None]:
                del self._trees[inner]
            self._trees[root] = (kind, directory)

    def add_hidden(self, kind: str, directory: str, read_from: str, pattern: str) -> None:
        """Want names from a directory that only the server sees under this path."""
        self._picks[(kind, read_from)] = _Pick(kind, directory, read_from, {pattern: None}, read_from)

    def tree_roots(self) -> list[str]:
        return list(self._trees)

    def is_log_directory(self, directory: str) -> bool:
        """A directory of which the wanted names are known; a link to any other one is a database, wanted whole."""
        return any(kind != "tablespaces" and real == directory for kind, real in self._picks)

    def has(self, path: str) -> bool:
        """Whether the draft takes this file or directory already."""
        directory, name = os.path.split(path)
        # Thousands of tables share few directories.
        if directory not in self._resolved:
            self._resolved[directory] = fs.real(directory)
        directory = self._resolved[directory]
        if self._in_tree(directory) or os.path.join(directory, name) in self._trees:
            return True
        return any(
            pick.real == directory and one_of(pick.patterns).fullmatch(name) is not None
            for pick in self._picks.values()
        )

    def links(self) -> t.Iterator[tuple[str, str, bool]]:
        """(kind, path, whether it is a link rather than an ``.isl`` file) of all that lead elsewhere."""
        for root, (kind, _path) in list(self._trees.items()):
            for path, is_link in fs.links_below(root):
                yield kind, path, is_link
        for pick in list(self._picks.values()):
            if pick.hidden or self._in_tree(pick.real):
                continue
            wanted = one_of(pick.patterns)
            for name in fs.names(pick.real):
                path = os.path.join(pick.real, name)
                if wanted.fullmatch(name) and (os.path.islink(fs.encode(path)) or name.endswith(".isl")):
                    yield pick.kind, path, os.path.islink(fs.encode(path))

    def places(self, order: t.Sequence[str]) -> tuple[Place, ...]:
        """The places by kind, each kind in the order of arrival, trees first."""
        result: list[Place] = []
        for kind in order:
            found = [Place(kind, path) for tree_kind, path in self._trees.values() if tree_kind == kind]
            picks = [pick for pick in self._picks.values() if pick.kind == kind]
            visible = [pick for pick in picks if not pick.hidden and not self._in_tree(pick.real)]
            if kind == "tablespaces":
                visible = [_above_schema(pick, self._datadir) for pick in visible]
            if kind in ("tablespaces", "config", "keys"):
                visible = _merged(visible)
            for pick in [*visible, *(pick for pick in picks if pick.hidden)]:
                found.append(Place(kind, pick.path, "patterns", tuple(pick.patterns), pick.hidden))
            for number, place in enumerate(found, 1):
                name = kind if number == 1 else f"{kind}-{number}"
                result.append(Place(name, place.path, place.select, place.patterns, place.read_from))
        return tuple(result)


def _merged(picks: list[_Pick]) -> list[_Pick]:
    """Fold directories below one another into one place each."""
    roots: dict[str, _Pick] = {}
    for pick in sorted(picks, key=lambda item: (item.real.count("/"), item.real)):
        home = next((root for root in roots if fs.below(pick.real, root) is not None), None)
        if home is None:
            roots[pick.real] = pick
        else:
            _fold(roots[home], pick)
    return list(roots.values())


def _above_schema(pick: _Pick, datadir: str) -> _Pick:
    """DATA DIRECTORY='/ext' puts tables into ``/ext/SCHEMA/``: the place is ``/ext``, one for all schemas."""
    parent, name = os.path.split(pick.real)
    # Separate mounts stay separate places: a restore may want to map each to another disk.
    if parent == "/" or _device(parent) != _device(pick.real) or not fs.is_directory(os.path.join(datadir, name)):
        return pick
    lifted = _Pick(pick.kind, parent, parent)
    _fold(lifted, pick)
    return lifted


def _device(path: str) -> int:
    status = fs.follow(path)
    return status.st_dev if status else -1


def _fold(home: _Pick, pick: _Pick) -> None:
    relative = fs.below(pick.real, home.real) or "."
    steps = [] if relative == "." else relative.split("/")
    for depth in range(1, len(steps) + 1):
        home.patterns[re.escape("/".join(steps[:depth]))] = None
    prefix = "" if relative == "." else re.escape(relative) + "/"
    for pattern in pick.patterns:
        home.patterns[prefix + pattern] = None
