# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every password and key of a backup, a restore and a reposition, looked for in all that they leave and show.

All of it runs with an umask of 0, into directories that were open to everybody.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab import accounts, systemd_host
from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.lost_logs import KINDS, Case
from ansible_collections.mysql_ops.replica_backup.tests.lab.object_store import missing, object_store
from ansible_collections.mysql_ops.replica_backup.tests.lab.playbook import COLLECTION, environment
from ansible_collections.mysql_ops.replica_backup.tests.lab.secret_watch import EVENTS_PLUGIN, SecretWatch

MakeFleet = Callable[..., Fleet]


class Told:
    """What a run prints, logs, and hands to callbacks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.output, self.log, self.events = root / "output", root / "ansible.log", root / "events"
        self.plugins = root / "plugins"
        self.plugins.mkdir()
        (self.plugins / "every_event.py").write_text(EVENTS_PLUGIN)

    def run(self, playbook: str, inventory: Path, **extra: str) -> str:
        """Run a playbook as loudly as Ansible can; its output."""
        variables = environment() | {
            "ANSIBLE_LOG_PATH": str(self.log),
            "ANSIBLE_CALLBACK_PLUGINS": str(self.plugins),
            "ANSIBLE_CALLBACKS_ENABLED": "every_event",
            "ANSIBLE_DISPLAY_ARGS_TO_STDOUT": "True",
            "EVERY_EVENT": str(self.events),
        }
        command = ["ansible-playbook", "-vvvv", "--diff", "-i", str(inventory), f"{COLLECTION}.{playbook}"]
        with self.output.open("ab") as output:
            begin = output.tell()
            done = subprocess.run(
                [*command, "-e", json.dumps(extra)],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=600,
                umask=0,
            )
        said = self.output.read_bytes()[begin:].decode(errors="replace")
        assert done.returncode == 0, said[-6000:]
        return said


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    root = tmp_path / "told"
    root.mkdir()
    yield Told(root)


def test_no_secret_is_seen_anywhere(make_fleet: MakeFleet, told: Told, tmp_path: Path) -> None:
    assert not missing(), missing()
    names = ("backup", "restore", "source", "replication")
    secrets = {name: f"{name}-secret-{uuid.uuid4().hex}" for name in names}
    fleet = make_fleet(replicas=1)
    (replica,) = fleet.replicas
    source = fleet.source
    for statement in (
        *accounts.statements("MariaDB 10.5 and newer", secrets["backup"]),
        f"CREATE USER restores@localhost IDENTIFIED BY '{secrets['restore']}'",
        "GRANT ALL PRIVILEGES ON *.* TO restores@localhost",
        f"CREATE USER looker@'127.0.0.1' IDENTIFIED BY '{secrets['source']}'",
        "GRANT BINLOG MONITOR, REPLICATION SLAVE ON *.* TO looker@'127.0.0.1'",
        f"ALTER USER repl@'127.0.0.1' IDENTIFIED BY '{secrets['replication']}'",
        "CREATE DATABASE d",
        "CREATE TABLE d.t (a INT PRIMARY KEY AUTO_INCREMENT)",
        "CREATE TABLE d.sum (n INT NOT NULL)",
        "INSERT INTO d.sum VALUES (0)",
    ):
        source.query(statement)
    fleet.topology.wait_caught_up()
    for statement in (
        "STOP SLAVE",
        f"CHANGE MASTER TO MASTER_PASSWORD = '{secrets['replication']}'",
        "START SLAVE",
    ):
        replica.query(statement)

    remote = tmp_path / "remote"
    jobs = tmp_path / "async"
    state = fleet.root / "state" / replica.name
    spool = fleet.root / "spool" / replica.name
    host = fleet.backups / replica.name
    # What was there before is wider than it should be.
    for directory in (state, spool / replica.name, host):
        directory.mkdir(parents=True)
        directory.chmod(0o777)
    with object_store(tmp_path / "told") as store:
        secrets["object store"] = store.config.read_text().partition("secret_access_key = ")[2].splitlines()[0]
        inventory = fleet.inventory(
            ansible_async_dir=str(jobs),
            ansible_remote_tmp=str(remote),
            replica_backup_login_user=accounts.USER,
            replica_backup_login_password=secrets["backup"],
            replica_restore_login_user="restores",
            replica_restore_login_password=secrets["restore"],
            replica_restore_login_unix_socket=str(replica.socket),
            replica_restore_config_file="",
            replica_restore_state_dir=str(state),
            replica_restore_service_manager="none",
            replica_restore_defaults_file=str(replica.config),
            replica_restore_server_binary=str(replica.flavor.server),
            replica_restore_source_login_user="looker",
            replica_restore_source_login_password=secrets["source"],
            replica_restore_rclone_config=str(store.config),
            replica_reposition_login_user="restores",
            replica_reposition_login_password=secrets["restore"],
            replica_reposition_login_unix_socket=str(replica.socket),
            replica_reposition_config_file="",
            replica_reposition_source_login_user="looker",
            replica_reposition_source_login_password=secrets["source"],
        )
        inventory.chmod(0o600)
        with SecretWatch(secrets, (state, spool, fleet.backups, remote, jobs)) as watch:
            told.run("backup", inventory)
            (made,) = fleet.set_directories(replica)
            kept = store.upload(made, f"{replica.name}/{made.name}")
            told.run(
                "restore",
                inventory,
                replica_restore_hosts=replica.name,
                replica_restore_set=kept,
                replica_restore_force="true",
                replica_restore_resume="reposition",
            )
            case = Case(fleet.topology, KINDS["mariadb-gtid"])
            case.lose_relay_logs()
            healed = told.run("reposition", inventory, replica_reposition_execute="true")
        assert "the statements were run" in healed
        case.in_step()

    # It did look: at Ansible's own processes, and at the one file that has to hold a login.
    assert watch.processes > 20
    assert "deadman.login" in watch.seen_in
    assert told.log.stat().st_size > 10_000
    assert told.events.stat().st_size > 10_000
    assert watch.leaks == set()
    # The set's archive holds master.info, and with it the replication password; it is compressed, so not looked into.
    places = (told.root, state, spool, fleet.backups, remote, jobs)
    skip = (store.config.name,)
    assert watch.leaks_below([place for place in places if place.exists()], skip=skip) == reposition_keeps(state)
    assert not (state / "deadman.login").exists()
    for name, mode in {**modes(state), **modes(spool / replica.name), **modes(host)}.items():
        assert stat.S_IMODE(mode) == (0o700 if stat.S_ISDIR(mode) else 0o600), (name, oct(mode))


def modes(root: Path) -> dict[str, int]:
    """Of a directory and everything below it."""
    return {str(path): path.lstat().st_mode for path in (root, *root.rglob("*"))}


def reposition_keeps(state: Path) -> set[str]:
    """What a reposition replaced it keeps beside the ledger: the connection's own file, as private as it was."""
    kept = list(state.glob("reposition-*/master.info"))
    assert kept
    for path in kept:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return {f"replication in {path}" for path in kept}


ARMED = """
import stat
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _deadman, _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger

_ledger.prepare_state_dir(STATE)
run = {"run_id": "r", "backup_id": "b", "host": "h", "server": {}, "before": {}, "service": {}}
with _ledger.locked(STATE, "test"):
    told = _deadman.arm(Ledger(STATE, run), Login("backup", secret, unix_socket=SOCKET, config_file=None), 600)
    units = [told["unit"] + ".timer", told["unit"] + ".service", told["watcher"] + ".service"]
    shown = systemctl("show", "--all", *units) + systemctl("cat", *units) + systemctl("status", *units)
    # Journal, and what every process of the host was started with.
    shown += subprocess.run(["journalctl", "--no-pager", "--all"], capture_output=True, text=True).stdout
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("cmdline", "environ"):
            # The code of this test has it, in no argument.
            try:
                with open(f"/proc/{pid}/{name}", errors="replace") as handle:
                    shown += handle.read()
            except OSError:
                pass
    files = {}
    for name in os.listdir(STATE):
        with open(f"{STATE}/{name}", "rb") as handle:
            files[name] = secret.encode() in handle.read(), stat.S_IMODE(os.stat(f"{STATE}/{name}").st_mode)
    watched = told["watcher"] in shown
    disarmed = _deadman.disarm(STATE)
answer = {"shown": secret in shown, "watched": watched, "told": secret in json.dumps(told), "files": files,
          "disarmed": disarmed, "left": sorted(os.listdir(STATE))}
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("podman") is None, reason="containers need root and podman")
def test_a_dead_man_of_systemd_shows_no_password() -> None:
    with systemd_host.running() as host:
        seen = host.python(f"secret = {'of-the-dead-man-' + uuid.uuid4().hex!r}\n" + ARMED)
    assert seen["watched"]
    assert not seen["shown"]
    assert not seen["told"]
    assert {name: mode for name, (has, mode) in seen["files"].items() if has} == {"deadman.login": 0o600}
    assert {mode for _has, mode in seen["files"].values()} == {0o600}
    assert seen["disarmed"]
    assert "deadman.login" not in seen["left"]
