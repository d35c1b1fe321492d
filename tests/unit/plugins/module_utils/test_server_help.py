# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What server binaries say of themselves: recorded help texts (cut to the rows on files), and a real binary."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server_help

HELP = Path(__file__).parent / "fixtures" / "help"
SERVER = shutil.which("mariadbd", path="/usr/sbin:/usr/bin:/usr/libexec")


@pytest.fixture
def open_directory() -> t.Iterator[Path]:
    """A directory that the server's account may enter, unlike those of pytest."""
    path = Path(tempfile.mkdtemp(prefix="rb-unit-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize(
    ("file", "asked", "identity", "own_group", "values"),
    [
        (
            "mysql-5.6",
            "/usr/local/mysql/data",
            ("mysql", (5, 6, 24)),
            "mysqld-5.6",
            {"datadir": "/d/", "pid_file": "/d/vm.pid", "innodb_data_file_path": "", "relay_log_recovery": "OFF"},
        ),
        (
            "mysql-9.7",
            "/x/s",
            ("mysql", (9, 7, 4)),
            "mysqld-9.7",
            {"datadir": "/d/", "log_bin": "binlog", "relay_log": "658dfdbfdd0e-relay-bin", "innodb_directories": ""},
        ),
        (
            "mariadb-10.11",
            "/var/lib/mysql",
            ("mariadb", (10, 11, 19)),
            "mariadb-10.11",
            {"datadir": "/d/", "aria_log_dir_path": "/d/", "innodb_temp_data_file_path": "ibtmp1:12M:autoextend"},
        ),
    ],
)
def test_recorded_help(
    file: str, asked: str, identity: tuple[str, tuple[int, int, int]], own_group: str, values: dict[str, str]
) -> None:
    said = _server_help.parse_help((HELP / f"{file}.txt").read_text(), asked_datadir=asked, datadir="/d")
    assert said.identity is not None
    assert (said.identity.family, said.identity.version) == identity
    assert said.files[0] == "/etc/my.cnf" and said.files[-1] == "~/.my.cnf"
    assert {"mysqld", "server", own_group} <= set(said.groups)
    assert {name: said.variables[name] for name in values} == values
    assert all(" " not in name and "-" not in name for name in said.variables)


@pytest.mark.parametrize("text", ["", "something else\n", "Default options are read from the following files:"])
def test_what_is_no_help_text_gives_nothing(text: str) -> None:
    assert _server_help.parse_help(text) == _server_help.ServerHelp()


@pytest.mark.skipif(SERVER is None, reason="needs mariadbd")
def test_asking_a_real_server_touches_nothing_but_its_own_directory(open_directory: Path) -> None:
    assert SERVER is not None
    datadir = open_directory / "data"
    datadir.mkdir()
    before = datadir.stat()
    trace = open_directory / "trace"
    wrapper = open_directory / "mariadbd"
    wrapper.write_text(f'#!/bin/sh\nexec strace -f -o {trace} -e trace=%file {SERVER} "$@"\n')
    wrapper.chmod(0o755)
    open_directory.chmod(0o777)
    said = _server_help.ask(str(wrapper), {}, datadir=str(datadir))
    assert said is not None and said.variables["datadir"] == f"{datadir}/"
    assert os.stat(datadir) == before
    written = [line for line in trace.read_text().splitlines() if "O_CREAT" in line or "O_RDWR" in line]
    assert written and all("/replica-backup-help-" in line for line in written if "/dev/" not in line)
    # Its directory is gone with it.
    assert not Path(written[0].split('"')[1]).parent.exists()


@pytest.mark.parametrize("body", ["exit 1", "kill $$", "true"])
def test_a_program_that_says_nothing(tmp_path: Path, body: str) -> None:
    program = tmp_path / "mysqld"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    assert _server_help.ask(str(program), {}) is None
    assert _server_help.ask(str(tmp_path / "absent"), {}) is None


@pytest.mark.skipif(SERVER is None or os.geteuid() != 0, reason="needs mariadbd and root")
def test_a_binary_that_only_root_can_reach(tmp_path: Path) -> None:
    assert SERVER is not None
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shutil.copy(SERVER, closed / "mariadbd")
    with pytest.raises(PermissionError):
        subprocess.run([str(closed / "mariadbd"), "--version"], user=65534, group=65534, extra_groups=[], check=False)
    said = _server_help.ask(str(closed / "mariadbd"), {})
    assert said is not None and said.identity is not None and said.identity.family == "mariadb"
