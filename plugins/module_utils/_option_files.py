# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which option files a server reads, and what they say to it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs

# Where every server looks, for the case that it cannot be asked (MySQL manual, "Using Option Files").
_USUAL = ("/etc/my.cnf", "/etc/mysql/my.cnf")
_GROUP = re.compile(r"(server|mysqld|mariadbd|mariadb|mysqld-\d[\d.]*|mariadb-\d[\d.]*|galera)\Z")
_HELP_SECONDS = 20.0
_DEPTH = 10


@dataclass(frozen=True)
class OptionFiles:
    """Files in the order read; ``values`` maps options of the server groups (with underscores) to their last value."""

    files: tuple[str, ...]
    directories: tuple[str, ...]
    values: t.Mapping[str, str]
    warnings: tuple[str, ...]


def normal_name(option: str) -> str:
    """``--Master-Info-File`` and ``loose_master_info_file`` name the same option: ``master_info_file``."""
    name = option.lstrip("-").replace("-", "_").lower()
    return name[len("loose_") :] if name.startswith("loose_") else name


def command_line_values(argv: t.Sequence[str]) -> dict[str, str]:
    """Options of a command line in the form ``--name=value`` (the only form that servers are started with)."""
    values: dict[str, str] = {}
    for argument in argv[1:]:
        if argument.startswith("--"):
            name, found, value = argument.partition("=")
            values[normal_name(name)] = value if found else ""
    return values


def default_files(help_text: str) -> list[str]:
    """Paths from the help text of a server: the line after "Default options are read from the following files"."""
    lines = iter(help_text.splitlines())
    for line in lines:
        if line.startswith("Default options are read from"):
            return next(lines, "").split()
    return []


def _ask(exe: str, environment: t.Mapping[str, str]) -> str:
    """Help text of the server binary; "" when it cannot be run. ``--no-defaults`` keeps it from reading anything."""
    command = [exe, "--no-defaults", "--verbose", "--help"]
    if os.geteuid() == 0:
        # MySQL refuses to say anything to root; the name is not looked up before the help is printed.
        command.append("--user=mysql")
    keep = {name: value for name, value in environment.items() if name in ("PATH", "LD_LIBRARY_PATH")}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", **keep},
            cwd="/",
            timeout=_HELP_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return fs.decode(done.stdout)


def top_files(argv: t.Sequence[str], exe: str, environment: t.Mapping[str, str]) -> tuple[list[str], list[str]]:
    """(option files that the server starts from, warnings). Files that do not exist are among them.

    ``argv`` and ``environment`` are those of the running server, ``exe`` its binary.
    """
    options = command_line_values(argv)
    if "no_defaults" in options:
        return [], []
    if options.get("defaults_file"):
        return [options["defaults_file"]], []
    warnings: list[str] = []
    files = default_files(_ask(exe, environment)) if exe else []
    if not files:
        files = list(_USUAL)
        warnings.append(
            f"{exe or 'The server binary'} did not say which option files it reads: {', '.join(_USUAL)} were assumed"
        )
    if options.get("defaults_extra_file"):
        files.append(options["defaults_extra_file"])
    home = environment.get("HOME", "")
    expanded = [home + path[1:] if path.startswith("~") and home else path for path in files]
    return [path for path in expanded if path.startswith("/")], warnings


class _Reader:
    def __init__(self) -> None:
        self.files: list[str] = []
        self.directories: list[str] = []
        self.values: dict[str, str] = {}
        self.warnings: list[str] = []

    def read(self, path: str, depth: int = 0) -> None:
        if path in self.files or depth > _DEPTH:
            return
        try:
            status = fs.follow(path)
            if status is None or not stat.S_ISREG(status.st_mode):
                return
            if status.st_mode & stat.S_IWOTH:
                self.warnings.append(f"The server ignores {path} because everybody may write to it: not in the backup")
                return
            text = fs.read_text(path)
        except OSError as error:
            self.warnings.append(f"Option file {path} cannot be read: {error.strerror}; it is not in the backup")
            return
        self.files.append(path)
        server_group = False
        for raw in text.splitlines():
            line = raw.strip()
            if line.startswith("!"):
                self._include(line, path, depth)
            elif line.startswith("["):
                server_group = _GROUP.match(line[1:].partition("]")[0].strip()) is not None
            elif server_group and line and line[0] not in "#;":
                name, _sep, value = line.partition("=")
                self.values[normal_name(name.strip())] = _unquote(value.strip())

    def _include(self, line: str, path: str, depth: int) -> None:
        word, _sep, rest = line.partition(" ")
        target = fs.absolute(rest.strip(), os.path.dirname(path))
        if word == "!include":
            self.read(target, depth + 1)
        elif word == "!includedir":
            try:
                found = [name for name in fs.names(target) if name.endswith(".cnf")]
            except OSError as error:
                self.warnings.append(f"Directory {target} that {path} includes cannot be read: {error.strerror}")
                return
            self.directories.append(target)
            for name in found:
                self.read(os.path.join(target, name), depth + 1)


def _unquote(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value.partition(" #")[0].rstrip()


def read_option_files(files: t.Iterable[str]) -> OptionFiles:
    """Follow ``!include`` and ``!includedir`` from the given files; those that do not exist are passed over."""
    reader = _Reader()
    for path in files:
        reader.read(path)
    return OptionFiles(tuple(reader.files), tuple(reader.directories), dict(reader.values), tuple(reader.warnings))
