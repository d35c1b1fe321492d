# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is taken out of the ssh plugin's options for a transfer, and that it comes back."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.plugin_utils._ssh_options import (
    for_transfer,
    without_compression,
)


class FakeConnection:
    """The option store of a connection plugin, without a connection."""

    def __init__(self, options: dict[str, t.Any]) -> None:
        self.options = options

    def has_option(self, option: str) -> bool:
        return option in self.options

    def get_option(self, option: str) -> t.Any:
        return self.options[option]

    def set_option(self, option: str, value: t.Any) -> None:
        self.options[option] = value


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("-C -o ControlMaster=auto -o ControlPersist=60s", []),
        ("", []),
        (None, []),
        ("-o Compression=yes -o ProxyJump=bastion", ["-o", "ProxyJump=bastion"]),
        ("-oCompression=yes -oServerAliveInterval=5", ["-oServerAliveInterval=5"]),
        ("-o 'Compression yes' -4", ["-4"]),
        ("-S /tmp/master -J bastion", ["-J", "bastion"]),
        ("-o ControlPath=/tmp/%h -i key", ["-i", "key"]),
        ("-o controlpersist=no", []),
        ("-M -o 'ProxyCommand=ssh -C -W %h:%p bastion'", ["-o", "ProxyCommand=ssh -C -W %h:%p bastion"]),
    ],
)
def test_what_compresses_or_shares_is_dropped(arguments: str | None, expected: list[str]) -> None:
    assert without_compression(arguments) == expected


OPTIONS = {
    "ssh_args": "-C -o ControlMaster=auto -o ControlPersist=60s",
    "ssh_common_args": "-J bastion -C",
    "sftp_extra_args": None,
    "ssh_transfer_method": "smart",
}


def test_options_hold_for_the_context_only() -> None:
    connection = FakeConnection(dict(OPTIONS))
    with for_transfer(connection, is_ssh=True):
        assert connection.options["ssh_args"] == "-o Compression=no -o ControlMaster=no -o ControlPath=none"
        assert connection.options["ssh_common_args"] == "-J bastion"
        assert connection.options["ssh_transfer_method"] == "sftp"
    assert connection.options == OPTIONS


def test_options_come_back_after_a_failure() -> None:
    connection = FakeConnection(dict(OPTIONS))
    with pytest.raises(OSError, match="cut"), for_transfer(connection, is_ssh=True):
        raise OSError("cut")
    assert connection.options == OPTIONS


def test_scp_stays_scp() -> None:
    connection = FakeConnection({**OPTIONS, "ssh_transfer_method": "scp"})
    with for_transfer(connection, is_ssh=True):
        assert connection.options["ssh_transfer_method"] == "scp"


def test_other_connections_are_left_alone() -> None:
    connection = FakeConnection(dict(OPTIONS))
    with for_transfer(connection, is_ssh=False):
        assert connection.options == OPTIONS
