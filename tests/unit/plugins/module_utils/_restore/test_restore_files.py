# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of real servers laid onto hosts: to other directories, over running servers, interrupted, damaged, without room.

What starts and replicates is looked at where files were exchanged; what was refused must have changed nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import time
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job as archive_job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import job, journal, roots, switch
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import LocalFeed
from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.integration.restore.test_load_data import without_log
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import (
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    Server,
    Topology,
)
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting file systems needs root")


@dataclasses.dataclass(frozen=True)
class Site:
    """A source with one replica, and a set of that replica: a compressed tar and a plain copy of the same moment."""

    topology: Topology
    tar: Path
    copy: Path
    tables: Path

    @property
    def replica(self) -> Server:
        return self.topology.replicas[0]

    def host(self, name: str, **settings: str) -> Server:
        """Give another server with settings and an empty data directory, that could become a replica."""
        server = self.topology.add(name, settings={"read_only": "ON", **settings})
        shutil.rmtree(server.datadir)
        server.datadir.mkdir()
        server._give(server.datadir)
        return server


def restore(server: Server, directory: Path, **changes: t.Any) -> dict[str, t.Any]:
    """Lay a set down as a clone that has the tables of their own directory elsewhere, unless told otherwise."""
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8")) if _has_manifest(directory) else {}
    tables = [place["path"] for place in manifest.get("places", ()) if place["name"] == "tablespaces"]
    made = job.Request(
        state_dir=str(server.directory / "state"),
        hints=Hints(defaults_file=str(server.config), server_binary=str(server.flavor.server)),
        identity="clone",
        moves={path: str(server.directory / "tables") for path in tables},
    )
    return job.restore(dataclasses.replace(made, **changes), LocalFeed(str(directory)))


def _has_manifest(directory: Path) -> bool:
    return (directory / "manifest.json").exists()


def files(*directories: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, owner and content of every name below the directories."""
    found = {}
    for top in directories:
        for path in [top, *sorted(top.rglob("*"))]:
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                content = str(path.readlink()) if path.is_symlink() else "directory"
            found[str(path)] = (status.st_mode, status.st_uid, content)
    return found


def unfinished(server: Server) -> list[str]:
    """What a restore that came to nothing might have left."""
    names = [str(path) for path in server.directory.rglob("*restoring-*")]
    return names + ([] if journal.load(str(server.directory / "state")) is None else ["journal"])


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Topology(lab_root(), replicas=1, separate_logs=(True,)) as topology:
        replica = topology.replicas[0]
        tables = topology.root / "tables"
        tables.mkdir()
        replica._give(tables)
        topology.source.query("CREATE DATABASE elsewhere")
        topology.wait_caught_up()
        for server, where in ((topology.source, ""), (replica, f" DATA DIRECTORY='{tables}'")):
            for engine in ("InnoDB", "MyISAM"):
                without_log(
                    server, f"CREATE TABLE elsewhere.{engine.lower()} (a INT PRIMARY KEY) ENGINE={engine}{where}"
                )
        for engine in ("innodb", "myisam"):
            topology.source.query(f"INSERT INTO elsewhere.{engine} VALUES (1), (2)")
        with topology.load():
            window = Window(replica, topology.root / "window")
            window.root.mkdir()
            window.stop()
            window.archive()
            (topology.root / "tar").mkdir()
            tar = topology.root / "tar" / "set"
            os.rename(window.paths.directory, tar)
            window.start()
        again = Window(replica, topology.root / "again")
        again.root.mkdir()
        again.stop()
        archive_job.present(archive_job.Request(paths=again.paths, state_dir=again.state, form="copy"))
        again.start()
        yield Site(topology, tar, Path(again.paths.directory), tables)


# -- into whatever directories the host has ----------------------------------------------------------------------------


@pytest.fixture
def host(site: Site) -> Iterator[Callable[..., Server]]:
    """Give a factory of servers that are ended and removed after the test."""
    made: list[Server] = []

    def make(name: str, **settings: str) -> Server:
        made.append(site.host(name, **settings))
        return made[-1]

    yield make
    for server in made:
        server.kill()
        shutil.rmtree(server.directory)


def settings_below(directory: Path) -> dict[str, str]:
    return {
        "log_bin": str(directory / "bl" / "other-bin"),
        "relay_log": str(directory / "rl" / "other-relay"),
        "relay_log_info_file": "applier.info",
        "innodb_log_group_home_dir": str(directory / "redo"),
        "innodb_undo_directory": str(directory / "undo"),
    }


def test_a_clone_with_other_directories_and_names_replicates(site: Site, host: Callable[..., Server]) -> None:
    directory = site.topology.root / "moved"
    server = host("moved", **settings_below(directory))
    new_tables = site.topology.root / "moved" / "tables"
    with pytest.raises(RefusedError, match="Another server works on") as refused:
        restore(server, site.tar, moves={})
    assert refused.value.facts["rule"] == "in_use" and unfinished(server) == []
    done = restore(server, site.tar, moves={str(site.tables): str(new_tables)})
    assert done["phase"] == "laid" and done["relay_logs_unusable"] == ""
    assert done["moved_aside"] == []
    assert {path.name for path in (directory / "redo").iterdir()} == {"ib_logfile0"}
    assert (directory / "rl" / "other-relay.index").read_text().splitlines()[0].startswith(str(directory / "rl"))
    assert (server.datadir / "applier.info").exists() and not (server.datadir / "relay-log.info").exists()
    assert {path.name for path in (new_tables / "elsewhere").iterdir()} >= {"innodb.ibd"}
    assert os.readlink(server.datadir / "elsewhere" / "myisam.MYD") == str(new_tables / "myisam.MYD")
    assert unfinished(server) == ["journal"]

    server.start()

    assert site.topology.differences(server) == {}
    opened = {os.readlink(link) for pid in server.pids() for link in Path(f"/proc/{pid}/fd").iterdir()}
    assert str(new_tables / "elsewhere" / "innodb.ibd") in opened
    assert not any(path.startswith(str(site.tables)) for path in opened)


def test_a_named_connection_finds_its_relay_logs_under_another_base_name(
    site: Site, host: Callable[..., Server]
) -> None:
    """MariaDB with named connections does not even start without the indexes of their relay logs."""
    # The tables of the directory of their own are in no binary log.
    ignored = {"replicate_wild_ignore_table": "elsewhere.%"}
    name, origin = "B\u00fcro a/b", site.topology.add("named", settings={"read_only": "ON", **ignored})
    origin.start()
    origin.query(
        "CHANGE MASTER %s TO MASTER_HOST='127.0.0.1', MASTER_PORT=%s, MASTER_USER=%s, MASTER_PASSWORD=%s,"
        " MASTER_LOG_FILE='binlog.000001', MASTER_LOG_POS=4, MASTER_CONNECT_RETRY=1",
        (name, site.topology.source.port, REPLICATION_USER, REPLICATION_PASSWORD),
    )
    origin.query("START SLAVE %s", (name,))
    status = {"Slave_SQL_Running": "", "Exec_Master_Log_Pos": 4}
    deadline = time.monotonic() + 30
    while status["Exec_Master_Log_Pos"] == 4:
        assert time.monotonic() < deadline, status
        status = origin.query("SHOW SLAVE %s STATUS", (name,))[0]
    window = Window(origin, site.topology.root / "window-named")
    window.root.mkdir()
    window.stop()
    window.archive()
    origin.kill()
    server = host("other-name", relay_log=str(site.topology.root / "other-name" / "other-relay"), **ignored)
    restore(server, Path(window.paths.directory))
    (index,) = server.directory.glob("other-relay-*.index")
    assert "relaylog-" in index.read_text(encoding="utf-8")
    server.start("--skip-slave-start")
    (row,) = server.query("SHOW ALL SLAVES STATUS")
    (recorded,) = window_channels(window)
    assert row["Relay_Log_File"] == recorded["relay_log_file"]
    assert row["Exec_Master_Log_Pos"] == recorded["source_log_pos"]
    server.query("START ALL SLAVES")
    wait_until_equal(site, server)


def window_channels(window: Window) -> list[dict[str, t.Any]]:
    return list(json.loads(Path(window.paths.manifest).read_text(encoding="utf-8"))["channels"])


def wait_until_equal(site: Site, server: Server) -> None:
    deadline = time.monotonic() + 30
    expected = {table: found for table, found in site.topology.source.checksums().items() if table.startswith("lab.")}
    while server.checksums() != expected:
        assert time.monotonic() < deadline, server.query("SHOW ALL SLAVES STATUS")
        time.sleep(0.2)


def test_a_running_server_is_replaced_only_by_force_and_after_the_proof(site: Site) -> None:
    server = site.replica
    before = set(server.pids())
    with pytest.raises(RefusedError, match="A server is running") as refused:
        restore(server, site.tar, identity="same", moves={})
    assert refused.value.facts["rule"] == "server_running"
    assert set(server.pids()) == before and unfinished(server) == []

    done = restore(server, site.tar, identity="same", moves={}, force=True)

    assert not server.is_running()
    aside = {Path(entry["path"]).name: Path(entry["before"]) for entry in done["moved_aside"]}
    assert aside["data"].name.startswith("data.before-") and (aside["data"] / "ibdata1").exists()
    assert (aside["relay"] / "relaylog.index").exists() and (aside["binlog"] / "binlog.index").exists()
    server.start()
    assert site.topology.differences(server) == {}
    # The journal stays until the server is resumed; the same restore has nothing left to do.
    assert restore(server, site.tar, identity="same", moves={}, force=False)["changed"] is False
    left = journal.load(str(server.directory / "state"))
    assert left is not None and left.phase == "laid"
    left.finish()
    for path in aside.values():
        shutil.rmtree(path)


def test_a_server_that_was_stopped_for_nothing_comes_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state directory fills up in the one moment between the stop and the exchange."""
    server = site.replica
    (before,) = server.pids()
    untouched = files(server.relay_log_directory.parent / "my.cnf", server.datadir / "mysql")
    real = journal.Journal.advance

    def advance(self: journal.Journal, phase: str) -> None:
        if phase == "switching":
            raise OSError(28, "No space left on device")
        real(self, phase)

    monkeypatch.setattr(journal.Journal, "advance", advance)
    with pytest.raises(OSError, match="No space left"):
        restore(server, site.tar, identity="same", moves={}, force=True)
    server.wait_ready()
    assert server.pids() != [before]
    assert unfinished(server) == []
    assert files(server.relay_log_directory.parent / "my.cnf", server.datadir / "mysql").keys() == untouched.keys()
    assert site.topology.differences(server) == {}


@needs_root
def test_a_mount_point_is_emptied_and_filled_not_renamed(site: Site, host: Callable[..., Server]) -> None:
    server = host("mounted")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(server.datadir)], check=True)
    try:
        (server.datadir / "old").mkdir()
        (server.datadir / "old" / "table.ibd").write_bytes(b"former server")
        (server.datadir / "lost+found").mkdir()
        done = restore(server, site.copy)
        (aside,) = done["moved_aside"]
        assert Path(aside["before"]).parent == server.datadir
        assert (Path(aside["before"]) / "old" / "table.ibd").read_bytes() == b"former server"
        assert (server.datadir / "lost+found").is_dir()
        assert stat.S_IMODE(server.datadir.stat().st_mode) == stat.S_IMODE(site.replica.datadir.stat().st_mode)
        server.start()
        assert site.topology.differences(server) == {}
        server.stop()
    finally:
        server.kill()
        subprocess.run(["umount", str(server.datadir)], check=True)


# -- interrupted -------------------------------------------------------------------------------------------------------


def _killed_at(number: int, function: str, server: Server, directory: Path) -> bool:
    """Restore in a process that is killed before the given call; whether it came that far."""
    return _killed_before(number, function, lambda: restore(server, directory))


def _killed_before(number: int, function: str, work: Callable[[], object]) -> bool:
    child = os.fork()
    if child == 0:
        real, calls = getattr(os, function), 0

        def counted(*arguments: t.Any, **named: t.Any) -> t.Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        setattr(os, function, counted)
        try:
            work()
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status)


def test_killed_at_every_exchange_and_run_again(site: Site, host: Callable[..., Server]) -> None:
    directory = site.topology.root / "killed"
    server = host("killed", **{**settings_below(directory), "innodb_undo_directory": "."})
    first = restore(server, site.tar)
    last = journal.load(str(server.directory / "state"))
    assert last is not None and first["phase"] == "laid"
    last.finish()
    tops = (server.datadir, directory / "redo", directory / "rl", directory / "bl")
    complete = files(*tops)
    for number in range(1, 200):
        # The journal is renamed as well: every step from the first note on is among them.
        if not _killed_at(number, "rename", server, site.tar):
            break
        going = journal.load(str(server.directory / "state"))
        done = restore(server, site.tar)
        assert done["phase"] == "laid"
        assert done["changed"] is (going is None or going.phase != "laid")
        assert {path: state for path, state in files(*tops).items() if "/.before-" not in path} == complete
        assert unfinished(server) == ["journal"]
        record = journal.load(str(server.directory / "state"))
        assert record is not None
        record.finish()
        # What was there before is complete too, in as many directories as it took.
        aside = [Path(entry["before"]) for entry in done["moved_aside"]]
        kept = {path.name for top in aside for path in top.rglob("*")}
        assert kept >= {Path(path).name for path in complete if Path(path) not in tops}
        for path in aside:
            shutil.rmtree(path)
    assert number > 10
    leave_killed = journal.load(str(server.directory / "state"))
    assert leave_killed is not None
    leave_killed.finish()
    server.start()
    assert site.topology.differences(server) == {}


def test_killed_while_laying_down_leaves_the_host_as_it_was(site: Site, host: Callable[..., Server]) -> None:
    server = host("early")
    (server.datadir / "precious").write_bytes(b"old")
    before = files(server.datadir, server.tmpdir)
    assert _killed_at(100, "pwrite", server, site.tar)
    assert [name for name in unfinished(server) if name != "journal"]
    assert files(server.datadir, server.tmpdir).items() >= before.items()
    damaged = site.topology.root / "damaged-late"
    shutil.copytree(site.tar, damaged)
    with (damaged / "data.tar.zst").open("r+b") as handle:
        handle.truncate(handle.seek(0, 2) - 10)
    # Even the next restore, which fails, cleans up after the one that was killed.
    with pytest.raises(ReplicaBackupError):
        restore(server, damaged)
    assert unfinished(server) == []
    assert files(server.datadir, server.tmpdir) == before
    shutil.rmtree(damaged)
    restore(server, site.tar)
    server.start()
    assert site.topology.differences(server) == {}


@needs_root
def test_a_directory_that_cannot_be_renamed_is_moved_name_by_name(tmp_path: Path) -> None:
    """Overlayfs does not rename directories of a lower layer, as a container's image brings them."""
    lower = tmp_path / "lower" / "data"
    (lower / "shop" / "deep").mkdir(parents=True)
    for name in ("ibdata1", "shop/orders.ibd", "shop/deep/x"):
        (lower / name).write_text(f"old {name}", encoding="utf-8")
    lower.chmod(0o750)
    for number in range(1, 100):
        with contextlib.ExitStack() as stack:
            upper, merged = tmp_path / f"upper{number}", tmp_path / f"merged{number}"
            for path in (upper / "files", upper / "work", merged):
                path.mkdir(parents=True)
            layers = f"lowerdir={tmp_path / 'lower'},upperdir={upper / 'files'},workdir={upper / 'work'}"
            # Without what lets newer kernels rename them nonetheless.
            options = f"{layers},redirect_dir=off"
            subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(merged)], check=True)
            stack.callback(subprocess.run, ["umount", str(merged)], check=True)
            with pytest.raises(OSError, match="cross-device"):
                os.rename(merged / "data", merged / "aside")
            root = roots.Root(
                "r0",
                str(merged / "data"),
                roots.RENAME,
                str(merged / "data.restoring-1"),
                str(merged / "data.before-1"),
            )
            os.mkdir(root.staging)
            Path(root.staging, "ibdata1").write_text("new", encoding="utf-8")
            (merged / "state").mkdir(mode=0o700)
            made = journal.Journal(str(merged / "state"), "1", "s", "same", {}, {}, "switching", work={"roots": []})
            made.write()
            killed = _killed_before(number, "rename", functools.partial(switch.switch, made, [root], ()))
            going = journal.load(str(merged / "state"))
            assert going is not None
            switch.switch(going, [root], ())
            assert [path.name for path in (merged / "data").iterdir()] == ["ibdata1"]
            (aside,) = going.moved_aside
            old = Path(aside["before"])
            assert stat.S_IMODE(old.stat().st_mode) == 0o750
            assert {str(path.relative_to(old)): path.read_text() for path in old.rglob("*") if path.is_file()} == {
                name: f"old {name}" for name in ("ibdata1", "shop/orders.ibd", "shop/deep/x")
            }
            if not killed:
                break
    assert number > 6


# -- damaged -----------------------------------------------------------------------------------------------------------


def _flip(path: Path) -> None:
    with path.open("r+b") as handle:
        handle.seek(path.stat().st_size // 2)
        byte = handle.read(1)[0]
        handle.seek(-1, 1)
        handle.write(bytes([byte ^ 4]))


def test_a_flipped_bit_in_any_kind_of_file_is_refused(site: Site, host: Callable[..., Server]) -> None:
    server = host("flipped")
    (server.datadir / "precious").write_bytes(b"old")
    before = files(server.datadir)
    listed = json.loads((site.copy / "manifest.json").read_text(encoding="utf-8"))["files"]
    kinds: dict[str, dict[str, t.Any]] = {}
    for entry in listed:
        if entry["type"] == "file" and entry["size"]:
            suffix = Path(entry["path"]).suffix if not entry["role"] else ""
            kinds.setdefault(entry["role"] or suffix, entry)
    assert {"innodb_system", "innodb_redo", "relay_log", "relay_log_index", "status_file", "binlog", ".ibd"} <= set(
        kinds
    )
    for entry in kinds.values():
        path = site.copy / "data" / entry["place"] / entry["path"]
        if path.is_symlink():
            continue
        _flip(path)
        try:
            with pytest.raises(ReplicaBackupError) as error:
                restore(server, site.copy)
            assert f"{entry['place']}/{entry['path']}" in error.value.message
            assert error.value.server_state is not None
            assert unfinished(server) == [] and files(server.datadir) == before
        finally:
            _flip(path)
    restore(server, site.copy)
    server.start()
    assert site.topology.differences(server) == {}


def _cut(directory: Path) -> None:
    with (directory / "data.tar.zst").open("r+b") as handle:
        handle.truncate(handle.seek(0, 2) // 2)


def _swapped(directory: Path) -> None:
    data = b"x" * 4096
    subprocess.run(["zstd", "-q", "-f", "-o", str(directory / "data.tar.zst")], input=data, check=True)


def _without_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()


def _manifest(directory: Path, change: Callable[[dict[str, t.Any]], None]) -> None:
    path = directory / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def _server(**facts: t.Any) -> Callable[[Path], None]:
    return lambda directory: _manifest(directory, lambda data: data["server"].update(facts))


def _setting(name: str, value: str) -> Callable[[Path], None]:
    return lambda directory: _manifest(directory, lambda data: data["server"]["settings"].update({name: value}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_cut, "zstd ended"),
        (_swapped, "archive is damaged"),
        (_without_manifest, "no manifest"),
        (lambda directory: (directory / "data.tar.zst").unlink(), "missing"),
        (lambda directory: _manifest(directory, lambda data: data["files"].pop()), "additional member"),
        (lambda directory: _manifest(directory, lambda data: data["files"][40].update(path="../../x")), "outside"),
        (_server(family="mysql"), "other server family"),
        (_server(version="11.8.2"), "older"),
        (_server(version="10.6.1"), "upgrade"),
        (_setting("innodb_page_size", "4096"), "innodb_page_size"),
        (_setting("lower_case_table_names", "1"), "lower_case_table_names"),
        (_setting("innodb_data_file_path", "ibdata1:12M;ibdata2:12M:autoextend"), "innodb_data_file_path"),
        (_server(server_id=3), "server_id of its own"),
    ],
    ids=[
        "cut", "swapped", "no-manifest", "no-data", "additional", "name-outside", "family", "newer", "older-series",
        "page-size", "case", "data-files", "server-id",
    ],
)  # fmt: skip
def test_refused_and_nothing_changed(site: Site, tmp_path: Path, harm: Callable[[Path], None], message: str) -> None:
    server = Server(tmp_path, "refuses", site.topology.flavor, server_id=3)
    server.directory.mkdir()
    server.datadir.mkdir()
    server.tmpdir.mkdir()
    server.write_config()
    (server.datadir / "precious").write_bytes(b"old")
    before = files(server.directory)
    shutil.copytree(site.tar, tmp_path / "set")
    harm(tmp_path / "set")
    with pytest.raises(ReplicaBackupError, match=message):
        restore(server, tmp_path / "set")
    after = {path: state for path, state in files(server.directory).items() if "/state" not in path}
    assert after == before and unfinished(server) == []


def test_the_old_identity_needs_the_old_server_id(site: Site, host: Callable[..., Server]) -> None:
    server = host("other")
    with pytest.raises(RefusedError, match="old identity") as refused:
        restore(server, site.tar, identity="same", moves={})
    assert "identity=clone" in str(refused.value) and unfinished(server) == []


# -- without room ------------------------------------------------------------------------------------------------------


@needs_root
def test_a_full_disk_is_seen_before_and_survived_during(site: Site, host: Callable[..., Server]) -> None:
    server = host("full")
    with contextlib.ExitStack() as stack:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(server.datadir)], check=True)
        stack.callback(subprocess.run, ["umount", str(server.datadir)], check=True)
        (server.datadir / "precious").write_bytes(b"old")
        before = files(server.datadir)
        with pytest.raises(RefusedError, match="not enough room") as refused:
            restore(server, site.tar)
        assert refused.value.facts["rule"] == "space"
        with pytest.raises(ReplicaBackupError, match="No room for") as full:
            restore(server, site.tar, check_space=False)
        assert full.value.facts["errno"] == "ENOSPC" and full.value.server_state is not None
        assert files(server.datadir) == before and unfinished(server) == []
    restore(server, site.tar)
    server.start()
    assert site.topology.differences(server) == {}
