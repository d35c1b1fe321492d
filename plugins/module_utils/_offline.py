# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts of a server that is down: from its option files, its binary and the disk.

Gathers only; the plan is made from them as from those of a live server. The data directory may be empty or missing,
which says where this host *would* keep its files. Nothing of the server is run on its data or changed.

What a server makes of its settings at its start was recorded from MySQL 5.6 and 9.7 and MariaDB 10.11.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import socket
import stat
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _server,
    _server_help,
    _status_files,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._clean_stop import (
    CleanStop,
    Proof,
    prove_clean_stop,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Identity
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect, neutral
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints, Start, find_start
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._option_files import (
    command_line_values,
    option_sources,
    read_option_files,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts

# Data directories that servers are built with: of distributions, of the vendors' archives.
_BUILT_IN_DATADIRS = ("/var/lib/mysql", "/usr/local/mysql/data", "/usr/local/mariadb/data", "/var/mysql")
_SWITCHES = {"1": "ON", "TRUE": "ON", "YES": "ON", "ON": "ON", "": "ON", "0": "OFF", "FALSE": "OFF", "NO": "OFF"}
_SWITCHES["OFF"] = "OFF"
_BUILT_IN_ENGINES = ("innodb_", "aria_")
_SIZE = re.compile(r"\d+[KMGTPEkmgtpe]")
_TABLESPACE = re.compile(r"[^/]*\.(?:ibd|ibu)|undo_\d+", re.DOTALL)
# The dictionary keeps the names of files as plain text.
_NAME_IN_DICTIONARY = re.compile(rb"/[ -.0-~\x80-\xff][ -~\x80-\xff]{0,510}?\.ib[du]")
_INFO_LIMIT = 1 << 20


@dataclass(frozen=True)
class Unknown:
    """A fact that only a running server tells, and what may be wrong without it."""

    fact: str
    why: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Offline:
    """A server that is down. ``datadir_state`` is "missing", "empty" or "filled"."""

    facts: ServerFacts
    identity: Identity
    start: Start
    datadir_state: str
    unknown: tuple[Unknown, ...]
    warnings: tuple[str, ...]


# -- settings -----------------------------------------------------------------------------------------------


def persisted_settings(text: str) -> dict[str, str]:
    """Values of a mysqld-auto.cnf, both generations. Raises ValueError when it is none."""
    values: dict[str, str] = {}

    def collect(node: t.Any) -> None:
        for name, value in node.items() if isinstance(node, dict) else ():
            if isinstance(value, dict) and "Value" in value:
                values[str(name).lower()] = str(value["Value"])
            else:
                collect(value)

    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    collect(document)
    return values


def resolve(name: str, known: t.Collection[str]) -> tuple[str, bool | None]:
    """(the variable that an option sets, True or False for ``enable_`` and ``skip_`` forms).

    Options may be shortened as long as they stay unambiguous. One that the binary does not know belongs to a plugin
    and keeps its name.
    """
    if name in known:
        return name, None
    for prefix, switch in (("skip_", False), ("disable_", False), ("enable_", True)):
        rest = name[len(prefix) :]
        if name.startswith(prefix) and rest in known:
            return rest, switch
    longer = [candidate for candidate in known if candidate.startswith(name)]
    return (longer[0], None) if len(longer) == 1 and len(name) > 1 else (name, None)


class _Settings:
    """The variables that a server would have: built-in values, overlaid with what it is given."""

    def __init__(self, built_in: t.Mapping[str, str], given: t.Iterable[tuple[str, str]]) -> None:
        self.variables = dict(built_in)
        self.given: set[str] = set()
        # One thing under its old and its new name: slave_load_tmpdir, replica_load_tmpdir.
        same: dict[str, list[str]] = {}
        for name in built_in:
            same.setdefault(neutral(name), []).append(name)
        for option, value in given:
            name, switch = resolve(option, built_in)
            if switch is not None:
                value = "ON" if switch else "OFF"
                if name == "log_bin" and not switch:
                    self.given.discard(name)
                    self.variables[name] = ""
                    continue
            elif built_in.get(name) in ("ON", "OFF"):
                value = _SWITCHES.get(value.upper(), value)
            elif built_in.get(name, "").isdigit() and _SIZE.fullmatch(value):
                value = str(int(value[:-1]) << 10 * (1 + "KMGTPE".index(value[-1].upper())))
            elif name not in built_in and name.startswith(_BUILT_IN_ENGINES):
                # A "loose" option for a server of the other family. What else is unknown may be a plugin's.
                continue
            for twin in {name, *same.get(neutral(name), ())}:
                self.variables[twin] = value
                self.given.add(twin)

    def get(self, name: str) -> str:
        return self.variables.get(name, "")

    def default(self, name: str, value: str) -> None:
        if name not in self.given:
            self.variables[name] = value


def _without_extension(path: str) -> str:
    head, tail = os.path.split(path)
    stem, dot, _extension = tail.rpartition(".")
    return os.path.join(head, stem) if dot else path


def _derive(settings: _Settings, datadir: str) -> None:
    """What a server makes of its settings at its start."""

    def at(path: str) -> str:
        return fs.absolute(path, datadir)

    base = settings.get("log_basename") if "log_basename" in settings.given else ""
    settings.variables["datadir"] = datadir.rstrip("/") + "/"
    temporary = settings.get("tmpdir").split(":")[0]
    for name in ("slave_load_tmpdir", "replica_load_tmpdir"):
        if name in settings.variables and temporary:
            settings.default(name, temporary)
    # Values that the binaries do not show.
    for name, value in (("innodb_data_file_path", "ibdata1:12M:autoextend"), ("innodb_log_group_home_dir", "./")):
        settings.variables[name] = settings.get(name) or value
    if "innodb_undo_directory" in settings.variables:
        settings.variables["innodb_undo_directory"] = settings.get("innodb_undo_directory") or "./"
    if base:
        settings.default("pid_file", at(f"{base}.pid"))
        settings.default("relay_log", f"{base}-relay-bin")
        settings.default("general_log_file", f"{base}.log")
        for name in ("slow_query_log_file", "log_slow_query_file"):
            if name in settings.variables:
                settings.default(name, f"{base}-slow.log")
    if settings.get("pid_file"):
        settings.variables["pid_file"] = at(settings.get("pid_file"))
    stem = base or os.path.basename(_without_extension(settings.get("pid_file"))) or socket.gethostname()
    if "log_error" in settings.given:
        log = settings.get("log_error") or f"{stem}.err"
        if log != "stderr":
            settings.variables["log_error"] = at(log if "." in os.path.basename(log) else f"{log}.err")
    else:
        # What the binary says here, "stderr" or nothing, holds only when nobody redirects that.
        settings.variables["log_error"] = ""
    _binary_log(settings, stem, at)
    relay = settings.get("relay_log")
    if relay:
        settings.variables["relay_log_basename"] = at(_without_extension(relay))
        index = settings.get("relay_log_index") if "relay_log_index" in settings.given else ""
        settings.variables["relay_log_index"] = at(_index_name(index or _without_extension(relay)))


def _index_name(name: str) -> str:
    return name if "." in os.path.basename(name) else f"{name}.index"


def _binary_log(settings: _Settings, stem: str, at: t.Callable[[str], str]) -> None:
    base = settings.get("log_bin")
    if not base and "log_bin" not in settings.given:
        settings.variables.update(log_bin="OFF", log_bin_basename="", log_bin_index="")
        return
    base = at(_without_extension(base or f"{stem}-bin"))
    index = settings.get("log_bin_index") if "log_bin_index" in settings.given else ""
    settings.variables.update(log_bin="ON", log_bin_basename=base, log_bin_index=at(_index_name(index or base)))


def built_in_datadir(exe: str, basedir: str) -> str:
    """The data directory that a server was built with, "" when its binary has none of the usual ones.

    Asking the server itself would make it try that directory out.
    """
    usual = [*_BUILT_IN_DATADIRS, *([os.path.join(basedir, "data")] if basedir else [])]
    try:
        with open(fs.encode(exe), "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as image:
            for path in usual:
                if any(image.find(b"\0" + fs.encode(path) + end) >= 0 for end in (b"\0", b"/\0")):
                    return path
    except (OSError, ValueError):
        pass
    return ""


# -- disk ---------------------------------------------------------------------------------------------------


def _inside(directory: str) -> list[str]:
    try:
        return fs.names(directory)
    except OSError:
        return []


def _tablespaces_below(directory: str) -> t.Iterator[str]:
    """As InnoDB looks for them at its start: every directory, links to directories left aside."""
    pending = [directory]
    while pending:
        current = pending.pop()
        for name in _inside(current):
            path = os.path.join(current, name)
            status = fs.lstat(path)
            if status is not None and stat.S_ISDIR(status.st_mode):
                pending.append(path)
            elif status is not None and _TABLESPACE.fullmatch(name):
                yield path


def _named_in_dictionary(path: str) -> t.Iterator[str]:
    """Existing files that MySQL's dictionary names with their directory, by the text in its tablespace.

    MySQL 8.0 opens such a file where the dictionary says it is, also outside the directories that it searches.
    Deleted rows are found as well: what exists is taken.
    """
    try:
        with open(fs.encode(path), "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as image:
            found = {match[0] for match in _NAME_IN_DICTIONARY.finditer(image)}
    except (OSError, ValueError):
        return
    for name in sorted(map(fs.decode, found)):
        # Bytes of the field before the name may look like a part of it.
        starts = [position for position, char in enumerate(name) if char == "/"]
        for start in starts[:-1]:
            if fs.is_file(name[start:]):
                yield name[start:]
                break


def _files_of_tablespaces(facts: ServerFacts) -> tuple[str, ...]:
    if "innodb_directories" not in facts.variables:
        # These servers keep an .isl file in the data directory for every table elsewhere; the plan follows it.
        return ()
    directories = [part for part in facts.get("innodb_directories").split(";") if part]
    directories += [facts.get(name) for name in ("innodb_undo_directory", "innodb_data_home_dir") if facts.get(name)]
    found: dict[str, None] = {}
    root = fs.real(facts.datadir)
    for directory in dict.fromkeys(fs.real(facts.path(directory)) for directory in directories):
        if fs.below(directory, root) is None and fs.below(root, directory) is None:
            found.update(dict.fromkeys(_tablespaces_below(directory)))
    for path in _named_in_dictionary(os.path.join(facts.datadir, "mysql.ibd")):
        if fs.below(fs.real_name(path), root) is None:
            found[path] = None
    return tuple(found)


@dataclass(frozen=True)
class _Channels:
    """What the channels' files on disk tell. ``connections`` are their connection files."""

    relay_logs: tuple[str, ...] = ()
    connections: tuple[str, ...] = ()
    tls_files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def _matching(path: str) -> list[str]:
    """Files named as ``path`` or with a channel's name before its extension."""
    directory, name = os.path.split(path)
    head, dot, tail = name.rpartition(".")
    stem, extension = (head, dot + tail) if dot else (name, "")
    pattern = re.compile(rf"{re.escape(stem)}(?:-.*)?{re.escape(extension)}", re.DOTALL)
    found = [os.path.join(directory, item) for item in _inside(directory) if pattern.fullmatch(item)]
    return [path for path in found if fs.is_file(path)]


def _channels(facts: ServerFacts) -> _Channels:
    warnings: list[str] = []

    def read(parse: t.Callable[[bytes, str], t.Any], path: str) -> t.Any:
        try:
            return _status_files.read(parse, path)
        except (_status_files.StatusFileError, OSError) as error:
            warnings.append(str(error))
            return None

    relay_logs: dict[str, None] = {}
    for path in _matching(facts.path(facts.get("relay_log_info_file") or "relay-log.info")):
        info = read(_status_files.parse_applier_info, path)
        if info and info.relay_log_file:
            relay_logs[info.relay_log_file] = None
    stem = os.path.basename(_without_extension(facts.get("pid_file"))) or "mysqld"
    base = facts.get("relay_log_basename") or f"{stem}-relay-bin"
    for path in _matching(facts.path(facts.get("relay_log_index") or f"{base}.index")):
        names = read(_status_files.parse_log_index, path)
        if names:
            relay_logs[names[-1]] = None
    connections = _matching(facts.path(facts.options.get("master_info_file") or "master.info"))
    tls: dict[str, None] = {}
    for path in connections:
        info = read(_status_files.parse_connection_info, path)
        if info:
            named = (*info.tls_files, info.ssl_capath, info.ssl_crlpath)
            tls.update(dict.fromkeys(path for path in named if path))
    return _Channels(tuple(relay_logs), tuple(connections), tuple(tls), tuple(warnings))


def _server_uuid(datadir: str) -> str:
    try:
        text = fs.read_text(os.path.join(datadir, "auto.cnf"), _INFO_LIMIT)
    except OSError:
        return ""
    found = re.search(r"^\s*server[-_]uuid\s*=\s*(\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def _state_of(datadir: str) -> str:
    if not fs.is_directory(datadir):
        return "missing"
    return "filled" if [name for name in _inside(datadir) if name != "lost+found"] else "empty"


# -- all together -------------------------------------------------------------------------------------------


def _persisted(datadir: str, argv: t.Sequence[str], before: _Settings) -> tuple[dict[str, str], str]:
    """(persisted settings, why they could not be read). They win over the command line (manual, "Persisted System
    Variables"); ``--no-defaults`` and persisted_globals_load turn them off."""
    path = os.path.join(datadir, "mysqld-auto.cnf")
    if fs.lstat(path) is None or "--no-defaults" in argv or before.get("persisted_globals_load") != "ON":
        return {}, ""
    try:
        return persisted_settings(fs.read_text(path)), ""
    except (OSError, ValueError) as error:
        return {}, f"{path} cannot be understood: {error}"


def read_offline(hints: Hints, *, persisted: bool = True) -> Offline:
    """Gather what can be known of a server that is down.

    Without ``persisted``, mysqld-auto.cnf is not read: its data directory is about to be replaced.
    Raises RefusedError when service, binary or data directory are ambiguous. The data directory need not exist.
    """
    start = find_start(hints)
    probe = _server_help.ask(start.exe, start.environment)
    sources = option_sources(start.argv, start.environment, probe, start.exe)
    options = read_option_files(sources.files, sources.groups, start.environment.get("HOME", ""))
    given = [*options.values.items(), *command_line_values(start.argv).items()]
    if probe is None or probe.identity is None:
        raise RefusedError(
            f"{start.exe} does not say what it is",
            found="no help text from --no-defaults --verbose --help",
            expected="the binary of a MySQL or MariaDB server that runs on this host",
            rule="server_binary",
        )
    unknown: list[Unknown] = []
    warnings = [*sources.warnings, *options.warnings]
    first = _Settings(probe.variables, given)
    basedir = first.get("basedir")
    datadir = first.get("datadir") if "datadir" in first.given else ""
    if not datadir:
        datadir = built_in_datadir(start.exe, basedir) or _BUILT_IN_DATADIRS[0]
        warnings.append(f"No option names the data directory: {datadir}, which the binary was built with")
    if not datadir.startswith("/"):
        raise RefusedError(
            "The data directory is not absolute", found=datadir, expected="an absolute path", rule="datadir"
        )
    datadir = fs.absolute(datadir, "/")
    arguments = [f"--basedir={basedir}"] if "basedir" in first.given else []
    said = _server_help.ask(start.exe, start.environment, datadir=datadir, arguments=arguments) or probe
    kept, trouble = _persisted(datadir, start.argv, first) if persisted else ({}, "")
    if trouble:
        unknown.append(Unknown("persisted_settings", f"{trouble}. Paths set by SET PERSIST are not known"))
    settings = _Settings(said.variables, [*given, *kept.items()])
    _derive(settings, datadir)
    uuid = _server_uuid(datadir)
    if uuid:
        settings.variables["server_uuid"] = uuid
    state = _state_of(datadir)
    bare = ServerFacts(
        settings.variables,
        exe=start.exe,
        options={**dict(given), **kept, "datadir": datadir},
        option_files=options.files,
        offline=True,
    )
    channels = _channels(bare)
    facts = ServerFacts(
        bare.variables,
        dictionary_files=_files_of_tablespaces(bare),
        exe=bare.exe,
        options=bare.options,
        option_files=bare.option_files,
        relay_log_names=channels.relay_logs,
        connection_files=channels.connections,
        side_files=channels.tls_files,
        offline=True,
    )
    unknown += _not_learned(facts, said.identity or probe.identity, start, uuid)
    return Offline(
        facts, said.identity or probe.identity, start, state, tuple(unknown), (*warnings, *channels.warnings)
    )


def _not_learned(facts: ServerFacts, identity: Identity, start: Start, uuid: str) -> t.Iterator[Unknown]:
    if not start.known:
        yield Unknown(
            "command_line",
            "The server is started by a script, which may add options. A path that only one of them names is missing",
        )
    yield Unknown(
        "open_files",
        "Which files the server works with shows only while it runs."
        " A file in a place that no setting, link or dictionary entry names is missing",
    )
    if "innodb_directories" in facts.variables:
        yield Unknown(
            "dictionary",
            "Tablespaces were searched for on disk, in innodb_directories and by the names inside mysql.ibd."
            " One that is lost, or lies elsewhere under an encrypted dictionary, goes unnoticed",
        )
    else:
        yield Unknown(
            "dictionary",
            "Tablespaces were searched for on disk and by their .isl files. One that is lost goes unnoticed",
        )
    dialect = Dialect(identity.family, identity.version)
    if dialect.repository_kind(facts.variables, "connection") == "TABLE":
        yield Unknown(
            "channel_tls_files",
            "The channels' settings are in tables, which only a running server reads."
            " Certificates and keys that only a channel names are missing",
        )
    if dialect.has_server_uuid and not uuid:
        yield Unknown("server_uuid", "There is no auto.cnf. SQL_LOAD files, which are named by it, are missing")
    load = facts.directory("replica_load_tmpdir", "slave_load_tmpdir")
    if start.private_tmp and any(fs.below(load, path) is not None for path in ("/tmp", "/var/tmp")):
        yield Unknown(
            "private_tmp",
            f"{start.service} has a /tmp of its own, which went away with it. SQL_LOAD files in it are missing;"
            " the applier makes them anew from its relay logs",
        )


def running_process(facts: ServerFacts) -> _server.ServerProcess | None:
    """The process that works on the data directory, if any. Raises when that cannot be told."""
    if not fs.is_directory(facts.datadir):
        return None
    pid_file = facts.path(facts.get("pid_file")) if facts.get("pid_file") else None
    return _server.find_process(datadir=facts.datadir, pid_file=pid_file)


def clean_marks(offline: Offline) -> CleanStop:
    """The marks that the last stop left on disk. What only somebody who saw the stop knows is None."""
    # No process has this number, so "the process of then" is gone.
    nobody = _server.ServerProcess(0, 0, "", (), "", -1, -1, 0)
    dialect = Dialect(offline.identity.family, offline.identity.version)
    found = prove_clean_stop(
        dialect=dialect,
        process=nobody,
        variables={**offline.facts.variables, "datadir": offline.facts.datadir},
        error_log=None,
    )
    details = {
        "process": f"no server process works on {offline.facts.datadir}",
        "error_log": "where the lines of the last stop begin is not known",
        "fast_shutdown": f"innodb_fast_shutdown is {offline.facts.get('innodb_fast_shutdown')} in the settings",
    }
    return CleanStop(
        tuple(
            Proof(proof.name, proof.verdict, details[proof.name])
            if proof.name in details and proof.verdict is not False
            else proof
            for proof in found.proofs
        )
    )
