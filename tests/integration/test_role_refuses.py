# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input and unfit servers: what the backup playbook says, and that nothing was touched."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import typing as t
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import REPLICATION_PASSWORD, REPLICATION_USER, Server
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import Run, run_playbook, write_inventory

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")


def flat(output: str) -> str:
    """The output without the line breaks that YAML puts into long messages."""
    return " ".join(output.split())


def plain(output: str) -> str:
    """As ``flat``, and without the doubled quotes of YAML."""
    return flat(output).replace("''", "'")


def everything(fleet: Fleet) -> dict[str, tuple[float, int]]:
    """Time and size of every file below spool, state and destination."""
    found = {}
    for name in ("spool", "state", "backups"):
        for path in (fleet.root / name).rglob("*"):
            status = path.lstat()
            found[str(path)] = (status.st_mtime, status.st_size if path.is_file() else 0)
    return found


def standing(server: Server) -> tuple[list[int], object]:
    """Processes of a server and whether it replicates."""
    channel = server.channel()
    return server.pids(), None if channel is None else channel.replicating


@contextlib.contextmanager
def untouched(fleet: Fleet, *, files: bool = False) -> Iterator[None]:
    """The servers stay the same processes, threads included; with ``files`` no file changes either."""
    servers = [server for server in fleet.topology.servers if server.is_running()]
    before = {server.name: standing(server) for server in servers}
    logs = {server.name: server.error_log.stat().st_size for server in servers}
    there = everything(fleet)
    yield
    assert {server.name: standing(server) for server in servers} == before
    for server in servers:
        assert "hutdown" not in server.error_log.read_text(errors="replace")[logs[server.name] :]
    if files:
        assert everything(fleet) == there
    assert not list((fleet.root / "state").rglob("ledger.json"))
    assert set((fleet.root / "spool").rglob("data*")) <= {Path(path) for path in there}


def backup(fleet: Fleet, inventory: Path | None = None, *arguments: str, **extra_vars: t.Any) -> Run:
    variables = {f"replica_backup_{name}": value for name, value in extra_vars.items()}
    return run_playbook("backup", inventory or fleet.inventory(), *arguments, extra_vars=variables)


def says_what_next(run: Run) -> None:
    """A failure that a person reads at night names the state of the server and what to do."""
    assert run.status == 2
    # Ansible 2.19 prints it twice.
    failed = flat(run.output.partition("Fail the host whose backup failed]")[2].rpartition("FAILED!")[2])
    assert failed, run.output
    assert failed.count("State of the server:") == 1, failed
    assert "Next:" in failed, failed


# -- what was asked for --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("--limit", "replica1")])
def test_unknown_host_group(fleet: Fleet, arguments: tuple[str, ...]) -> None:
    with untouched(fleet, files=True):
        run = backup(fleet, None, *arguments, hosts="no_such_group")
    assert run.status == 2
    assert "Is this the right inventory (-i)?" in flat(run.output)
    assert 'replica_backup_hosts is "no_such_group", which names no host of this inventory' in flat(run.output)
    assert "Nothing has been touched" in run.output


def test_limit_that_leaves_nobody(fleet: Fleet) -> None:
    inventory = fleet.inventory()
    text = inventory.read_text().replace('"children": {', '"hosts": {"other": {}}, "children": {', 1)
    inventory.write_text(text)
    run = backup(fleet, inventory, "--limit", "other")
    assert run.status == 2
    assert "--limit leaves none of them" in flat(run.output)


def test_empty_inventory_is_not_green(fleet: Fleet) -> None:
    run = backup(fleet, write_inventory(fleet.root / "empty.yml", {"all": {}}))
    assert run.status == 2
    assert "names no host of this inventory" in flat(run.output)


def asked_in_the_inventory(fleet: Fleet, **where: Mapping[str, object]) -> Path:
    """An inventory whose replicas are one group each, with these variables of all or of such a group."""
    inventory = fleet.inventory()
    content = json.loads(inventory.read_text())
    everybody = content["all"]["children"].pop("mysql_replicas")
    groups = {f"only_{name}": {"hosts": {name: host}} for name, host in everybody["hosts"].items()}
    content["all"] = {
        "vars": everybody["vars"],
        "children": {**groups, "pair": {"children": {name: {} for name in groups}}},
    }
    for group, variables in where.items():
        holder = content["all"] if group == "all" else content["all"]["children"][group]
        holder.setdefault("vars", {}).update(variables)
    return write_inventory(inventory, content)


@pytest.mark.parametrize(
    ("playbook", "group", "arguments"),
    [
        ("backup", "all", ("--limit", "replica2")),
        ("backup", "only_replica2", ()),
        ("recover", "all", ()),
        ("recover", "only_replica1", ("--limit", "replica2")),
    ],
)
def test_hosts_set_in_the_inventory(fleet: Fleet, playbook: str, group: str, arguments: tuple[str, ...]) -> None:
    # To recover, all hosts are taken at once: it is no time to be refused for the batches of backups.
    serial = {"replica_backup_serial": "soon"} if playbook == "recover" else {}
    inventory = asked_in_the_inventory(fleet, **{group: {"replica_backup_hosts": "only_replica2", **serial}})
    with untouched(fleet, files=True):
        run = run_playbook(playbook, inventory, "--check", *arguments)
    assert run.status == 0, run.output
    play = "Back up replicas in batches" if playbook == "backup" else "Finish what interrupted runs left open"
    assert set(re.findall(r"^ok: \[(\w+)\]", run.output.partition(f"PLAY [{play}]")[2], re.MULTILINE)) == {"replica2"}


@pytest.mark.parametrize("playbook", ["backup", "recover"])
def test_hosts_of_the_inventory_that_are_none(fleet: Fleet, playbook: str) -> None:
    inventory = asked_in_the_inventory(fleet, all={"replica_backup_hosts": "no_such_group"})
    run = run_playbook(playbook, inventory, "--limit", "replica1")
    assert run.status == 2
    assert 'replica_backup_hosts is "no_such_group", which names no host of this inventory' in flat(run.output)


def test_hosts_set_differently_for_different_hosts(fleet: Fleet) -> None:
    each = {f"only_{server.name}": {"replica_backup_hosts": f"only_{server.name}"} for server in fleet.replicas}
    with untouched(fleet, files=True):
        run = backup(fleet, asked_in_the_inventory(fleet, **each))
    assert run.status == 2
    assert "set to different values for different hosts: only_replica1; only_replica2." in flat(run.output)
    assert backup(fleet, asked_in_the_inventory(fleet, **each), "--check", hosts="pair").status == 0


@pytest.mark.parametrize(
    ("group", "serial", "batches"),
    [("all", " 1 , 1", 2), ("all", ["100%"], 1), ("only_replica2", "['100%']", 1), ("only_replica1", "", 2)],
)
def test_serial_set_in_the_inventory(fleet: Fleet, group: str, serial: object, batches: int) -> None:
    variables: dict[str, dict[str, object]] = {"all": {"replica_backup_hosts": ["replica2", "replica1"]}}
    variables.setdefault(group, {})["replica_backup_serial"] = serial
    run = backup(fleet, asked_in_the_inventory(fleet, **variables), "--check")
    assert run.status == 0, run.output
    assert run.output.count("PLAY [Back up replicas in batches]") == batches
    if batches == 2:
        assert run.output.index("of replica2: check mode") < run.output.index("of replica1: check mode")


def test_serial_of_the_inventory_that_is_none(fleet: Fleet) -> None:
    inventory = asked_in_the_inventory(fleet, pair={"replica_backup_hosts": "pair", "replica_backup_serial": "soon"})
    with untouched(fleet, files=True):
        run = backup(fleet, inventory)
    assert run.status == 2
    assert 'replica_backup_serial is "soon". Accepted are' in flat(run.output)


@pytest.mark.parametrize("playbook", ["backup", "recover"])
def test_tags_that_would_skip_everything(fleet: Fleet, playbook: str) -> None:
    run = run_playbook(playbook, fleet.inventory(), "--skip-tags", "always")
    assert run.status != 0
    assert "--skip-tags always would skip the whole run" in flat(run.output)


@pytest.mark.parametrize("serial", [0, "0", "-1", "many", "by_source", "0%", "101%", "1,,2", "1 2", [1, 0], "1.5"])
def test_serial_that_is_none(fleet: Fleet, serial: object) -> None:
    with untouched(fleet, files=True):
        run = backup(fleet, None, "--limit", "replica2", serial=serial)
    assert run.status == 2
    assert "Accepted are a number from 1, a percentage from 1% to 100%, or a list of them" in flat(run.output)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"format": "rar"}, "value of replica_backup_format must be one of: tar, zip, copy, got: rar"),
        ({"fetch": "s3:bucket"}, "value of replica_backup_fetch must be one of: controller, none"),
        ({"capture": "hot"}, "value of replica_backup_capture must be one of: auto, cold, snapshot, staged, copy"),
        ({"capture": "staged", "restart_after": "fetch"}, "which starts it before"),
        ({"max_lag": "soon"}, "replica_backup_max_lag"),
        ({"id": "yesterday"}, "The backup id is not usable"),
        ({"format": "zip", "compression": "lz4"}, 'replica_backup_format is "zip", which has a compression of its own'),
        ({"compression_level": "fast"}, 'replica_backup_compression_level is "fast". Expected is a whole number'),
        ({"dest": ""}, "replica_backup_dest is empty"),
    ],
)
def test_values_that_do_not_exist(fleet: Fleet, variables: dict[str, str], message: str) -> None:
    with untouched(fleet, files=True):
        run = backup(fleet, None, **variables)
    assert run.status == 2
    assert message in flat(run.output)
    assert "replica2" not in run.output.partition("PLAY RECAP")[2]


def test_compression_level_out_of_range(fleet: Fleet) -> None:
    with untouched(fleet):
        run = backup(fleet, None, "--limit", "replica1", compression_level="99")
    assert run.status == 2
    assert re.search(r"level.* 99\b", flat(run.output)), run.output
    says_what_next(run)
    assert "server restored: yes, this run did not stop it" in run.output


# -- where the set shall go ----------------------------------------------------------------------------------------


def test_destination_not_writable(fleet: Fleet) -> None:
    (fleet.root / "file").write_text("")
    with untouched(fleet, files=True):
        run = backup(fleet, dest=str(fleet.root / "file" / "backups"))
    assert run.status == 2
    assert "on the controller is not writable" in flat(run.output)
    assert "variable replica_backup_dest" in flat(run.output)


@needs_root
@pytest.mark.parametrize("check", [(), ("--check",)])
def test_destination_read_only(fleet: Fleet, tmp_path: Path, check: tuple[str, ...]) -> None:
    with mounted(tmp_path / "readonly", "ro") as dest, untouched(fleet, files=True):
        run = backup(fleet, None, "--limit", "replica1", *check, dest=str(dest))
    assert run.status == 2
    assert f"The destination {dest} on the controller is not writable" in flat(run.output)


def test_destination_where_nobody_set_one_nor_pwd(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory = fleet.inventory()
    content = json.loads(inventory.read_text())
    del content["all"]["children"]["mysql_replicas"]["vars"]["replica_backup_dest"]
    write_inventory(inventory, content)
    monkeypatch.delenv("PWD", raising=False)
    monkeypatch.chdir(tmp_path)
    # In the way, so that the destination is named.
    (tmp_path / "backups").write_text("")
    with untouched(fleet, files=True):
        here = backup(fleet, inventory, "--limit", "replica1")
        monkeypatch.chdir("/")
        root = backup(fleet, inventory, "--limit", "replica1")
    assert (here.status, root.status) == (2, 2)
    assert f"The destination {tmp_path}/backups on the controller is not writable" in flat(here.output)
    assert "replica_backup_dest is empty: it is set to nothing, or the run was started in the root" in flat(root.output)
    assert not Path("/backups").exists()


def test_backup_id_exists_at_the_destination(fleet: Fleet) -> None:
    backup_id = "20250101T000000Z"
    (fleet.backups / "replica1" / backup_id).mkdir(parents=True)
    with untouched(fleet, files=True):
        run = backup(fleet, None, "--limit", "replica1", id=backup_id)
    assert run.status == 2
    assert f"Backup id {backup_id} exists at the destination" in flat(run.output)


def test_backup_id_exists_on_the_replica(fleet: Fleet) -> None:
    backup_id = "20250102T000000Z"
    there = fleet.root / "spool" / "replica1" / "replica1" / backup_id
    there.mkdir(parents=True)
    (there / "manifest.json").write_text("{}")
    with untouched(fleet):
        run = backup(fleet, None, "--limit", "replica1", id=backup_id)
    assert run.status == 2
    assert f"Backup id {backup_id} exists on the replica" in flat(run.output)
    assert (there / "manifest.json").read_text() == "{}"


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_spool_below_a_file(fleet: Fleet) -> None:
    (fleet.root / "plain").write_text("")
    with untouched(fleet):
        run = backup(fleet, None, "--limit", "replica1", spool_dir=str(fleet.root / "plain" / "spool"))
    assert run.status == 2
    assert str(fleet.root / "plain") in flat(run.output)
    assert "server restored: yes" in run.output
    assert "backup usable: no" in run.output


@pytest.mark.parametrize("check", [(), ("--check",)])
def test_spool_whose_parent_is_missing(fleet: Fleet, check: tuple[str, ...]) -> None:
    spool = fleet.root / "not" / "there"
    with untouched(fleet):
        run = backup(fleet, None, "--limit", "replica1", *check, spool_dir=str(spool))
    assert run.status == 2
    assert f"{spool.parent} does not exist" in flat(run.output)
    says_what_next(run)
    assert "server restored: yes, this run did not stop it" in flat(run.output)
    assert not spool.parent.exists()


@needs_root
def test_spool_read_only(fleet: Fleet) -> None:
    with mounted(fleet.root / "readonly", "ro") as spool, untouched(fleet):
        run = backup(fleet, None, "--limit", "replica1", spool_dir=str(spool))
    assert run.status == 2
    assert f"{spool} is not writable (permissions or a read-only file system)" in flat(run.output)


@needs_root
@pytest.mark.parametrize("check", [(), ("--check",)])
def test_spool_on_too_small_a_file_system(fleet: Fleet, check: tuple[str, ...], tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=8m") as spool, untouched(fleet):
        run = backup(fleet, None, "--limit", "replica1", *check, spool_dir=str(spool))
        assert list(spool.iterdir()) == []
    assert run.status == 2
    assert "replica_backup_space_factor" in flat(run.output)


# -- servers that are not to be stopped ----------------------------------------------------------------------------


def test_wrong_login(fleet: Fleet) -> None:
    with untouched(fleet):
        run = backup(fleet, None, "--limit", "replica1", login_user="nobody_known", login_password="wr0ng-secret")
    assert run.status == 2
    assert "replica_backup_login_" in flat(run.output)
    assert "running, untouched" in flat(run.output)
    assert "wr0ng-secret" not in run.output
    says_what_next(run)


def test_a_certificate_that_is_not_there(fleet: Fleet) -> None:
    with untouched(fleet):
        run = backup(fleet, None, "--limit", "replica1", ca_cert="/nonexistent/ca.pem")
    says_what_next(run)
    assert "/nonexistent/ca.pem" in flat(run.output) or "No such file" in flat(run.output), run.output


def test_not_a_replica(fleet: Fleet) -> None:
    lonely = fleet.topology.add("lonely")
    lonely.start()
    try:
        with untouched(fleet):
            run = backup(fleet, fleet.inventory(lonely))
        assert lonely.is_running()
    finally:
        lonely.stop()
    assert run.status == 2
    assert (
        "rule 'replica': found no replication channel; expected a server that replicates; relax with: nothing relaxes"
        in plain(run.output)
    )


def test_a_source(fleet: Fleet) -> None:
    with untouched(fleet):
        run = backup(fleet, fleet.inventory(fleet.source))
    assert run.status == 2
    assert "rule 'replica': found no replication channel; expected a server that replicates" in plain(run.output)
    assert "rule 'connected_replicas': found " in plain(run.output)
    assert "expected no server that replicates from this one" in plain(run.output)
    assert "server restored: yes, this run did not stop it" in run.output
    assert "backup usable: no" in run.output


def test_a_replica_with_replicas_of_its_own(fleet: Fleet) -> None:
    below = fleet.topology.add("below")
    below.start()
    middle = fleet.replicas[0]
    try:
        fleet.topology.flavor.forget_history(below.query)
        fleet.topology.flavor.follow(
            below.query, host="127.0.0.1", port=middle.port, user=REPLICATION_USER, password=REPLICATION_PASSWORD
        )
        fleet.topology.wait_caught_up(below)
        with untouched(fleet):
            run = backup(fleet, None, "--limit", middle.name)
    finally:
        below.stop()
    assert run.status == 2
    assert "replica_backup_allow_connected_replicas" in flat(run.output)


def test_a_stopped_thread(fleet: Fleet) -> None:
    replica = fleet.replicas[0]
    replica.query("STOP SLAVE SQL_THREAD")
    try:
        with untouched(fleet):
            run = backup(fleet, None, "--limit", replica.name)
    finally:
        replica.query("START SLAVE SQL_THREAD")
    assert run.status == 2
    assert "replica_backup_allow_stopped_channels" in flat(run.output)
    says_what_next(run)


@needs_root
def test_archive_tool_missing(fleet: Fleet) -> None:
    """An interpreter that sees no xz: bound over by something that cannot be run, in a mount namespace of its own."""
    wrapper = fleet.root / "python-without-xz"
    inside = f'mount --bind /dev/null /usr/bin/xz && exec {sys.executable} "$@"'
    wrapper.write_text(f"#!/bin/sh\nexec unshare -m --propagation private sh -c '{inside}' x \"$@\"\n")
    wrapper.chmod(0o755)
    inventory = fleet.inventory(ansible_python_interpreter=str(wrapper))
    with untouched(fleet):
        run = backup(fleet, inventory, "--limit", "replica1", compression="xz")
    assert run.status == 2
    assert (
        "rule 'tools': found missing: xz; expected the commands that format and compression need; "
        "relax with: replica_backup_compression" in plain(run.output)
    )


def test_pymysql_missing_on_the_target(fleet: Fleet) -> None:
    wrapper = fleet.root / "python-without-packages"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    wrapper.chmod(0o755)
    with untouched(fleet, files=True):
        run = backup(fleet, fleet.inventory(ansible_python_interpreter=str(wrapper)), "--limit", "replica1")
    assert run.status == 2
    assert "Failed to import the required Python library (PyMySQL)" in flat(run.output)
    says_what_next(run)
    assert "server restored: yes, this run did not stop it" in run.output


def test_server_down_before_the_run(fleet: Fleet) -> None:
    replica = fleet.replicas[1]
    replica.stop()
    try:
        with untouched(fleet):
            run = backup(fleet, None, "--limit", replica.name)
        assert not replica.is_running()
    finally:
        replica.start()
        fleet.topology.wait_caught_up(replica)
    assert run.status == 2
    assert "a server that was down before the run is not ours to start" in flat(run.output)
    says_what_next(run)


# -- check mode ----------------------------------------------------------------------------------------------------


def test_check_mode_changes_nothing_and_says_what_would_happen(fleet: Fleet) -> None:
    with untouched(fleet, files=True):
        run = backup(fleet, None, "--check")
    assert run.status == 0
    for server in fleet.replicas:
        assert f"of {server.name}: check mode, nothing was touched" in flat(run.output)
    assert "would run: arm the dead-man" in flat(run.output)
    assert "would archive: " in run.output
    assert "would be down for: " in flat(run.output)
