# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a host would start its server. ``fixtures/installed`` is what systemctl said on Debian 12 and 13."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _installed
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints, find_start

RECORDED = Path(__file__).parent / "fixtures" / "installed"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host with systemd: ``bin`` has its systemctl, ``units`` what that says, ``sbin`` and ``init.d`` are empty."""
    for name in ("bin", "units", "sbin", "init.d", "run"):
        (tmp_path / name).mkdir()
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.write_text(
        "#!/bin/sh\n"
        f'for last; do :; done\ncase "$*" in *show-environment*) exec cat {RECORDED}/environment.txt;; esac\n'
        f'if [ -e {tmp_path}/units/"$last".txt ]; then exec cat {tmp_path}/units/"$last".txt; fi\n'
        'printf "Id=%s\\nLoadState=not-found\\n" "$last"\n'
    )
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(_installed, "_SYSTEMD", str(tmp_path / "run"))
    monkeypatch.setattr(_installed, "_BINARY_DIRECTORIES", (str(tmp_path / "sbin"),))
    monkeypatch.setattr(
        _installed, "_SCRIPTS", (str(tmp_path / "init.d" / "mariadb"), str(tmp_path / "init.d" / "mysql"))
    )
    return tmp_path


def unit(host: Path, name: str, recorded: str = "", **edited: str) -> str:
    """Let systemctl know a unit; returns the path of its server, which exists."""
    text = (RECORDED / f"{recorded or name}.txt").read_text()
    server = host / "sbin" / ("mysqld" if "/usr/sbin/mysqld" in text else "mariadbd")
    text = text.replace(f"/usr/sbin/{server.name}", str(server))
    lines = [line for line in text.splitlines() if line.partition("=")[0] not in edited]
    lines += [f"{key}={value}" for key, value in edited.items()]
    (host / "units" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    program(server)
    return str(server)


def program(path: Path) -> str:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_the_unit_that_is_there(host: Path) -> None:
    server = unit(host, "mariadb.service")
    # An alias leads to the same unit.
    unit(host, "mysql.service", "mariadb.service")
    found = find_start(Hints())
    assert (found.exe, found.argv, found.service, found.known) == (server, (server,), "mariadb.service", True)
    assert found.environment["LANG"] == "C.UTF-8" and found.private_tmp is False


def test_an_instance_and_its_group_suffix(host: Path) -> None:
    server = unit(host, "mariadb@second.service", PrivateTmp="yes")
    unit(host, "mariadb.service")
    found = find_start(Hints(service_name="mariadb@second", datadir="/d"))
    assert found.argv == (server, "--defaults-group-suffix=.second", "--datadir=/d")
    assert (found.service, found.private_tmp) == ("mariadb@second.service", True)


def test_words_from_the_unit_s_environment(host: Path) -> None:
    server = unit(host, "mysql.service")
    assert find_start(Hints()).argv == (server, "--port=3399", "--replica-load-tmpdir=/srv/db/load")


def test_environment_files_and_forms_of_variables(host: Path) -> None:
    (host / "more").write_text("# x\nA='one two'\nMYSQLD_OPTS=--port=1\n")
    server = unit(
        host,
        "mysql.service",
        EnvironmentFiles=f"{host}/more (ignore_errors=yes)\nEnvironmentFiles={host}/absent (ignore_errors=yes)",
    )
    text = (host / "units" / "mysql.service.txt").read_text()
    (host / "units" / "mysql.service.txt").write_text(text.replace("$MYSQLD_OPTS", "$A --x=${A}$$ $MYSQLD_OPTS $NONE"))
    assert find_start(Hints()).argv == (server, "one", "two", "--x=one two$", "--port=1")


def test_two_services_and_a_wrong_name_are_refused(host: Path) -> None:
    unit(host, "mariadb.service")
    unit(host, "mysql.service")
    with pytest.raises(RefusedError, match="several database services"):
        find_start(Hints())
    with pytest.raises(RefusedError, match="no service mysqld2"):
        find_start(Hints(service_name="mysqld2"))


def test_a_unit_that_runs_a_script(host: Path) -> None:
    server = unit(host, "mariadb.service")
    script = "{ path=/etc/init.d/mariadb ; argv[]=/etc/init.d/mariadb start ; ignore_errors=no ; pid=0 }"
    unit(host, "mariadb.service", ExecStart=script, SourcePath="/etc/init.d/mariadb")
    found = find_start(Hints())
    assert (found.exe, found.known, found.argv) == (server, False, (server,))
    guardian = "{ path=/usr/bin/mysqld_safe ; argv[]=/usr/bin/mysqld_safe --port=1 ; ignore_errors=no ; pid=0 }"
    unit(host, "mariadb.service", ExecStart=guardian)
    found = find_start(Hints())
    assert (found.known, found.argv) == (False, (server, "--port=1"))


def test_an_option_file_alone_does_not_look_at_units(host: Path) -> None:
    server = unit(host, "mysql.service")
    found = find_start(Hints(defaults_file="/etc/other.cnf", defaults_group_suffix="2"))
    assert found.argv == (server, "--defaults-file=/etc/other.cnf", "--defaults-group-suffix=2")
    assert (found.service, found.known) == ("", True)


def test_init_scripts_and_command_lines(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_installed, "_SYSTEMD", str(host / "no such directory"))
    server = program(host / "sbin" / "mysqld")
    (host / "init.d" / "mysql").write_text("")
    found = find_start(Hints())
    assert (found.service, found.known, found.argv) == (str(host / "init.d" / "mysql"), False, (server,))
    command = f"{server} --defaults-file='/a b/my.cnf' --port=2"
    found = find_start(Hints(service_name=command))
    assert found.argv == (server, "--defaults-file=/a b/my.cnf", "--port=2")
    assert (found.service, found.known) == (command, True)


def test_the_binary_must_be_clear(host: Path) -> None:
    with pytest.raises(RefusedError, match="binary was not found"):
        find_start(Hints(defaults_file="/x"))
    with pytest.raises(RefusedError, match="is no program"):
        find_start(Hints(server_binary=str(host / "absent")))
    mysqld = program(host / "sbin" / "mysqld")
    os.symlink(mysqld, host / "sbin" / "mariadbd")
    assert find_start(Hints(defaults_file="/x")).exe == mysqld
    (host / "sbin" / "mariadbd").unlink()
    program(host / "sbin" / "mariadbd")
    with pytest.raises(RefusedError, match="several server binaries"):
        find_start(Hints(defaults_file="/x"))
    assert find_start(Hints(server_binary=mysqld)).argv == (mysqld,)
