# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided for a channel whose relay logs are lost, from facts alone; real servers are in tests/integration."""

from __future__ import annotations

import typing as t
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs import (
    coordinates,
    execute,
    forecast,
    plan,
    source,
    workers,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs import replica as replicas
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.coordinates import Coordinates
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.source import SourceView
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import channel_from_row

ROW = {
    "Channel_Name": "x'y",
    "Source_Host": "db0",
    "Source_Port": 3306,
    "Source_UUID": "u-1",
    "Source_Server_Id": 7,
    "Replica_IO_Running": "No",
    "Replica_SQL_Running": "No",
    "Relay_Source_Log_File": "binlog.000042",
    "Exec_Source_Log_Pos": 1416,
    "Relay_Log_File": "relay.000007",
    "Relay_Log_Pos": 900,
    "SQL_Delay": 0,
    "Auto_Position": 0,
}
CHANNEL = channel_from_row(ROW)
HERE = Coordinates("binlog.000042", 1416, "", "the running server (TABLE repository)")
HAS = SourceView(True, "it has it")
MYSQL84 = Dialect("mysql", (8, 4, 3))


def replica(dialect: Dialect = MYSQL84, **changes: t.Any) -> replicas.Replica:
    values: dict[str, t.Any] = {
        "dialect": dialect,
        "variables": {},
        "channels": (CHANNEL,),
        "gtid_state": "",
        "workers": {},
        "relay_logs": {"x'y": "relay.000007 is not there"},
    }
    return replicas.Replica(**{**values, **changes})


def worker(number: int, pos: int, *, last: int, executed: t.Iterable[int], since: int = 1416) -> workers.Worker:
    groups = sum(1 << bit for bit in executed).to_bytes(8, "little")
    return workers.Worker(number, ("binlog.000042", pos), ("binlog.000042", since), last, groups)


STATEMENTS = {
    ("mysql", (9, 7, 4)): [
        "STOP REPLICA IO_THREAD FOR CHANNEL 'x''y';",
        "STOP REPLICA SQL_THREAD FOR CHANNEL 'x''y';",
        "RESET REPLICA FOR CHANNEL 'x''y';",
        "CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE = 'binlog.000042', SOURCE_LOG_POS = 1416 FOR CHANNEL 'x''y';",
        "START REPLICA SQL_THREAD FOR CHANNEL 'x''y';",
        "START REPLICA IO_THREAD FOR CHANNEL 'x''y';",
    ],
    ("mysql", (8, 0, 22)): [
        "STOP REPLICA IO_THREAD FOR CHANNEL 'x''y';",
        "STOP REPLICA SQL_THREAD FOR CHANNEL 'x''y';",
        "RESET REPLICA FOR CHANNEL 'x''y';",
        "CHANGE MASTER TO MASTER_LOG_FILE = 'binlog.000042', MASTER_LOG_POS = 1416 FOR CHANNEL 'x''y';",
        "START REPLICA SQL_THREAD FOR CHANNEL 'x''y';",
        "START REPLICA IO_THREAD FOR CHANNEL 'x''y';",
    ],
    ("mysql", (5, 6, 24)): [
        "STOP SLAVE IO_THREAD;",
        "STOP SLAVE SQL_THREAD;",
        "RESET SLAVE;",
        "CHANGE MASTER TO MASTER_LOG_FILE = 'binlog.000042', MASTER_LOG_POS = 1416;",
        "START SLAVE SQL_THREAD;",
        "START SLAVE IO_THREAD;",
    ],
    ("mariadb", (10, 11, 6)): [
        "STOP SLAVE 'x''y' IO_THREAD;",
        "STOP SLAVE 'x''y' SQL_THREAD;",
        "RESET SLAVE 'x''y';",
        "CHANGE MASTER 'x''y' TO MASTER_LOG_FILE = 'binlog.000042', MASTER_LOG_POS = 1416, MASTER_USE_GTID = no;",
        "START SLAVE 'x''y' SQL_THREAD;",
        "START SLAVE 'x''y' IO_THREAD;",
    ],
}


@pytest.mark.parametrize(("family", "version"), STATEMENTS)
def test_statements_in_the_words_of_the_server(family: str, version: tuple[int, int, int]) -> None:
    healing = plan.plan(replica(Dialect(family, version)), CHANNEL, HERE, HAS)
    assert [plan.render(one) for one in healing.statements] == STATEMENTS[family, version]
    assert healing.needed and not healing.refused


@pytest.mark.parametrize(
    ("family", "version", "mode", "change"),
    [
        ("mysql", (8, 4, 3), "auto_position", "SOURCE_AUTO_POSITION = 1, SOURCE_DELAY = 60 FOR CHANNEL"),
        ("mysql", (5, 6, 24), "auto_position", "CHANGE MASTER TO MASTER_AUTO_POSITION = 1, MASTER_DELAY = 60;"),
        ("mariadb", (10, 6, 0), "slave_pos", "TO MASTER_USE_GTID = slave_pos, MASTER_DELAY = 60;"),
        ("mariadb", (10, 6, 0), "current_pos", "TO MASTER_USE_GTID = current_pos, MASTER_DELAY = 60;"),
    ],
)
def test_by_gtid_it_stays_by_gtid_and_delayed(
    family: str, version: tuple[int, int, int], mode: str, change: str
) -> None:
    delayed = replace(CHANNEL, delay=60)
    healing = plan.plan(replica(Dialect(family, version)), delayed, replace(HERE, gtid=mode), HAS)
    assert change in plan.render(healing.statements[3])


def test_what_is_refused() -> None:
    never_ran = replace(HERE, log_file="", log_pos=0)
    assert "nothing was ever executed" in plan.plan(replica(), CHANNEL, never_ran, HAS).refused
    purged = plan.plan(replica(), CHANNEL, HERE, SourceView(False, "it no longer has binlog.000042"))
    assert "no longer has" in purged.refused and purged.alternatives and not purged.statements
    ahead = {"x'y": [worker(2, 1900, last=1, executed=[1])]}
    gaps = plan.plan(replica(workers=ahead), CHANNEL, HERE, HAS)
    assert "would apply transactions twice" in gaps.refused
    assert any("UNTIL SQL_AFTER_MTS_GAPS" in alternative for alternative in gaps.alternatives)
    unseen = plan.plan(replica(workers=None), CHANNEL, HERE, HAS)
    assert "could not be seen" in unseen.refused
    # By GTID the gaps are fetched again, and only they.
    by_gtid = replace(HERE, gtid="auto_position")
    assert not plan.plan(replica(workers=None), CHANNEL, by_gtid, HAS).refused


def test_workers_that_are_ahead_without_a_gap_say_where_it_stands() -> None:
    """Worker 1 did the first and the third transaction since the checkpoint, worker 2 the second."""
    whole = [worker(1, 1900, last=2, executed=[0, 2]), worker(2, 1700, last=1, executed=[1])]
    seen = replica(workers={"x'y": whole})
    place = coordinates.coordinates_of(seen, CHANNEL)
    assert (place.log_file, place.log_pos) == ("binlog.000042", 1900) and "workers" in place.origin
    assert not plan.plan(seen, CHANNEL, place, HAS).refused
    gap = workers.reached(CHANNEL.executed, [whole[0]])
    assert gap.position == CHANNEL.executed and "1 of the 3 transactions up to there are missing" in gap.gap
    other = workers.reached(CHANNEL.executed, [worker(1, 1900, last=0, executed=[0], since=1200)])
    assert "another checkpoint" in other.gap
    # What was executed before the channel's own position says nothing, nor does a worker that never worked.
    idle = workers.Worker(3, ("", 0), ("", 0), 0, bytes(8))
    assert workers.reached(CHANNEL.executed, [worker(1, 1416, last=9, executed=[9]), idle]) == workers.Reached(
        CHANNEL.executed
    )


def test_coordinates_in_doubt() -> None:
    doubtful = replica(doubt={"x'y": "the server was not stopped cleanly"})
    refused = plan.plan(doubtful, CHANNEL, HERE, HAS)
    assert refused.refused == "the server was not stopped cleanly"
    assert any("replica_reposition_trust_coordinates" in other for other in refused.alternatives)
    assert not plan.plan(doubtful, CHANNEL, HERE, HAS, trust=True).refused
    # By GTID the place is in the data themselves.
    assert not plan.plan(doubtful, CHANNEL, replace(HERE, gtid="auto_position"), HAS).refused
    recorded = replace(HERE, origin=coordinates.MANIFEST)
    assert not plan.plan(replica(), CHANNEL, recorded, HAS).refused
    behind = plan.plan(replica(), CHANNEL, replace(recorded, log_pos=1300), HAS)
    assert "the server's own place is binlog.000042:1416" in behind.refused
    assert not plan.plan(replica(), CHANNEL, replace(recorded, log_pos=1300), HAS, trust=True).refused
    forgotten = replace(CHANNEL, source_log_file="", source_log_pos=0)
    assert not plan.plan(replica(), forgotten, recorded, HAS).refused


def test_when_it_is_needed() -> None:
    well = replica(relay_logs={})
    assert not plan.plan(well, CHANNEL, HERE, HAS).needed
    assert plan.plan(well, CHANNEL, HERE, HAS, force=True).needed
    for error, needed in (("1872 failed to initialize", True), ("13122 x", True), ("1062 Duplicate entry", False)):
        healing = plan.plan(well, replace(CHANNEL, applier_error=error), HERE, HAS)
        assert healing.needed is needed, error
    # Source and replica have one server_id: nothing that other coordinates would heal.
    same_id = replace(CHANNEL, io_error="1593 Fatal error: ... equal MySQL server ids")
    assert not plan.plan(well, same_id, HERE, HAS).needed
    # Where the source was not asked the statements are still said.
    assert plan.plan(replica(), CHANNEL, HERE, SourceView(None, "not asked")).statements


def test_the_relay_log_on_disk(tmp_path: Path) -> None:
    variables = {"datadir": f"{tmp_path}/", "relay_log_basename": "logs/relay", "pid_file": "/run/db.pid"}
    trouble = replicas.relay_log_trouble
    assert trouble(CHANNEL, variables).endswith("logs/relay.000007 is not there")
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "relay.000007"
    log.write_bytes(b"x" * 899)
    assert "899 bytes, and the applier stands at 900" in trouble(CHANNEL, variables)
    log.write_bytes(b"x" * 900)
    index = tmp_path / "logs" / "relay-x@0027y.index"
    assert trouble(CHANNEL, variables) == f"{index}, which lists the relay logs, is not there"
    index.write_text("./relay.000008\n")
    assert trouble(CHANNEL, variables) == f"{index} does not list relay.000007"
    assert trouble(replace(CHANNEL, applier="Yes"), variables) == ""
    index.write_text("logs/relay.000007\nlogs/relay.000008\n")
    assert trouble(CHANNEL, variables) == ""
    # As MariaDB and MySQL 5.6 name it by themselves.
    assert trouble(CHANNEL, {"datadir": f"{tmp_path}/logs", "pid_file": "/run/db.pid"}).startswith(
        f"{tmp_path}/logs/db-relay-bin-x@0027y.index, which"
    )
    assert trouble(CHANNEL, {"datadir": f"{tmp_path}/logs/"}) == ""
    assert trouble(replace(CHANNEL, relay_log_file=f"{log}"), {"datadir": "/"}) == ""
    assert trouble(replace(CHANNEL, relay_log_file=""), variables) == "the server names no relay log"
    assert trouble(replace(CHANNEL, relay_log_file="", source_log_file=""), variables) == ""


def test_another_server_under_the_same_name() -> None:
    stranger = source._stranger
    assert "server_uuid u-2" in stranger({"server_uuid": "u-2", "server_id": "7"}, CHANNEL)
    assert "server_id 8" in stranger({"server_uuid": "u-1", "server_id": "8"}, CHANNEL)
    assert stranger({"server_uuid": "u-1", "server_id": "7"}, CHANNEL) == ""
    assert stranger({"server_id": "9"}, replace(CHANNEL, source_uuid="", source_server_id=0)) == ""


LOGS = [("b.1", 10), ("b.2", 20), ("b.3", 30)]


def foretold(log: str, begun: float | None = 1000.0, now: float = 1600.0, **variables: str) -> forecast.Forecast:
    asked: list[str] = []

    def begin(name: str, size: int) -> float | None:
        assert dict(LOGS)[name] == size
        asked.append(name)
        return begun

    found = forecast.forecast(MYSQL84, variables, LOGS, log, now, begin)
    assert asked == {"b.1": ["b.2"], "b.2": ["b.3"], "b.3": []}.get(log, ["b.2"])
    return found


def test_how_long_the_source_keeps_a_log() -> None:
    kept = foretold("b.2", binlog_expire_logs_seconds="3600")
    assert (kept.log, kept.seconds, kept.last_written[:19]) == ("b.2", 3000, "1970-01-01T00:16:40")
    assert "at least 3000 s more" in kept.text and "first event of the log after it" in kept.text
    assert foretold("b.2", expire_logs_days="1.000000").seconds == 85800
    overdue = foretold("b.1", binlog_expire_logs_seconds="60")
    assert overdue.seconds == 0 and "may be purged when a log begins" in overdue.text
    # Nobody says when it was written: nothing is promised.
    unsaid = foretold("b.1", None, binlog_expire_logs_seconds="3600")
    assert (unsaid.seconds, unsaid.last_written) == (0, "") and "cannot be had" in unsaid.text
    current = foretold("b.3", binlog_expire_logs_seconds="3600")
    assert current.seconds == 3600 and "still written to" in current.text
    # Known by GTID only: the oldest log bounds them all.
    assert foretold("", binlog_expire_logs_seconds="3600").log == "b.1"


def test_what_else_purges_and_what_does_not() -> None:
    assert foretold("b.1").seconds is None
    off = foretold("b.1", binlog_expire_logs_seconds="60", binlog_expire_logs_auto_purge="OFF")
    assert off.seconds is None and "None is purged by age" in off.text
    limited = foretold("b.2", max_binlog_total_size="100")
    assert limited.bytes_left == 50 and "about 1000 s at the pace since 1970-01-01T00:16:40Z" in limited.text
    assert foretold("b.1", binlog_space_limit="50").bytes_left == 0
    assert foretold("b.1", max_binlog_total_size="0").bytes_left is None
    assert "at least 2 replicas" in foretold("b.1", slave_connections_needed_for_purge="2").text
    assert "PURGE BINARY LOGS by hand" in foretold("b.1").text


def test_gtid_lists_of_mariadb() -> None:
    assert source._domains("0-1-10,1-2-3, 0-4-12") == {0: 12, 1: 3}
    assert source._domains("") == {}


def test_files_of_the_repositories_are_saved(tmp_path: Path) -> None:
    data, moved = tmp_path / "data", tmp_path / "moved"
    data.mkdir()
    moved.mkdir()
    for name in ("master.info", "relay-log-a.info", "multi-master.info", "ibdata1", "other.info"):
        (data / name).write_text(name)
    (moved / "rli.info").write_text("here")
    seen = replica(variables={"datadir": f"{data}/", "relay_log_info_file": f"{moved}/rli.info"})
    saved = execute.save_files(seen.variables, str(tmp_path / "saved"))
    assert sorted(Path(path).name for path in saved) == [
        "master.info", "multi-master.info", "relay-log-a.info", "rli.info"
    ]  # fmt: skip
    assert {oct(Path(path).stat().st_mode)[-3:] for path in saved} == {"600"}
    assert oct((tmp_path / "saved").stat().st_mode)[-3:] == "700"
    for path in data.glob("*.info"):
        path.unlink()
    assert execute.save_files({"datadir": f"{data}/"}, str(tmp_path / "none")) == ()
    assert not (tmp_path / "none").exists()
