# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an account may throw relay logs away is asked before any thread is stopped, of a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _connection
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.execute import (
    refuse_without_reload,
)
from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Topology(lab_root(), replicas=0) as topology:
        yield topology.source


@pytest.mark.parametrize(
    ("grants", "may"),
    [
        (["GRANT REPLICATION SLAVE ADMIN, REPLICA MONITOR ON *.* TO {0}"], False),
        (["GRANT ALL PRIVILEGES ON lab.* TO {0}", "GRANT PROCESS ON *.* TO {0}"], False),
        (["GRANT PROCESS, RELOAD ON *.* TO {0}"], True),
        (["GRANT ALL PRIVILEGES ON *.* TO {0} WITH GRANT OPTION"], True),
        # What a role brings is not looked into.
        (["CREATE OR REPLACE ROLE resets", "GRANT RELOAD ON *.* TO resets", "GRANT resets TO {0}"], True),
    ],
)
def test_reload(server: Server, grants: list[str], may: bool) -> None:
    account = "'asks'@'localhost'"
    for text in (f"CREATE OR REPLACE USER {account} IDENTIFIED BY 'x'", *grants):
        server.query(text.format(account))
    login = Login(user="asks", password="x", unix_socket=str(server.socket), config_file=None)
    with _connection.connect(login, read_timeout=10) as session:
        if may:
            refuse_without_reload(session, "running")
        else:
            with pytest.raises(RefusedError, match="relay logs away") as refused:
                refuse_without_reload(session, "running, untouched")
            assert refused.value.server_state == "running, untouched"
