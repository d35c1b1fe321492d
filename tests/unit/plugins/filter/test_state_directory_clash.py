# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which two hosts of an inventory would share one state directory."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.mysql_ops.replica_backup.plugins.filter.state_directory_clash import FilterModule

clash = FilterModule().filters()["state_directory_clash"]
MACHINE = {"ansible_host": "192.0.2.7"}
HERE = {"ansible_connection": "local"}


def hosts(*variables: dict[str, t.Any]) -> list[dict[str, t.Any]]:
    return [{"inventory_hostname": f"db{number}", **each} for number, each in enumerate(variables, 1)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (MACHINE, {**MACHINE, "ansible_port": 22}),
        (MACHINE, {**MACHINE, "ansible_ssh_common_args": "", "replica_backup_state_dir": None}),
        (
            {**MACHINE, "replica_backup_state_dir": "/srv/state/"},
            {**MACHINE, "replica_backup_state_dir": "/srv//state"},
        ),
        (MACHINE, {**MACHINE, "replica_backup_state_dir": "/var/lib/mysql-replica-backup"}),
        (HERE, HERE),
        ({}, {"ansible_host": "db1"}),
    ],
)
def test_the_same_directory_of_the_same_machine(first: dict[str, t.Any], second: dict[str, t.Any]) -> None:
    text = clash(hosts(first, second))
    assert text.startswith("db1 and db2 are on the same machine")
    assert "have the same replica_backup_state_dir, /" in text
    assert ("(192.0.2.7)" in text) == (first.get("ansible_host") == "192.0.2.7")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (MACHINE, {**MACHINE, "replica_backup_state_dir": "/srv/state"}),
        (MACHINE, {"ansible_host": "192.0.2.8"}),
        (MACHINE, {**MACHINE, "ansible_port": 2222}),
        (MACHINE, {**MACHINE, "ansible_ssh_common_args": "-J bastion"}),
        (MACHINE, {**MACHINE, "ansible_ssh_extra_args": "-o ProxyCommand=x"}),
        (MACHINE, {**MACHINE, "ansible_connection": "local"}),
        ({}, {}),
    ],
)
def test_what_is_no_clash(first: dict[str, t.Any], second: dict[str, t.Any]) -> None:
    assert clash(hosts(first, second)) == ""


def test_of_many_the_first_two_are_named() -> None:
    text = clash(hosts({}, MACHINE, {}, MACHINE, MACHINE))
    assert text == (
        "db2 and db4 are on the same machine (192.0.2.7) and have the same replica_backup_state_dir,"
        " /var/lib/mysql-replica-backup"
    )
    assert clash([]) == ""


@pytest.mark.parametrize("wrong", ["db1", 7, None])
def test_what_is_no_list(wrong: t.Any) -> None:
    with pytest.raises(AnsibleFilterError, match="takes a list of host variables"):
        clash(wrong)
