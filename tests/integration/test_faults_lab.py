# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The judge of the fault tests finds each way in which a fault was not survived."""

from __future__ import annotations

import typing as t
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.lab import results
from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import FIGURES, Faults, LocalReplica
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with Topology(lab_root(), replicas=1) as topology:
        yield topology


@pytest.fixture
def subject(topology: Topology, tmp_path: Path) -> LocalReplica:
    return LocalReplica(topology, topology.replicas[0], (tmp_path,))


def backup(subject: LocalReplica, root: Path) -> Path:
    root.mkdir()
    window = Window(subject.server, root)
    window.stop()
    window.archive()
    window.start()
    return Path(window.paths.directory)


def test_a_run_that_is_well(subject: LocalReplica, tmp_path: Path) -> None:
    before, found = subject.state(), Faults()
    found.settle("none", subject, before, lambda: backup(subject, tmp_path / "run"), patience=20)
    assert found.figures() == dict(zip(FIGURES, (1, 1, 0, 0)))


def damage(subject: LocalReplica, root: Path) -> None:
    data = backup(subject, root) / "data.tar.zst"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)


FAILURES: dict[str, tuple[t.Callable[[LocalReplica, Path], object], t.Callable[[LocalReplica], object], str]] = {
    "down": (lambda subject, _root: subject.server.stop(), lambda subject: subject.server.start(), "server"),
    "a thread stopped": (
        lambda subject, _root: subject.server.query("STOP SLAVE IO_THREAD"),
        lambda subject: subject.server.query("START SLAVE IO_THREAD"),
        "threads",
    ),
    "a switch": (
        lambda subject, _root: subject.server.query("SET GLOBAL read_only = NOT @@read_only"),
        lambda subject: subject.server.query("SET GLOBAL read_only = NOT @@read_only"),
        "threads",
    ),
    "other data": (
        lambda subject, _root: subject.server.query("CREATE TABLE test.x AS SELECT 1 AS a"),
        lambda subject: subject.server.query("DROP TABLE test.x"),
        "data",
    ),
    "a bad set": (damage, lambda _subject: None, "bad_sets"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_was_not_survived(subject: LocalReplica, tmp_path: Path, case: str) -> None:
    harm, mend, where = FAILURES[case]
    before, found = subject.state(), Faults()
    if "test" not in {row["Database"] for row in subject.server.query("SHOW DATABASES")}:
        subject.server.query("CREATE DATABASE test")
    harm(subject, tmp_path / "run")
    try:
        with pytest.raises(AssertionError):
            found.settle(case, subject, before, patience=2)
    finally:
        mend(subject)
    assert getattr(found.seen[0], where)
    assert found.figures()["faults_survived"] == 0


def test_a_next_run_that_makes_nothing(subject: LocalReplica) -> None:
    found = Faults()
    with pytest.raises(AssertionError, match="it made no set"):
        found.settle("nothing", subject, subject.state(), lambda: None, patience=2)


def test_figures_fail_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: t.Any) -> None:
    suite = ElementTree.Element("testsuite")
    properties = ElementTree.SubElement(ElementTree.SubElement(suite, "testcase"), "properties")
    values = dict(zip(FIGURES, ("3", "2", "1", "0")))
    for name, value in values.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)
    ElementTree.ElementTree(suite).write(tmp_path / "faults.xml")
    monkeypatch.setattr("sys.argv", ["results", str(tmp_path)])
    assert results.main() == 1
    assert capsys.readouterr().out == (
        "faults: 3 injected, 2 survived, 1 servers left down, 0 bad sets offered\n1 passed, 0 failed\n"
    )
