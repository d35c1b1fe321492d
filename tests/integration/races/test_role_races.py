# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens beside a backup: files that change, a compressor that dies, another backup, an early recovery."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.integration.test_role_backup import (
    assert_set_is_whole,
    leftovers,
    recover,
    replicates,
    wait_for,
)
from ansible_collections.mysql_ops.replica_backup.tests.integration.test_role_refuses import backup, flat
from ansible_collections.mysql_ops.replica_backup.tests.lab import processes
from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import Run

# Enough to do for seconds on little data: what cannot be compressed, with great effort. xz takes its input as it goes;
# zstd swallows all of this before it begins, and then chews.
_BULK = 16 * 1024 * 1024
SLOW = {"compression": "xz", "compression_level": "6", "compression_threads": "1"}
CHEWING = {"compression": "zstd", "compression_level": "19", "compression_threads": "1"}


@pytest.fixture
def replica(fleet: Fleet) -> Iterator[Server]:
    """The first replica, with bulk in its data directory and a file that sorts behind it."""
    server = fleet.replicas[0]
    files = [server.datadir / "yy-bulk", server.datadir / "zz-small"]
    files[0].write_bytes(os.urandom(_BULK))
    files[1].write_text("small")
    for file in files:
        shutil.chown(file, server.datadir.owner(), server.datadir.group())
    yield server
    for file in files:
        file.unlink(missing_ok=True)
    # However it went, the next run is as every other.
    run = backup(fleet, None, "--limit", server.name, compression="none")
    assert run.status == 0, run.output
    assert replicates(server)
    assert leftovers(fleet) == []
    shutil.rmtree(fleet.backups / server.name)


def step(fleet: Fleet, server: Server) -> str:
    """The step that the open ledger of a server stands at; empty without one."""
    with contextlib.suppress(FileNotFoundError):
        return str(json.loads((fleet.root / "state" / server.name / "ledger.json").read_text())["step"])
    return ""


@contextlib.contextmanager
def under_way(fleet: Fleet, server: Server, size: int = 0, **variables: str) -> Iterator[Future[Run]]:
    """A slow backup, at the moment when its archive is begun, or has that many bytes."""
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(backup, fleet, None, "--limit", server.name, **{**SLOW, **variables})
        spool = fleet.root / "spool" / server.name
        while not run.done() and not any(path.stat().st_size >= size for path in spool.rglob("data.tar*.partial")):
            time.sleep(0.005)
        assert not run.done(), run.result().output
        yield run


def assert_no_set_but_a_server(fleet: Fleet, server: Server, run: Run) -> None:
    assert run.status == 2, run.output
    assert "server restored: yes" in run.output
    assert "backup usable: no" in run.output
    assert "capture: cold (" in flat(run.output)
    assert replicates(server)
    assert fleet.set_directories(server) == []
    assert leftovers(fleet) == []
    assert step(fleet, server) == ""


def test_a_file_that_vanishes(fleet: Fleet, replica: Server) -> None:
    file = replica.datadir / "zz-small"
    # Read for a second or so before the small file's turn comes, for nothing holds it up without a compressor.
    with (replica.datadir / "yy-bulk").open("ab") as bulk:
        for _piece in range(24):
            bulk.write(os.urandom(_BULK))
    # The directory is read again when the archive begins; by this size it has been, and the bulk's turn is on.
    with under_way(fleet, replica, 8 * _BULK, compression="none", compression_level="") as run:
        while not run.done():
            file.unlink(missing_ok=True)
            time.sleep(0.005)
    assert f"{file.resolve()} vanished while " in flat(run.result().output), run.result().output
    assert_no_set_but_a_server(fleet, replica, run.result())


def compressors(spool: Path) -> Iterator[int]:
    """Every zstd whose parent writes below the spool."""
    for pid in processes.all_pids():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() != "zstd\n":
                continue
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if any(str(fd.readlink()).startswith(str(spool)) for fd in Path(f"/proc/{parent}/fd").iterdir()):
                yield pid


def compressor_of(spool: Path) -> int:
    """The file that it writes is there a moment before it."""
    wait_for(lambda: any(compressors(spool)), 30)
    return next(compressors(spool))


def test_the_compressor_is_killed(fleet: Fleet, replica: Server) -> None:
    with under_way(fleet, replica, 0, **CHEWING) as run:
        os.kill(compressor_of((fleet.root / "spool" / replica.name).resolve()), signal.SIGKILL)
    assert "zstd was killed by signal 9 (SIGKILL)" in flat(run.result().output)
    assert_no_set_but_a_server(fleet, replica, run.result())


def starts(server: Server) -> int:
    return server.error_log.read_text(errors="replace").count("ready for connections")


def test_a_second_backup_beside_the_first(fleet: Fleet, replica: Server, tmp_path: Path) -> None:
    before = starts(replica)
    with under_way(fleet, replica) as run:
        lost = backup(fleet, None, "--limit", replica.name, lock_timeout="1")
        won = run.result()
    assert (won.status, lost.status) == (0, 2), won.output + lost.output
    said = flat(lost.output)
    assert "Another run is at work on this server" in said or "An earlier run on this server is not finished" in said
    assert "this run did not stop it" in said
    (directory,) = fleet.set_directories(replica)
    assert_set_is_whole(directory, tmp_path)
    # It went down once, for the winner, and nobody made it wait for the loser.
    assert starts(replica) == before + 1
    assert replicates(replica)


def test_recover_beside_a_backup(fleet: Fleet, replica: Server, tmp_path: Path) -> None:
    before = starts(replica)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(backup, fleet, None, "--limit", replica.name, **SLOW)
        # Its controller is between two modules then, or about to be.
        wait_for(lambda: run.done() or step(fleet, replica) in ("stopped", "capture"))
        recovery = recover(fleet, "--limit", replica.name)
        assert run.result().status == 0, run.result().output
    # It has waited for the backup to end, or given up; either way it said so.
    said = "No unfinished run." if recovery.status == 0 else "An earlier run on this server is not finished"
    assert said in flat(recovery.output), recovery.output
    (directory,) = fleet.set_directories(replica)
    assert_set_is_whole(directory, tmp_path)
    assert starts(replica) == before + 1
    assert replicates(replica)
