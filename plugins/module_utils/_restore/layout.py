# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a server keeps what kind of file: one value for the server that a set came from and for the one it goes to."""

from __future__ import annotations

import os
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _load_data
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts


@dataclass(frozen=True)
class Layout:
    """Absolute directories, and base names of logs (absolute, no extension). ``binlog_base`` is "" without binary logs.

    ``doublewrite`` is where MySQL 8.0.20 and newer keep it. ``applier_info`` and ``connection_info`` are the paths of
    relay-log.info and master.info of the default channel, whether or not they are in use.
    """

    datadir: str
    innodb_home: str
    innodb_redo: str
    innodb_undo: str
    doublewrite: str
    aria_log: str
    load_data: str
    relay_log_base: str
    relay_log_index: str
    binlog_base: str
    binlog_index: str
    applier_info: str
    connection_info: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: t.Mapping[str, str]) -> Layout:
        return cls(**data)


def layout_of(facts: ServerFacts) -> Layout:
    """The layout that these variables and options make."""
    stem = os.path.splitext(os.path.basename(facts.get("pid_file")))[0] or "mysqld"
    relay = facts.path(facts.get("relay_log_basename") or facts.get("relay_log") or f"{stem}-relay-bin")
    binlog = facts.get("log_bin_basename")
    index = facts.get("log_bin_index") or (f"{binlog}.index" if binlog else "")
    return Layout(
        datadir=facts.datadir,
        innodb_home=facts.directory("innodb_data_home_dir"),
        innodb_redo=facts.directory("innodb_log_group_home_dir"),
        innodb_undo=facts.directory("innodb_undo_directory"),
        doublewrite=_doublewrite(facts),
        aria_log=facts.directory("aria_log_dir_path"),
        load_data=_load_data.directory(facts.datadir, facts.variables),
        relay_log_base=relay,
        relay_log_index=facts.path(facts.get("relay_log_index") or f"{relay}.index"),
        binlog_base=facts.path(binlog) if binlog else "",
        binlog_index=facts.path(index) if index else "",
        applier_info=facts.path(facts.get("relay_log_info_file") or "relay-log.info"),
        connection_info=facts.path(facts.options.get("master_info_file") or "master.info"),
    )


def _doublewrite(facts: ServerFacts) -> str:
    """MySQL puts "#" before a name that begins with none of "/", "." and "#" (8.0 manual, innodb_doublewrite_dir)."""
    value = facts.get("innodb_doublewrite_dir")
    if value and value[0] not in "/.#" and not fs.is_directory(facts.path(value)):
        return facts.path(f"#{value}")
    return facts.directory("innodb_doublewrite_dir", "innodb_data_home_dir")
