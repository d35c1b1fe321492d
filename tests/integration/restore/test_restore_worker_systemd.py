# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker of a restore where systemd ends everything that a login session has started."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.lab import systemd_host
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive import (
    archive_support,
    set_support,
)
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import Site
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._restore.stream_support import made
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._restore.test_worker import CONSUMER

tree = archive_support.tree
site = set_support.site

START = """
import importlib.util, sys
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._payload import PACKAGE
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import worker
name = PACKAGE + "._restore._consumer"
spec = importlib.util.spec_from_file_location(name, "/run/consumer.py")
sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[name])
source = worker.Source(worker.LOCAL, {src!r})
task = worker.Task("_restore._consumer:consume", {{"wait": "/run/go"}}, source)
answer = worker.start("/run/state", task).to_result()
"""
STATUS = """
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import worker
answer = worker.status("/run/state").to_result()
"""


def test_the_worker_outlives_the_session_that_started_it(site: Site) -> None:
    backup = made(site, "tar", "zstd")
    # The container sees the checkout alone.
    there = lab_root()
    shutil.copytree(backup.directory, there)
    try:
        with systemd_host.running() as host:
            host.write("/run/consumer.py", CONSUMER)
            started = host.python(START.format(src=str(there)), session=True)
            assert started["state"] == "running"
            found = host.python(STATUS)
            assert (found["state"], found["pid"]) == ("running", started["pid"])
            unit = host.shell(f"ps -o unit= -p {started['pid']}").strip()
            assert unit.startswith("mysql-replica-backup-restore-")
            host.write("/run/go", "")
            while (found := host.python(STATUS))["state"] == "running":
                time.sleep(0.1)
            assert (found["state"], found["error"]) == ("done", {})
            assert found["result"]["members"] == len(list(backup.records()))
            left = host.shell("ls /run/state/restore.worker; systemctl list-units --all --plain 'mysql-replica-*'")
            assert left.split()[0] == "status.json"
            assert "mysql-replica-backup-restore" not in left
    finally:
        shutil.rmtree(Path(there))
