# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica that was made read-only at run time takes no write of a client, not even in its first moment."""

from __future__ import annotations

import threading
import time
import typing as t
import uuid
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pymysql.cursors
import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _deadman, _handover
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import Flavor, MariaDB, MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

FLAVORS: dict[str, t.Callable[[], Flavor]] = {"mariadb": MariaDB, "mysql56": MySQL56}
# The server's error: it runs with --read-only, so it cannot execute this statement.
REFUSED = 1290
OPTION = "--read_only=On"


@pytest.fixture(scope="module", params=FLAVORS)
def topology(request: pytest.FixtureRequest) -> Iterator[Topology]:
    root = CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8]
    flavor = FLAVORS[request.param]()
    with Topology(root, replicas=1, flavor=flavor, replica_settings={"read_only": "OFF"}) as topology:
        topology.source.query("CREATE DATABASE d")
        topology.source.query("CREATE TABLE d.t (a INT AUTO_INCREMENT PRIMARY KEY)")
        topology.source.query("CREATE USER writer@localhost")
        topology.source.query("GRANT ALL ON d.* TO writer@localhost")
        topology.wait_caught_up()
        yield topology


class Writer(threading.Thread):
    """A client that tries to write without a pause, from before the stop until it is told to end."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._socket = str(server.socket)
        self._ended = threading.Event()
        self.written = 0
        self.refused = 0

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                connection = pymysql.connect(unix_socket=self._socket, user="writer", autocommit=True)
                with connection, connection.cursor() as cursor:
                    while not self._ended.is_set():
                        self._write(cursor)
            except pymysql.err.OperationalError:
                # Down, coming up, or going down.
                continue

    def _write(self, cursor: pymysql.cursors.Cursor) -> None:
        try:
            cursor.execute("INSERT INTO d.t VALUES ()")
            self.written += 1
        except pymysql.MySQLError as error:
            if error.args[0] != REFUSED:
                raise
            self.refused += 1

    def end(self) -> None:
        self._ended.set()
        self.join(30)
        assert not self.is_alive()


def start(window: Window) -> None:
    window.start(close=False)


def recover(window: Window) -> None:
    window.start(close=False, recover=True, take_over=True)


def hand_over(window: Window) -> None:
    captured, started = _handover.capture_then_start(lambda: "captured", window.state)
    assert (captured, started["server_restored"]) == ("captured", True)


def dead_man(window: Window) -> None:
    assert _deadman.fire(window.state) == 0


WAYS = [("mariadb", way) for way in (start, recover, hand_over, dead_man)] + [("mysql56", start), ("mysql56", dead_man)]


@pytest.mark.parametrize(
    ("topology", "way"), WAYS, indirect=["topology"], ids=[f"{name}-{way.__name__}" for name, way in WAYS]
)
def test_no_write_slips_in(topology: Topology, tmp_path: Path, way: t.Callable[[Window], None]) -> None:
    replica = topology.replicas[0]
    replica.query("SET GLOBAL read_only = 1")
    window = Window(replica, tmp_path)
    writer = Writer(replica)
    writer.start()
    try:
        window.stop()
        before = writer.refused
        way(window)
        deadline = time.monotonic() + 30
        while writer.refused == before and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        writer.end()
    assert 0 < before < writer.refused, "it was there before the stop and after the start"
    assert writer.written == 0
    assert replica.query("SELECT @@read_only AS v")[0]["v"] == 1
    assert OPTION in arguments(replica)
    window.start(recover=True, take_over=True, close=False)
    assert topology.differences() == {}
    assert replica.channel() is not None


def test_no_write_slips_in_at_the_second_backup(topology: Topology, tmp_path: Path) -> None:
    """The switch is on by our own option then, and nobody has set it at run time."""
    replica = topology.replicas[0]
    replica.query("SET GLOBAL read_only = 1")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first, second = Window(replica, tmp_path / "first"), Window(replica, tmp_path / "second")
    first.stop()
    first.start()
    writer = Writer(replica)
    writer.start()
    try:
        second.stop()
        before = writer.refused
        second.start()
        deadline = time.monotonic() + 30
        while writer.refused == before and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        writer.end()
    assert 0 < before < writer.refused
    assert writer.written == 0
    assert OPTION in arguments(replica)
    assert topology.differences() == {}


def test_the_option_goes_when_it_is_not_needed_any_more(topology: Topology, tmp_path: Path) -> None:
    """A server found running with it has it from us: its own command line is without."""
    replica = topology.replicas[0]
    replica.query("SET GLOBAL read_only = 1")
    first = Window(replica, tmp_path)
    first.stop()
    first.start()
    assert OPTION in arguments(replica)
    replica.query("SET GLOBAL read_only = 0")
    (tmp_path / "second").mkdir()
    second = Window(replica, tmp_path / "second")
    second.stop()
    second.start()
    assert OPTION not in arguments(replica)
    assert replica.query("SELECT @@read_only AS v")[0]["v"] == 0
    assert topology.differences() == {}


def arguments(server: Server) -> list[str]:
    return Path(f"/proc/{server.pids()[0]}/cmdline").read_text(encoding="utf-8").split("\0")
