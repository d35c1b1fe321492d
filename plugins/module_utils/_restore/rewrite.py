# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a set that name other files: made to say where those are on this host. Works on the staged copy alone."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.mapping import Mapping
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.roots import Special

_INDEXES = {"binlog_index": "binlog", "relay_log_index": "relay_log"}
_LIMIT = 64 << 20


@dataclass(frozen=True)
class Rewritten:
    """``files`` are those that were changed, as paths in the staging directories. ``relay_logs``: relay logs whose name
    in the server's own words is another one now, old to new."""

    files: tuple[str, ...]
    relay_logs: t.Mapping[str, str]


def rewrite(mapping: Mapping, specials: t.Sequence[Special]) -> Rewritten:
    """Change indexes of logs, relay-log.info and worker files, and .isl files. Raises ReplicaBackupError."""
    changed: list[str] = []
    relay_logs: dict[str, str] = {}
    for special in specials:
        kind = _INDEXES.get(special.what)
        if kind is not None:

            def of_log(line: str, kind: str = kind) -> str:
                new = log_name(mapping, kind, line)
                if kind == "relay_log" and new != line:
                    relay_logs[line] = new
                return new

            changed += _each_line(special.located.staged, of_log)
        elif special.what == "isl":
            changed += _each_line(special.located.staged, lambda line: mapping.text(line) if line[:1] == "/" else line)
    # After the indexes: these name relay logs among numbers and other names.
    datadir = mapping.origin.layout.datadir
    known = {fs.absolute(old, datadir): new for old, new in relay_logs.items()}

    def of_status(line: str) -> str:
        # Servers write relay logs with their directory. The source's binary logs have none, and maybe the same names.
        return known.get(fs.absolute(line, datadir), line) if "/" in line else line

    for special in specials:
        if special.what == "status_file" and known:
            changed += _each_line(special.located.staged, of_status)
    return Rewritten(tuple(changed), relay_logs)


def log_name(mapping: Mapping, kind: str, line: str) -> str:
    """A line of an index as the server on this host writes it; unchanged when it leads to the right file as it is."""
    new = mapping.log(kind, fs.absolute(line, mapping.origin.layout.datadir))
    datadir = mapping.target.datadir
    if new == fs.absolute(line, datadir):
        return line
    rest = fs.below(new, datadir)
    # As the servers themselves write what lies in the data directory.
    return f"./{rest}" if rest is not None else new


def _each_line(path: str, change: t.Callable[[str], str]) -> list[str]:
    """Rewrite a small text file in place, owner and mode kept; returns its path when anything in it has changed."""
    try:
        with open(os.open(fs.encode(path), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "r+b") as handle:
            data = handle.read(_LIMIT + 1)
            if len(data) > _LIMIT:
                raise ReplicaBackupError(
                    f"{path} is far too long", found=f"more than {_LIMIT} bytes", expected="a list of file names"
                )
            lines = data.split(b"\n")
            new = [fs.encode(change(fs.decode(line))) if line else line for line in lines]
            if new == lines:
                return []
            handle.seek(0)
            handle.truncate()
            handle.write(b"\n".join(new))
    except OSError as problem:
        raise ReplicaBackupError(
            f"{path} cannot be rewritten", found=problem.strerror, expected="a file that was just laid down"
        ) from problem
    return [path]
