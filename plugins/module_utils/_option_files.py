# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which option files and groups a server reads, and what they say to it.

Read as the servers' own ``my_print_defaults`` reads them, which the tests compare with.
"""

from __future__ import annotations

import os
import re
import stat
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server_help

# Where every server looks and what it reads there, for the case that it cannot be asked (MySQL manual, "Using Option
# Files"; MariaDB Knowledge Base, "Configuring MariaDB with Option Files").
_USUAL = ("/etc/my.cnf", "/etc/mysql/my.cnf")
_USUAL_GROUPS = ("mysqld", "server", "mariadb", "mariadbd", "client-server", "galera")
_DEPTH = 10
# The servers' "space": that of C in the locale C.
_SPACE = " \t\n\v\f\r"
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "s": " ", '"': '"', "'": "'", "\\": "\\"}
_TAKES_NEXT_WORD = re.compile(r"[^-]|-\Z")


@dataclass(frozen=True)
class OptionFiles:
    """Files in the order read; ``values``: options of the groups (with underscores) and their last value."""

    files: tuple[str, ...]
    directories: tuple[str, ...]
    values: t.Mapping[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Sources:
    """Where a server begins to read: ``files`` (that do not exist are among them) and the ``groups`` in them."""

    files: tuple[str, ...]
    groups: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def normal_name(option: str) -> str:
    """``--Master-Info-File`` and ``loose_master_info_file`` name the same option: ``master_info_file``."""
    name = option.lstrip("-").replace("-", "_").lower()
    return name[len("loose_") :] if name.startswith("loose_") else name


def command_line_values(argv: t.Sequence[str]) -> dict[str, str]:
    """Options of a command line: ``--name=value``, ``--name value``, ``--name`` and the short form of datadir."""
    values: dict[str, str] = {}
    words = list(argv[1:])
    for number, argument in enumerate(words):
        following = words[number + 1] if number + 1 < len(words) else None
        if argument.startswith("-h") and not argument.startswith("--"):
            values["datadir"] = argument[2:] or following or ""
        elif argument.startswith("--"):
            name, found, value = argument.partition("=")
            if not found and following is not None and _TAKES_NEXT_WORD.match(following):
                value = following
            values[normal_name(name)] = value
    return values


def group_suffix(argv: t.Sequence[str], environment: t.Mapping[str, str]) -> str:
    """Suffix of the groups that are read besides the ordinary ones, as of mysqld_multi and ``mariadb@NAME`` units."""
    options = command_line_values(argv)
    if "defaults_group_suffix" in options:
        return options["defaults_group_suffix"]
    return environment.get("MARIADB_GROUP_SUFFIX") or environment.get("MYSQL_GROUP_SUFFIX") or ""


def option_sources(
    argv: t.Sequence[str],
    environment: t.Mapping[str, str],
    said: _server_help.ServerHelp | None,
    exe: str = "",
) -> Sources:
    """Where a server with this command line and environment begins. ``said`` is what its binary ``exe`` said."""
    options = command_line_values(argv)
    if "no_defaults" in options:
        return Sources((), ())
    warnings: list[str] = []
    files, groups = (said.files, said.groups) if said else ((), ())
    if not files or not groups:
        files, groups = files or _USUAL, groups or _USUAL_GROUPS
        warnings.append(
            f"{exe or 'The server binary'} did not say which option files and groups it reads:"
            f" {', '.join(files)} and {', '.join(groups)} were assumed"
        )
    suffix = group_suffix(argv, environment)
    if suffix:
        groups = (*groups, *(group + suffix for group in groups))
    if options.get("defaults_file"):
        files = (options["defaults_file"],)
    elif options.get("defaults_extra_file"):
        # Read after the machine's own files and before the one of the account.
        own = [path for path in files if path.startswith("~")]
        files = (*(path for path in files if path not in own), options["defaults_extra_file"], *own)
    home = environment.get("HOME", "")
    expanded = [home + path[1:] if path.startswith("~/") and home else path for path in files]
    for path in expanded:
        if not path.startswith(("/", "~")):
            warnings.append(f"Option file {path} was named without its directory: not found from here")
    return Sources(tuple(path for path in expanded if path.startswith("/")), tuple(groups), tuple(warnings))


class _Reader:
    def __init__(self, groups: t.Iterable[str], home: str) -> None:
        # Group names are compared without regard to case.
        self._groups = {group.lower() for group in groups}
        self._home = home
        self.files: dict[str, None] = {}
        self.directories: dict[str, None] = {}
        self.values: dict[str, str] = {}
        self.warnings: dict[str, None] = {}

    def warn(self, text: str) -> None:
        self.warnings[text] = None

    def read(self, path: str, depth: int = 0) -> None:
        try:
            status = fs.follow(path)
            if status is None or not stat.S_ISREG(status.st_mode):
                return
            if status.st_mode & stat.S_IWOTH:
                self.warn(f"The server ignores {path} because everybody may write to it: not in the backup")
                return
            text = fs.read_text(path)
        except OSError as error:
            self.warn(f"Option file {path} cannot be read: {error.strerror}; it is not in the backup")
            return
        # A file that is included twice counts twice: later lines win.
        self.files[path] = None
        wanted: bool | None = None
        # Not splitlines(): only a newline ends a line for the server.
        lines = text.split("\n")
        for number, raw in enumerate(lines, 1):
            line = raw.lstrip(_SPACE)
            if not line or line[0] in "#;":
                continue
            if line[0] == "!":
                if number == len(lines):
                    self.warn(f"{path} ends without a newline: the server does not see the last character of {line}")
                    line = line[:-1]
                if not self._include(line[1:].strip(_SPACE), path, depth):
                    self.warn(f"{path}, line {number}: nothing can be read there; the server would not start")
                    return
            elif line[0] == "[":
                name, end, _rest = line[1:].partition("]")
                if not end:
                    self.warn(f"{path}, line {number}: a group without its closing bracket; the server would not start")
                    return
                wanted = name.rstrip(_SPACE).lower() in self._groups
            elif wanted is None:
                self.warn(f"{path}, line {number}: an option before the first group; the server would not start")
                return
            elif wanted:
                name, value = _option(line)
                self.values[normal_name(name)] = value

    def _include(self, text: str, path: str, depth: int) -> bool:
        """False for what is an error to the server; what it does not understand, it passes over."""
        word = text.split(None, 1)[0] if text else ""
        if depth >= _DEPTH:
            self.warn(f"{path}: !{text} is passed over, as the server does after {_DEPTH} files within one another")
            return True
        if word not in ("include", "includedir"):
            return True
        target = text[len(word) :].strip(_SPACE)
        if not target:
            return False
        if target.startswith("~/") and self._home:
            target = self._home + target[1:]
        if not target.startswith("/"):
            # It counts from wherever the server was started: "/" under every service manager.
            self.warn(f"{path} includes {target} without its directory; it was looked for in /")
        target = fs.absolute(target, "/")
        if word == "include":
            self.read(target, depth + 1)
            return True
        try:
            found = [name for name in fs.names(target) if name.endswith(".cnf")]
        except OSError as error:
            self.warn(f"Directory {target} that {path} includes cannot be read: {error.strerror}")
            return False
        self.directories[target] = None
        for name in found:
            self.read(os.path.join(target, name), depth + 1)
        return True


def _option(line: str) -> tuple[str, str]:
    name, found, value = _without_comment(line).partition("=")
    name, value = name.rstrip(_SPACE), value.strip(_SPACE)
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return name, _unescape(value) if found else ""


def _without_comment(line: str) -> str:
    """Up to a ``#`` outside quotes. A backslash protects a quote only between quotes."""
    quote, escaped = "", False
    for position, char in enumerate(line):
        if char in "'\"" and not escaped:
            if not quote:
                quote = char
            elif quote == char:
                quote = ""
        if char == "#" and not quote:
            return line[:position]
        escaped = bool(quote) and char == "\\" and not escaped
    return line


def _unescape(value: str) -> str:
    """An unknown escape keeps its backslash, and so does one at the very end."""

    def plain(match: re.Match[str]) -> str:
        return _ESCAPED.get(match[1], match[0])

    return re.sub(r"\\(.)", plain, value, flags=re.DOTALL)


def read_option_files(files: t.Iterable[str], groups: t.Iterable[str], home: str = "") -> OptionFiles:
    """Follow ``!include`` and ``!includedir`` from the given files; those that do not exist are passed over.

    ``home`` is the home directory of the account that the server is started by, for names that begin with ``~/``.
    """
    reader = _Reader(groups, home)
    for path in files:
        reader.read(path)
    return OptionFiles(tuple(reader.files), tuple(reader.directories), dict(reader.values), tuple(reader.warnings))
