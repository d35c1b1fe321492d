# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set on the controller becomes a server elsewhere: over a real ssh, logged in as a user who may become root.

The link is cut, the controller is killed, a piece is changed on its way; each time the host is as it was, or goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import typing as t
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job as archive_job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import inbox, journal, worker
from ansible_collections.mysql_ops.replica_backup.tests.integration import test_fetch
from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.integration.test_fetch import Remote
from ansible_collections.mysql_ops.replica_backup.tests.lab import processes
from ansible_collections.mysql_ops.replica_backup.tests.lab.link import Link
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import (
    Run,
    environment,
    run_playbook,
    write_inventory,
)
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

pytestmark = test_fetch.pytestmark

remote = test_fetch.remote

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Restore
      mysql_ops.replica_backup.replica_restore:
        src: "{{ src }}"
        state_dir: "{{ state }}"
        defaults_file: "{{ defaults_file }}"
        server_binary: "{{ server_binary }}"
        identity: clone
        timeout: "{{ timeout | default(300) }}"
      register: restored
    - name: Keep the result
      ansible.builtin.copy:
        content: "{{ restored | to_json }}"
        dest: "{{ result }}"
        mode: "0600"
      delegate_to: localhost
      connection: local
      become: false
      check_mode: false
"""


@dataclass(frozen=True)
class Site:
    """A source with one replica, and sets of that replica: a tar without compression, and a copy; several pieces."""

    topology: Topology
    sets: dict[str, Path]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Topology(lab_root(), replicas=1) as topology:
        source, replica = topology.source, topology.replicas[0]
        source.query("CREATE DATABASE big")
        source.query("CREATE TABLE big.rows_ (id INT AUTO_INCREMENT PRIMARY KEY, data LONGBLOB) ENGINE=InnoDB")
        source.query("INSERT INTO big.rows_ (data) SELECT REPEAT('x', 1500000)")
        for _doubling in range(6):
            source.query("INSERT INTO big.rows_ (data) SELECT data FROM big.rows_")
        topology.wait_caught_up()
        sets = {}
        for form in ("tar", "copy"):
            window = Window(replica, topology.root / form)
            window.root.mkdir()
            window.stop()
            archive_job.present(
                archive_job.Request(paths=window.paths, state_dir=window.state, form=form, compression="none")
            )
            window.start()
            sets[form] = Path(window.paths.directory)
        yield Site(topology, sets)


@dataclass(frozen=True)
class Playbook:
    """One that runs."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait(self) -> Run:
        return Run(self.process.wait(), self.log.read_text())

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class Target:
    """A host that becomes a replica; ``link`` is the way to it."""

    server: Server
    remote: Remote
    link: Link

    @property
    def state(self) -> str:
        return str(self.server.directory / "state")

    @property
    def result(self) -> Path:
        return self.server.directory / "result.json"

    def arguments(self, src: Path, **variables: t.Any) -> tuple[str, Path, dict[str, t.Any]]:
        playbook = self.server.directory / "restore.yml"
        playbook.write_text(PLAYBOOK)
        host = {**self.remote.variables, "ansible_port": self.link.port, "ansible_ssh_retries": 0}
        inventory = write_inventory(
            self.server.directory / "inventory.yml", {"all": {"hosts": {self.server.name: host}}}
        )
        return (
            str(playbook),
            inventory,
            {
                "src": str(src),
                "state": self.state,
                "defaults_file": str(self.server.config),
                "server_binary": str(self.server.flavor.server),
                "result": str(self.result),
                **variables,
            },
        )

    def run(self, src: Path, *options: str, **variables: t.Any) -> tuple[Run, dict[str, t.Any]]:
        playbook, inventory, extra = self.arguments(src, **variables)
        self.result.unlink(missing_ok=True)
        done = run_playbook(playbook, inventory, *options, extra_vars=extra)
        return done, json.loads(self.result.read_text()) if self.result.exists() else {}

    @contextlib.contextmanager
    def running(self, src: Path, **variables: t.Any) -> Iterator[Playbook]:
        """Run in the background, in a process group of its own."""
        playbook, inventory, extra = self.arguments(src, **variables)
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), playbook]
        log = self.server.directory / "playbook.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "-e", json.dumps(extra)],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started = Playbook(process, log)
        try:
            yield started
        finally:
            started.kill()

    def stopped_worker(self) -> worker.Status:
        """Wait for the worker and hold it, so that pieces pile up in front of it; returns when two have."""
        while True:
            status = Path(worker.directory(self.state)) / "status.json"
            found = worker.status(self.state) if status.exists() else None
            if found is not None and found.state == worker.RUNNING:
                break
            time.sleep(0.02)
        os.kill(found.pid, signal.SIGSTOP)
        while len(inbox.parse(os.listdir(found.inbox)).pieces) < inbox.PIECES:
            assert worker.status(self.state) == found
            time.sleep(0.05)
        return found

    def wait_for_end(self) -> worker.Status:
        while True:
            found = worker.status(self.state)
            assert found is not None
            if not found.at_work:
                return found
            time.sleep(0.05)

    def assert_nothing_left(self) -> None:
        """Whatever happened, what was sent is gone, and of the worker there is its status alone."""
        assert {path.name for path in Path(worker.directory(self.state)).iterdir()} <= {"status.json", "worker.err"}
        for parent in (self.server.directory, Path("/var/tmp"), Path("/tmp")):
            assert list(parent.glob(".replica-restore-*")) == []

    def assert_untouched(self) -> None:
        self.assert_nothing_left()
        assert list(self.server.datadir.iterdir()) == []
        assert list(self.server.directory.rglob("*restoring-*")) == []
        assert journal.load(self.state) is None


@pytest.fixture
def make_target(site: Site, remote: Remote) -> Iterator[Callable[[], Target]]:
    """Give a factory of servers with settings and an empty data directory."""
    made: list[Target] = []

    def make() -> Target:
        server = site.topology.add(f"target{uuid.uuid4().hex[:6]}", settings={"read_only": "ON"})
        shutil.rmtree(server.datadir)
        server.datadir.mkdir()
        server._give(server.datadir)
        (server.directory / "state").mkdir(mode=0o700)
        made.append(Target(server, remote, Link(int(remote.variables["ansible_port"]))))
        return made[-1]

    yield make
    for each in made:
        each.link.cut()
        found = worker.status(each.state)
        if found is not None and found.at_work:
            os.kill(found.pid, signal.SIGCONT)
            found = worker.end(each.state)
        assert found is None or not found.at_work
        each.server.kill()
        # Ansible keeps its connection through the link for the next run.
        processes.end([pid for pid in processes.all_pids() if _is_master(pid, each.link.port)])
        shutil.rmtree(each.server.directory)


@pytest.fixture
def target(make_target: Callable[[], Target]) -> Target:
    return make_target()


def _is_master(pid: int, port: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return words.startswith(b"ssh: ") and bytes(str(port), "ascii") in words


def assert_serves(site: Site, target: Target) -> None:
    """The restored server has the rows of the source, and replicates."""
    target.assert_nothing_left()
    left = journal.load(target.state)
    assert left is not None
    assert left.phase == "laid"
    target.server.start()
    site.topology.source.query("INSERT INTO big.rows_ (data) VALUES ('later')")
    assert site.topology.differences(target.server) == {}
    channel = target.server.channel()
    assert channel is not None
    assert channel.replicating


def test_a_set_from_the_controller(site: Site, target: Target) -> None:
    run, result = target.run(site.sets["tar"], "--check")
    assert run.status == 0, run.output
    assert result["datadir_state"] == "empty"
    assert result["set_from"] == str(site.sets["tar"])
    assert {entry["path"] for entry in result["directories"]} >= {str(target.server.datadir)}
    assert list((target.server.directory / "state").iterdir()) == []
    assert list(target.server.datadir.iterdir()) == []

    run, result = target.run(site.sets["tar"])
    assert run.status == 0, run.output
    assert (result["changed"], result["phase"]) == (True, "laid")
    assert result["set"] == f"{site.topology.replicas[0].name}/20260101T000000Z"
    assert_serves(site, target)


def test_two_hosts_from_one_plain_copy_at_once(site: Site, target: Target, make_target: Callable[[], Target]) -> None:
    other = make_target()
    with target.running(site.sets["copy"]) as one, other.running(site.sets["copy"]) as two:
        for run in (one.wait(), two.wait()):
            assert run.status == 0, run.output
    for each in (target, other):
        assert_serves(site, each)


def test_the_link_is_cut_and_the_next_run_goes_on(site: Site, target: Target) -> None:
    with target.running(site.sets["tar"]) as playbook:
        held = target.stopped_worker()
        target.link.cut()
        run = playbook.wait()
    assert run.status == 4, run.output
    assert "UNREACHABLE" in run.output
    listing = inbox.parse(os.listdir(held.inbox))
    assert len(listing.pieces) == inbox.PIECES
    os.kill(held.pid, signal.SIGCONT)
    target.link.mend()
    run, result = target.run(site.sets["tar"])
    assert run.status == 0, run.output
    assert result["changed"] is True
    done = worker.status(target.state)
    assert done is not None
    # The very same process, which the second run found at work.
    assert (done.token, done.pid) == (held.token, held.pid)
    assert_serves(site, target)


def test_the_controller_is_killed_and_the_host_is_as_it_was(site: Site, target: Target) -> None:
    with target.running(site.sets["tar"], timeout=2) as playbook:
        held = target.stopped_worker()
        playbook.kill()
    # What it had started may still be sending.
    target.link.cut()
    os.kill(held.pid, signal.SIGCONT)
    given_up = target.wait_for_end()
    assert given_up.state == "failed"
    assert "has stopped coming" in given_up.error["msg"]
    target.assert_untouched()


def test_a_piece_is_changed_on_its_way(site: Site, target: Target) -> None:
    with target.running(site.sets["tar"]) as playbook:
        held = target.stopped_worker()
        last = inbox.parse(os.listdir(held.inbox)).pieces[-1]
        with open(Path(held.inbox) / last.name, "r+b") as handle:
            handle.seek(last.bytes // 2)
            byte = handle.read(1)[0]
            handle.seek(-1, 1)
            handle.write(bytes([byte ^ 1]))
        os.kill(held.pid, signal.SIGCONT)
        run = playbook.wait()
    assert run.status == 2, run.output
    assert "did not arrive as it was sent" in run.output or "is not what was written" in run.output
    target.assert_untouched()


def test_the_worker_is_killed_and_the_run_says_so(site: Site, target: Target) -> None:
    with target.running(site.sets["tar"]) as playbook:
        held = target.stopped_worker()
        os.kill(held.pid, signal.SIGKILL)
        run = playbook.wait()
    assert run.status == 2, run.output
    assert "ended without a word" in run.output
    target.assert_nothing_left()
    # The next one clears up what was laid down so far.
    run, _result = target.run(site.sets["tar"])
    assert run.status == 0, run.output
    assert_serves(site, target)
