# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module as Ansible runs it: what it needs on the host, and where it looks without a server."""

from __future__ import annotations

import json
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

COLLECTIONS = Path(__file__).parents[4] / ".ansible" / "collections"
RUN = """
import json, sys
sys.modules["pymysql"] = None
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mysql_ops.replica_backup.plugins.modules import replica_files_discover
with patch_module_args(json.loads(sys.argv[1])):
    replica_files_discover.main()
"""


def run(**options: t.Any) -> dict[str, t.Any]:
    """Run the module where PyMySQL is not installed."""
    given = {"spool_dir": "/nowhere/spool", "host": "db1", "backup_id": "20260101T000000Z", **options}
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(given)],
        env={"PYTHONPATH": str(COLLECTIONS), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    result: dict[str, t.Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("offline", ["auto", "never"])
def test_a_server_is_asked_with_pymysql(offline: str) -> None:
    assert "PyMySQL" in run(offline=offline)["msg"]


def test_without_a_server_there_is_no_need_of_it(tmp_path: Path) -> None:
    result = run(offline="always", server_binary="/bin/true", defaults_file=str(tmp_path / "my.cnf"))
    assert result["failed"] is True and result["rule"] == "server_binary"
    assert "/bin/true does not say what it is" in result["msg"]
