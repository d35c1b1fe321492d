# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module as Ansible runs it: options, results, and an orderly end when it is told to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
import yaml

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _filelist, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Place
from ansible_collections.mysql_ops.replica_backup.plugins.modules import replica_archive

BACKUP_ID = "20260101T000000Z"
COLLECTIONS = Path(__file__).parents[4] / ".ansible" / "collections"
RUN = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.mysql_ops.replica_backup.plugins.modules import replica_archive
with patch_module_args(json.loads(sys.argv[1])):
    replica_archive.main()
"""


@pytest.fixture
def options(tmp_path: Path) -> dict[str, t.Any]:
    """A stopped server's files, list and ledger, as options of the module."""
    tree = tmp_path / "mysql"
    tree.mkdir()
    (tree / "ibdata1").write_bytes(os.urandom(6 << 20))
    paths = SetPaths(str(tmp_path / "spool"), "db1", BACKUP_ID)
    os.makedirs(paths.work, mode=0o700)
    plan = Discovery(datadir=str(tree), places=(Place("datadir", str(tree)),))
    _filelist.write_list(paths.discovered, plan, _filelist.walk(plan))
    state = str(tmp_path / "state")
    _ledger.prepare_state_dir(state)
    ledger = _ledger.open_new(
        state,
        {
            "run_id": "r1",
            "backup_id": BACKUP_ID,
            "host": "db1",
            "server": {"datadir": str(tree)},
            "clean_stop": {"clean": True, "proofs": []},
        },
    )
    ledger.begin("stopped")
    return {"spool_dir": paths.root, "state_dir": state, "host": "db1", "backup_id": BACKUP_ID}


def start(options: dict[str, t.Any], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS), **environment},
    )


def run(options: dict[str, t.Any]) -> dict[str, t.Any]:
    output, errors = start(options).communicate()
    assert output, errors
    return t.cast("dict[str, t.Any]", json.loads(output))


def test_a_set_from_beginning_to_end(options: dict[str, t.Any]) -> None:
    directory = Path(options["spool_dir"], "db1", BACKUP_ID)
    planned = run({**options, "_ansible_check_mode": True})
    assert planned["changed"] and not (directory / "data.tar.zst").exists()
    captured = run({**options, "state": "captured"})
    assert captured["changed"] and captured["manifest"] is None and captured["set_dir"] == str(directory)
    published = run({**options, "state": "published", "times": {"downtime_seconds": 2.5}})
    assert published["changed"] and published["files"] == 2 and published["bytes"] == 6 << 20
    assert json.loads((directory / "manifest.json").read_text())["times"]["downtime_seconds"] == 2.5
    refused = run(options)
    assert refused["failed"] and "backup id exists" in refused["msg"] and refused["rule"] == "backup_id"
    assert run({**options, "state": "absent"})["changed"] and not directory.exists()
    assert not run({**options, "state": "absent"})["changed"]


def test_the_module_ends_in_order_when_it_is_told_to(options: dict[str, t.Any], tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "zstd").write_text("#!/bin/sh\nexec sleep 60\n")
    (tools / "zstd").chmod(0o755)
    process = start({**options, "state": "captured"}, PATH=f"{tools}:{os.environ['PATH']}")
    directory = Path(options["spool_dir"], "db1", BACKUP_ID)
    while not (directory / "data.tar.zst.partial").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode == 1
    assert "ended_by_signal" in said and "SIGTERM" in said
    assert sorted(path.name for path in directory.rglob("*")) == [".work", "discovered.jsonl"]


def test_the_documentation_names_every_option() -> None:
    documented = yaml.safe_load(replica_archive.DOCUMENTATION)
    shared = {"spool_dir", "state_dir", "host", "backup_id"}
    assert set(documented["options"]) | shared == set(replica_archive.argument_spec())
    for example in yaml.safe_load(replica_archive.EXAMPLES):
        assert set(example["mysql_ops.replica_backup.replica_archive"]) <= set(replica_archive.argument_spec())
    assert set(yaml.safe_load(replica_archive.RETURN)) >= {
        "set_dir",
        "parts",
        "files",
        "bytes",
        "places",
        "manifest",
        "times",
    }
