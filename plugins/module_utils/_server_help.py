# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server binary says of itself: version, option files, groups, and the values it was built with."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import typing as t
from dataclasses import dataclass, field

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Identity, parse_identity

_SECONDS = 30.0
_VERSION = re.compile(r"\bVer (\d\S*)")
_VALUE = re.compile(r"([a-z][a-z0-9_-]*)(?: +(.*))?\Z")
_UNSET = "(No default value)"
_SWITCH = {"TRUE": "ON", "FALSE": "OFF"}
# What a server looks at besides its options. MYSQL_PWD and the like are none of them.
_ENVIRONMENT = (
    "PATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "TMPDIR",
    "MYSQL_HOME",
    "MARIADB_HOME",
    "MYSQL_UNIX_PORT",
    "MYSQL_TCP_PORT",
)


@dataclass(frozen=True)
class ServerHelp:
    """``files`` in the order read, "~" unexpanded; ``variables`` by their names in SHOW VARIABLES, without any option
    file; a variable without a default is "". ``identity`` is None when the text does not say it."""

    identity: Identity | None = None
    files: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    variables: t.Mapping[str, str] = field(default_factory=dict)


def _after(lines: t.Sequence[str], start: str) -> int | None:
    return next((number + 1 for number, line in enumerate(lines) if line.startswith(start)), None)


def parse_help(text: str, *, asked_datadir: str = "", datadir: str = "") -> ServerHelp:
    """Parse ``--verbose --help``. Values below ``asked_datadir``, which it was called with, move to ``datadir``."""
    lines = text.splitlines()
    version = _VERSION.search(lines[0]) if lines else None
    files = _after(lines, "Default options are read from")
    groups = next((line for line in lines if line.startswith("The following groups are read:")), "")
    variables: dict[str, str] = {}
    table = _after(lines, "Variables (--variable-name=value)")
    # Below the two lines of the heading a line of dashes; an empty line ends the table.
    for line in lines[table + 2 :] if table is not None else ():
        if not line.strip():
            break
        found = _VALUE.match(line)
        if found:
            value = (found[2] or "").strip()
            value = "" if value == _UNSET else _SWITCH.get(value, value)
            if asked_datadir and fs.below(value, asked_datadir) is not None:
                value = datadir.rstrip("/") + value[len(asked_datadir) :]
            variables[found[1].replace("-", "_")] = value
    return ServerHelp(
        parse_identity(version[1], lines[0]) if version else None,
        tuple(lines[files].split()) if files is not None and files < len(lines) else (),
        tuple(groups.partition(":")[2].split()),
        variables,
    )


def _account(datadir: str) -> pwd.struct_passwd | None:
    """Who may play the server's part: the owner of the data, else the usual account. None unless we are root."""
    if os.geteuid() != 0:
        return None
    status = fs.follow(datadir) if datadir else None
    if status is not None and status.st_uid != 0:
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(status.st_uid)
    for name in ("mysql", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def ask(
    exe: str, environment: t.Mapping[str, str], *, datadir: str = "", arguments: t.Sequence[str] = ()
) -> ServerHelp | None:
    """Run ``EXE --no-defaults ARGUMENTS --verbose --help``; None when that gives no help text.

    A server that is asked for help still tries out its data directory, opens the tables of plugins for writing and, on
    MySQL 5.6 with a binary log, removes what a purge left unfinished. So it gets an empty directory in the place of
    ``datadir`` and no option file, and runs as the account that owns the data. Nothing of the server is touched.
    """
    account = _account(datadir)
    sandbox = os.path.realpath(tempfile.mkdtemp(prefix="replica-backup-help-"))
    try:
        if account is not None:
            os.chown(sandbox, account.pw_uid, account.pw_gid)
        command = [exe, "--no-defaults", *arguments, f"--datadir={sandbox}/", "--verbose", "--help"]
        text = _run(command, environment, sandbox, account)
        if not text and account is not None:
            # A binary below a directory that only root may enter. MySQL refuses to say anything to root itself.
            text = _run([*command, f"--user={account.pw_name}"], environment, sandbox, None)
    finally:
        shutil.rmtree(sandbox, ignore_errors=True)
    return parse_help(text, asked_datadir=sandbox, datadir=datadir) if text else None


def _run(
    command: t.Sequence[str], environment: t.Mapping[str, str], cwd: str, account: pwd.struct_passwd | None
) -> str:
    become: dict[str, t.Any] = {}
    if account is not None:
        become = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    keep = {name: value for name, value in environment.items() if name in _ENVIRONMENT}
    try:
        done = subprocess.run(
            list(map(fs.encode, command)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C", **keep},
            cwd=cwd,
            timeout=_SECONDS,
            check=False,
            **become,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return fs.decode(done.stdout) if done.returncode == 0 else ""
