# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A replica that is down, from recorded files and on a real MariaDB; the other servers are in tests/integration."""

from __future__ import annotations

import json
import os
import shlex
import socket
import time
import typing as t
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _reposition
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login, connect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs import on_disk, source, workers
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.coordinates import Coordinates
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._lost_relay_logs.replica import Replica
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import channel_from_row
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._reposition import IfDown, Request
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils.real_server import (
    SERVER,
    RealServer,
    needs_server,
    template_datadir,
)

RECORDED = json.loads((Path(__file__).parent / "fixtures" / "status_files.json").read_text(encoding="utf-8"))["files"]
MYSQL56 = Dialect("mysql", (5, 6, 24))
MARIADB = Dialect("mariadb", (10, 11, 18))


def lay(directory: Path, server: str, case: str) -> dict[str, t.Any]:
    """Put the recorded files of one case into a directory; the status of that moment by file."""
    found = {entry["file"]: entry for entry in RECORDED if (entry["server"], entry["case"]) == (server, case)}
    assert found
    for name, entry in found.items():
        (directory / name).write_bytes(entry["content"].encode("latin-1"))
    return {name: entry["status"] for name, entry in found.items()}


CASES = sorted({(entry["server"], entry["case"]) for entry in RECORDED if entry["file"] == "relay-log.info"})


@pytest.mark.parametrize(("server", "case"), CASES)
def test_recorded_files_say_what_the_server_said(tmp_path: Path, server: str, case: str) -> None:
    status = lay(tmp_path, server, case)["relay-log.info"]
    dialect = MARIADB if "MariaDB" in server else MYSQL56
    found = {one.name: one for one in on_disk._read(ServerFacts({"datadir": str(tmp_path)}), dialect)}
    if "" not in found:
        assert not (tmp_path / "master.info").exists() or not status.get("Master_Host")
        return
    channel = on_disk._channel(found[""])
    assert channel.executed == (status["Relay_Master_Log_File"], int(status["Exec_Master_Log_Pos"]))
    assert (channel.source_host, channel.source_port) == (status["Master_Host"], int(status["Master_Port"]))
    assert channel.relay_log_pos == int(status["Relay_Log_Pos"])
    assert not channel.io_started and not channel.applier_started


def recorded(file: str) -> tuple[str, str]:
    return next((entry["server"], entry["case"]) for entry in RECORDED if entry["file"] == file)


def test_recorded_workers(tmp_path: Path) -> None:
    lay(tmp_path, *recorded("worker-relay-log.info.1"))
    found = workers.from_files(str(tmp_path / "relay-log.info"))
    assert found and {worker.number for worker in found} >= {1}
    assert workers.from_files(f"{tmp_path}/none/relay-log.info") is None


def test_files_that_do_not_fit_each_other(tmp_path: Path) -> None:
    server, case = next(key for key in CASES if "5.6" in key[0])
    lay(tmp_path, server, case)
    facts = ServerFacts({"datadir": str(tmp_path)})
    (tmp_path / "master.info").unlink()
    with pytest.raises(RefusedError, match="how to log in there, is lost") as lost:
        on_disk._read(facts, MYSQL56)
    assert "MASTER_LOG_POS = " in str(lost.value.next_command)
    (tmp_path / "relay-log.info").unlink()
    assert on_disk._read(facts, MYSQL56) == []
    lay(tmp_path, *next(key for key in CASES if "MariaDB" in key[0]))
    for name in ("master-x.info", "relay-log-x.info"):
        (tmp_path / name).write_bytes((tmp_path / name.replace("-x", "")).read_bytes())
    (tmp_path / "multi-master.info").write_text("")
    with pytest.raises(RefusedError, match="the server would start without them"):
        on_disk._read(facts, MARIADB)
    (tmp_path / "multi-master.info").write_text("X\n")
    assert [one.name for one in on_disk._read(facts, MARIADB)] == ["", "X"]


def test_a_file_of_another_channel(tmp_path: Path) -> None:
    """As MySQL 5.7 names them, and writes them (rpl_rli.cc): the channel is the last of eight values."""
    server, case = next(key for key in CASES if "5.6" in key[0])
    lay(tmp_path, server, case)
    lines = (tmp_path / "relay-log.info").read_text().split("\n")[1:8]
    (tmp_path / "relay-log.info").write_text("\n".join(["8", *lines, "other", ""]))
    with pytest.raises(RefusedError, match="belongs to another channel than its name says"):
        on_disk._read(ServerFacts({"datadir": str(tmp_path)}), Dialect("mysql", (5, 7, 44)))


# -- a source and a replica ---------------------------------------------------------------------------------------


class Pair:
    """``command`` starts the replica as a person would."""

    def __init__(self, source: RealServer, replica: RealServer, port: int, state: Path) -> None:
        self.source, self.replica, self.port, self.state = source, replica, port, state
        self.extra = ("--server-id=3", "--relay-log=relay", "--log-slave-updates")
        self.command = shlex.join([str(SERVER), *replica.arguments(*self.extra)])

    def login(self, server: RealServer) -> Login:
        return Login(user="root", unix_socket=str(server.socket))

    def request(self, **changes: t.Any) -> Request:
        down = IfDown(
            hints=Hints(service_name=self.command),
            service_manager="none",
            service_name=self.command,
            state_dir=str(self.state),
            start_timeout=30,
        )
        request = Request(
            login=self.login(self.replica),
            source_login=Login(user="looker", password="looks"),
            if_down=down,
            save_to=str(self.state / f"saved-{time.monotonic_ns()}"),
        )
        return replace(request, **changes)

    def rows(self, server: RealServer) -> t.Any:
        with connect(self.login(server)) as session:
            return session.query("CHECKSUM TABLE x.t")[0]["Checksum"]

    def status(self) -> dict[str, t.Any]:
        with connect(self.login(self.replica)) as session:
            return session.query("SHOW SLAVE STATUS")[0]

    def wait(self, condition: t.Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def lose(self) -> None:
        """Down, with a part of what was downloaded not executed, and no relay log left."""
        self.replica.execute("STOP SLAVE SQL_THREAD")
        self.source.fill()
        self.wait(lambda: self.status()["Read_Master_Log_Pos"] > self.status()["Exec_Master_Log_Pos"])
        self.stop()
        for path in self.replica.datadir.glob("relay.*"):
            path.unlink()

    def stop(self) -> None:
        self.replica.shutdown()
        self.wait(lambda: not self.up())

    def up(self) -> bool:
        for child in self.replica._children:
            child.poll()
        return bool(self.replica.pids())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with template_datadir() as template:
        source_server, replica = RealServer(template), RealServer(template)
        try:
            state = tmp_path_factory.mktemp("state")
            state.chmod(0o700)
            source_server.start("--skip-networking=0", f"--port={port}", "--bind-address=127.0.0.1", "--server-id=2")
            source_server.execute(
                "CREATE USER looker@'127.0.0.1' IDENTIFIED BY 'looks'",
                "GRANT BINLOG MONITOR, REPLICATION SLAVE ON *.* TO looker@'127.0.0.1'",
                "CREATE USER repl@'127.0.0.1' IDENTIFIED BY 'x'",
                "GRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1'",
                "RESET MASTER",
            )
            source_server.fill()
            result = Pair(source_server, replica, port, state)
            replica.start(*result.extra)
            replica.execute(
                f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='repl',"
                " MASTER_PASSWORD='x', MASTER_LOG_FILE='bin.000001', MASTER_LOG_POS=4, MASTER_USE_GTID=no",
                "START SLAVE",
            )
            result.wait(lambda: result.status()["Exec_Master_Log_Pos"] > 1000)
            yield result
        finally:
            replica.close()
            source_server.close()


@needs_server
def test_one_that_is_down_is_read_refused_and_healed(pair: Pair) -> None:
    pair.lose()
    said = _reposition.reposition(pair.request(), apply=False)
    (channel,) = said["channels"]
    assert (said["server"], said["changed"], channel["needed"], channel["source_has_it"]) == ("down", True, True, True)
    assert said["start_options"] == ["--skip-slave_start"] and not pair.up()
    with pytest.raises(RefusedError, match="was not asked"):
        _reposition.reposition(pair.request(source_login=None), apply=True)
    with pytest.raises(RefusedError, match="cannot be asked") as wrong:
        _reposition.reposition(pair.request(source_login=Login(user="looker", password="no")), apply=True)
    assert wrong.value.server_state == "not running, untouched" and wrong.value.next_command
    with pytest.raises(RefusedError, match="There is no channel 'y'"):
        _reposition.reposition(pair.request(names=("y",)), apply=True)
    place = {"name": "", "source_log_file": channel["source_log_file"], "source_log_pos": channel["source_log_pos"]}
    recorded = _reposition.reposition(pair.request(manifest_channels=(place,)), apply=False)["channels"][0]
    assert recorded["origin"] == "the backup's manifest" and recorded["statements"] == channel["statements"]
    with pytest.raises(RefusedError, match="The manifest knows no the default channel") as unknown:
        _reposition.reposition(pair.request(manifest_channels=({"name": "y"},)), apply=True)
    assert unknown.value.server_state == "not running, untouched" and unknown.value.next_command
    info = pair.replica.datadir / "relay-log.info"
    content = info.read_bytes()
    info.write_bytes(b"5\n./relay.000001\nmany\n")
    with pytest.raises(RefusedError, match="line 3, is not as a server writes it"):
        _reposition.reposition(pair.request(), apply=True)
    info.write_bytes(content)
    with pytest.raises(ReplicaBackupError, match="Cannot log in"):
        _reposition.reposition(pair.request(if_down=None), apply=True)
    assert not pair.up()
    quiet = replace(t.cast(IfDown, pair.request().if_down), ask_login=False)
    healed = _reposition.reposition(pair.request(if_down=quiet), apply=True)
    assert healed["server"] == "started" and healed["channels"][0]["statements"] == channel["statements"]
    assert {Path(path).name for path in healed["saved"]} >= {"master.info", "relay-log.info"}
    pair.wait(lambda: pair.rows(pair.replica) == pair.rows(pair.source))
    again = _reposition.reposition(pair.request(), apply=True)
    assert (again["server"], again["changed"]) == ("running", False)


@needs_server
def test_one_whose_place_has_to_be_asked_is_put_down_again(pair: Pair) -> None:
    """No file of a channel on disk: the server is started without replication, has none either, and is stopped."""
    pair.stop()
    kept = {path: path.read_bytes() for path in pair.replica.datadir.glob("*.info")}
    owner = (pair.replica.datadir / "ibdata1").stat()
    for path in kept:
        path.unlink()
    try:
        with pytest.raises(RefusedError, match="is not on disk") as unread:
            _reposition.reposition(pair.request(), apply=False)
        assert "replica_reposition_start=true" in str(unread.value.next_command)
        with pytest.raises(RefusedError, match="could not be asked"):
            _reposition.reposition(pair.request(source_login=None), apply=True)
        start = replace(t.cast(IfDown, pair.request().if_down), start=True)
        with pytest.raises(RefusedError, match="has no replication channel") as none:
            _reposition.reposition(pair.request(if_down=start), apply=False)
        assert none.value.server_state == "not running, as before" and not pair.up()
    finally:
        for path in pair.replica.datadir.glob("*.info"):
            path.unlink()
        for path, content in kept.items():
            path.write_bytes(content)
            os.chown(path, owner.st_uid, owner.st_gid)
        pair.replica.start(*pair.extra)


@needs_server
def test_one_that_does_not_come_up(pair: Pair) -> None:
    pair.lose()
    broken = f"{pair.command} --innodb-page-size=8k"
    down = replace(t.cast(IfDown, pair.request().if_down), service_name=broken, start_timeout=20)
    with pytest.raises(ReplicaBackupError, match="does not come up without replication") as failed:
        _reposition.reposition(pair.request(if_down=down), apply=True)
    assert "page" in str(failed.value.found).lower() and not pair.up()
    _reposition.reposition(pair.request(), apply=True)
    pair.wait(lambda: pair.rows(pair.replica) == pair.rows(pair.source))


@needs_server
def test_what_the_source_says(pair: Pair) -> None:
    pair.source.execute("FLUSH LOGS")
    pair.source.fill()
    with connect(pair.login(pair.source)) as session:
        logs = [(str(row["Log_name"]), int(row["File_size"])) for row in session.query("SHOW BINARY LOGS")]
        state = str(session.scalar("SELECT @@GLOBAL.gtid_binlog_pos"))
    channel = channel_from_row({"source_host": "127.0.0.1", "source_server_id": 2})
    seen = Replica(MARIADB, {}, (channel,), state, {}, {})
    (first, size), (newest, end) = logs[0], logs[-1]

    def ask(log: str, pos: int, gtid: str = "", replica: Replica = seen) -> source.SourceView:
        with connect(Login(user="looker", password="looks", host="127.0.0.1", port=pair.port)) as session:
            return source.ask_source(session, replica, channel, Coordinates(log, pos, gtid, "test"))

    assert ask(newest, end).has is True
    has = ask(first, size)
    assert has.has is True and has.keeps is not None and has.keeps.log == first and has.keeps.last_written
    assert "no longer has bin.000099" in ask("bin.000099", 4).reason
    assert "rebuilt or restored" in ask(newest, end + 1).reason
    assert "no event begins at" in ask(first, size - 1).reason
    assert ask(newest, end, "slave_pos").has is True
    lost = ask(newest, end, "slave_pos", replace(seen, gtid_state="0-2-99999"))
    assert lost.has is False and "up to" in lost.reason
    unknown = ask(newest, end, "slave_pos", replace(seen, gtid_state=None))
    assert unknown.has is None and unknown.asked and "shows once this server runs" in unknown.reason
    with connect(pair.login(pair.source)) as session:
        other = replace(channel, source_server_id=9)
        assert "another server" in source.ask_source(session, seen, other, Coordinates(first, 4, "", "")).reason
