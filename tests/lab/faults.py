# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a replica and its sets are after a fault, and the figures of all faults of a test run.

A test takes ``look`` before the fault, injects it, and ends with ``faults.settle``: server up, threads and switches as
before, equal to the source, no bad set offered, the next run succeeds. Every fault is counted, also the ones that were
not survived: the fixture hands the figures to the JUnit file, and ``results.py`` adds them up.
"""

from __future__ import annotations

import time
import typing as t
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.verify import verify
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology

INJECTED, SURVIVED, LEFT_DOWN, BAD_SETS = "faults_injected", "faults_survived", "servers_left_down", "bad_sets_offered"
FIGURES = (INJECTED, SURVIVED, LEFT_DOWN, BAD_SETS)
# Seconds for a server to be up again and as before, beyond what the test has waited itself.
PATIENCE = 90.0
_SWITCHES = ("read_only", "super_read_only", "event_scheduler", "innodb_fast_shutdown")

State = dict[str, str]


class Subject(t.Protocol):
    """A replica as a fault test sees it."""

    @property
    def name(self) -> str:
        """Its name in the inventory."""

    def state(self) -> State:
        """Threads of every channel and the switches of the server; raises when the server does not answer."""

    def differences(self) -> object:
        """What differs from the source once the replica has caught up; falsy when nothing does."""

    def offered(self) -> list[Path]:
        """Directories of this replica's sets that have a manifest, wherever they lie."""


@dataclass(frozen=True)
class LocalReplica:
    """A server of a topology on this machine; ``roots`` are the spools and destinations where its sets may lie."""

    topology: Topology
    server: Server
    roots: tuple[Path, ...]

    @property
    def name(self) -> str:
        return self.server.name

    def state(self) -> State:
        many = self.server.flavor.family == "mariadb"
        rows = self.server.query("SHOW ALL SLAVES STATUS" if many else "SHOW SLAVE STATUS")
        found = {
            f"{row.get('Connection_name', '')} {thread}": str(row[f"Slave_{thread}_Running"])
            for row in rows
            for thread in ("IO", "SQL")
        }
        switches = self.server.query("SHOW GLOBAL VARIABLES")
        return found | {
            str(row["Variable_name"]): str(row["Value"]) for row in switches if row["Variable_name"] in _SWITCHES
        }

    def differences(self) -> object:
        return self.topology.differences(self.server)

    def offered(self) -> list[Path]:
        return sets_below(self.roots)


def sets_below(roots: Iterable[Path]) -> list[Path]:
    """Every directory with a ``manifest.json`` below the roots: what anybody would take for a backup."""
    return sorted({path.parent for root in roots for path in root.rglob("manifest.json")})


@dataclass(frozen=True)
class EndState:
    """What was seen in the end; empty text means that all is well."""

    fault: str
    server: str = ""
    threads: str = ""
    data: str = ""
    bad_sets: tuple[str, ...] = ()
    next_run: str = ""

    @property
    def survived(self) -> bool:
        return not (self.server or self.threads or self.data or self.bad_sets or self.next_run)


@dataclass
class Faults:
    """The faults of one test."""

    seen: list[EndState] = field(default_factory=list)

    def settle(
        self,
        fault: str,
        subject: Subject,
        before: State,
        next_run: Callable[[], object] | None = None,
        *,
        writes: Callable[[], object] | None = None,
        patience: float = PATIENCE,
    ) -> EndState:
        """Look at the end state, count the fault, and fail the test when it was not survived.

        ``writes`` lets the source write something first, so that replication has to show that it works. ``next_run``
        makes a backup and raises when it fails; its set, like every other, is then read and compared with its manifest.
        """
        found = self._look(fault, subject, before, next_run, writes, patience)
        self.seen.append(found)
        assert found.survived, found
        return found

    def count(self, fault: str, *, server_up: bool, bad_sets: int = 0) -> None:
        """Count a fault whose end state the test has checked by itself, before its own assertions."""
        self.seen.append(
            EndState(fault, server="" if server_up else "down", bad_sets=tuple(["bad"] * bad_sets)),
        )

    def figures(self) -> dict[str, int]:
        return {
            INJECTED: len(self.seen),
            SURVIVED: sum(item.survived for item in self.seen),
            LEFT_DOWN: sum(bool(item.server) for item in self.seen),
            BAD_SETS: sum(len(item.bad_sets) for item in self.seen),
        }

    def _look(
        self,
        fault: str,
        subject: Subject,
        before: State,
        next_run: Callable[[], object] | None,
        writes: Callable[[], object] | None,
        patience: float,
    ) -> EndState:
        server, threads = _wait_until_as(subject, before, patience)
        data = run = ""
        if not server:
            data = _complaint(writes) or _complaint(lambda: _raise_if(subject.differences()))
        bad = bad_sets(subject.offered())
        if not server:
            known = set(subject.offered())
            run = _complaint(next_run)
            new = set(subject.offered()) - known
            if next_run is not None and not run and not new:
                run = "it made no set"
            bad = tuple(dict.fromkeys((*bad, *bad_sets(new))))
            if next_run is not None:
                down, odd = _wait_until_as(subject, before, patience)
                run = run or down or odd
        return EndState(fault, server, threads, data, bad, run)


def bad_sets(directories: Iterable[Path]) -> tuple[str, ...]:
    """Those that look like a backup and are none, with what is wrong."""
    found = []
    for directory in directories:
        try:
            verify(str(directory))
        except (ReplicaBackupError, OSError) as error:
            found.append(f"{directory}: {error}")
    return tuple(found)


def _wait_until_as(subject: Subject, before: State, patience: float) -> tuple[str, str]:
    """(why the server counts as down, what of its threads and switches differs); both empty when all is as before."""
    deadline = time.monotonic() + patience
    while True:
        server, threads = "", ""
        try:
            now = subject.state()
        except Exception as error:  # whatever the client raises: it gives no answer
            server = f"{subject.name} does not answer: {error}"
        else:
            if now == before:
                return "", ""
            threads = ", ".join(
                f"{name}: {before.get(name)} -> {now.get(name)}"
                for name in sorted({*before, *now})
                if before.get(name) != now.get(name)
            )
        if time.monotonic() > deadline:
            return server, threads
        time.sleep(0.2)


def _complaint(action: Callable[[], object] | None) -> str:
    """What it raised, or nothing; a test's own failure counts too, so that the fault stands in the figures."""
    if action is None:
        return ""
    try:
        action()
    except Exception as error:  # told by the end state that the caller asserts
        return f"{type(error).__name__}: {error}"
    return ""


def _raise_if(differences: object) -> None:
    if differences:
        raise ValueError(f"not equal to the source: {differences}")


@pytest.fixture
def faults(record_property: Callable[[str, object], None]) -> Iterator[Faults]:
    """The faults of this test; their figures go to the JUnit file, whatever comes of the test."""
    found = Faults()
    yield found
    for name, value in found.figures().items():
        record_property(name, value)
