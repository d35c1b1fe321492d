# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each file of a set goes on this host: by its kind and place, into the host's own directories. Pure."""

from __future__ import annotations

import functools
import os
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.records import FileRecord
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._channel_names import channel_file
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.layout import Layout
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.origin import Origin

# Kinds of files that have a directory of their own on every server, by the role that the set gives them.
_KIND_OF_ROLE = {
    "innodb_system": "innodb_home",
    "innodb_redo": "innodb_redo",
    "innodb_undo": "innodb_undo",
    "doublewrite": "doublewrite",
    "aria_log": "aria_log",
    "binlog": "binlog",
    "binlog_state": "binlog",
    "relay_log": "relay_log",
    "load_data": "load_data",
}
_KINDS = frozenset(_KIND_OF_ROLE.values())
_NOT_LAID = frozenset({"config"})
REDO_DIRECTORY = "#innodb_redo"


@dataclass(frozen=True)
class Mapping:
    """From the directories of a set's server to those of this host.

    ``moves`` sends directories without a setting (of tablespaces, of keys) elsewhere: old path to new path, also for
    everything below. ``clone``: the server becomes another one, so what carries the old identity stays behind.
    """

    origin: Origin
    target: Layout
    moves: t.Mapping[str, str] = field(default_factory=dict)
    clone: bool = False

    def origin_path(self, record: FileRecord) -> str:
        return self._absolute(record.place, record.path)

    def path(self, record: FileRecord) -> str | None:
        """Absolute path on this host; None for what is not laid down."""
        kind = record.place.partition("-")[0]
        role = record.role or ""
        path = self.origin_path(record)
        if kind in _NOT_LAID or (self.clone and role in ("identity", "load_data")):
            return None
        return self._place(kind, role, path)

    def name(self, member: str) -> str | None:
        """As ``path``, for a member's name whose role is not known (the first name of a hard link)."""
        place, _slash, path = member.partition("/")
        return self._place(place.partition("-")[0], "", self._absolute(place, path or "."))

    def text(self, path: str) -> str:
        """An absolute path of the set's server as this host has it: what links and .isl files say."""
        for old, new in self._longest_first:
            rest = fs.below(path, old)
            if rest is not None:
                return fs.absolute(rest, new)
        rest = fs.below(path, self.origin.layout.datadir)
        return path if rest is None else fs.absolute(rest, self.target.datadir)

    @functools.cached_property
    def _longest_first(self) -> list[tuple[str, str]]:
        return sorted(self.moves.items(), key=lambda item: -len(item[0]))

    def log(self, kind: str, path: str) -> str:
        """A binary log or a relay log (``kind`` "binlog" or "relay_log"), absolute, on this host."""
        return self._in_directory(kind, path)

    def _absolute(self, place: str, path: str) -> str:
        return fs.absolute(path, self.origin.places[place])

    def _place(self, kind: str, role: str, path: str) -> str:
        if role in ("relay_log_index", "binlog_index"):
            return self._index(role, path)
        if role == "status_file":
            return self._status_file(path)
        if role == "binlog_state" and self.target.binlog_base:
            return f"{self.target.binlog_base}.state"
        known = _KIND_OF_ROLE.get(role) or (kind if kind in _KINDS else "") or self._kind_by_name(path)
        if known:
            return self._in_directory(known, path)
        if kind == "replica_status":
            return os.path.join(os.path.dirname(self.target.connection_info), os.path.basename(path))
        return self.text(path)

    def _kind_by_name(self, path: str) -> str:
        """Companions of logs, and the directory of redo logs, which have no role of their own."""
        origin = self.origin.layout
        if path == os.path.join(self._origin_directory("innodb_redo"), REDO_DIRECTORY):
            return "innodb_redo"
        for kind, base in (("binlog", origin.binlog_base), ("relay_log", origin.relay_log_base)):
            pattern = re.escape(base) + r"(?:-[^/]*)?\.\d{6,}\.idx"
            if base and re.fullmatch(pattern, path, re.DOTALL):
                return kind
        return ""

    def _origin_directory(self, kind: str) -> str:
        origin = self.origin.layout
        directories = {
            "innodb_home": origin.innodb_home,
            "innodb_redo": origin.innodb_redo,
            "innodb_undo": origin.innodb_undo,
            "doublewrite": origin.doublewrite,
            "aria_log": origin.aria_log,
            "load_data": origin.load_data,
            "binlog": os.path.dirname(origin.binlog_base or origin.binlog_index),
            "relay_log": os.path.dirname(origin.relay_log_base),
        }
        return directories[kind]

    def target_directory(self, kind: str) -> str:
        target = self.target
        directories = {
            "innodb_home": target.innodb_home,
            "innodb_redo": target.innodb_redo,
            "innodb_undo": target.innodb_undo,
            "doublewrite": target.doublewrite,
            "aria_log": target.aria_log,
            "load_data": target.load_data,
            # Without binary logs of its own, the server leaves old ones alone.
            "binlog": os.path.dirname(target.binlog_base) or target.datadir,
            "relay_log": os.path.dirname(target.relay_log_base),
        }
        return directories[kind]

    def _in_directory(self, kind: str, path: str) -> str:
        """Into the host's directory of that kind, at the same place below it.

        What did not lie in the directory of its kind (a data file with a path of its own, an older base name) keeps its
        path, or follows the directory that the set has for the kind.
        """
        for old in (self._origin_directory(kind), self.origin.places.get(kind, "")):
            rest = fs.below(path, old) if old else None
            if rest is not None:
                return fs.absolute(rest, self.target_directory(kind))
        return self.text(path)

    def _index(self, role: str, path: str) -> str:
        """The index that the server will look for: its base name may be another one on this host."""
        if role == "binlog_index":
            old, new = self.origin.layout.binlog_index, self.target.binlog_index
            channels: tuple[str, ...] = ("",)
        else:
            old, new = self.origin.layout.relay_log_index, self.target.relay_log_index
            channels = self.origin.channels
        for channel in channels:
            # The file may have another extension than its variable says.
            if os.path.splitext(channel_file(old, channel))[0] == os.path.splitext(path)[0]:
                return channel_file(new, channel) if new else self._in_directory("binlog", path)
        return self._in_directory("binlog" if role == "binlog_index" else "relay_log", path)

    def _status_file(self, path: str) -> str:
        origin, target = self.origin.layout, self.target
        for old, new in ((origin.applier_info, target.applier_info), (origin.connection_info, target.connection_info)):
            stem, extension = os.path.splitext(os.path.basename(old))
            found = re.fullmatch(
                rf"(multi-|worker-)?{re.escape(stem)}(-.*)?{re.escape(extension)}(\.\d+)?",
                os.path.basename(path),
                re.DOTALL,
            )
            if found and os.path.dirname(path) == os.path.dirname(old):
                new_stem, new_extension = os.path.splitext(os.path.basename(new))
                name = f"{found[1] or ''}{new_stem}{found[2] or ''}{new_extension}{found[3] or ''}"
                return os.path.join(os.path.dirname(new), name)
        # master_info_file is an option without a variable: only the set's own place tells where the file was.
        return os.path.join(os.path.dirname(target.connection_info), os.path.basename(path))
