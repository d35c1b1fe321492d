# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore must leave alone, or not lose: earlier restores, other servers, its records, shared directories."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import stat
import subprocess
import tempfile
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import job, journal
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import LocalFeed
from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window


@dataclasses.dataclass(frozen=True)
class Site:
    """``directory`` is a set whose replica kept its SQL_LOAD files in ``shared``, where everybody may write."""

    topology: Topology
    directory: Path
    shared: Path

    @property
    def replica(self) -> Server:
        return self.topology.replicas[0]


def restore(server: Server, directory: Path, *, check: bool = False, **changes: t.Any) -> dict[str, t.Any]:
    made = job.Request(
        state_dir=str(server.directory / "state"),
        hints=Hints(defaults_file=str(server.config), server_binary=str(server.flavor.server)),
        identity="clone",
    )
    return job.restore(dataclasses.replace(made, **changes), LocalFeed(str(directory)), check=check)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    # Where other users get to.
    with tempfile.TemporaryDirectory(dir="/tmp") as name, contextlib.ExitStack() as ended:
        shared = Path(name)
        shared.chmod(0o1777)
        topology = ended.enter_context(
            Topology(lab_root(), replicas=1, replica_settings={"slave_load_tmpdir": str(shared)})
        )
        replica = topology.replicas[0]
        (shared / "SQL_LOAD-2-1-1.data").write_bytes(b"1\n")
        replica._give(shared / "SQL_LOAD-2-1-1.data")
        topology.wait_caught_up()
        window = Window(replica, topology.root / "window")
        window.root.mkdir()
        window.stop()
        window.archive()
        window.start()
        yield Site(topology, Path(window.paths.directory), shared)


@pytest.fixture
def host(site: Site) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(name: str, **settings: str) -> Server:
        made.append(site.topology.add(name, settings={"read_only": "ON", **settings}))
        return made[-1]

    yield make
    for server in made:
        server.kill()
        shutil.rmtree(server.directory)


def test_a_restore_that_waits_outlives_the_next_one_that_fails(site: Site, host: Callable[..., Server]) -> None:
    server = host("waits")
    restore(server, site.directory)
    state = str(server.directory / "state")
    waiting = journal.load(state)
    assert waiting is not None and waiting.phase == "laid" and waiting.moved_aside
    with pytest.raises(RefusedError, match="not resumed yet"):
        restore(server, site.directory, check=True, identity="same")
    assert restore(server, site.directory, check=True)["changed"] is False
    assert restore(server, site.directory, check=True, force=True)["changed"] is True
    damaged = site.topology.root / "damaged"
    shutil.copytree(site.directory, damaged)
    with (damaged / "data.tar.zst").open("r+b") as handle:
        handle.truncate(handle.seek(0, 2) - 10)
    with pytest.raises(ReplicaBackupError):
        restore(server, damaged, force=True)
    assert journal.load(state) == waiting
    # Killed half way, and then asked without force: the one that waits still refuses.
    child = os.fork()
    if child == 0:
        job.stage.lay_down = lambda *arguments: os._exit(0)  # type: ignore[attr-defined]
        try:
            restore(server, site.directory, force=True)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    killed = journal.load(state)
    assert killed is not None and killed.phase == "staging"
    assert restore(server, site.directory)["changed"] is False
    assert journal.load(state) == waiting
    done = restore(server, site.directory, force=True)
    # Both that were moved aside are named.
    assert done["moved_aside"][:1] == waiting.moved_aside and len(done["moved_aside"]) == 2


@pytest.mark.parametrize("rule", ["state_dir", "set"])
def test_what_the_restore_needs_is_not_moved_aside(site: Site, host: Callable[..., Server], rule: str) -> None:
    server = host("inside")
    inside = server.datadir / "inside"
    before = sorted(os.listdir(server.datadir))
    with pytest.raises(RefusedError, match="would be moved aside") as refused:
        if rule == "set":
            shutil.copytree(site.directory, inside)
            restore(server, inside)
        else:
            restore(server, site.directory, state_dir=str(inside))
    shutil.rmtree(inside)
    assert refused.value.facts["rule"] == rule
    assert sorted(os.listdir(server.datadir)) == before


def test_another_server_inside_of_the_directory(site: Site, host: Callable[..., Server]) -> None:
    outer, inner = host("outer"), host("inner")
    where = outer.datadir / "inner"
    os.rename(inner.datadir, where)
    inner.datadir = inner.binlog_directory = inner.relay_log_directory = where
    inner.write_config()
    inner.start()
    with pytest.raises(RefusedError, match="Another server works on"):
        restore(outer, site.directory)
    assert inner.is_running() and inner.query("SELECT 1")
    assert where.is_dir()


def test_binary_logs_of_a_similar_name_are_anothers(site: Site, host: Callable[..., Server]) -> None:
    logs = site.topology.root / "logs"
    logs.mkdir()
    site.replica._give(logs)
    server, other = host("first", log_bin=str(logs / "bin")), host("others", log_bin=str(logs / "bin-other"))
    (logs / "bin.000007").write_bytes(b"former")
    other.start()
    theirs = [name for name in os.listdir(logs) if name.startswith("bin-other")]
    restore(server, site.directory)
    assert set(theirs) <= set(os.listdir(logs)) and "bin.000007" not in os.listdir(logs)
    other.stop()
    other.start()


def test_a_server_that_somebody_starts_in_the_last_moment(
    site: Site, host: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = host("late")
    real = job.switch  # type: ignore[attr-defined]

    def late(*arguments: t.Any) -> None:
        if not server.is_running():
            server.start()
        real(*arguments)

    monkeypatch.setattr(job, "switch", late)
    with pytest.raises(ReplicaBackupError, match="Somebody has started the server"):
        restore(server, site.directory)
    going = journal.load(str(server.directory / "state"))
    assert going is not None and going.phase == "switching"
    server.kill()
    monkeypatch.undo()
    assert restore(server, site.directory)["phase"] == "laid"
    server.start()
    assert site.topology.differences(server) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="other users are needed")
def test_nobody_else_puts_anything_into_a_shared_directory_that_is_being_filled(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory as /tmp: root renames what lies in the staging directory over what others have there."""
    victim = site.shared / "victim"
    victim.write_bytes(b"theirs")
    real = job._exchange
    staged: list[str] = []

    def exchange(record: journal.Journal, roots: t.Sequence[t.Any]) -> None:
        staged.extend(root.staging for root in roots if root.path == str(site.shared))
        modes = {stat.S_IMODE(os.stat(root.staging).st_mode) for root in roots if root.style == "shared"}
        assert modes == {0o700}
        put = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "touch", f"{staged[0]}/victim"]
        assert subprocess.run(put, check=False, capture_output=True).returncode != 0
        real(record, roots)

    monkeypatch.setattr(job, "_exchange", exchange)
    site.replica.stop()
    restore(site.replica, site.directory, identity="same")
    assert staged and victim.read_bytes() == b"theirs"
    assert stat.S_IMODE(site.shared.stat().st_mode) == 0o1777
    assert (site.shared / "SQL_LOAD-2-1-1.data").read_bytes() == b"1\n"
    site.replica.start()
