# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of a plan that replication writes: binary and relay logs, metadata files, SQL_LOAD files."""

from __future__ import annotations

import os
import re

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _load_data
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._option_files import normal_name
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._place_draft import Draft
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Exclusion
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts

_NUMBER = r"\.\d{6,}"


def _stem(name: str) -> str:
    """Base of a log or index name without its last extension."""
    head, dot, _tail = name.rpartition(".")
    return head if dot else name


def _index_extension(facts: ServerFacts, option: str, index: str) -> str:
    """Expression for what follows the last dot of an index file.

    Its variable always ends in ".index", the file itself keeps an extension that the option gives (seen on MySQL 9.7
    and MariaDB 10.11: log_bin_index=/var/log/names.txt).
    """
    given = os.path.basename(facts.options.get(option) or "")
    stem, dot, extension = given.rpartition(".")
    if dot and stem == _stem(os.path.basename(index)):
        return rf"\.(?:index|{re.escape(extension)})"
    return r"\.index"


def _log_series(
    facts: ServerFacts, base: str, index: str, suffix: str, option: str
) -> tuple[list[tuple[str, str]], str]:
    """((directory, expression) of the logs and side files of one base name, the expression of the index)."""
    base, index = facts.path(base), facts.path(index)
    name, index_name = re.escape(os.path.basename(base)), re.escape(_stem(os.path.basename(index)))
    return [
        (os.path.dirname(base), name + suffix + _NUMBER),
        (os.path.dirname(base), name + r"\.state"),
        (os.path.dirname(index), index_name + suffix + r"\.(?:~rec~|index_crash_safe)"),
        (os.path.dirname(index), index_name + suffix + r"\.index\.~rec~"),
        # MariaDB 11.4 and newer: GTID index beside each log (Knowledge Base, "binlog_gtid_index").
        (os.path.dirname(base), name + suffix + _NUMBER + r"\.idx"),
    ], index_name + suffix + _index_extension(facts, option, index)


def binlogs(facts: ServerFacts, draft: Draft, include: bool) -> list[Exclusion]:
    if not facts.on("log_bin") and not facts.get("log_bin_basename"):
        return []
    index = facts.get("log_bin_index")
    base = facts.get("log_bin_basename") or _stem(index)
    if not base:
        raise RefusedError(
            "The server writes binary logs but does not say where",
            found="log_bin is ON, log_bin_basename and log_bin_index are empty",
            expected="a log_bin_basename",
            rule="binlog",
        )
    index = index or base + ".index"
    series, index_name = _log_series(facts, base, index, "", "log_bin_index")
    index_directory = os.path.dirname(facts.path(index))
    for directory, pattern in (*series, (index_directory, index_name)):
        draft.add("binlog", directory, pattern)
    draft.role_below("binlog", *series[0])
    draft.role_below("binlog_state", *series[1])
    draft.role_below("binlog_index", index_directory, index_name)
    if include:
        return []
    reason = "left out on request (include_binlogs is false); the server begins a new series"
    draft.warn("The replica's own binary logs are left out on request; a restored server begins a new series")
    return [
        Exclusion(re.escape(fs.real(directory)) + "/" + pattern, "binary_logs", reason, "pattern")
        for directory, pattern in (series[0], (index_directory, index_name))
    ]


def relay_logs(facts: ServerFacts, draft: Draft) -> None:
    # MySQL before 8.0 and MariaDB leave all three empty by default and use the base name of the pid file.
    pid_base = _stem(os.path.basename(facts.get("pid_file"))) or "mysqld"
    base = facts.get("relay_log_basename") or facts.get("relay_log") or f"{pid_base}-relay-bin"
    index = facts.get("relay_log_index") or base + ".index"
    if not os.path.basename(index).endswith(".index"):
        index += ".index"
    stems = {_stem(os.path.basename(name)) for name in facts.relay_log_names if name}
    known = os.path.basename(facts.path(base))
    if stems and all(stem == known or stem.startswith(f"{known}-") for stem in stems):
        # Channels are known: exact names, because another server may log in the same directory.
        suffix = "(?:" + "|".join(sorted({re.escape(stem[len(known) :]) for stem in stems} | {""})) + ")"
    else:
        suffix = r"(?:-[^/]*)?"
    series, index_name = _log_series(facts, base, index, suffix, "relay_log_index")
    index_directory = os.path.dirname(facts.path(index))
    for directory, pattern in (*series, (index_directory, index_name)):
        draft.add("relay_log", directory, pattern)
    draft.role_below("relay_log", *series[0])
    draft.role_below("relay_log_index", index_directory, index_name)
    for name in facts.relay_log_names:
        # A relay log of an older base name still in use, given with its directory.
        path = facts.path(name) if "/" in name else os.path.join(os.path.dirname(facts.path(base)), name)
        stem = re.escape(_stem(os.path.basename(path)))
        draft.add("relay_log", os.path.dirname(path), stem + _NUMBER, stem + r"\.index")
        draft.role_below("relay_log", os.path.dirname(path), stem + _NUMBER)


def status_files(facts: ServerFacts, draft: Draft) -> None:
    option = facts.options.get(normal_name("master-info-file")) or "master.info"
    paths = [facts.path(option), facts.path(facts.get("relay_log_info_file") or "relay-log.info")]
    # MySQL says "mysql.slave_master_info" in this column when it is a table.
    paths += [facts.path(name) for name in facts.connection_files if "/" in name]
    for path in dict.fromkeys(paths):
        directory, name = os.path.split(path)
        head, dot, tail = name.rpartition(".")
        stem, extension = (re.escape(head), re.escape(dot + tail)) if dot else (re.escape(name), "")
        pattern = rf"(?:multi-|worker-)?{stem}(?:-[^/]*)?{extension}(?:\.\d+)?"
        draft.add("replica_status", directory, pattern)
        draft.role_below("status_file", directory, pattern)


def load_files(facts: ServerFacts, draft: Draft) -> None:
    pattern = _load_data.own_pattern(facts.variables)
    directory = _load_data.directory(facts.datadir, facts.variables)
    elsewhere, certain = _load_data.server_view(directory, facts.pid)
    hidden = [elsewhere] if elsewhere else []
    if not hidden and not certain:
        hidden = _load_data.private_directories(directory, pattern)
    if hidden:
        for path in hidden:
            draft.add_hidden("load_data", directory, path, pattern)
    elif fs.is_directory(directory):
        try:
            fs.names(directory)
        except OSError as error:
            raise RefusedError(
                f"The directory of SQL_LOAD files cannot be read: {directory}",
                found=error.strerror,
                expected="a directory that this module may list (run it with become)",
                rule="load_data",
            ) from error
        draft.add("load_data", directory, pattern)
    else:
        draft.warn(f"{directory}, where SQL_LOAD files would lie, does not exist")
    draft.role_below("load_data", directory, pattern)
