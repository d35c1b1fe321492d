# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The start command in a unit file, and where a further option of the server goes in it."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers import init_script

_CAT_FILE = re.compile(r"# (/.*\.(?:conf|service))\Z")
SERVER_WORD = re.compile(r"(?:\A|[\s/\"'=@:+!|-])(?:mysqld|mariadbd)(?:[-_]safe|-debug|-max)?(?=[\s\"']|\Z)")
_SHELL_COMMAND = re.compile(
    r"(?P<head>[@:+!|-]*(?:/usr)?/bin/(?:ba|da)?sh\s+(?:-\w+\s+)*?-\w*c\s+)"
    r"(?P<quote>[\"'])(?P<body>(?:\\.|(?!(?P=quote)).)*)(?P=quote)(?P<rest>.*)",
    re.DOTALL,
)


def exec_start(cat: str, own_file: str) -> list[str]:
    """Raw ``ExecStart=`` values in effect, from the output of ``systemctl cat``; our own drop-in left out."""
    values: list[str] = []
    section = ""
    ours = False
    pending: str | None = None
    for line in cat.splitlines():
        source = _CAT_FILE.match(line)
        if source is not None and pending is None:
            ours, section = source.group(1) == own_file, ""
            continue
        stripped = line.strip()
        if stripped.startswith(("#", ";")) or (pending is None and not stripped):
            # Comments are dropped, also between the lines of a continued value.
            continue
        joined = (pending or "") + line
        if joined.endswith("\\"):
            pending = joined[:-1] + " "
            continue
        pending = None
        joined = joined.strip()
        if joined.startswith("["):
            section = joined
        key, equals, value = joined.partition("=")
        if ours or section != "[Service]" or not equals or key.strip() != "ExecStart":
            continue
        if value.strip():
            values.append(value.strip())
        else:
            values.clear()
    return values


def with_options(commands: t.Sequence[str], options: t.Sequence[str]) -> str | None:
    """The one ExecStart value with ``options`` for the server, or ``None`` when the command is not understood."""
    if len(commands) != 1 or re.search(r"\s;(?:\s|\Z)", _without_quoted(commands[0])):
        return None
    command, option = commands[0], " ".join(options)
    shell = _SHELL_COMMAND.fullmatch(command)
    if shell is None:
        unquoted = SERVER_WORD.search(command) and not re.match(r"[@:+!|-]*\S*/(?:ba|da)?sh\s", command)
        script = script_of(command)
        return f"{command} {option}" if unquoted or (script and init_script.hands_on(script)) else None
    # In sh -c "...; exec mariadbd ..." a word after the string would be $0: it has to go inside, to the last command.
    last = re.split(r"\|\||&&|[;|&\n]", shell.group("body"))[-1]
    if not SERVER_WORD.search(last):
        return None
    quote = shell.group("quote")
    return f"{shell.group('head')}{quote}{shell.group('body').rstrip()} {option}{quote}{shell.group('rest')}"


def _without_quoted(text: str) -> str:
    return re.sub(r"\"(?:\\.|[^\"])*\"|'(?:\\.|[^'])*'", "", text)


def script_of(command: str) -> str | None:
    """The init script of ``/etc/init.d/mysql start``, which is what systemd's generator makes of one."""
    match = re.fullmatch(r"[@:+!|-]*(/etc/(?:rc\.d/)?init\.d/[\w.-]+)\s+start", command)
    return match.group(1) if match is not None else None
