# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""LOAD DATA in statement format that broke off on the replica: its SQL_LOAD files in the set, restored, resumed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import typing as t
from collections.abc import Callable
from pathlib import Path

import pymysql
import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import LocalFeed
from ansible_collections.mysql_ops.replica_backup.tests.integration.test_role_refuses import backup, needs_root
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import Flavor, MariaDB, MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.fleet import Fleet
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import (
    REPLICATION_PASSWORD,
    REPLICATION_USER,
    Server,
)

MakeFleet = Callable[..., Fleet]
ROWS = 60000
LOAD = "load"
FOLDERS = (LOAD, "more")
ODD, ODD_ESCAPED = "Odd \u00fc/-1", "odd@0020@1o@002f@002d1"
# Relative to the data directory: what is restored elsewhere finds its logs there.
LOGS = {"log_bin": "binlog", "relay_log": "relaylog", "binlog_format": "STATEMENT"}


def statements(server: Server, *texts: str) -> None:
    for text in texts:
        server.query(text)


def follow(fleet: Fleet, replica: Server, name: str) -> None:
    if not name:
        fleet.topology.follow(replica)
        return
    replica.query(
        "CHANGE MASTER %s TO MASTER_HOST='127.0.0.1', MASTER_PORT=%s, MASTER_USER=%s, MASTER_PASSWORD=%s,"
        " MASTER_CONNECT_RETRY=1, MASTER_USE_GTID=slave_pos",
        (name, fleet.source.port, REPLICATION_USER, REPLICATION_PASSWORD),
    )
    replica.query("START SLAVE %s", (name,))


def threads(replica: Server) -> list[tuple[str, str, int]]:
    """Receiver, applier and error of every channel."""
    many = replica.flavor.family == "mariadb"
    rows = replica.query("SHOW ALL SLAVES STATUS" if many else "SHOW SLAVE STATUS")
    return [(row["Slave_IO_Running"], row["Slave_SQL_Running"], row["Last_SQL_Errno"]) for row in rows]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def own_prefix(replica: Server, name: str) -> str:
    variable = "server_id" if replica.flavor.family == "mariadb" else "server_uuid"
    connection = f"-{ODD_ESCAPED}-" if name else ""
    return f"SQL_LOAD-{connection}{replica.query(f'SELECT @@{variable} AS own')[0]['own']}-"


def break_off_a_load(fleet: Fleet, replica: Server, directory: Path, own: str) -> dict[str, bytes]:
    """Let LOAD DATA fail on the replica; returns the files that it left in ``directory``."""
    statements(fleet.source, "CREATE DATABASE x", "CREATE TABLE x.t (a INT, b VARCHAR(40))")
    fleet.topology.wait_caught_up(replica)
    without_log(replica, "DROP TABLE x.t")
    rows = fleet.source.directory / "rows.csv"
    rows.write_text("".join(f"{number}\tvalue {number}\n" for number in range(ROWS)))
    rows.chmod(0o644)
    fleet.source.query(f"LOAD DATA INFILE '{rows}' INTO TABLE x.t")
    statements(fleet.source, "CREATE TABLE x.after (a INT)", "INSERT INTO x.after VALUES (1)")
    wait_for(lambda: threads(replica)[0][1] == "No", "the applier did not stop")
    assert threads(replica)[0][2] == 1146
    left = {path.name: path.read_bytes() for path in directory.iterdir() if path.name.startswith(own)}
    assert left and sum(map(len, left.values())) >= rows.stat().st_size
    return left


def without_log(server: Server, *texts: str) -> None:
    """Statements of one session that leaves no trace in the server's own binary log."""
    connection = pymysql.connect(unix_socket=str(server.socket), user="root", autocommit=True)
    with connection, connection.cursor() as cursor:
        for text in ("SET sql_log_bin = 0", *texts):
            cursor.execute(text)


def back_up(fleet: Fleet, replica: Server) -> tuple[Path, dict[str, t.Any]]:
    before = threads(replica)
    run = backup(
        fleet,
        None,
        compression="none",
        max_lag="86400",
        allow_stopped_channels="yes",
        allow_channel_errors="yes",
        allow_refetch="yes",
    )
    assert run.status == 0, run.output
    # The server is back, and its threads are as they were: the receiver on, the applier off.
    wait_for(lambda: threads(replica)[0][:2] == before[0][:2], f"{threads(replica)} instead of {before}")
    (directory,) = fleet.set_directories(replica)
    return directory, json.loads((directory / "manifest.json").read_text())


def make(fleet: Fleet, name: str, settings: dict[str, str], **more: str) -> Server:
    """A server, not started, with a directory for each use and settings that name them."""
    server = fleet.topology.add(name, settings={**LOGS, "read_only": "ON", **more})
    server.extra_settings.update({key: value.format(server.directory) for key, value in settings.items()})
    server.write_config()
    for folder in FOLDERS:
        (server.directory / folder).mkdir()
        shutil.chown(server.directory / folder, *owner(server.datadir))
    return server


def restore(fleet: Fleet, replica: Server, directory: Path, settings: dict[str, str]) -> Server:
    """The set on another instance, the load files in that instance's own directory for them."""
    replica.stop()
    restored = make(fleet, "restored", settings, server_id=str(replica.server_id))
    hints = Hints(defaults_file=str(restored.config), server_binary=str(restored.flavor.server))
    request = job.Request(state_dir=str(restored.directory / "state"), hints=hints)
    assert job.restore(request, LocalFeed(str(directory)))["relay_logs_unusable"] == ""
    restored.start("--skip-slave-start")
    return restored


def owner(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid


def resume_and_compare(fleet: Fleet, restored: Server, name: str, load: Path, left: dict[str, bytes]) -> None:
    assert threads(restored)[0][:2] == ("No", "No")
    without_log(restored, "CREATE TABLE x.t (a INT, b VARCHAR(40))")
    if name:
        restored.query("START SLAVE %s", (name,))
    else:
        fleet.topology.flavor.start_replication(restored.query)
    assert fleet.topology.differences(restored) == {}
    assert restored.query("SELECT COUNT(*) AS n FROM x.t")[0]["n"] == ROWS
    assert threads(restored) == [("Yes", "Yes", 0)]
    # Its own files, under the names that it knows: used and removed.
    wait_for(lambda: not set(left) & set(os.listdir(load)), "the load files are still there")


def start_with_private_tmp(server: Server) -> None:
    """As systemd does with PrivateTmp=true: a /tmp that nobody else sees, gone with the server."""
    inside = 'mount -t tmpfs -o mode=1777 none /tmp && exec setpriv --reuid="$0" --regid="$1" --clear-groups "${@:2}"'
    uid, gid = owner(server.datadir)
    subprocess.run(
        ["setsid", "--fork", "unshare", "--mount", "bash", "-c", inside, str(uid), str(gid), *server.command],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server.wait_ready()


@pytest.mark.parametrize(
    ("flavor", "name", "settings", "private"),
    [
        pytest.param(MySQL56, "", {"slave_load_tmpdir": f"{{}}/{LOAD}"}, False, id="mysql56-load-directory"),
        pytest.param(MariaDB, ODD, {"tmpdir": f"{{0}}/{LOAD}:{{0}}/more"}, False, id="mariadb-list-of-tmpdirs"),
        pytest.param(MariaDB, "", {"slave_load_tmpdir": "/tmp"}, True, id="mariadb-private-tmp", marks=needs_root),
    ],
)
def test_full_circle(
    make_fleet: MakeFleet,
    flavor: Callable[[], Flavor],
    name: str,
    settings: dict[str, str],
    private: bool,
) -> None:
    fleet = make_fleet(replicas=0, flavor=flavor(), settings=LOGS)
    replica = make(fleet, "replica", settings)
    if private:
        start_with_private_tmp(replica)
    else:
        replica.start()
    fleet.topology.flavor.forget_history(replica.query)
    fleet.replicas.append(replica)
    follow(fleet, replica, name)
    directory = Path(f"/proc/{replica.pids()[0]}/root/tmp") if private else replica.directory / LOAD
    own = own_prefix(replica, name)
    foreign = [f"SQL_LOAD-{replica.server_id}7-1-1.data", "SQL_LOAD-6d2c1c5e-0000-11ee-8c99-0242ac120002-1-1.data"]
    for other in foreign:
        (directory / other).write_text("not ours\n")
    left = break_off_a_load(fleet, replica, directory, own)

    set_directory, manifest = back_up(fleet, replica)
    taken = [file for file in manifest["files"] if file["role"] == "load_data"]
    assert {(file["place"], file["path"]) for file in taken} == {("load_data", item) for item in left}
    named = [place["path"] for place in manifest["places"] if place["name"] == "load_data"]
    assert named == ["/tmp" if private else str(directory)]

    # The restored one has a directory of its own.
    kept = {"slave_load_tmpdir": f"{{}}/{LOAD}"} if private else settings
    restored = restore(fleet, replica, set_directory, kept)
    load = restored.directory / LOAD
    assert {path.name: path.read_bytes() for path in load.iterdir() if path.name.startswith("SQL_LOAD")} == left
    assert {owner(load / item) for item in left} == {owner(restored.datadir)}
    resume_and_compare(fleet, restored, name, load, left)
