# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controllers killed, links cut, hosts restarted while their replicas are stopped, archived and started.

Each replica has a fault of its own, four at a time. Which ones: those that differ most, and a controller that is ended
in another way every week; all of them with FAULTS=all.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
import typing as t
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.chaos import Controller, Estate, Replica
from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import Faults, State, faults
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import Run

__all__ = ["faults"]

# Seconds that a replica waits for the next step of a run, and that a controller waits for an answer.
LEASE, LINK = 30, 10


@dataclasses.dataclass(frozen=True)
class Scene:
    """One replica, the state that it was in, and the run that is under way."""

    estate: Estate
    name: str
    before: State
    controller: Controller

    @property
    def replica(self) -> Replica:
        return self.estate.replicas[self.name]


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is done to a replica when its run has come that far, and what must be seen then."""

    what: str
    phase: str
    act: Callable[[Scene], None]
    settings: dict[str, t.Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.what} during {self.phase}"

    def inject(self, estate: Estate, name: str, before: State, *later: str) -> None:
        controller = estate.start("backup", name, *later, **self.settings)
        try:
            estate.wait_for_step(name, self.phase, controller)
            self.act(Scene(estate, name, before, controller))
        finally:
            if not controller.ended:
                controller.kill("KILL")


def flat(run: Run) -> str:
    """The output with its line breaks gone."""
    return " ".join(run.output.split())


# -- the faults --------------------------------------------------------------------------------------------------------


def killed(name: str) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        scene.controller.kill(name)
        scene.estate.wait_until_back(scene.name, scene.before)

    return act


def cut_for_good(scene: Scene) -> None:
    scene.replica.cut()
    # Both happen by themselves: the run ends, and the server is back on a host that nobody reaches.
    run = scene.controller.wait()
    assert run.status == 4, run.output
    assert "UNREACHABLE" in run.output
    assert f"mysql_ops.replica_backup.recover --limit {scene.name}" in flat(run), run.output
    scene.estate.wait_until_serves(scene.name)
    scene.replica.mend()
    scene.estate.wait_until_back(scene.name, scene.before)


def cut_for_30_seconds(scene: Scene) -> None:
    scene.replica.cut()
    time.sleep(30)
    scene.replica.mend()
    run = scene.controller.wait()
    assert run.status == 0, run.output
    assert "server restored: yes" in run.output
    assert "backup usable: yes" in run.output
    assert len(scene.replica.offered()) == 1


def restarted(scene: Scene) -> None:
    scene.replica.restart()
    run = scene.controller.wait()
    assert run.status == 2, run.output
    assert "its process is gone" in flat(run), run.output
    assert "server restored: yes" in run.output
    # An archive that was whole in the moment of the restart is proven and kept; nothing less is.
    usable = "backup usable: yes" in run.output
    assert usable or "backup usable: no" in run.output, run.output
    assert len(scene.replica.offered()) == int(usable), run.output
    scene.estate.wait_until_back(scene.name, scene.before)


def restarted_without_controller(scene: Scene) -> None:
    scene.controller.kill("KILL")
    scene.replica.restart()
    run = scene.estate.run("recover", scene.name, take_over="true")
    assert run.status == 0, run.output
    scene.estate.wait_until_back(scene.name, scene.before)


def does_not_start(scene: Scene) -> None:
    scene.replica.break_configuration()
    run = scene.controller.wait()
    assert run.status == 2, run.output
    assert "server restored: NO" in run.output
    # The server's own words, and what to do next.
    assert "no_such_setting" in run.output, run.output
    assert "mysql_ops.replica_backup.recover" in run.output
    scene.replica.repair_configuration()
    run = scene.estate.run("recover", scene.name, take_over="true")
    assert run.status == 0, run.output
    scene.estate.wait_until_back(scene.name, scene.before)


QUICK: dict[str, t.Any] = {"__replica_backup_lease": LEASE, "link_timeout": LINK}
KILLS = {
    (name, phase): Fault(f"SIG{name} to the controller", phase, killed(name), QUICK)
    for name, phase in itertools.product(("INT", "TERM", "KILL"), ("stop", "archive", "start"))
}
CUTS = {phase: Fault("link cut for 30 s", phase, cut_for_30_seconds) for phase in ("stop", "archive", "start")}
LOST = {phase: Fault("link cut for good", phase, cut_for_good, QUICK) for phase in ("stop", "archive", "start")}
REBOOTS = {phase: Fault("host restarted", phase, restarted, QUICK) for phase in ("stop", "archive", "start")}
ALONE = {
    phase: Fault("controller and host lost", phase, restarted_without_controller, QUICK)
    for phase in ("stop", "archive", "start")
}
BROKEN = {phase: Fault("server does not start again", phase, does_not_start, QUICK) for phase in ("stop", "archive")}


def chosen() -> list[list[Fault]]:
    """Four at a time."""
    if os.environ.get("FAULTS") == "all":
        every = [fault for group in (KILLS, CUTS, LOST, REBOOTS, ALONE, BROKEN) for fault in group.values()]
        return [every[start : start + 4] for start in range(0, len(every), 4)]
    week = int(time.strftime("%V", time.gmtime()))
    others = [key for key in KILLS if key != ("KILL", "stop")]
    return [[KILLS["KILL", "stop"], CUTS["stop"], REBOOTS["archive"], KILLS[others[week % len(others)]]]]


@pytest.fixture(scope="module")
def estate() -> Iterator[Estate]:
    """The fleet; whatever comes of a test, its links are whole again."""
    found = Estate(Path(os.environ["LAB_SCRATCH"]))
    yield found
    for replica in found.replicas.values():
        replica.repair()


@pytest.mark.parametrize("wave", chosen(), ids=lambda wave: "-".join(str(fault).replace(" ", "_") for fault in wave))
def test_one_fault_on_each_replica(estate: Estate, faults: Faults, wave: list[Fault]) -> None:
    before = estate.look()
    injected = dict(zip(estate.replicas, wave))
    with ThreadPoolExecutor(len(wave)) as pool:
        under_way = [pool.submit(fault.inject, estate, name, before[name]) for name, fault in injected.items()]
    complaints = [error for each in under_way if (error := each.exception())]
    # Also after a complaint: the figures tell the end state of every fault.
    estate.settle(faults, {name: str(fault) for name, fault in injected.items()}, before)
    assert complaints == []


def test_a_lost_host_ends_the_roll(estate: Estate, faults: Faults) -> None:
    """Two at a time: the batch of the lost one is finished, the next one is not begun. The same with one at a time."""
    before = estate.look()
    lost, neighbour, broken, later = estate.replicas
    untouched = estate.replicas[later].story()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(BROKEN["archive"].inject, estate, broken, before[broken], later)
        controller = estate.start("backup", lost, neighbour, later, serial="2", link_timeout=LINK)
        try:
            estate.wait_for_step(lost, "archive", controller)
            estate.replicas[lost].cut()
            run = controller.wait()
        finally:
            estate.replicas[lost].mend()
    estate.wait_until_back(lost, before[lost])
    offered = {name: len(replica.offered()) for name, replica in estate.replicas.items()}
    afterwards = (estate.replicas[later].story(), estate.replicas[later].step)
    estate.settle(faults, {lost: str(LOST["archive"]), broken: str(BROKEN["archive"])}, before)
    assert other.exception() is None, other.exception()
    assert run.status != 0, run.output
    assert f"Lost before: {lost}." in flat(run), run.output
    assert offered[neighbour] == 1
    assert offered[later] == 0
    assert afterwards == (untouched, "")
