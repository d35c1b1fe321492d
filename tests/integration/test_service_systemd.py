# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Service managers on a real Debian 12 host: systemd with socket activation, the init script, mariadbd-safe.

The host is a container of the lab's image, or of the one that SERVICE_TEST_IMAGE names.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab import systemd_host
from ansible_collections.mysql_ops.replica_backup.tests.lab.systemd_host import Host

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("podman") is None, reason="containers with systemd need root and podman"
)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with systemd_host.running() as made:
        yield made


# The unit as Debian has it since 10.11.19: the server is the last command of a shell's string.
SHELL_UNIT = """[Service]
ExecStart=
ExecStart=/bin/sh -c "set -f; [ ! -e /usr/bin/galera_recovery ] && VAR= || \\
 VAR=`/usr/bin/galera_recovery`; [ $? -eq 0 ] || exit 1; \\
 exec /usr/sbin/mariadbd $MYSQLD_OPTS $_WSREP_NEW_CLUSTER $VAR"
"""
PLAIN_UNIT = """[Service]
ExecStart=
ExecStart=/usr/sbin/mariadbd \\
  # a comment between the lines
  --max-connections=50 $MYSQLD_OPTS
TimeoutStopSec=1
SendSIGKILL=yes
Restart=always
"""


@pytest.mark.parametrize("unit", [SHELL_UNIT, PLAIN_UNIT], ids=["shell", "plain"])
def test_systemd_stops_holds_and_starts(host: Host, unit: str) -> None:
    host.write("/etc/systemd/system/mariadb.service.d/override.conf", unit)
    host.write(
        "/etc/systemd/system/app.service",
        "[Unit]\nRequires=mariadb.service\nAfter=mariadb.service\n[Service]\nExecStart=/bin/sleep infinity\n",
    )
    host.shell("systemctl daemon-reload; systemctl restart mariadb; systemctl start app")
    seen = host.python(
        """
        manager = detect()
        first = manager.to_dict()
        held = manager.hold()
        limit = systemctl("show", "-P", "TimeoutStopUSec", "mariadb"), systemctl("show", "-P", "SendSIGKILL", "mariadb")
        asked, proof = stop(manager)
        # Clients that knock at both doors do not wake it.
        woken = []
        for _attempt in range(30):
            for knock in (lambda: socket.create_connection(("127.0.0.1", 3306), 1), connect):
                try:
                    knock().close()
                    woken.append(1)
                except (OSError, pymysql.Error):
                    pass
            time.sleep(0.1)
        answer = {
            "manager": first, "held": held, "limit": limit, "asked": asked, "clean": proof.clean,
            "summary": proof.summary, "woken": woken, "process": process() is not None, "status": manager.status(),
            "after": manager.to_dict(),
        }
        """
    )
    assert seen["manager"]["kind"] == "systemd"
    assert seen["manager"]["wakers"] == ["mariadb.socket"]
    assert seen["manager"]["dependents"] == ["app.service"]
    assert len(seen["held"]) == 2
    assert seen["limit"] == ["infinity", "no"]
    assert seen["asked"] is True
    assert seen["clean"], seen["summary"]
    assert (seen["woken"], seen["process"]) == ([], False)
    assert seen["status"] == "systemd unit mariadb.service is inactive (dead)"

    seen = host.python(
        f"""
        manager = _service.from_dict({seen["after"]!r})
        manager.start(["--skip-slave-start"])
        wait_ready()
        # At once, while the unit may still be running its commands after the start.
        argv = process().argv
        failure = manager.failure()
        after = manager.after_start(), manager.after_start()
        released = manager.release()
        settled()
        answer = {{
            "argv": argv, "failure": failure, "after": after, "released": released,
            "active": systemctl("is-active", "mariadb", "mariadb.socket", "app").split(),
            "limit": systemctl("show", "-P", "TimeoutStopUSec", "mariadb"),
            "drop_ins": systemctl("show", "-P", "DropInPaths", "mariadb"),
            "reload": systemctl("show", "-P", "NeedDaemonReload", "mariadb"),
        }}
        """
    )
    assert seen["argv"][-1] == "--skip-slave-start"
    assert seen["argv"][0] == "/usr/sbin/mariadbd"
    assert seen["failure"] is None
    assert [len(done) for done in seen["after"]] == [1, 0]
    assert seen["released"] == ["started app.service"]
    assert seen["active"] == ["active", "active", "active"]
    assert seen["limit"] == ("1s" if "TimeoutStopSec" in unit else "15min")
    assert seen["drop_ins"] == "/etc/systemd/system/mariadb.service.d/override.conf"
    assert seen["reload"] == "no"

    # The next restart by anybody is a normal one, and so is a start that need not skip.
    seen = host.python(
        """
        systemctl("restart", "mariadb")
        wait_ready()
        first = process().argv
        manager = detect()
        manager.hold()
        stop(manager)
        manager.start()
        wait_ready()
        answer = first, process().argv, systemctl("is-active", "mariadb.socket"), manager.after_start()
        """
    )
    for argv in seen[:2]:
        assert "--skip-slave-start" not in argv
    assert seen[2:] == ["active", []]


def test_systemd_starts_it_again_by_itself(host: Host) -> None:
    host.write("/etc/systemd/system/mariadb.service.d/override.conf", "[Service]\nRestart=always\nRestartSec=1s\n")
    host.shell("systemctl daemon-reload; systemctl restart mariadb")
    seen = host.python(
        """
        manager = detect()
        server = process()
        os.kill(server.pid, 9)
        _server.wait_gone(server, 60)
        try:
            manager.wait_stopped(60)
        except ReplicaBackupError as error:
            answer = str(error)
        wait_ready()
        """
    )
    assert "being started again" in seen


def test_a_start_that_fails_is_told(host: Host) -> None:
    host.shell("rm -rf /etc/systemd/system/mariadb.service.d; systemctl daemon-reload; systemctl restart mariadb")
    seen = host.python(
        """
        manager = detect()
        manager.hold()
        stop(manager)
        with open("/etc/mysql/mariadb.conf.d/99-bad.cnf", "w") as stream:
            stream.write("[mysqld]\\nno-such-option=1\\n")
        # Without the socket, which would have clients start it over and over.
        systemctl("stop", "mariadb.socket")
        manager = _service.from_dict({**manager.to_dict(), "wakers": []})
        manager.start(["--skip-slave-start"])
        failure = None
        while failure is None:
            failure = manager.failure()
            time.sleep(0.1)
        os.unlink("/etc/mysql/mariadb.conf.d/99-bad.cnf")
        manager.start(["--skip-slave-start"])
        wait_ready()
        answer = failure, manager.after_start()
        """
    )
    assert "mariadb.service failed" in seen[0]
    assert len(seen[1]) == 1


LEAVE_SYSTEMD = """
systemctl stop mariadb.socket mariadb.service; rm -rf /etc/systemd/system/mariadb.service.d
systemctl daemon-reload
"""


DEADMAN_PRELUDE = """
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _deadman, _ledger, _start, _stop
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._guards import Policy
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths

LOGIN = Login(user="root", unix_socket="/run/mysqld/mysqld.sock", config_file=None)

def threads():
    with connect().cursor(pymysql.cursors.DictCursor) as cursor:
        cursor.execute("SHOW SLAVE STATUS")
        row = cursor.fetchall()[0]
    return [row["Slave_IO_Running"], row["Slave_SQL_Running"]]
"""


def watchers(host: Host) -> str:
    """Process number of the dead-man's watcher, 0 when it does not run."""
    units = "systemctl list-units --all --plain --no-legend 'mysql-replica-backup-deadman-*-*.service' | cut -d' ' -f1"
    return host.shell(f"systemctl show -p MainPID --value $({units})").strip()


@pytest.mark.parametrize(
    ("kind", "limits", "reason"),
    [
        # Its watcher is killed, as by the out-of-memory killer; it comes again, and the timer stands behind it.
        ("systemd", "downtime_budget=12.0", "deadline"),
        ("none", "downtime_budget=3000.0, gap=2.0, look_every=0.5", "nobody has been at work"),
    ],
)
def test_the_dead_man_is_a_unit_that_needs_nobody(host: Host, kind: str, limits: str, reason: str) -> None:
    host.shell("rm -rf /etc/systemd/system/mariadb.service.d; systemctl daemon-reload; rm -rf /root/state")
    host.shell("systemctl stop mariadb.service; systemctl start mariadb.socket mariadb.service")
    if kind == "none":
        host.shell("systemctl stop mariadb.socket mariadb.service; setsid -f mariadbd --user=mysql >/dev/null 2>&1")
    stopped = host.python(
        DEADMAN_PRELUDE
        + """
wait_ready()
settled()
with connect().cursor() as cursor:
    cursor.execute("CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT=1, MASTER_USER='none'")
    cursor.execute("START SLAVE SQL_THREAD")
before = threads()
result = _stop.stop(_stop.StopRequest(
    login=LOGIN, paths=SetPaths("/root/spool", "db", "20260101T000000Z"), state_dir=STATE, run_id="r",
    compression="none",
    policy=Policy(allow_stopped_channels=True, allow_channel_errors=True, allow_refetch=True), LIMITS))
answer = [before, result["clean_stop"]["clean"], _deadman.armed(STATE)["kind"], process() is None,
          result["service"]["manager"]]
""".replace("LIMITS", limits),
        session=True,
    )
    if kind == "systemd":
        before = watchers(host)
        host.shell("systemctl kill -s KILL 'mysql-replica-backup-deadman-*-*.service'")
        deadline = time.monotonic() + 30
        while watchers(host) in ("", "0", before):
            assert time.monotonic() < deadline, host.shell("journalctl -n 30 --no-pager")
            time.sleep(0.2)
    assert stopped == [["No", "Yes"], True, "systemd", True, kind]
    # The module has ended and nobody is connected; a client that polls the socket must not wake the server either.
    deadline = time.monotonic() + 60
    while '"finished"' not in host.shell("cat /root/state/deadman.fired 2>/dev/null"):
        assert time.monotonic() < deadline, host.shell("systemctl list-timers --all; journalctl -n 30 --no-pager")
        time.sleep(0.5)
    back = host.python(
        DEADMAN_PRELUDE
        + """
wait_ready()
record = _deadman.fired(STATE)
result = _start.start(_start.StartRequest(login=LOGIN, state_dir=STATE, recover=True, take_over=True))
answer = [record["reason"], record["outcome"], threads(), systemctl("is-active", "mariadb.socket"),
          result["server_restored"], os.path.exists("/run/systemd/system/mariadb.service.d"),
          os.path.exists(STATE + "/deadman.login"),
          _server.proc_text(process().pid, "cgroup")]
with connect().cursor() as cursor:
    cursor.execute("STOP SLAVE")
    cursor.execute("RESET SLAVE ALL")
if systemctl("is-active", "mariadb") != "active":
    stop(detect())
"""
    )
    socket = {"systemd": "active", "none": "inactive"}[kind]
    assert reason in back[0]
    assert back[1:-1] == ["server started", ["No", "Yes"], socket, True, False, False]
    assert {"systemd": "mariadb.service", "none": "mysql-replica-backup-"}[kind] in back[-1]
    assert "deadman" not in back[-1]
    # Called off by the recovery, or ended by themselves: nothing of it is left to act once more.
    assert host.shell("systemctl list-units --all --plain --no-legend 'mysql-replica-backup-deadman-*'") == ""


def test_a_dead_man_that_is_armed_for_another_time_has_a_timer_all_the_while(host: Host) -> None:
    """Killed between the two timers, both are there; whatever comes later finds them."""
    first, between, second, after = host.python(
        DEADMAN_PRELUDE
        + """
state = "/root/again"
_ledger.prepare_state_dir(state)
ledger = _ledger.open_new(state, {"run_id": "r", "server": {}, "before": {}, "service": {}})
ledger.data.update(backup_id="20260101T000000Z", host="db")
ledger.save(lease=500.0)

def arm(seconds):
    armed = _deadman.arm(ledger, LOGIN, seconds)
    return [armed["pid"], armed["unit"] + ".timer"]

def killed(*arguments):
    raise KeyboardInterrupt

def names():
    lines = systemctl("list-units", "--plain", "--no-legend", "mysql-replica-backup-deadman-*.timer").splitlines()
    return sorted(line.split()[0] for line in lines)

answer = [[*arm(1000.0), names()]]
write, _deadman._write_armed = _deadman._write_armed, killed
try:
    arm(500.0)
except KeyboardInterrupt:
    answer.append([_deadman.armed(state)["unit"] + ".timer", names()])
_deadman._write_armed = write
answer.append([*arm(500.0), names()])
_deadman.disarm(state)
answer.append(names())
"""
    )
    watcher, unit, timers = first
    assert timers == [unit]
    assert between[0] == unit
    assert unit in between[1]
    assert len(between[1]) == 2
    assert second[0] == watcher
    assert second[1] != unit
    assert second[2] == [second[1]]
    assert after == []


def test_mariadbd_safe_as_root(host: Host) -> None:
    host.shell(LEAVE_SYSTEMD)
    # As from a terminal: a session that goes away, in the control group of whatever runs it.
    host.shell("cd /tmp && API_TOKEN=hidden setsid -f /usr/bin/mariadbd-safe --max-connections=60 >/dev/null 2>&1")
    seen = host.python(
        """
        wait_ready()
        manager = detect()
        kind, guardian = manager.kind, manager.to_dict()["guardian"]
        asked, proof = stop(manager)
        left = [pid for pid in _server._all_pids() if "mariadbd-safe" in _server._command_name(pid)]
        answer = {
            "kind": kind, "guardian": guardian, "asked": asked, "clean": proof.clean, "summary": proof.summary,
            "left": left, "manager": manager.to_dict(), "held": manager.hold(),
        }
        """
    )
    assert (seen["kind"], seen["asked"], seen["held"], seen["left"]) == ("mysqld_safe", False, [], [])
    assert seen["clean"], seen["summary"]
    assert "hidden" not in json.dumps(seen["manager"])
    assert seen["guardian"]["argv"][-1] == "--max-connections=60"

    host.python(f"_service.from_dict({seen['manager']!r}).start(['--skip-slave-start'])")
    # That process is gone now, and its connection with it.
    seen = host.python(
        """
        wait_ready()
        server = process()
        guardian = by_hand.guardian_of(server)
        answer = server.argv, server.uid, guardian.to_dict(), open(f"/proc/{guardian.pid}/environ").read()
        with connect().cursor() as cursor:
            cursor.execute("SHUTDOWN")
        _server.wait_gone(server, 60)
        _server.wait_gone(guardian, 60)
        """
    )
    assert "--skip-slave-start" in seen[0] and "--max-connections=60" in seen[0]
    assert seen[1] != 0
    assert (seen[2]["uid"], seen[2]["parent_pid"], seen[2]["cwd"]) == (0, 1, "/tmp")
    assert "hidden" not in seen[3]


def test_debians_init_script(host: Host) -> None:
    host.shell(LEAVE_SYSTEMD)
    # On a host without systemd the script does the work itself; with it, it hands over.
    host.shell("mv /run/systemd/system /run/systemd/system.away")
    try:
        host.shell("setsid -f /etc/init.d/mariadb start >/dev/null 2>&1 </dev/null")
        seen = host.python(
            """
            wait_ready()
            while subprocess.run(["/etc/init.d/mariadb", "status"], capture_output=True).returncode != 0:
                time.sleep(0.2)
            manager = detect()
            record = manager.to_dict()
            asked, proof = stop(manager)
            again(manager).start(["--skip-slave-start"])
            wait_ready()
            server = process()
            answer = {
                "record": record, "asked": asked, "clean": proof.clean, "summary": proof.summary,
                "argv": server.argv, "failure": manager.failure(), "status": manager.status(),
            }
            stop(detect())
            """
        )
    finally:
        host.shell("mv /run/systemd/system.away /run/systemd/system")
    assert (seen["record"]["kind"], seen["record"]["name"]) == ("sysvinit", "/etc/init.d/mariadb")
    assert seen["asked"] is False, "the script would use killall -9"
    assert len(seen["record"]["warnings"]) == 1
    assert seen["clean"], seen["summary"]
    assert "--skip-slave-start" in seen["argv"]
    assert seen["failure"] is None
