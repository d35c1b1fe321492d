# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which option files and groups a server reads, and what they say: held against the servers' own tool."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _fspath as fs
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _option_files, _server_help
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._option_files import (
    OptionFiles,
    command_line_values,
    group_suffix,
    normal_name,
    option_sources,
    read_option_files,
)

TOOL = shutil.which("my_print_defaults")
SAID = _server_help.ServerHelp(files=("/etc/my.cnf", "/etc/mysql/my.cnf", "~/.my.cnf"), groups=("mysqld", "server"))
GROUPS = ("mysqld", "server", "mariadb-10.11")


@pytest.mark.parametrize(
    ("given_name", "name"),
    [("--Master-Info-File", "master_info_file"), ("loose-x_y", "x_y"), ("datadir", "datadir")],
)
def test_names_of_options(given_name: str, name: str) -> None:
    assert normal_name(given_name) == name


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--datadir=/d a", "--skip-x", "--relay-log=a=b"], {"datadir": "/d a", "skip_x": "", "relay_log": "a=b"}),
        (["--skip-networking", "positional"], {"skip_networking": "positional"}),
        (["--datadir", "/d", "--tmpdir", "--socket=s"], {"datadir": "/d", "tmpdir": "", "socket": "s"}),
        (["-h/d"], {"datadir": "/d"}),
        (["-h", "/d"], {"datadir": "/d"}),
        (["--datadir=/a", "--datadir=/b"], {"datadir": "/b"}),
    ],
)
def test_command_line(words: list[str], values: dict[str, str]) -> None:
    assert command_line_values(["/usr/sbin/mysqld", *words]) == values


@pytest.mark.parametrize(
    ("argv", "environment", "files"),
    [
        (("--no-defaults",), {}, []),
        (("--defaults-file=/a/my.cnf", "--datadir=/x"), {}, ["/a/my.cnf"]),
        ((), {}, ["/etc/my.cnf", "/etc/mysql/my.cnf"]),
        (
            ("--defaults-extra-file=/b.cnf",),
            {"HOME": "/home/m"},
            ["/etc/my.cnf", "/etc/mysql/my.cnf", "/b.cnf", "/home/m/.my.cnf"],
        ),
    ],
)
def test_where_a_server_starts_reading(argv: tuple[str, ...], environment: dict[str, str], files: list[str]) -> None:
    sources = option_sources(("mysqld", *argv), environment, SAID)
    assert (list(sources.files), sources.warnings) == (files, ())
    assert sources.groups == (("mysqld", "server") if files else ())


@pytest.mark.parametrize(
    ("argv", "environment", "suffix"),
    [
        (("--defaults-group-suffix=2",), {"MYSQL_GROUP_SUFFIX": "3"}, "2"),
        (("--defaults-group-suffix=.second",), {}, ".second"),
        ((), {"MYSQL_GROUP_SUFFIX": "3"}, "3"),
        ((), {"MYSQL_GROUP_SUFFIX": "3", "MARIADB_GROUP_SUFFIX": "4"}, "4"),
        ((), {}, ""),
    ],
)
def test_groups_with_a_suffix(argv: tuple[str, ...], environment: dict[str, str], suffix: str) -> None:
    assert group_suffix(("mysqld", *argv), environment) == suffix
    expected = ("mysqld", "server", *([f"mysqld{suffix}", f"server{suffix}"] if suffix else []))
    assert option_sources(("mysqld", *argv), environment, SAID).groups == expected


def test_a_binary_that_says_nothing_and_a_file_without_a_directory_are_told() -> None:
    assert "did not say" in option_sources(("mysqld",), {}, None).warnings[0]
    assert option_sources(("mysqld",), {}, None).files == ("/etc/my.cnf", "/etc/mysql/my.cnf")
    found = option_sources(("mysqld", "--defaults-file=my.cnf"), {}, SAID)
    assert found.files == () and "without its directory" in found.warnings[0]


def test_includes_are_followed(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "my.cnf").write_text(
        f"# comment\n[client]\nport=1\n!include {tmp_path}/more.cnf\n!includedir {tmp_path}/conf.d/\n"
        "!other x\n!include absent.cnf\n"
        "[mysqld]\nMaster-Info-File = 'a file.info'\n\n;x=1\nskip-networking\nport=3307 # why\n"
    )
    (tmp_path / "more.cnf").write_text(f"!include {tmp_path}/my.cnf\n[mariadb-10.11]\nserver_id=5\n")
    (tmp_path / "conf.d" / "b.cnf").write_text("[mysqld]\nserver_id=6\n")
    (tmp_path / "conf.d" / "a.cnf").write_text('[server]\nlog-bin="x"\n')
    (tmp_path / "conf.d" / "c.cnf.bak").write_text("[mysqld]\nserver_id=9\n")
    (tmp_path / "conf.d" / "open.cnf").write_text("[mysqld]\nserver_id=8\n")
    (tmp_path / "conf.d" / "open.cnf").chmod(0o666)
    (tmp_path / "conf.d" / "dir.cnf").mkdir()
    found = read_option_files([str(tmp_path / "absent.cnf"), str(tmp_path / "my.cnf")], GROUPS)
    assert [Path(path).name for path in found.files] == ["my.cnf", "more.cnf", "a.cnf", "b.cnf"]
    assert found.directories == (str(tmp_path / "conf.d"),)
    assert found.values == {
        "server_id": "6",
        "log_bin": "x",
        "master_info_file": "a file.info",
        "skip_networking": "",
        "port": "3307",
    }
    told = "\n".join(found.warnings)
    for word in ("open.cnf", "10 files within one another", "absent.cnf without its directory"):
        assert word in told


@pytest.mark.parametrize(
    "text",
    ["stray=1\n[mysqld]\n", "[mysqld]\n[wrong\na=1\n", "!include \n[mysqld]\n", "[mysqld]\n!includedir /absent\n"],
)
def test_what_keeps_a_server_from_starting_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "my.cnf").write_text(text)
    found = read_option_files([str(tmp_path / "my.cnf")], GROUPS)
    assert found.values == {} and "would not start" in found.warnings[-1]
    if TOOL:
        asked = [TOOL, f"--defaults-file={tmp_path}/my.cnf", "mysqld"]
        assert subprocess.run(asked, capture_output=True, check=False).returncode


def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    for directory in [tmp_path, *tmp_path.parents][:3]:
        directory.chmod(0o755)
    (tmp_path / "my.cnf").write_text("[mysqld]\n")
    (tmp_path / "my.cnf").chmod(0o600)
    os.seteuid(65534)
    try:
        found = read_option_files([str(tmp_path / "my.cnf")], GROUPS)
    finally:
        os.seteuid(0)
    assert found.files == () and "Permission denied" in found.warnings[0]


# -- against the real tool -------------------------------------------------------------------------------


def printed(root: Path, groups: tuple[str, ...], *options: str) -> dict[str, str]:
    """What the real tool says, by normal names."""
    assert TOOL is not None
    done = subprocess.run(
        [TOOL, f"--defaults-file={root}/my.cnf", *options, *groups],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={"HOME": f"{root}/home"},
        check=False,
    )
    values = {}
    # A value may hold newlines.
    for line in re.split(r"\n(?=--)", fs.decode(done.stdout).removesuffix("\n")) if done.stdout else ():
        name, _found, value = line.partition("=")
        values[normal_name(name)] = value
    return values


def ours(root: Path, groups: tuple[str, ...]) -> OptionFiles:
    return read_option_files([f"{root}/my.cnf"], groups, f"{root}/home")


SPACE = st.sampled_from(["", " ", "\t", "  ", "\r", "\v"])
VALUE = st.text(st.sampled_from("ab/ \t'\"\\#;=![]~.é\x80"), max_size=12)
ESCAPES = st.lists(st.sampled_from(["\\s", "\\t", "\\r", "\\b", "\\\\", "\\x", "\\'", '\\"', "a", " ", "'", '"', "#"]))
NAME = st.sampled_from(["datadir", "Log-Bin", "log_bin", "loose-x", "loose_y", "skip-z", "a b", "x"])
LINE = st.one_of(
    st.builds("{}{}{}={}{}{}".format, SPACE, NAME, SPACE, SPACE, VALUE, SPACE),
    st.builds("{}={}".format, NAME, ESCAPES.map("".join)),
    st.builds('{} = "{}"{}'.format, NAME, ESCAPES.map("".join), st.sampled_from(["", " # x", "#x", " "])),
    st.builds("{}{}{}".format, SPACE, NAME, st.sampled_from(["", " # x", "#", " "])),
    st.sampled_from(["", "# x", "  ; x", "#[mysqld]", "!unknown x", "!", "!  include {root}/2.cnf"]),
    st.sampled_from(
        ["!include {root}/1.cnf", "!include\t{root}/2.cnf ", "!includedir {root}/d", "!includedir {root}/d/ "]
    ),
    st.sampled_from(
        ["!include ~/own.cnf", "!include {root}/absent.cnf", "!include {root}/d", "!includes {root}/1.cnf"]
    ),
    st.sampled_from(["[mysqld]", "[MySQLd ]", "[ mysqld]", "[server] x", "[client]", "[mysqld2]", "[mysqld.two]"]),
)
CONTENT = st.lists(LINE, max_size=8).map(lambda lines: "[mysqld]\n" + "\n".join(lines))
ENDED = st.builds("{}{}".format, CONTENT, st.sampled_from(["", "\n"]))
SUFFIX = st.sampled_from(["", "2", ".two"])


@pytest.mark.skipif(TOOL is None, reason="needs my_print_defaults")
@settings(max_examples=80, deadline=None)
@given(contents=st.lists(ENDED, min_size=6, max_size=6), suffix=SUFFIX)
def test_read_as_the_servers_read(contents: list[str], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for directory in ("d", "home", "d/x.cnf"):
            (root / directory).mkdir()
        names = ("my.cnf", "1.cnf", "2.cnf", "home/own.cnf", "d/b.cnf", "d/a.b.cnf")
        for file, content in zip(names, contents):
            text = content.replace("{root}", name)
            # What goes round for ever is read a thousandfold by both; once is enough here.
            if file != "my.cnf":
                text = re.sub(r"(?m)^!.*$", "", text)
            (root / file).write_bytes(fs.encode(text.replace("\x80", "\udc80")))
        (root / "d" / "c.ini").write_text("[mysqld]\nini=1\n")
        groups = ("mysqld", "server")
        expected = printed(root, groups, *([f"--defaults-group-suffix={suffix}"] if suffix else []))
        all_groups = option_sources(
            ("mysqld", *([f"--defaults-group-suffix={suffix}"] if suffix else [])),
            {},
            _server_help.ServerHelp(files=("/x",), groups=groups),
        ).groups
        assert ours(root, all_groups).values == expected


@pytest.mark.skipif(TOOL is None, reason="needs my_print_defaults")
def test_includes_within_one_another_end_where_the_server_ends(tmp_path: Path) -> None:
    for number in range(20):
        target = tmp_path / ("my.cnf" if number == 0 else f"{number}.cnf")
        target.write_text(f"[mysqld]\nfile{number}=1\n!include {tmp_path}/{number + 1}.cnf\n")
    found = ours(tmp_path, ("mysqld",))
    assert found.values == printed(tmp_path, ("mysqld",)) and len(found.values) == 11
    (tmp_path / "my.cnf").write_text(f"[mysqld]\na=1\n!include {tmp_path}/1.cnf\na=2\n")
    (tmp_path / "1.cnf").write_text(f"[mysqld]\na=3\nb=x\\ny\n!include {tmp_path}/my.cnf\n")
    assert ours(tmp_path, ("mysqld",)).values == printed(tmp_path, ("mysqld",)) == {"a": "2", "b": "x\ny"}


def test_the_usual_groups_are_those_of_a_real_server() -> None:
    server = shutil.which("mariadbd", path="/usr/sbin:/usr/bin")
    if server is None:
        pytest.skip("needs mariadbd")
    said = _server_help.ask(server, {})
    assert said is not None
    assert "/etc/mysql/my.cnf" in said.files and "~/.my.cnf" in said.files
    assert {group for group in said.groups if "-1" not in group} == set(_option_files._USUAL_GROUPS)
