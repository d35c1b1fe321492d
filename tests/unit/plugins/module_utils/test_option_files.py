# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which option files a server reads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._option_files import (
    command_line_values,
    default_files,
    normal_name,
    read_option_files,
    top_files,
)

MARIADBD = shutil.which("mariadbd") or "/usr/sbin/mariadbd"
HELP = """Starts the server.

Default options are read from the following files in the given order:
/etc/my.cnf /etc/mysql/my.cnf ~/.my.cnf
The following groups are read: mysqld server
"""


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("given", "name"),
    [("--Master-Info-File", "master_info_file"), ("loose-x_y", "x_y"), ("datadir", "datadir")],
)
def test_names_of_options(given: str, name: str) -> None:
    assert normal_name(given) == name


def test_command_line() -> None:
    argv = ("/usr/sbin/mysqld", "--datadir=/d a", "--skip-networking", "positional", "--relay-log=a=b")
    assert command_line_values(argv) == {"datadir": "/d a", "skip_networking": "", "relay_log": "a=b"}


def test_the_help_text_names_the_files() -> None:
    assert default_files(HELP) == ["/etc/my.cnf", "/etc/mysql/my.cnf", "~/.my.cnf"]
    assert default_files("Default options are read from the following files in the given order:") == []
    assert default_files("nothing of the kind") == []


@pytest.mark.parametrize(
    ("argv", "environment", "files", "told"),
    [
        (("mysqld", "--no-defaults"), {}, [], False),
        (("mysqld", "--defaults-file=/a/my.cnf", "--datadir=/x"), {}, ["/a/my.cnf"], False),
        (("mysqld",), {}, ["/etc/my.cnf", "/etc/mysql/my.cnf"], False),
        (
            ("mysqld", "--defaults-extra-file=/b.cnf"),
            {"HOME": "/home/m"},
            ["/etc/my.cnf", "/etc/mysql/my.cnf", "/home/m/.my.cnf", "/b.cnf"],
            False,
        ),
    ],
)
def test_where_a_server_starts_reading(
    tmp_path: Path, argv: tuple[str, ...], environment: dict[str, str], files: list[str], told: bool
) -> None:
    exe = script(tmp_path / "mysqld", f"cat <<'END'\n{HELP}END")
    assert top_files(argv, exe, environment) == (files, [])


@pytest.mark.parametrize("body", ["exit 1", "kill $$"])
def test_a_binary_that_says_nothing_is_told(tmp_path: Path, body: str) -> None:
    files, warnings = top_files(("mysqld",), script(tmp_path / "mysqld", body), {})
    assert files == ["/etc/my.cnf", "/etc/mysql/my.cnf"]
    assert "did not say" in warnings[0]
    assert top_files(("mysqld",), "", {})[1]
    assert top_files(("mysqld",), str(tmp_path / "absent"), {})[1]


@pytest.mark.skipif(not os.path.exists(MARIADBD), reason="needs mariadbd")
def test_a_real_server_answers() -> None:
    files, warnings = top_files((MARIADBD,), MARIADBD, {})
    assert "/etc/mysql/my.cnf" in files and warnings == []


def test_includes_are_followed(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "my.cnf").write_text(
        "# comment\nstray=1\n[client]\nport=1\n!include more.cnf\n!includedir conf.d/\n!includedir absent\n!other x\n"
        "[mysqld]\nMaster-Info-File = 'a file.info'\n\n;x=1\nskip-networking\nport=3307 # why\n"
    )
    (tmp_path / "more.cnf").write_text(f"!include {tmp_path}/my.cnf\n[mariadb-10.11]\nserver_id=5\n")
    (tmp_path / "conf.d" / "b.cnf").write_text("[mysqld]\nserver_id=6\n")
    (tmp_path / "conf.d" / "a.cnf").write_text('[server]\nlog-bin="x"\n')
    (tmp_path / "conf.d" / "c.cnf.bak").write_text("[mysqld]\nserver_id=9\n")
    (tmp_path / "conf.d" / "open.cnf").write_text("[mysqld]\nserver_id=8\n")
    (tmp_path / "conf.d" / "open.cnf").chmod(0o666)
    (tmp_path / "conf.d" / "dir.cnf").mkdir()
    found = read_option_files([str(tmp_path / "absent.cnf"), str(tmp_path / "my.cnf")])
    assert [Path(path).name for path in found.files] == ["my.cnf", "more.cnf", "a.cnf", "b.cnf"]
    assert found.directories == (str(tmp_path / "conf.d"),)
    assert found.values == {
        "server_id": "6",
        "log_bin": "x",
        "master_info_file": "a file.info",
        "skip_networking": "",
        "port": "3307",
    }
    assert ["absent" in found.warnings[1], "open.cnf" in found.warnings[0]] == [True, True]


def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    for directory in [tmp_path, *tmp_path.parents][:3]:
        directory.chmod(0o755)
    (tmp_path / "my.cnf").write_text("[mysqld]\n")
    (tmp_path / "my.cnf").chmod(0o600)
    os.seteuid(65534)
    try:
        found = read_option_files([str(tmp_path / "my.cnf")])
    finally:
        os.seteuid(0)
    assert found.files == () and "Permission denied" in found.warnings[0]


def test_endless_includes_end(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.cnf").write_text(f"!include {tmp_path}/{number + 1}.cnf\n")
    assert len(read_option_files([str(tmp_path / "0.cnf")]).files) == 11
