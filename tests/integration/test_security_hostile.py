# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and values that somebody chose with care become neither shell, nor SQL, nor a path to somewhere else."""

from __future__ import annotations

import json
import typing as t
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.tests.integration.test_role_refuses import needs_root
from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import run_playbook
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

MakeFleet = Callable[..., Fleet]
# Ends a text in every language there is, and would leave a mark if it were executed.
MARK = "executed-by-mistake"


def poison(fleet: Fleet) -> str:
    touch = f"touch {fleet.root}/{MARK}"
    return f"x'\"`; {touch}; $({touch}) {{{{ lookup('pipe', '{touch}') }}}} \\"


def test_values_of_the_inventory(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """One host for each of them; all are asked at once, and every one of them is refused."""
    fleet = make_fleet(replicas=1)
    (replica,) = fleet.replicas
    bad = poison(fleet)
    # As a fact of the inventory, not as a template: what Ansible would evaluate is the author's own.
    raw = {"__ansible_unsafe": bad}
    variables: dict[str, dict[str, t.Any]] = {
        "../../outside": {},
        "-rf": {},
        "service": {"replica_backup_service_manager": "systemd", "replica_backup_service_name": raw},
        "socket": {"replica_backup_login_unix_socket": raw},
        "password": {"replica_backup_login_user": "nobody_here", "replica_backup_login_password": raw},
        "id": {"replica_backup_id": raw},
        "state": {"replica_backup_state_dir": raw},
        "spool": {"replica_backup_spool_dir": raw},
    }
    inventory = fleet.inventory(replica)
    content = json.loads(inventory.read_text())
    (group,) = content["all"]["children"].values()
    own = group["hosts"].pop(replica.name)
    for number, (name, more) in enumerate(variables.items()):
        own_state = {"replica_backup_state_dir": f"{fleet.root}/state/h{number}"}
        group["hosts"][name] = {**own, **own_state, "replica_backup_spool_dir": f"{fleet.root}/spool/h{number}", **more}
    inventory.write_text(json.dumps(content))
    before = replica.pids()

    # With --check, because it is quicker: whatever was refused there is not run.
    run = run_playbook("backup", inventory, "--check", extra_vars={"replica_backup_serial": "100%"})

    assert run.status != 0
    assert not (fleet.root / MARK).exists(), run.output
    assert not list(fleet.topology.root.rglob(MARK))
    assert not list(tmp_path.rglob(MARK))
    assert replica.pids() == before, run.output
    assert not list(fleet.backups.rglob("manifest.json"))
    # Nobody got beyond the checks, and every host is told so.
    assert run.output.count("failed=1") == len(variables), run.output
    assert "backup usable: yes" not in run.output
    assert not (fleet.root.parent / "outside").exists()
    assert not (fleet.topology.root / "outside").exists()


def test_names_of_a_connection_and_of_databases(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """Names that servers take, and that are quoted wherever they are said again."""
    fleet = make_fleet(replicas=1)
    (replica,) = fleet.replicas
    name = "x'; SET GLOBAL read_only = 0; -- \"`\\$(id)"
    database = "d`; DROP DATABASE mysql; -- $(id) \"'"
    quoted = "`" + database.replace("`", "``") + "`"
    fleet.source.query(f"CREATE DATABASE {quoted}")
    fleet.source.query(f"CREATE TABLE {quoted}.`t;$(id)` (a INT PRIMARY KEY)")
    fleet.topology.wait_caught_up()
    replica.query("STOP SLAVE")
    gtid = replica.query("SELECT @@GLOBAL.gtid_slave_pos AS g")[0]["g"]
    replica.query("RESET SLAVE ALL")
    replica.query(
        "CHANGE MASTER %s TO MASTER_HOST = '127.0.0.1', MASTER_PORT = %s, MASTER_USER = 'repl',"
        " MASTER_PASSWORD = 'not-secret', MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1",
        (name, fleet.source.port),
    )
    assert replica.query("SELECT @@GLOBAL.gtid_slave_pos AS g")[0]["g"] == gtid
    replica.query("SET @@SESSION.default_master_connection = ''")
    replica.query("START SLAVE %s", (name,))
    fleet.topology.wait_caught_up()
    window = Window(replica, tmp_path / "window")
    window.root.mkdir(mode=0o700)
    window.stop()
    manifest = window.archive()
    window.start()
    assert [channel["name"] for channel in manifest["channels"]] == [name]
    (row,) = replica.query("SHOW ALL SLAVES STATUS")
    assert (row["Connection_name"], row["Slave_IO_Running"], row["Slave_SQL_Running"]) == (name, "Yes", "Yes")
    assert str(replica.query("SELECT @@GLOBAL.read_only AS r")[0]["r"]) == "1"
    assert not fleet.topology.differences()


@needs_root
def test_directories_that_somebody_else_may_exchange(fleet: Fleet, tmp_path: Path) -> None:
    """The account of the server owns its own directories: neither ledger nor spool may lie in one of them."""
    replica = fleet.replicas[0]
    before = replica.pids()
    inside = replica.directory / "ours"
    inside.mkdir(mode=0o700)
    try:
        for changes in ({"root": inside}, {"root": replica.directory}):
            window = Window(replica, changes["root"])
            for check in (True, False):
                with pytest.raises(RefusedError, match="its owner, user") as refused:
                    window.stop(check=check)
                assert refused.value.facts["rule"] == "exposed_directory"
        assert replica.pids() == before
    finally:
        for path in (inside / "state", replica.directory / "state"):
            if path.exists():
                (path / "lock").unlink(missing_ok=True)
                path.rmdir()
        inside.rmdir()


@needs_root
@pytest.mark.parametrize("planted", ["d/stolen.MYD", "evil", "d/stolen.isl"])
def test_links_that_the_owner_of_the_data_directory_plants(fleet: Fleet, tmp_path: Path, planted: str) -> None:
    replica = fleet.replicas[0]
    before = replica.pids()
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    (secret / "shadow").write_text("root's own")
    (secret / "shadow").chmod(0o600)
    (replica.datadir / "d").mkdir(exist_ok=True)
    link = replica.datadir / planted
    if planted.endswith(".isl"):
        link.write_text(str(secret / "shadow"))
    else:
        link.symlink_to(secret if planted == "evil" else secret / "shadow")
    window = Window(replica, tmp_path / "window")
    window.root.mkdir(mode=0o700)
    try:
        with pytest.raises(RefusedError, match="none of this server's files") as refused:
            window.stop()
        assert refused.value.facts == {"file": str(secret / "shadow"), "rule": "foreign_file"}
        assert replica.pids() == before
    finally:
        link.unlink()
        (replica.datadir / "d").rmdir()
