# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets in a real S3 service, read by a real rclone: whole, gone on with after an interruption, or refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job as archive_job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.backup_set import BackupSet
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import journal, rclone, worker
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import RcloneFeed
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.rclone import Remote
from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.object_store import ObjectStore, missing, object_store
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import run_playbook, write_inventory
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive import (
    archive_support,
    set_support,
)
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.archive_support import look
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import Site
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._restore.stream_support import (
    PLACE,
    land,
    land_parts,
    made,
)

tree = archive_support.tree
site = set_support.site

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Restore
      mysql_ops.replica_backup.replica_restore:
        src: "{{ src }}"
        rclone_config: "{{ rclone_config }}"
        state_dir: "{{ state }}"
        defaults_file: "{{ defaults_file }}"
        server_binary: "{{ server_binary }}"
        identity: clone
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    lacking = missing()
    if lacking:
        # Not skipped: that a set comes from an object store would then be proven by nothing.
        pytest.fail(lacking)
    with object_store(tmp_path_factory.mktemp("store")) as serving:
        yield serving


@pytest.fixture
def plain_names(site: Site) -> Site:
    """Give the tree without names that the stand-in for S3 cannot list (XML has no control characters)."""
    for entry in os.listdir(os.fsencode(site.tree)):
        if entry in (b"new\nline", b"bad\xff\xfeutf8", b"cr\r"):
            os.unlink(os.path.join(os.fsencode(site.tree), entry))
    (site.tree / "random").write_bytes(os.urandom(3_000_000))
    set_support.write_list(site, set_support.discovery(site.tree))
    return site


def feed_of(store: ObjectStore, remote: str, tmp_path: Path, timeout: float = 20.0) -> RcloneFeed:
    work = tmp_path / "work"
    work.mkdir(mode=0o700)
    return RcloneFeed(Remote(remote, str(store.config), timeout), str(work))


def uploaded(store: ObjectStore, backup: BackupSet, name: str) -> str:
    return store.upload(Path(backup.directory), f"{name}/{backup.label}")


@pytest.mark.parametrize(("form", "compression"), [("tar", "zstd"), ("copy", "none"), ("zip", "zstd")])
def test_a_set_of_each_form(plain_names: Site, store: ObjectStore, tmp_path: Path, form: str, compression: str) -> None:
    backup = made(plain_names, form, compression)
    remote = uploaded(store, backup, form)
    shutil.rmtree(backup.directory)
    feed = feed_of(store, remote, tmp_path)
    assert feed.where == remote
    land(feed.reader(), feed.backup, tmp_path / "restored")
    feed.close()
    assert look(tmp_path / "restored" / PLACE) == look(plain_names.tree)
    # No second copy is left, and of a stream there never was one.
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"manifest.json", "SHA256SUMS"}


def test_a_set_of_several_parts(plain_names: Site, store: ObjectStore, tmp_path: Path) -> None:
    """They are read at the same time, and an interruption of one is gone on with."""
    backup = made(plain_names, "tar", "none", shards=3)
    feed = feed_of(store, uploaded(store, backup, "shards"), tmp_path)
    before = store.link.cuts
    store.link.budget = 1_500_000
    land_parts(feed, tmp_path / "restored")
    feed.close()
    assert store.link.cuts == before + 1
    assert look(tmp_path / "restored" / PLACE) == look(plain_names.tree)


@pytest.mark.parametrize("stalls", [False, True], ids=["ends", "stalls"])
def test_an_interruption_is_gone_on_with(
    plain_names: Site, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stalls: bool
) -> None:
    backup = made(plain_names, "tar", "none")
    feed = feed_of(store, uploaded(store, backup, f"interrupted-{stalls}"), tmp_path, 3.0)
    before = store.link.cuts
    monkeypatch.setattr(store.link, "stalls", stalls)
    store.link.budget = 1_500_000
    land(feed.reader(), feed.backup, tmp_path / "restored")
    feed.close()
    assert store.link.cuts == before + 1
    assert look(tmp_path / "restored" / PLACE) == look(plain_names.tree)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_link_that_stays_cut(
    plain_names: Site, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    backup = made(plain_names, "tar", compression)
    feed = feed_of(store, uploaded(store, backup, f"cut-{compression}"), tmp_path)
    monkeypatch.setattr(rclone, "ATTEMPTS", 2)
    reader = feed.reader()
    store.link.cut()
    try:
        with pytest.raises(ReplicaBackupError, match="was interrupted") as caught:
            land(reader, feed.backup, tmp_path / "restored")
        assert caught.value.expected == f"{backup.part.bytes} bytes"
        with pytest.raises(RefusedError, match="cannot be read by rclone"):
            RcloneFeed(Remote(feed.where, str(store.config), 5.0), str(tmp_path))
    finally:
        feed.close()
        store.link.mend()


def test_what_is_no_whole_set_is_refused(plain_names: Site, store: ObjectStore, tmp_path: Path) -> None:
    backup = made(plain_names, "tar", "zstd")
    part = Path(backup.directory) / backup.part.name
    flipped = bytearray(part.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    part.write_bytes(flipped)
    damaged = feed_of(store, uploaded(store, backup, "damaged"), tmp_path)
    with pytest.raises(ReplicaBackupError):
        land(damaged.reader(), damaged.backup, tmp_path / "restored")
    damaged.close()

    shutil.rmtree(tmp_path / "work")
    os.truncate(part, backup.part.bytes - 1)
    with pytest.raises(RefusedError, match="is missing or not the one that was written"):
        feed_of(store, uploaded(store, backup, "short"), tmp_path)

    shutil.rmtree(tmp_path / "work")
    (Path(backup.directory) / "manifest.json").unlink()
    with pytest.raises(RefusedError, match="no manifest, which is written last"):
        feed_of(store, uploaded(store, backup, "unfinished"), tmp_path)


def test_what_rclone_needs(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError, match="no remote of rclone's configuration") as secret:
        rclone.check(Remote(":s3,secret_access_key=hunter2:bucket/db1/id"))
    assert "hunter2" not in str(secret.value)
    with pytest.raises(RefusedError, match="configuration file is missing"):
        rclone.check(Remote("lab:sets", "/nonexistent/rclone.conf"))
    monkeypatch.setattr(rclone, "_SEARCH", "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(RefusedError, match="rclone is missing on this host"):
        rclone.check(Remote("lab:sets", str(store.config)))


def test_what_is_a_remote() -> None:
    for text in ("lab:sets/db1/id", "my-store:", "s3_eu:bucket/a:b"):
        assert rclone.is_remote(text)
    for text in ("/srv/a:b", "./lab:x", "db1/20260101T000000Z", "latest", "s3://bucket/db1", ":s3:bucket"):
        assert not rclone.is_remote(text)


def test_a_server_out_of_an_object_store(store: ObjectStore, tmp_path: Path) -> None:
    with Topology(lab_root(), replicas=1) as topology:
        replica = topology.replicas[0]
        topology.source.query("CREATE DATABASE stored")
        topology.source.query("CREATE TABLE stored.rows_ (id INT PRIMARY KEY) ENGINE=InnoDB")
        topology.source.query("INSERT INTO stored.rows_ VALUES (1), (2)")
        topology.wait_caught_up()
        window = Window(replica, topology.root / "window")
        window.root.mkdir()
        window.stop()
        archive_job.present(archive_job.Request(paths=window.paths, state_dir=window.state))
        window.start()
        remote = store.upload(Path(window.paths.directory), f"{replica.name}/20260101T000000Z")
        shutil.rmtree(window.paths.directory)
        server = topology.add("fromstore", settings={"read_only": "ON"})
        shutil.rmtree(server.datadir)
        server.datadir.mkdir()
        server._give(server.datadir)
        state = server.directory / "state"
        playbook = tmp_path / "restore.yml"
        playbook.write_text(PLAYBOOK)
        host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory = write_inventory(tmp_path / "inventory.yml", {"all": {"hosts": {server.name: host}}})
        variables = {
            "src": remote,
            "rclone_config": str(store.config),
            "state": str(state),
            "defaults_file": str(server.config),
            "server_binary": str(server.flavor.server),
        }
        planned = run_playbook(str(playbook), inventory, "--check", extra_vars=variables)
        assert planned.status == 0, planned.output
        assert not state.exists()

        run = run_playbook(str(playbook), inventory, extra_vars=variables)

        assert run.status == 0, run.output
        left = journal.load(str(state))
        assert left is not None
        assert left.phase == "laid"
        assert {path.name for path in Path(worker.directory(str(state))).iterdir()} <= {"status.json", "worker.err"}
        secret = store.config.read_text().partition("secret_access_key = ")[2].splitlines()[0]
        for path in (*state.rglob("*.json"), *Path(worker.directory(str(state))).iterdir()):
            assert secret not in path.read_text()
        assert json.loads((Path(worker.directory(str(state))) / "status.json").read_text())["where"] == remote
        server.start()
        topology.source.query("INSERT INTO stored.rows_ VALUES (3)")
        assert topology.differences(server) == {}
