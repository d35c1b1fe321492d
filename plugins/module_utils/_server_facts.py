# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan is made from: what a server says or would say, and how its paths are read."""

from __future__ import annotations

import functools
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs


@dataclass(frozen=True)
class ServerFacts:
    """What the plan is made from. Paths are the server's own; relative ones start at its data directory.

    ``open_files`` are the files that the server holds open, None when they may not be seen; ``log_files`` are those
    that its standard output and error lead to. ``options`` are settings without a variable (``master_info_file``), by
    name with underscores. ``relay_log_names``, ``connection_files`` and ``side_files`` are what the channels name:
    their current relay logs, their connection metadata files, their TLS files. The first two stand in the order of
    ``channels``, the names ("" for the default one); None when it is not known which there are. ``offline``: read
    without a server.
    """

    variables: t.Mapping[str, str]
    dictionary_files: tuple[str, ...] = ()
    open_files: tuple[str, ...] | None = None
    log_files: tuple[str, ...] = ()
    pid: int | None = None
    exe: str = ""
    options: t.Mapping[str, str] = field(default_factory=dict)
    option_files: tuple[str, ...] = ()
    relay_log_names: tuple[str, ...] = ()
    connection_files: tuple[str, ...] = ()
    side_files: tuple[str, ...] = ()
    channels: tuple[str, ...] | None = None
    offline: bool = False

    def get(self, name: str) -> str:
        """A variable, "" when it is unset, NULL or unknown."""
        value = self.variables.get(name) or ""
        return "" if value in ("None", "NULL") else value

    def on(self, name: str) -> bool:
        return self.get(name).upper() in ("ON", "1", "YES", "TRUE")

    @functools.cached_property
    def datadir(self) -> str:
        return fs.absolute(self.get("datadir"), "/")

    def path(self, value: str) -> str:
        """A path as the server writes it, made absolute."""
        return fs.absolute(value, self.datadir)

    def directory(self, *names: str) -> str:
        """The first of these directory variables that is set, else the data directory."""
        return next((self.path(self.get(name)) for name in names if self.get(name)), self.datadir)

    @property
    def temporary_directories(self) -> tuple[str, ...]:
        listed = [part for part in self.get("tmpdir").split(":") if part]
        listed += [self.get(name) for name in ("innodb_tmpdir",) if self.get(name)]
        return tuple(self.path(part) for part in listed) or ("/tmp",)
