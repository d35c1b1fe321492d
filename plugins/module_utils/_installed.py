# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How this host would start its server: the unit or script, the command line, the binary. Nothing is started."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers import commands

# Where systemd keeps units at run time: absent where something else is the service manager.
_SYSTEMD = "/run/systemd/system"
_UNITS = ("mariadb.service", "mysql.service", "mysqld.service")
_SCRIPTS = ("/etc/init.d/mariadb", "/etc/init.d/mysql", "/etc/init.d/mysqld")
_BINARY_DIRECTORIES = (
    "/usr/sbin",
    "/usr/libexec",
    "/usr/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/local/mysql/bin",
    "/usr/local/mariadb/bin",
)
_SERVER = re.compile(r"(?:mysqld|mariadbd)(?:-debug|-\d[\d.]*)?\Z")
_GUARDIAN = re.compile(r"(?:mysqld_safe|mariadbd-safe)\Z")
_EXEC_START = re.compile(r"\{ path=(.*?) ; argv\[\]=(.*?) ; ignore_errors=")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+)|(\$))")


@dataclass(frozen=True)
class Hints:
    """What the caller knows already; "" is found by itself. ``service_name`` may be a command line."""

    service_name: str = ""
    datadir: str = ""
    defaults_file: str = ""
    defaults_group_suffix: str = ""
    server_binary: str = ""


@dataclass(frozen=True)
class Start:
    """``argv`` are the words that the server would get, the binary first. ``service`` is the unit or the script, ""
    when none was found. ``known``: whether ``argv`` is all of the command line; a script may add to it."""

    exe: str
    argv: tuple[str, ...]
    service: str = ""
    known: bool = False
    private_tmp: bool = False
    environment: t.Mapping[str, str] = field(default_factory=dict)


def _refuse(message: str, found: object, expected: object, rule: str) -> RefusedError:
    return RefusedError(message, found=found, expected=expected, rule=rule)


def _unit(name: str) -> dict[str, str] | None:
    """Properties of a unit; None when there is none of that name."""
    wanted = "Id,LoadState,ExecStart,Environment,EnvironmentFiles,User,PrivateTmp,SourcePath"
    done = commands.run(["systemctl", "--no-pager", "--no-ask-password", "show", f"--property={wanted}", "--", name])
    pairs = (line.partition("=") for line in done.stdout.splitlines() if "=" in line)
    found: dict[str, str] = {}
    for key, _equals, value in pairs:
        # EnvironmentFiles comes once for each file.
        found[key] = f"{found[key]}\n{value}" if key in found else value
    return found if done.returncode == 0 and found.get("LoadState") == "loaded" else None


def _environment_file(text: str) -> dict[str, str]:
    values = {}
    for line in text.splitlines():
        name, found, value = line.strip().partition("=")
        if found and name[0] not in "#;":
            values[name] = _words(value)[0] if _words(value) else ""
    return values


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _unit_environment(unit: t.Mapping[str, str]) -> dict[str, str]:
    """Environment of a service, later sources last: the manager's, the unit's, its files'."""
    values: dict[str, str] = {}
    with contextlib.suppress(ReplicaBackupError):
        values.update(_environment_file(commands.must(["systemctl", "--no-pager", "show-environment"])))
    for word in _words(unit.get("Environment", "")):
        name, _found, value = word.partition("=")
        values[name] = value
    for line in unit.get("EnvironmentFiles", "").splitlines():
        path = line.rpartition(" (ignore_errors=")[0] or line
        try:
            values.update(_environment_file(fs.read_text(path)))
        except OSError:
            continue
    with contextlib.suppress(KeyError):
        values["HOME"] = pwd.getpwnam(unit.get("User") or "").pw_dir
    return values


def _expand(words: t.Iterable[str], environment: t.Mapping[str, str]) -> list[str]:
    """``$NAME`` alone becomes as many words as its value has, ``${NAME}`` stays within its word (systemd.service)."""
    result: list[str] = []
    for word in words:
        alone = re.fullmatch(r"\$(\w+)", word)
        if alone:
            result += _words(environment.get(alone[1], ""))
            continue
        result.append(_VARIABLE.sub(lambda found: "$" if found[3] else environment.get(found[1] or found[2], ""), word))
    return result


def _from_unit(unit: t.Mapping[str, str]) -> Start:
    environment = _unit_environment(unit)
    command = _EXEC_START.search(unit.get("ExecStart", ""))
    words = _expand(_words(command[2]), environment)[1:] if command else []
    start = _from_words([command[1] if command else "", *words])
    return Start(
        start.exe,
        start.argv,
        service=unit["Id"],
        known=start.known and not unit.get("SourcePath", "").startswith("/etc/init.d/"),
        private_tmp=unit.get("PrivateTmp") in ("yes", "disconnected"),
        environment=environment,
    )


def _from_words(words: t.Sequence[str]) -> Start:
    program = words[0] if words else ""
    name = os.path.basename(program)
    if _SERVER.match(name):
        return Start(program if program.startswith("/") else "", tuple(words), known=True)
    if _GUARDIAN.match(name):
        # It hands on what it does not understand itself, and may add from its own group of the option files.
        return Start("", tuple(words), known=False)
    return Start("", (program,), known=False)


def _service(hints: Hints) -> Start:
    if hints.service_name.startswith("/") and not hints.service_name.startswith("/etc/init.d/"):
        start = _from_words(_words(hints.service_name))
        return Start(start.exe, start.argv, hints.service_name, start.known)
    if os.path.isdir(_SYSTEMD):
        wanted = hints.service_name
        names = [wanted if wanted.endswith(".service") else f"{wanted}.service"] if wanted else list(_UNITS)
        units = {unit["Id"]: unit for unit in map(_unit, names) if unit}
        if len(units) > 1:
            raise _refuse(
                "This host has several database services",
                ", ".join(units),
                "service_name, to say which",
                "service_name",
            )
        if units:
            return _from_unit(next(iter(units.values())))
    scripts = [path for path in _SCRIPTS if fs.is_file(path)]
    if hints.service_name:
        script = os.path.join("/etc/init.d", hints.service_name)
        if not fs.is_file(script):
            raise _refuse(
                f"There is no service {hints.service_name} on this host",
                "no such unit or script",
                "the name of a unit, a script in /etc/init.d, or a start command",
                "service_name",
            )
        return Start("", (), service=script)
    return Start("", (), service=scripts[0] if len(scripts) == 1 else "")


def _binary(hints: Hints, start: Start) -> str:
    for path in (hints.server_binary, start.exe):
        if path:
            if not (fs.is_file(path) and os.access(fs.encode(path), os.X_OK)):
                raise _refuse(
                    f"{path} is no program", "no such executable file", "the server's binary", "server_binary"
                )
            return path
    usual = [f"{directory}/{name}" for directory in _BINARY_DIRECTORIES for name in ("mariadbd", "mysqld")]
    found = dict.fromkeys(fs.real(path) for path in usual if os.access(path, os.X_OK))
    if len(found) == 1:
        return next(iter(found))
    raise _refuse(
        "The server's binary was not found" if not found else "This host has several server binaries",
        ", ".join(found) or "no mariadbd or mysqld in the usual places",
        "server_binary, to say where it is",
        "server_binary",
    )


def find_start(hints: Hints) -> Start:
    """How the server would be started. Raises RefusedError when that is ambiguous or there is no binary.

    A service is looked for only when the caller names one, or names neither binary nor option file: the unit that
    happens to be there may belong to another server.
    """
    alone = hints.defaults_file or hints.server_binary or hints.defaults_group_suffix
    start = _service(hints) if hints.service_name or not alone else Start("", (), known=True)
    exe = _binary(hints, start)
    first = []
    if hints.defaults_file:
        first.append(f"--defaults-file={hints.defaults_file}")
    if hints.defaults_group_suffix:
        first.append(f"--defaults-group-suffix={hints.defaults_group_suffix}")
    last = [f"--datadir={hints.datadir}"] if hints.datadir else []
    argv = (exe, *start.argv[1:], *first, *last)
    # Without a unit that says it, the libraries of a server from an archive are where the caller's are.
    libraries = {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"}
    return Start(exe, argv, start.service, start.known, start.private_tmp, {**libraries, **start.environment})
