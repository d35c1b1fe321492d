# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stopped server as the steps before the archive leave it, from which tests make real sets."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _filelist, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Place

BACKUP_ID = "20260101T000000Z"
HOST = "db1"


@dataclass
class Site:
    """A stopped server as the steps before the archive leave it."""

    tree: Path
    spool: Path
    state: Path

    @property
    def paths(self) -> SetPaths:
        return SetPaths(str(self.spool), HOST, BACKUP_ID)

    def request(self, **wishes: t.Any) -> job.Request:
        return job.Request(**{"paths": self.paths, "state_dir": str(self.state), "compression": "none", **wishes})

    def left(self) -> list[str]:
        """Everything in the set's directory but the list that the archive works from."""
        top = Path(self.paths.directory)
        names = sorted(str(path.relative_to(top)) for path in top.rglob("*"))
        return [name for name in names if name not in (".work", ".work/discovered.jsonl")]

    def ledger(self) -> _ledger.Ledger:
        found = _ledger.load(str(self.state))
        assert found is not None
        return found


def discovery(tree: Path, **more: t.Any) -> Discovery:
    return Discovery(datadir=str(tree), places=(Place("datadir", str(tree)),), **more)


def write_list(site: Site, plan: Discovery) -> None:
    os.makedirs(site.paths.work, mode=0o700, exist_ok=True)
    _filelist.write_list(site.paths.discovered, plan, _filelist.walk(plan))


def make_site(tree: Path, spool: Path, state: Path) -> Site:
    """List the tree in the spool, and note in the ledger that its server is stopped."""
    made = Site(tree, spool, state)
    made.spool.mkdir(mode=0o700)
    write_list(made, discovery(tree, warnings=("a table is discarded",)))
    _ledger.prepare_state_dir(str(made.state))
    ledger = _ledger.open_new(
        str(made.state),
        {
            "run_id": "r1",
            "backup_id": BACKUP_ID,
            "host": HOST,
            "spool_dir": str(made.spool),
            "server": {
                "family": "mariadb",
                "version": [10, 11, 6],
                "version_text": "10.11.6-MariaDB",
                "uuid": "",
                "server_id": 2,
                "datadir": str(tree),
                "pid_file": None,
                "process": {"argv": ["mariadbd", "--secret=x"]},
                "variables": {"innodb_page_size": "16384", "report_password": "hunter2"},
            },
            "channels": [{"name": "", "source_host": "db0", "source_password": "hunter2", "source_log_pos": 4}],
            "clean_stop": {"clean": True, "proofs": [{"name": "process", "verdict": True, "detail": "gone"}]},
        },
    )
    ledger.warn("lag was unknown")
    ledger.begin("stopped")
    ledger.end("stopped")
    return made


@pytest.fixture
def site(tree: Path, tmp_path: Path) -> Site:
    return make_site(tree, tmp_path / "spool", tmp_path / "state")
