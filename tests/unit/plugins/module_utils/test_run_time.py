# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings that a restart loses: what is seen of them, when the start has to be quiet, and how they are put back.

A scripted server keeps what it is told, in the words of MySQL 5.7 and 9.7, which are not at hand as local processes.
"""

from __future__ import annotations

import json
import re
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _replication, _run_time
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._run_time import RunTime

ROWS = json.loads((Path(__file__).parent / "fixtures" / "channels.json").read_text(encoding="utf-8"))
MARIADB = Dialect("mariadb", (10, 11, 18))
MYSQL_56 = Dialect("mysql", (5, 6, 24))
MYSQL_57 = Dialect("mysql", (5, 7, 44))
MYSQL_97 = Dialect("mysql", (9, 7, 4))
FAMILY = {MYSQL_56: "mysql_5_6", MYSQL_57: "mysql_5_7", MYSQL_97: "mysql_9_7", MARIADB: "mariadb_10_11"}


class Server:
    """Answers as the server would, and remembers what it was told."""

    def __init__(
        self,
        dialect: Dialect,
        *channels: str,
        state: str = "stopped",
        refuses: str = "no such thing",
        code: int = 1238,
    ) -> None:
        self.dialect = dialect
        self.settings: dict[str, str] = {}
        self.changed: list[str] = []
        self.changed_filters = False
        self.global_filters: dict[str, str] | None = {}
        self.semi_sync_status = "OFF"
        row = ROWS[FAMILY[dialect]][state][0]
        key = "Connection_name" if dialect is MARIADB else "Channel_Name"
        self.rows = [{**row, **({} if dialect is MYSQL_56 else {key: name})} for name in channels or ("",)]
        self.statements: list[tuple[str, t.Any]] = []
        self._refuses = refuses
        self._code = code
        self._chosen = ""

    def query(self, sql: str, args: t.Any = None) -> list[dict[str, t.Any]]:
        if sql == self.dialect.show_channels:
            return self.rows
        if sql == self.dialect.changed_settings:
            return [{"name": name} for name in self.changed]
        if self.global_filters is None:
            raise QueryError("denied", 1142)
        if sql == self.dialect.changed_filters:
            return [{"name": "REPLICATE_DO_DB"}] if self.changed_filters else []
        assert sql == self.dialect.global_filters
        return [{"name": name.upper(), "rule": rule} for name, rule in self.global_filters.items()]

    def execute(self, sql: str, args: t.Any = ()) -> None:
        self.statements.append((sql, args))
        if self._refuses in sql:
            raise QueryError(f"The server refused '{sql}'", self._code, found=f"{self._code} is a read only variable")
        if "default_master_connection" in sql:
            self._chosen = args[0]
        elif (match := re.match(r"SET GLOBAL (\w+) = %s", sql)) and match[1] in self.dialect.channel_settings.values():
            column = {"slave_parallel_mode": "parallel_mode", "sql_slave_skip_counter": "skip_counter"}.get(match[1])
            for row in self.rows:
                if row["Connection_name"] == self._chosen:
                    row.update({name: args[0] for name in row if name.lower() == (column or match[1])})
        elif match:
            self.settings[match[1]] = str(args[0])
        elif sql.startswith("STOP"):
            for row in self.rows:
                row.update({name: "No" for name in row if name.endswith(("IO_Running", "SQL_Running"))})
        elif "CHANGE REPLICATION FILTER" in sql:
            for column, text in re.findall(r"(REPLICATE_\w+) = \(([^)]*)\)", sql):
                self._filter(column.title().replace("_Db", "_DB"), text.replace("`", ""), args, "FOR CHANNEL" in sql)

    def _filter(self, column: str, text: str, args: t.Any, for_channel: bool) -> None:
        items = ",".join(item.strip() for item in text.split(",")) % (args[:-1] if for_channel else ())
        for row in self.rows:
            if not for_channel or row["Channel_Name"] == args[-1]:
                row[column] = items
        if not for_channel and self.global_filters is not None:
            self.global_filters[column.lower()] = items

    def variables(self) -> dict[str, str]:
        return self.settings

    def status(self) -> dict[str, str]:
        return {"rpl_semi_sync_replica_status": self.semi_sync_status}


def capture(server: t.Any) -> RunTime:
    channels = _replication.read_channels(server, server.dialect)
    return _run_time.capture(server, server.dialect, server.variables(), channels)


def put_back(server: t.Any, before: RunTime) -> tuple[list[str], list[str]]:
    # As it comes out of a ledger.
    return _run_time.put_back(server, server.dialect, RunTime.from_dict(json.loads(json.dumps(before.to_dict()))))


def test_nothing_was_set_at_run_time() -> None:
    for dialect in FAMILY:
        server = Server(dialect)
        server.settings = {"replica_net_timeout": "60"}
        found = capture(server)
        assert not found.starts_quietly
        assert put_back(server, found) == ([], [])
        assert server.statements == []


def test_old_and_new_name_of_one_variable_are_one_setting() -> None:
    server = Server(MYSQL_97)
    server.settings = {"slave_net_timeout": "17", "replica_net_timeout": "17", "sql_slave_skip_counter": "0"}
    server.changed = ["slave_net_timeout", "replica_net_timeout", "sql_slave_skip_counter"]
    found = capture(server)
    assert found.variables == {"replica_net_timeout": "17", "sql_slave_skip_counter": "0"}
    # A counter that has run out, by either name, leaves nothing to put back.
    assert found.changed == ("replica_net_timeout",)


def test_only_what_was_set_at_run_time_is_put_back_where_that_is_known() -> None:
    server = Server(MYSQL_97)
    server.settings = {"replica_net_timeout": "17", "replica_parallel_workers": "4"}
    server.changed = ["replica_net_timeout"]
    before = capture(server)
    assert before.starts_quietly
    # The option file had been edited for the next start.
    server.settings = {"replica_net_timeout": "60", "replica_parallel_workers": "8"}
    assert put_back(server, before) == (["put back replica_net_timeout = '17'"], [])
    assert server.settings == {"replica_net_timeout": "17", "replica_parallel_workers": "8"}


def test_all_that_differs_is_put_back_where_the_server_cannot_say() -> None:
    server = Server(MYSQL_56)
    server.settings = {"slave_parallel_workers": "4", "slave_net_timeout": "17"}
    before = capture(server)
    assert not before.starts_quietly
    after = Server(MYSQL_56, state="running")
    after.settings = {"slave_parallel_workers": "2", "slave_net_timeout": "17"}
    done, warnings = put_back(after, before)
    assert (len(done), warnings) == (1, [])
    assert [sql for sql, _args in after.statements] == [
        "STOP SLAVE IO_THREAD",
        "STOP SLAVE SQL_THREAD",
        "SET GLOBAL slave_parallel_workers = %s",
    ]


def test_what_cannot_be_set_is_told() -> None:
    server = Server(MYSQL_56, refuses="slave_skip_errors")
    server.settings = {"slave_skip_errors": "1062"}
    before = capture(server)
    server.settings = {"slave_skip_errors": "OFF"}
    done, warnings = put_back(server, before)
    assert done == []
    assert warnings == ["slave_skip_errors = '1062' could not be put back: 1238 is a read only variable"]


def test_gtid_mode_is_put_back_step_by_step_and_after_what_it_demands() -> None:
    server = Server(MYSQL_97)
    server.settings = {"gtid_mode": "ON", "enforce_gtid_consistency": "ON"}
    server.changed = ["gtid_mode", "enforce_gtid_consistency"]
    before = capture(server)
    server.settings = {"gtid_mode": "OFF", "enforce_gtid_consistency": "OFF"}
    put_back(server, before)
    assert [args[0] for _sql, args in server.statements] == ["ON", "OFF_PERMISSIVE", "ON_PERMISSIVE", "ON"]
    assert server.settings == before.variables


def test_filters_of_all_and_of_one_channel_are_put_back() -> None:
    server = Server(MYSQL_97, "", "a b")
    server.changed_filters = True
    server.global_filters = {"replicate_ignore_db": "x,y"}
    for row in server.rows:
        row["Replicate_Ignore_DB"] = "y,x"
    server.rows[1]["Replicate_Do_Table"] = "d.t"
    before = capture(server)
    assert before.starts_quietly
    after = Server(MYSQL_97, "", "a b")
    done, warnings = put_back(after, before)
    assert warnings == []
    assert [sql for sql, _args in after.statements] == [
        "CHANGE REPLICATION FILTER REPLICATE_IGNORE_DB = (`x`, `y`)",
        "CHANGE REPLICATION FILTER REPLICATE_DO_TABLE = (`d`.`t`) FOR CHANNEL %s",
    ]
    assert done[0].startswith("put back filters of all channels")


def test_filters_that_the_account_may_not_read_count_as_changed_and_are_put_back_by_channel() -> None:
    server = Server(MYSQL_97, "", "c")
    server.global_filters = None
    server.rows[1]["Replicate_Ignore_DB"] = "x"
    before = capture(server)
    assert (before.filters_changed, before.starts_quietly) == (None, True)
    after = Server(MYSQL_97, "", "c", state="running")
    after.global_filters = None
    _done, warnings = put_back(after, before)
    assert after.statements[-1] == ("CHANGE REPLICATION FILTER REPLICATE_IGNORE_DB = (`x`) FOR CHANNEL %s", ("c",))
    assert [warning for warning in warnings if "ran for a moment with the filters of the option files" in warning]


def test_settings_of_a_connection_are_put_back_for_that_connection() -> None:
    server = Server(MARIADB, "", "it's")
    server.rows[1].update(Replicate_Do_DB="d", Parallel_Mode="aggressive", Skip_Counter=2, Max_relay_log_size=4096)
    before = capture(server)
    after = Server(MARIADB, "", "it's")
    after.rows[0]["Replicate_Ignore_DB"] = "from_the_file"
    done, warnings = put_back(after, before)
    assert warnings == []
    assert len(done) == 5
    assert capture(after).channels == before.channels
    assert {args[0] for sql, args in after.statements if "default_master" in sql} == {"", "it's"}
    # The session must not stay with another connection: START SLAVE without a name would act on it.
    assert after._chosen == ""


def test_a_skip_counter_that_was_used_up_is_not_put_back_once_more() -> None:
    server = Server(MARIADB, "", "c")
    server.rows[1].update(Replicate_Do_DB="d", Skip_Counter=2)
    before = capture(server)
    after = Server(MARIADB, "", "c")
    assert len(put_back(after, before)[0]) == 2
    after.rows[1].update(Skip_Counter=0, Replicate_Do_DB="")
    done, warnings = put_back(after, before.without_skip_counters())
    assert (done, warnings) == (["put back replicate_do_db of channel 'c' = 'd'"], [])
    server = Server(MYSQL_57)
    server.settings = {"sql_slave_skip_counter": "2", "slave_net_timeout": "17"}
    assert capture(server).without_skip_counters().variables == {"slave_net_timeout": "17"}


def test_an_emptied_filter_is_emptied_again() -> None:
    server = Server(MYSQL_57)
    before = capture(server)
    assert before.filters_changed is None
    server.rows[0]["Replicate_Do_DB"] = "from_the_file"
    put_back(server, before)
    assert server.statements == [("CHANGE REPLICATION FILTER REPLICATE_DO_DB = ()", ())]


def test_no_thread_may_run_with_a_filter_that_could_not_be_put_back() -> None:
    server = Server(MYSQL_57, refuses="CHANGE REPLICATION FILTER")
    server.rows[0]["Replicate_Do_DB"] = "d"
    before = capture(server)
    after = Server(MYSQL_57, refuses="CHANGE REPLICATION FILTER")
    with pytest.raises(ReplicaBackupError, match="replicate_do_db = 'd'") as caught:
        put_back(after, before)
    assert caught.value.facts["rule"] == "run_time_settings"


def test_no_thread_may_run_with_a_gtid_mode_that_could_not_be_put_back() -> None:
    server = Server(MYSQL_97)
    server.settings = {"gtid_mode": "ON_PERMISSIVE", "replica_net_timeout": "17"}
    server.changed = ["gtid_mode", "replica_net_timeout"]
    before = capture(server)
    # Somebody else has started it, so its threads ran.
    after = Server(MYSQL_97, state="running", refuses="gtid_mode", code=1227)
    after.settings = {"gtid_mode": "OFF_PERMISSIVE", "replica_net_timeout": "60"}
    with pytest.raises(ReplicaBackupError, match="gtid_mode = 'ON_PERMISSIVE' could not be put back: 1227") as caught:
        put_back(after, before)
    assert caught.value.server_state == "running, replication stopped"
    assert "START" not in str(caught.value.next_command)
    # All the others are back, and no thread runs.
    assert after.settings == {"gtid_mode": "OFF_PERMISSIVE", "replica_net_timeout": "17"}
    assert not any(
        c.io_started or c.applier_started for c in _replication.read_channels(t.cast(t.Any, after), MYSQL_97)
    )


def test_a_gtid_mode_that_only_an_option_file_can_change_was_changed_there() -> None:
    server = Server(MYSQL_56, refuses="gtid_mode")
    server.settings = {"gtid_mode": "OFF"}
    before = capture(server)
    server.settings = {"gtid_mode": "ON"}
    assert put_back(server, before)[1] == ["gtid_mode = 'OFF' could not be put back: 1238 is a read only variable"]


def test_an_applier_that_ran_with_another_gtid_mode_is_told() -> None:
    server = Server(MYSQL_97)
    server.settings = {"gtid_mode": "ON_PERMISSIVE"}
    server.changed = ["gtid_mode"]
    before = capture(server)
    after = Server(MYSQL_97, state="running")
    after.settings = {"gtid_mode": "OFF_PERMISSIVE"}
    done, warnings = put_back(after, before)
    assert done == ["put back gtid_mode = 'ON_PERMISSIVE'"]
    assert len(warnings) == 1 and "ran for a moment without gtid_mode = 'ON_PERMISSIVE'" in warnings[0]


def refuse(server: Server) -> None:
    _run_time.refuse_unless_start_can_be_quiet(capture(server), skip_supported=False, start="s", option="--skip")


def test_a_start_that_cannot_be_quiet_is_refused_before_the_stop() -> None:
    server = Server(MARIADB, "", "c")
    server.changed = ["REPLICATE_DO_DB", "SLAVE_NET_TIMEOUT", "GTID_IGNORE_DUPLICATES"]
    server.settings = {"slave_net_timeout": "17", "gtid_ignore_duplicates": "ON"}
    server.rows[1].update(Replicate_Do_DB="d", Skip_Counter=2)
    _run_time.refuse_unless_start_can_be_quiet(capture(server), skip_supported=True, start="s", option="--skip")
    with pytest.raises(RefusedError, match="set at run time: gtid_ignore_duplicates = 'ON'") as caught:
        refuse(server)
    assert "replicate_do_db of channel 'c' = 'd'; skip counter of channel 'c' = 2" in str(caught.value)
    # Not what stands in the way.
    assert "slave_net_timeout" not in str(caught.value)
    server.rows[1].update(Replicate_Do_DB="", Skip_Counter=0)
    server.changed = ["REPLICATE_DO_DB"]
    with pytest.raises(RefusedError, match="a replication filter that was emptied"):
        refuse(server)


@pytest.mark.parametrize("setting", ["gtid_mode", "sql_replica_skip_counter"])
def test_what_decides_about_transactions_needs_a_quiet_start(setting: str) -> None:
    server = Server(MYSQL_97)
    server.settings = {setting: "1", "replica_net_timeout": "17"}
    server.changed = [setting, "replica_net_timeout"]
    with pytest.raises(RefusedError, match=f"{setting} = '1'"):
        refuse(server)


def test_what_decides_nothing_is_put_back_a_moment_after_the_threads_started() -> None:
    server = Server(MYSQL_97)
    server.settings = {"replica_net_timeout": "17"}
    server.changed = ["replica_net_timeout"]
    # A filter that stands in an option file is none of this.
    server.rows[0]["Replicate_Do_DB"] = "d"
    refuse(server)
    before = capture(server)
    assert before.starts_quietly
    after = Server(MYSQL_97, state="running")
    after.settings = {"replica_net_timeout": "60"}
    after.rows[0]["Replicate_Do_DB"] = "d"
    assert put_back(after, before) == (["put back replica_net_timeout = '17'"], [])
    # Threads take it when they start, which the caller sees to.
    assert [sql.split()[0] for sql, _args in after.statements] == ["STOP", "STOP", "SET"]


def test_filters_of_a_server_that_cannot_say_whose_they_are_need_a_quiet_start() -> None:
    server = Server(MYSQL_57)
    server.settings = {"slave_net_timeout": "17", "gtid_mode": "ON"}
    refuse(server)
    server.rows[0]["Replicate_Do_DB"] = "d"
    with pytest.raises(RefusedError, match="cannot say which filters are from an option file") as caught:
        refuse(server)
    # That would not help: the next run would refuse just the same.
    assert "option file" not in str(caught.value.next_command)
    assert caught.value.server_state == "running, untouched"


SEMI_SYNC = "rpl_semi_sync_replica_enabled"


def with_semi_sync(*channels: str, status: str = "OFF", state: str = "running") -> Server:
    server = Server(MYSQL_97, *channels, state=state)
    server.settings = {SEMI_SYNC: "ON"}
    server.changed = [SEMI_SYNC]
    server.semi_sync_status = status
    return server


def test_semi_sync_that_no_receiver_uses_is_turned_on_after_the_receivers_run() -> None:
    before = capture(with_semi_sync("", "two"))
    after = Server(MYSQL_97, "", "two")
    after.settings = {SEMI_SYNC: "OFF"}
    before = RunTime.from_dict(json.loads(json.dumps(before.to_dict())))
    assert put_back(after, before) == ([], [])
    assert after.settings == {SEMI_SYNC: "OFF"}
    done = [f"put back {SEMI_SYNC} = 'ON'"]
    assert _run_time.put_back_after_threads(t.cast(t.Any, after), MYSQL_97, before) == (done, [])
    assert after.settings == {SEMI_SYNC: "ON"}
    assert _run_time.put_back_after_threads(t.cast(t.Any, after), MYSQL_97, before) == ([], [])


def test_semi_sync_that_cannot_be_turned_on_afterwards_is_told() -> None:
    before = capture(with_semi_sync("", "two"))
    after = Server(MYSQL_97, "", "two", refuses=SEMI_SYNC)
    after.settings = {SEMI_SYNC: "OFF"}
    done, (warning,) = _run_time.put_back_after_threads(t.cast(t.Any, after), MYSQL_97, before)
    assert done == []
    assert f"{SEMI_SYNC} = 'ON' could not be put back" in warning


@pytest.mark.parametrize(
    "server",
    [
        with_semi_sync("", "two", status="ON"),
        # One receiver disturbs no other; without any, nothing is known of how it would run.
        with_semi_sync(""),
        with_semi_sync("", "two", state="stopped"),
    ],
    ids=["used", "one channel", "no receiver"],
)
def test_semi_sync_is_turned_on_before_the_receivers_run(server: Server) -> None:
    before = capture(server)
    server.settings = {SEMI_SYNC: "OFF"}
    assert put_back(server, before)[0] == [f"put back {SEMI_SYNC} = 'ON'"]


def test_semi_sync_of_an_option_file_is_left_to_the_start() -> None:
    server = with_semi_sync("", "two")
    server.changed = []
    assert capture(server).after_threads == ()
