# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values that the module refuses before it looks at any server."""

from __future__ import annotations

import pytest
import yaml

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _module
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.modules import mysql_replica_stop

OPTIONS = {
    **yaml.safe_load(mysql_replica_stop.DOCUMENTATION)["options"],
    **_module.login_argument_spec(),
    **_module.run_argument_spec(),
    **_module.service_argument_spec(),
}
PARAMS = {
    **{name: option.get("default") for name, option in OPTIONS.items()},
    "spool_dir": "/spool",
    "host": "db1",
    "backup_id": "20260101T000000Z",
}


@pytest.mark.parametrize("percent", [1, 20, 100])
def test_a_snapshot_of_a_size_that_its_origin_has(percent: int) -> None:
    assert mysql_replica_stop._request({**PARAMS, "snapshot_size": percent}).snapshot_size == percent


@pytest.mark.parametrize(("percent", "expected"), [(0, "1 percent or more"), (-5, "1 percent"), (101, "100 percent")])
def test_a_snapshot_of_a_size_that_makes_no_sense(percent: int, expected: str) -> None:
    with pytest.raises(RefusedError, match="snapshot_size") as caught:
        mysql_replica_stop._request({**PARAMS, "snapshot_size": percent})
    assert caught.value.found == percent
    assert expected in str(caught.value.expected)
    assert caught.value.server_state == "untouched"
