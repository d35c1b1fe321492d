# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of the spool of a run that died: a whole archive becomes a backup, anything less goes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job, leftover
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.verify import verify
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import (
    HOST,
    Site,
)


def offered(site: Site) -> bool:
    return os.path.exists(site.paths.manifest)


def settle(site: Site) -> leftover.Settled:
    with _ledger.locked(str(site.state), "test"):
        return leftover.settle(site.ledger())


@pytest.mark.parametrize(("form", "compression"), [("tar", "zstd"), ("zip", "zstd"), ("copy", "none")])
def test_a_whole_archive_is_proven_and_published(site: Site, form: str, compression: str) -> None:
    job.capture(site.request(form=form, compression=compression))
    ledger = site.ledger()
    # Whoever brought the server back has noted how long it was away.
    ledger.data["downtime_seconds"] = 7.5
    ledger.begin("serving")
    assert "would be read back, proven and published" in leftover.foretell(site.ledger())[0]
    assert not offered(site)
    settled = settle(site)
    assert settled.kept == leftover.KeptSet(str(site.spool), HOST, site.paths.backup_id)
    # Whoever reads this may have had it brought in the same breath.
    assert settled.words[1].startswith("It stays on this host until it is brought away: ")
    assert f"recover --limit {HOST} brings it to the controller" in settled.words[1]
    verify(site.paths.directory)
    assert '"downtime_seconds": 7.5' in Path(site.paths.manifest).read_text(encoding="utf-8")
    assert leftover.waiting(str(site.state)) == [settled.kept]
    # Once more, as after a crash between the manifest and the end of the ledger.
    Path(site.paths.work).mkdir()
    again = settle(site)
    assert "is complete and was kept" in again.words[0]
    assert not os.path.exists(site.paths.work)
    assert leftover.waiting(str(site.state)) == [settled.kept]
    verify(site.paths.directory)


def test_a_dead_man_that_fired_after_the_capture_does_not_spoil_it(site: Site) -> None:
    job.capture(site.request())
    (site.state / "deadman.fired").write_text('{"fired": "later"}')
    assert settle(site).kept is not None


def cut_short(site: Site) -> None:
    """As kill -9 leaves it in the middle: parts and notes, but no head of a manifest."""
    job.capture(site.request())
    os.unlink(site.paths.head)


def never_clean(site: Site) -> None:
    job.capture(site.request())
    ledger = site.ledger()
    ledger.data["clean_stop"] = {"clean": False}
    ledger.save()


@pytest.mark.parametrize("spoil", [cut_short, never_clean, lambda site: None], ids=["cut short", "not clean", "begun"])
def test_anything_less_is_removed(site: Site, spoil: Callable[[Site], None]) -> None:
    spoil(site)
    assert "would be removed" in leftover.foretell(site.ledger())[0]
    settled = settle(site)
    assert settled.kept is None
    assert settled.words == (f"The unfinished set {site.paths.directory} was removed.",)
    assert not os.path.exists(site.paths.directory)
    assert leftover.waiting(str(site.state)) == []
    assert settle(site).words == ()
    assert leftover.foretell(site.ledger()) == []


def test_an_archive_that_does_not_pass_its_proof_is_removed(site: Site) -> None:
    job.capture(site.request())
    part = Path(site.paths.directory, "data.tar")
    with part.open("r+b") as stream:
        stream.seek(part.stat().st_size // 2)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))
    settled = settle(site)
    assert settled.kept is None
    assert "did not pass its proof and was removed" in settled.words[0]
    assert not os.path.exists(site.paths.directory)


@contextlib.contextmanager
def on_a_file_system_of_its_own(site: Site) -> Iterator[None]:
    """The set as it is, below a mount that can be made read-only."""
    aside = site.spool.with_name("aside")
    site.spool.rename(aside)
    site.spool.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "none", str(site.spool)], check=True)
    try:
        shutil.copytree(aside, site.spool, dirs_exist_ok=True, symlinks=True)
        yield
    finally:
        subprocess.run(["umount", str(site.spool)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_storage_that_refuses_the_manifest_costs_no_archive(site: Site, trouble: str) -> None:
    job.capture(site.request())
    with on_a_file_system_of_its_own(site):
        filler = site.spool / "filler"
        if trouble == "full":
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
                while True:
                    stream.write(b"x" * 65536)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(site.spool)], check=True)
        with pytest.raises(ReplicaBackupError, match="cannot be published") as caught:
            settle(site)
        assert caught.value.facts["server_restored"] is True
        assert f"rm -r {site.paths.directory}" in str(caught.value.next_command)
        assert not offered(site)
        if trouble == "full":
            filler.unlink()
        else:
            subprocess.run(["mount", "-o", "remount,rw", str(site.spool)], check=True)
        assert settle(site).kept is not None
        verify(site.paths.directory)


def test_a_set_that_was_brought_away_is_forgotten(site: Site) -> None:
    job.capture(site.request())
    kept = settle(site).kept
    assert kept is not None
    other = leftover.KeptSet(str(site.spool), HOST, "20250101T000000Z")
    leftover.note(str(site.state), other)
    assert leftover.waiting(str(site.state), check=True) == [kept]
    note = site.state / "kept.json"
    assert other.backup_id in note.read_text()
    assert leftover.waiting(str(site.state)) == [kept]
    assert other.backup_id not in note.read_text()
    job.remove(site.request())
    assert leftover.waiting(str(site.state)) == []
    note.write_text("{")
    assert leftover.waiting(str(site.state)) == []
