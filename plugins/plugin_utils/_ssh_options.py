# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ssh plugin's own options, changed for the time of a transfer.

Ansible's default ``ssh_args`` hold ``-C``, which costs a factor of six on data that is compressed already, and a master
connection (ControlPersist) that was opened with compression would be used again whatever the new options say.
"""

from __future__ import annotations

import contextlib
import shlex
import typing as t

_ARGUMENT_OPTIONS = ("ssh_args", "ssh_common_args", "sftp_extra_args", "scp_extra_args", "ssh_extra_args")
_DROPPED_KEYWORDS = ("compression", "controlmaster", "controlpath", "controlpersist")
# The first value of a keyword wins in ssh, so these stand in front.
_FIRST = ("-o", "Compression=no", "-o", "ControlMaster=no", "-o", "ControlPath=none")


class Connection(t.Protocol):
    """What is used of an Ansible connection plugin."""

    def has_option(self, option: str) -> bool: ...
    def get_option(self, option: str) -> t.Any: ...
    def set_option(self, option: str, value: t.Any) -> None: ...


def without_compression(arguments: str | None) -> list[str]:
    """The arguments without everything that compresses or shares a connection."""
    kept: list[str] = []
    words = shlex.split(arguments or "")
    while words:
        word = words.pop(0)
        if word == "-o" and words:
            value = words.pop(0)
            if not _is_dropped(value):
                kept += ["-o", value]
        elif word.startswith("-o") and len(word) > 2:
            if not _is_dropped(word[2:]):
                kept.append(word)
        elif word in ("-S", "-O") and words:
            words.pop(0)
        elif word in ("-C", "-M"):
            continue
        else:
            kept.append(word)
    return kept


def _is_dropped(setting: str) -> bool:
    return setting.strip().replace("=", " ").split(" ")[0].lower() in _DROPPED_KEYWORDS


@contextlib.contextmanager
def for_transfer(connection: Connection, *, is_ssh: bool, bounded: bool = False) -> t.Iterator[None]:
    """Within the context ssh neither compresses nor joins a master, and no file is read into memory.

    With ``bounded`` files are small enough for that, and the user's own way of transfer stays.
    """
    if not is_ssh:
        yield
        return
    before: dict[str, t.Any] = {}
    try:
        for name in _ARGUMENT_OPTIONS:
            if not connection.has_option(name):
                continue
            before[name] = connection.get_option(name)
            words = without_compression(before[name])
            if name == "ssh_args":
                words = [*_FIRST, *words]
            connection.set_option(name, shlex.join(words))
        if not bounded and connection.has_option("ssh_transfer_method"):
            before["ssh_transfer_method"] = connection.get_option("ssh_transfer_method")
            # "smart" and "piped" end in a dd whose whole output is collected in memory.
            if before["ssh_transfer_method"] != "scp":
                connection.set_option("ssh_transfer_method", "sftp")
        yield
    finally:
        for name, value in before.items():
            connection.set_option(name, value)
