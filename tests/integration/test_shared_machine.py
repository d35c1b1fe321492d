# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two servers of one machine whose state directory is the same by mistake: neither acts on the other's ledger."""

from __future__ import annotations

import json
import typing as t
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._start import StartRequest, start
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._stop import StopRequest, stop
from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import run_playbook, write_inventory
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT


def flat(output: str) -> str:
    """The output without the line breaks and doubled quotes of YAML."""
    return " ".join(output.split()).replace("''", "'")


def inventory(fleet: Fleet, **changes: dict[str, t.Any]) -> Path:
    """An inventory of all replicas, with these variables of single hosts."""
    path = fleet.inventory()
    content = json.loads(path.read_text())
    for name, variables in changes.items():
        content["all"]["children"]["mysql_replicas"]["hosts"][name].update(variables)
    path.write_text(json.dumps(content))
    return path


def login(server: Server) -> Login:
    return Login(user="root", unix_socket=str(server.socket), config_file=None)


@pytest.fixture(scope="module")
def shared(fleet: Fleet) -> Iterator[str]:
    """The state directory of replica1 with a ledger in it: a run stopped replica1, and its controller died."""
    path = inventory(fleet)
    hosts = json.loads(path.read_text())["all"]["children"]["mysql_replicas"]["hosts"]
    state = str(hosts["replica1"]["replica_backup_state_dir"])
    stop(
        StopRequest(
            login=login(fleet.replicas[0]),
            paths=SetPaths(hosts["replica1"]["replica_backup_spool_dir"], "replica1", "20260101T000000Z"),
            state_dir=state,
            run_id="run-1",
            service_manager="none",
        )
    )
    assert not fleet.replicas[0].is_running()
    yield state
    # By its own host, from the inventory that is wrong for the other: what is open can always be finished.
    wrong = inventory(fleet, replica2={"replica_backup_state_dir": state})
    run = run_playbook("recover", wrong, "--limit", "replica1", extra_vars={"replica_backup_take_over": True})
    assert run.status == 0, run.output
    assert _ledger.load(state) is None
    for server in fleet.replicas:
        channel = server.channel()
        assert channel is not None
        assert channel.replicating


def _start(server: Server, state: str, **changes: t.Any) -> dict[str, t.Any]:
    return start(StartRequest(login=login(server), state_dir=state, lock_timeout=2, **changes))


def _stop(server: Server, state: str, spool: Path, *, check: bool) -> dict[str, t.Any]:
    paths = SetPaths(str(spool), server.name, "20260101T000001Z")
    return stop(StopRequest(login=login(server), paths=paths, state_dir=state, run_id="run-2"), check=check)


_CALLS: dict[str, Callable[[Server, str, Path], dict[str, t.Any]]] = {
    "recover": lambda server, state, spool: _start(server, state, host="replica2", recover=True),
    "take over": lambda server, state, spool: _start(server, state, host="replica2", recover=True, take_over=True),
    "start": lambda server, state, spool: _start(server, state, host="replica2"),
    "close": lambda server, state, spool: _start(server, state, host="replica2", run_id="run-2", close=True),
    "check of a recovery": lambda server, state, spool: start(
        StartRequest(login=login(server), state_dir=state, host="replica2", recover=True), check=True
    ),
    "stop": lambda server, state, spool: _stop(server, state, spool, check=False),
    "check of a stop": lambda server, state, spool: _stop(server, state, spool, check=True),
}


def test_a_login_that_leads_to_another_server_is_refused(fleet: Fleet, shared: str) -> None:
    server = fleet.replicas[1]
    pids = server.pids()
    with pytest.raises(RefusedError, match="another server than the one that the login leads to"):
        _start(server, shared, host="replica1", recover=True, take_over=True)
    assert server.pids() == pids
    assert not fleet.replicas[0].is_running()


def test_the_playbooks_leave_the_other_server_alone(fleet: Fleet, shared: str) -> None:
    wrong = inventory(fleet, replica2={"replica_backup_state_dir": shared})
    server = fleet.replicas[1]
    pids = server.pids()
    for playbook in ("backup", "recover"):
        run = run_playbook(playbook, wrong, "--limit", "replica2", extra_vars={"replica_backup_take_over": True})
        assert run.status == 2
        assert "set replica_backup_state_dir of host replica2 to a directory of its own" in flat(run.output)
    assert server.pids() == pids
    assert not fleet.replicas[0].is_running()
    assert not fleet.set_directories(server)


@pytest.fixture(scope="module", params=[True, False], ids=["neighbour up", "neighbour down"])
def neighbour(request: pytest.FixtureRequest, fleet: Fleet, shared: str) -> Iterator[Server]:
    """Give replica2, whose state directory is replica1's: running, or stopped by somebody until the end."""
    server = fleet.replicas[1]
    if not request.param:
        server.stop()
    yield server
    if not request.param:
        server.start()
        fleet.topology.wait_caught_up(server)


@pytest.mark.parametrize("call", _CALLS)
def test_a_module_refuses_the_ledger_of_another_server(
    fleet: Fleet, shared: str, neighbour: Server, tmp_path: Path, call: str
) -> None:
    before = Path(shared, "ledger.json").read_bytes(), neighbour.pids()
    with pytest.raises(RefusedError) as caught:
        _CALLS[call](neighbour, shared, tmp_path)
    assert (Path(shared, "ledger.json").read_bytes(), neighbour.pids()) == before
    assert not fleet.replicas[0].is_running()
    text = str(caught.value)
    assert f"The ledger {shared}/ledger.json is of another server, host replica1" in text
    assert f"set replica_backup_state_dir of host replica2 to a directory of its own, such as {shared}-replica2" in text
    assert "mysql_ops.replica_backup.recover --limit replica1" in text
    assert caught.value.facts["rule"] == "lock"


_AT = {"ansible_connection": "ssh", "ansible_host": "192.0.2.1", "replica_backup_state_dir": "/srv/state"}


@pytest.mark.parametrize(
    ("first", "second", "purpose", "clash"),
    [
        (_AT, _AT, "back up", "on the same machine (192.0.2.1)"),
        (
            _AT,
            {**_AT, "ansible_port": "22", "replica_backup_state_dir": "/srv/./state/"},
            "back up",
            "on the same machine",
        ),
        # What is open in a directory that two servers share must be finished.
        (_AT, _AT, "recover", ""),
        (_AT, {**_AT, "replica_backup_state_dir": "/srv/state2"}, "back up", ""),
        # Another container behind a forwarded port, perhaps.
        (_AT, {**_AT, "ansible_port": 2222}, "back up", ""),
    ],
)
def test_one_state_directory_for_two_servers_of_a_machine(
    tmp_path: Path, first: dict[str, t.Any], second: dict[str, t.Any], purpose: str, clash: str
) -> None:
    hosts = {"all": {"children": {"mysql_replicas": {"hosts": {"db2": first, "db3": second}}}}}
    names = {
        "purpose": purpose,
        "prefix": "replica_backup",
        "hosts_variable": "replica_backup_hosts",
        "serial_variable": "replica_backup_serial",
    }
    play = {
        "hosts": "all,localhost",
        "gather_facts": False,
        "tasks": [{"import_tasks": str(CHECKOUT / "playbooks" / "tasks" / "choose.yml"), "vars": names}],
    }
    playbook = write_inventory(tmp_path / "choose.yml", t.cast("dict[str, t.Any]", [play]))
    run = run_playbook(str(playbook), write_inventory(tmp_path / "inventory.yml", hosts))
    assert run.status == (2 if clash else 0), run.output
    if clash:
        assert f"db2 and db3 are {clash}" in flat(run.output)
        assert (
            "and have the same replica_backup_state_dir, /srv/state. It holds the lock and the ledger of one server"
            in (flat(run.output))
        )


def test_the_backup_playbook_refuses_before_it_connects(fleet: Fleet) -> None:
    path = inventory(fleet, **{name: {"replica_backup_state_dir": "/srv/state"} for name in ("replica1", "replica2")})
    run = run_playbook("backup", path)
    assert run.status == 2
    assert "replica1 and replica2 are on the same machine and have the same replica_backup_state_dir" in flat(
        run.output
    )
    assert "Back up replicas in batches" not in run.output
