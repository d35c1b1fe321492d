# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that is down on a real Debian 12 host, started once with an option: unit, init script, mariadbd-safe."""

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

# Finds the manager from what is installed, as a restore does, and not from a process.
OF_STOPPED = """
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._installed import Hints, find_start

SKIP = "--skip-slave_start"

def of_stopped(requested="auto", name=None):
    start = find_start(Hints(service_name=name or ""))
    return _service.of_stopped(
        start={"exe": start.exe, "argv": start.argv, "environment": start.environment, "service": start.service},
        requested=requested, name=name, datadir=DATADIR, pid_file=PID_FILE, own_options=(SKIP,), state_dir=STATE)

def down():
    subprocess.run(["systemctl", "stop", "mariadb.socket", "mariadb.service"])
    while process() is not None:
        time.sleep(0.1)

def words():
    return list(process().argv)
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with systemd_host.running() as made:
        yield made


def test_a_unit_is_kept_asleep_and_started_once_with_the_option(host: Host) -> None:
    seen = host.python(
        OF_STOPPED
        + """
settled()
subprocess.run(["systemctl", "stop", "mariadb.service"])
manager = of_stopped()
held = manager.hold()
woken = []
for _attempt in range(10):
    try:
        connect().close()
        woken.append(1)
    except pymysql.Error:
        time.sleep(0.1)
manager = again(manager)
manager.start([SKIP], must=True)
wait_ready()
first = words()
done = [*manager.after_start(), *manager.release()]
socket_state = systemctl("is-active", "mariadb.socket")
settled()
subprocess.run(["systemctl", "restart", "mariadb"])
wait_ready()
answer = {"manager": manager.to_dict(), "held": held, "woken": woken, "first": first, "done": done,
          "socket": socket_state, "second": words()}
"""
    )
    assert (seen["manager"]["kind"], seen["manager"]["name"]) == ("systemd", "mariadb.service")
    assert seen["manager"]["takes_options"]
    assert seen["woken"] == []
    assert any("mariadb.socket" in one for one in seen["held"])
    assert "--skip-slave_start" in seen["first"]
    assert any("removed the run-time settings" in one for one in seen["done"])
    assert seen["socket"] == "active"
    assert "--skip-slave_start" not in seen["second"]


def test_a_unit_that_cannot_take_the_option_is_not_started_without_it(host: Host) -> None:
    host.write(
        "/etc/systemd/system/mariadb.service.d/odd.conf",
        "[Service]\nType=simple\nExecStart=\nExecStart=/bin/sh -c 'cd /; P=/usr/sbin/maria; exec $${P}dbd'\n",
    )
    host.shell("systemctl daemon-reload")
    seen = host.python(
        OF_STOPPED
        + """
settled()
down()
manager = of_stopped(name="mariadb")
try:
    manager.start([SKIP], must=True)
    refused = ""
except ReplicaBackupError as error:
    refused = str(error)
answer = {"takes": manager.takes_options, "warnings": manager.warnings, "refused": refused,
          "running": process() is not None, "left": os.path.exists(manager._drop_in)}
"""
    )
    host.shell("rm /etc/systemd/system/mariadb.service.d/odd.conf; systemctl daemon-reload")
    assert seen["takes"] is False
    assert "ExecStart is not understood" in seen["warnings"][0]
    assert "it was not started" in seen["refused"]
    assert (seen["running"], seen["left"]) == (False, False)


def test_a_masked_unit_is_refused(host: Host) -> None:
    seen = host.python(
        OF_STOPPED
        + """
down()
start = {"exe": "/usr/sbin/mariadbd", "argv": [], "environment": {}, "service": "mariadb.service"}
subprocess.run(["systemctl", "mask", "--runtime", "mariadb.service"])
try:
    _service.of_stopped(start=start, requested="auto", name=None, datadir=DATADIR, pid_file=PID_FILE,
                        own_options=(SKIP,), state_dir=STATE)
    answer = ""
except ReplicaBackupError as error:
    answer = str(error)
subprocess.run(["systemctl", "unmask", "--runtime", "mariadb.service"])
subprocess.run(["systemctl", "daemon-reload"])
"""
    )
    assert "mariadb.service cannot be started" in seen
    assert "masked" in seen


def test_mariadbd_safe_and_the_init_script(host: Host) -> None:
    seen = host.python(
        OF_STOPPED
        + """
def run(manager):
    manager = again(manager)
    manager.start([SKIP], must=True)
    wait_ready()
    found = {"kind": manager.kind, "name": manager.name, "words": words(), "keeps": manager.keeps_options,
             "guardian": by_hand.guardian_of(process()) is not None}
    server, guardian = process(), by_hand.guardian_of(process())
    with connect().cursor() as cursor:
        cursor.execute("SHUTDOWN")
    for one in (server, guardian):
        _server.wait_gone(one, 60)
    return found

down()
answer = {"safe": run(of_stopped(name="/usr/bin/mariadbd-safe --max-connections=60"))}
# On a host without systemd the script does the work itself; with it, it hands over.
os.rename("/run/systemd/system", "/run/systemd/system.away")
try:
    answer["script"] = run(of_stopped(requested="sysvinit", name="mariadb"))
finally:
    os.rename("/run/systemd/system.away", "/run/systemd/system")
"""
    )
    safe, script = seen["safe"], seen["script"]
    assert (safe["kind"], safe["keeps"], safe["guardian"]) == ("mysqld_safe", True, True)
    assert {"--max-connections=60", "--skip-slave_start"} <= set(safe["words"])
    assert (script["kind"], script["name"]) == ("sysvinit", "/etc/init.d/mariadb")
    assert "--skip-slave_start" in script["words"]


def test_nobody_wakes_a_server_while_its_files_are_exchanged(host: Host) -> None:
    seen = host.python(
        OF_STOPPED
        + """
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import asleep, first_start, journal

subprocess.run(["systemctl", "start", "mariadb.socket", "mariadb.service"])
wait_ready()
settled()
start = find_start(Hints())
target = {"exe": start.exe, "argv": list(start.argv), "environment": {}, "service": start.service, "datadir": DATADIR,
          "variables": {"pid_file": PID_FILE}}
head = {"server": {"family": "mariadb", "version": "10.11.0", "datadir": DATADIR, "settings": {}}, "channels": [],
        "places": [{"name": "datadir", "path": DATADIR}]}

def record():
    made = journal.Journal(STATE, "id", "db1/x", "same", head, target)
    made.work.update(asleep.handed_on(STATE))
    return made

def sockets():
    return systemctl("is-active", "mariadb.socket")

first = record()
asleep.keep(first, service_manager="auto", service_name=None)
assert journal.load(STATE) is not None, first.warnings
answer = {"kept": sockets(), "noted": journal.load(STATE).work["manager"]["wakers"]}
# A second restore over one that was never resumed still knows what was stopped; one that came to nothing wakes it.
second = record()
asleep.keep(second, service_manager="auto", service_name=None)
answer["second"] = second.work["manager"]["wakers"]
# systemd starts no socket whose service runs already.
down()
asleep.wake(second)
answer["woken"] = sockets()
# Whoever starts the server starts what was stopped.
asleep.keep(second, service_manager="auto", service_name=None)
down()
loaded = journal.load(STATE)
manager = first_start.target_of(loaded, service_manager="systemd", service_name="mariadb").manager
manager.start([SKIP], must=True)
wait_ready()
manager.after_start()
manager.release()
answer["after"] = sockets()
os.unlink(journal.journal_path(STATE))
"""
    )
    assert seen == {
        "kept": "inactive",
        "noted": seen["noted"],
        "second": seen["noted"],
        "woken": "active",
        "after": "active",
    }
    assert "mariadb.socket" in seen["noted"]
