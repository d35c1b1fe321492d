# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a live server says and what is on disk to the plan of a backup: places, exclusions, required files."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import replace

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _load_data
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._place_draft import Draft
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._place_logs import (
    binlogs,
    load_files,
    relay_logs,
    status_files,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import (
    PLACES,
    Discovery,
    Exclusion,
    Locator,
    one_of,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._side_files import of_the_system, side_files

# Files of tables that have a name of their own: InnoDB, MyISAM, Aria, MERGE, CSV, ARCHIVE.
_TABLE_SUFFIXES = ("ibu", "isl", "MYD", "MYI", "MAD", "MAI", "CSV", "CSM", "ARZ")
# What OpenSSL looks for in a directory of certificates: links and files named by hash.
_HASHED = r"[0-9a-f]{8}\.r?\d+"
_LOG_FILES = (
    "log_error",
    "general_log_file",
    "slow_query_log_file",
    "log_slow_query_file",
    "server_audit_file_path",
    "sql_error_log_filename",
    "audit_log_file",
)
_DIRECTORIES = (
    "innodb_data_home_dir",
    "innodb_log_group_home_dir",
    "innodb_undo_directory",
    "aria_log_dir_path",
)
_BASE_NAMES = ("log_bin_basename", "log_bin_index", "relay_log", "relay_log_basename", "relay_log_index")
# MySQL's JSON sink writes beside the error log (manual, "Error Logging in JSON Format").
_JSON_SINK = re.compile(r"\.\d\d\.json\Z")
# What logrotate and people add to a log's name; the server writes on until it is told to open its logs anew.
_ROTATED = r"(?:[.-](?:\d[\d_.-]*|old|bak))?"
# A symbolic link to one of these from the data directory is a mistake; following it would copy the whole machine.
_TOO_WIDE = re.compile(
    r"/|/(?:bin|boot|dev|etc|home|lib|lib64|media|mnt|opt|proc|root|run|sbin|srv|sys|tmp|usr|var|var/lib|var/log|var/tmp)"
)


def _check_datadir(facts: ServerFacts) -> None:
    if not facts.get("datadir"):
        raise RefusedError(
            "The server does not name its data directory", expected="the variable datadir", rule="datadir"
        )
    if not fs.is_directory(facts.datadir):
        raise RefusedError(
            f"The data directory of the server does not exist here: {facts.datadir}",
            found="no such directory",
            expected="the directory that the variable datadir names; the module has to run on the server's own host",
            rule="datadir",
        )
    _check_next_start(facts)
    elsewhere, _certain = _load_data.server_view(facts.datadir, facts.pid)
    if elsewhere:
        raise RefusedError(
            f"The server sees another directory under {facts.datadir} than this module",
            found=f"process {facts.pid} has its own file systems (a container or a private mount)",
            expected="a module that runs where the server runs",
            rule="datadir",
        )


def _check_next_start(facts: ServerFacts) -> None:
    """Refuse while the option files would bring up the server on another data directory, or on none."""
    configured = facts.options.get("datadir")
    if not configured:
        return
    found = fs.absolute(configured, facts.datadir)
    if fs.real(found) != fs.real(facts.datadir):
        raise RefusedError(
            "The server would not come back on its data: its option files name another data directory than it uses now",
            found=f"datadir = {configured}" + ("" if fs.is_directory(found) else ", which does not exist"),
            expected=f"{facts.datadir}, the directory that the running server uses",
            server_state="running, untouched",
            next_command=f"correct datadir in {', '.join(facts.option_files) or 'the option files'}",
            rule="datadir",
        )


def _innodb_data_files(facts: ServerFacts, variable: str) -> list[str]:
    """Files of innodb_data_file_path and the like: ``ibdata1:12M;/abs/ibdata2:50M:autoextend``."""
    files = []
    for part in facts.get(variable).split(";"):
        name, *rest = part.strip().split(":")
        if not name:
            continue
        if any("raw" in word for word in rest):
            raise RefusedError(
                f"{variable} names a raw device, which cannot be copied as a file",
                found=part,
                expected="InnoDB data in files",
                rule="special_file",
            )
        files.append(fs.absolute(name, facts.directory("innodb_data_home_dir")))
    return files


def _with_true_system_files(facts: ServerFacts) -> ServerFacts:
    """The dictionary with the system tablespace where it lies.

    MySQL's dictionary names its files ``./ibdata1`` whatever innodb_data_home_dir says (seen on 9.7).
    """
    home = facts.directory("innodb_data_home_dir")
    names = [part.strip().split(":")[0] for part in facts.get("innodb_data_file_path").split(";")]
    moved = {facts.path(name): fs.absolute(name, home) for name in names if name}
    return replace(facts, dictionary_files=tuple(moved.get(facts.path(path), path) for path in facts.dictionary_files))


def _doublewrite_directory(facts: ServerFacts) -> str:
    """MySQL puts "#" before a name that begins with none of "/", "." and "#" (8.0 manual, innodb_doublewrite_dir)."""
    value = facts.get("innodb_doublewrite_dir")
    marked = facts.path(f"#{value}")
    if value and value[0] not in "/.#" and fs.is_directory(marked):
        return marked
    return facts.directory("innodb_doublewrite_dir", "innodb_data_home_dir")


def _check_directories(facts: ServerFacts) -> None:
    """Refuse a directory that is not there under its name: its files would be missing and nobody would know.

    A server writes bytes that are no text as "?" into its variables, and so names another directory than it uses.
    """
    named = {name: facts.get(name) for name in _DIRECTORIES}
    named.update({name: os.path.dirname(facts.get(name)) for name in _BASE_NAMES})
    named["innodb_doublewrite_dir"] = _doublewrite_directory(facts)
    for name, value in named.items():
        if value and not fs.is_directory(facts.path(value)):
            raise RefusedError(
                f"The server's {name} leads to {facts.path(value)}, which is not there",
                found="no such directory",
                expected="the server's directories on this host, under the names that it gives",
                rule="datadir",
            )


def _innodb(facts: ServerFacts, draft: Draft) -> list[str]:
    """Places of InnoDB; returns the files of the system tablespace."""
    system = _innodb_data_files(facts, "innodb_data_file_path")
    for path in system:
        if not fs.is_file(path):
            raise RefusedError(
                f"The server's innodb_data_file_path names {path}, which is not there",
                found="no such file",
                expected="the server's files on this host",
                rule="datadir",
            )
        draft.add_file("innodb_home", path)
        draft.role("innodb_system", path)
    # Not needed, but the restored server is warm at once.
    if facts.get("innodb_buffer_pool_filename"):
        home = facts.directory("innodb_data_home_dir")
        draft.add_file("innodb_home", fs.absolute(facts.get("innodb_buffer_pool_filename"), home))
    redo = facts.directory("innodb_log_group_home_dir")
    redo_names = (r"ib_logfile\d+", r"\#innodb_redo", r"\#innodb_redo/[^/]*", r"ib_redo\d+")
    draft.add("innodb_redo", redo, *redo_names)
    draft.role_below("innodb_redo", redo, r"ib_logfile\d+", r"\#innodb_redo/[^/]*")
    undo = facts.directory("innodb_undo_directory")
    undo_names = (r"undo_?\d+", r"[^/]*\.ibu", r"undo_\d+_trunc\.log")
    draft.add("innodb_undo", undo, *undo_names)
    draft.role_below("innodb_undo", undo, *undo_names)
    if "innodb_doublewrite_dir" in facts.variables:
        # Without a directory of its own, the doublewrite buffer of MySQL 8.0.20 lies beside the system tablespace.
        kind = "doublewrite" if facts.get("innodb_doublewrite_dir") else "innodb_home"
        doublewrite = _doublewrite_directory(facts)
        draft.add(kind, doublewrite, r"\#ib_\d+_\d+\.b?dblwr")
        draft.role_below("doublewrite", doublewrite, r"\#ib_\d+_\d+\.b?dblwr")
    for variable in ("rocksdb_datadir", "rocksdb_wal_dir", "tokudb_data_dir", "tokudb_log_dir"):
        if facts.get(variable) and fs.is_directory(facts.path(facts.get(variable))):
            draft.add_tree("tablespaces", facts.path(facts.get(variable)))
    aria = facts.directory("aria_log_dir_path")
    aria_names = (r"aria_log_control", r"aria_log\.\d+")
    if facts.get("aria_log_dir_path"):
        draft.add("aria_log", aria, *aria_names)
        draft.role_below("aria_log", aria, *aria_names)
    return system


def _coordinator(facts: ServerFacts, draft: Draft) -> None:
    """The log of transactions over several engines, used without a binary log; an option without a variable."""
    path = facts.path(facts.options.get("log_tc") or "tc.log")
    if fs.is_file(path):
        draft.add_file("binlog", path)


def _tablespaces(facts: ServerFacts, draft: Draft) -> None:
    for path in map(facts.path, facts.dictionary_files):
        directory, name = os.path.split(path)
        # MySQL 5.6 keeps temporary tables of sessions in its dictionary.
        temporary = name.startswith("#sql") and directory in facts.temporary_directories
        if not temporary and not draft.has(path):
            draft.add("tablespaces", directory, _table_pattern(path))


def _table_pattern(path: str) -> str:
    """Tables come and go: the whole kind in that directory, not the one name. Anything else by its own name."""
    suffix = path.rpartition(".")[2]
    if suffix == "ibd":
        # With what FLUSH TABLES ... FOR EXPORT writes beside them.
        return r"[^/]*\.(?:ibd|cfg|cfp)"
    return rf"[^/]*\.{suffix}" if suffix in _TABLE_SUFFIXES else re.escape(os.path.basename(path))


def _side(facts: ServerFacts, draft: Draft) -> None:
    found = side_files(facts.datadir, facts.variables, facts.exe)
    for warning in found.warnings:
        draft.warn(warning)
    for item in found.files:
        if not fs.is_file(item.path):
            if item.needed:
                raise RefusedError(
                    f"{item.path} is not there, and encrypted data cannot be read without it",
                    found="no such file",
                    expected=f"the file that {item.why} names",
                    rule="keys",
                )
            draft.warn(f"{item.why} names {item.path}, which is not there")
            continue
        if not fs.readable(item.path):
            raise RefusedError(
                f"{item.path} cannot be read",
                found="permission denied",
                expected=f"read access to the file that {item.why} names (run with become)",
                rule="keys",
            )
        draft.add_file(item.kind, item.path)
        draft.role("key" if item.kind == "keys" else "config", item.path)
        if item.needed:
            # Keyrings keep the former state beside the new one while they write.
            draft.add_file(item.kind, item.path + ".backup")
            draft.role("key", item.path + ".backup")
    for item in found.directories:
        draft.add(item.kind, item.path, _HASHED)
    for path in map(facts.path, facts.side_files):
        if fs.is_directory(path):
            if not of_the_system(path):
                draft.add("keys", path, _HASHED)
        elif fs.is_file(path):
            draft.add_file("keys", path)
            draft.role("key", path)
        else:
            draft.warn(f"A channel's TLS settings name {path}, which is not there")
    for path in facts.option_files:
        draft.add_file("config", path)
        draft.role("config", path)


def _links(facts: ServerFacts, draft: Draft) -> None:
    """Whatever a link or an ``.isl`` file leads to, hop by hop, must lie in a place."""
    seen: set[str] = set()
    while True:
        fresh = [(kind, path, link) for kind, path, link in draft.links() if path not in seen]
        if not fresh:
            return
        for kind, path, is_link in fresh:
            seen.add(path)
            text = fs.readlink(path) if is_link else fs.read_text(path, 4096).strip("\n")
            if text:
                _lead(facts, draft, kind, path, fs.real_name(fs.absolute(text, fs.real(os.path.dirname(path)))))


def _lead(facts: ServerFacts, draft: Draft, kind: str, origin: str, target: str) -> None:
    status = fs.lstat(target)
    if status is None:
        draft.warn(f"{origin} leads to {target}, which is not there")
        return
    if draft.has(target) or draft.is_log_directory(target):
        return
    kind = kind if kind in ("config", "keys", "binlog", "relay_log") else "tablespaces"
    if not stat.S_ISDIR(status.st_mode):
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
            return
        pattern = _table_pattern(target) if kind == "tablespaces" else re.escape(os.path.basename(target))
        draft.add(kind, os.path.dirname(target), pattern)
        return
    if _TOO_WIDE.fullmatch(target) or fs.below(fs.real(facts.datadir), target) is not None:
        raise RefusedError(
            f"{origin} is a symbolic link to {target}, which is far more than a database",
            found=target,
            expected="links that lead to single databases or tables",
            rule="symlink",
        )
    draft.add_tree(kind, target)


def _exclusions(facts: ServerFacts, draft: Draft) -> list[Exclusion]:
    rules: list[Exclusion] = []

    def leave_out(path: str, rule: str, reason: str, match: str = "exact") -> None:
        rules.append(Exclusion(fs.real_name(facts.path(path)), rule, reason, match))

    for path in _innodb_data_files(facts, "innodb_temp_data_file_path"):
        leave_out(path, "innodb_temporary", "temporary tablespace; made anew at every start")
    sessions = facts.get("innodb_temp_tablespaces_dir")
    directory = fs.real(facts.path(sessions)) if sessions else os.path.join(fs.real(facts.datadir), "#innodb_temp")
    if os.path.basename(directory) == "#innodb_temp":
        leave_out(directory, "innodb_temporary", "session temporary tablespaces; made anew at every start", "tree")
    else:
        pattern = re.escape(directory) + r"/temp_\d+\.ibt"
        rules.append(Exclusion(pattern, "innodb_temporary", "session temporary tablespaces", "pattern"))
    for name in ("socket", "mysqlx_socket"):
        if facts.get(name):
            leave_out(facts.get(name), "socket", "listening socket of the running server")
            leave_out(facts.get(name) + ".lock", "socket_lock", "holds the process id of the running server")
    if facts.get("pid_file"):
        leave_out(facts.get("pid_file"), "pid_file", "holds the process id of the running server")
    for directory in facts.temporary_directories:
        pattern = re.escape(fs.real(directory)) + r"/\#sql[^/]*"
        rules.append(Exclusion(pattern, "temporary_table", "temporary tables end with their sessions", "pattern"))
    for root in draft.tree_roots():
        leave_out(os.path.join(root, "lost+found"), "lost_found", "belongs to the file system", "tree")
    return rules


def _names_of_log(path: str) -> str:
    """Expression for a log that is, or was before it was moved aside, ``path``."""
    stem, extension = os.path.splitext(path)
    return re.escape(stem) + _ROTATED + re.escape(extension) + _ROTATED


def _required(facts: ServerFacts, discovery: Discovery, system: list[str]) -> tuple[str, ...]:
    locator = Locator(discovery)
    parents: dict[str, str] = {}

    def identity(path: str) -> str:
        head, tail = os.path.split(facts.path(path))
        if head not in parents:
            parents[head] = fs.real(head)
        return os.path.join(parents[head], tail)

    wanted = {identity(path) for path in (*facts.dictionary_files, *system)}
    logs = {identity(facts.get(name)) for name in _LOG_FILES if facts.get(name)} | set(map(identity, facts.log_files))
    # Of a directory, MariaDB's audit plugin makes the name itself (Knowledge Base, "server_audit_file_path").
    logs |= {os.path.join(path, "server_audit.log") for path in logs if fs.is_directory(path)}
    log_names = one_of(map(_names_of_log, logs))
    # Files in these directories are in use for the length of a statement and belong to no table.
    passing = [fs.real(path) for path in facts.temporary_directories]
    if facts.get("secure_file_priv"):
        passing.append(fs.real(facts.path(facts.get("secure_file_priv"))))
    passing = [path for path in passing if fs.below(path, fs.real(facts.datadir)) is None]
    for path in map(identity, facts.open_files or ()):
        if log_names.fullmatch(_JSON_SINK.sub("", path)) or path.startswith(("/proc/", "/sys/", "/dev/")):
            continue
        status = fs.lstat(path)
        if status is not None and not stat.S_ISREG(status.st_mode):
            continue
        if os.path.dirname(path) in passing and not locator.covers(path):
            continue
        wanted.add(path)
    return tuple(sorted(path for path in wanted if locator.exclusion(path) is None))


def plan_places(facts: ServerFacts, *, include_binlogs: bool = True) -> Discovery:
    """Places, exclusions and required files of a server. Reads the disk, changes nothing.

    Raises RefusedError when the server's own words and the disk contradict each other, when a key file is out of
    reach, or when a link leads too far.
    """
    _check_datadir(facts)
    _check_directories(facts)
    facts = _with_true_system_files(facts)
    draft = Draft(facts.datadir)
    system = _innodb(facts, draft)
    exclusions = binlogs(facts, draft, include_binlogs)
    needed = [*relay_logs(facts, draft), *status_files(facts, draft)]
    load_files(facts, draft)
    _coordinator(facts, draft)
    _tablespaces(facts, draft)
    _side(facts, draft)
    _links(facts, draft)
    exclusions += _exclusions(facts, draft)
    for name, role in (("auto.cnf", "identity"), ("mysqld-auto.cnf", "persisted_settings")):
        draft.role(role, os.path.join(facts.datadir, name))
    if facts.open_files is None and not facts.offline:
        draft.warn(
            "The files that the server holds open may not be seen (no right to trace it);"
            " completeness was checked against its dictionary alone"
        )
    discovery = Discovery(
        datadir=facts.datadir,
        places=draft.places(PLACES),
        exclusions=tuple(dict.fromkeys(exclusions)),
        roles=draft.roles(),
        warnings=draft.warnings(),
        include_binlogs=include_binlogs,
    )
    return replace(discovery, required=_required(facts, discovery, [*system, *needed]))
