# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of a plan that replication writes: binary and relay logs, metadata files, SQL_LOAD files."""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _load_data, _status_files
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._channel_names import channel_file, escape
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
    # MariaDB 11.7 and newer: what does not fit into memory of transactions that are not committed yet (server source,
    # "binlog_cache_dir"). Each session's file goes with the session; the server makes the directory at its start.
    cache = os.path.join(fs.real(os.path.dirname(facts.path(base))), "#binlog_cache_files")
    if include:
        _warn_of_absent_binlogs(facts, draft, facts.path(index))
    left_out = [Exclusion(cache, "binlog_cache", "transactions not committed yet; made anew at every start", "tree")]
    if include:
        return left_out
    reason = "left out on request (include_binlogs is false); the server begins a new series"
    draft.warn("The replica's own binary logs are left out on request; a restored server begins a new series")
    return left_out + [
        Exclusion(re.escape(fs.real(directory)) + "/" + pattern, "binary_logs", reason, "pattern")
        for directory, pattern in (series[0], (index_directory, index_name))
    ]


def _warn_of_absent_binlogs(facts: ServerFacts, draft: Draft, index: str) -> None:
    """The replica's own binary logs are not needed to go on, but whoever restores them should know of a hole."""
    try:
        named = [facts.path(log) for log in _status_files.read(_status_files.parse_log_index, index)]
    except (OSError, _status_files.StatusFileError):
        return
    absent = [fs.printable(log) for log in named if not fs.is_file(log)]
    if absent:
        draft.warn(f"{fs.printable(index)} names binary logs that are not there: {', '.join(absent)}")


def relay_logs(facts: ServerFacts, draft: Draft) -> list[str]:
    """Relay logs and their indexes; returns the files of the channels that must be in the list."""
    # MySQL before 8.0 and MariaDB leave all three empty by default and use the base name of the pid file.
    pid_base = _stem(os.path.basename(facts.get("pid_file"))) or "mysqld"
    base = facts.path(facts.get("relay_log_basename") or facts.get("relay_log") or f"{pid_base}-relay-bin")
    if facts.channels is None:
        _any_relay_logs(facts, draft, base)
        return []
    required = []
    for channel, current in dict([("", ""), *zip(facts.channels, facts.relay_log_names)]).items():
        bases = [f"{base}-{escape(channel)}" if channel else base]
        if current:
            # The base name of the logs in use may be an older one, or that of a pid file which is no variable.
            bases = list(dict.fromkeys([_stem(fs.absolute(current, os.path.dirname(base))), *bases]))
        for name in bases:
            _add_relay_logs(draft, name)
        index = _relay_log_index(facts, channel, bases)
        if index is not None:
            required += _indexed_relay_logs(facts, draft, index, in_use=channel in facts.channels)
        elif channel in facts.channels and current:
            raise _absent("index of the relay logs", channel, channel_file(_index_names(facts, base)[0], channel))
    return required


def _add_relay_logs(draft: Draft, base: str) -> None:
    directory, name = os.path.split(base)
    # MariaDB 11.4 and newer: GTID index beside each log (Knowledge Base, "binlog_gtid_index").
    draft.add("relay_log", directory, re.escape(name) + _NUMBER, re.escape(name) + _NUMBER + r"\.idx")
    draft.role_below("relay_log", directory, re.escape(name) + _NUMBER)


def _index_names(facts: ServerFacts, base: str) -> list[str]:
    """Where the default channel's index may be, the likeliest first.

    The option counts even where the variable is empty (without relay_log), and keeps an extension of its own where the
    variable says ".index" (seen on MySQL 5.6 and MariaDB 10.11).
    """
    names = [facts.options.get("relay_log_index") or "", facts.get("relay_log_index"), base + ".index"]
    return [
        facts.path(name if "." in os.path.basename(name) else name + ".index") for name in dict.fromkeys(names) if name
    ]


def _relay_log_index(facts: ServerFacts, channel: str, bases: t.Sequence[str]) -> str | None:
    for base in bases:
        # Beside the logs the index has the channel's name already.
        *elsewhere, beside = _index_names(facts, base)
        for path in [*(channel_file(path, channel) for path in elsewhere), beside]:
            if fs.is_file(path):
                return path
    return None


def _indexed_relay_logs(facts: ServerFacts, draft: Draft, index: str, *, in_use: bool) -> list[str]:
    """Plan an index and every log that it names; returns those that must be in the list: all, of a channel in use.

    Those before the current one are applied, and still a restart wants each to be there (MariaDB aborts, MySQL 5.6 ends
    in error 1872).
    """
    directory, name = os.path.split(index)
    draft.add(
        "relay_log",
        directory,
        re.escape(name),
        re.escape(name) + r"\.~rec~",
        re.escape(_stem(name)) + r"\.(?:~rec~|index_crash_safe)",
    )
    draft.role_below("relay_log_index", directory, re.escape(name))
    try:
        named = [facts.path(log) for log in _status_files.read(_status_files.parse_log_index, index)]
    except OSError as error:
        raise RefusedError(
            f"The index of relay logs cannot be read: {index}",
            found=error.strerror,
            expected="a file that this module may read (run it with become)",
            rule="relay_log",
        ) from error
    except _status_files.StatusFileError as error:
        # Read while the server was writing it, maybe: the caller looks again.
        raise RefusedError(error.message, found=error.found, expected=error.expected, rule="relay_log") from error
    for log in named:
        _add_relay_logs(draft, _stem(log))
    if not in_use:
        return [index]
    absent = [fs.printable(log) for log in named if not fs.is_file(log)]
    if absent:
        # The applier purges what it has executed: the caller looks again.
        raise RefusedError(
            f"The index of relay logs {fs.printable(index)} names files that are not there: the server would not come"
            " back from a restart, or not go on replicating",
            found=", ".join(absent),
            expected="every relay log that the index names",
            server_state="running, untouched",
            next_command="put the files back, or have the channel's relay logs made anew: STOP it, note its"
            " coordinates, RESET SLAVE (not ALL), CHANGE MASTER TO these coordinates, START",
            rule="relay_log",
        )
    return [index, *named]


def _any_relay_logs(facts: ServerFacts, draft: Draft, base: str) -> None:
    """Without the channels' names: whatever may be a channel's."""
    index = facts.get("relay_log_index") or base + ".index"
    if not os.path.basename(index).endswith(".index"):
        index += ".index"
    stems = {_stem(os.path.basename(name)) for name in facts.relay_log_names if name}
    known = os.path.basename(base)
    if stems and all(stem == known or stem.startswith(f"{known}-") for stem in stems):
        # Exact names, because another server may log in the same directory.
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
        path = facts.path(name) if "/" in name else os.path.join(os.path.dirname(base), name)
        stem = re.escape(_stem(os.path.basename(path)))
        draft.add("relay_log", os.path.dirname(path), stem + _NUMBER, stem + r"\.index")
        draft.role_below("relay_log", os.path.dirname(path), stem + _NUMBER)


def _absent(what: str, channel: str, path: str) -> RefusedError:
    label = f"channel '{channel}'" if channel else "the default channel"
    return RefusedError(
        f"The {what} of {label} is not on disk: a restart would lose the channel, and the backup would lack it",
        found=f"no file {fs.printable(path)} (after RESET SLAVE, the server keeps a channel in memory alone)",
        expected="the files of every channel that the server shows",
        server_state="running, untouched",
        next_command="START and STOP the channel, which writes them again, or remove it (RESET SLAVE ALL)",
        rule="status_files",
    )


def status_files(facts: ServerFacts, draft: Draft) -> list[str]:
    """Metadata files of the channels; returns those that must be in the list."""
    connection = facts.path(facts.options.get(normal_name("master-info-file")) or "master.info")
    applier = facts.path(facts.get("relay_log_info_file") or "relay-log.info")
    # MySQL says "mysql.slave_master_info" in this column when it is a table, MariaDB has no such column.
    named = [facts.path(name) for name in facts.connection_files if "/" in name]
    _add_status_files(draft, os.path.join(os.path.dirname(connection), "multi-" + os.path.basename(connection)))
    if facts.channels is None:
        for path in dict.fromkeys([connection, applier, *named]):
            stem, extension = map(re.escape, os.path.splitext(os.path.basename(path)))
            pattern = rf"(?:multi-|worker-)?{stem}(?:-[^/]*)?{extension}(?:\.\d+)?"
            draft.add("replica_status", os.path.dirname(path), pattern)
            draft.role_below("status_file", os.path.dirname(path), pattern)
        return []
    required = []
    for channel, shown in dict([("", ""), *zip(facts.channels, facts.connection_files)]).items():
        files = _status_files.channel_files(
            facts.variables, channel, shown, facts.options.get(normal_name("master-info-file")) or ""
        )
        paths = [channel_file(connection, channel), channel_file(applier, channel), files.connection, files.applier]
        _add_status_files(draft, *(path for path in paths if path))
        _add_worker_files(draft, channel_file(applier, channel))
        if channel not in facts.channels:
            continue
        for what, path in (("connection's file", files.connection), ("applier's file", files.applier)):
            if path and not fs.is_file(path):
                raise _absent(what, channel, path)
            required += [path] if path else []
        if channel and files.names and not fs.is_file(files.names):
            raise _absent("list of named connections", channel, files.names)
        required += [files.names] if channel and files.names else []
    return required


def _add_status_files(draft: Draft, *paths: str) -> None:
    for directory, name in map(os.path.split, paths):
        draft.add("replica_status", directory, re.escape(name))
        draft.role_below("status_file", directory, re.escape(name))


def _add_worker_files(draft: Draft, applier: str) -> None:
    directory, name = os.path.split(applier)
    pattern = rf"worker-{re.escape(name)}\.\d+"
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
