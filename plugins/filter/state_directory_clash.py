# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds two hosts of an inventory that are servers of one machine and would share a state directory."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass

from ansible.errors import AnsibleFilterError

_DEFAULT_DIRECTORY = "/var/lib/mysql-replica-backup"
_LOCAL = ("local", "ansible.builtin.local")


@dataclass(frozen=True)
class _Place:
    """A state directory, and how one gets to its machine. Told without a connection: an alias is another machine."""

    connection: str
    address: str
    port: str
    ways: tuple[str, str]
    directory: str


def _text(variables: t.Mapping[str, t.Any], name: str, default: str = "") -> str:
    return str(variables.get(name) or default)


def _place_of(variables: t.Mapping[str, t.Any]) -> _Place:
    connection = _text(variables, "ansible_connection", "ssh")
    name = _text(variables, "inventory_hostname")
    return _Place(
        connection=connection,
        address="" if connection in _LOCAL else _text(variables, "ansible_host", name),
        port=_text(variables, "ansible_port", "22"),
        ways=(_text(variables, "ansible_ssh_common_args"), _text(variables, "ansible_ssh_extra_args")),
        directory=os.path.normpath(_text(variables, "replica_backup_state_dir", _DEFAULT_DIRECTORY)),
    )


def state_directory_clash(hosts: t.Any) -> str:
    """``hosts``: the variables of each host. Returns what is wrong, in words; empty when nothing is."""
    if isinstance(hosts, (str, bytes)) or not isinstance(hosts, t.Iterable):
        raise AnsibleFilterError(f"state_directory_clash takes a list of host variables, not {type(hosts).__name__}")
    seen: dict[_Place, str] = {}
    for variables in hosts:
        place = _place_of(variables)
        name = _text(variables, "inventory_hostname")
        if place in seen:
            at = f" ({place.address})" if place.address else ""
            return (
                f"{seen[place]} and {name} are on the same machine{at} and have the same replica_backup_state_dir,"
                f" {place.directory}"
            )
        seen[place] = name
    return ""


class FilterModule:
    """What Ansible asks for the filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., str]]:
        return {"state_directory_clash": state_directory_clash}
