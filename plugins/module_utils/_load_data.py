# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SQL_LOAD-* files: which are ours, and where they really lie when the service has a private /tmp."""

from __future__ import annotations

import os
import re
import shutil
import stat
import typing as t

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs


def own_pattern(variables: t.Mapping[str, str]) -> str:
    """Expression for the names that this server itself gives.

    MySQL 5.6 and newer put their own server_uuid first, MariaDB and older MySQL their own server_id, behind the
    escaped name of a named connection (seen on MariaDB 10.11: ``SQL_LOAD--a@0020b-2-1-1.data``); a shared /tmp may
    hold those of other servers.
    """
    if variables.get("server_uuid"):
        # A channel's name stands before it as it is (seen on MySQL 9.7: ``SQL_LOAD-kanal a-b<uuid>-1-2.data``).
        return rf"SQL_LOAD-[^/]*{re.escape(variables['server_uuid'])}-\d+-\d+\.(?:data|info)"
    own = variables.get("server_id") or ""
    return rf"SQL_LOAD-(?:-[0-9A-Za-z_@]+-)?{re.escape(own)}-\d+-\d+\.(?:data|info)"


def directory(datadir: str, variables: t.Mapping[str, str]) -> str:
    """Directory as the server sees it: the load option, else the first of tmpdir's entries, else /tmp."""
    for name in ("replica_load_tmpdir", "slave_load_tmpdir"):
        if variables.get(name):
            return fs.absolute(variables[name], datadir)
    return fs.absolute(variables.get("tmpdir", "").split(":")[0] or "/tmp", datadir)


def _same(one: str, other: str) -> bool | None:
    """Whether two names lead to one directory; None when that cannot be seen."""
    try:
        first, second = fs.follow(one), fs.follow(other)
    except PermissionError:
        return None
    if first is None or second is None:
        return False
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


def server_view(path: str, pid: int | None) -> tuple[str, bool]:
    """(where to read ``path`` as the server sees it, whether that is certain).

    The first is "" when the server and we see the same directory. /proc/PID/root needs the right to trace the server;
    without it the answer is uncertain.
    """
    if pid is None:
        return "", False
    inside = f"/proc/{pid}/root{path}"
    same = _same(inside, path)
    if same is None:
        return "", False
    return ("", True) if same or fs.follow(inside) is None else (inside, True)


def private_directories(path: str, pattern: str) -> list[str]:
    """Private /tmp directories of systemd that hold files of ours: the way to find them without /proc/PID/root."""
    base = next((base for base in ("/tmp", "/var/tmp") if fs.below(path, base) is not None), None)
    if base is None:
        return []
    expression = re.compile(pattern)
    found = []
    for name in fs.names(base):
        if name.startswith("systemd-private-"):
            inside = os.path.normpath(os.path.join(base, name, "tmp", fs.below(path, base) or "."))
            try:
                if any(expression.fullmatch(item) for item in fs.names(inside)):
                    found.append(inside)
            except OSError:
                continue
    return found


def rescue(source: str, target: str, patterns: t.Sequence[str]) -> str:
    """Copy the matching files of ``source`` to a fresh directory ``target``, with owner, mode and times; returns it.

    What vanishes meanwhile is left out: the applier removes a file as soon as its statement has ended.
    """
    shutil.rmtree(fs.encode(target), ignore_errors=True)
    os.mkdir(fs.encode(target), 0o700)
    expression = re.compile("|".join(patterns))
    for name in fs.names(source):
        if not expression.fullmatch(name):
            continue
        try:
            descriptor = os.open(fs.encode(os.path.join(source, name)), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        with os.fdopen(descriptor, "rb") as reader:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                continue
            copy = os.open(fs.encode(os.path.join(target, name)), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(copy, "wb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
                writer.flush()
                _like(copy, status)
                os.fsync(copy)
    descriptor = os.open(fs.encode(target), os.O_RDONLY | os.O_DIRECTORY)
    try:
        _like(descriptor, os.stat(fs.encode(source)))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return target


def _like(descriptor: int, status: os.stat_result) -> None:
    if os.geteuid() == 0:
        os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
