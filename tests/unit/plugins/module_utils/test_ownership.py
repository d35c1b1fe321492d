# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose ledger it is while nobody answers; with servers that do: tests/integration/test_shared_machine.py."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ownership import other_server

_DATA: dict[str, t.Any] = {"run_id": "r1", "step": "capture", "host": "db2", "server": {"datadir": "/srv/two"}}


@pytest.fixture
def nobody(tmp_path: Path) -> Login:
    """A login to a server that is down."""
    return Login(user="backup", unix_socket=str(tmp_path / "two.sock"), config_file=None)


@pytest.mark.parametrize("host", ["db2", None])
def test_of_a_server_that_is_down_the_name_decides(nobody: Login, host: str | None) -> None:
    assert other_server(Ledger("/var/lib/state", _DATA), nobody, host) is None


@pytest.mark.parametrize("data", [_DATA, {"run_id": "r1", "step": "opened", "host": "db2"}])
def test_another_name_is_another_server(nobody: Login, data: dict[str, t.Any]) -> None:
    refusal = other_server(Ledger("/var/lib/state/", data), nobody, "db3")
    assert refusal is not None
    assert refusal.facts["rule"] == "lock"
    assert "run r1 of host db2" in str(refusal)
    assert f"backup at {nobody.unix_socket}, which does not answer" in str(refusal)
    assert "replica_backup_state_dir of host db3 to a directory of its own, such as /var/lib/state-db3" in str(refusal)


@pytest.mark.parametrize(("socket", "refused"), [("two.sock", False), ("one.sock", True), ("", True)])
def test_a_host_that_got_another_name_is_known_by_its_socket(
    tmp_path: Path, nobody: Login, socket: str, *, refused: bool
) -> None:
    data = {**_DATA, "server": {"datadir": str(tmp_path), "variables": {"socket": socket}}}
    assert (other_server(Ledger("/var/lib/state", data), nobody, "db2.example.com") is not None) is refused
