# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One restore of a set, as a program of its own: what ``replica_restore`` does, without Ansible around it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import LocalFeed
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import MariaDB


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("set_dir")
    parser.add_argument("datadir")
    parser.add_argument("state")
    options = parser.parse_args()
    config = Path(options.state).with_suffix(".cnf")
    config.write_text(f"[mysqld]\ndatadir={options.datadir}\nserver_id=7\n", encoding="utf-8")
    hints = Hints(defaults_file=str(config), server_binary=str(MariaDB().server))
    request = job.Request(state_dir=options.state, hints=hints)
    job.restore(request, LocalFeed(options.set_dir))


if __name__ == "__main__":
    main()
