# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Relay logs that are lost while the server is down: read from its files, or started without replication."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import time
import typing as t
import uuid
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _reposition
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._reposition import IfDown
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import (
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    LabError,
    Topology,
)
from ansible_collections.mysql_ops.replica_backup.tests.lab.lost_logs import KINDS, Case, prepare
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT


@pytest.fixture(scope="module", params=["mariadb-position", "mariadb-gtid", "mysql56-file", "mysql56-table"])
def shared(request: pytest.FixtureRequest) -> Iterator[Case]:
    root = CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8]
    kind = KINDS[request.param]
    settings = {**kind.settings, "slave_parallel_workers": "2"} if "mysql56" in request.param else kind.settings
    with Topology(root, replicas=1, flavor=kind.flavor(), settings=settings) as topology:
        case = Case(topology, kind)
        if kind.change:
            for statement in ("STOP SLAVE", kind.change, "START SLAVE"):
                topology.replicas[0].query(statement)
        prepare(case)
        yield case


@pytest.fixture
def case(shared: Case, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """Every test ends with both threads running and the rows of the source."""
    for name, value in shared.topology.flavor.environment.items():
        monkeypatch.setenv(name, value)
    yield shared
    shared.write(3)
    shared.in_step()
    assert (shared.status()["Slave_IO_Running"], shared.status()["Slave_SQL_Running"]) == ("Yes", "Yes")


def only(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("shared", names, indirect=True)


def request_of(case: Case, tmp_path: Path, *, start: bool = False, **changes: t.Any) -> _reposition.Request:
    replica = case.replica
    wanted = IfDown(
        hints=Hints(defaults_file=str(replica.config), server_binary=str(case.topology.flavor.server)),
        service_manager="none",
        state_dir=str(tmp_path / "state"),
        start=start,
        start_timeout=30,
    )
    (tmp_path / "state").mkdir(mode=0o700, exist_ok=True)
    return dataclasses.replace(case.request(if_down=wanted), **changes)


def files(case: Case) -> dict[str, bytes]:
    """Everything that tells where the replica stands, and the names of its relay logs."""
    paths = sorted(case.replica.datadir.glob("*.info*")) + sorted(case.replica.datadir.glob("relaylog*"))
    return {path.name: path.read_bytes() if path.is_file() else b"" for path in paths}


def stands(case: Case) -> tuple[str, int]:
    row = case.status()
    return row["Relay_Master_Log_File"], row["Exec_Master_Log_Pos"]


@only("mariadb-position", "mariadb-gtid", "mysql56-file")
def test_read_from_its_files_and_healed(case: Case, tmp_path: Path) -> None:
    place, before = go_down(case)
    said = _reposition.reposition(request_of(case, tmp_path), apply=False)
    assert not case.replica.is_running() and files(case) == before
    (channel,) = said["channels"]
    assert (said["server"], said["changed"], channel["needed"]) == ("down", True, True)
    assert (channel["source_log_file"], channel["source_log_pos"]) == place
    assert channel["origin"] == "relay-log.info of the server that is down"
    assert channel["source_has_it"] is (None if case.by_gtid else True), channel
    assert channel["source_keeps"]["log"] == place[0]
    assert said["start_options"] == ["--skip-slave_start"]
    healed = _reposition.reposition(request_of(case, tmp_path), apply=True)
    assert healed["server"] == "started"
    assert [one["statements"] for one in healed["channels"]] == [channel["statements"]]
    case.in_step()
    column, mode = case.kind.mode
    assert case.status().get(column, 0) == mode
    again = _reposition.reposition(request_of(case, tmp_path), apply=True)
    assert (again["server"], again["changed"]) == ("running", False)


def go_down(case: Case) -> tuple[tuple[str, int], dict[str, bytes]]:
    case.replica.query("STOP SLAVE SQL_THREAD")
    place = stands(case)
    case.go_down()
    assert not case.replica.is_running()
    return place, files(case)


@only("mysql56-table")
def test_tables_are_read_by_a_server_without_replication(case: Case, tmp_path: Path) -> None:
    place, before = go_down(case)
    with pytest.raises(RefusedError, match="only a running server reads tables") as refused:
        _reposition.reposition(request_of(case, tmp_path), apply=False)
    assert "replica_reposition_start=true" in str(refused.value.next_command)
    said = _reposition.reposition(request_of(case, tmp_path, start=True), apply=False)
    assert not case.replica.is_running()
    (channel,) = said["channels"]
    assert (said["server"], channel["needed"], channel["source_has_it"]) == ("down", True, True)
    assert (channel["source_log_file"], channel["source_log_pos"]) == place
    assert files(case) == before
    # Read once more: the first start has moved nothing.
    again = _reposition.reposition(request_of(case, tmp_path, start=True), apply=False)
    assert again["channels"][0]["source_log_pos"] == place[1] and not case.replica.is_running()
    healed = _reposition.reposition(request_of(case, tmp_path), apply=True)
    assert healed["server"] == "started"
    assert healed["channels"][0]["statements"] == channel["statements"]
    case.in_step()


@only("mysql56-table")
def test_tables_and_the_manifest_of_the_backup(case: Case, tmp_path: Path) -> None:
    """The manual's case: what the backup recorded says all that is needed, and nothing has to be started for it."""
    place, _before = go_down(case)
    recorded = (
        {
            "name": "",
            "source_host": "127.0.0.1",
            "source_port": case.source.port,
            "source_log_file": place[0],
            "source_log_pos": place[1],
            "relay_log_file": "relaylog.000002",
            "relay_log_pos": 4,
            "gtid": {"auto_position": "0"},
            "delay": 0,
        },
    )
    said = _reposition.reposition(request_of(case, tmp_path, manifest_channels=recorded), apply=False)
    assert not case.replica.is_running()
    (channel,) = said["channels"]
    assert (channel["origin"], channel["source_has_it"]) == ("the backup's manifest", True)
    gone = ({**recorded[0], "source_log_file": "binlog.999999"},)
    with pytest.raises(RefusedError, match=r"no longer has binlog\.999999") as refused:
        _reposition.reposition(request_of(case, tmp_path, manifest_channels=gone), apply=True)
    assert refused.value.server_state == "not running, untouched" and not case.replica.is_running()
    healed = _reposition.reposition(request_of(case, tmp_path, manifest_channels=recorded), apply=True)
    assert healed["channels"][0]["statements"] == channel["statements"]
    case.in_step()


@only("mariadb-position", "mysql56-file")
def test_the_file_of_the_applier_is_lost(case: Case, tmp_path: Path) -> None:
    """The server would go on from what it had downloaded, and leave out the rest."""
    place, _before = go_down(case)
    (case.replica.datadir / "relay-log.info").unlink()
    before = files(case)
    with pytest.raises(RefusedError, match=r"relay-log\.info, which says where it stood, is not there") as refused:
        _reposition.reposition(request_of(case, tmp_path), apply=True)
    assert "replica_reposition_manifest" in str(refused.value.next_command)
    assert not case.replica.is_running() and files(case) == before
    recorded = ({"name": "", "source_log_file": place[0], "source_log_pos": place[1], "delay": 1},)
    healed = _reposition.reposition(request_of(case, tmp_path, manifest_channels=recorded), apply=True)
    assert case.status()["SQL_Delay"] == 1
    for statement in ("STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY = 0", "START SLAVE"):
        case.replica.query(statement)
    assert (healed["channels"][0]["source_log_file"], healed["channels"][0]["source_log_pos"]) == place
    case.in_step()


@only("mysql56-file")
def test_a_killed_server_that_writes_files_is_in_doubt(case: Case, tmp_path: Path) -> None:
    case.write()
    case.topology.wait_caught_up()
    killed(case)
    for path in case.replica.relay_log_directory.glob("relaylog*"):
        path.unlink()
    before = files(case)
    with pytest.raises(RefusedError, match="was not stopped cleanly") as refused:
        _reposition.reposition(request_of(case, tmp_path), apply=True)
    assert "trust_coordinates" in str(refused.value.next_command)
    assert not case.replica.is_running() and files(case) == before
    # The test knows better: it was killed at rest, and every worker's file is written.
    _reposition.reposition(request_of(case, tmp_path, trust=True), apply=True)


@only("mariadb-position", "mysql56-file", "mysql56-table")
def test_what_is_refused_leaves_it_down(case: Case, tmp_path: Path) -> None:
    _place, before = go_down(case)
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    changes: dict[str, dict[str, t.Any]] = {
        r"source (was not|could not be) asked": {"source_login": None},
        "cannot be asked": {"source_login": Login(user="looker", password="wrong", config_file=None)},
        "There is no channel 'x'": {"names": ("x",)},
    }
    for why, change in changes.items():
        with pytest.raises(RefusedError, match=why) as refused:
            _reposition.reposition(request_of(case, tmp_path, **change), apply=True)
        assert "not running" in str(refused.value.server_state) and refused.value.next_command, why
        assert not case.replica.is_running()
    (state / "restore.json").write_text(
        '{"format": 1, "restore_id": "r", "set_label": "s", "identity": "same", "head": {}, "target": {}}'
    )
    with pytest.raises(RefusedError, match="is not finished"):
        _reposition.reposition(request_of(case, tmp_path), apply=True)
    (state / "restore.json").unlink()
    assert not case.replica.is_running() and files(case) == before
    _reposition.reposition(request_of(case, tmp_path), apply=True)


@only("mariadb-position")
def test_one_that_is_well_stays_down(case: Case, tmp_path: Path) -> None:
    case.replica.stop()
    before = files(case)
    said = _reposition.reposition(request_of(case, tmp_path), apply=True)
    assert (said["server"], said["changed"], said["channels"][0]["needed"]) == ("down", False, False)
    assert not case.replica.is_running() and files(case) == before
    case.replica.start()


@only("mariadb-position")
def test_one_that_runs_elsewhere(case: Case, tmp_path: Path) -> None:
    """Nobody answers at the login, but a process works on the files."""
    case.topology.wait_caught_up()
    request = request_of(case, tmp_path)
    nowhere = dataclasses.replace(request.login, unix_socket=f"{tmp_path}/none.sock")
    with pytest.raises(RefusedError, match="A server process works on"):
        _reposition.reposition(dataclasses.replace(request, login=nowhere), apply=True)


@only("mysql56-table", "mysql56-file", "mariadb-position")
def test_a_new_first_log_in_the_place_of_the_lost_one(case: Case, tmp_path: Path) -> None:
    """The applier has executed nothing out of its first relay log. A start begins another one of that name, the server
    finds all well, and its receiver goes on behind what was lost."""
    case.replica.query("STOP SLAVE")
    row = case.status()
    case.replica.query("RESET SLAVE")
    gtid = ", MASTER_USE_GTID = no" if case.topology.flavor.family == "mariadb" else ""
    case.replica.query(
        f"CHANGE MASTER TO MASTER_LOG_FILE = %s, MASTER_LOG_POS = %s{gtid}",
        (row["Relay_Master_Log_File"], row["Exec_Master_Log_Pos"]),
    )
    case.replica.query("START SLAVE IO_THREAD")
    case.write(5)
    wait_for(lambda: case.status()["Read_Master_Log_Pos"] > row["Exec_Master_Log_Pos"] + 1000, case.status)
    assert (case.status()["Relay_Log_File"], case.status()["Relay_Log_Pos"]) == ("relaylog.000001", 4)
    case.replica.stop()
    for path in case.replica.relay_log_directory.glob("relaylog*"):
        path.unlink()
    for start in (True, False):
        said = _reposition.reposition(request_of(case, tmp_path, start=start), apply=not start)
        assert said["channels"][0]["needed"], said
    case.in_step()


@only("mysql56-table")
def test_gaps_of_a_parallel_applier(case: Case, tmp_path: Path) -> None:
    """One worker waits for a lock, the other goes on, and the server is killed."""
    case.source.query("CREATE DATABASE IF NOT EXISTS e")
    case.source.query("CREATE TABLE IF NOT EXISTS e.t (a INT)")
    case.topology.wait_caught_up()
    with locked(case, "d.t"):
        place = stands(case)
        case.source.query("INSERT INTO d.t (a) VALUES (NULL)")
        case.source.query("INSERT INTO e.t VALUES (1)")
        wait_for_row(case, "SELECT 1 FROM e.t")
        killed(case)
    relay_logs = move_away(case, tmp_path)
    with pytest.raises(RefusedError, match="1 of the 2 transactions up to there are missing") as refused:
        _reposition.reposition(request_of(case, tmp_path), apply=True)
    assert "UNTIL SQL_AFTER_MTS_GAPS" in str(refused.value.next_command)
    assert not case.replica.is_running()
    # As the refusal says: with the relay logs at hand the server fills the gap itself.
    for path in relay_logs:
        shutil.move(path, str(case.replica.relay_log_directory))
    case.replica.start("--skip-slave-start")
    assert stands(case) == place
    case.replica.query("START SLAVE SQL_THREAD UNTIL SQL_AFTER_MTS_GAPS")
    wait_for(lambda: case.status()["Slave_SQL_Running"] == "No", case.status)
    assert stands(case) != place
    _reposition.reposition(request_of(case, tmp_path, force=True), apply=True)
    case.in_step()


@only("mysql56-table")
def test_workers_ahead_without_a_gap(case: Case, tmp_path: Path) -> None:
    """Killed before the next checkpoint: the channel's own position is behind, and the workers know better."""
    case.topology.wait_caught_up()
    case.replica.query("STOP SLAVE")
    case.replica.query("SET GLOBAL slave_checkpoint_period = 4294967295")
    case.replica.query("START SLAVE")
    own = stands(case)
    before = case.source.query("SELECT COUNT(*) AS n FROM d.t")[0]["n"]
    case.write(5)
    wait_for_row(case, f"SELECT 1 FROM d.t HAVING COUNT(*) = {before + 5}")
    end = case.source.query("SHOW MASTER STATUS")[0]
    killed(case)
    move_away(case, tmp_path)
    said = _reposition.reposition(request_of(case, tmp_path, start=True), apply=False)
    (channel,) = said["channels"]
    assert "its workers" in channel["origin"]
    assert (channel["source_log_file"], channel["source_log_pos"]) == (end["File"], end["Position"]) != own
    _reposition.reposition(request_of(case, tmp_path), apply=True)
    case.in_step()


def killed(case: Case) -> None:
    case.replica.kill()
    case.replica.wait_gone()
    # Its socket is the last that goes.
    wait_for(lambda: not answers(case), case.replica.last_words)


def answers(case: Case) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(case.replica.socket)) == 0


class locked:
    """A session of its own that holds a table of the replica."""

    def __init__(self, case: Case, table: str) -> None:
        self._connection = pymysql.connect(unix_socket=str(case.replica.socket), user="root")
        self._connection.cursor().execute(f"LOCK TABLES {table} READ")

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: object) -> None:
        self._connection.close()


def wait_for(condition: t.Callable[[], object], what: t.Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def wait_for_row(case: Case, query: str) -> None:
    wait_for(lambda: case.replica.query(query), case.status)


def move_away(case: Case, tmp_path: Path) -> list[str]:
    kept = tmp_path / "relay logs"
    kept.mkdir()
    return [str(shutil.move(str(path), str(kept))) for path in case.replica.relay_log_directory.glob("relaylog*")]


@pytest.fixture
def named() -> Iterator[Case]:
    root = CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8]
    with Topology(root, replicas=1) as topology:
        case = Case(topology, KINDS["mariadb-gtid"])
        prepare(case)
        topology.wait_caught_up()
        replica = case.replica
        replica.query("STOP SLAVE")
        replica.query("RESET SLAVE ALL")
        replica.query(
            "CHANGE MASTER 'The Other' TO MASTER_HOST = '127.0.0.1', MASTER_PORT = %s, MASTER_USER = %s,"
            " MASTER_PASSWORD = %s, MASTER_USE_GTID = slave_pos",
            (case.source.port, REPLICATION_USER, REPLICATION_PASSWORD),
        )
        replica.query("START ALL SLAVES")
        yield case


@pytest.mark.parametrize("mode", ["slave_pos", "no"])
def test_named_connections_come_up_by_relay_log_recovery(named: Case, tmp_path: Path, mode: str) -> None:
    case, replica = named, named.replica
    case.write(3)
    case.topology.wait_caught_up()
    replica.query("STOP SLAVE 'The Other'")
    replica.query(f"CHANGE MASTER 'The Other' TO MASTER_USE_GTID = {mode}")
    replica.query("START SLAVE 'The Other'")
    case.write(3)
    case.topology.wait_caught_up()
    replica.query("STOP SLAVE 'The Other' SQL_THREAD")
    row = case.status("The Other")
    place = row["Relay_Master_Log_File"], row["Exec_Master_Log_Pos"]
    case.write(3)
    replica.stop()
    for path in replica.relay_log_directory.glob("relaylog*"):
        path.unlink()
    before = files(case)
    with pytest.raises(LabError, match="Failed to initialize multi master structures"):
        replica.start("--skip-slave-start")
    said = _reposition.reposition(request_of(case, tmp_path), apply=False)
    (channel,) = said["channels"]
    assert (channel["name"], channel["needed"]) == ("The Other", True)
    assert (channel["source_log_file"], channel["source_log_pos"]) == place
    assert said["start_options"] == ["--skip-slave_start", "--relay-log_recovery=On"]
    assert not replica.is_running()
    listed = (replica.datadir / "multi-master.info").read_bytes()
    (replica.datadir / "multi-master.info").write_bytes(b"")
    with pytest.raises(RefusedError, match="the server would start without them"):
        _reposition.reposition(request_of(case, tmp_path), apply=True)
    (replica.datadir / "multi-master.info").write_bytes(listed)
    healed = _reposition.reposition(request_of(case, tmp_path, save_to=f"{tmp_path}/saved"), apply=True)
    assert (healed["server"], [one["name"] for one in healed["replicating"]]) == ("started", ["The Other"])
    assert {Path(path).name for path in healed["saved"]} == {name for name in before if name.endswith(".info")}
    case.write(3)
    case.in_step()
    # The next start is a usual one.
    replica.stop()
    replica.start()
    case.write(3)
    case.in_step()
    assert case.status("The Other")["Using_Gtid"].lower() == mode


def test_a_named_connection_whose_source_purged_is_put_down_again(named: Case, tmp_path: Path) -> None:
    case, replica = named, named.replica
    case.topology.wait_caught_up()
    replica.query("STOP SLAVE 'The Other'")
    case.write(3)
    replica.stop()
    for path in replica.relay_log_directory.glob("relaylog*"):
        path.unlink()
    case.source.query("FLUSH LOGS")
    case.write(1)
    case.source.query("FLUSH LOGS")
    newest = case.source.query("SHOW BINARY LOGS")[-1]["Log_name"]
    case.source.query("PURGE BINARY LOGS TO %s", (newest,))
    with pytest.raises(RefusedError, match="oldest log begins behind") as refused:
        _reposition.reposition(request_of(case, tmp_path), apply=True)
    assert "not running, as before" in str(refused.value.server_state)
    assert not replica.is_running()
