# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A list that cannot be proven complete is no list: the backup refuses, names the file, and touches nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import Run, run_playbook


@contextlib.contextmanager
def _untouched(fleet: Fleet, server: Server) -> Iterator[None]:
    before, channel = server.pids(), server.channel()
    assert len(before) == 1 and channel is not None and channel.replicating
    yield
    channel = server.channel()
    assert server.pids() == before and channel is not None and channel.replicating
    assert not list((fleet.root / "state").rglob("ledger.json"))
    assert not list((fleet.root / "spool").rglob("data*"))


def _backup(fleet: Fleet, server: Server) -> Run:
    return run_playbook("backup", fleet.inventory(server))


def _refused_for(run: Run, path: Path) -> bool:
    text = " ".join(run.output.split())
    return run.status == 2 and "The file list is not complete" in text and str(path) in text


@pytest.fixture
def elsewhere(fleet: Fleet) -> Path:
    """Return a directory outside of every place that the server may write to."""
    path = fleet.topology.root / "elsewhere"
    path.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        status = fleet.replicas[0].datadir.stat()
        os.chown(path, status.st_uid, status.st_gid)
    return path


def test_a_tablespace_of_the_dictionary_that_is_not_on_disk(fleet: Fleet, elsewhere: Path) -> None:
    server = fleet.replicas[0]
    server.query("SET STATEMENT sql_log_bin = 0 FOR CREATE DATABASE own")
    server.query(
        f"SET STATEMENT sql_log_bin = 0 FOR CREATE TABLE own.t (id INT PRIMARY KEY) DATA DIRECTORY '{elsewhere}'"
    )
    file, aside = elsewhere / "own" / "t.ibd", elsewhere / "aside"
    file.rename(aside)
    try:
        with _untouched(fleet, server):
            run = _backup(fleet, server)
        assert _refused_for(run, file), run.output
    finally:
        aside.rename(file)
    run = _backup(fleet, server)
    assert run.status == 0, run.output
    (backup,) = fleet.set_directories(server)
    assert '"own/t.ibd"' in (backup / "manifest.json").read_text()
    server.query("SET STATEMENT sql_log_bin = 0 FOR DROP DATABASE own")
    shutil.rmtree(backup)


@pytest.mark.skipif(os.geteuid() != 0, reason="looks at the open files of another account's process")
def test_a_file_that_the_server_holds_open_outside_of_all_places(fleet: Fleet, elsewhere: Path) -> None:
    server = fleet.replicas[0]
    file = elsewhere / "export"

    def export() -> None:
        with contextlib.suppress(pymysql.Error):
            server.query(f"SELECT SLEEP(600) INTO OUTFILE '{file}'")

    session = threading.Thread(target=export)
    session.start()
    try:
        while not file.exists():
            assert session.is_alive(), "the statement ended"
            time.sleep(0.05)
        with _untouched(fleet, server):
            run = _backup(fleet, server)
        assert _refused_for(run, file), run.output
    finally:
        for row in server.query("SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'"):
            server.query(f"KILL {row['id']}")
        session.join()
    run = _backup(fleet, server)
    assert run.status == 0, run.output
    assert len(fleet.set_directories(server)) == 1
