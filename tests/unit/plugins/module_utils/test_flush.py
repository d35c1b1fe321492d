# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done about dirty pages and a cold buffer pool, and what a stop tells."""

from __future__ import annotations

import time
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _flush, _privileges, _waited_for, _warm
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import QueryError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._error_log import ErrorLogMark
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._flush import Flush
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._waited_for import Before

MARIADB, MYSQL_56, MYSQL_97 = (
    Dialect("mariadb", (10, 11, 19)),
    Dialect("mysql", (5, 6, 24)),
    Dialect("mysql", (9, 7, 4)),
)
LOGS = Path(__file__).parent / "fixtures" / "shutdown"
# As the servers print them: MariaDB 10.11 and 11.8, MySQL 5.6, MySQL 9.7.
VARIABLES = {
    MARIADB: {
        "innodb_io_capacity": "200",
        "innodb_io_capacity_max": "2000",
        "innodb_max_dirty_pages_pct": "90.000000",
        "innodb_max_dirty_pages_pct_lwm": "0.000000",
    },
    MYSQL_56: {
        "innodb_io_capacity": "200",
        "innodb_io_capacity_max": "2000",
        "innodb_max_dirty_pages_pct": "75",
        "innodb_max_dirty_pages_pct_lwm": "0",
    },
    MYSQL_97: {
        "innodb_io_capacity": "10000",
        "innodb_io_capacity_max": "20000",
        "innodb_max_dirty_pages_pct": "90.000000",
        "innodb_max_dirty_pages_pct_lwm": "10.000000",
    },
}
RIGHTS = {
    MARIADB: ["GRANT SUPER ON *.* TO `b`@`h`"],
    MYSQL_56: ["GRANT SUPER ON *.* TO 'b'@'h'"],
    MYSQL_97: ["GRANT SYSTEM_VARIABLES_ADMIN ON *.* TO `b`@`h`"],
}


class Answers:
    """A session whose server has a status that changes from answer to answer, and takes what is set."""

    def __init__(self, *statuses: t.Mapping[str, str], variables: t.Mapping[str, str] | None = None) -> None:
        self._statuses = list(statuses)
        self.variables = dict(variables or {})
        self.done: list[str] = []

    def query(self, sql: str, args: t.Sequence[t.Any] | None = None) -> list[dict[str, t.Any]]:
        if "VARIABLES" in sql:
            return [{"Variable_name": name, "Value": value} for name, value in self.variables.items()]
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        return [{"Variable_name": name, "Value": value} for name, value in status.items()]

    def scalar(self, sql: str) -> str:
        return self.variables[sql.rpartition(".")[2]]

    def execute(self, sql: str, args: t.Sequence[t.Any] = ()) -> None:
        name = sql.split()[2]
        if name == "refused":
            raise QueryError("denied", code=1227, found="1227 Access denied")
        self.variables[name] = str(args[0]) if args else sql.split()[-1]
        self.done.append(f"{name}={self.variables[name]}")


def dirty(pages: int) -> dict[str, str]:
    return {"Innodb_buffer_pool_pages_dirty": str(pages), "Innodb_page_size": "16384"}


def planned(dialect: Dialect, pages: int = 5000, timeout: float = 60, grants: list[str] | None = None) -> Flush:
    privileges = _privileges.parse("'b'@'h'", RIGHTS[dialect] if grants is None else grants)
    return _flush.plan(t.cast(t.Any, Answers(dirty(pages))), dialect, VARIABLES[dialect], privileges, timeout)


@pytest.mark.parametrize(
    ("dialect", "settings"),
    [
        (MARIADB, ["innodb_io_capacity_max=20000", "innodb_io_capacity=20000", "innodb_max_dirty_pages_pct=0"]),
        (MYSQL_56, ["innodb_io_capacity_max=20000", "innodb_io_capacity=20000", "innodb_max_dirty_pages_pct=0"]),
        # The limit is high enough; the low mark goes first, or the server would complain.
        (MYSQL_97, ["innodb_io_capacity=20000", "innodb_max_dirty_pages_pct_lwm=0", "innodb_max_dirty_pages_pct=0"]),
    ],
)
def test_what_is_set_and_put_back(dialect: Dialect, settings: list[str]) -> None:
    flush = planned(dialect)
    server = Answers(dirty(5000), dirty(3000), dirty(20), variables=VARIABLES[dialect])
    flushed = _flush.run(t.cast(t.Any, server), dialect, flush, pytest.fail)
    assert server.done == settings
    assert flushed is not None
    assert (flushed.first, flushed.last, flushed.ended) == (5000, 20, _flush.FEW_LEFT)
    server.done.clear()
    done, left = _flush.put_back(t.cast(t.Any, server), dialect, flush.before)
    assert server.variables == VARIABLES[dialect]
    assert (len(done), left) == (len(settings), [])
    # Capacity is never above its limit, nor the low mark above the mark.
    names = [one.split("=")[0] for one in server.done]
    assert names == [name for name in flush.before if name in names]
    assert _flush.put_back(t.cast(t.Any, server), dialect, flush.before) == ([], [])


def test_what_is_not_worth_it_or_not_wanted() -> None:
    assert not planned(MARIADB, pages=1023).wanted
    assert planned(MARIADB, pages=1024).wanted
    assert not planned(MARIADB, timeout=0).wanted
    assert not _flush.plan(t.cast(t.Any, Answers({})), MARIADB, {}, _privileges.parse("''@''", []), 60).wanted


@pytest.mark.parametrize(
    ("dialect", "held", "grant"),
    [
        (MARIADB, "PROCESS, REPLICATION SLAVE ADMIN", "GRANT SUPER ON *.* TO 'b'@'h';"),
        (MYSQL_97, "PROCESS", "GRANT SYSTEM_VARIABLES_ADMIN ON *.* TO 'b'@'h';"),
    ],
)
def test_a_right_that_is_missing_is_named_and_refuses_nothing(dialect: Dialect, held: str, grant: str) -> None:
    grants = [f"GRANT {held} ON *.* TO `b`@`h`"]
    flush = planned(dialect, grants=grants)
    assert not flush.wanted
    assert grant in flush.why_not
    assert not planned(dialect, pages=10, grants=grants).why_not
    off = {"innodb_buffer_pool_dump_now": "OFF", "innodb_buffer_pool_dump_at_shutdown": "OFF"}
    warm = _warm.plan(dialect, off, _privileges.parse("'b'@'h'", grants), wanted=True)
    assert not warm.dump
    assert grant in warm.why_not


def test_a_server_that_refuses_is_stopped_all_the_same() -> None:
    said: list[str] = []
    flush = Flush(60, 5000, 16384, {"refused": "0"}, {"refused": "1"})
    assert _flush.run(t.cast(t.Any, Answers(dirty(9000))), MARIADB, flush, said.append) is None
    assert "Access denied" in said[0]
    done, left = _flush.put_back(t.cast(t.Any, Answers({}, variables={"refused": "0"})), MARIADB, flush.before)
    assert (done, [one.statement for one in left]) == ([], ["SET GLOBAL refused = 1"])


def test_no_progress_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    # Up and down, and now and then a page less: the applier is at work.
    around = [dirty(pages) for pages in (9000, 6000, 5990, 6100, 5980, 6020, 5970, 6000, 6050, 6000)]
    flushed = _flush.run(t.cast(t.Any, Answers(*around)), MARIADB, planned(MARIADB), pytest.fail)
    assert flushed is not None
    assert flushed.ended == _flush.NO_PROGRESS
    assert flushed.seconds < 10
    slow = [dirty(9000 - 70 * step) for step in range(100)]
    flushed = _flush.run(t.cast(t.Any, Answers(*slow)), MARIADB, planned(MARIADB, timeout=20), pytest.fail)
    assert flushed is not None
    assert (flushed.ended, flushed.seconds) == (_flush.TIME_OVER, 20)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        # MySQL 5.7 and newer, MariaDB 10.2 and newer as they come.
        ({"dump_at_shutdown": "ON", "load_at_startup": "ON"}, (False, False)),
        # MySQL 5.6 as it comes.
        ({"dump_at_shutdown": "OFF", "load_at_startup": "OFF"}, (True, True)),
        ({"dump_at_shutdown": "ON", "load_at_startup": "OFF"}, (False, True)),
    ],
)
def test_what_a_server_does_by_itself_is_left_to_it(variables: dict[str, str], expected: tuple[bool, bool]) -> None:
    every = {"dump_now": "OFF", "load_now": "OFF", **variables}
    names = {f"innodb_buffer_pool_{name}": value for name, value in every.items()}
    privileges = _privileges.parse("'b'@'h'", RIGHTS[MYSQL_56])
    warm = _warm.plan(MYSQL_56, names, privileges, wanted=True)
    assert (warm.dump, warm.load) == expected
    assert _warm.plan(MYSQL_56, names, privileges, wanted=False) == _warm.Warm()
    # MySQL 5.5 has none of them.
    assert _warm.plan(MYSQL_56, {}, privileges, wanted=True) == _warm.Warm()


@pytest.mark.parametrize(
    ("at_startup", "statuses", "odd"),
    [
        ("ON", ["Buffer pool(s) load completed at 261123  0:26:05"], ""),
        # Just started: MySQL 9.7, 5.6, MariaDB.
        ("ON", ["Loading of buffer pool not started", "Loaded 128/4000 pages", "Buffer pool(s) load completed"], ""),
        ("ON", ["", "Loading buffer pool(s) from /d/ib_buffer_pool", "Buffer pool(s) load completed"], ""),
        ("OFF", ["not started"], ""),
        ("OFF", ["Loading of buffer pool not started"], ""),
        ("ON", ["Cannot open '/d/ib_buffer_pool' for reading: No such file"], "The buffer pool: Cannot open"),
        ("ON", ["Loaded 128/4000 pages"], "still being loaded after 1 s: Loaded 128/4000 pages"),
    ],
)
def test_when_a_buffer_pool_is_warm(at_startup: str, statuses: list[str], odd: str) -> None:
    answers = [{"Innodb_buffer_pool_load_status": status} for status in statuses]
    server = Answers(*answers, variables={"innodb_buffer_pool_load_at_startup": at_startup})
    _seconds, said = _warm.wait(t.cast(t.Any, server), 1)
    assert bool(said) == bool(odd)
    assert odd in said


def test_the_note_of_the_buffer_pool_is_waited_for() -> None:
    warm = _warm.Warm(dump=True)
    said: list[str] = []
    names = (
        "not started",
        "not started",
        "Dumping buffer pool(s) to /d/ib_buffer_pool",
        "Buffer pool(s) dump completed at 1",
    )
    server = Answers(*({"Innodb_buffer_pool_dump_status": one} for one in names))
    _warm.dump(t.cast(t.Any, server), warm, said.append)
    assert server.done == ["innodb_buffer_pool_dump_now=1"]
    assert not said
    failed = Answers(
        {"x": ""}, {"x": "Cannot open '/d/ib_buffer_pool.incomplete' for writing: No space left on device"}
    )
    _warm.dump(t.cast(t.Any, failed), warm, said.append)
    assert "No space left on device" in said[0]


@pytest.mark.parametrize(
    ("log", "seconds", "expected"),
    [
        (
            "mysql-5.6.txt",
            6.9,
            [
                "about 5 s after 'InnoDB: Starting shutdown...'",
                "about 2 s after 'Shutting down slave threads'",
                "the log says: Giving 2 client threads a chance to die gracefully",
                "the log says: Forcefully disconnecting 2 remaining clients",
            ],
        ),
        ("mariadb-10.11.txt", 3.9, ["about 4 s after 'InnoDB: to purge 6 transactions'"]),
        (
            "mysql-9.7.txt",
            0.9,
            ["0.8 s after 'Received SHUTDOWN from user root. Shutting down mysqld (Version: 9.7.4-2).'"],
        ),
    ],
)
def test_what_a_stop_waited_for(log: str, seconds: float, expected: list[str], tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    path.write_bytes(b"2026-11-22 00:00:00 0 [Note] Waiting for nobody\n")
    mark = ErrorLogMark(str(path), path.stat().st_ino, path.stat().st_size)
    with path.open("ab") as stream:
        stream.write((LOGS / log).read_bytes())
    before = Before(6400, 16384, 6, 0, "0")
    flushed = [{"first": 12800, "last": 6400, "seconds": 2.0, "ended": _flush.TIME_OVER}]
    words = _waited_for.tell(seconds, before, 150 << 20, mark, flushed)
    assert words[: len(words) - len(expected)] == [
        f"stop {seconds} s",
        "6400 dirty pages to write (100 MiB)",
        "the server wrote 150 MiB during it",
        "the purge of 6 transactions, because innodb_fast_shutdown is 0",
        "6400 pages (100 MiB) fewer, written in the 2.0 s before it (time is over)",
    ]
    assert words[len(words) - len(expected) :] == expected


def test_what_is_not_known_is_not_told() -> None:
    assert _waited_for.tell(0.2, Before(), None, None) == ["stop 0.2 s"]
