# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes of a restore where systemd ends what a login session, or a unit that was killed, has started."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.lab import systemd_host
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT
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


# As the worker is when it has stopped the server: in a unit of its own, with the lock.
STOPS_AND_DIES = """
import sys
sys.path.insert(0, {collections!r})
import os, signal
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger, _server, _service
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import sentry
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.journal import Journal
journal = Journal("/run/sentry", "r1", "db1/x", "same", {{}}, {{}}, "staged")
_ledger.prepare_state_dir("/run/sentry")
with _ledger.locked("/run/sentry", "test"):
    process = _server.find_process(datadir="/var/lib/mysql/")
    manager = _service.detect(process=process, requested="auto", name=None, variables={{"datadir": "/var/lib/mysql/"}},
                              own_options=(), state_dir="/run/sentry")
    sentry.post(journal, manager, process, "/var/lib/mysql/", 60.0)
    manager.request_stop()
    _server.wait_gone(process, 60)
    print(manager.kind, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def host() -> Iterator[systemd_host.Host]:
    with systemd_host.running() as made:
        yield made


def test_the_sentry_outlives_a_worker_that_is_killed(host: systemd_host.Host) -> None:
    host.shell("systemctl start mariadb")
    before = host.shell("systemctl show -P MainPID mariadb").strip()
    collections = f"{CHECKOUT}/.ansible/collections"
    host.write("/run/dies.py", STOPS_AND_DIES.format(collections=collections))
    run = f"systemd-run --quiet --wait --pipe --setenv=PYTHONPATH={collections} python3 /run/dies.py || echo killed"
    said = host.shell(run)
    assert said.split() == ["systemd", "killed"], said
    deadline = time.monotonic() + 60
    while "server started" not in host.shell("cat /run/sentry/restore.sentry.json"):
        assert time.monotonic() < deadline, host.shell("journalctl -b --no-pager | tail -50")
        time.sleep(0.2)
    assert host.shell("systemctl is-active mariadb").strip() == "active"
    assert host.shell("systemctl show -P MainPID mariadb").strip() != before
    assert host.shell("systemctl list-units --plain --no-legend 'mysql-replica-backup-sentry*'").strip() == ""


def test_the_worker_outlives_the_session_that_started_it(site: Site, host: systemd_host.Host) -> None:
    backup = made(site, "tar", "zstd")
    # The container sees the checkout alone.
    there = lab_root()
    shutil.copytree(backup.directory, there)
    try:
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
