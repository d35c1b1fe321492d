# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a server that is down on a real systemd host: what only its unit and its groups say is found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab import systemd_host
from ansible_collections.mysql_ops.replica_backup.tests.lab.systemd_host import Host

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("podman") is None, reason="containers with systemd need root and podman"
)

DISCOVER = """
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login, connect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._discovery import (
    Request, discover, discover_offline,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._filelist import read_list
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints

login = Login(user="root", unix_socket="/run/mysqld/second.sock", config_file=None)

def request(name):
    return Request("/root/spool", name, "20260101T000000Z")

def names(result):
    return {entry.name for entry in read_list(result["list"]["path"])[1]}
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with systemd_host.running() as made:
        yield made


def test_an_instance_with_groups_and_a_command_line_of_its_own(host: Host) -> None:
    host.write(
        "/etc/mysql/mariadb.conf.d/zz.cnf",
        "[mariadbd.second]\ndatadir=/var/lib/mysql-second\nsocket=/run/mysqld/second.sock\nport=3310\n"
        "pid-file=/run/mysqld/second.pid\nrelay-log=/srv/second/rel\n",
    )
    host.write(
        "/etc/systemd/system/mariadb@second.service.d/opts.conf",
        '[Service]\nEnvironment="MYSQLD_OPTS=--log-bin=/srv/binlogs/own --slave-load-tmpdir=/srv/load"\n',
    )
    host.shell(
        "cd /srv; mkdir second binlogs load /var/lib/mysql-second; chown mysql:mysql * /var/lib/mysql-second;"
        " systemctl daemon-reload; systemctl start mariadb@second"
    )
    found = host.python(
        DISCOVER
        + """
with connect(login) as session:
    live = discover(session, request("live"))
try:
    discover_offline(request("down"), Hints(service_name="mariadb@second"))
    refused = ""
except ReplicaBackupError as error:
    refused = str(error)
systemctl("stop", "mariadb@second")
down = discover_offline(request("down"), Hints(service_name="mariadb@second"), login=login)
try:
    # The unit that is installed is that of the other server.
    discover_offline(request("other"), Hints(), login=login)
    other = ""
except ReplicaBackupError as error:
    other = str(error)
answer = {
    "places": [{name: place["path"] for name, place in one["places"].items()} for one in (live, down)],
    "only": [sorted(names(live) - names(down)), sorted(names(down) - names(live))],
    "unknown": [item["fact"] for item in down["unknown"]],
    "service": down["service"], "clean": down["clean_stop"]["clean"], "warnings": down["warnings"],
    "refused": refused, "other": other,
}
"""
    )
    live, down = found["places"]
    assert live == down
    assert {down[name] for name in ("datadir", "binlog", "relay_log", "load_data")} == {
        *("/var/lib/mysql-second", "/srv/binlogs", "/srv/second", "/srv/load")
    }
    gone, new = found["only"]
    assert gone == ["datadir/ddl_recovery.log"]
    assert [name for name in new if not name.endswith("ib_buffer_pool")] == ["binlog/own.state"]
    assert found["unknown"] == ["open_files", "dictionary"]
    assert (found["service"], found["clean"], found["warnings"]) == ("mariadb@second.service", True, [])
    assert "works on /var/lib/mysql-second" in found["refused"]
    # The first server runs.
    assert "works on /var/lib/mysql," in found["other"]
