# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans from recorded variables of several servers and real trees on disk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _load_data
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import (
    Entry,
    missing_required,
    walk,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._place_plan import plan_places
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._places import (
    PLACES,
    Discovery,
    Locator,
    one_of,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._side_files import side_files

UUID = "6d2c1c5e-0000-11ee-8c99-0242ac120002"


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    touch(tmp_path, "data/ibdata1", "data/ib_logfile0", "data/db/t.ibd", "data/my-relay-bin.000001")
    (tmp_path / "tmp").mkdir()
    return tmp_path


def facts(root: Path, variables: t.Mapping[str, str] | None = None, **others: t.Any) -> ServerFacts:
    base = {
        "datadir": f"{root}/data/",
        "innodb_data_home_dir": "",
        "innodb_data_file_path": "ibdata1:12M:autoextend",
        "innodb_temp_data_file_path": "ibtmp1:12M:autoextend",
        "innodb_log_group_home_dir": "./",
        "innodb_undo_directory": "./",
        "log_bin": "OFF",
        "pid_file": f"{root}/data/my.pid",
        "socket": f"{root}/data/my.sock",
        "tmpdir": f"{root}/tmp",
        "server_uuid": UUID,
        "server_id": "7",
    }
    return ServerFacts({**base, **(variables or {})}, **{"open_files": (), **others})


def listed(discovery: Discovery) -> dict[str, Entry]:
    return {entry.name: entry for entry in walk(discovery)}


def files(discovery: Discovery) -> set[str]:
    return {name for name, entry in listed(discovery).items() if entry.type != "directory"}


def places(discovery: Discovery) -> dict[str, str]:
    return {place.name: place.path for place in discovery.places}


def test_inside_the_data_directory_there_is_one_place_only(root: Path) -> None:
    touch(root, "data/rl/relay.000001", "data/binlog.000001", "data/#innodb_redo/#ib_redo1", "data/undo_001")
    touch(root, "data/auto.cnf", "data/mysqld-auto.cnf", "data/master.info", "data/worker-relay-log.info.2")
    touch(root, "data/relay-log-a@002db.info", "data/ca-key.pem", "data/error.log", f"data/SQL_LOAD-{UUID}-1-2.data")
    (root / "data/link").symlink_to(root / "data" / "rl")
    discovery = plan_places(
        facts(
            root,
            {
                "log_bin": "ON",
                "log_bin_basename": f"{root}/data/binlog",
                "log_bin_index": f"{root}/data/binlog.index",
                "relay_log_basename": "rl/relay",
                "relay_log_index": "rl/other",
                "relay_log_info_file": "relay-log.info",
                "replica_load_tmpdir": f"{root}/data",
                "ssl_key": "ca-key.pem",
                "log_error": "./error.log",
                "innodb_doublewrite_dir": "",
            },
            pid=os.getpid(),
        )
    )
    assert places(discovery) == {"datadir": f"{root}/data"}
    roles = {name.partition("/")[2]: entry.role for name, entry in listed(discovery).items() if entry.role}
    assert roles == {
        "rl/relay.000001": "relay_log",
        "binlog.000001": "binlog",
        "#innodb_redo/#ib_redo1": "innodb_redo",
        "ib_logfile0": "innodb_redo",
        "ibdata1": "innodb_system",
        "undo_001": "innodb_undo",
        "auto.cnf": "identity",
        "mysqld-auto.cnf": "persisted_settings",
        "master.info": "status_file",
        "worker-relay-log.info.2": "status_file",
        "relay-log-a@002db.info": "status_file",
        "ca-key.pem": "key",
        f"SQL_LOAD-{UUID}-1-2.data": "load_data",
    }
    assert {"datadir/error.log", "datadir/link"} <= files(discovery)
    assert discovery.warnings == ()


@pytest.mark.parametrize(
    ("variables", "present", "place", "names"),
    [
        (
            {"log_bin": "ON", "log_bin_basename": "{}/x/log", "log_bin_index": "{}/x/log.index"},
            "log.000001 log.999999 log.1000000 log.index log.state log.~rec~ logs.000001 log.0001 other-log.000001",
            "binlog",
            "log.000001 log.999999 log.1000000 log.index log.state log.~rec~",
        ),
        (
            {"relay_log_basename": "{}/x/rl", "relay_log_index": "{}/x/idx.index"},
            "rl.000001 rl-c@0020d.000002 idx.index idx-c@0020d.index rl2.000001 rl.index.bak",
            "relay_log",
            "rl.000001 rl-c@0020d.000002 idx.index idx-c@0020d.index",
        ),
        (
            {"relay_log": "{}/x/rl"},
            "rl.000001 rl.index",
            "relay_log",
            "rl.000001 rl.index",
        ),
        (
            {"relay_log_info_file": "{}/x/applier.info"},
            "applier.info applier-c.info worker-applier.info.1 applier.info.bak my.info",
            "replica_status",
            "applier.info applier-c.info worker-applier.info.1",
        ),
        (
            {"relay_log_info_file": "{}/x/applier"},
            "applier applier-c worker-applier.3 other",
            "replica_status",
            "applier applier-c worker-applier.3",
        ),
        (
            {"slave_load_tmpdir": "{}/x"},
            f"SQL_LOAD-{UUID}-1-2.data SQL_LOAD-{UUID}-1-2.info SQL_LOAD-7-1-2.data SQL_LOAD-other-1-2.data",
            "load_data",
            f"SQL_LOAD-{UUID}-1-2.data SQL_LOAD-{UUID}-1-2.info",
        ),
        (
            {"tmpdir": "{}/x:{}/tmp", "server_uuid": ""},
            "SQL_LOAD-7-1-2.data SQL_LOAD-77-1-2.data #sql-temptable-1.MAI",
            "load_data",
            "SQL_LOAD-7-1-2.data",
        ),
        (
            {"innodb_log_group_home_dir": "{}/x"},
            "ib_logfile0 ib_logfile1 #innodb_redo/#ib_redo1 #innodb_redo/#ib_redo2_tmp ib_other sub/ib_logfile0",
            "innodb_redo",
            "ib_logfile0 ib_logfile1 #innodb_redo/#ib_redo1 #innodb_redo/#ib_redo2_tmp",
        ),
        (
            {"innodb_undo_directory": "{}/x"},
            "undo_001 undo001 more.ibu undo.txt",
            "innodb_undo",
            "undo_001 undo001 more.ibu",
        ),
        (
            {"innodb_doublewrite_dir": "{}/x"},
            "#ib_16384_0.dblwr #ib_16384_1.bdblwr #ib_x",
            "doublewrite",
            "#ib_16384_0.dblwr #ib_16384_1.bdblwr",
        ),
        (
            {"aria_log_dir_path": "{}/x"},
            "aria_log_control aria_log.00000001 aria_log.txt",
            "aria_log",
            "aria_log_control aria_log.00000001",
        ),
        (
            {"innodb_data_file_path": "ibdata1:12M;{}/x/ibdata2:50M:autoextend"},
            "ibdata2 ibdata3",
            "innodb_home",
            "ibdata2",
        ),
        (
            {"innodb_data_home_dir": "{}/x/", "innodb_data_file_path": "ibdata9:12M", "innodb_doublewrite_dir": ""},
            "ibdata9 ibtmp1 #ib_16384_0.dblwr ibdata8",
            "innodb_home",
            "ibdata9 #ib_16384_0.dblwr",
        ),
        (
            {"innodb_data_home_dir": "{}/x", "innodb_data_file_path": "a:1M", "innodb_buffer_pool_filename": "warm"},
            "a warm warmer",
            "innodb_home",
            "a warm",
        ),
        (
            {"rocksdb_datadir": "{}/x"},
            "000012.sst sub/any",
            "tablespaces",
            "000012.sst sub/any",
        ),
        (
            {"ssl_capath": "{}/x", "ssl_crlpath": "/etc/ssl/certs"},
            "0a1b2c3d.0 0a1b2c3d.r1 readme",
            "keys",
            "0a1b2c3d.0 0a1b2c3d.r1",
        ),
        (
            {"keyring_file_data": "{}/x/keyring", "init_file": "{}/x/init.sql", "ft_stopword_file": "(built-in)"},
            "keyring keyring.backup keyring.old init.sql",
            "keys",
            "keyring keyring.backup",
        ),
        (
            {"validate_password.dictionary_file": "{}/x/words"},
            "words others",
            "config",
            "words",
        ),
    ],
)
def test_a_directory_elsewhere_becomes_a_place_with_our_names_only(
    root: Path, variables: dict[str, str], present: str, place: str, names: str
) -> None:
    touch(root / "x", *present.split())
    filled = {name: value.replace("{}", str(root)) for name, value in variables.items()}
    discovery = plan_places(facts(root, filled))
    assert places(discovery)[place] == f"{root}/x"
    assert {name for name in files(discovery) if name.startswith(place + "/")} == {
        f"{place}/{name}" for name in names.split()
    }


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("directory", ["x", "data"])
def test_caches_of_binary_logs_are_left_out_by_name(root: Path, directory: str, include: bool) -> None:
    # Seen on MariaDB 11.8: one file for each session that writes, held open.
    touch(root / directory, "mysql-bin.000001")
    touch(root / directory / "#binlog_cache_files", "ML_139637842691384")
    variables = {"log_bin": "ON", "log_bin_basename": f"{root}/{directory}/mysql-bin"}
    held = f"{root}/{directory}/#binlog_cache_files/ML_139637842691384"
    discovery = plan_places(facts(root, variables, open_files=(held,)), include_binlogs=include)
    assert not [name for name in files(discovery) if "binlog_cache" in name]
    assert held not in discovery.required


def test_two_kinds_may_share_a_directory_and_no_file_comes_twice(root: Path) -> None:
    touch(root / "logs", "mysql.000001", "mysql.index", "mysql-relay.000003", "mysql-relay.index", "error.log")
    touch(root / "logs", "mysql.000001.idx")
    discovery = plan_places(
        facts(
            root,
            {
                "log_bin": "ON",
                "log_bin_basename": f"{root}/logs/mysql",
                "log_bin_index": f"{root}/logs/mysql.index",
                "relay_log_basename": f"{root}/logs/mysql-relay",
                "relay_log_index": f"{root}/logs/mysql-relay.index",
                "relay_log_info_file": f"{root}/logs/mysql.index",
            },
        )
    )
    assert files(discovery) - {"datadir/" + name for name in os.listdir(root / "data")} == {
        "datadir/db/t.ibd",
        "binlog/mysql.000001",
        "binlog/mysql.000001.idx",
        "binlog/mysql.index",
        "relay_log/mysql-relay.000003",
        "relay_log/mysql-relay.index",
    }


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        # The variable always says names.index (MySQL 9.7 and MariaDB 10.11, log_bin_index=.../names.list).
        ("{}/x/names.list", {"names.list", "names.index", "names-a@0020b.list", "names-a@0020b.index"}),
        ("names.list", {"names.list", "names.index", "names-a@0020b.list", "names-a@0020b.index"}),
        ("{}/x/names", {"names.index", "names-a@0020b.index"}),
        ("{}/x/other.list", {"names.index", "names-a@0020b.index"}),
        (None, {"names.index", "names-a@0020b.index"}),
    ],
)
def test_an_index_keeps_the_extension_that_its_option_gives(root: Path, given: str | None, ours: set[str]) -> None:
    both = {f"names{channel}.{end}" for channel in ("", "-a@0020b") for end in ("list", "index", "txt")}
    touch(root / "x", *both, "names.~rec~", "other.list")
    variables = {"relay_log_basename": f"{root}/x/rl", "relay_log_index": f"{root}/x/names.index"}
    options = {} if given is None else {"relay_log_index": given.replace("{}", str(root))}
    discovery = plan_places(facts(root, variables, options=options))
    found = {name.partition("/")[2]: entry.role for name, entry in listed(discovery).items() if "relay_log/" in name}
    assert found == {**dict.fromkeys(ours, "relay_log_index"), "names.~rec~": None}
    variables = {"log_bin": "ON", "log_bin_basename": f"{root}/x/b", "log_bin_index": f"{root}/x/names.index"}
    options = {} if given is None else {"log_bin_index": options["relay_log_index"]}
    found = {
        name: entry.role
        for name, entry in listed(plan_places(facts(root, variables, options=options))).items()
        if name.startswith("binlog/")
    }
    assert found == {
        **{f"binlog/{name}": "binlog_index" for name in ours if "-" not in name},
        "binlog/names.~rec~": None,
    }


def test_the_system_tablespace_as_mysqls_dictionary_names_it(root: Path) -> None:
    touch(root, "home/ibdata1", "home/sub/ibdata2")
    (root / "data/ibdata1").unlink()
    variables = {"innodb_data_home_dir": f"{root}/home", "innodb_data_file_path": "ibdata1:12M;sub/ibdata2:12M"}
    discovery = plan_places(facts(root, variables, dictionary_files=("./ibdata1", "./sub/ibdata2", "./db/t.ibd")))
    assert discovery.required == (f"{root}/data/db/t.ibd", f"{root}/home/ibdata1", f"{root}/home/sub/ibdata2")
    assert missing_required(discovery, walk(discovery)) == []


def test_mysql_marks_the_directory_of_the_doublewrite_buffer(root: Path) -> None:
    touch(root, "data/#dblwr/#ib_16384_0.dblwr", "data/plain/#ib_16384_0.dblwr")
    for value, marked in (("dblwr", "#dblwr"), ("#dblwr", "#dblwr"), ("./plain", "plain"), ("plain", "plain")):
        entries = listed(plan_places(facts(root, {"innodb_doublewrite_dir": value})))
        roles = {name for name, entry in entries.items() if entry.role == "doublewrite"}
        assert roles == {f"datadir/{marked}/#ib_16384_0.dblwr"}, value
    with pytest.raises(RefusedError, match="innodb_doublewrite_dir leads to"):
        plan_places(facts(root, {"innodb_doublewrite_dir": "absent"}))


def test_the_log_of_the_transaction_coordinator(root: Path) -> None:
    touch(root, "x/coordinator", "x/other")
    discovery = plan_places(facts(root, options={"log_tc": f"{root}/x/coordinator"}))
    assert {name for name in files(discovery) if not name.startswith("datadir/")} == {"binlog/coordinator"}
    assert "binlog" not in places(plan_places(facts(root, options={"log_tc": f"{root}/x/absent"})))


def test_exported_tables_elsewhere(root: Path) -> None:
    touch(root, "ext/db/t.ibd", "ext/db/t.cfg", "ext/db/t.cfp", "ext/db/t.txt")
    names = files(plan_places(facts(root, dictionary_files=(f"{root}/ext/db/t.ibd",))))
    assert {name for name in names if name.startswith("tablespaces/")} == {
        f"tablespaces/db/t.{suffix}" for suffix in ("ibd", "cfg", "cfp")
    }


def test_certificate_directories_of_channels(root: Path) -> None:
    touch(root, "ca/0a1b2c3d.0", "ca/readme", "ca/real.pem")
    (root / "ca/1a1b2c3d.0").symlink_to("real.pem")
    discovery = plan_places(facts(root, side_files=(f"{root}/ca", "/etc/ssl/certs")))
    assert {name for name in files(discovery) if name.startswith("keys/")} == {
        *("keys/0a1b2c3d.0", "keys/1a1b2c3d.0", "keys/real.pem")
    }
    assert "keys-2" not in places(discovery)


def test_known_channels_keep_another_servers_relay_logs_out(root: Path) -> None:
    touch(root / "logs", "rl.000001", "rl-c.000001", "rl-c.index", "rl-2.000001", "rl-2.index", "old.000009")
    variables = {"relay_log_basename": f"{root}/logs/rl", "relay_log_index": f"{root}/logs/rl.index"}
    discovery = plan_places(facts(root, variables, relay_log_names=("rl-c.000001", "")))
    assert {name for name in files(discovery) if "relay_log/" in name} == {
        "relay_log/rl.000001",
        "relay_log/rl-c.000001",
        "relay_log/rl-c.index",
    }
    discovery = plan_places(facts(root, variables, relay_log_names=(f"{root}/logs/old.000009",)))
    assert "relay_log/old.000009" in files(discovery)


def test_relay_logs_are_named_after_the_pid_file_by_default(root: Path) -> None:
    discovery = plan_places(facts(root, {"relay_log": "", "relay_log_basename": "None"}))
    assert listed(discovery)["datadir/my-relay-bin.000001"].role == "relay_log"


def test_connection_files_and_options_without_a_variable(root: Path) -> None:
    touch(root / "st", "conn.info", "multi-conn.info", "conn-a.info", "seen.info", "ca.pem")
    discovery = plan_places(
        facts(
            root,
            options={"master_info_file": f"{root}/st/conn.info"},
            connection_files=("mysql.slave_master_info", f"{root}/st/seen.info"),
            side_files=(f"{root}/st/ca.pem", f"{root}/st/absent.pem"),
        )
    )
    found = {name: entry.role for name, entry in listed(discovery).items() if entry.role and "/" in name}
    assert {name: role for name, role in found.items() if not name.startswith("datadir/")} == {
        "replica_status/conn.info": "status_file",
        "replica_status/multi-conn.info": "status_file",
        "replica_status/conn-a.info": "status_file",
        "replica_status/seen.info": "status_file",
        "keys/ca.pem": "key",
    }
    assert [warning for warning in discovery.warnings if "absent.pem" in warning]


def test_only_what_the_server_makes_anew_is_left_out(root: Path) -> None:
    touch(root, "data/ibtmp1", "data/#innodb_temp/temp_1.ibt", "data/my.pid", "data/my.sock.lock", "data/lost+found/1")
    touch(root, "data/tmp/#sql-temptable-1.MAD", "data/tmp/keep", "data/db/#sql-ib1.ibd")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(root / "data")
        listener.bind("my.sock")
        discovery = plan_places(facts(root, {"tmpdir": f"{root}/data/tmp", "mysqlx_socket": "x.sock"}))
        names = files(discovery)
    assert names == {
        "datadir/ibdata1",
        "datadir/ib_logfile0",
        "datadir/db/t.ibd",
        "datadir/db/#sql-ib1.ibd",
        "datadir/my-relay-bin.000001",
        "datadir/tmp/keep",
    }
    assert {rule.rule for rule in discovery.exclusions} == {
        "innodb_temporary",
        "socket",
        "socket_lock",
        "pid_file",
        "temporary_table",
        "lost_found",
    }
    assert all(rule.reason for rule in discovery.exclusions)


def test_session_tablespaces_in_a_shared_directory(root: Path) -> None:
    touch(root, "data/work/temp_1.ibt", "data/work/else")
    discovery = plan_places(facts(root, {"innodb_temp_tablespaces_dir": f"{root}/data/work"}))
    assert "datadir/work/else" in files(discovery)
    assert "datadir/work/temp_1.ibt" not in files(discovery)


def test_binary_logs_left_out_on_request_keep_their_state(root: Path) -> None:
    touch(root, "data/b.000001", "data/b.index", "data/b.state")
    variables = {"log_bin": "1", "log_bin_basename": f"{root}/data/b"}
    discovery = plan_places(facts(root, variables, open_files=(f"{root}/data/b.000001",)), include_binlogs=False)
    names = files(discovery)
    assert "datadir/b.state" in names and not {"datadir/b.000001", "datadir/b.index"} & names
    assert missing_required(discovery, walk(discovery)) == []
    assert not discovery.include_binlogs


def test_tables_elsewhere(root: Path) -> None:
    touch(root, "ext/db1/a.ibd", "ext/db1/b.ibd", "ext/db1/note.txt", "ext/db2/c.ibd", "gen/space.ibd", "gen/in/d.ibd")
    touch(root, "gen/odd.data", "whole/t.MYD", "whole/sub/x", "far/m.MYD", "far/m.MYI", "far/readme", "hop/final.ibd")
    (root / "data/whole").symlink_to(root / "whole")
    (root / "data/db/m.MYD").symlink_to(root / "far/m.MYD")
    (root / "data/db/m.MYI").symlink_to("../../far/m.MYI")
    (root / "data/db/dangling").symlink_to(root / "nowhere")
    (root / "data/db/pipe").symlink_to("/dev/null")
    (root / "hop/one.ibd").symlink_to(root / "hop/final.ibd")
    (root / "data/db/hop.ibd").symlink_to(root / "hop/one.ibd")
    touch(root, "isl/i.ibd", "data/db/empty.isl")
    (root / "data/db/i.isl").write_text(f"{root}/isl/i.ibd")
    (root / "data/db/empty.isl").write_text("")
    (root / "data/db1").mkdir()
    (root / "data/db2").mkdir()
    far = ("ext/db1/a.ibd", "ext/db2/c.ibd", "gen/space.ibd", "gen/in/d.ibd", "gen/odd.data", "data/whole/w.ibd")
    dictionary = ("./ibdata1", "./db/t.ibd", "db/hop.ibd", *(f"{root}/{name}" for name in far))
    touch(root, "whole/w.ibd")
    discovery = plan_places(facts(root, dictionary_files=dictionary))
    outside = {name for name in files(discovery) if not name.startswith("datadir/")}
    by_path = {place.path: place for place in discovery.places}
    assert set(by_path) == {f"{root}/{name}" for name in ["data", "whole", "ext", "gen", "far", "hop", "isl", "tmp"]}
    assert by_path[f"{root}/whole"].select == "tree"
    short = {name.partition("/")[2] for name in outside}
    assert short == {
        *("db1/a.ibd", "db1/b.ibd", "db2/c.ibd", "space.ibd", "in/d.ibd", "odd.data", "t.MYD", "sub/x", "w.ibd"),
        *("m.MYD", "m.MYI", "one.ibd", "final.ibd", "i.ibd"),
    }
    assert missing_required(discovery, walk(discovery)) == []
    assert [warning for warning in discovery.warnings if "nowhere" in warning]
    assert listed(discovery)["datadir/whole"].target == f"{root}/whole"


def test_a_link_to_a_log_directory_needs_no_place_of_its_own(root: Path) -> None:
    touch(root, "logs/rl.000001", "logs/else")
    (root / "data/rl").symlink_to(root / "logs")
    discovery = plan_places(facts(root, {"relay_log_basename": "rl/rl", "relay_log_index": "rl/rl.index"}))
    assert places(discovery) == {
        "datadir": f"{root}/data",
        "relay_log": f"{root}/data/rl",
        "load_data": f"{root}/tmp",
    }
    assert "relay_log/rl.000001" in files(discovery) and "relay_log/else" not in files(discovery)


def test_a_data_directory_behind_a_link_keeps_the_name_the_server_uses(root: Path) -> None:
    (root / "name").symlink_to(root / "data")
    discovery = plan_places(facts(root, {"datadir": f"{root}/name", "relay_log_basename": f"{root}/data/my-relay-bin"}))
    assert places(discovery)["datadir"] == f"{root}/name"
    assert "relay_log" not in places(discovery)
    assert listed(discovery)["datadir/my-relay-bin.000001"].role == "relay_log"


@pytest.mark.parametrize("target", ["/etc", "/", "."])
def test_a_link_that_leads_too_far_is_refused(root: Path, target: str) -> None:
    (root / "data/db/far").symlink_to(root if target == "." else target)
    with pytest.raises(RefusedError, match="far more than a database"):
        plan_places(facts(root))


def test_option_files_keep_their_links(root: Path) -> None:
    touch(root, "etc/mysql/real.cnf", "etc/mysql/conf.d/a.cnf", "etc/mysql/other", "alt/x")
    (root / "alt/my.cnf").symlink_to(root / "etc/mysql/real.cnf")
    (root / "etc/mysql/my.cnf").symlink_to(root / "alt/my.cnf")
    discovery = plan_places(facts(root, option_files=(f"{root}/etc/mysql/my.cnf", f"{root}/etc/mysql/conf.d/a.cnf")))
    assert {name for name in files(discovery) if name.startswith("config")} == {
        "config/my.cnf",
        "config-2/my.cnf",
        "config-2/real.cnf",
        "config-2/conf.d/a.cnf",
    }


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"datadir": ""}, "does not name its data directory"),
        ({"datadir": "/nonexistent/x"}, "does not exist here"),
        ({"innodb_data_file_path": "ibdata1:12M;ibdata2:1M"}, "ibdata2, which is not there"),
        ({"innodb_data_file_path": "/dev/sda1:3Graw"}, "raw device"),
        ({"log_bin": "ON"}, "does not say where"),
        ({"relay_log_basename": "/srv/b?te/relay"}, "relay_log_basename leads to /srv/b\\?te, which is not there"),
        ({"innodb_undo_directory": "/nonexistent/undo"}, "innodb_undo_directory leads to /nonexistent/undo"),
        ({"keyring_file_data": "/nonexistent/keyring"}, "encrypted data cannot be read"),
        ({"file_key_management_filekey": "FILE:/nonexistent/pass"}, "encrypted data cannot be read"),
    ],
)
def test_words_and_disk_that_contradict_each_other(root: Path, variables: dict[str, str], message: str) -> None:
    with pytest.raises(RefusedError, match=message) as caught:
        plan_places(facts(root, variables))
    assert caught.value.expected


def test_a_missing_load_directory_is_told(root: Path) -> None:
    discovery = plan_places(facts(root, {"slave_load_tmpdir": f"{root}/absent"}))
    assert "load_data" not in places(discovery)
    assert [warning for warning in discovery.warnings if "absent" in warning]


def _as_nobody(call: t.Callable[[], None]) -> None:
    """Root may read everything: permissions can be tested as somebody else only."""
    if os.geteuid() != 0:
        call()
        return
    os.seteuid(65534)
    try:
        call()
    finally:
        os.seteuid(0)


def test_what_may_not_be_read(tmp_path: Path) -> None:
    for directory in [tmp_path, *tmp_path.parents][:3]:
        directory.chmod(0o755)
    root = tmp_path
    touch(root, "data/ibdata1", "load/x", "key")
    (root / "tmp").mkdir()
    (root / "load").chmod(0)
    (root / "key").chmod(0)

    def check() -> None:
        with pytest.raises(RefusedError, match="SQL_LOAD files cannot be read"):
            plan_places(facts(root, {"slave_load_tmpdir": f"{root}/load"}))
        with pytest.raises(RefusedError, match="key cannot be read"):
            plan_places(facts(root, {"ssl_key": f"{root}/key"}))

    try:
        _as_nobody(check)
    finally:
        (root / "load").chmod(0o755)


def test_required_files(root: Path) -> None:
    touch(
        root,
        "data/open.MYD",
        "log/err",
        "log/err.00.json",
        "log/sql",
        "log/out",
        "tmp/sort",
        "tmp/#sql1.ibd",
        "files/export",
        "stray",
        "data/ibtmp1",
    )
    (root / "pipe").mkdir()
    os.mkfifo(root / "pipe/fifo")
    opened = (
        "data/open.MYD",
        "log/err",
        "log/err.00.json",
        "log/sql",
        "log/out",
        "tmp/sort",
        "files/export",
        "stray",
        "pipe/fifo",
        "data/ibtmp1",
    )
    discovery = plan_places(
        facts(
            root,
            {
                "log_error": f"{root}/log/err",
                "sql_error_log_filename": f"{root}/log/sql",
                "secure_file_priv": f"{root}/files/",
            },
            dictionary_files=("./db/t.ibd", f"{root}/tmp/#sql1.ibd", "./ibtmp1", "./db/lost.ibd"),
            open_files=(*(f"{root}/{name}" for name in opened), "/proc/pressure/memory"),
            log_files=(f"{root}/log/out",),
        )
    )
    assert discovery.required == tuple(
        f"{root}/{name}"
        for name in sorted(("data/db/lost.ibd", "data/db/t.ibd", "data/ibdata1", "data/open.MYD", "stray"))
    )
    assert missing_required(discovery, walk(discovery)) == [f"{root}/data/db/lost.ibd", f"{root}/stray"]
    assert "tablespaces" not in places(discovery)


def test_logs_that_were_moved_aside_are_no_data(root: Path) -> None:
    """The server writes on to them until it opens its logs anew."""
    rotated = ("slow.log.1", "slow.log-20261122", "slow-20261122-1795.log", "slow.log.2026-11-22", "slow.log.old")
    data = ("slow.log.d", "slow.ibd", "slow2.log", "slow")
    touch(root, *(f"log/{name}" for name in (*rotated, *data)))
    discovery = plan_places(
        facts(
            root,
            {"slow_query_log_file": f"{root}/log/slow.log"},
            open_files=tuple(f"{root}/log/{name}" for name in ("slow.log", *rotated, *data)),
        )
    )
    assert set(discovery.required) == {f"{root}/data/ibdata1", *(f"{root}/log/{name}" for name in data)}


def test_the_log_of_an_audit_plugin_that_was_given_a_directory_is_no_data(root: Path) -> None:
    touch(root, "audit/server_audit.log", "audit/else")
    opened = (f"{root}/audit/server_audit.log", f"{root}/audit/else")
    discovery = plan_places(facts(root, {"server_audit_file_path": f"{root}/audit/"}, open_files=opened))
    assert discovery.required == (f"{root}/audit/else", f"{root}/data/ibdata1")


def test_unknown_open_files_are_told(root: Path) -> None:
    assert "may not be seen" in plan_places(facts(root, open_files=None)).warnings[-1]


def test_a_private_tmp_is_read_through_the_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = root / "private"
    touch(hidden, f"SQL_LOAD-{UUID}-1-1.data", "SQL_LOAD-else-1-1.data")
    (hidden / f"SQL_LOAD-{UUID}-1-2.data").symlink_to("/etc/passwd")
    real = _load_data.server_view
    seen = {f"{root}/tmp": str(hidden)}
    monkeypatch.setattr(
        _load_data, "server_view", lambda path, pid: (seen[path], True) if path in seen else real(path, pid)
    )
    discovery = plan_places(facts(root))
    (place,) = (place for place in discovery.places if place.name == "load_data")
    assert (place.path, place.disk) == (f"{root}/tmp", str(hidden))
    saved = _load_data.rescue(place.read_from, str(root / "saved"), place.patterns)
    assert os.listdir(saved) == [f"SQL_LOAD-{UUID}-1-1.data"]
    assert os.stat(saved).st_mode == os.stat(hidden).st_mode
    moved = replace(discovery, places=(replace(place, read_from=saved),))
    assert listed(moved)[f"load_data/SQL_LOAD-{UUID}-1-1.data"].role == "load_data"


def test_the_servers_view_of_a_path() -> None:
    assert _load_data.server_view("/etc", None) == ("", False)
    assert _load_data.server_view("/etc", os.getpid()) == ("", True)
    assert _load_data.server_view("/nonexistent/dir", os.getpid()) == ("", True)


@pytest.fixture
def apart(root: Path) -> t.Iterator[tuple[int, Path]]:
    """A process that sees an empty file system where everybody else sees a directory with a file."""
    touch(root, "apart/file")
    command = f"mount --make-rprivate / && mount -t tmpfs none '{root}/apart' && echo ready && exec sleep 600"
    process = subprocess.Popen(["unshare", "--mount", "sh", "-c", command], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            pytest.skip("may not make a mount namespace")
        yield process.pid, root / "apart"
    finally:
        process.kill()
        process.communicate()


def test_a_server_with_file_systems_of_its_own(root: Path, apart: tuple[int, Path]) -> None:
    pid, directory = apart
    inside = f"/proc/{pid}/root{directory}"
    assert _load_data.server_view(str(directory), pid) == (inside, True)
    assert _load_data.server_view(str(root), pid) == ("", True)
    touch(Path(inside), f"SQL_LOAD-{UUID}-1-1.data")
    discovery = plan_places(facts(root, {"slave_load_tmpdir": str(directory)}, pid=pid))
    assert f"load_data/SQL_LOAD-{UUID}-1-1.data" in files(discovery)
    assert "load_data/file" not in files(discovery)
    touch(root, "apart/ibdata1")
    with pytest.raises(RefusedError, match="sees another directory"):
        plan_places(facts(root, {"datadir": str(directory)}, pid=pid))


def test_a_process_of_somebody_else_leaves_it_open() -> None:
    seen: list[tuple[str, bool]] = []
    _as_nobody(lambda: seen.append(_load_data.server_view("/etc", 1)))
    assert seen == [("", False)]


def test_private_directories_are_found_by_our_own_names() -> None:
    inside = Path("/tmp/systemd-private-0-unit-test.service-x/tmp")
    pattern = _load_data.own_pattern({"server_uuid": "unit-test"})
    touch(inside, "SQL_LOAD-unit-test-1-1.data")
    try:
        assert _load_data.private_directories("/tmp", pattern) == [str(inside)]
        assert _load_data.private_directories("/tmp", "nothing") == []
        assert _load_data.private_directories("/tmp/deeper", pattern) == []
        assert _load_data.private_directories("/srv", pattern) == []
    finally:
        (inside / "SQL_LOAD-unit-test-1-1.data").unlink()
        inside.rmdir()
        inside.parent.rmdir()


def test_keys_of_components_and_other_systems(root: Path) -> None:
    touch(root, "sbin/mysqld.my", "data/mysqld.my", "data/keyring.bin", "plugin/component_keyring.so")
    (root / "plugin/component_keyring_file.cnf").write_text(json.dumps({"path": "keyring.bin"}))
    (root / "plugin/component_keyring_okv.cnf").write_text(json.dumps({"server": "elsewhere"}))
    (root / "plugin/component_keyring_encrypted_file.cnf").write_text(json.dumps({"read_local_config": True}))
    (root / "data/component_keyring_encrypted_file.cnf").write_text(json.dumps({"path": "/k/r"}))
    (root / "data/component_keyring_file.cnf").write_text("no json")
    variables = {
        "plugin_dir": f"{root}/plugin",
        "hashicorp_key_management_vault_url": "https://vault",
        "file_key_management_filekey": "a pass phrase",
        "caching_sha2_password_public_key_path": "public_key.pem",
    }
    found = side_files(f"{root}/data", variables, f"{root}/sbin/mysqld")
    assert {(item.path.removeprefix(f"{root}/"), item.needed) for item in found.files} == {
        ("sbin/mysqld.my", False),
        ("data/mysqld.my", False),
        ("plugin/component_keyring_file.cnf", True),
        ("plugin/component_keyring_okv.cnf", True),
        ("plugin/component_keyring_encrypted_file.cnf", True),
        ("data/component_keyring_encrypted_file.cnf", True),
        ("data/component_keyring_file.cnf", True),
        ("data/keyring.bin", True),
        ("/k/r", True),
        ("data/public_key.pem", False),
    }
    assert [
        word for word in ("vault_url", "okv.cnf names no key", "cannot be understood") if word in str(found.warnings)
    ]
    assert len(found.warnings) == 3


def test_a_plan_survives_the_journey_through_json(root: Path) -> None:
    (root / "x").mkdir()
    discovery = plan_places(facts(root, {"relay_log_basename": f"{root}/x/rl"}, dictionary_files=("./db/t.ibd",)))
    head = json.loads(json.dumps(discovery.head()))
    assert Discovery.from_head(head, discovery.required) == discovery
    assert [place.kind for place in discovery.places] == sorted(
        (place.kind for place in discovery.places), key=PLACES.index
    )


def test_locator_answers_for_single_paths(root: Path) -> None:
    touch(root, "x/#innodb_redo/#ib_redo1", "x/ib_logfile0")
    locator = Locator(plan_places(facts(root, {"innodb_log_group_home_dir": f"{root}/x"})))
    assert locator.covers(f"{root}/x/#innodb_redo/#ib_redo1")
    assert not locator.covers(f"{root}/x/other/#ib_redo1")
    assert not locator.covers(f"{root}/data/ibtmp1")
    assert not locator.covers(str(root))
    assert one_of([]).fullmatch("") is None
