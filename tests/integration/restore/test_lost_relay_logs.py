# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Relay logs that are really lost, on real servers: healed with nothing lost or applied twice, or refused untouched."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
import typing as t
import uuid
from collections.abc import Iterator
from datetime import datetime

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _reposition
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import (
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    LabError,
    Topology,
)
from ansible_collections.mysql_ops.replica_backup.tests.lab.lost_logs import KINDS, Case, prepare
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import run_playbook
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest) -> Iterator[Case]:
    root = CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8]
    kind = KINDS[request.param]
    with Topology(root, replicas=1, flavor=kind.flavor(), settings=kind.settings) as topology:
        case = Case(topology, kind)
        if kind.change:
            for statement in ("STOP SLAVE", kind.change, "START SLAVE"):
                topology.replicas[0].query(statement)
        prepare(case)
        yield case


@pytest.fixture
def case(shared: Case) -> Iterator[Case]:
    """Every test ends with both threads running and the rows of the source."""
    yield shared
    shared.write(3)
    shared.in_step()
    assert (shared.status()["Slave_IO_Running"], shared.status()["Slave_SQL_Running"]) == ("Yes", "Yes")


# What does not depend on how the replica finds its place is tried on one server of each family.
few = pytest.mark.parametrize("shared", ["mariadb-position", "mysql56-file"], indirect=True)


def heal(case: Case, **changes: t.Any) -> dict[str, t.Any]:
    planned = _reposition.reposition(case.request(**changes), apply=False)
    before = case.status()
    result = _reposition.reposition(case.request(**changes), apply=True)
    assert before["Slave_SQL_Running"] == "No"
    for one, other in zip(planned["channels"], result["channels"]):
        assert one["statements"] == other["statements"]
    return result


def test_lost_relay_logs_are_read_again(case: Case, tmp_path: t.Any) -> None:
    case.lose_relay_logs()
    stood = case.status()
    with pytest.raises(Exception, match=r"1201|1872"):
        case.replica.query("START SLAVE")
    saved = tmp_path / "saved"
    result = heal(case, save_to=str(saved))
    (channel,) = result["channels"]
    assert channel["needed"] and channel["source_has_it"] is True
    assert channel["source_keeps"]["log"] == stood["Relay_Master_Log_File"]
    assert (channel["source_log_file"], channel["source_log_pos"]) == (
        stood["Relay_Master_Log_File"],
        stood["Exec_Master_Log_Pos"],
    )
    case.in_step()
    column, mode = case.kind.mode
    assert case.status().get(column, 0) == mode
    kept = {os.path.basename(path) for path in result["saved"]}
    table = getattr(case.topology.flavor, "repositories", "FILE") == "TABLE"
    assert kept >= (set() if table else {"master.info", "relay-log.info"})
    for path in result["saved"]:
        assert oct(os.stat(path).st_mode)[-3:] == "600"
    again = _reposition.reposition(case.request(), apply=True)
    assert (again["changed"], again["channels"][0]["needed"]) == (False, False)


@few
def test_a_delay_stays(case: Case) -> None:
    case.replica.query("STOP SLAVE")
    case.replica.query("CHANGE MASTER TO MASTER_DELAY = 1")
    case.replica.query("START SLAVE")
    case.lose_relay_logs()
    heal(case)
    assert case.status()["SQL_Delay"] == 1
    case.replica.query("STOP SLAVE")
    case.replica.query("CHANGE MASTER TO MASTER_DELAY = 0")
    case.replica.query("START SLAVE")


@few
def test_a_relay_log_that_was_cut(case: Case) -> None:
    case.lose_relay_logs()
    status = case.status()
    path = case.replica.relay_log_directory / status["Relay_Log_File"]
    path.write_bytes(b"\xfebin")
    shutil.chown(path, path.parent.owner(), path.parent.group())
    (channel,) = _reposition.reposition(case.request(), apply=False)["channels"]
    assert channel["needed"]
    heal(case)


@few
def test_well_relay_logs_are_left_alone(case: Case) -> None:
    before = case.status()
    result = _reposition.reposition(case.request(), apply=True)
    assert (result["changed"], result["channels"][0]["statements"]) == (False, [])
    assert case.status()["Relay_Log_File"] == before["Relay_Log_File"]


def untouched(case: Case, before: dict[str, t.Any]) -> None:
    names = ("Relay_Master_Log_File", "Exec_Master_Log_Pos", "Relay_Log_File", "Relay_Log_Pos", "Master_Log_File")
    after = case.status()
    assert {name: after[name] for name in names} == {name: before[name] for name in names}


@few
def test_without_a_login_for_the_source_nothing_runs(case: Case) -> None:
    case.lose_relay_logs()
    before = case.status()
    planned = _reposition.reposition(case.request(source_login=None), apply=False)["channels"][0]
    assert planned["source_has_it"] is None and planned["statements"]
    with pytest.raises(RefusedError, match="replica_reposition_source_login_user"):
        _reposition.reposition(case.request(source_login=None), apply=True)
    untouched(case, before)
    heal(case)


@few
def test_a_source_that_cannot_be_asked(case: Case) -> None:
    case.lose_relay_logs()
    before = case.status()
    wrong = Login(user="looker", password="wrong", config_file=None)
    with pytest.raises(RefusedError, match="cannot be asked"):
        _reposition.reposition(case.request(source_login=wrong), apply=True)
    untouched(case, before)
    heal(case)


@few
def test_a_position_that_is_none(case: Case) -> None:
    """As after the source was rebuilt under the same name, with logs of the same names."""
    case.lose_relay_logs()
    before = case.status()
    false = ({"name": "", "source_log_file": before["Relay_Master_Log_File"],
              "source_log_pos": before["Exec_Master_Log_Pos"] - 1},)  # fmt: skip
    with pytest.raises(RefusedError, match="no event begins at"):
        _reposition.reposition(case.request(manifest_channels=false), apply=True)
    # With a place that the source knows, but not the one of this server.
    earlier = ({**false[0], "source_log_pos": 4},)
    with pytest.raises(RefusedError, match="the server's own place is"):
        _reposition.reposition(case.request(manifest_channels=earlier), apply=True)
    gone = ({"name": "", "source_log_file": "binlog.999999", "source_log_pos": 4},)
    with pytest.raises(RefusedError, match=r"no longer has binlog\.999999"):
        _reposition.reposition(case.request(manifest_channels=gone), apply=True)
    with pytest.raises(RefusedError, match="knows no the default channel"):
        _reposition.reposition(case.request(manifest_channels=()), apply=True)
    with pytest.raises(RefusedError, match="There is no channel 'x'"):
        _reposition.reposition(case.request(names=("x",)), apply=True)
    untouched(case, before)
    heal(case)


@few
def test_the_source_says_how_long(case: Case) -> None:
    """The bound has to be true: it is compared with what the purge itself goes by, the time of the file."""
    case.lose_relay_logs()
    log = case.status()["Relay_Master_Log_File"]
    case.source.query("FLUSH LOGS")
    case.source.query("FLUSH LOGS")
    case.source.query("SET GLOBAL expire_logs_days = 3")
    before = time.time()
    keeps = heal(case)["channels"][0]["source_keeps"]
    written = os.stat(case.source.binlog_directory / log).st_mtime
    case.source.query("SET GLOBAL expire_logs_days = 0")
    assert keeps["log"] == log and keeps["bytes_left"] is None
    assert written - 1 <= moment(keeps["last_written"]) <= written + 1
    assert written + 3 * 86400 - time.time() - 2 <= keeps["seconds"] <= written + 3 * 86400 - before + 1
    assert "PURGE BINARY LOGS by hand" in keeps["text"]


def moment(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()


@few
def test_a_server_without_a_channel(shared: Case) -> None:
    request = dataclasses.replace(
        shared.request(), login=Login(user="root", unix_socket=str(shared.source.socket), config_file=None)
    )
    with pytest.raises(RefusedError, match="has no replication channel"):
        _reposition.reposition(request, apply=True)


@few
def test_a_statement_that_fails_loses_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinates are gone from the server after RESET: the error must have them, and they must work."""
    case.lose_relay_logs()
    stood = case.status()
    from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect

    with monkeypatch.context() as broken:
        broken.setattr(Dialect, "_change", lambda self, channel, words, delay: ("CHANGE MASTER TO NONSENSE = 1", ()))
        with pytest.raises(ReplicaBackupError, match="could not be set on its way again") as caught:
            _reposition.reposition(case.request(), apply=True)
    coordinates = caught.value.facts["coordinates"]
    assert coordinates.endswith(f"{stood['Relay_Master_Log_File']}:{stood['Exec_Master_Log_Pos']}")
    assert caught.value.next_command is not None and "START SLAVE" in caught.value.next_command
    mode_then = {"using": stood.get("Using_Gtid", ""), "auto_position": str(stood.get("Auto_Position", 0))}
    recorded = ({"name": "", "source_log_file": stood["Relay_Master_Log_File"],
                 "source_log_pos": stood["Exec_Master_Log_Pos"],
                 "gtid": mode_then},)  # fmt: skip
    heal(case, manifest_channels=recorded, force=True)
    column, mode = case.kind.mode
    assert case.status().get(column, 0) == mode


def test_a_source_that_purged_what_is_needed(shared: Case) -> None:
    """Last of its module: the replica cannot be healed any more, which is what the refusal says."""
    case = shared
    case.lose_relay_logs()
    before = case.status()
    case.source.query("FLUSH LOGS")
    case.write(2)
    case.source.query("FLUSH LOGS")
    newest = case.source.query("SHOW BINARY LOGS")[-1]["Log_name"]
    case.source.query("PURGE BINARY LOGS TO %s", (newest,))
    why = r"oldest log begins behind|has purged transactions" if case.by_gtid else "no longer has"
    with pytest.raises(RefusedError, match=why) as caught:
        _reposition.reposition(case.request(), apply=True)
    assert "restore a newer backup" in str(caught.value.next_command)
    untouched(case, before)
    if case.by_gtid and before.get("Master_UUID"):
        # The same server_uuid, with less than the replica has of it: as one that was restored from a backup.
        case.source.query("RESET MASTER")
        case.write(1)
        with pytest.raises(RefusedError, match="it was restored or set back"):
            _reposition.reposition(case.request(), apply=True)
        untouched(case, before)


def test_a_named_connection_of_mariadb_is_healed_by_the_server_alone(tmp_path: t.Any) -> None:
    """Without its relay logs the server does not start at all; relay_log_recovery brings it up healed."""
    root = CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8]
    with Topology(root, replicas=1) as topology:
        case = Case(topology, KINDS["mariadb-position"])
        replica = case.replica
        replica.query("STOP SLAVE")
        replica.query("RESET SLAVE ALL")
        replica.query(
            "CHANGE MASTER 'the other' TO MASTER_HOST = '127.0.0.1', MASTER_PORT = %s, MASTER_USER = %s,"
            " MASTER_PASSWORD = %s, MASTER_USE_GTID = slave_pos",
            (case.source.port, REPLICATION_USER, REPLICATION_PASSWORD),
        )
        replica.query("START ALL SLAVES")
        for statement in ("CREATE DATABASE d", "CREATE TABLE d.t (a INT PRIMARY KEY AUTO_INCREMENT)",
                          "CREATE TABLE d.sum (n INT NOT NULL)", "INSERT INTO d.sum VALUES (0)"):  # fmt: skip
            case.source.query(statement)
        case.write(3)
        topology.wait_caught_up()
        replica.stop()
        for path in replica.relay_log_directory.glob("relaylog*"):
            path.unlink()
        with pytest.raises(LabError, match="Failed to initialize multi master structures"):
            replica.start("--skip-slave-start")
        replica.start("--relay-log-recovery=ON")
        request = case.request(source_login=None)
        result = _reposition.reposition(request, apply=True)
        assert [(c["name"], c["needed"]) for c in result["channels"]] == [("the other", False)]
        case.write(3)
        case.in_step()


def test_the_playbook_says_and_then_heals(make_fleet: t.Callable[..., Fleet]) -> None:
    fleet = make_fleet(replicas=1)
    case = Case(fleet.topology, KINDS["mariadb-gtid"])
    prepare(case)
    case.write(3)
    fleet.topology.wait_caught_up()
    inventory = fleet.inventory(
        replica_reposition_login_user="root",
        replica_reposition_config_file="",
        replica_reposition_login_unix_socket=str(case.replica.socket),
        replica_reposition_source_login_user="looker",
        replica_reposition_source_login_password="looks",
    )
    well = run_playbook("reposition", inventory)
    assert well.status == 0, well.output
    assert "its relay logs are there" in well.output
    case.lose_relay_logs()
    said = run_playbook("reposition", inventory)
    assert said.status == 0, said.output
    assert "CHANGE MASTER '' TO MASTER_USE_GTID = slave_pos;" in said.output
    assert case.status()["Slave_SQL_Running"] == "No"
    checked = run_playbook("reposition", inventory, "--check", extra_vars={"replica_reposition_execute": "true"})
    assert checked.status == 0 and "changed=1" in checked.output, checked.output
    assert case.status()["Slave_SQL_Running"] == "No"
    healed = run_playbook("reposition", inventory, extra_vars={"replica_reposition_execute": "true"})
    assert healed.status == 0 and "changed=1" in healed.output, healed.output
    assert "no statement was run" in said.output and "the statements were run" in healed.output
    # Lock and journal are those of the backup, so that an unfinished restore of this server is noticed.
    assert list((fleet.root / "state" / "replica1").glob("reposition-*/master.info"))
    case.in_step()
    nobody = run_playbook("reposition", inventory, extra_vars={"replica_reposition_hosts": "nobody_here"})
    assert nobody.status != 0 and "Nobody to reposition. replica_reposition_hosts" in nobody.output
    backed_up = run_playbook("backup", inventory)
    assert backed_up.status == 0, backed_up.output
    (found,) = fleet.set_directories(case.replica)
    # It has not gone on since, is down, and nothing on it says where it stood.
    case.replica.query("STOP SLAVE")
    case.write(3)
    case.replica.stop()
    for path in (*case.replica.relay_log_directory.glob("relaylog*"), *case.replica.datadir.glob("relay-log.info")):
        path.unlink()
    again = run_playbook(
        "reposition",
        inventory,
        extra_vars={
            "replica_reposition_execute": "true",
            "replica_reposition_manifest": str(found / "manifest.json"),
            "replica_reposition_service_manager": "none",
            "replica_reposition_defaults_file": str(case.replica.config),
            "replica_reposition_server_binary": str(fleet.topology.flavor.server),
        },
    )
    assert again.status == 0 and "the backup's manifest" in again.output, again.output
    case.in_step()
    assert not list((CHECKOUT / ".cache" / "ansible" / "remote").glob("**/*.reposition"))
    for run in (well, said, checked, healed, again):
        assert "looks" not in run.output
