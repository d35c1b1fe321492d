# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Service managers: systemd against recorded answers of a Debian 12 host, the others with real servers.

``fixtures/systemd/*.json`` hold what systemctl 252 really said, call by call; a stand-in on PATH says it again
and fails when it is asked for anything else. ``tests/integration/test_service_systemd.py`` does it for real.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import typing as t
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server, _service
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers import (
    by_hand,
    commands,
    init_script,
    launch,
    systemd,
    sysvinit,
    unit_file,
    unmanaged,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._managers.interface import Found, ServiceManager
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils.real_server import (
    RealServer,
    needs_server,
    template_datadir,
)

FIXTURES = Path(__file__).parent / "fixtures" / "systemd"
SKIP = "--skip-slave-start"
OWN_OPTIONS = (SKIP, "--read_only=On")
OWN = "/run/systemd/system/mariadb.service.d/zz-replica-backup.conf"

REPLAY = """#!{python}
import json, os, sys
base = os.path.dirname(os.path.abspath(sys.argv[0]))
with open(base + "/calls.json") as stream:
    calls = json.load(stream)
if not calls or calls[0]["argv"] != sys.argv[1:]:
    sys.exit("asked for %s, recorded is %s" % (sys.argv[1:], calls and calls[0]["argv"]))
with open(base + "/calls.json", "w") as stream:
    json.dump(calls[1:], stream)
sys.stdout.write(calls[0]["stdout"])
sys.stderr.write(calls[0]["stderr"])
sys.exit(calls[0]["rc"])
"""


class Replay:
    """The recorded systemctl, and a run-time unit directory of our own."""

    def __init__(self, path: Path) -> None:
        self.units = path / "units"
        self.units.mkdir()
        self._calls = path / "bin" / "calls.json"
        self._calls.parent.mkdir()
        program = path / "bin" / "systemctl"
        program.write_text(REPLAY.format(python=sys.executable))
        program.chmod(0o755)

    def load(self, name: str) -> dict[str, t.Any]:
        text = (FIXTURES / f"{name}.json").read_text(encoding="utf-8")
        record: dict[str, t.Any] = json.loads(text.replace("/run/systemd/system/", f"{self.units}/"))
        self._calls.write_text(json.dumps(record["calls"]))
        return record

    def done(self) -> bool:
        """Whether every recorded call was made."""
        return self._calls.read_text() == "[]"

    @property
    def drop_in(self) -> Path:
        return self.units / "mariadb.service.d" / "zz-replica-backup.conf"


@pytest.fixture
def replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replay:
    made = Replay(tmp_path)
    monkeypatch.setattr(systemd, "_RUNTIME_UNITS", str(made.units))
    monkeypatch.setattr(systemd, "_POLL", 0.001)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


def _detect_recorded(
    monkeypatch: pytest.MonkeyPatch, record: dict[str, t.Any], requested: str = "auto", name: str | None = None
) -> ServiceManager:
    monkeypatch.setattr(_server, "proc_text", lambda pid, file: record["cgroup"] if file == "cgroup" else "")
    return _service.detect(
        process=ServerProcess.from_dict(record["process"]),
        requested=requested,
        name=name,
        variables={"datadir": "/var/lib/mysql/", "pid_file": "/run/mysqld/mysqld.pid"},
        own_options=OWN_OPTIONS,
        state_dir="/nowhere",
    )


# --- systemd ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/mariadb.service\n", "mariadb.service"),
        ("0::/system.slice/system-mariadb.slice/mariadb@one.service\n", "mariadb@one.service"),
        ("0::/system.slice/mysqld.service/inner\n", "mysqld.service"),
        (
            "12:pids:/x\n1:name=systemd:/libpod_parent/libpod-12ab/system.slice/mariadb.service\n0::/x\n",
            "mariadb.service",
        ),
        ("1:name=systemd:/\n0::/system.slice/mysql.service\n", "mysql.service"),
        ("0::/machine.slice/libpod-12ab.scope/system.slice/mariadb.service\n", "mariadb.service"),
        ("0::/system.slice/docker-12ab.scope\n", None),
        ("0::/system.slice/x.service/libpod-payload.scope\n", None),
        ("0::/user.slice/user-0.slice/session-4.scope\n", None),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/mysql.service\n", None),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_the_unit_of_a_process(cgroup: str, unit: str | None) -> None:
    assert systemd._unit_of(cgroup) == unit


GALERA = (
    '/bin/sh -c "set -f; [ ! -e /usr/bin/galera_recovery ] && VAR= ||   VAR=`/usr/bin/galera_recovery`; '
    "[ $? -eq 0 ] || exit 1;   exec /usr/sbin/mariadbd $MYSQLD_OPTS $_WSREP_NEW_CLUSTER $VAR"
)


@pytest.mark.parametrize(
    ("file", "command", "with_option"),
    [
        (
            "cat-mariadb-10.11.18.txt",
            "/usr/sbin/mariadbd $MYSQLD_OPTS $_WSREP_NEW_CLUSTER $_WSREP_START_POSITION",
            f"/usr/sbin/mariadbd $MYSQLD_OPTS $_WSREP_NEW_CLUSTER $_WSREP_START_POSITION {SKIP}",
        ),
        ("cat-mariadb-10.11.19.txt", f'{GALERA}"', f'{GALERA} {SKIP}"'),
        (
            "cat-override.txt",
            "/usr/sbin/mariadbd --basedir=/usr    --max-connections=50    $MYSQLD_OPTS",
            f"/usr/sbin/mariadbd --basedir=/usr    --max-connections=50    $MYSQLD_OPTS {SKIP}",
        ),
    ],
)
def test_the_start_command_of_recorded_units(file: str, command: str, with_option: str) -> None:
    cat = (FIXTURES / file).read_text(encoding="utf-8")
    assert unit_file.exec_start(cat, OWN) == [command]
    assert unit_file.with_options([command], [SKIP]) == with_option
    ours = f"{cat}\n# {OWN}\n[Service]\nExecStart=\nExecStart=/usr/sbin/mariadbd --ours\n"
    assert unit_file.exec_start(ours, OWN) == [command], "our own drop-in does not count"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("[Unit]\nExecStart=/x\n", []),
        ("[Service]\nExecStartPre=/x\nExecStart = /a b \n", ["/a b"]),
        ("[Service]\nExecStart=/a\n#ExecStart=/b\n;ExecStart=/c\nExecStart=/d\n", ["/a", "/d"]),
        ("[Service]\nExecStart=/a\n\n# /etc/x.conf\n[Service]\nExecStart=\nExecStart=/b\n", ["/b"]),
        ("[Service]\nExecStart=/a \\\n# no\n   b\\\n  c\nType=notify\n", ["/a     b   c"]),
        ("[Service]\nEnvironment=A=b \\\nExecStart=/in-the-value\n", []),
    ],
)
def test_reading_unit_files(text: str, expected: list[str]) -> None:
    assert unit_file.exec_start(text, OWN) == expected


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        (["/usr/sbin/mysqld"], "/usr/sbin/mysqld --o"),
        (["/usr/libexec/mysqld --basedir=/usr --user=mysql"], "/usr/libexec/mysqld --basedir=/usr --user=mysql --o"),
        (["-/usr/bin/mysqld_safe --basedir=/usr"], "-/usr/bin/mysqld_safe --basedir=/usr --o"),
        (["numactl --interleave=all /usr/sbin/mariadbd $A"], "numactl --interleave=all /usr/sbin/mariadbd $A --o"),
        (["@/usr/sbin/mysqld mysqld --x"], "@/usr/sbin/mysqld mysqld --x --o"),
        (["/bin/bash -ec 'exec mysqld $X'"], "/bin/bash -ec 'exec mysqld $X --o'"),
        (["/bin/sh -c 'mysqld --install; echo done'"], None),
        (["/bin/sh -c 'echo \\'a; exec /usr/sbin/mysqld'"], "/bin/sh -c 'echo \\'a; exec /usr/sbin/mysqld --o'"),
        (["/bin/sh /usr/local/bin/wrapper /usr/sbin/mysqld"], None),
        (["/bin/sh -c exec\\ mysqld"], None),
        (["/usr/local/bin/start-database"], None),
        (["/usr/bin/mysqld_multi start 1"], None),
        (["/usr/sbin/mysqld --a ; /bin/true"], None),
        (["/usr/sbin/mysqld", "/usr/sbin/mysqld"], None),
        (["/etc/init.d/not-there-at-all start"], None),
        ([], None),
    ],
)
def test_where_the_option_goes(commands: list[str], expected: str | None) -> None:
    assert unit_file.with_options(commands, ["--o"]) == expected


def test_a_recorded_host_is_recognised(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    record = replay.load("detect")
    manager = _detect_recorded(monkeypatch, record)
    assert replay.done()
    assert manager.to_dict() == record["manager"]
    assert manager.to_dict()["wakers"] == ["mariadb.socket"]
    assert manager.to_dict()["dependents"] == ["app.service"]
    assert manager.takes_options
    assert _service.from_dict(json.loads(json.dumps(manager.to_dict()))) == manager


def test_a_unit_that_is_not_understood_is_known_before_the_stop(
    replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = _detect_recorded(monkeypatch, replay.load("detect-odd"))
    assert not manager.takes_options
    assert SKIP in manager.warnings[0]


def test_an_alias_names_the_unit(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {**replay.load("detect"), **replay.load("detect-alias")}
    assert _detect_recorded(monkeypatch, record, "systemd", "mysql").name == "mariadb.service"
    assert replay.done()


@pytest.mark.parametrize("requested", ["systemd", "auto"])
def test_another_unit_is_refused(replay: Replay, monkeypatch: pytest.MonkeyPatch, requested: str) -> None:
    record = {**replay.load("detect"), **replay.load("detect-wrong-name")}
    with pytest.raises(RefusedError) as caught:
        _detect_recorded(monkeypatch, record, requested, "app")
    assert caught.value.facts["rule"] == "service_manager"
    assert caught.value.expected == "app.service"
    assert "mariadb.service" in str(caught.value.found)


def _edited(replay: Replay, before: str, after: str) -> dict[str, t.Any]:
    record = replay.load("detect")
    text = json.dumps(record["calls"])
    assert before in text
    replay._calls.write_text(text.replace(before, after))
    return record


def test_a_unit_in_motion_is_refused(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    record = _edited(replay, "ActiveState=active\\nSubState=running", "ActiveState=activating\\nSubState=start-post")
    with pytest.raises(RefusedError, match=r"activating \(start-post\)"):
        _detect_recorded(monkeypatch, record)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("LoadState=loaded", "LoadState=not-found", "its unit file is not-found"),
        ("LoadState=loaded", "LoadState=masked", "its unit file is masked"),
        ("Transient=no", "Transient=yes", "transient"),
        ("RefuseManualStop=no", "RefuseManualStop=yes", "RefuseManualStop"),
        ("RefuseManualStart=no", "RefuseManualStart=yes", "RefuseManualStart"),
    ],
)
def test_a_unit_that_could_not_come_back_is_refused(
    replay: Replay, monkeypatch: pytest.MonkeyPatch, before: str, after: str, words: str
) -> None:
    record = _edited(replay, before, after)
    if "LoadState" in before:
        # Nothing to be read then.
        calls = json.loads(replay._calls.read_text())
        replay._calls.write_text(json.dumps([call for call in calls if "cat" not in call["argv"]]))
    with pytest.raises(RefusedError, match=words) as caught:
        _detect_recorded(monkeypatch, record)
    assert caught.value.next_command


@pytest.mark.parametrize(
    ("limit", "kills", "timeout", "warned"),
    [
        ("1min 30s", "yes", 1800.0, "90 s"),
        ("1min 30s", "yes", 60.0, None),
        ("1min 30s", "no", 1800.0, None),
        ("infinity", "yes", 1800.0, None),
        ("500ms", "yes", 1.0, "0.5 s"),
        ("1h 2min", "yes", 3721.0, "3720 s"),
    ],
)
def test_a_limit_that_would_kill_is_named(
    replay: Replay, limit: str, kills: str, timeout: float, warned: str | None
) -> None:
    found = Found(ServerProcess(1, 1, "", (), "", 0, 0, 1), None, {}, OWN_OPTIONS, "", timeout)
    manager = t.cast(systemd.Systemd, _service.from_dict(replay.load("stop")["manager"]))
    state = {"TimeoutStopUSec": limit, "SendSIGKILL": kills, "KillMode": "control-group", "MainPID": "1"}
    said = systemd._warnings(manager, state, [], found)
    kill = [line for line in said if "kills" in line]
    assert kill == [line for line in said if warned is not None and warned in line]
    assert len(kill) == (warned is not None)
    # As generated for init scripts: systemd knows no process that it would kill.
    said = systemd._warnings(manager, {**state, "KillMode": "process", "MainPID": "0"}, [], found)
    assert not [line for line in said if "kills" in line]


def test_units_belong_to_root(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    record = replay.load("detect")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RefusedError, match="become"):
        _detect_recorded(monkeypatch, record)


def test_an_edited_unit_is_warned_of(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = _detect_recorded(monkeypatch, _edited(replay, "NeedDaemonReload=no", "NeedDaemonReload=yes"))
    assert "was edited" in manager.warnings[0]


def _inside(replay: Replay, unit: str, start: str, **state: str) -> dict[str, t.Any]:
    """The recorded host, its unit called ``unit`` and started by ``start``, with a server that is not its MainPID."""
    record = replay.load("detect")
    for call in record["calls"]:
        call["argv"] = [unit if word == "mariadb.service" else word for word in call["argv"]]
        call["stdout"] = call["stdout"].replace("Id=mariadb.service", f"Id={unit}")
        for key, value in state.items():
            call["stdout"] = re.sub(rf"^{key}=.*$", f"{key}={value}", call["stdout"], flags=re.MULTILINE)
        if "cat" in call["argv"]:
            call["stdout"] += f"\n# /etc/systemd/system/{unit}.d/z.conf\n[Service]\nExecStart=\nExecStart={start}\n"
    replay._calls.write_text(json.dumps(record["calls"]))
    record["cgroup"] = record["cgroup"].replace("mariadb.service", unit)
    record["process"]["pid"] += 1
    return record


def _find_inside(monkeypatch: pytest.MonkeyPatch, record: dict[str, t.Any], name: str | None) -> ServiceManager | None:
    monkeypatch.setattr(_server, "proc_text", lambda pid, file: record["cgroup"] if file == "cgroup" else "")
    found = Found(ServerProcess.from_dict(record["process"]), name, {}, OWN_OPTIONS, "", 1800.0)
    return systemd.find(found, required=False)


@pytest.mark.parametrize(
    ("unit", "start"),
    [
        ("ssh.service", "/usr/sbin/sshd -D $SSHD_OPTS"),
        ("ssh@mysql-host.service", "/usr/sbin/sshd -i"),
        ("cron.service", "/usr/sbin/cron -f $EXTRA_OPTS"),
        ("lab.service", "/usr/local/bin/run-jobs --all"),
        ("actions.runner.mysql_ops-replica_backup.host.service", "/srv/mysql/runsvc.sh"),
        ("gitlab-runner.service", "/usr/bin/gitlab-runner run --working-directory /srv/mysql"),
    ],
)
def test_a_process_in_a_foreign_unit_is_not_systemds(
    replay: Replay, monkeypatch: pytest.MonkeyPatch, unit: str, start: str
) -> None:
    """As a server that somebody started by hand under ssh.service, or a job under its runner."""
    with pytest.raises(RefusedError, match="does not manage"):
        _detect_recorded(monkeypatch, _inside(replay, unit, start), "systemd")
    assert _find_inside(monkeypatch, _inside(replay, unit, start), None) is None


def test_a_process_of_a_transient_job_is_not_systemds(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    record = _inside(replay, "run-u7.service", "/bin/sh /srv/mysql/tests.sh", Transient="yes")
    assert _find_inside(monkeypatch, record, None) is None


DATABASE_UNITS = [
    ("mysqld_multi@1.service", "/usr/bin/mysqld_multi start %i", "0"),
    ("databases.service", "/usr/bin/mysqld_multi start", "0"),
    ("app-mysql.service", "/usr/local/bin/start-it", "4711"),
    ("db.service", "/usr/local/mysql/support-files/mysql.server start", "0"),
    ("db.service", "/sbin/runuser -u mysql -- /usr/local/bin/start-it", "4711"),
]


@pytest.mark.parametrize(("unit", "start", "main"), DATABASE_UNITS)
def test_a_database_unit_that_does_not_name_its_server_is_asked_about(
    replay: Replay, monkeypatch: pytest.MonkeyPatch, unit: str, start: str, main: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        _detect_recorded(monkeypatch, _inside(replay, unit, start, MainPID=main))
    assert caught.value.facts["rule"] == "service_manager"
    assert unit in str(caught.value.found) and start in str(caught.value.found)
    expected = f"replica_backup_service_manager=systemd with replica_backup_service_name={unit}"
    assert expected in str(caught.value.next_command)
    # A command of the administrator's own is an answer.
    record = _inside(replay, unit, start, MainPID=main)
    assert _find_inside(monkeypatch, record, "/usr/sbin/mysqld --x") is None


@pytest.mark.parametrize(("unit", "start", "main"), DATABASE_UNITS)
def test_a_database_unit_that_is_named_is_used(
    replay: Replay, monkeypatch: pytest.MonkeyPatch, unit: str, start: str, main: str
) -> None:
    record = _inside(replay, unit, start, MainPID=main)
    calls = json.loads(replay._calls.read_text())
    asked_for_name = {**calls[1], "argv": [*calls[1]["argv"][:2], "show", "--property=Id", "--", unit]}
    calls.insert(2, {**asked_for_name, "stdout": f"Id={unit}\n"})
    replay._calls.write_text(json.dumps(calls))
    manager = _detect_recorded(monkeypatch, record, "systemd", unit)
    assert replay.done()
    assert (manager.kind, manager.name, manager.takes_options) == ("systemd", unit, False)
    assert SKIP in manager.warnings[0] and start in manager.warnings[0]


def test_without_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_RUNTIME_UNITS", str(tmp_path / "absent"))
    process = _server.read_process(os.getpid())
    assert process is not None
    with pytest.raises(RefusedError, match="not run by systemd"):
        _service.detect(
            process=process,
            requested="systemd",
            name=None,
            variables={},
            own_options=OWN_OPTIONS,
            state_dir=str(tmp_path),
        )


def test_hold_silences_the_socket_and_lifts_the_limit(replay: Replay) -> None:
    manager = _service.from_dict(replay.load("hold")["manager"])
    done = manager.hold()
    assert len(done) == 2 and "mariadb.socket" in done[1]
    assert manager.hold() == [], "the second time finds nothing to do"
    assert replay.done()
    assert replay.drop_in.read_text().splitlines()[1:] == ["[Service]", "TimeoutStopSec=infinity", "SendSIGKILL=no"]
    assert stat.S_IMODE(replay.drop_in.stat().st_mode) == 0o644
    assert [path.name for path in replay.drop_in.parent.iterdir()] == ["zz-replica-backup.conf"]


def test_a_socket_that_does_not_stop_is_an_error(replay: Replay) -> None:
    record = replay.load("hold")
    calls = record["calls"]
    stop = next(index for index, call in enumerate(calls) if call["argv"][2:3] == ["stop"])
    calls[stop + 1]["stdout"] = "ActiveState=active\n"
    replay._calls.write_text(json.dumps(calls))
    with pytest.raises(ReplicaBackupError, match="would start the server again"):
        _service.from_dict(record["manager"]).hold()


def test_stop_and_wait(replay: Replay) -> None:
    manager = _service.from_dict(replay.load("stop")["manager"])
    assert manager.request_stop() is True
    seen: list[float] = []
    assert manager.wait_stopped(60, on_poll=seen.append) >= 0
    assert manager.status() == "systemd unit mariadb.service is inactive (dead)"
    assert replay.done()


def test_waiting_for_a_unit_that_does_not_stop(replay: Replay) -> None:
    record = replay.load("still-active")
    manager = _service.from_dict(record["manager"])
    replay._calls.write_text(json.dumps(record["calls"] * 2))
    seen: list[float] = []
    with pytest.raises(ReplicaBackupError, match="has not become inactive") as caught:
        manager.wait_stopped(1e-9, on_poll=seen.append)
    assert caught.value.server_state == "mariadb.service active (running)"
    assert seen


def test_somebody_starts_the_unit_again(replay: Replay) -> None:
    manager = _service.from_dict(replay.load("up-again")["manager"])
    with pytest.raises(ReplicaBackupError, match="being started again"):
        manager.wait_stopped(60)
    assert replay.done()


def test_start_without_replication_and_back_to_normal(replay: Replay) -> None:
    manager = _service.from_dict(replay.load("start")["manager"])
    # As hold() left it.
    replay.drop_in.parent.mkdir()
    replay.drop_in.write_text("[Service]\nTimeoutStopSec=infinity\n")
    manager.start([SKIP])
    lines = replay.drop_in.read_text().splitlines()
    assert lines[1:3] == ["[Service]", "ExecStart="]
    assert lines[3].startswith("ExecStart=/usr/sbin/mariadbd ") and lines[3].endswith(f" {SKIP}")
    assert len(lines) == 4, "the limit on the stop is the unit's own again"
    assert manager.failure() is None
    manager.start([SKIP])
    assert manager.after_start() == ["removed the run-time settings of mariadb.service"]
    assert not replay.drop_in.parent.exists()
    assert manager.after_start() == []
    assert manager.release() == ["started app.service"]
    assert manager.status().startswith("systemd unit mariadb.service is activ")
    assert replay.done()


@pytest.mark.parametrize(
    ("options", "loud"), [([SKIP], True), ([SKIP, "--read_only=On"], True), (["--read_only=On"], False)]
)
@pytest.mark.parametrize("trouble", ["edited", "gone", "no room"])
def test_a_server_comes_back_also_when_its_options_cannot_be_given(
    replay: Replay, monkeypatch: pytest.MonkeyPatch, trouble: str, options: list[str], loud: bool
) -> None:
    """The unit was edited while the server was down, its file was deleted, or nothing can be written."""
    record = replay.load("start")
    calls = record["calls"]
    cat = next(call for call in calls if "cat" in call["argv"])
    if trouble == "edited":
        cat["stdout"] = (
            (FIXTURES / "cat-mariadb-10.11.18.txt")
            .read_text(encoding="utf-8")
            .replace("/usr/sbin/mariadbd", "/opt/wrapper")
        )
    elif trouble == "gone":
        cat.update(rc=1, stdout="", stderr="No files found for mariadb.service.\n")
    else:
        monkeypatch.setattr(os, "replace", _no_room)
    calls = [call for call in calls if "show" not in call["argv"] or call is calls[0]]
    start = next(index for index, call in enumerate(calls) if "--no-block" in call["argv"])
    replay._calls.write_text(json.dumps(calls[: start + 1]))
    # As hold() left it.
    replay.drop_in.parent.mkdir()
    replay.drop_in.write_text("[Service]\nTimeoutStopSec=infinity\n")
    manager = _service.from_dict(record["manager"])
    manager.start(options)
    assert replay.done(), "systemd was asked to start it"
    assert not replay.drop_in.exists()
    (said,) = manager.after_start()
    assert "could not be started with " + " ".join(options) in said
    assert ("THREADS" in said) is loud
    assert ("read-only" in said) is not loud
    assert {"edited": "/opt/wrapper", "gone": "No files found", "no room": "No space left"}[trouble] in said
    assert manager.after_start() == [], "said once"
    assert _service.from_dict(manager.to_dict()) == manager


def _no_room(source: str, target: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)


def test_a_failed_start_is_seen(replay: Replay) -> None:
    manager = _service.from_dict(replay.load("failed-start")["manager"])
    replay.drop_in.parent.mkdir()
    replay.drop_in.write_text("")
    (replay.drop_in.parent / "someone-elses.conf").write_text("")
    manager.start()
    assert not replay.drop_in.exists()
    assert replay.drop_in.parent.exists()
    failure = manager.failure()
    assert failure is not None and "exit-code" in failure
    assert replay.done()


def test_a_socket_that_cannot_come_back_is_reported(replay: Replay) -> None:
    manager = _service.from_dict(replay.load("socket-refused")["manager"])
    done = manager.release()
    assert "mariadb.socket was active before and could not be started" in done[0]
    assert replay.done()


def test_failing_commands_are_shown(replay: Replay) -> None:
    replay.load("hold")
    with pytest.raises(ReplicaBackupError, match="asked for"):
        systemd._systemctl("never-recorded")
    with pytest.raises(ReplicaBackupError, match="did not work"):
        commands.run(["/not/there"])


# --- records ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "upstart", "name": "x", "takes_options": True, "warnings": [], "state_dir": "",
         "datadir": "", "pid_file": None, "guardian": None},
        {"kind": "systemd", "name": "x", "takes_options": True, "warnings": None},
        {"kind": "none", "name": "x", "takes_options": True, "warnings": [], "state_dir": "",
         "datadir": "", "pid_file": None, "guardian": None, "launch": {"argv": []}},
    ],
)  # fmt: skip
def test_records_that_are_no_manager(data: dict[str, object]) -> None:
    with pytest.raises(ReplicaBackupError):
        _service.from_dict(data)


# --- real servers without systemd ------------------------------------------------------------------


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    with template_datadir() as datadir:
        yield datadir


@pytest.fixture
def real(template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealServer]:
    monkeypatch.setattr(systemd, "_RUNTIME_UNITS", "/nonexistent")
    server = RealServer(template)
    yield server
    server.close()


def _find(server: RealServer) -> ServerProcess:
    process = _server.find_process(datadir=str(server.datadir), pid_file=str(server.pid_file))
    assert process is not None
    return process


def _detect(server: RealServer, state_dir: Path, requested: str = "auto", name: str | None = None) -> ServiceManager:
    manager = _service.detect(
        process=_find(server),
        requested=requested,
        name=name,
        variables=server.variables(),
        own_options=OWN_OPTIONS,
        state_dir=str(state_dir),
    )
    assert _service.from_dict(json.loads(json.dumps(manager.to_dict()))) == manager
    return manager


def _environ(pid: int) -> dict[str, str]:
    words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(word.split("=", 1) for word in words if word)


@needs_server
def test_a_server_started_by_hand_comes_back_as_it_was(
    real: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_PASSWORD", "secret")
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    child = real.start()
    before = _find(real)
    manager = _detect(real, tmp_path)
    assert (manager.kind, manager.warnings, manager.takes_options) == ("none", (), True)
    assert manager.hold() == [] and manager.request_stop() is False and not manager.keeps_options
    assert "secret" not in json.dumps(manager.to_dict())
    assert manager.status().endswith(f"runs as process {child.pid}")
    with pytest.raises(ReplicaBackupError, match="started again"):
        manager.wait_stopped(5)

    real.shutdown()
    _server.wait_gone(before, 60)
    assert manager.wait_stopped(60) >= 0
    assert manager.status().endswith("is not running")
    again = _service.from_dict(manager.to_dict())
    again.start([SKIP])
    real.wait_ready()
    after = _find(real)
    assert after.argv == (*before.argv, SKIP)
    assert (after.exe, after.cwd, after.uid, after.gid) == (before.exe, before.cwd, before.uid, before.gid)
    assert after.parent_pid != os.getpid()
    assert os.getsid(after.pid) != os.getsid(0)
    environment = _environ(after.pid)
    assert environment["TZ"] == "Asia/Kathmandu"
    assert "secret" not in environment.values()
    assert set(environment) <= {*launch._KEPT_ENVIRONMENT, "LANG", "LC_ALL"}
    assert os.readlink(f"/proc/{after.pid}/fd/0") == os.devnull
    assert again.failure() is None
    assert again.after_start() == [] and again.release() == []

    again.start()
    assert _find(real) == after, "it ran already"
    real.shutdown()
    _server.wait_gone(after, 60)
    manager.start()
    real.wait_ready()
    assert SKIP not in _find(real).argv


@needs_server
def test_a_server_that_does_not_come_up_tells_why(
    real: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_hand, "_GRACE", 0.1)
    real.start()
    process = _find(real)
    manager = _detect(real, tmp_path)
    assert manager.failure() is None
    record = manager.to_dict()
    record["launch"]["output"] = ""
    record["launch"]["argv"] += ["--log-error=stderr", "--no-such-option"]
    real.shutdown()
    _server.wait_gone(process, 60)
    manager = _service.from_dict(record)
    manager.start()
    failure = None
    while failure is None:
        failure = manager.failure()
    assert "ended by itself" in failure
    log = tmp_path / "service-output.log"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600

    record["launch"]["executable"] = str(tmp_path)
    with pytest.raises(ReplicaBackupError, match="cannot be executed") as caught:
        _service.from_dict(record).start()
    assert "PermissionError" in str(caught.value.found)
    record["launch"]["cwd"] = "/absent-directory"
    with pytest.raises(ReplicaBackupError, match="FileNotFoundError"):
        _service.from_dict(record).start()


GUARDIAN = """#!/bin/sh
# What mysqld_safe is: a loop that ends when a server has put its pid file away.
pid_file={pid_file}
while true; do
    {server} "$@" </dev/null >/dev/null 2>&1
    test -f "$pid_file" || break
    rm -f "$pid_file"
done
sleep 0.3
"""


def _guardian(server: RealServer) -> Path:
    script = server.base / "mysqld_safe"
    script.write_text(GUARDIAN.format(pid_file=server.pid_file, server=_mariadbd()))
    script.chmod(0o755)
    return script


def _mariadbd() -> str:
    for directory in ("/usr/sbin", "/usr/local/sbin", "/usr/bin"):
        if os.access(f"{directory}/mariadbd", os.X_OK):
            return f"{directory}/mariadbd"
    pytest.skip("no mariadbd on this machine")


@needs_server
def test_mysqld_safe_is_repeated_and_waited_for(real: RealServer, tmp_path: Path) -> None:
    script = _guardian(real)
    child = real.start(command=["/bin/sh", str(script)])
    process = _find(real)
    manager = _detect(real, tmp_path)
    assert manager.kind == "mysqld_safe"
    assert manager.name.startswith(f"/bin/sh {script} ")
    assert manager.start_command == manager.name
    assert manager.request_stop() is False and manager.keeps_options

    os.kill(process.pid, signal.SIGKILL)
    _server.wait_gone(process, 60)
    real.wait_ready()
    with pytest.raises(ReplicaBackupError) as caught:
        manager.wait_stopped(60)
    process = _find(real)
    assert caught.value.server_state == f"running again, pid {process.pid}"

    real.shutdown()
    _server.wait_gone(process, 60)
    seen: list[float] = []
    with pytest.raises(ReplicaBackupError, match="watches over the server") as caught:
        manager.wait_stopped(0, on_poll=seen.append)
    assert seen
    manager.wait_stopped(60)
    child.wait()
    manager.start([SKIP])
    real.wait_ready()
    process = _find(real)
    assert process.argv[-1] == SKIP
    parent = _server.read_process(process.parent_pid)
    assert parent is not None and str(script) in parent.argv
    assert parent.parent_pid != os.getpid()
    assert manager.failure() is None


@needs_server
def test_a_given_start_command_wins(real: RealServer, tmp_path: Path) -> None:
    script = _guardian(real)
    real.start(command=["/bin/sh", str(script)])
    for requested in ("auto", "mysqld_safe"):
        manager = _detect(real, tmp_path, requested, name=f"{script} --no-defaults '--datadir=a b'")
        assert manager.to_dict()["launch"]["argv"] == [str(script), "--no-defaults", "--datadir=a b"]
        assert manager.to_dict()["guardian"] is not None
    assert _detect(real, tmp_path, "none", name="/bin/true x").name == "/bin/true x"
    for wrong in ("/not/there --x", " ", "'unfinished"):
        with pytest.raises(RefusedError, match="start command"):
            _detect(real, tmp_path, "none", name=wrong)
    with pytest.raises(RefusedError, match="not known"):
        _detect(real, tmp_path, "upstart")


@needs_server
def test_what_is_asked_for_must_be_there(real: RealServer, tmp_path: Path) -> None:
    real.start()
    with pytest.raises(RefusedError, match="not started by mysqld_safe"):
        _detect(real, tmp_path, "mysqld_safe")
    with pytest.raises(RefusedError, match="No init script"):
        _detect(real, tmp_path, "sysvinit")
    with pytest.raises(RefusedError, match="not run by systemd"):
        _detect(real, tmp_path, "systemd")
    assert _detect(real, tmp_path, "mysqld_safe", name="/bin/true").kind == "mysqld_safe"


@needs_server
def test_a_server_of_somebody_else_is_refused(
    real: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real.start()
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(RefusedError, match="another user"):
        _detect(real, tmp_path)


def test_a_server_in_a_container_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = _server.read_process(os.getpid())
    assert process is not None
    monkeypatch.setattr(_server, "proc_text", lambda pid, file: "Name:\tmariadbd\nNSpid:\t4242\t60\n")
    with pytest.raises(RefusedError, match="container"):
        _service.detect(
            process=process, requested="auto", name=None, variables={}, own_options=OWN_OPTIONS, state_dir=str(tmp_path)
        )


@pytest.mark.parametrize(
    ("argv", "executable", "fits"),
    [
        (("s", "--defaults-file=my.cnf"), "/bin/true", True),
        (("s", "--defaults-file=absent.cnf"), "/bin/true", False),
        (("s", "--defaults-file=/etc/passwd"), "/bin/true", True),
        (("s", "--datadir=data"), "/bin/true", True),
        (("s", "--datadir=other"), "/bin/true", False),
        (("sh", "./my.cnf", "--x"), "/bin/true", True),
        (("sh", "./absent", "--x"), "/bin/true", False),
        (("s",), "relative", False),
    ],
)
def test_relative_paths_must_mean_the_same_again(
    tmp_path: Path, argv: tuple[str, ...], executable: str, fits: bool
) -> None:
    (tmp_path / "my.cnf").write_text("")
    (tmp_path / "data").mkdir()
    (tmp_path / "other").mkdir()
    start = launch.Launch(argv=argv, executable=executable, cwd=str(tmp_path), uid=0, gid=0)
    assert unmanaged._resolves(start, str(tmp_path), str(tmp_path / "data")) is fits
    assert not unmanaged._resolves(start, str(tmp_path / "absent"), str(tmp_path / "data"))


@needs_server
def test_the_directory_of_the_start_is_found_in_the_environment(
    real: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = real.base / "my.cnf"
    config.write_text("[mysqld]\n")
    monkeypatch.chdir(real.base)
    monkeypatch.setenv("PWD", str(real.base))
    real.start()
    process = replace(_find(real), argv=("mariadbd", "--defaults-file=my.cnf"))
    arguments: dict[str, t.Any] = {
        "requested": "none", "name": None, "variables": real.variables(), "own_options": OWN_OPTIONS, "state_dir": "/",
    }  # fmt: skip
    assert _service.detect(process=process, **arguments).to_dict()["launch"]["cwd"] == str(real.base)
    config.unlink()
    with pytest.raises(RefusedError, match="cannot be repeated"):
        _service.detect(process=process, **arguments)
    with pytest.raises(RefusedError, match="cannot be repeated"):
        _service.detect(process=replace(process, exe=str(tmp_path / "gone"), argv=("x",)), **arguments)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start something as somebody else")
def test_a_start_never_keeps_roots_rights_for_an_ordinary_account(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    log = tmp_path / "log"
    log.write_text("")
    os.chown(log, 65534, 65534)
    for parent in [tmp_path, *tmp_path.parents][:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    start = launch.Launch(
        argv=("sh", "-c", "id -u; id -G; umask; ulimit -n; pwd; ls -l /proc/self/fd | wc -l"),
        executable="/bin/sh",
        cwd="/usr",
        uid=65534,
        gid=65534,
        environment=(("PATH", "/usr/bin:/bin"),),
        umask=0o027,
        limits=(("RLIMIT_NOFILE", 500, 500), ("RLIMIT_CORE", 0, 0)),
        output=str(log),
    )
    pid = launch.spawn(start, [], str(tmp_path / "unused")).pid
    while _server.read_process(pid) is not None:
        time.sleep(0.01)
    # 0, 1, 2 and the directory that ls lists, with one line of its total.
    assert log.read_text().split() == ["65534", "65534", "0027", "500", "/usr", "5"]
    log.unlink()
    log.symlink_to("/etc/passwd")
    before = Path("/etc/passwd").read_bytes()
    pid = launch.spawn(replace(start, uid=0), [], str(tmp_path / "unused")).pid
    while _server.read_process(pid) is not None:
        time.sleep(0.01)
    assert Path("/etc/passwd").read_bytes() == before, "no link is followed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root asks the system's manager for a scope")
@pytest.mark.parametrize(
    ("busctl", "complaint"), [("echo no bus here >&2; exit 1", "no bus here"), ("exit 0", "was not made")]
)
def test_without_a_scope_the_start_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busctl: str, complaint: str
) -> None:
    """A host where systemd runs and its bus does not; tests/integration/test_service_units.py has one that works."""
    monkeypatch.setattr(commands, "SYSTEMD", str(tmp_path))
    monkeypatch.setattr(launch, "_SCOPE_TIMEOUT", 0.05)
    (tmp_path / "busctl").write_text(f"#!/bin/sh\n{busctl}\n")
    (tmp_path / "busctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "data").mkdir()
    done = tmp_path / "done"
    start = launch.Launch(argv=("touch", str(done)), executable="/usr/bin/touch", cwd="/", uid=0, gid=0)
    manager = unmanaged.Unmanaged(
        name="touch", takes_options=True, state_dir=str(tmp_path), datadir=str(tmp_path / "data"), pid_file=None,
        guardian=None, warnings=(), kind="none", launch=start,
    )  # fmt: skip
    manager.start()
    while not done.exists():
        time.sleep(0.01)
    warning = manager.after_start()
    assert len(warning) == 1 and complaint in warning[0] and "could not be taken out" in warning[0]
    assert manager.after_start() == []


# --- init scripts ----------------------------------------------------------------------------------

SCRIPT = """#!/bin/sh
datadir={datadir}
case "$1" in
start)
    shift
    {safe} {arguments} "$@" >/dev/null 2>&1 &   # mysqld_safe "$@"
    for i in $(seq 300); do test -f {pid_file} && exit 0; sleep 0.1; done
    exit 1 ;;
stop) kill -TERM "$(cat {pid_file})" ;;
status) kill -0 "$(cat {pid_file})" ;;
esac
"""


@pytest.fixture
def script_file(real: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sysvinit, "_SCRIPT_DIRECTORY", str(tmp_path / "init.d"))
    script = tmp_path / "init.d" / "mysql"
    script.parent.mkdir()
    script.write_text(
        SCRIPT.format(
            datadir=real.datadir, safe=_guardian(real), pid_file=real.pid_file, arguments=" ".join(real.arguments())
        )
    )
    script.chmod(0o755)
    return script


@needs_server
@pytest.mark.skipif(os.geteuid() != 0, reason="init scripts belong to root")
def test_an_init_script_stops_and_starts(real: RealServer, script_file: Path, tmp_path: Path) -> None:
    subprocess.run([str(script_file), "start"], check=True, stdin=subprocess.DEVNULL)
    real.wait_ready()
    process = _find(real)
    manager = _detect(real, tmp_path)
    assert (manager.kind, manager.name, manager.takes_options, manager.warnings) == (
        "sysvinit", str(script_file), True, (),
    )  # fmt: skip
    assert manager.hold() == []
    assert manager.request_stop() is True
    _server.wait_gone(process, 60)
    manager.wait_stopped(60)
    manager.start([SKIP])
    real.wait_ready()
    after = _find(real)
    assert after.argv[-1] == SKIP
    assert manager.failure() is None
    assert manager.after_start() == [] and manager.release() == []
    assert manager.status().endswith(f"runs as process {after.pid}")
    manager.start([SKIP])
    assert _find(real) == after


@needs_server
@pytest.mark.skipif(os.geteuid() != 0, reason="init scripts belong to root")
def test_an_init_script_that_does_not_fit_is_left_alone(
    real: RealServer, script_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = script_file.read_text()
    real.start(command=["/bin/sh", str(_guardian(real))])
    named = _detect(real, tmp_path, "sysvinit", name="mysql")
    assert (named.name, named.start_command) == (str(script_file), f"{script_file} start")
    script_file.write_text(good.replace(f"datadir={real.datadir}", "datadir=/elsewhere"))
    assert _detect(real, tmp_path).kind == "mysqld_safe", "another data directory"
    script_file.write_text(good.replace("status)", "never)") + "exit 3\n")
    assert _detect(real, tmp_path).kind == "mysqld_safe", "it says that its server is down"
    script_file.write_text(good.replace("--no-defaults", ""))
    assert _detect(real, tmp_path).kind == "mysqld_safe", "other option files"
    script_file.write_text(good)
    assert _detect(real, tmp_path).kind == "sysvinit"
    script_file.chmod(0o644)
    assert _detect(real, tmp_path).kind == "mysqld_safe", "not executable"


@needs_server
@pytest.mark.skipif(os.geteuid() != 0, reason="init scripts belong to root")
def test_a_script_that_kills_is_not_used_for_the_stop(
    real: RealServer, script_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = script_file.read_text()
    subprocess.run([str(script_file), "start"], check=True, stdin=subprocess.DEVNULL)
    real.wait_ready()
    script_file.write_text(script.replace("kill -TERM", "killall -9 mariadbd; kill -TERM").replace('"$@"', ""))
    manager = _detect(real, tmp_path)
    assert manager.request_stop() is False
    assert not manager.takes_options
    assert len(manager.warnings) == 2
    process = _find(real)
    real.shutdown()
    _server.wait_gone(process, 60)
    manager.wait_stopped(60)
    with pytest.raises(ReplicaBackupError, match="does not hand options on"):
        manager.start([SKIP])
    script_file.write_text("#!/bin/sh\necho no room >&2\nexit 1\n")
    assert manager.failure() is None, "nobody asked it to start"
    manager.start()
    assert manager.failure() is None, "a server may still appear"
    monkeypatch.setattr(by_hand, "_GRACE", 0)
    failure = manager.failure()
    assert failure is not None and "no room" in failure


@pytest.mark.parametrize(
    ("text", "gentle", "hands_on"),
    [
        ('killall -9 mariadbd || true\n/usr/bin/mysqld_safe "${@:2}" &\n', False, True),
        ('kill -TERM $pid\n$bindir/mysqld_safe --datadir="$datadir" $other_args >/dev/null &\n', True, True),
        ("# killall would be bad\nkill $pid\nmysqld_safe --a &\n", True, False),
        ("kill -9 $pid\n", False, False),
        ("kill -s KILL $pid\n", False, False),
        ("start-stop-daemon --stop --retry TERM/30/KILL/5\n", False, False),
        ("", False, False),
    ],
)
def test_reading_init_scripts(tmp_path: Path, text: str, gentle: bool, hands_on: bool) -> None:
    script = tmp_path / "script"
    script.write_text(text)
    assert init_script.stops_gently(str(script)) is gentle
    assert init_script.hands_on(str(script)) is hands_on
    assert not init_script.stops_gently(str(tmp_path / "absent"))


def test_units_made_from_init_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def hands_on(script: str) -> bool:
        asked.append(script)
        return True

    monkeypatch.setattr(init_script, "hands_on", hands_on)
    assert unit_file.with_options(["/etc/init.d/mysql start"], [SKIP]) == f"/etc/init.d/mysql start {SKIP}"
    assert asked == ["/etc/init.d/mysql"]
