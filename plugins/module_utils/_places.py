# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Places: the directories a backup is taken from, what is left out of them, and what must be in the list."""

from __future__ import annotations

import re
import typing as t
from dataclasses import asdict, dataclass, replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs

# Kinds of places in the order in which they are planned, walked and archived.
PLACES = (
    "datadir",
    "innodb_home",
    "innodb_redo",
    "innodb_undo",
    "doublewrite",
    "tablespaces",
    "binlog",
    "relay_log",
    "replica_status",
    "load_data",
    "aria_log",
    "config",
    "keys",
)

# Of directories beside or in those of the server, in which clones lie: no database, and no part of a backup.
CLONE_PREFIX = ".mysql-replica-clone-"
_CLONE = re.compile(r"(/(?:.*/)?" + re.escape(CLONE_PREFIX) + r"[^/]+)(/.*)?", re.DOTALL)


@dataclass(frozen=True)
class Place:
    """One directory. ``name`` is the first component in the archive: a kind of PLACES, the second one "tablespaces-2".

    ``select`` is "tree" (everything below ``path``) or "patterns": only names whose path relative to ``path`` is
    matched in full by one of the regular expressions; a directory is entered only when it is matched itself.
    ``read_from`` is where the bytes lie when that is not ``path`` (a private /tmp of the service).
    """

    name: str
    path: str
    select: str = "tree"
    patterns: tuple[str, ...] = ()
    read_from: str = ""

    @property
    def disk(self) -> str:
        """Directory to open for reading."""
        return self.read_from or self.path

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]

    def root(self) -> str:
        """Directory to read with its links resolved; the paths of entries start there."""
        # /proc/PID/root is a magic link that must be left to the kernel: its text is always "/".
        return self.read_from if self.read_from.startswith("/proc/") else fs.real(self.disk)


@dataclass(frozen=True)
class Exclusion:
    """What the server makes anew and a backup leaves out.

    ``match``: "exact" (the name itself), "tree" (the directory with everything in it), or "pattern" (``path`` is a
    regular expression for whole absolute paths; only regular files are left out by it). ``rule`` is the name that a
    person reads.
    """

    path: str
    rule: str
    reason: str
    match: str = "exact"


@dataclass(frozen=True)
class Discovery:
    """The plan of one backup: from where, without what, and what must not be missing.

    ``roles`` are (role, regular expression for whole absolute paths), the first match counts. ``required`` are
    absolute paths (directories resolved) that the list must have. ``refreshed`` says that it was made again after the
    applier was off.
    """

    datadir: str
    places: tuple[Place, ...]
    exclusions: tuple[Exclusion, ...] = ()
    roles: tuple[tuple[str, str], ...] = ()
    required: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    include_binlogs: bool = True
    refreshed: bool = False

    def head(self) -> dict[str, t.Any]:
        """Everything but ``required`` as JSON values."""
        return {
            "datadir": self.datadir,
            "places": [asdict(place) for place in self.places],
            "exclusions": [asdict(exclusion) for exclusion in self.exclusions],
            "roles": [list(role) for role in self.roles],
            "warnings": list(self.warnings),
            "include_binlogs": self.include_binlogs,
            "refreshed": self.refreshed,
        }

    @classmethod
    def from_head(cls, data: t.Mapping[str, t.Any], required: tuple[str, ...] = ()) -> Discovery:
        return cls(
            datadir=data["datadir"],
            places=tuple(Place(**{**place, "patterns": tuple(place["patterns"])}) for place in data["places"]),
            exclusions=tuple(Exclusion(**exclusion) for exclusion in data["exclusions"]),
            roles=tuple((str(role), str(pattern)) for role, pattern in data["roles"]),
            required=required,
            warnings=tuple(data["warnings"]),
            include_binlogs=bool(data["include_binlogs"]),
            refreshed=bool(data["refreshed"]),
        )

    def with_warnings(self, extra: t.Iterable[str]) -> Discovery:
        return replace(self, warnings=tuple(dict.fromkeys((*self.warnings, *extra))))


def one_of(patterns: t.Iterable[str]) -> re.Pattern[str]:
    """One expression for any of the patterns; names may hold newlines. No pattern matches nothing."""
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or r"(?!)", re.DOTALL)


class Located(t.NamedTuple):
    """A place with its directory resolved and its patterns compiled.

    Entries are read below ``root``; ``named`` is where the server has them, the same unless they were moved aside.
    """

    place: Place
    root: str
    named: str
    pattern: re.Pattern[str] | None

    def takes(self, relative: str) -> bool:
        """Whether the place selects this path below its root ("." is the root itself)."""
        if self.pattern is None or relative == ".":
            return True
        if not self.pattern.fullmatch(relative):
            return False
        parent = relative.rpartition("/")[0]
        return not parent or self.takes(parent)


class Locator:
    """Which place has a path and which rule leaves it out; paths are absolute with their directories resolved."""

    def __init__(self, discovery: Discovery) -> None:
        self.located = tuple(
            Located(
                place, place.root(), fs.real(place.path), None if place.select == "tree" else one_of(place.patterns)
            )
            for place in discovery.places
        )
        self._ordered = sorted(self.located, key=lambda item: item.pattern is not None)
        self._exact = {rule.path: rule for rule in discovery.exclusions if rule.match == "exact"}
        self._trees = [rule for rule in discovery.exclusions if rule.match == "tree"]
        self._patterns = [(one_of([rule.path]), rule) for rule in discovery.exclusions if rule.match == "pattern"]
        self._roles = [(role, one_of([pattern])) for role, pattern in discovery.roles]
        self._any_role = one_of(pattern for _role, pattern in discovery.roles)

    def exclusion(self, path: str, *, regular: bool = True) -> Exclusion | None:
        """The rule that leaves ``path`` out; rules by pattern count only for regular files."""
        rule = self._exact.get(path)
        if rule is None:
            rule = next((tree for tree in self._trees if fs.below(path, tree.path) is not None), None)
        if rule is None and regular:
            rule = next((found for pattern, found in self._patterns if pattern.fullmatch(path)), None)
        return rule or self._clone(path, regular)

    def _clone(self, path: str, regular: bool) -> Exclusion | None:
        """A clone that an earlier backup has left, whose ledger may be lost; not when the server itself lies in it."""
        found = _CLONE.fullmatch(path) if CLONE_PREFIX in path else None
        if found is None or (regular and found[2] is None):
            return None
        if any(fs.below(located.root, found[1]) is not None for located in self.located):
            return None
        return Exclusion(found[1], "clone", "a clone that an earlier backup has left", "tree")

    def place(self, path: str, *, before: Located | None = None) -> Located | None:
        """The place that takes ``path``: trees first, then the others in their order.

        With ``before``, only places that take precedence over that one are asked.
        """
        for located in self._ordered:
            if located is before:
                return None
            relative = fs.below(path, located.root)
            if relative is not None and relative != "." and located.takes(relative):
                return located
        return None

    def covers(self, path: str) -> bool:
        """Whether the list takes ``path``, provided that it is on disk."""
        return self.exclusion(path) is None and self.place(path) is not None

    def role(self, path: str) -> str:
        """What the file is to the server; "" for ordinary data."""
        if not self._any_role.fullmatch(path):
            return ""
        return next(role for role, pattern in self._roles if pattern.fullmatch(path))
