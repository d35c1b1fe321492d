# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backs up the fleet of the scenario "faults", roll after roll, each with faults that are drawn from a seed.

A roll takes all replicas under writes, in batches of a size that is drawn too. One or two of them have a fault. Then
nobody helps: every server has to come back by itself. After each roll the end state: threads as before, equal to the
source, every set that is offered reads back, the next run of the replica succeeds.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import random
import sys
import time
import typing as t
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.mysql_ops.replica_backup.tests.lab.chaos import Controller, Estate, Replica
from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import Faults, State

# Seconds that a replica waits for the next step of a run, and that a controller waits for an answer.
LEASE, LINK = 30, 10


@dataclasses.dataclass(frozen=True)
class Scene:
    """A replica whose turn has come, and the run that is under way."""

    estate: Estate
    replica: Replica
    controller: Controller
    dice: random.Random

    def held(self, pattern: str) -> None:
        """The processes stand still for a while."""
        self.replica.signal("STOP", pattern)
        time.sleep(self.dice.uniform(1, 8))
        self.replica.signal("CONT", pattern)


def _link_cut(scene: Scene) -> None:
    scene.replica.cut()
    time.sleep(scene.dice.uniform(1, 30))
    scene.replica.mend()


def _link_lost(scene: Scene) -> None:
    scene.replica.cut()
    scene.controller.wait()
    # Before anybody can reach the host again.
    scene.estate.wait_until_serves(scene.replica.name)
    scene.replica.mend()


def _both_lost(scene: Scene) -> None:
    scene.controller.kill("KILL")
    scene.replica.restart()


def _kill_run(scene: Scene) -> None:
    scene.replica.signal("KILL", "async_wrapper.py")
    scene.replica.signal("KILL", "AnsiballZ")


def _second_run(scene: Scene) -> None:
    scene.estate.run("backup", scene.replica.name, lock_timeout=2)


def _signal(name: str, pattern: str) -> Callable[[Scene], None]:
    return lambda scene: scene.replica.signal(name, pattern)


def _kill_controller(name: str) -> Callable[[Scene], None]:
    return lambda scene: scene.controller.kill(name)


_RESTARTS = ("host restarted", "controller and host lost")
_FULL, _BROKEN = "spool full", "server cannot start"
_PHASES = ("stop", "archive", "start")
# What may happen, and in which phases.
KINDS: dict[str, tuple[Callable[[Scene], None], tuple[str, ...]]] = {
    "controller interrupted": (_kill_controller("INT"), _PHASES),
    "controller terminated": (_kill_controller("TERM"), _PHASES),
    "controller killed": (_kill_controller("KILL"), _PHASES),
    "link cut for a while": (_link_cut, _PHASES),
    "link lost": (_link_lost, _PHASES),
    "host restarted": (lambda scene: scene.replica.restart(), _PHASES),
    "controller and host lost": (_both_lost, _PHASES),
    "module killed": (_signal("KILL", "AnsiballZ"), _PHASES),
    "every process of the run killed": (_kill_run, _PHASES),
    "module held": (lambda scene: scene.held("AnsiballZ"), _PHASES),
    "server killed": (_signal("KILL", "/usr/sbin/mariadbd"), ("stop", "start")),
    "server held": (lambda scene: scene.held("/usr/sbin/mariadbd"), ("stop", "start")),
    "dead-man killed": (_signal("KILL", "deadman.pyz"), ("stop", "archive")),
    "compressor killed": (_signal("KILL", "zstd"), ("archive",)),
    _FULL: (lambda scene: scene.replica.fill_spool(), ("stop", "archive")),
    "server started by somebody": (lambda scene: scene.replica.start_server(), ("archive",)),
    _BROKEN: (lambda scene: scene.replica.break_configuration(), ("stop", "archive")),
    "a second run": (_second_run, _PHASES),
}


class Soak:
    """Rolls over the fleet; ``say`` is told of each."""

    def __init__(self, estate: Estate, faults: Faults, seed: int, say: Callable[[str], object]) -> None:
        self._estate = estate
        self._faults = faults
        self._seed = seed
        self._say = say
        self._kinds: collections.Counter[str] = collections.Counter()
        self._slowest = 0.0
        self._rolls = 0

    def run(self, rolls: int, seconds: float) -> None:
        """So many rolls, none of which begins after ``seconds``; what was not survived raises AssertionError."""
        ends = time.monotonic() + seconds
        complaints = []
        for number in range(1, rolls + 1):
            if time.monotonic() > ends:
                break
            try:
                self._roll(number)
            except AssertionError as error:
                complaints.append(f"roll {number}: {error}")
                self._say(complaints[-1])
        self._say(self.summary())
        assert not complaints, f"seed {self._seed}: " + "\n".join(complaints)

    def summary(self) -> str:
        figures = ", ".join(f"{name} {value}" for name, value in self._faults.figures().items())
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self._kinds.items()))
        return f"seed {self._seed}: {self._rolls} rolls, {figures}; slowest return {self._slowest:.0f} s; {kinds}"

    def _roll(self, number: int) -> None:
        # One source of chance for each roll: the same roll of the same seed is the same, whatever came before.
        dice = random.Random(f"{self._seed}/{number}")
        drawn: dict[str, tuple[str, str, random.Random]] = {}
        for name in dice.sample(sorted(self._estate.replicas), dice.choice((1, 1, 2))):
            kind = dice.choice(sorted(KINDS))
            drawn[name] = (kind, dice.choice(KINDS[kind][1]), random.Random(dice.random()))
        serial = dice.choice(("1", "2", "100%"))
        before = self._estate.look()
        for name in drawn:
            if drawn[name][0] == _FULL:
                self._estate.replicas[name].bound_spool()
        controller = self._estate.start(
            "backup", serial=serial, space_factor=0, link_timeout=LINK, __replica_backup_lease=LEASE
        )
        with ThreadPoolExecutor(len(drawn)) as pool:
            work = {name: pool.submit(self._inject, name, controller, *drawn[name]) for name in drawn}
            injected = {name: fault for name, each in work.items() if (fault := each.result())}
        run = controller.wait()
        self._rolls += 1
        self._say(f"roll {number}: serial {serial}, status {run.status}, {injected or 'nothing was injected'}")
        for name in injected:
            self._kinds[drawn[name][0]] += 1
        broken = {name for name in injected if drawn[name][0] == _BROKEN}
        restarted = {name for name in injected if drawn[name][0] in _RESTARTS}
        try:
            self._wait_until_back(before, broken, restarted)
        finally:
            if injected:
                self._estate.settle(self._faults, injected, before)

    def _wait_until_back(self, before: dict[str, State], broken: set[str], restarted: set[str]) -> None:
        began = time.monotonic()
        for name, state in before.items():
            if name in restarted:
                # Switches that were set at run time are lost with the host, and back after "recover".
                state = {thread: state[thread] for thread in ("IO", "SQL")}
            if name not in broken:
                self._estate.wait_until_back(name, state)
        self._slowest = max(self._slowest, time.monotonic() - began)

    def _inject(self, name: str, controller: Controller, kind: str, phase: str, dice: random.Random) -> str:
        """What was done to the replica; nothing when its turn did not come."""
        try:
            self._estate.wait_for_step(name, phase, controller, timeout=600)
        except AssertionError:
            if controller.ended:
                return ""
            raise
        time.sleep(dice.uniform(0, 0.7))
        KINDS[kind][0](Scene(self._estate, self._estate.replicas[name], controller, dice))
        return f"{kind} during {phase}"


def main(arguments: t.Sequence[str] | None = None) -> int:
    """Soak a fleet that is there already: tests/soak/run.sh makes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rolls", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    options = parser.parse_args(arguments)
    faults = Faults()
    print(f"seed {options.seed}", flush=True)
    soak = Soak(Estate(Path(os.environ["LAB_SCRATCH"])), faults, options.seed, lambda text: print(text, flush=True))
    try:
        soak.run(options.rolls, options.minutes * 60)
    except AssertionError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
