# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of a server that is down. What MySQL 9.7 says while it runs was recorded; MariaDB is asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _offline, _server_help
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Identity
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints, Start
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._offline import (
    built_in_datadir,
    persisted_settings,
    read_offline,
    resolve,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts

HELP = Path(__file__).parent / "fixtures" / "help"
MARIADBD = shutil.which("mariadbd", path="/usr/sbin:/usr/bin:/usr/libexec")
needs_server = pytest.mark.skipif(MARIADBD is None, reason="needs mariadbd")


@pytest.fixture
def open_directory() -> t.Iterator[Path]:
    """A directory that the server's account may enter, unlike those of pytest."""
    path = Path(tempfile.mkdtemp(prefix="rb-unit-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def settings(help_file: str, asked: str, given: dict[str, str], datadir: str) -> dict[str, str]:
    said = _server_help.parse_help((HELP / help_file).read_text(), asked_datadir=asked, datadir=datadir)
    found = _offline._Settings(said.variables, given.items())
    _offline._derive(found, datadir)
    return found.variables


def test_a_recorded_mysql_9_7_would_use_the_paths_that_it_used() -> None:
    recorded = json.loads((HELP / "mysql-9.7-live.json").read_text())
    variables = settings("mysql-9.7.txt", "/x/s", recorded["given"], "/var/lib/mysql")
    # The binary was asked on a host of another name, and does not tell these.
    untold = {"ft_stopword_file": "", "innodb_temp_tablespaces_dir": "", "server_uuid": None}
    for name, live in recorded["variables"].items():
        found = variables.get(name)
        if name in untold:
            assert found == untold[name], name
            continue
        assert (found or "").replace("658dfdbfdd0e", recorded["hostname"]).rstrip("/") == live.rstrip("/"), name


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"log_bin": "OFF", "log_bin_basename": "", "relay_log": "", "slave_load_tmpdir": "/tmp"}),
        ({"log_bin": ""}, {"log_bin": "ON", "log_bin_basename": "/d/vm-bin", "log_bin_index": "/d/vm-bin.index"}),
        ({"log_bin": "x", "skip_log_bin": ""}, {"log_bin": "OFF", "log_bin_basename": ""}),
        ({"log_bin": "a/b.c", "log_bin_index": "i"}, {"log_bin_basename": "/d/a/b", "log_bin_index": "/d/i.index"}),
        (
            {"log_basename": "n", "log_bin": ""},
            {"log_bin_basename": "/d/n-bin", "relay_log_basename": "/d/n-relay-bin", "pid_file": "/d/n.pid"},
        ),
        (
            {"relay_log": "r/x", "relay_log_index": "r/y"},
            {"relay_log_basename": "/d/r/x", "relay_log_index": "/d/r/y.index"},
        ),
        ({"tmpdir": "/a:/b"}, {"tmpdir": "/a:/b", "slave_load_tmpdir": "/a"}),
        ({"pid_file": "run/my.pid", "log_bin": ""}, {"pid_file": "/d/run/my.pid", "log_bin_basename": "/d/my-bin"}),
        ({"log_error": "e"}, {"log_error": "/d/e.err"}),
        ({"log_error": ""}, {"log_error": "/d/vm.err"}),
        ({"datad": "/other", "innodb_file_per_table": "1"}, {"innodb_file_per_table": "ON"}),
        ({"innodb_log_file_size": "2m"}, {"innodb_log_file_size": "2097152"}),
        ({"innodb_directories": "/x"}, {"innodb_directories": None}),
        ({"file_key_management_filename": "/k"}, {"file_key_management_filename": "/k"}),
        ({"skip_slave_start": ""}, {"skip_slave_start": "ON"}),
    ],
)
def test_what_mariadb_makes_of_its_settings(given: dict[str, str], expected: dict[str, str | None]) -> None:
    variables = settings("mariadb-10.11.txt", "/var/lib/mysql", given, "/d")
    assert {name: variables.get(name) for name in expected} == expected
    assert variables["datadir"] == "/d/"


@pytest.mark.parametrize(
    ("option", "found"),
    [
        ("datadir", ("datadir", None)),
        ("data", ("datadir", None)),
        ("skip_log_bin", ("log_bin", False)),
        ("disable_log_bin", ("log_bin", False)),
        ("enable_log_bin", ("log_bin", True)),
        ("skip_name_resolve", ("skip_name_resolve", None)),
        ("log", ("log", None)),
        ("unheard_of", ("unheard_of", None)),
    ],
)
def test_what_an_option_sets(option: str, found: tuple[str, bool | None]) -> None:
    assert resolve(option, ("datadir", "log_bin", "log_error", "skip_name_resolve")) == found


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (
            '{"Version": 2, "mysql_static_variables": {"a": {"Value": "ON", "Metadata": {"Host": "h"}}},'
            ' "mysql_dynamic_parse_early_variables": {"max_connections": {"Value": "99", "Metadata": {}}}}',
            {"a": "ON", "max_connections": "99"},
        ),
        (
            '{"Version": 1, "mysql_server": {"b": {"Value": "1", "Metadata": {}},'
            ' "mysql_server_static_options": {"c": {"Value": "/x", "Metadata": {}}}}}',
            {"b": "1", "c": "/x"},
        ),
        ("{}", {}),
    ],
)
def test_persisted_settings(text: str, values: dict[str, str]) -> None:
    assert persisted_settings(text) == values


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_what_is_no_mysqld_auto_cnf(text: str) -> None:
    with pytest.raises(ValueError):
        persisted_settings(text)


def test_persisted_settings_win_and_a_damaged_file_is_told(tmp_path: Path) -> None:
    before = _offline._Settings({"persisted_globals_load": "ON"}, ())
    assert _offline._persisted(str(tmp_path), (), before) == ({}, "")
    (tmp_path / "mysqld-auto.cnf").write_text('{"x": {"Value": "1"}}')
    assert _offline._persisted(str(tmp_path), (), before) == ({"x": "1"}, "")
    assert _offline._persisted(str(tmp_path), ("mysqld", "--no-defaults"), before) == ({}, "")
    (tmp_path / "mysqld-auto.cnf").write_text("{")
    assert "cannot be understood" in _offline._persisted(str(tmp_path), (), before)[1]


def test_the_directory_that_a_server_was_built_with(tmp_path: Path) -> None:
    binary = tmp_path / "mysqld"
    binary.write_bytes(b"\x7fELF\0/var/lib/mysql-files\0/opt/x/data/\0")
    assert built_in_datadir(str(binary), "") == ""
    assert built_in_datadir(str(binary), "/opt/x") == "/opt/x/data"
    assert built_in_datadir(str(tmp_path / "absent"), "") == ""
    if MARIADBD:
        assert built_in_datadir(MARIADBD, "/usr/") == "/var/lib/mysql"


def test_tablespaces_are_found_where_innodb_searches_and_where_its_dictionary_points(tmp_path: Path) -> None:
    data, ext, far = (tmp_path / name for name in ("data", "ext", "far"))
    for directory in (data / "db", ext / "db", far):
        directory.mkdir(parents=True)
    for path in (data / "db" / "in.ibd", ext / "db" / "t.ibd", ext / "u.ibu", ext / "undo_001", ext / "x.txt"):
        path.touch()
    (far / "a b.ibd").touch()
    os.symlink(far, ext / "link")
    # As found in a page of the dictionary: length and flags before the name, the next field after it.
    row = f"\x00/{far}/a b.ibd\x00./db/in.ibd\x80{far}/dropped.ibd".encode("latin-1")
    (data / "mysql.ibd").write_bytes(b"\x00" * 100 + row + b"\x00" * 100)
    facts = ServerFacts({"datadir": f"{data}/", "innodb_directories": f"{ext};{data}/db;{tmp_path}/absent"})
    assert set(_offline._files_of_tablespaces(facts)) == {
        f"{ext}/db/t.ibd",
        f"{ext}/u.ibu",
        f"{ext}/undo_001",
        f"{far}/a b.ibd",
    }
    assert _offline._files_of_tablespaces(ServerFacts({"datadir": f"{data}/"})) == ()


def test_channels_from_their_files(tmp_path: Path) -> None:
    (tmp_path / "relay-log.info").write_text("5\n./old-relay-bin.000007\n4\nb.1\n4\n0\n")
    (tmp_path / "relay-log-bad.info").write_text("")
    (tmp_path / "my-relay-bin.index").write_text("./my-relay-bin.000001\n./my-relay-bin.000002\n")
    (tmp_path / "my-relay-bin-c.index").write_text("./my-relay-bin-c.000004\n")
    master = [
        "18",
        "b.1",
        "4",
        "h",
        "u",
        "secret",
        "3306",
        "60",
        "1",
        "/k/ca.pem",
        "/k/ca.d",
        "/k/c.pem",
        "",
        "/k/k.pem",
        "0",
    ]
    (tmp_path / "master-c.info").write_text("\n".join([*master, "30.000", "", "0", ""]))
    facts = ServerFacts({"datadir": f"{tmp_path}/", "pid_file": "/run/my.pid"})
    found = _offline._channels(facts)
    assert set(found.relay_logs) == {
        "./old-relay-bin.000007",
        "./my-relay-bin.000002",
        "./my-relay-bin-c.000004",
    }
    assert found.connections == (f"{tmp_path}/master-c.info",)
    assert found.tls_files == ("/k/ca.pem", "/k/c.pem", "/k/k.pem", "/k/ca.d")
    assert len(found.warnings) == 1 and "relay-log-bad.info" in found.warnings[0] and "secret" not in str(found)


@needs_server
def test_a_host_whose_data_directory_is_empty_or_missing(tmp_path: Path) -> None:
    (tmp_path / "my.cnf").write_text(f"[mysqld]\ndatadir={tmp_path}/data\nlog-bin={tmp_path}/logs/own\nserver-id=4\n")
    hints = Hints(defaults_file=str(tmp_path / "my.cnf"), server_binary=str(MARIADBD))
    missing = read_offline(hints)
    (tmp_path / "data").mkdir()
    empty = read_offline(hints)
    assert (missing.datadir_state, empty.datadir_state) == ("missing", "empty")
    for found in (missing, empty):
        assert found.facts.datadir == f"{tmp_path}/data"
        assert found.facts.get("log_bin_basename") == f"{tmp_path}/logs/own"
        assert found.facts.option_files == (f"{tmp_path}/my.cnf",)
        assert found.identity.family == "mariadb"
        assert _offline.running_process(found.facts) is None
    assert list((tmp_path / "data").iterdir()) == []


@needs_server
def test_a_data_directory_that_no_option_names(tmp_path: Path) -> None:
    (tmp_path / "my.cnf").write_text("[mysqld]\n")
    found = read_offline(Hints(defaults_file=str(tmp_path / "my.cnf"), server_binary=str(MARIADBD)))
    assert found.facts.datadir == "/var/lib/mysql"
    assert "No option names the data directory" in found.warnings[0]
    (tmp_path / "my.cnf").write_text("[mysqld]\ndatadir=data\n")
    with pytest.raises(RefusedError, match="not absolute"):
        read_offline(Hints(defaults_file=str(tmp_path / "my.cnf"), server_binary=str(MARIADBD)))


@pytest.mark.parametrize(
    ("identity", "variables", "start", "uuid", "facts"),
    [
        (("mariadb", (10, 11, 0)), {}, Start("x", (), known=True), "", ["open_files", "dictionary"]),
        (("mariadb", (10, 11, 0)), {}, Start("x", ()), "", ["command_line", "open_files", "dictionary"]),
        (
            ("mysql", (5, 6, 24)),
            {"master_info_repository": "FILE"},
            Start("x", (), known=True),
            "u",
            ["open_files", "dictionary"],
        ),
        (
            ("mysql", (5, 6, 24)),
            {"master_info_repository": "TABLE", "slave_load_tmpdir": "/var/tmp/x"},
            Start("x", (), known=True, private_tmp=True),
            "",
            ["open_files", "dictionary", "channel_tls_files", "server_uuid", "private_tmp"],
        ),
        (
            ("mysql", (9, 7, 4)),
            {"innodb_directories": "", "replica_load_tmpdir": "/srv"},
            Start("x", (), known=True, private_tmp=True),
            "u",
            ["open_files", "dictionary", "channel_tls_files"],
        ),
    ],
)
def test_what_could_not_be_learned(
    identity: tuple[str, tuple[int, int, int]], variables: dict[str, str], start: Start, uuid: str, facts: list[str]
) -> None:
    told = _offline._not_learned(
        ServerFacts({"datadir": "/d/", **variables}), Identity(*identity, version_text=""), start, uuid
    )
    assert [item.fact for item in told] == facts


def test_persisted_settings_that_cannot_be_read_are_unknown(tmp_path: Path) -> None:
    # MariaDB has no such file; so a program that speaks as MySQL 9.7 did.
    program = tmp_path / "mysqld"
    program.write_text(f"#!/bin/sh\nexec cat '{HELP}/mysql-9.7.txt'\n")
    program.chmod(0o755)
    (tmp_path / "mysqld-auto.cnf").write_text("{")
    (tmp_path / "my.cnf").write_text("[mysqld-9.7]\nbasedir=/opt/x\n")
    hints = Hints(defaults_file=str(tmp_path / "my.cnf"), server_binary=str(program), datadir=str(tmp_path))
    assert next(item.fact for item in read_offline(hints).unknown) == "persisted_settings"
    (tmp_path / "mysqld-auto.cnf").write_text('{"mysql_static_variables": {"relay_log": {"Value": "/persisted/r"}}}')
    (tmp_path / "auto.cnf").write_text("[auto]\nserver-uuid=40a0ae3c-e677-11f1-ac59-02fc00000001\n")
    found = read_offline(hints)
    assert found.facts.get("relay_log_basename") == "/persisted/r"
    assert found.facts.get("server_uuid") == "40a0ae3c-e677-11f1-ac59-02fc00000001"
    assert found.datadir_state == "filled"


def test_a_program_that_is_no_server() -> None:
    with pytest.raises(RefusedError, match="does not say what it is"):
        read_offline(Hints(server_binary="/bin/true", defaults_file="/nowhere"))


@needs_server
@pytest.mark.parametrize(
    "lines",
    [
        ["log_basename=base", "log_bin"],
        [
            *("relay_log=rl/relay.log", "relay_log_index=rl/other", "log_bin=bl/b.old", "log_bin_index=bl/idx"),
            *("pid_file=run/x.pid", "log_error=foo", "tmpdir=t1:t2", "general_log_file=gg", "innodb-undo-dir=."),
        ],
    ],
    ids=["base-name", "relative"],
)
def test_settings_mean_offline_what_a_real_server_makes_of_them(open_directory: Path, lines: list[str]) -> None:
    data = open_directory / "data"
    owner = ["--user=mysql"] if os.geteuid() == 0 else []
    install = ["mariadb-install-db", "--no-defaults", *owner, f"--datadir={data}", "--skip-test-db"]
    subprocess.run([*install, "--auth-root-authentication-method=normal"], check=True, capture_output=True)
    for name in ("rl", "bl", "run", "t1", "t2"):
        (data / name).mkdir()
        (data / name).chmod(0o777)
    for name in ("data", "s"):
        (open_directory / name).mkdir(exist_ok=True)
        (open_directory / name).chmod(0o777)
    config = open_directory / "my.cnf"
    config.write_text(
        "\n".join(["[mysqld]", f"datadir={data}", f"socket={open_directory}/s/s", "skip-networking", *lines])
    )
    server = subprocess.Popen(
        [str(MARIADBD), f"--defaults-file={config}", *owner],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        sql = "SHOW GLOBAL VARIABLES"
        client = ["mariadb", "--no-defaults", "-uroot", f"-S{open_directory}/s/s", "--connect-timeout=5", "-Ne", sql]
        for _attempt in range(600):
            done = subprocess.run(client, capture_output=True, text=True, check=False)
            if done.returncode == 0 or server.poll() is not None:
                break
        assert done.returncode == 0, done.stderr
    finally:
        server.terminate()
        server.wait(60)
    live = dict(line.partition("\t")[::2] for line in done.stdout.splitlines())
    found = read_offline(Hints(defaults_file=str(config), server_binary=str(MARIADBD))).facts
    places = [name for name in live if name.endswith(("_dir", "_directory", "_basename", "_index", "_file", "tmpdir"))]
    places += ["log_bin", "relay_log", "log_error", "datadir", "basedir", "socket", "innodb_data_file_path"]
    assert len(places) > 25
    for name in places:
        if name not in ("core_file", "ft_stopword_file", "tmpdir", "log_bin", "innodb_data_file_path"):
            assert found.path(found.get(name)) == found.path(live[name]), name
        elif name in found.variables and name != "ft_stopword_file":
            assert found.get(name) == live[name], name
