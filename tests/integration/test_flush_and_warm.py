# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A busy replica writes its dirty pages before the stop, comes back warm, and is as before whatever happens."""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import subprocess
import time
import typing as t
from collections.abc import Iterator

import pymysql
import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _deadman, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Limits
from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.lab import scratch
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import Flavor, MariaDB, MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

FLAVORS: dict[str, t.Callable[[], Flavor]] = {"mariadb": MariaDB, "mysql56": MySQL56}
# What the option file does not say and a restart would lose, if it were not put back.
RUN_TIME = {"innodb_max_dirty_pages_pct": "80", "innodb_io_capacity": "150", "innodb_io_capacity_max": "1500"}


only_mariadb = pytest.mark.parametrize("topology", ["mariadb"], indirect=True)


@pytest.fixture(scope="module", params=FLAVORS)
def topology(request: pytest.FixtureRequest) -> Iterator[Topology]:
    settings = {"innodb_buffer_pool_size": "96M", "innodb_log_file_size": "96M", "sync_binlog": "0"}
    with Topology(lab_root(), replicas=1, flavor=FLAVORS[request.param](), replica_settings=settings) as topology:
        query = topology.source.query
        query("CREATE DATABASE d")
        query("CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, k INT, v VARCHAR(400), KEY (k)) ENGINE = InnoDB")
        query("INSERT INTO d.t (k, v) VALUES (1, REPEAT('x', 380))")
        for _doubling in range(16):
            query("INSERT INTO d.t (k, v) SELECT FLOOR(RAND() * 1e9), REPEAT('y', 380) FROM d.t")
        topology.wait_caught_up()
        yield topology


def make_dirty(server: Server) -> None:
    """Change many pages of the replica, and nothing of its data in the end."""
    connection = pymysql.connect(unix_socket=str(server.socket), user="root", autocommit=True)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_log_bin = 0")
        cursor.execute("UPDATE d.t SET k = -k")
        cursor.execute("UPDATE d.t SET k = -k")


def settings(server: Server) -> dict[str, float]:
    rows = server.query(
        "SHOW GLOBAL VARIABLES WHERE Variable_name LIKE 'innodb_%dirty%' OR Variable_name LIKE '%io_cap%'"
    )
    return {row["Variable_name"]: float(row["Value"]) for row in rows}


@pytest.fixture
def window(topology: Topology) -> Window:
    """Give a window of a replica whose settings were made at run time and that has much to write."""
    replica = topology.replicas[0]
    for name, value in RUN_TIME.items():
        replica.query(f"SET GLOBAL {name} = {value}")
    make_dirty(replica)
    root = topology.root / f"window-{time.monotonic_ns()}"
    root.mkdir(mode=0o700)
    return Window(replica, root)


def replicates(topology: Topology) -> None:
    topology.replicas[0].wait_ready()
    channel = topology.replicas[0].channel()
    assert channel is not None
    assert channel.io_running
    assert channel.applier_running
    assert not topology.differences()


def test_a_busy_replica_is_flushed_and_comes_back_warm(topology: Topology, window: Window) -> None:
    replica, by_hand = topology.replicas[0], topology.flavor.family == "mysql"
    # MySQL 5.6 does not flush ahead of an applier that is at work; it does when that has ended.
    with contextlib.nullcontext() if by_hand else topology.load():
        stopped = window.stop()
        flush, warm = stopped["plan"]["flush"], stopped["plan"]["warm"]
        assert flush["dirty_bytes"] > 16 << 20
        assert (warm["dump"], warm["load"]) == (by_hand, by_hand)
        said = stopped["shutdown_waited_for"]
        assert said[0].startswith("stop ")
        assert int(said[1].split()[0]) < flush["dirty_pages"] / 4, said
        assert any("written in the" in one for one in said)
        assert not stopped["warnings"]
        manifest = window.archive()
        back = window.start(catch_up=True, warm_timeout=60)
    assert manifest["clean_stop"]["clean"]
    assert "ib_buffer_pool" in {entry["path"] for entry in manifest["files"] if entry["place"] == "datadir"}
    assert back["shutdown_waited_for"] == said
    assert ("began to load the buffer pool" in back["actions"]) == by_hand
    assert back["warm_seconds"] < 60
    status = replica.query("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_load_status'")[0]["Value"]
    assert "load completed" in status
    # What was set at run time is gone as after every restart, and said; what the flush had set is not there either.
    assert settings(replica)["innodb_io_capacity"] == 200
    assert "innodb_io_capacity was '150', is '200'" in " ".join(back["warnings"])
    replicates(topology)

    # The set serves, in the place of what it was taken of.
    tree = window.root / "tree"
    window.unpack(tree)
    replica.stop()
    shutil.rmtree(replica.datadir)
    subprocess.run(["cp", "-a", str(tree / "datadir"), str(replica.datadir)], check=True)
    account = scratch.server_account()
    subprocess.run(["chown", "-R", f"{account.uid}:{account.gid}", str(replica.datadir)], check=True)
    replica.start()
    replicates(topology)


@only_mariadb
def test_a_stop_that_fails_leaves_the_settings_as_they_were(topology: Topology, window: Window) -> None:
    replica = topology.replicas[0]
    before, pids = settings(replica), replica.pids()
    locker = pymysql.connect(unix_socket=str(replica.socket), user="root")
    with locker, locker.cursor() as cursor:
        cursor.execute("LOCK TABLES d.t READ")
        topology.source.query("UPDATE d.t SET v = 'changed' WHERE id < 5")
        with pytest.raises(ReplicaBackupError) as failed:
            window.stop(limits=Limits(drain=1, temp_tables=1), statement_timeout=5)
    assert failed.value.facts["server_restored"], failed.value
    assert any("innodb_max_dirty_pages_pct back to" in action for action in failed.value.facts["actions"])
    assert (settings(replica), replica.pids()) == (before, pids)
    replicates(topology)


@only_mariadb
def test_a_run_that_is_killed_while_it_flushes(topology: Topology, window: Window) -> None:
    replica = topology.replicas[0]
    before, pids = settings(replica), replica.pids()
    child = multiprocessing.get_context("fork").Process(target=window.stop)
    child.start()
    deadline = time.monotonic() + 60
    while settings(replica)["innodb_max_dirty_pages_pct"] > 0:
        assert time.monotonic() < deadline
        assert child.is_alive()
    child.kill()
    child.join()
    ledger = _ledger.load(window.state)
    assert ledger is not None
    assert ledger.step == "flush"
    assert settings(replica) != before
    assert _deadman.fire(window.state, attempts=1) == 0
    assert (settings(replica), replica.pids()) == (before, pids)
    window.start(run_id=None, recover=True, take_over=True, close=False)
    assert (settings(replica), replica.pids()) == (before, pids)
    assert _deadman.armed(window.state) is None
    replicates(topology)
