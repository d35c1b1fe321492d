# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drills with real servers: good sets pass, every kind of damage is found and named, and nothing is left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import drill, pages, private_server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import scratch as scratch_dirs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.attach import Attach
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import read_process
from ansible_collections.mysql_ops.replica_backup.tests.integration.conftest import lab_root
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import Flavor, MariaDB, MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import (
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    Server,
    Topology,
)
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import run_playbook
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

PAGE = 16384
KINDS: dict[str, t.Callable[[], Flavor]] = {
    "mariadb": MariaDB,
    # Only a running server reads the coordinates that are kept in tables.
    "mysql56": lambda: MySQL56(repositories="TABLE"),
}


@dataclasses.dataclass
class Case:
    """A source, a replica, a good set of it, and where drills are done."""

    topology: Topology
    root: Path
    good: Path

    @property
    def source(self) -> Server:
        return self.topology.source

    @property
    def replica(self) -> Server:
        return self.topology.replicas[0]

    @property
    def scratch(self) -> Path:
        return self.topology.root / "drills"

    def request(self, **changes: t.Any) -> drill.Request:
        request = drill.Request(str(self.scratch), server_binary=str(self.topology.flavor.server))
        return dataclasses.replace(request, **changes)

    def drill(self, directory: Path, **changes: t.Any) -> dict[str, t.Any]:
        """Drill one set; its result, whether it passed or not. Afterwards nothing is left, and the set is as it was."""
        before = fingerprint(directory)
        try:
            result = drill.drill_all([str(directory)], self.request(**changes))
        except ReplicaBackupError as error:
            result = error.to_result()
        assert fingerprint(directory) == before
        self.nothing_is_left()
        (one,) = result["sets"]
        return t.cast("dict[str, t.Any]", one)

    def nothing_is_left(self) -> None:
        assert os.listdir(self.scratch) == []
        assert servers_below(self.scratch) == []

    def copy_of_good(self, name: str) -> Path:
        copy = self.root / name / "20260101T000000Z"
        shutil.copytree(self.good, copy)
        return copy


def fingerprint(directory: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(directory)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


def servers_below(directory: Path) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.fsencode(directory) in Path(f"/proc/{name}/cmdline").read_bytes():
                found.append(int(name))
    return [pid for pid in found if pid != os.getpid()]


def take(case_root: Path, server: Server, name: str, damage: t.Callable[[], None] = lambda: None) -> Path:
    """A set of the server, made by hand: stop, ``damage``, archive."""
    root = case_root / name
    for directory in (root, root / "state", root / "spool"):
        directory.mkdir(mode=0o700)
    window = Window(server, root)
    window.stop()
    damage()
    window.archive()
    if server.is_running() or name == "good":
        window.start()
    return Path(window.paths.directory)


@pytest.fixture(scope="module", params=list(KINDS))
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    flavor = KINDS[request.param]()
    with (
        pytest.MonkeyPatch.context() as patch,
        Topology(lab_root(), replicas=1, flavor=flavor, separate_logs=(True,)) as topology,
    ):
        for name, value in flavor.environment.items():
            patch.setenv(name, value)
        source = topology.source
        source.query("CREATE DATABASE d")
        for name, engine in (("i", "InnoDB"), ("m", "MyISAM"), ("gone", "MyISAM")):
            source.query(f"CREATE TABLE d.{name} (a int PRIMARY KEY, b varchar(200), KEY (b)) ENGINE={engine}")
        if flavor.family == "mariadb":
            source.query("CREATE TABLE d.aria (a int PRIMARY KEY, b varchar(200), KEY (b)) ENGINE=Aria")
            # Only by it, on MariaDB 10.5 and newer, may an account ask for the connected replicas.
            source.query(f"GRANT REPLICATION MASTER ADMIN ON *.* TO {REPLICATION_USER}@'127.0.0.1'")
        rows = ",".join(f"({number}, '{'x' * 60}{number}')" for number in range(6000))
        for name in ("i", "m", "aria")[: 3 if flavor.family == "mariadb" else 2]:
            source.query(f"INSERT INTO d.{name} VALUES {rows}")
        topology.wait_caught_up()
        root = topology.root / "sets"
        root.mkdir(mode=0o700)
        (topology.root / "drills").mkdir()
        yield Case(topology, root, take(root, topology.replicas[0], "good"))


def test_a_good_set_passes(case: Case) -> None:
    result = case.drill(case.good)
    assert result["passed"], result
    assert result["problems"] == [] and result["warnings"] == []
    assert set(result["seconds"]) == {"extract", "pages", "start", "check", "recover"}
    assert result["tables"]["checked"] > 20
    how = "innochecksum" if case.topology.flavor.family == "mariadb" else "own"
    assert list(result["pages"]["checked_by"]) == [how] and result["pages"]["unchecked"] == []
    assert all(compared["verdict"] is not False for compared in result["compared"])


def test_it_catches_up_and_its_source_forgets_it(case: Case) -> None:
    # Statements about accounts need the accounts, which a private server ignores at first.
    case.source.query("CREATE USER later@localhost IDENTIFIED BY 'x'")
    case.source.query("INSERT INTO d.i VALUES (-1, 'later')")
    attach = Attach(REPLICATION_USER, REPLICATION_PASSWORD, 4711, timeout=30)
    result = case.drill(case.good, attach=attach)
    assert result["passed"], result
    assert result["attached"]["server_id"] == 4711
    deadline = time.monotonic() + 20
    while [row["Server_id"] for row in case.source.query("SHOW SLAVE HOSTS")] != [2]:
        assert time.monotonic() < deadline, case.source.query("SHOW SLAVE HOSTS")
        time.sleep(0.2)
    channel = case.replica.channel()
    assert channel is not None and channel.replicating
    assert case.topology.differences() == {}
    case.source.query("DROP USER later@localhost")
    for taken in (1, 2):
        refused = case.drill(case.good, attach=dataclasses.replace(attach, server_id=taken))
        assert refused["refused"] and f"server_id {taken} is that of" in refused["msg"]
    wrong = case.drill(case.good, attach=dataclasses.replace(attach, password="wrong"))
    assert not wrong["passed"] and "wrong" not in json.dumps(wrong)


def test_other_coordinates_are_found(case: Case) -> None:
    other = case.copy_of_good("coordinates")
    manifest = other / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    position = json.loads(text)["channels"][0]["source_log_pos"]
    manifest.write_text(text.replace(f'"source_log_pos": {position}', '"source_log_pos": 4'), encoding="utf-8")
    result = case.drill(other)
    (problem,) = result["problems"]
    assert (problem["what"], problem["name"]) == ("coordinate", "the default channel")
    assert f":{position}, recorded" in problem["detail"]


def test_a_changed_byte_is_found_before_anything_starts(case: Case) -> None:
    bad = case.copy_of_good("byte")
    part = bad / "data.tar.zst"
    raw = bytearray(part.read_bytes())
    raw[len(raw) // 2] ^= 1
    part.write_bytes(raw)
    result = case.drill(bad)
    assert [problem["what"] for problem in result["problems"]] == ["extract"] and "seconds" not in result


def test_what_stands_in_the_way_is_refused(case: Case) -> None:
    small = case.topology.root / "small"
    small.mkdir()
    if os.geteuid() == 0:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small)], check=True)
        try:
            with pytest.raises(ReplicaBackupError, match="not enough room"):
                drill.drill_all([str(case.good)], case.request(scratch_dir=str(small)))
            assert os.listdir(small) == []
        finally:
            subprocess.run(["umount", str(small)], check=True)
    with pytest.raises(ReplicaBackupError, match="too long for a socket"):
        long = case.topology.root / ("x" * 90)
        long.mkdir()
        drill.drill_all([str(case.good)], case.request(scratch_dir=str(long)))
    other = MySQL56().server if case.topology.flavor.family == "mariadb" else MariaDB().server
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ReplicaBackupError, match="not one for this set"):
        patch.setenv("LD_LIBRARY_PATH", str(MySQL56().home))
        drill.drill_all([str(case.good)], case.request(server_binary=str(other)))
    with pytest.raises(RefusedError, match="no program"):
        drill.drill_all([str(case.good)], case.request(server_binary="/nowhere/mysqld"))
    looked = drill.drill_all([str(case.good)], case.request(), check=True)
    assert looked["sets"][0]["passed"] and "seconds" not in looked["sets"][0]
    case.nothing_is_left()


# A module's process, as Ansible runs it: signals become exceptions.
MODULE = """
import json, sys
from types import SimpleNamespace
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _module
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import drill

def end(**result):
    print(json.dumps(result))
    sys.exit(0)

path, scratch, binary = sys.argv[1:]
module = SimpleNamespace(fail_json=end, exit_json=end, warn=print)
_module.run(module, lambda: drill.drill_all([path], drill.Request(scratch, server_binary=binary)))
"""


def start_and_freeze(case: Case) -> tuple[subprocess.Popen[str], int]:
    """A drill whose private server has come to a halt, so that the drill waits for it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-c", MODULE, str(case.good), str(case.scratch), str(case.topology.flavor.server)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        for name in os.listdir(case.scratch):
            for server in scratch_dirs.servers_of(str(case.scratch / name)):
                os.kill(server.pid, signal.SIGSTOP)
                return process, server.pid
        time.sleep(0.001)
    raise AssertionError(f"no private server: {process.communicate()}")


def test_nothing_is_left_of_a_drill_that_is_told_to_end(case: Case) -> None:
    process, server = start_and_freeze(case)
    process.terminate()
    output, _errors = process.communicate(timeout=30)
    assert json.loads(output)["ended_by_signal"] == signal.SIGTERM
    assert read_process(server) is None
    case.nothing_is_left()


def test_the_next_drill_removes_what_a_killed_one_left(case: Case) -> None:
    process, server = start_and_freeze(case)
    (left,) = os.listdir(case.scratch)
    with pytest.raises(ReplicaBackupError, match="not enough room"), pytest.MonkeyPatch.context() as patch:
        # One that runs is let alone.
        patch.setattr(drill, "_MARGIN", 1 << 60)
        drill.drill_all([str(case.good)], case.request())
    assert os.listdir(case.scratch) == [left] and read_process(server) is not None
    process.kill()
    process.communicate()
    result = drill.drill_all([str(case.good)], case.request())
    assert result["leftovers_removed"] == [str(case.scratch / left)]
    assert result["sets"][0]["passed"]
    assert read_process(server) is None
    case.nothing_is_left()


def test_a_directory_that_is_kept_stays(case: Case) -> None:
    result = drill.drill_all([str(case.good)], case.request(keep=True))
    kept = Path(result["sets"][0]["kept"])
    drill.drill_all([str(case.good)], case.request())
    assert (kept / "datadir").is_dir() and os.listdir(case.scratch) == [kept.name]
    assert servers_below(kept) == []
    binary = private_server.find_binary(str(case.topology.flavor.server))
    assert (pages.find_tool(binary)[0] == "") == (case.topology.flavor.family == "mysql")
    shutil.rmtree(kept)


def test_damage_from_before_the_backup_is_found(case: Case) -> None:
    """Last: the replica does not come up again."""
    datadir = case.replica.datadir
    index = "aria.MAI" if case.topology.flavor.family == "mariadb" else "m.MYI"

    def damage() -> None:
        page = bytearray((datadir / "d" / "i.ibd").read_bytes())
        page[PAGE * 5 + 3000] ^= 1
        (datadir / "d" / "i.ibd").write_bytes(page)
        (datadir / "d" / "gone.MYI").unlink()
        keys = bytearray((datadir / "d" / index).read_bytes())
        keys[8192:] = random.Random(1).randbytes(len(keys) - 8192)
        (datadir / "d" / index).write_bytes(keys)

    # What a server has open may not be missing in a set.
    case.replica.query("FLUSH TABLES")
    bad = take(case.root, case.replica, "damage", damage)
    result = case.drill(bad)
    found = {(problem["what"], problem["name"]): problem["detail"] for problem in result["problems"]}
    assert "page 5" in found["page", "datadir/d/i.ibd"]
    assert {("table", "d.gone"), ("table", "d.i"), ("table", f"d.{index[:-4]}")} <= set(found)
    # A server may end itself over such a page: it is started again for the other tables.
    assert not any("(others)" in name for _what, name in found)


def test_the_playbook(fleet: Fleet, tmp_path: Path) -> None:
    inventory = fleet.inventory(fleet.replicas[0])
    made = run_playbook("backup", inventory)
    assert made.status == 0, made.output
    (good,) = fleet.set_directories(fleet.replicas[0])
    scratch = fleet.root / "drills"
    scratch.mkdir(mode=0o711)
    wanted = {
        "replica_verify_dest": str(fleet.backups),
        "replica_verify_boot": "true",
        "replica_verify_scratch_dir": str(scratch),
    }
    for directory in (good.with_name("20260101T000000Z"), good.with_name("20260101T000001Z")):
        shutil.copytree(good, directory)
    damaged, other = good.with_name("20260101T000000Z"), good.with_name("20260101T000001Z")
    part = damaged / "data.tar.zst"
    part.write_bytes(part.read_bytes()[:-1])
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"source_log_pos": ', '"source_log_pos": 9'))
    run = run_playbook("verify", inventory, extra_vars=wanted)
    said = " ".join(run.output.split())
    assert run.status != 0
    assert f"passed the drill: {good}" in said, run.output
    assert f"1 of 3 sets are bad ({damaged})" in said and "1 of 2 sets did not pass the drill" in said, run.output
    assert "coordinate the default channel" in said, run.output
    assert os.listdir(scratch) == [] and servers_below(scratch) == []
    shutil.rmtree(damaged)
    shutil.rmtree(other)
    run = run_playbook("verify", inventory, "--check", extra_vars=wanted)
    assert run.status == 0, run.output
    assert f"nothing refuses a drill: {good}" in " ".join(run.output.split()) and "passed the drill" not in run.output
