# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replication without a server: recorded rows and scripted sessions for what a server does not do on command."""

from __future__ import annotations

import dataclasses
import json
import typing as t
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _replication
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import (
    CatchUp,
    Channel,
    Limits,
    Threads,
    channel_from_row,
)

ROWS = json.loads((Path(__file__).parent / "fixtures" / "channels.json").read_text(encoding="utf-8"))
MARIADB = Dialect("mariadb", (10, 11, 18))
MYSQL_56 = Dialect("mysql", (5, 6, 24))
MYSQL_97 = Dialect("mysql", (9, 7, 4))
BOTH = Threads("", True, True)


class Scripted:
    """A session that answers the status statement from a list of rows; the last one stays."""

    def __init__(self, *looks: list[dict[str, t.Any]], temp_tables: str = "0", **variables: str) -> None:
        self.looks = list(looks)
        self.statements: list[str] = []
        self._status = {"slave_open_temp_tables": temp_tables}
        self._variables = variables

    def query(self, sql: str, args: t.Sequence[t.Any] | None = None) -> list[dict[str, t.Any]]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def execute(self, sql: str, args: t.Sequence[t.Any] | None = None) -> None:
        self.statements.append(sql)

    def status(self) -> dict[str, str]:
        return self._status

    def variables(self) -> dict[str, str]:
        return self._variables


def row(family: str = "mariadb_10_11", state: str = "running", **changes: t.Any) -> dict[str, t.Any]:
    return {**ROWS[family][state][0], **changes}


def session(*looks: list[dict[str, t.Any]], **changes: t.Any) -> t.Any:
    return Scripted(*looks, **changes)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_replication, "_POLL", 0.001)
    monkeypatch.setattr(_replication, "_COMPLETION_SECONDS", 0.05)


FAMILIES = [family for family in ROWS if family != "about"]


def test_the_fixture_says_which_rows_are_recorded() -> None:
    recorded, documented = ROWS["about"].values()
    assert sorted([*recorded, *documented]) == sorted(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_every_family_give_the_same_facts(family: str) -> None:
    running, stopped = (channel_from_row(ROWS[family][state][0]) for state in ("running", "stopped"))
    assert (running.name, running.source_host, running.source_user) == ("", "127.0.0.1", "repl")
    assert running.io_started and running.applier_started and running.applied_all
    assert not stopped.io_started and not stopped.applier_started
    assert (running.lag, stopped.lag, running.delay) == (0, None, 0)
    assert running.executed == running.read
    assert running.io_error == running.applier_error == ""
    assert stopped.source_log_file == running.source_log_file


def test_neutral_facts_of_mysql_5_6_and_mariadb() -> None:
    mysql = channel_from_row(ROWS["mysql_5_6"]["running"][0])
    assert len(mysql.source_uuid) == 36
    assert mysql.gtid["auto_position"] == "0"
    mariadb = channel_from_row(ROWS["mariadb_10_11"]["running"][0])
    assert mariadb.gtid["using"] == "Slave_Pos"
    assert mariadb.source_uuid == ""
    assert channel_from_row(ROWS["mariadb_10_11"]["old_form"][0]).name == ""


def test_neutral_facts_of_the_connections_of_mariadb_11_8() -> None:
    """Five connections: by GTID and by file and position, one late by an hour, one with a filter, one at rest."""
    running, stopped = (
        {found.name: found for found in map(channel_from_row, ROWS["mariadb_11_8"][state])}
        for state in ("running", "stopped")
    )
    assert set(running) == set(stopped) == {"", "Größe é", "A-b/C", 'it\'s "odd"', "UPPER lower"}
    assert {name: found.gtid["using"] for name, found in running.items() if found.gtid["using"] != "Slave_Pos"} == {
        "A-b/C": "No",
        'it\'s "odd"': "No",
    }
    late, resting = running["A-b/C"], running["UPPER lower"]
    assert (late.delay, late.applied_all) == (3600, False)
    assert late.lag is not None and 0 < late.lag < late.delay
    assert stopped["A-b/C"].executed == late.executed != late.read, "what is delayed is not executed before a stop"
    assert not resting.io_started and not resting.applier_started and resting.lag is None
    assert all(found.io_started and found.applier_started for found in running.values() if found != resting)
    assert not any(found.io_started or found.applier_started for found in stopped.values())


def test_neutral_facts_of_mysql_9_7() -> None:
    running, stopped = (channel_from_row(ROWS["mysql_9_7"][state][0]) for state in ("running", "stopped"))
    assert running.gtid["auto_position"] == "1"
    assert running.gtid["executed"] == f"{running.source_uuid}:1-5"
    assert running.connection_info == "mysql.slave_master_info", "a table, no file to look for"
    assert stopped.executed == running.executed == running.read
    assert (running.relay_log_file, running.relay_log_pos) == (stopped.relay_log_file, stopped.relay_log_pos)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=12)
numbers = st.integers(0, 2**40)
# One state of a channel, by the old names of the columns that all families have.
STATES = st.fixed_dictionaries(
    {
        "Master_Host": texts,
        "Master_Port": st.integers(0, 65535),
        "Master_User": texts,
        "Master_Server_Id": numbers,
        "Slave_IO_State": texts,
        "Slave_IO_Running": st.sampled_from(["Yes", "No", "Connecting"]),
        "Slave_SQL_Running": st.sampled_from(["Yes", "No"]),
        "Slave_SQL_Running_State": texts,
        "Master_Log_File": texts,
        "Read_Master_Log_Pos": numbers,
        "Relay_Master_Log_File": texts,
        "Exec_Master_Log_Pos": numbers,
        "Relay_Log_File": texts,
        "Relay_Log_Pos": numbers,
        "Seconds_Behind_Master": st.none() | numbers,
        "SQL_Delay": numbers,
        "Last_IO_Errno": st.integers(0, 9999),
        "Last_IO_Error": texts,
        "Last_SQL_Errno": st.integers(0, 9999),
        "Last_SQL_Error": texts,
        "Until_Condition": st.sampled_from(["None", "Master", "Gtid"]),
        "Skip_Counter": numbers,
        **dict.fromkeys(("Replicate_Do_DB", "Replicate_Wild_Ignore_Table", "Replicate_Ignore_Server_Ids"), texts),
    }
)


@given(state=STATES, name=texts)
def test_one_state_in_old_new_and_mariadb_words_gives_one_channel(state: dict[str, t.Any], name: str) -> None:
    old = {**state, "Channel_Name": name}
    new = {key.replace("Master", "Source").replace("Slave", "Replica"): value for key, value in old.items()}
    mariadb = {**state, "Connection_name": name}
    found = [channel_from_row(words) for words in (old, new, mariadb)]
    assert found[0] == found[1] == found[2]
    assert found[0].name == name
    assert found[0].executed == (state["Relay_Master_Log_File"], state["Exec_Master_Log_Pos"])


def test_positioning_has_one_word_in_every_family() -> None:
    assert channel_from_row(row("mysql_9_7")).positioning == "gtid"
    assert channel_from_row(row("mysql_5_6")).positioning == "file"
    assert channel_from_row(row()).positioning == "gtid"
    assert channel_from_row(row(Using_Gtid="No")).positioning == "file"
    assert channel_from_row(row(Using_Gtid="Current_Pos")).positioning == "gtid"


@pytest.mark.parametrize("family", ["mysql_9_7", "mariadb_10_11"])
def test_two_recorded_channels_each_in_its_own_mode(family: str) -> None:
    """One with settings of the server, one with an odd name that follows by file and position, an hour late."""
    default, odd = (channel_from_row(recorded) for recorded in ROWS[family]["two_channels"])
    assert (default.name, default.positioning, default.delay) == ("", "gtid", 0)
    assert (odd.positioning, odd.delay, odd.lag is not None) == ("file", 3600, True)
    assert odd.filters["replicate_wild_ignore_table"] == r"out\_%.%"
    assert odd.name == ("kanal a-b \u00e7" if family == "mysql_9_7" else "\u00fcn\u00ef 'q\" `b\\s%d/x-")
    assert all(channel.io_started and channel.applier_started and not channel.until for channel in (default, odd))


def test_quiesce_on_mysql_9_7_uses_no_word_that_it_has_forgotten() -> None:
    running, stopped = row("mysql_9_7"), row("mysql_9_7", "stopped")
    scripted = session([running], [running], [stopped], gtid_mode="ON", replica_parallel_workers="4")
    _replication.quiesce(scripted, MYSQL_97, Limits())
    _replication.resume(scripted, MYSQL_97, [BOTH])
    assert scripted.statements == [
        "STOP REPLICA IO_THREAD FOR CHANNEL %s",
        "STOP REPLICA SQL_THREAD FOR CHANNEL %s",
        "START REPLICA SQL_THREAD FOR CHANNEL %s",
        "START REPLICA IO_THREAD FOR CHANNEL %s",
    ]


def test_new_words_and_a_named_channel() -> None:
    channel = channel_from_row(
        {
            "Channel_Name": "c1",
            "Source_Host": "h",
            "Replica_IO_Running": "Connecting",
            "Replica_SQL_Running": "No",
            "Relay_Source_Log_File": "b.000002",
            "Exec_Source_Log_Pos": 7,
            "Last_IO_Errno": 2003,
            "Last_IO_Error": "cannot connect",
            "Executed_Gtid_Set": "a:1-3,\nb:1",
        }
    )
    assert (channel.name, channel.executed) == ("c1", ("b.000002", 7))
    assert (channel.io_started, channel.applier_started) == (True, False)
    assert channel.io_error == "2003 cannot connect"
    assert channel.gtid["executed"] == "a:1-3,b:1"
    assert channel.label() == "channel 'c1'"


def test_group_replication_channels_and_empty_rows_are_left_alone() -> None:
    rows = [row(), row(Connection_name="group_replication_applier"), row(Master_Host="")]
    assert [c.name for c in _replication.read_channels(session(rows), MARIADB)] == [""]


def test_quiesce_order() -> None:
    scripted = session([row()], [row()], [row(state="stopped")])
    channels = _replication.quiesce(scripted, MARIADB, Limits())
    assert scripted.statements == ["STOP SLAVE %s IO_THREAD", "STOP SLAVE %s SQL_THREAD"]
    assert not channels[0].applier_started


def test_an_applier_that_waits_for_the_rest_of_a_transaction_is_given_it() -> None:
    """Recorded from MySQL 5.6 with four workers, whose receiver was stopped between two events of a transaction."""
    running = row("mysql_5_6")
    inside = row("mysql_5_6", Slave_IO_Running="No", Exec_Master_Log_Pos=400)
    looks = [[running], *[[inside]] * 8, [row("mysql_5_6", "stopped")]]
    scripted = session(*looks, slave_parallel_workers="4")
    _replication.quiesce(scripted, MYSQL_56, Limits())
    assert scripted.statements == [
        "STOP SLAVE IO_THREAD",
        "START SLAVE IO_THREAD",
        "STOP SLAVE SQL_THREAD",
        "STOP SLAVE IO_THREAD",
    ]


def test_the_rest_of_a_transaction_that_does_not_come_is_not_waited_for_without_end() -> None:
    inside = row("mysql_5_6", Slave_IO_Running="No", Exec_Master_Log_Pos=400)
    scripted = session([inside], slave_parallel_workers="4")
    _replication._stop_appliers(scripted, MYSQL_56, {"": BOTH})
    assert scripted.statements == ["START SLAVE IO_THREAD", "STOP SLAVE SQL_THREAD", "STOP SLAVE IO_THREAD"]


def test_temporary_tables_opened_while_the_applier_stopped_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    counts = iter([0, 1, 0, 0])
    monkeypatch.setattr(_replication, "open_temp_tables", lambda session, dialect: next(counts))
    scripted = session([row()], [row()], [row()], [row(state="stopped")])
    _replication.quiesce(scripted, MARIADB, Limits())
    assert scripted.statements == [
        "STOP SLAVE %s IO_THREAD",
        "STOP SLAVE %s SQL_THREAD",
        "START SLAVE %s SQL_THREAD",
        "START SLAVE %s IO_THREAD",
        "STOP SLAVE %s IO_THREAD",
        "STOP SLAVE %s SQL_THREAD",
    ]


def test_an_applier_that_was_broken_before_is_not_drained() -> None:
    broken = row(state="stopped", Last_SQL_Errno=1062, Last_SQL_Error="Duplicate entry")
    assert _replication.quiesce(session([broken]), MARIADB, Limits())[0].applier_error


def test_gaps_behind_a_broken_applier_are_an_error() -> None:
    broken = row("mysql_5_6", "stopped", Exec_Master_Log_Pos=4, Last_SQL_Errno=1062, Last_SQL_Error="Duplicate entry")
    scripted = session([broken], slave_parallel_workers="4")
    with pytest.raises(ReplicaBackupError, match=r"gaps.*1062 Duplicate entry"):
        _replication.quiesce(scripted, MYSQL_56, Limits())


def test_a_stopped_thread_is_not_touched() -> None:
    only_io = row(Slave_SQL_Running="No")
    scripted = session([only_io], [only_io], [row(state="stopped")])
    _replication.quiesce(scripted, MARIADB, Limits())
    assert scripted.statements == ["STOP SLAVE %s IO_THREAD"]


def test_temporary_tables_are_waited_for_and_then_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    scripted = session([row()], temp_tables="2")
    with pytest.raises(ReplicaBackupError, match="2 open") as caught:
        _replication.quiesce(scripted, MARIADB, Limits(temp_tables=0.02))
    assert caught.value.facts["rule"] == "temp_tables"
    # Every try ended with the receiver started again, for only the source can close them.
    assert "START SLAVE %s IO_THREAD" in scripted.statements
    assert "STOP SLAVE %s SQL_THREAD" not in scripted.statements


def test_a_server_that_does_not_count_temporary_tables_is_refused() -> None:
    scripted = session([row()])
    scripted._status = {}
    with pytest.raises(ReplicaBackupError, match="temporary tables"):
        _replication.open_temp_tables(scripted, MARIADB)


def test_no_progress_while_draining_is_an_error() -> None:
    behind = row(Exec_Master_Log_Pos=4, Slave_SQL_Running_State="Waiting for table metadata lock")
    with pytest.raises(ReplicaBackupError, match="metadata lock") as caught:
        _replication.quiesce(session([behind]), MARIADB, Limits(drain=0.02))
    assert caught.value.facts["rule"] == "drain"


def test_an_applier_error_while_draining_is_an_error() -> None:
    broken = row(Slave_SQL_Running="No", Last_SQL_Errno=1062, Last_SQL_Error="Duplicate entry")
    with pytest.raises(ReplicaBackupError, match="1062 Duplicate entry"):
        _replication.quiesce(session([row()], [broken]), MARIADB, Limits())


def test_an_incomplete_transaction_at_the_end_of_the_relay_log_does_not_hang() -> None:
    cut = row(Exec_Master_Log_Pos=4)  # state: has read all relay log
    stopped = row(state="stopped")
    looks = [[cut]] * 6 + [[stopped]]
    assert _replication.quiesce(session(*looks), MARIADB, Limits(drain=5))


def test_a_delayed_channel_is_not_drained() -> None:
    delayed = row(Exec_Master_Log_Pos=4, SQL_Delay=3600, Slave_SQL_Running_State="Waiting until MASTER_DELAY")
    assert _replication.quiesce(session([delayed], [delayed], [row(state="stopped")]), MARIADB, Limits(drain=0.01))


def test_threads_that_run_again_are_noticed() -> None:
    with pytest.raises(ReplicaBackupError, match="although they were stopped"):
        _replication.quiesce(session([row()]), MARIADB, Limits())


def test_gaps_of_a_multi_threaded_applier_are_filled() -> None:
    running = row("mysql_5_6")
    gap = row("mysql_5_6", "stopped", Exec_Master_Log_Pos=4)
    filling = row("mysql_5_6", Slave_IO_Running="No", Exec_Master_Log_Pos=4)
    done = row("mysql_5_6", "stopped")
    scripted = session([running], [running], [running], [gap], [filling], [done], slave_parallel_workers="4")
    _replication.quiesce(scripted, MYSQL_56, Limits())
    assert scripted.statements[-1] == "START SLAVE SQL_THREAD UNTIL SQL_AFTER_MTS_GAPS"


def test_gaps_that_are_not_filled_in_time_are_an_error() -> None:
    running = row("mysql_5_6")
    gap = row("mysql_5_6", "stopped", Exec_Master_Log_Pos=4)
    filling = row("mysql_5_6", Slave_IO_Running="No", Exec_Master_Log_Pos=4)
    scripted = session([running], [running], [running], [gap], [filling], slave_parallel_workers="4")
    with pytest.raises(ReplicaBackupError, match="gaps"):
        _replication.quiesce(scripted, MYSQL_56, Limits(gaps=0.01))


@pytest.mark.parametrize(
    ("variables", "auto_position"),
    [({"slave_parallel_workers": "0"}, 0), ({}, 0), ({"slave_parallel_workers": "4"}, 1)],
)
def test_without_workers_or_by_gtid_no_gap_is_filled(variables: dict[str, str], auto_position: int) -> None:
    gap = row("mysql_5_6", "stopped", Exec_Master_Log_Pos=4, Auto_Position=auto_position)
    scripted = session([row("mysql_5_6")], [row("mysql_5_6")], [gap], **variables)
    _replication.quiesce(scripted, MYSQL_56, Limits())
    assert not any("UNTIL" in statement for statement in scripted.statements)


def test_resume_starts_only_what_is_wanted() -> None:
    scripted = session([row(state="stopped")])
    done = _replication.resume(scripted, MARIADB, [Threads("", False, True)])
    assert scripted.statements == ["START SLAVE %s SQL_THREAD"]
    assert done == ["applier of the default channel"]


def test_resume_of_a_channel_that_is_gone() -> None:
    with pytest.raises(ReplicaBackupError, match="'x' is gone"):
        _replication.resume(session([row()]), MARIADB, [Threads("x", True, True)])


def test_differing_threads() -> None:
    broken = row(Slave_SQL_Running="No", Last_SQL_Errno=1062, Last_SQL_Error="Duplicate")
    missing, extra = _replication.differing_threads(
        session([broken]), MARIADB, [Threads("", False, True), Threads("x", True, True)]
    )
    assert len(missing) == 2
    assert "1062 Duplicate" in missing[0]
    assert "'x' is gone" in missing[1]
    assert len(extra) == 1
    assert _replication.differing_threads(session([row()]), MARIADB, [BOTH]) == ([], [])


def channel(**changes: t.Any) -> Channel:
    return dataclasses.replace(channel_from_row(row()), **changes)


@pytest.mark.parametrize(
    ("first", "second"),
    [(("b.000001", 900), ("b.000002", 4)), (("b.999999", 4), ("b.1000000", 4)), (("b.000002", 4), ("b.000002", 5))],
)
def test_order_of_positions(first: tuple[str, int], second: tuple[str, int]) -> None:
    assert _replication.position_key(first) < _replication.position_key(second)


def looks(test: CatchUp, *channels: Channel) -> list[bool]:
    """For each look whether everything has caught up."""
    return [not test.look([item])[0] for item in channels]


def test_catch_up_takes_several_calm_looks() -> None:
    assert looks(CatchUp([BOTH], max_lag=0), *[channel()] * 4) == [False, False, False, True]


@pytest.mark.parametrize(
    "behind",
    [
        channel(lag=7),
        channel(lag=None),
        channel(io="Connecting"),
        channel(applier="No"),
    ],
)
def test_one_bad_look_starts_over(behind: Channel) -> None:
    calm = channel()
    found = looks(CatchUp([BOTH], max_lag=0), calm, calm, calm, behind, calm, calm, calm, calm)
    assert found == [False] * 7 + [True]


def test_the_applier_must_pass_what_was_downloaded_at_the_first_calm_look() -> None:
    def at(executed: int) -> Channel:
        return channel(read_log_pos=5000, source_log_pos=executed, applier_state="Executing")

    found = looks(CatchUp([BOTH], max_lag=1, settle=1), at(100), at(4000), at(5000))
    assert found == [False, False, True]


def test_lag_is_counted_beyond_the_delay() -> None:
    delayed = channel(delay=600, lag=600, source_log_pos=4, applier_state="Waiting until MASTER_DELAY seconds")
    assert looks(CatchUp([BOTH], max_lag=1), *[delayed] * 4)[-1]


def test_channels_that_stay_stopped_do_not_count() -> None:
    stopped = channel(io="No", applier="No", lag=None)
    assert looks(CatchUp([Threads("", False, False)], max_lag=0), stopped) == [True]


def test_waiting_ends_with_an_error_when_nothing_moves() -> None:
    with pytest.raises(ReplicaBackupError, match="no progress") as caught:
        _replication.wait_caught_up(
            session([row(Slave_IO_Running="Connecting")]), MARIADB, [BOTH], no_progress_timeout=0.02, max_lag=0
        )
    assert caught.value.server_state == "running, threads as before"


def test_waiting_ends_with_an_error_when_replication_breaks() -> None:
    broken = row(Slave_SQL_Running="No", Last_SQL_Errno=1062, Last_SQL_Error="Duplicate entry")
    with pytest.raises(ReplicaBackupError, match="1062 Duplicate entry"):
        _replication.wait_caught_up(session([broken]), MARIADB, [BOTH], no_progress_timeout=9, max_lag=0)


def test_waiting_ends_when_everything_has_caught_up() -> None:
    assert _replication.wait_caught_up(session([row()]), MARIADB, [BOTH], no_progress_timeout=9, max_lag=0) < 9


@pytest.mark.parametrize(
    ("family", "processes", "running", "expected"),
    [
        ("mariadb_10_11", "processlist", True, []),
        ("mariadb_10_11", "source_processlist", False, ["repl@127.0.0.1:"]),
        ("mariadb_10_11", "source_processlist", True, None),
        ("mysql_9_7", "processlist", True, []),
        ("mysql_9_7", "source_processlist", False, ["repl@localhost:"]),
    ],
)
def test_connected_replicas(family: str, processes: str, running: bool, expected: list[str] | None) -> None:
    found = _replication.connected_replicas(session(ROWS[family][processes]), threads_running=running)
    if expected:
        assert found is not None
        assert [name[: len(expected[0])] for name in found] == expected
    else:
        assert found == expected


def test_cluster_membership() -> None:
    galera = {"wsrep_on": "ON", "wsrep_provider": "/usr/lib/libgalera_smm.so"}
    unused = {"wsrep_on": "ON", "wsrep_provider": "none"}
    mysql = Dialect("mysql", (8, 4, 0))
    online = session([{"MEMBER_STATE": "ONLINE"}])
    assert _replication.cluster_membership(session([]), MARIADB, galera) == "Galera"
    assert _replication.cluster_membership(online, MARIADB, unused) is None
    assert _replication.cluster_membership(session([]), mysql, {}) is None
    assert _replication.cluster_membership(online, mysql, {}) == "group replication"


def _waits(dialect: Dialect, family: str, **changes: t.Any) -> list[str]:
    return _replication.fetched_again(dialect, [channel_from_row(row(family, **changes))])


def test_what_a_restart_would_fetch_again_is_told() -> None:
    behind = {"Using_Gtid": "Slave_Pos", "Exec_Master_Log_Pos": 4, "SQL_Delay": 3600}
    (said,) = _waits(MARIADB, "mariadb_10_11", **behind)
    assert "drops their relay logs at every restart" in said
    assert len(_waits(MARIADB, "mariadb_10_11", **{**behind, "SQL_Delay": 0, "Slave_SQL_Running": "No"})) == 1
    assert not _waits(MARIADB, "mariadb_10_11", **{**behind, "SQL_Delay": 0})
    assert not _waits(MARIADB, "mariadb_10_11", **{**behind, "Using_Gtid": "No"})
    assert not _waits(MYSQL_56, "mysql_5_6", **behind)
