# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several servers of one Debian 12 host as instances of a unit; units that must not be stopped; servers of no unit."""

from __future__ import annotations

import json
import os
import shutil
import typing as t
from collections.abc import Iterator

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.lab import systemd_host
from ansible_collections.mysql_ops.replica_backup.tests.lab.systemd_host import Host

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("podman") is None, reason="containers with systemd need root and podman"
)

OPTIONS = """
[mariadbd.{name}]
datadir = /var/lib/mysql-{name}
socket = /run/mysqld/{name}.sock
pid_file = /run/mysqld/{name}.pid
port = {port}
"""
# What a test runs inside, about one of the instances.
ABOUT = """
UNIT, SOCKET = "mariadb@{0}", "/run/mysqld/mysqld.sock-{0}"
DATADIR, PID_FILE = "/var/lib/mysql-{0}/", "/run/mysqld/{0}.pid"
"""
DROP_IN = "/etc/systemd/system/mariadb@two.service.d/odd.conf"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with systemd_host.running() as made:
        made.shell("systemctl stop mariadb.socket mariadb.service")
        made.write(
            "/etc/mysql/mariadb.conf.d/90-instances.cnf",
            OPTIONS.format(name="one", port=3311) + OPTIONS.format(name="two", port=3312),
        )
        made.shell(
            "install -d -o mysql -g mysql -m 700 /var/lib/mysql-one /var/lib/mysql-two;"
            "systemctl start mariadb@one.socket mariadb@two.socket mariadb@one mariadb@two"
        )
        yield made


def about(name: str, code: str) -> str:
    return ABOUT.format(name) + code


def test_one_instance_is_away_and_the_other_serves(host: Host) -> None:
    other = about("two", "wait_ready()\nserver = process()\nconnect().close()\nanswer = server.to_dict()")
    before = host.python(other)
    seen = host.python(
        about(
            "one",
            """
wait_ready()
first = process()
manager = detect()
named = detect("systemd", "mariadb@one").to_dict()
try:
    refused = detect("systemd", "mariadb@two")
except ReplicaBackupError as error:
    refused = str(error)
held = manager.hold()
limits = [systemctl("show", "-P", "TimeoutStopUSec", unit) for unit in ("mariadb@one", "mariadb@two")]
asked, proof = stop(manager)
woken = []
for _attempt in range(10):
    for address in (SOCKET, "\\0mariadb-one"):
        try:
            socket.socket(socket.AF_UNIX).connect(address)
            woken.append(address)
        except OSError:
            pass
    time.sleep(0.1)
answer = {
    "manager": manager.to_dict(), "named": named, "refused": refused, "held": held, "asked": asked,
    "clean": proof.clean, "summary": proof.summary, "woken": woken, "limits": limits, "down": process() is None,
    "argv": first.argv,
}
""",
        )
    )
    assert (seen["manager"]["kind"], seen["manager"]["name"]) == ("systemd", "mariadb@one.service")
    assert seen["manager"]["wakers"] == ["mariadb@one.socket"]
    assert seen["manager"]["takes_options"] is True
    assert seen["manager"]["warnings"] == []
    assert seen["named"] == seen["manager"]
    assert "belongs to mariadb@one.service" in seen["refused"] and "mariadb@two.service" in seen["refused"]
    assert len(seen["held"]) == 2
    assert seen["limits"] == ["infinity", "15min"]
    assert seen["asked"] and seen["clean"], seen["summary"]
    assert (seen["woken"], seen["down"]) == ([], True)
    assert host.python(other) == before

    back = host.python(
        about(
            "one",
            f"""
manager = _service.from_dict({seen["manager"]!r})
manager.start(["--skip-slave-start", "--read_only=On"])
wait_ready()
argv = process().argv
after, released = manager.after_start(), manager.release()
settled()
answer = {{
    "argv": argv, "after": after, "released": released,
    "active": systemctl("is-active", "mariadb@one", "mariadb@one.socket", "mariadb@two", "mariadb@two.socket").split(),
    "drop_ins": [systemctl("show", "-P", "DropInPaths", unit) for unit in ("mariadb@one", "mariadb@two")],
}}
systemctl("restart", "mariadb@one")
wait_ready()
answer["next"] = process().argv
""",
        )
    )
    assert back["argv"] == [*seen["argv"], "--skip-slave-start", "--read_only=On"]
    assert len(back["after"]) == 1
    assert back["active"] == ["active"] * 4
    assert back["drop_ins"] == ["", ""]
    assert back["next"] == seen["argv"]
    assert host.python(other) == before


@pytest.fixture
def odd(host: Host) -> Iterator[t.Callable[[str], None]]:
    """Give the second instance settings that last for one test."""

    def write(text: str) -> None:
        host.write(DROP_IN, text)
        host.shell("systemctl daemon-reload")

    yield write
    host.shell(
        f"rm -rf {os.path.dirname(DROP_IN)} /run/systemd/system/mariadb@two.service; systemctl daemon-reload;"
        "systemctl start mariadb@two.socket mariadb@two.service"
    )


REFUSED = """
before = process()
try:
    detect()
except ReplicaBackupError as error:
    answer = [type(error).__name__, error.facts.get("rule"), str(error)]
assert process() == before
"""


@pytest.mark.parametrize(
    ("prepare", "undo", "words"),
    [
        ("systemctl mask --runtime mariadb@two", "systemctl unmask --runtime mariadb@two", "masked"),
        (
            "printf '[Unit]\\nUpholds=mariadb@two.service\\n[Service]\\nExecStart=/bin/sleep infinity\\n'"
            " > /run/systemd/system/keeper.service; systemctl daemon-reload; systemctl start keeper",
            "systemctl stop keeper; rm /run/systemd/system/keeper.service; systemctl daemon-reload",
            "keeper.service would start it at once",
        ),
    ],
    ids=["masked", "upheld"],
)
def test_a_unit_that_would_not_stay_or_come_back_is_refused(host: Host, prepare: str, undo: str, words: str) -> None:
    host.shell(prepare)
    try:
        seen = host.python(about("two", REFUSED))
    finally:
        host.shell(undo)
    assert seen[:2] == ["RefusedError", "service_manager"]
    assert words in seen[2]
    host.python(about("two", "detect()"))


@pytest.mark.parametrize("setting", ["RefuseManualStop=yes", "RefuseManualStart=yes"])
def test_a_unit_that_takes_no_orders_is_refused(host: Host, odd: t.Callable[[str], None], setting: str) -> None:
    odd(f"[Unit]\n{setting}\n")
    seen = host.python(about("two", REFUSED))
    assert seen[:2] == ["RefusedError", "service_manager"]
    assert setting in seen[2] and "systemctl edit mariadb@two.service" in seen[2]


def test_a_transient_unit_is_refused_and_may_be_taken_as_none(host: Host) -> None:
    host.shell(
        "systemctl stop mariadb@two.socket mariadb@two; systemd-run --unit=by-run --uid=mysql"
        " /usr/sbin/mariadbd --defaults-group-suffix=.two --socket=/run/mysqld/mysqld.sock-two"
    )
    try:
        seen = host.python(
            about(
                "two",
                """
UNIT = "by-run"
wait_ready()
"""
                + REFUSED
                + """
before = process()
manager = detect("none")
_asked, proof = stop(manager)
again(manager).start()
wait_ready()
after = process()
answer += [manager.kind, proof.clean, [before.argv, before.uid], [after.argv, after.uid],
           _server.proc_text(after.pid, "cgroup")]
stop(detect())
""",
            )
        )
    finally:
        host.shell("systemctl start mariadb@two.socket mariadb@two.service")
    assert seen[:2] == ["RefusedError", "service_manager"]
    assert "transient" in seen[2] and "replica_backup_service_manager to none" in seen[2]
    assert seen[3:5] == ["none", True]
    assert seen[5] == seen[6]
    assert ".scope" in seen[7]


def test_a_short_limit_is_named_and_one_that_cannot_be_lifted_stops_the_stop(
    host: Host, odd: t.Callable[[str], None]
) -> None:
    odd("[Service]\nTimeoutStopSec=1min 30s\nSendSIGKILL=yes\n")
    # Read after the one that lifts it.
    last = os.path.join(os.path.dirname(DROP_IN), "zzz.conf")
    seen = host.python(
        about(
            "two",
            f"""
before = process()
manager = detect()
warnings = list(manager.warnings)
with open({last!r}, "w") as stream:
    stream.write("[Service]\\nTimeoutStopSec=5\\nSendSIGKILL=yes\\n")
systemctl("daemon-reload")
try:
    manager.hold()
    refused = None
except ReplicaBackupError as error:
    refused = str(error)
left = manager.after_start(), manager.release(), systemctl("is-active", "mariadb@two.socket")
answer = [warnings, refused, left, process() == before]
""",
        )
    )
    assert len(seen[0]) == 1
    assert "90 s" in seen[0][0] and "systemctl edit mariadb@two.service" in seen[0][0]
    assert "cannot be lifted" in seen[1] and "TimeoutStopSec=infinity" in seen[1]
    assert len(seen[2][0]) == 1 and seen[2][2] == "active"
    assert seen[3] is True


def test_a_stop_that_systemd_cut_short_is_not_clean(host: Host, odd: t.Callable[[str], None]) -> None:
    # A signal that the server does not listen to stands for a shutdown that takes longer than systemd waits.
    odd("[Service]\nKillSignal=SIGWINCH\nTimeoutStopSec=1\nSendSIGKILL=yes\n")
    seen = host.python(
        about(
            "two",
            """
with connect().cursor() as cursor:
    cursor.execute("CREATE DATABASE IF NOT EXISTS d")
    cursor.execute("CREATE OR REPLACE TABLE d.t (a INT) ENGINE=InnoDB")
    cursor.execute("INSERT INTO d.t VALUES (1)")
    cursor.connection.commit()
manager = detect()
asked, proof = stop(manager)
answer = [asked, proof.clean, proof.summary, systemctl("show", "-P", "Result", "mariadb@two")]
systemctl("reset-failed", "mariadb@two")
""",
        )
    )
    assert seen[:2] == [True, False]
    assert "redo_log" in seen[2]
    assert seen[3] == "timeout"


BY_HAND = "--datadir=/var/lib/mysql-two --socket=/run/mysqld/two.sock --pid-file=/run/mysqld/two.pid --port=3312"
SESSION = """
DATADIR, PID_FILE, SOCKET = "/var/lib/mysql-two/", "/run/mysqld/two.pid", "/run/mysqld/two.sock"
"""
FACTS = """
server = process()
def facts():
    limits = _server.proc_text(server.pid, "limits")
    names = ("HOME", "PATH", "TZ", "SECRET")
    environment = dict(word.split("=", 1) for word in _server.proc_text(server.pid, "environ").split("\\0") if word)
    return [server.argv, server.uid, server.gid, limits, [environment.get(name) for name in names]]
"""


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (f"/usr/sbin/mariadbd {BY_HAND} --user=mysql", "none"),
        (f"/usr/bin/mariadbd-safe {BY_HAND}", "mysqld_safe"),
    ],
    ids=["none", "mysqld_safe"],
)
def test_a_server_of_no_unit_outlives_the_session_that_starts_it_again(host: Host, command: str, kind: str) -> None:
    host.shell("systemctl stop mariadb@two.socket mariadb@two")
    host.shell(f"cd /tmp && ulimit -n 5000 && TZ=Asia/Kathmandu setsid -f {command} >/dev/null 2>&1")
    try:
        before = host.python(SESSION + "wait_ready()" + FACTS + "answer = facts()")
        stopped = host.python(
            SESSION
            + """
manager = detect()
_asked, proof = stop(manager)
answer = [manager.to_dict(), proof.clean]
"""
        )
        assert (stopped[0]["kind"], stopped[1]) == (kind, True)
        told = host.python(
            SESSION
            + f"""
manager = _service.from_dict({stopped[0]!r})
os.environ["SECRET"] = "hidden"
manager.start()
wait_ready()
answer = [manager.after_start(), _server.proc_text(os.getpid(), "cgroup")]
""",
            session=True,
        )
        assert told[0] == []
        assert ".service" in told[1], "a session whose end ends everything in it"
        after = host.python(
            SESSION
            + "connect().close()"
            + FACTS
            + """
guardian = by_hand.guardian_of(server)
group = _server.proc_text((guardian or server).pid, "cgroup")
answer = [facts(), group == _server.proc_text(server.pid, "cgroup"), group, detect().to_dict()["kind"]]
_asked, proof = stop(detect())
for _attempt in range(100):
    left = systemctl("list-units", "--all", "--plain", "--no-legend", "mysql-replica-backup*")
    if not left:
        break
    time.sleep(0.1)
answer += [proof.clean, left]
"""
        )
    finally:
        host.shell("systemctl start mariadb@two.socket mariadb@two.service")
    assert after[0] == before
    assert after[1] is True
    assert "mysql-replica-backup-" in after[2] and ".scope" in after[2]
    assert after[3:] == [kind, True, ""]
    assert "hidden" not in json.dumps(after)


def test_a_unit_made_from_an_init_script(host: Host) -> None:
    """As on hosts whose server came with a script only. Debian's kills every server when its own stop is slow."""
    other = host.python(about("one", "wait_ready()\nanswer = process().to_dict()"))
    host.shell(
        "mkdir -p /root/units; mv /lib/systemd/system/mariadb.service /lib/systemd/system/mariadb.socket /root/units;"
        "systemctl daemon-reload; systemctl start mariadb"
    )
    try:
        seen = host.python(
            """
wait_ready()
before = process().argv
manager = detect()
first = manager.to_dict()
manager.hold()
asked, proof = stop(manager)
down = manager.status()
again(manager).start(["--skip-slave-start"])
wait_ready()
argv = process().argv
manager.after_start()
# What a run leaves that is killed between the shutdown and the stop of the unit.
manager = detect()
with connect().cursor() as cursor:
    cursor.execute("SHUTDOWN")
_server.wait_gone(process(), 60)
deadline = time.monotonic() + 30
while manager.status().endswith("(running)") and time.monotonic() < deadline:
    # The script's own loop ends a moment after its server.
    time.sleep(0.1)
left = manager.status()
again(manager).start()
wait_ready()
answer = [first, asked, proof.clean, proof.summary, down, argv, left, process().argv == before]
"""
        )
    finally:
        host.shell(
            "systemctl stop mariadb; mv /root/units/mariadb.* /lib/systemd/system/; systemctl daemon-reload;"
            "systemctl stop mariadb"
        )
    assert (seen[0]["kind"], seen[0]["name"], seen[0]["by_script"]) == ("systemd", "mariadb.service", True)
    assert seen[0]["warnings"] == [
        "mariadb.service kills servers by force when its stop is slow: SQL SHUTDOWN is used instead"
    ]
    assert seen[1] is False
    assert seen[2], seen[3]
    assert seen[4] == "systemd unit mariadb.service is inactive (dead)"
    assert "--skip-slave-start" in seen[5]
    assert seen[6] == "systemd unit mariadb.service is active (exited)"
    assert seen[7] is True
    assert host.python(about("one", "answer = process().to_dict()")) == other
