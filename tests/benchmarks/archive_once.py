# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One archive of a directory, as a program of its own: what ``replica_archive`` does, without Ansible around it."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _filelist, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Place

BACKUP_ID = "20260101T000000Z"


def prepare(datadir: str, spool: str, state: str) -> job.Request:
    """A list and a ledger as the steps before the archive leave them."""
    paths = SetPaths(spool, "bench", BACKUP_ID)
    os.makedirs(paths.work, mode=0o700, exist_ok=True)
    plan = Discovery(datadir=datadir, places=(Place("datadir", datadir),))
    _filelist.write_list(paths.discovered, plan, _filelist.walk(plan))
    if _ledger.load(state) is None:
        _ledger.prepare_state_dir(state)
        ledger = _ledger.open_new(
            state,
            {
                "run_id": "bench",
                "backup_id": BACKUP_ID,
                "host": "bench",
                "spool_dir": spool,
                "server": {"datadir": datadir, "family": "mariadb", "version": [10, 11, 0], "variables": {}},
                "channels": [],
                "clean_stop": {"clean": True, "proofs": []},
            },
        )
        ledger.begin("stopped")
        ledger.end("stopped")
    return job.Request(paths=paths, state_dir=state)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("datadir")
    parser.add_argument("spool")
    parser.add_argument("state")
    parser.add_argument("--format", default="tar")
    parser.add_argument("--compression", default="zstd")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--publish", action="store_true", help="read back and prove as well")
    options = parser.parse_args()
    base = prepare(options.datadir, options.spool, options.state)
    request = replace(base, form=options.format, compression=options.compression, shards=options.shards)
    (job.present if options.publish else job.capture)(request)


if __name__ == "__main__":
    main()
