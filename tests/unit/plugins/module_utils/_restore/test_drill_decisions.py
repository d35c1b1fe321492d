# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drills of a set of a real MariaDB, and what is decided before a server is started."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import struct
import tempfile
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _filelist, _ledger, _observe, _server_help
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Session, parse_identity
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import Discovery, Place
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import (
    attach,
    drill,
    pages,
    scratch,
    table_check,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import private_server as private
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.origin import Origin, origin_of
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._restore.test_page_sums import page
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils.real_server import (
    SERVER,
    RealServer,
    needs_server,
)

HELP = Path(__file__).parents[1] / "fixtures" / "help"


def make_set(root: Path, datadir: Path, variables: dict[str, str]) -> Path:
    """A set of a stopped server, from the ledger that a stop leaves. The directory may be a copy of the server's."""
    variables = {name: value.replace(variables["datadir"], f"{datadir}/") for name, value in variables.items()}
    paths = SetPaths(str(root / "spool"), "db1", "20260101T000000Z")
    (root / "spool").mkdir(mode=0o700)
    plan = Discovery(datadir=str(datadir), places=(Place("datadir", str(datadir)),))
    os.makedirs(paths.work, mode=0o700)
    _filelist.write_list(paths.discovered, plan, _filelist.walk(plan))
    _ledger.prepare_state_dir(str(root / "state"))
    identity = parse_identity(variables["version"])
    server = {
        "family": identity.family,
        "version": list(identity.version),
        "version_text": identity.version_text,
        "uuid": "",
        "server_id": 1,
        "datadir": str(datadir),
        "variables": {name: value for name, value in variables.items() if name in _observe.RESTORE_SETTINGS},
    }
    clean = {"clean": True, "proofs": [{"name": "process", "verdict": True, "detail": "gone"}]}
    known = {"run_id": "r1", "backup_id": paths.backup_id, "host": "db1", "spool_dir": str(root / "spool")}
    ledger = _ledger.open_new(str(root / "state"), {**known, "server": server, "channels": [], "clean_stop": clean})
    ledger.begin("stopped")
    ledger.end("stopped")
    job.present(job.Request(paths=paths, state_dir=str(root / "state"), compression="none"))
    return Path(paths.directory)


@dataclasses.dataclass
class Stopped:
    """A real server, stopped, and what it said while it ran."""

    server: RealServer
    variables: dict[str, str]

    def drills(self) -> Path:
        """A fresh directory for drills that the server's account may enter."""
        path = Path(tempfile.mkdtemp(prefix="drills-", dir=self.server.base))
        path.chmod(0o711)
        return path


@pytest.fixture(scope="module")
def stopped() -> Iterator[Stopped]:
    server = RealServer()
    try:
        child = server.start()
        server.fill()
        server.execute("CREATE TABLE x.m (a INT PRIMARY KEY) ENGINE=MyISAM", "INSERT INTO x.m VALUES (1), (2)")
        server.execute("CREATE VIEW x.v AS SELECT * FROM x.t", "CREATE TABLE x.e (a INT) ENGINE=MEMORY")
        variables = server.variables()
        server.shutdown()
        child.wait(30)
        yield Stopped(server, variables)
    finally:
        server.close()


@pytest.fixture(scope="module")
def good(stopped: Stopped, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("good"), stopped.server.datadir, stopped.variables)


@pytest.fixture
def drills(stopped: Stopped) -> Iterator[Path]:
    path = stopped.drills()
    yield path
    assert os.listdir(path) == []


def request_in(directory: Path, **changes: t.Any) -> drill.Request:
    return drill.Request(str(directory), server_binary=str(SERVER), **changes)


@needs_server
def test_a_good_set(good: Path, drills: Path) -> None:
    result = drill.drill_all([str(good)], request_in(drills))["sets"][0]
    assert result["passed"] and result["problems"] == []
    assert result["tables"]["checked"] > 20 and result["tables"]["without_check"] == ["x.e"]
    assert result["seconds"]["recover"] == pytest.approx(result["seconds"]["extract"] + result["seconds"]["start"])


@needs_server
def test_bad_pages_tables_and_links(
    stopped: Stopped, drills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = stopped.server.base / "copy"
    shutil.copytree(stopped.server.datadir, copy)
    table = bytearray((copy / "x" / "t.ibd").read_bytes())
    table[3 * 16384 + 200] ^= 1
    (copy / "x" / "t.ibd").write_bytes(table)
    (copy / "x" / "m.MYI").unlink()
    bad = make_set(tmp_path, copy, stopped.variables)
    with pytest.raises(ReplicaBackupError, match="1 of 1 sets did not pass") as caught:
        drill.drill_all([str(bad)], request_in(drills))
    problems = caught.value.facts["sets"][0]["problems"]
    found = {(problem["what"], problem["name"]) for problem in problems}
    # The server may come upon the page by itself and log it.
    assert found - {("server", "error_log")} == {("page", "datadir/x/t.ibd"), ("table", "x.t"), ("table", "x.m")}
    monkeypatch.setattr(pages, "TOOL", "no-such-tool")
    with pytest.raises(ReplicaBackupError) as caught:
        drill.drill_all([str(bad)], request_in(drills))
    (one,) = caught.value.facts["sets"]
    assert "were not checked" in one["warnings"][0] and "page" not in {p["what"] for p in one["problems"]}


@needs_server
def test_a_server_that_does_not_come_up(stopped: Stopped, drills: Path, tmp_path: Path) -> None:
    copy = stopped.server.base / "without"
    shutil.copytree(stopped.server.datadir, copy)
    (copy / "ib_logfile0").write_bytes(b"x" * 4096)
    bad = make_set(tmp_path, copy, stopped.variables)
    with pytest.raises(ReplicaBackupError) as caught:
        drill.drill_all([str(bad)], request_in(drills))
    (problem,) = caught.value.facts["sets"][0]["problems"]
    assert problem["what"] == "server" and "it ended with status" in problem["detail"]


@needs_server
@pytest.mark.parametrize(("deaths", "others"), [(2, ""), (99, "the server ended itself")])
def test_a_server_that_ends_itself_over_a_table(
    good: Path, drills: Path, monkeypatch: pytest.MonkeyPatch, deaths: int, others: str
) -> None:
    """As MySQL does over a bad page: in the middle of a statement. MariaDB does not, so it is killed."""
    really = table_check._check
    dead: list[str] = []

    def check(session: Session, schema: str, name: str, found: table_check.TableCheck) -> None:
        if len(dead) < deaths:
            dead.append(f"{schema}.{name}")
            for process in servers_below(drills):
                os.kill(process, signal.SIGKILL)
        really(session, schema, name, found)

    monkeypatch.setattr(table_check, "_check", check)
    with pytest.raises(ReplicaBackupError) as caught:
        drill.drill_all([str(good)], request_in(drills))
    problems = caught.value.facts["sets"][0]["problems"]
    assert [problem["name"] for problem in problems] == [*dead[:5], *(["(others)"] if others else [])]
    assert others in problems[-1]["detail"] and "the server ended while it read" in problems[0]["detail"]


def servers_below(directory: Path) -> list[int]:
    return [process.pid for name in os.listdir(directory) for process in scratch.servers_of(str(directory / name))]


@needs_server
def test_limits(good: Path, drills: Path) -> None:
    with pytest.raises(ReplicaBackupError) as caught:
        drill.drill_all([str(good)], request_in(drills, start_timeout=0.0))
    assert "no answer within 0 s" in str(caught.value) or "passed" in str(caught.value)
    with pytest.raises(ReplicaBackupError, match="pages has not ended within its limit"):
        drill.drill_all([str(good)], request_in(drills, check_timeout=-1.0))


@needs_server
def test_a_link_that_leads_out(stopped: Stopped, drills: Path, tmp_path: Path) -> None:
    copy = stopped.server.base / "links"
    shutil.copytree(stopped.server.datadir, copy)
    (copy / "x" / "far.isl").write_text("/somewhere/x/far.ibd")
    bad = make_set(tmp_path, copy, stopped.variables)
    with pytest.raises(ReplicaBackupError, match="leads out of the scratch directory") as caught:
        drill.drill_all([str(bad)], request_in(drills))
    assert "far.isl -> /somewhere/x/far.ibd" in str(caught.value)


@needs_server
def test_the_next_one_finds_what_a_killed_one_left(good: Path, drills: Path) -> None:
    binary = private.find_binary(str(SERVER))
    child = os.fork()
    if not child:  # pragma: no cover
        # Ends as a killed drill does: no clean-up of any kind.
        left = scratch.Scratch(str(drills))
        left.__enter__()
        mapping = drill.scratch_mapping(_empty_origin(), left.directory)
        private.PrivateServer(binary, mapping, left.directory, private.Extra())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (name,) = os.listdir(drills)
    assert (drills / name / "my.cnf").exists()
    with scratch.Scratch(str(drills)) as next_one:
        assert next_one.removed == (str(drills / name),)
        with scratch.Scratch(str(drills)) as beside:
            assert beside.removed == (), "one that is in use is not left over"
    assert scratch.remove_leftovers(str(drills)) == ()


# -- decided beforehand ------------------------------------------------------------------------------------------------


def origin_like(family: str, version: str, settings: dict[str, str], places: dict[str, str]) -> Origin:
    return origin_of(
        {
            "server": {"family": family, "version": version, "uuid": "u", "server_id": 5, "settings": settings},
            "places": [{"name": name, "path": path} for name, path in places.items()],
            "channels": [{"name": ""}],
        }
    )


def _empty_origin() -> Origin:
    return origin_like("mariadb", "10.11.6", {}, {"datadir": "/old/data"})


def binary_of(name: str) -> private.Binary:
    said = _server_help.parse_help((HELP / f"{name}.txt").read_text(encoding="utf-8"))
    assert said.identity is not None
    # The recorded texts are cut to the rows on files.
    more = {"mysql-9.7": ("event_scheduler", "mysqlx"), "mysql-5.6": ("event_scheduler",)}.get(name, ())
    return private.Binary("/opt/x/mysqld", said.identity, {**said.variables, **dict.fromkeys(more, "ON")})


def test_everything_is_below_the_scratch_directory() -> None:
    places = {
        "datadir": "/old/data",
        "config": "/old",
        "relay_log": "/old/relay",
        "innodb_redo": "/old/redo",
        "tablespaces": "/old/tables",
    }
    settings = {
        "relay_log_basename": "/old/relay/r",
        "relay_log_index": "/old/relay/r.index",
        "log_bin_basename": "/old/data/logs/b",
        "innodb_log_group_home_dir": "/old/redo",
        "innodb_data_file_path": "ibdata1:12M;/old/tables/ibdata2:12M:autoextend",
    }
    mapping = drill.scratch_mapping(origin_like("mysql", "9.7.0", settings, places), "/s")
    assert mapping.target.relay_log_base == "/s/relay_log/r" and mapping.target.innodb_redo == "/s/innodb_redo"
    assert (
        mapping.target.binlog_base == "/s/datadir/logs/b" and mapping.target.connection_info == "/s/datadir/master.info"
    )
    assert (
        mapping.text("/old/data/x") == "/s/datadir/x"
        and mapping.text("/old/tables/x/t.ibd") == "/s/tablespaces/x/t.ibd"
    )
    lines = private.option_lines(binary_of("mysql-9.7"), mapping, "/s", private.Extra())
    assert lines["innodb_data_home_dir"] == ""
    assert lines["innodb_data_file_path"] == "/s/datadir/ibdata1:12M;/s/tablespaces/ibdata2:12M:autoextend"
    assert "/s/tablespaces" in str(lines["innodb_directories"])
    assert not [value for value in lines.values() if "/old" in str(value)]


@pytest.mark.parametrize(
    ("name", "family", "has", "lacks"),
    [
        (
            "mysql-9.7",
            "mysql",
            {"skip_replica_start": None, "persisted_globals_load": "OFF", "mysqlx": "OFF", "skip_log_bin": None},
            {"skip_slave_start", "aria_log_dir_path", "relay_log_info_file", "log_bin"},
        ),
        (
            "mysql-5.6",
            "mysql",
            {"skip_slave_start": None, "relay_log_info_file": "/s/datadir/relay-log.info", "event_scheduler": "OFF"},
            {"skip_replica_start", "persisted_globals_load", "mysqlx", "skip_log_bin", "innodb_directories"},
        ),
        (
            "mariadb-10.11",
            "mariadb",
            {"skip_slave_start": None, "aria_log_dir_path": "/s/datadir"},
            {"skip_replica_start", "mysqlx", "skip_log_bin", "gtid_mode"},
        ),
    ],
)
def test_options_that_the_binary_knows(name: str, family: str, has: dict[str, str | None], lacks: set[str]) -> None:
    origin = origin_like(family, "9.7.0", {"innodb_page_size": "8192"}, {"datadir": "/old/data"})
    extra = private.Extra(server_id=9, settings={"max_connections": "7"})
    lines = private.option_lines(binary_of(name), drill.scratch_mapping(origin, "/s"), "/s", extra)
    always = {"skip_networking": None, "skip_grant_tables": None, "server_id": "9", "max_connections": "7"}
    expected: dict[str, str | None] = {**always, **has}
    assert {key: lines.get(key, "absent") for key in expected} == expected
    assert not lacks & set(lines)


def test_other_versions_and_families_are_refused() -> None:
    mapping_less = {"datadir": "/old/data"}
    for family, version in (("mariadb", "10.11.6"), ("mysql", "8.4.0"), ("mysql", "9.8.0")):
        with pytest.raises(RefusedError, match="not one for this set"):
            drill._refuse_other_version(origin_like(family, version, {}, mapping_less), binary_of("mysql-9.7"))
    drill._refuse_other_version(origin_like("mysql", "9.7.0", {}, mapping_less), binary_of("mysql-9.7"))


def test_directories_of_tables_that_exist_here_are_refused(tmp_path: Path) -> None:
    places = {"datadir": "/old/data", "tablespaces": str(tmp_path)}
    origin, old = origin_like("mysql", "5.6.0", {}, places), binary_of("mysql-5.6")
    with pytest.raises(RefusedError, match="might open those files"):
        drill._refuse_same_paths(origin, old)
    # It is told where to look first.
    drill._refuse_same_paths(origin, binary_of("mysql-9.7"))
    places["tablespaces"] = str(tmp_path / "absent")
    drill._refuse_same_paths(origin_like("mysql", "5.6.0", {}, places), old)


@pytest.mark.parametrize("server_id", [0, 5, 77])
def test_a_server_id_that_is_taken(server_id: int) -> None:
    head = {"channels": [{"name": "", "source_host": "db0", "source_port": 3306, "source_server_id": 77}]}
    wanted = attach.Attach("u", "secret", server_id)
    assert "secret" not in repr(wanted)
    with pytest.raises(RefusedError, match="server_id of its own"):
        attach.refuse_attach(wanted, _empty_origin(), head)


def test_a_source_that_is_not_there() -> None:
    head = {"channels": [{"name": "", "source_host": "127.0.0.1", "source_port": 1, "source_server_id": 77}]}
    with pytest.raises(RefusedError, match="does not say which replicas it has"):
        attach.refuse_attach(attach.Attach("u", "p", 9), _empty_origin(), head)


def test_the_scratch_directory(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="does not exist"):
        scratch.Scratch(str(tmp_path / "absent"))
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with pytest.raises(RefusedError, match="too long"):
        scratch.Scratch(str(deep))
    with scratch.Scratch(str(tmp_path), keep=True) as kept:
        pass
    with scratch.Scratch(str(tmp_path)) as other:
        assert other.removed == ()
    assert Path(kept.directory).is_dir() and not Path(other.directory).exists()


# -- pages of the system tablespace ------------------------------------------------------------------------------------


def test_the_doublewrite_buffer_is_left_out(tmp_path: Path) -> None:
    """A file of MySQL's system tablespace as small as it gets: what lies in the buffer are pages of other files."""
    size = 16384
    trx = bytearray(size)
    trx[size - 190 : size - 178] = struct.pack(">III", 536853855, 64, 128)
    good = page(bytes(trx), "crc32")
    stale = b"\1" + good[1:]
    for name, content in (("ibdata1", [good] * 64 + [stale] * 128 + [good] * 2), ("ibdata2", [good, stale])):
        (tmp_path / "datadir").mkdir(exist_ok=True)
        (tmp_path / "datadir" / name).write_bytes(b"".join(content))
    (tmp_path / "datadir" / "empty.ibd").write_bytes(b"")
    encrypted, compressed = bytearray(good), bytearray(good)
    encrypted[54:58] = struct.pack(">I", 1 << 13)
    compressed[54:58] = struct.pack(">I", 0x29)
    (tmp_path / "datadir" / "secret.ibd").write_bytes(encrypted)
    (tmp_path / "datadir" / "zip.ibd").write_bytes(compressed)
    settings = {"innodb_data_file_path": "ibdata1:12M;ibdata2:12M:autoextend"}
    mapping = drill.scratch_mapping(origin_like("mysql", "9.7.0", settings, {"datadir": "/old/data"}), str(tmp_path))
    binary = dataclasses.replace(binary_of("mysql-9.7"), exe=str(tmp_path / "mysqld"))
    found = pages.check_pages(binary, mapping, str(tmp_path), 60)
    assert [(os.path.basename(bad.path), bad.page) for bad in found.bad] == [("ibdata2", 1)]
    assert {os.path.basename(path): why.partition(",")[0] for path, why in found.unchecked} == {
        "empty.ibd": "it is empty",
        "secret.ibd": "it is encrypted",
        "zip.ibd": f"there is no innochecksum beside {tmp_path}/mysqld",
    }
    assert found.by == {"own": 1}


@pytest.mark.parametrize(("version", "usable"), [("Ver 9.7.4 for Linux", True), ("Ver 8.4.1 for Linux", False)])
def test_only_the_tool_of_the_server_itself(tmp_path: Path, version: str, usable: bool) -> None:
    tool = tmp_path / "innochecksum"
    tool.write_text(f"#!/bin/sh\necho 'innochecksum {version}'\n")
    tool.chmod(0o755)
    binary = dataclasses.replace(binary_of("mysql-9.7"), exe=str(tmp_path / "mysqld"))
    path, why = pages.find_tool(binary)
    assert (path == str(tool)) is usable and bool(why) is not usable


def test_a_tool_that_fails_without_naming_a_page(tmp_path: Path) -> None:
    tool = tmp_path / "innochecksum"
    tool.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Ver 9.7.4 && exit\necho cannot; exit 2\n')
    tool.chmod(0o755)
    (tmp_path / "datadir").mkdir()
    (tmp_path / "datadir" / "t.ibd").write_bytes(bytes(16384))
    mapping = drill.scratch_mapping(origin_like("mysql", "9.7.0", {}, {"datadir": "/old/data"}), str(tmp_path))
    binary = dataclasses.replace(binary_of("mysql-9.7"), exe=str(tmp_path / "mysqld"))
    found = pages.check_pages(binary, mapping, str(tmp_path), 60)
    assert found.bad == [] and "ended with 2: cannot" in found.unchecked[0][1]
