# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files belong to known channels, on trees named as MySQL 5.6, 5.7 and MariaDB 10.11 name them."""

from __future__ import annotations

import os
import re
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _load_data
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._place_draft import Draft
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._place_logs import (
    binlogs,
    relay_logs,
    status_files,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._status_files import ChannelFiles, channel_files

ODD = "Ünï /x"
ESCAPED = "@1on@0v@0020@002fx"


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def facts(root: Path, variables: t.Mapping[str, str] | None = None, **others: t.Any) -> ServerFacts:
    (root / "data").mkdir(exist_ok=True)
    return ServerFacts({"datadir": f"{root}/data/", "pid_file": "/run/my.pid", **(variables or {})}, **others)


def taken(root: Path, draft: Draft) -> set[str]:
    """Files outside the data directory that the draft takes."""
    found = [str(path) for path in root.rglob("*") if path.is_file() and draft.has(os.path.realpath(path))]
    return {name[len(str(root)) + 1 :] for name in found if not name.startswith(f"{root}/data/")}


def relative(root: Path, paths: list[str]) -> list[str]:
    return [path[len(str(root)) + 1 :] for path in paths]


def test_relay_logs_of_known_channels(tmp_path: Path) -> None:
    touch(tmp_path, "l/rl.000001", "l/rl-other.000001", f"l/rl-{ESCAPED}.000003", "i/idx-other.txt", "i/idx.index")
    touch(tmp_path, f"l/rl-{ESCAPED}.000004", "old/before.000009", "l/rl.000001.idx", "i/idx.~rec~")
    (tmp_path / "i/idx.txt").write_text(f"{tmp_path}/l/rl.000001\n")
    (tmp_path / f"i/idx-{ESCAPED}.txt").write_text(
        f"{tmp_path}/old/before.000009\n{tmp_path}/l/rl-{ESCAPED}.000003\n{tmp_path}/l/rl-{ESCAPED}.000004\n"
    )
    given = facts(
        tmp_path,
        {"relay_log_basename": f"{tmp_path}/l/rl", "relay_log_index": f"{tmp_path}/i/idx.index"},
        options={"relay_log_index": f"{tmp_path}/i/idx.txt"},
        channels=(ODD,),
        relay_log_names=(f"rl-{ESCAPED}.000003",),
        connection_files=("",),
    )
    draft = Draft(given.datadir)
    # The log of another base name is applied, and a restart wants it nonetheless.
    assert relative(tmp_path, relay_logs(given, draft)) == [
        "i/idx.txt",
        f"i/idx-{ESCAPED}.txt",
        "old/before.000009",
        f"l/rl-{ESCAPED}.000003",
        f"l/rl-{ESCAPED}.000004",
    ]
    assert taken(tmp_path, draft) == {
        *("l/rl.000001", f"l/rl-{ESCAPED}.000003", f"l/rl-{ESCAPED}.000004", "old/before.000009", "l/rl.000001.idx"),
        *("i/idx.txt", f"i/idx-{ESCAPED}.txt", "i/idx.~rec~"),
    }


def test_a_log_that_the_index_names_and_that_is_gone(tmp_path: Path) -> None:
    touch(tmp_path, "data/my-relay-bin.000002")
    (tmp_path / "data/my-relay-bin.index").write_text("./my-relay-bin.000001\n./my-relay-bin.000002\n")
    given = facts(tmp_path, channels=("",), relay_log_names=("my-relay-bin.000002",))
    with pytest.raises(RefusedError, match=r"names files that are not there") as caught:
        relay_logs(given, Draft(given.datadir))
    assert str(caught.value.found).endswith("data/my-relay-bin.000001")
    unused = ServerFacts(given.variables, channels=())
    assert relative(tmp_path, relay_logs(unused, Draft(given.datadir))) == ["data/my-relay-bin.index"]


def test_a_binary_log_that_the_index_names_and_that_is_gone(tmp_path: Path) -> None:
    touch(tmp_path, "data/bin.000002")
    (tmp_path / "data/bin.index").write_text("./bin.000001\n./bin.000002\n")
    given = facts(tmp_path, {"log_bin": "ON", "log_bin_basename": "bin"})
    draft = Draft(given.datadir)
    binlogs(given, draft, True)
    (warning,) = draft.warnings()
    assert warning.endswith("bin.000001") and "not there" in warning
    draft = Draft(given.datadir)
    binlogs(given, draft, False)
    assert not any("not there" in warning for warning in draft.warnings())


def test_an_index_given_without_relay_log(tmp_path: Path) -> None:
    touch(tmp_path, "data/my-relay-bin.000002")
    touch(tmp_path, "x/names.index", "x/other.index")
    (tmp_path / "x/names.index").write_text("./my-relay-bin.000002\n")
    options = {"relay_log_index": f"{tmp_path}/x/names"}
    given = facts(tmp_path, options=options, channels=("",), relay_log_names=("my-relay-bin.000002",))
    draft = Draft(given.datadir)
    relay_logs(ServerFacts(given.variables, options=options, channels=()), draft)
    assert taken(tmp_path, draft) == {"x/names.index"}
    assert relative(tmp_path, relay_logs(given, draft)) == ["x/names.index", "data/my-relay-bin.000002"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "index of the relay logs of the default channel"), ("./x\n\n", "line 2"), ("./my-rel", "line 1")],
)
def test_no_index_no_backup(tmp_path: Path, content: str | None, expected: str) -> None:
    given = facts(tmp_path, channels=("",), relay_log_names=("my-relay-bin.000002",))
    if content is not None:
        (tmp_path / "data/my-relay-bin.index").write_text(content)
    with pytest.raises(RefusedError, match=expected):
        relay_logs(given, Draft(given.datadir))


def test_metadata_files_of_known_channels(tmp_path: Path) -> None:
    names = ("s/conn.a", f"s/conn-{ESCAPED}.a", "s/rli", f"s/rli-{ESCAPED}", "s/worker-rli.1", "s/multi-conn.a")
    touch(tmp_path, *names, f"s/worker-rli-{ESCAPED}.12", "s/rli-other", "s/conn-other.a", "s/multi-x", "s/conn.a.bak")
    given = facts(
        tmp_path,
        {"relay_log_info_file": f"{tmp_path}/s/rli"},
        options={"master_info_file": f"{tmp_path}/s/conn.a"},
        channels=("", ODD),
        relay_log_names=("", ""),
        connection_files=("", ""),
    )
    draft = Draft(given.datadir)
    needed = status_files(given, draft)
    assert taken(tmp_path, draft) == {*names, f"s/worker-rli-{ESCAPED}.12"}
    assert set(relative(tmp_path, needed)) == {name for name in names if "worker" not in name}
    for name in needed:
        path = Path(name)
        path.rename(tmp_path / "aside")
        with pytest.raises(RefusedError, match="a restart would lose the channel"):
            status_files(given, Draft(given.datadir))
        (tmp_path / "aside").rename(path)


@pytest.mark.parametrize(
    ("variables", "shown", "option", "expected"),
    [
        # MariaDB
        ({}, "", "", ChannelFiles("/d/master-c.info", "/d/relay-log-c.info", "/d/multi-master.info")),
        (
            {"relay_log_info_file": "x/r"},
            "",
            "/y/m",
            ChannelFiles("/y/m-c", "/d/x/r-c", "/y/multi-m"),
        ),
        # MySQL 5.7 with files, with one of each, and 8.3 and newer, where the variable is gone.
        (
            {"relay_log_info_repository": "FILE"},
            "/d/master-c.info",
            "",
            ChannelFiles("/d/master-c.info", "/d/relay-log-c.info", ""),
        ),
        (
            {"relay_log_info_repository": "TABLE"},
            "/d/master-c.info",
            "",
            ChannelFiles("/d/master-c.info", "", ""),
        ),
        (
            {"relay_log_info_repository": "FILE"},
            "mysql.slave_master_info",
            "",
            ChannelFiles("", "/d/relay-log-c.info", ""),
        ),
        ({}, "mysql.slave_master_info", "", ChannelFiles("", "", "")),
    ],
)
def test_where_a_channel_keeps_its_metadata(
    variables: dict[str, str], shown: str, option: str, expected: ChannelFiles
) -> None:
    assert channel_files({"datadir": "/d/", **variables}, "C", shown, option) == expected


UUID = "6d2c1c5e-0000-11ee-8c99-0242ac120002"


@pytest.mark.parametrize(
    ("variables", "ours", "others"),
    [
        # As MariaDB 10.11 names them, the second for the connection "Odd \u00fc/-1".
        (
            {"server_id": "2"},
            ["SQL_LOAD-2-1-1.data", "SQL_LOAD--odd@0020@1o@002f@002d1-2-1-1.data"],
            ["SQL_LOAD-27-1-1.data", "SQL_LOAD--c-27-1-1.data", f"SQL_LOAD-{UUID}-1-1.data", "SQL_LOAD-2-1-1.data.bak"],
        ),
        # MySQL 5.6 and 9.7, the last as 9.7 names it for the channel "kanal a-b \u00e7".
        (
            {"server_uuid": UUID, "server_id": "2"},
            [f"SQL_LOAD-{UUID}-1-12.data", f"SQL_LOAD-{UUID}-1-12.info", f"SQL_LOAD-kanal a-b \u00e7{UUID}-1-12.data"],
            ["SQL_LOAD-2-1-1.data", f"SQL_LOAD-{UUID[:-1]}3-1-1.data", f"SQL_LOAD-{UUID}-1.data"],
        ),
        # A MariaDB server whose id looks like the beginning of another one's UUID.
        ({"server_id": "12345678"}, ["SQL_LOAD-12345678-1-1.data"], [f"SQL_LOAD-12345678{UUID[8:]}-1-1.data"]),
    ],
)
def test_load_files_of_this_server(variables: dict[str, str], ours: list[str], others: list[str]) -> None:
    pattern = re.compile(_load_data.own_pattern(variables))
    assert [name for name in (*ours, *others) if pattern.fullmatch(name)] == ours
