# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module as Ansible runs it: a clone is planned, made, left alone the second time, and removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import yaml

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture import plan, stores
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._capture.plan import Choice
from ansible_collections.mysql_ops.replica_backup.plugins.modules import replica_snapshot
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import make_site

COLLECTIONS = Path(__file__).parents[4] / ".ansible" / "collections"
RUN = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mysql_ops.replica_backup.plugins.modules import replica_snapshot
with patch_module_args(json.loads(sys.argv[1])):
    replica_snapshot.main()
"""


def run(options: dict[str, t.Any]) -> dict[str, t.Any]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(options)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
    )
    assert done.stdout, done.stderr
    return t.cast("dict[str, t.Any]", json.loads(done.stdout))


def test_a_clone_from_beginning_to_end(tmp_path: Path) -> None:
    tree = tmp_path / "mysql"
    tree.mkdir()
    (tree / "ibdata1").write_bytes(os.urandom(1 << 20))
    site = make_site(tree, tmp_path / "spool", tmp_path / "state")
    options = {
        "spool_dir": str(site.spool),
        "state_dir": str(site.state),
        "host": site.paths.host,
        "backup_id": site.paths.backup_id,
    }
    refused = run(options)
    assert refused["failed"]
    assert refused["rule"] == "capture"

    ledger = site.ledger()
    ledger.data["clone"] = plan.to_clone(Choice(plan.COPY, "asked for"), site.paths)
    ledger.save()
    store = stores.in_spool(site.paths)
    planned = run({**options, "_ansible_check_mode": True})
    assert (planned["changed"], planned["capture"]) == (True, "copy")
    assert not os.path.exists(store)
    made = run(options)
    assert (made["changed"], made["files"], made["bytes"]) == (True, 2, 1 << 20)
    assert run(options)["changed"] is False

    would = run({**options, "state": "absent", "_ansible_check_mode": True})
    assert (would["changed"], would["removed"]) == (True, [store])
    gone = run({**options, "state": "absent"})
    assert (gone["changed"], gone["removed"]) == (True, [store])
    assert not os.path.exists(store)
    assert run({**options, "state": "absent"})["changed"] is False


def test_the_documented_options_are_those_of_the_module() -> None:
    documented = yaml.safe_load(replica_snapshot.DOCUMENTATION)["options"]
    spec = replica_snapshot.argument_spec()
    for name, option in documented.items():
        assert spec[name].get("choices") == option.get("choices"), name
        assert spec[name].get("default") == option.get("default"), name
