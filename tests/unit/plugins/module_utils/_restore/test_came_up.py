# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is what came up what the set promises? Verdicts from facts; real servers are in tests/integration."""

from __future__ import annotations

import dataclasses
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Identity
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel, channel_from_row
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.came_up import (
    CameUp,
    Check,
    Tables,
    judge,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.journal import Journal

# What MariaDB 10.11.19 and MySQL 5.6.24 said after kill -9, after a clean stop, and without their relay logs.
AFTER_A_CRASH = (
    "2026-11-22 17:39:11 0 [Note] mariadbd: Aria engine: starting recovery",
    "2026-11-22 17:39:11 0 [Note] InnoDB: Starting crash recovery from checkpoint LSN=44894",
    "2026-11-22 17:39:11 0 [Note] Starting table crash recovery...",
    "2026-11-22 17:39:12 5 [ERROR] mariadbd: Table './d/m' is marked as crashed and should be repaired",
    "2026-11-22 17:39:21 28863 [Note] InnoDB: Database was not shutdown normally!",
    "2026-11-22 17:39:22 28863 [Note] Recovering after a crash using /srv/data/binlog",
)
CLEAN = (
    "2026-11-22 17:39:12 0 [Note] InnoDB: End of log at LSN=74205",
    "2026-11-22 17:39:12 0 [Note] InnoDB: 128 rollback segments are active.",
    "2026-11-22 17:39:12 0 [Note] InnoDB: log sequence number 74205; transaction id 129",
    "2026-11-22 17:39:24 29339 [Note] InnoDB: 5.6.24 started; log sequence number 1700819",
)
RELAY = (
    "2026-11-22 17:39:46 0 [ERROR] Failed to open the relay log '/srv/data/relaylog.000002' (relay_log_pos 952)",
    "2026-11-22 17:39:46 0 [ERROR] Could not find target log during relay log initialization",
    "2026-11-22 17:39:48 31989 [ERROR] Failed to initialize the master info structure",
)


def row(**changes: t.Any) -> Channel:
    values = {
        "Master_Host": "src",
        "Master_Server_Id": 1,
        "Master_UUID": "u-source",
        "Relay_Master_Log_File": "b.000002",
        "Exec_Master_Log_Pos": 120,
        "Auto_Position": 0,
        "Executed_Gtid_Set": "",
    }
    return channel_from_row({**values, **changes})


def recorded(**changes: t.Any) -> dict[str, t.Any]:
    facts = {
        "name": "",
        "source_server_id": 1,
        "source_log_file": "b.000002",
        "source_log_pos": 120,
        "gtid": {"auto_position": "0", "executed": ""},
    }
    return {**facts, **changes}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    server = {"family": "mysql", "version": "5.6.24", "uuid": "u-old", "server_id": 2}
    head = {"server": server, "channels": [recorded()]}
    return Journal(str(tmp_path), "id", "db1/x", "same", head, {"datadir": str(tmp_path)})


def seen(journal: Journal, **changes: t.Any) -> CameUp:
    variables = {"datadir": f"{journal.target['datadir']}/", "server_uuid": "u-old", "server_id": "2"}
    made = CameUp(Identity("mysql", (5, 6, 24), "5.6.24"), variables, (row(),), Tables(9, 9), "\n".join(CLEAN))
    variables.update(changes.pop("variables", {}))
    return dataclasses.replace(made, **changes)


def verdicts(journal: Journal, **changes: t.Any) -> dict[str, Check]:
    return {check.name: check for check in judge(seen(journal, **changes), journal)}


def test_what_the_set_promises_passes(journal: Journal) -> None:
    assert {check.verdict for check in verdicts(journal).values()} == {True}


@pytest.mark.parametrize(
    ("identity", "uuid", "expected"),
    [
        ("same", "u-old", True),
        ("same", "u-new", False),
        ("clone", "u-new", True),
        ("clone", "u-old", False),
        ("clone", "", False),
        ("clone", "u-source", False),
    ],
)
def test_the_uuid(journal: Journal, identity: str, uuid: str, expected: bool) -> None:
    journal.identity = identity
    assert verdicts(journal, variables={"server_uuid": uuid})["server_uuid"].verdict is expected


@pytest.mark.parametrize(
    ("identity", "server_id", "others", "expected"),
    [
        ("same", "2", (), True),
        ("same", "7", (), None),
        ("same", "1", (), False),
        ("clone", "7", (), True),
        ("clone", "7", None, True),
        ("clone", "2", (), False),
        ("clone", "1", (), False),
        ("clone", "7", ("3", "7"), False),
        ("same", "2", ("2",), None),
    ],
)
def test_the_server_id(
    journal: Journal, identity: str, server_id: str, others: tuple[str, ...] | None, expected: bool | None
) -> None:
    journal.identity = identity
    known = None if others is None else tuple({"server_id": one, "host": "db9", "uuid": ""} for one in others)
    found = verdicts(journal, variables={"server_id": server_id, "server_uuid": "u"}, registered=known)["server_id"]
    assert found.verdict is expected
    assert ("db9" in found.detail) == (server_id in (others or ()))


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ((row(),), True),
        ((row(Exec_Master_Log_Pos=121),), False),
        ((row(Relay_Master_Log_File="b.000001"),), False),
        ((row(Auto_Position=1),), False),
        ((), False),
    ],
)
def test_the_coordinates(journal: Journal, channels: tuple[Channel, ...], expected: bool) -> None:
    assert verdicts(journal, channels=channels)["the default channel"].verdict is expected


def test_a_server_that_had_run_may_have_gone_on_but_not_back(journal: Journal) -> None:
    def verdict(pos: int) -> bool | None:
        found = verdicts(journal, channels=(row(Exec_Master_Log_Pos=pos),), had_run=True)
        return found["the default channel"].verdict

    assert (verdict(120), verdict(500), verdict(4)) == (True, None, False)


def test_gtids_that_are_not_those_of_the_set(journal: Journal) -> None:
    journal.head["channels"] = [recorded(gtid={"auto_position": "1", "executed": "u:1-5,\nv:1-2"})]
    same = row(Auto_Position=1, Executed_Gtid_Set="v:1-2,\nu:1-5")
    assert verdicts(journal, channels=(same,))["the default channel"].verdict is True
    other = row(Auto_Position=1, Executed_Gtid_Set="u:1-4,v:1-2")
    assert verdicts(journal, channels=(other,))["the default channel"].verdict is False


def test_a_channel_that_never_ran_and_one_that_the_set_does_not_know(journal: Journal) -> None:
    journal.head["channels"] = [recorded(source_log_file="", source_log_pos=0)]
    never = row(Relay_Master_Log_File="", Exec_Master_Log_Pos=0)
    found = verdicts(journal, channels=(never, row(Channel_Name="new")))
    assert found["the default channel"].verdict is True
    assert found["channel 'new'"].verdict is None


def test_a_channel_that_was_set_on_its_way_is_not_compared_again(journal: Journal) -> None:
    journal.work["resume"] = {"channels": {"": {"how": "reposition"}}}
    found = verdicts(journal, channels=(row(Relay_Master_Log_File="", Exec_Master_Log_Pos=0),))
    assert found["the default channel"].verdict is None


@pytest.mark.parametrize("line", AFTER_A_CRASH)
def test_recovery_in_the_error_log(journal: Journal, line: str) -> None:
    assert verdicts(journal, log="\n".join((*CLEAN, line)))["error_log"].verdict is False


def test_troubles_of_relay_logs_are_no_recovery(journal: Journal) -> None:
    assert verdicts(journal, log="\n".join((*CLEAN, *RELAY)))["error_log"].verdict is None
    assert verdicts(journal, log=None)["error_log"].verdict is None


def test_tables_that_do_not_open(journal: Journal) -> None:
    broken = Tables(9, 8, ("d.t: 1812 Tablespace is missing for table `d`.`t`.",))
    found = verdicts(journal, tables=broken)["tables"]
    assert found.verdict is False
    assert "d.t: 1812" in found.detail
    assert verdicts(journal, tables=Tables(9, 5, (), 4))["tables"].verdict is None
    assert verdicts(journal, tables=Tables(0, 0))["tables"].verdict is None


def test_another_server_at_the_login(journal: Journal, tmp_path: Path) -> None:
    assert verdicts(journal, variables={"datadir": "/elsewhere/"})["datadir"].verdict is False
    assert verdicts(journal, identity=Identity("mariadb", (10, 11, 2), ""))["version"].verdict is False
    assert verdicts(journal, identity=Identity("mysql", (5, 6, 25), ""))["version"].verdict is None
