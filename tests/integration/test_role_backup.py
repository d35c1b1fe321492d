# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role and its playbooks on real servers: sets that are whole, servers that come back."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
import typing as t
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.integration.test_role_refuses import (
    backup,
    flat,
    mounted,
    needs_root,
    standing,
)
from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import Run, environment, run_playbook

MakeFleet = Callable[..., Fleet]


def replicates(server: Server) -> bool:
    channel = server.channel()
    return channel is not None and channel.replicating


def newest(fleet: Fleet, server: Server) -> Path:
    return fleet.set_directories(server)[-1]


def assert_set_is_whole(directory: Path, scratch: Path) -> dict[str, t.Any]:
    """Extract by hand what is extracted by hand, compare the sums, and give the manifest."""
    manifest: dict[str, t.Any] = json.loads((directory / "manifest.json").read_text())
    (part,) = manifest["parts"]
    tree = scratch / directory.parent.name / directory.name
    tree.mkdir(parents=True)
    if part["format"] == "copy":
        tree = directory / "data"
    elif part["format"] == "zip":
        subprocess.run(["unzip", "-q", str(directory / part["name"]), "-d", str(tree)], check=True)
    else:
        subprocess.run(["tar", "-xf", str(directory / part["name"]), "-C", str(tree)], check=True)
    subprocess.run(["sha256sum", "--quiet", "-c", str(directory / "SHA256SUMS")], cwd=tree, check=True)
    assert not (directory / ".work").exists()
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir() if path.is_file()} == {0o600}
    assert directory.stat().st_mode & 0o777 == 0o700
    return manifest


def leftovers(fleet: Fleet) -> list[str]:
    """Files in the spools, and hand-offs beside them."""
    spool = fleet.root / "spool"
    hand_offs = list(spool.rglob(".replica-fetch-*"))
    return [str(path) for path in [*hand_offs, *spool.rglob("*")] if path.is_file() or path in hand_offs]


def test_two_replicas_one_after_the_other_under_load(make_fleet: MakeFleet, tmp_path: Path) -> None:
    fleet = make_fleet(separate_logs=(False, True))
    before = {server.name: server.pids() for server in fleet.replicas}
    with fleet.topology.load():
        run = backup(fleet, serial="1", downtime_budget="600")
    assert run.status == 0, run.output
    for server in fleet.replicas:
        assert server.pids() != before[server.name]
        assert replicates(server)
        manifest = assert_set_is_whole(newest(fleet, server), tmp_path)
        assert manifest["host"] == server.name
        assert manifest["times"]["downtime_seconds"] > 0
        assert {"shutdown", "capture", "start", "catch_up", "fetch", "proof"} <= set(manifest["times"])
    assert run.output.count("server restored: yes") == 2
    assert run.output.count("backup usable: yes") == 2
    assert leftovers(fleet) == []
    assert fleet.topology.differences() == {}


@pytest.mark.parametrize(
    "variables",
    [
        {
            "compression": "gzip",
            "compression_level": "1",
            "restart_after": "fetch",
            "include_binlogs": "no",
            "poll_interval": "2",
            "id": "20260202T020202Z",
        },
    ],
    ids=lambda value: "-".join(value.values()),
)
def test_other_ways(fleet: Fleet, tmp_path: Path, variables: dict[str, str]) -> None:
    replica = fleet.replicas[1]
    run = backup(fleet, None, "--limit", replica.name, **variables)
    assert run.status == 0, run.output
    directory = Path(re.findall(r"set: (\S+?)'?$", run.output, re.MULTILINE)[0])
    manifest = assert_set_is_whole(directory, tmp_path)
    assert directory.name == variables.get("id", directory.name)
    assert manifest["parts"][0]["format"] == variables.get("format", "tar")
    (downtime,) = re.findall(r"downtime: (\S+) s \(([^)]*)\)", flat(run.output))
    parts = dict(part.split() for part in downtime[1].split(", "))
    assert ("fetch" in parts) == ("restart_after" in variables), parts
    assert {"stop", "capture", "start", "between"} <= set(parts)
    assert sum(map(float, parts.values())) == pytest.approx(float(downtime[0]), abs=0.002)
    roles = {file["role"] for file in manifest["files"]}
    assert ("binlog" in roles) == (variables.get("include_binlogs") != "no"), roles
    assert replicates(replica)
    assert leftovers(fleet) == []


def test_left_on_the_replica(fleet: Fleet, tmp_path: Path) -> None:
    replica = fleet.replicas[0]
    run = backup(fleet, None, "--limit", replica.name, fetch="none", dest="/proc/nowhere")
    assert run.status == 0, run.output
    (manifest,) = (fleet.root / "spool" / replica.name).rglob("manifest.json")
    assert_set_is_whole(manifest.parent, tmp_path)
    assert f"set: {manifest.parent}" in flat(run.output)
    subprocess.run(["rm", "-r", str(manifest.parent)], check=True)


# -- failures ------------------------------------------------------------------------------------------------------


@needs_root
def test_disk_full_while_archiving(make_fleet: MakeFleet, tmp_path: Path) -> None:
    fleet = make_fleet(replicas=2)
    second = standing(fleet.replicas[1])
    with mounted(tmp_path / "small", "size=24m") as spool:
        run = backup(fleet, None, spool_dir=str(spool), space_factor="0", compression="none")
        left = [path for path in spool.rglob("*") if path.is_file()]
    assert run.status == 2
    assert "server restored: yes" in run.output
    assert "backup usable: no" in run.output
    assert "the file system is full" in flat(run.output), run.output
    assert replicates(fleet.replicas[0])
    assert left == []
    # The roll stopped: nothing was asked of the next replica.
    assert standing(fleet.replicas[1]) == second
    assert not (fleet.root / "state" / "replica2" / "ledger.last.json").exists()
    assert not list((fleet.root / "state").rglob("ledger.json"))
    assert fleet.topology.differences() == {}
    # And the host failed behind the block, in the counters that the gate reads.
    assert re.search(r"replica1 .*failed=1 .*rescued=1", run.output)


def gap(fleet: Fleet, server: Server) -> float:
    """Seconds that the server's last run would have waited, stopped, for its next step."""
    ledger = json.loads((fleet.root / "state" / server.name / "ledger.last.json").read_text())
    return float(ledger["gap_seconds"])


@needs_root
def test_the_gate_stops_the_next_batch_and_a_tolerated_loss_does_not(make_fleet: MakeFleet, tmp_path: Path) -> None:
    fleet = make_fleet(replicas=3)
    first, second, third = fleet.replicas
    inventory = fleet.inventory()
    content = json.loads(inventory.read_text())
    with mounted(tmp_path / "small", "size=24m") as spool:
        content["all"]["children"]["mysql_replicas"]["hosts"][first.name].update(
            replica_backup_spool_dir=str(spool), replica_backup_space_factor=0, replica_backup_compression="none"
        )
        inventory.write_text(json.dumps(content))
        run = backup(fleet, inventory, serial="2")
        assert run.status == 2
        assert f"Stopped before this batch ({third.name}), whose hosts have not been touched." in flat(run.output)
        assert f"Lost before: {first.name}." in flat(run.output)
        assert [len(fleet.set_directories(replica)) for replica in fleet.replicas] == [0, 1, 0]
        assert gap(fleet, second) == 90
        run = backup(fleet, inventory, serial="1, 1", tolerated_losses="1")
        # With one host in it a batch is lost as a whole, and Ansible itself ends the play.
        assert run.status == 2
        run = backup(fleet, inventory, serial=[2, "100%"], tolerated_losses="1", restart_after="fetch")
        assert run.status == 2
        # Down until the set has arrived, and another host of the batch may hold that up; only the budget bounds it.
        assert gap(fleet, second) == 3600
        assert [len(fleet.set_directories(replica)) for replica in fleet.replicas] == [0, 2, 1]
    assert all(replicates(replica) for replica in (first, second, third))


def test_a_killed_controller(make_fleet: MakeFleet, tmp_path: Path) -> None:
    """The step that stops, archives and starts needs nobody; recover finds a whole archive, and brings it."""
    fleet = make_fleet(replicas=1)
    (replica,) = fleet.replicas
    command = ["ansible-playbook", "-i", str(fleet.inventory()), "mysql_ops.replica_backup.backup"]
    variables = environment()
    controller = subprocess.Popen(
        command,
        executable=shutil.which("ansible-playbook", path=variables["PATH"]),
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: not replica.is_running())
    finally:
        os.killpg(controller.pid, signal.SIGKILL)
        controller.wait()
    ledger = fleet.root / "state" / replica.name / "ledger.json"
    wait_for(lambda: json.loads(ledger.read_text())["step"] == "serving")
    nearly_given_up(fleet, replica)
    replica.wait_ready()
    wait_for(lambda: replicates(replica))
    assert not fleet.set_directories(replica)
    run = recover(fleet, lock_timeout="200")
    assert run.status == 0, run.output
    assert "had been captured whole" in flat(run.output)
    (directory,) = fleet.set_directories(replica)
    assert_set_is_whole(directory, tmp_path)
    assert replicates(replica)
    assert leftovers(fleet) == []
    assert backup(fleet).status == 0
    run = backup(fleet, None, "--check")
    assert re.search(r"would be down for: \d[\d.]* s of at most 3600, by backup 20\d{6}T\d{6}Z", flat(run.output)), (
        run.output
    )


def wait_for(condition: Callable[[], bool], timeout: float = 90) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@needs_root
def test_destination_full_keeps_the_set_on_the_replica(fleet: Fleet, tmp_path: Path) -> None:
    replica = fleet.replicas[0]
    with mounted(tmp_path / "full", "size=256k") as dest:
        run = backup(fleet, None, "--limit", replica.name, dest=str(dest))
        assert not list(dest.rglob("manifest.json"))
    assert run.status == 2
    assert "Too little room" in flat(run.output)
    assert "server restored: yes" in run.output
    assert "backup usable: yes" in run.output
    (manifest,) = (fleet.root / "spool" / replica.name).rglob("manifest.json")
    assert_set_is_whole(manifest.parent, tmp_path)
    assert replicates(replica)
    assert not list((fleet.root / "state").rglob("ledger.json"))
    subprocess.run(["rm", "-r", str(manifest.parent)], check=True)


# -- recover -------------------------------------------------------------------------------------------------------

STOP = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Stop, and never come back
      mysql_ops.replica_backup.mysql_replica_stop:
        login_user: root
        login_unix_socket: "{{ replica_backup_login_unix_socket }}"
        config_file: ""
        state_dir: "{{ replica_backup_state_dir }}"
        spool_dir: "{{ replica_backup_spool_dir }}"
        service_manager: none
        host: "{{ inventory_hostname }}"
        backup_id: 20260303T030303Z
        run_id: a-run-that-died
"""


def stop_and_die(fleet: Fleet, replica: Server) -> None:
    playbook = fleet.root / "stop.yml"
    playbook.write_text(STOP)
    run = run_playbook(str(playbook), fleet.inventory(), "--limit", replica.name)
    assert run.status == 0, run.output
    assert not replica.is_running()


def nearly_given_up(fleet: Fleet, replica: Server) -> None:
    """Let the time run out for which the dead run is taken for alive; nothing else of its ledger changes."""
    path = fleet.root / "state" / replica.name / "ledger.json"
    ledger = json.loads(path.read_text())
    assert ledger["lease"]["until_mono"] > time.monotonic()
    ledger["lease"]["until_mono"] = time.monotonic() + 6
    path.write_text(json.dumps(ledger))


def recover(fleet: Fleet, *arguments: str, **extra_vars: t.Any) -> Run:
    variables = {f"replica_backup_{name}": value for name, value in extra_vars.items()}
    return run_playbook("recover", fleet.inventory(), *arguments, extra_vars=variables)


def test_recover_with_nothing_to_do(fleet: Fleet) -> None:
    before = [standing(server) for server in fleet.replicas]
    run = recover(fleet)
    assert run.status == 0, run.output
    assert run.output.count("No unfinished run.") == 2
    assert len(re.findall(r"changed=0 ", run.output)) == 2
    assert [standing(server) for server in fleet.replicas] == before


def test_recover_unknown_group(fleet: Fleet) -> None:
    run = recover(fleet, hosts="nobody")
    assert run.status == 2
    assert "Nobody to recover" in flat(run.output)


def test_recover_finishes_a_dead_run_and_says_what_happened(fleet: Fleet) -> None:
    replica = fleet.replicas[0]
    stop_and_die(fleet, replica)
    story = recover(fleet, "--check", take_over="yes")
    assert story.status == 0, story.output
    assert not replica.is_running()
    assert "a-run-that-died" in story.output
    run = recover(fleet, take_over="yes")
    assert run.status == 0, run.output
    for words in (
        "Run a-run-that-died (backup 20260303T030303Z of replica1)",
        "It had asked the server to stop.",
        "The dead-man was armed for",
        "Now: started the server",
        "The ledger is closed",
    ):
        assert words in flat(run.output)
    assert replicates(replica)
    again = recover(fleet)
    assert again.status == 0
    assert "ended" in again.output
    assert len(re.findall(r"changed=0 ", again.output)) == 2


def test_the_next_backup_finishes_a_dead_run_first(fleet: Fleet) -> None:
    replica = fleet.replicas[0]
    stop_and_die(fleet, replica)
    nearly_given_up(fleet, replica)
    run = backup(fleet, None, "--limit", replica.name, lock_timeout="200")
    assert run.status == 0, run.output
    assert len(fleet.set_directories(replica)) >= 1
    assert replicates(replica)


def test_recover_fails_where_the_server_cannot_start(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(replicas=1)
    (replica,) = fleet.replicas
    stop_and_die(fleet, replica)
    replica.extra_settings["no_such_setting"] = "1"
    replica.write_config()
    run = recover(fleet, take_over="yes", start_timeout="20")
    assert run.status == 2
    assert "It had asked the server to stop." in flat(run.output)
    assert list((fleet.root / "state").rglob("ledger.json"))
    del replica.extra_settings["no_such_setting"]
    replica.write_config()
    assert recover(fleet, take_over="yes").status == 0
    assert replicates(replica)
