# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 of the module right before and right after every note in the ledger, on real servers.

What brings the server back takes turns: the dead-man alone, the recover playbook's way, the next run by itself.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
from ansible_collections.mysql_ops.replica_backup.tests.lab.crash import EVERY_POINT
from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import Faults, LocalReplica
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import Flavor, MariaDB, MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.one_run import OneRun, killed
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

TURN = int(os.environ.get("FAULTS_TURN", "0"))
# Notes of one run, from "opened" to "closed".
NOTES = 20
# A clone saves one, and makes three more: the archive begins and ends, the clone is gone.
NOTES_WITH_CLONE = 22
POINTS = [(number, after) for number in range(1, NOTES + 1) for after in (False, True)]


def part(stride: int, first: int) -> list[tuple[int, bool]]:
    return POINTS if EVERY_POINT else POINTS[(first + TURN) % stride :: stride]


@dataclass
class Bench:
    """A replica, and the numbers of its runs."""

    topology: Topology
    root: Path
    numbers: Iterator[int]

    @property
    def replica(self) -> LocalReplica:
        return LocalReplica(self.topology, self.topology.replicas[0], (self.root / "spool",))

    def run(self, capture: str = "cold") -> OneRun:
        return OneRun(self.topology.replicas[0], self.root, next(self.numbers), changes={"capture": capture})

    def write(self) -> None:
        self.topology.source.query("INSERT INTO d.t SELECT COALESCE(MAX(a), 0) + 1 FROM d.t")


def bench_of(flavor: Flavor) -> Iterator[Bench]:
    with Topology(CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8], replicas=1, flavor=flavor) as topology:
        topology.source.query("CREATE DATABASE d")
        topology.source.query("CREATE TABLE d.t (a INT PRIMARY KEY)")
        root = topology.root / "backup"
        root.mkdir()
        yield Bench(topology, root, itertools.count(1))


@pytest.fixture(scope="module")
def mariadb() -> Iterator[Bench]:
    yield from bench_of(MariaDB())


@pytest.fixture(scope="module")
def mysql56() -> Iterator[Bench]:
    yield from bench_of(MySQL56())


def the_dead_man(_run: OneRun) -> None:
    """Nobody does anything: waiting for the end state waits for it."""


def recover(run: OneRun) -> None:
    run.recover(take_over=True)
    assert _ledger.load(run.state_dir) is None


def next_run(run: OneRun) -> None:
    """It waits until the dead run is known to be dead, or finds that the dead-man has been quicker."""
    run()


WAYS: tuple[Callable[[OneRun], None], ...] = (the_dead_man, recover, next_run)


def kill_and_settle(bench: Bench, faults: Faults, number: int, after: bool, capture: str = "cold") -> None:
    bench.write()
    before = bench.replica.state()
    note = killed(bench.run(capture), number, after=after)
    assert note is not None, "the run makes fewer notes than it did"
    way = WAYS[(number + after) % len(WAYS)]
    way(bench.run(capture))
    fault = f"kill -9 {note} on {bench.topology.flavor.family}, capture {capture}, then {way.__name__}"
    faults.settle(fault, bench.replica, before, bench.run(capture), writes=bench.write)
    assert list(bench.root.rglob("clone*")) == []


@pytest.mark.parametrize(("capture", "notes"), [("cold", NOTES), ("copy", NOTES_WITH_CLONE)])
def test_every_note_is_among_the_points(mariadb: Bench, capture: str, notes: int) -> None:
    """Nothing kills this run: one with more notes than are listed here would not be tested at all of them."""
    assert killed(mariadb.run(capture), notes + 1, after=False) is None


@pytest.mark.parametrize(("number", "after"), part(6, 0))
def test_killed_on_mariadb(mariadb: Bench, faults: Faults, number: int, after: bool) -> None:
    kill_and_settle(mariadb, faults, number, after)


# From the capture on: what comes before is the same.
@pytest.mark.parametrize(
    ("number", "after"),
    [(11, True), (12, True), (19, True), (21, False)]
    if not EVERY_POINT
    else [(number, after) for number in range(1, NOTES_WITH_CLONE + 1) for after in (False, True)],
)
def test_killed_with_a_clone(mariadb: Bench, faults: Faults, number: int, after: bool) -> None:
    kill_and_settle(mariadb, faults, number, after, "copy")


@pytest.mark.parametrize(("number", "after"), part(20, 9))
def test_killed_on_mysql_5_6(mysql56: Bench, faults: Faults, number: int, after: bool) -> None:
    kill_and_settle(mysql56, faults, number, after)
