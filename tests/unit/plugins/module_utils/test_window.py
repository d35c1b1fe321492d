# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop, start, recovery and dead-man on a real source and replica. Every test leaves the replica as it found it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import threading
import time
import typing as t
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _bringback,
    _connection,
    _deadman,
    _handover,
    _ledger,
    _observe,
    _read_only,
    _start,
    _stop,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.verify import verify
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._bringback import BringBackLimits
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._guards import Policy
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._layout import SetPaths
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Limits
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._start import StartRequest
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._stop import StopRequest
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import Flavor, MariaDB, MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Server, Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

BACKUP_ID = "20260101T000000Z"


FLAVORS: dict[str, t.Callable[[], Flavor]] = {"mariadb": MariaDB, "mysql56": MySQL56}


# For what does not depend on the server: ledger, lock, state directory, dead-man.
one_family = pytest.mark.parametrize("topology", ["mariadb"], indirect=True)


@pytest.fixture(scope="module", params=FLAVORS)
def topology(request: pytest.FixtureRequest) -> Iterator[Topology]:
    flavor = FLAVORS[request.param]()
    with Topology(CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8], replicas=1, flavor=flavor) as topology:
        topology.source.query("CREATE DATABASE d")
        topology.source.query("CREATE TABLE d.t (a INT PRIMARY KEY)")
        yield topology


@dataclasses.dataclass
class Place:
    """A replica with state and spool directories of this test's own."""

    topology: Topology
    replica: Server
    state: str
    spool: Path

    @property
    def login(self) -> Login:
        return Login(user="root", unix_socket=str(self.replica.socket), config_file=None)

    @property
    def paths(self) -> SetPaths:
        return SetPaths(str(self.spool), "replica1", BACKUP_ID)

    def stop_request(self, **changes: t.Any) -> StopRequest:
        request = StopRequest(
            login=self.login,
            paths=self.paths,
            state_dir=self.state,
            run_id="run-1",
            limits=Limits(drain=5, temp_tables=5, gaps=5),
            shutdown_timeout=60,
            start_timeout=60,
            downtime_budget=300,
        )
        return dataclasses.replace(request, **changes)

    def start_request(self, **changes: t.Any) -> StartRequest:
        request = StartRequest(
            login=self.login,
            state_dir=self.state,
            run_id="run-1",
            shutdown_timeout=60,
            start_timeout=60,
            catch_up_timeout=30,
            lock_timeout=2,
        )
        return dataclasses.replace(request, **changes)

    def command_line(self) -> str:
        return Path(f"/proc/{self.replica.pids()[0]}/cmdline").read_text(encoding="utf-8")

    def write(self) -> None:
        """Let the source write one more row, and see it arrive."""
        self.topology.source.query("INSERT INTO d.t SELECT COALESCE(MAX(a), 0) + 1 FROM d.t")
        self.topology.wait_caught_up()


@pytest.fixture
def place(topology: Topology, tmp_path: Path) -> Iterator[Place]:
    place = Place(topology, topology.replicas[0], str(tmp_path / "state"), tmp_path / "spool")
    pid = place.replica.pids()
    try:
        yield place
        # The end state that every test must reach by the product's own means.
        assert place.replica.is_running()
        assert _deadman.armed(place.state) is None
        assert not os.path.exists(os.path.join(place.state, "deadman.login"))
        place.write()
        assert topology.differences() == {}
    finally:
        _deadman.disarm(place.state)
        if not place.replica.is_running():
            place.replica.start()
        with contextlib.suppress(Exception):
            place.replica.query("START SLAVE")
    assert pid


def states(server: Server) -> tuple[str, str]:
    found = server.query("SHOW SLAVE STATUS")[0]
    return found["Slave_IO_Running"], found["Slave_SQL_Running"]


def test_check_mode_says_what_would_happen_and_changes_nothing(place: Place) -> None:
    pids = place.replica.pids()
    result = _stop.stop(place.stop_request(), check=True)
    assert result["changed"]
    assert result["plan"]["service_manager"] == "none"
    assert result["plan"]["data_bytes"] > 10**6
    assert all(verdict["ok"] for verdict in result["plan"]["verdicts"])
    assert place.replica.pids() == pids
    assert not os.path.exists(place.state)
    assert not place.spool.exists()
    nothing = _start.start(place.start_request(), check=True)
    assert nothing == {"changed": False, "explanation": ["No run is open: nothing would be done."]}


def test_stop_archive_start_close(place: Place) -> None:
    place.write()
    before = place.replica.query("SHOW SLAVE STATUS")[0]
    result = _stop.stop(place.stop_request())
    assert result["changed"]
    assert result["clean_stop"]["clean"]
    assert not place.replica.is_running()
    at_rest = result["channels"][0]
    assert (at_rest["source_log_file"], at_rest["source_log_pos"]) == (
        before["Relay_Master_Log_File"],
        before["Exec_Master_Log_Pos"],
    )
    assert at_rest["threads_before"] == {"io": True, "applier": True}
    assert at_rest["repository"] == {"connection": "FILE", "applier": "FILE"}

    again = _stop.stop(place.stop_request())
    assert not again["changed"]
    assert not _stop.stop(place.stop_request(), check=True)["changed"]

    assert "would be continued" in _start.start(place.start_request(), check=True)["explanation"][-1]
    job.capture(job.Request(paths=place.paths, state_dir=place.state))
    started = _start.start(place.start_request())
    assert started["server_restored"] and started["caught_up"] and started["changed"]
    assert 0 < started["downtime_seconds"] < 60
    assert set(started["downtime_parts"]) == {"stop", "start", "between", "capture"}
    assert sum(started["downtime_parts"].values()) == pytest.approx(started["downtime_seconds"], abs=0.002)
    assert states(place.replica) == ("Yes", "Yes")
    assert not _start.start(place.start_request())["changed"]

    job.publish(job.Request(paths=place.paths, state_dir=place.state))
    manifest = json.loads(Path(place.paths.manifest).read_text(encoding="utf-8"))
    assert manifest["times"]["downtime_seconds"] == started["downtime_seconds"]
    closed = _start.start(place.start_request(close=True))
    assert closed["changed"]
    assert _ledger.load(place.state) is None
    assert not _start.start(place.start_request(close=True))["changed"]
    story = _start.start(place.start_request(recover=True))
    assert story["server_restored"] and "complete" in story["explanation"][1]


@pytest.mark.parametrize(
    ("thread", "expected"),
    [("SQL_THREAD", ("Yes", "No")), ("IO_THREAD", ("No", "Yes")), ("", ("No", "No"))],
)
def test_stopped_threads_stay_stopped(place: Place, thread: str, expected: tuple[str, str]) -> None:
    place.replica.query(f"STOP SLAVE {thread}")
    assert states(place.replica) == expected
    with pytest.raises(RefusedError, match="replica_backup_allow_stopped_channels"):
        _stop.stop(place.stop_request())
    log = place.replica.error_log.stat().st_size
    _stop.stop(place.stop_request(policy=Policy(allow_stopped_channels=True)))
    assert not place.replica.is_running()
    _start.start(place.start_request())
    assert states(place.replica) == expected
    # Not for a moment: the server notes the start of every thread.
    noted = place.replica.error_log.read_text(encoding="utf-8", errors="replace")[log:]
    assert ("Slave SQL thread initialized" in noted) == (expected[1] == "Yes")
    assert bool(re.search(r"Slave I/O thread: (Start|connected)", noted)) == (expected[0] == "Yes")
    _start.start(place.start_request(close=True))
    place.replica.query("START SLAVE")
    # The next backup finds a server that was started without its threads, and starts it as it is started normally.
    assert "skip" in place.command_line()
    paths = dataclasses.replace(place.paths, backup_id="20260101T000001Z")
    _stop.stop(place.stop_request(paths=paths))
    _start.start(place.start_request())
    _start.start(place.start_request(close=True))
    assert "skip" not in place.command_line()
    assert states(place.replica) == ("Yes", "Yes")


def test_settings_with_keys_are_not_kept() -> None:
    secrets = ("file_key_management_filekey", "hashicorp_key_management_token", "keyring_hashicorp_secret_id")
    kept = _bringback.comparable_settings({"port": "3306", **dict.fromkeys(secrets, "s3cret")})
    assert kept == {"port": "3306"}


def test_run_time_flags_are_put_back_and_lost_settings_are_named(place: Place) -> None:
    place.replica.query("SET GLOBAL read_only = 0")
    place.replica.query("SET GLOBAL max_connections = 77")
    place.replica.query("SET GLOBAL innodb_fast_shutdown = 2")
    try:
        stopped = _stop.stop(place.stop_request())
        assert stopped["clean_stop"]["clean"]
        assert any("innodb_fast_shutdown was 2" in warning for warning in stopped["warnings"])
        started = _start.start(place.start_request())
        assert place.replica.query("SELECT @@read_only AS v")[0]["v"] == 0
        assert any("max_connections was '77'" in warning for warning in started["warnings"])
    finally:
        place.replica.query("SET GLOBAL read_only = 1")
        place.replica.query("SET GLOBAL innodb_fast_shutdown = 1")
    _start.start(place.start_request(close=True))


def test_option_files_that_name_a_datadir_that_does_not_exist_are_refused(place: Place) -> None:
    config = place.replica.config.read_text(encoding="utf-8")
    place.replica.config.write_text(config + "datadir = /no/such/datadir\n", encoding="utf-8")
    try:
        with pytest.raises(RefusedError, match=r"/no/such/datadir, which does not exist") as caught:
            _stop.stop(place.stop_request())
    finally:
        place.replica.config.write_text(config, encoding="utf-8")
    assert caught.value.server_state == "running, untouched"
    assert str(place.replica.config) in str(caught.value)
    assert _ledger.load(place.state) is None


def test_a_source_is_refused(place: Place) -> None:
    login = Login(user="root", unix_socket=str(place.topology.source.socket), config_file=None)
    with pytest.raises(RefusedError) as caught:
        _stop.stop(place.stop_request(login=login))
    assert {item["rule"] for item in caught.value.facts["verdicts"]} == {"replica", "connected_replicas"}
    assert place.topology.source.is_running()


def test_wrong_login_is_refused(place: Place) -> None:
    login = dataclasses.replace(place.login, user="nobody", password="s3cret-not-to-be-shown")
    with pytest.raises(RefusedError, match="replica_backup_login_") as caught:
        _stop.stop(place.stop_request(login=login))
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(login)


def test_a_server_that_is_down_is_refused_and_not_started(place: Place, tmp_path: Path) -> None:
    login = dataclasses.replace(place.login, unix_socket=str(tmp_path / "none.sock"))
    with pytest.raises(RefusedError, match="start the server"):
        _stop.stop(place.stop_request(login=login))
    with pytest.raises(ReplicaBackupError, match="no ledger says"):
        _start.start(place.start_request(login=login))
    assert not _start.start(place.start_request(login=login, recover=True))["server_restored"]


def test_a_missing_tool_and_missing_room_are_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *arguments, **named: None)
    with pytest.raises(RefusedError) as caught:
        _stop.stop(place.stop_request(policy=Policy(space_factor=1e9), compression="lz4"))
    assert [item["rule"] for item in caught.value.facts["verdicts"]] == ["tools", "space"]
    assert _stop.stop(place.stop_request(format="copy"), check=True)["changed"]


def test_another_host_behind_tcp_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(t.NamedTuple):
        nodename: str = "elsewhere"

    monkeypatch.setattr(os, "uname", Elsewhere)
    over_tcp = dataclasses.replace(place.login, unix_socket=None)
    with _connection.connect(place.login) as session, pytest.raises(ReplicaBackupError, match="on this very host"):
        _observe.observe(session, over_tcp)


def test_an_applier_that_hangs_gives_the_threads_back(place: Place) -> None:
    blocker = place.replica
    with contextlib.closing(_connection.connect(place.login)) as session:
        session.execute("FLUSH TABLES WITH READ LOCK")
        place.topology.source.query("INSERT INTO d.t SELECT MAX(a) + 1 FROM d.t")
        time.sleep(1)
        with pytest.raises(ReplicaBackupError) as caught:
            _stop.stop(place.stop_request(limits=Limits(drain=1)))
    assert caught.value.facts["rule"] == "drain"
    assert caught.value.facts["server_restored"] is True
    assert caught.value.server_state == "running, threads as before"
    assert states(blocker) == ("Yes", "Yes")
    assert _ledger.load(place.state) is None


def test_open_temporary_tables_are_waited_for(place: Place) -> None:
    source = Login(user="root", unix_socket=str(place.topology.source.socket), config_file=None)
    with contextlib.closing(_connection.connect(source)) as session:
        session.execute("SET SESSION binlog_format = 'STATEMENT'")
        session.execute("CREATE TEMPORARY TABLE d.tmp (a INT)")
        session.execute("INSERT INTO d.tmp VALUES (1)")
        place.topology.wait_caught_up()
        with pytest.raises(ReplicaBackupError) as caught:
            _stop.stop(place.stop_request(limits=Limits(drain=5, temp_tables=0.5)))
        assert caught.value.facts["rule"] == "temp_tables"
        assert states(place.replica) == ("Yes", "Yes")
        closer = threading.Timer(1.5, lambda: session.execute("DROP TEMPORARY TABLE d.tmp"))
        closer.start()
        _stop.stop(place.stop_request())
        closer.join()
    _start.start(place.start_request())
    _start.start(place.start_request(close=True))


@one_family
def test_the_documented_account_is_enough_and_its_password_stays_secret(place: Place, topology: Topology) -> None:
    """The GRANT of the README for MariaDB, word by word."""
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    statements = re.search(r"MariaDB 10\.5 and newer:\n\n```sql\n(.*?)```", readme, re.S)
    assert statements
    secret = "documented-but-secret"
    for statement in statements[1].replace("'...'", f"'{secret}'").split(";"):
        if statement.strip():
            topology.source.query(statement)
    topology.wait_caught_up()
    login = dataclasses.replace(place.login, user="backup", password=secret)
    try:
        stopped = _stop.stop(place.stop_request(login=login))
        armed = Path(place.state, "deadman.login")
        assert armed.stat().st_mode & 0o777 == 0o600
        captured = job.capture(job.Request(paths=place.paths, state_dir=place.state))
        started = _start.start(place.start_request(login=login))
        job.publish(job.Request(paths=place.paths, state_dir=place.state))
        closed = _start.start(place.start_request(login=login, close=True))
        assert secret not in f"{stopped} {captured} {started} {closed}"
        for path in (*Path(place.state).rglob("*"), Path(place.paths.manifest), Path(place.paths.sums)):
            assert secret.encode() not in path.read_bytes(), path
    finally:
        topology.source.query("DROP USER backup@localhost")


def test_the_server_comes_back_the_moment_the_capture_stands(place: Place) -> None:
    _stop.stop(place.stop_request())
    request = job.Request(paths=place.paths, state_dir=place.state)
    outcome, started = _handover.capture_then_start(lambda: job.capture(request), place.state)
    assert outcome.parts
    assert started == {"server_restored": True, "start_error": ""}
    assert states(place.replica) == ("Yes", "Yes")
    assert _handover.start_now(place.state) == started
    job.publish(request)
    _start.start(place.start_request(close=True))


def test_the_server_comes_back_when_the_capture_fails(place: Place) -> None:
    _stop.stop(place.stop_request())
    missing = job.Request(paths=dataclasses.replace(place.paths, host="other"), state_dir=place.state)
    with pytest.raises(RefusedError) as caught:
        _handover.capture_then_start(lambda: job.capture(missing), place.state)
    assert caught.value.facts["server_restored"] is True
    assert states(place.replica) == ("Yes", "Yes")
    _start.start(place.start_request(recover=True))


@one_family
def test_a_start_that_fails_does_not_spoil_the_capture(place: Place) -> None:
    _stop.stop(place.stop_request())
    request = job.Request(paths=place.paths, state_dir=place.state)
    config = place.replica.config.read_text(encoding="utf-8")
    place.replica.config.write_text(config + "no_such_setting = 1\n", encoding="utf-8")
    try:
        outcome, started = _handover.capture_then_start(lambda: job.capture(request), place.state)
    finally:
        place.replica.config.write_text(config, encoding="utf-8")
    assert outcome.parts
    assert started["server_restored"] is False
    assert "no_such_setting" in started["start_error"]
    _start.start(place.start_request())
    _deadman.disarm(place.state)
    ledger = _ledger.load(place.state)
    assert ledger is not None
    ledger.begin("stopped")
    assert "not armed" in _handover.start_now(place.state)["start_error"]
    job.publish(request)
    _start.start(place.start_request())
    _start.start(place.start_request(close=True))


@one_family
@pytest.mark.parametrize("damage", ["truncated", "removed"])
def test_a_ledger_that_is_damaged_does_not_spoil_the_capture_either(place: Place, damage: str) -> None:
    """The capture stands, the start says why it cannot be made, and the dead-man is left to make it."""
    _stop.stop(place.stop_request())
    request = job.Request(paths=place.paths, state_dir=place.state)
    path = Path(_ledger.ledger_path(place.state))

    def capture_and_damage() -> job.Outcome:
        outcome = job.capture(request)
        path.rename(f"{path}.good")
        if damage == "truncated":
            path.write_text(Path(f"{path}.good").read_text(encoding="utf-8")[:100], encoding="utf-8")
        return outcome

    outcome, started = _handover.capture_then_start(capture_and_damage, place.state)
    assert outcome.parts
    assert started["server_restored"] is False
    assert ("ledger" in started["start_error"]) and place.state in started["start_error"]
    assert not place.replica.is_running()
    assert _deadman.fire(place.state) == 0
    assert states(place.replica) == ("Yes", "Yes")
    Path(f"{path}.good").rename(path)
    _start.start(place.start_request(recover=True))
    # The capture stood before the dead-man came: it only lacked its proof.
    verify(place.paths.directory)


@one_family
def test_a_polite_signal_does_not_interrupt_the_start(place: Place) -> None:
    _stop.stop(place.stop_request())
    shooter = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGTERM))
    handler = signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("the signal came through"))
    try:
        shooter.start()
        assert _start.start(place.start_request())["server_restored"]
        shooter.join()
    finally:
        signal.signal(signal.SIGTERM, handler)
    _start.start(place.start_request(close=True))


def _once_asked_to_stop(monkeypatch: pytest.MonkeyPatch, action: t.Callable[[], None]) -> None:
    """Do something right after the server was asked to shut down, while it is at it."""
    real = _stop._send_shutdown

    def send(session: t.Any, dialect: t.Any) -> None:
        real(session, dialect)
        action()

    monkeypatch.setattr(_stop, "_send_shutdown", send)


def test_a_server_that_is_killed_while_stopping_is_no_backup_and_comes_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = place.replica.pids()[0]
    # What the kernel's out-of-memory killer does to a stopping server.
    _once_asked_to_stop(monkeypatch, lambda: os.kill(pid, signal.SIGKILL))
    with pytest.raises(ReplicaBackupError) as caught:
        _stop.stop(place.stop_request())
    assert caught.value.facts["rule"] == "clean_stop"
    assert caught.value.facts["server_restored"] is True
    assert states(place.replica) == ("Yes", "Yes")
    assert _ledger.load(place.state) is None


@one_family
def test_a_slow_shutdown_is_waited_for_beyond_the_limit_before_the_start(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = place.replica.pids()[0]
    goes_on = threading.Timer(4, lambda: os.kill(pid, signal.SIGCONT))

    def hold() -> None:
        os.kill(pid, signal.SIGSTOP)
        goes_on.start()

    _once_asked_to_stop(monkeypatch, hold)
    with pytest.raises(ReplicaBackupError) as caught:
        _stop.stop(place.stop_request(shutdown_timeout=2.5))
    goes_on.join()
    assert "server_restored" in caught.value.facts
    if not caught.value.facts["server_restored"]:
        assert _start.start(place.start_request(recover=True))["server_restored"]
    assert states(place.replica) == ("Yes", "Yes")


def test_a_run_that_died_is_explained_and_finished(place: Place) -> None:
    _stop.stop(place.stop_request())
    assert Path(place.paths.directory).exists()
    with pytest.raises(RefusedError, match="is not finished"):
        _stop.stop(place.stop_request(run_id="run-2"))
    with pytest.raises(RefusedError, match="is not finished"):
        _stop.stop(place.stop_request(run_id="run-2"), check=True)
    with pytest.raises(RefusedError, match="is not finished"):
        _start.start(place.start_request(run_id="run-2"))
    # The other run may be alive: only its silence, or a person, lets it be taken over.
    with pytest.raises(RefusedError, match="taken for alive until"):
        _start.start(place.start_request(run_id="run-2", recover=True))
    assert not place.replica.is_running()
    ledger = _ledger.load(place.state)
    assert ledger is not None
    ledger.save(lease=1.0)
    result = _start.start(place.start_request(run_id=None, recover=True))
    story = " ".join(result["explanation"])
    for part in ("run-1", BACKUP_ID, "step 'stopped'", "asked the server to stop", "armed for", "was removed"):
        assert part in story
    assert result["server_restored"]
    assert not Path(place.paths.directory).exists()
    assert _ledger.load(place.state) is None


@one_family
def test_recovery_waits_without_the_lock_so_that_a_living_run_goes_on(place: Place) -> None:
    """The gap between two modules: only the lease says that the run is alive."""
    _stop.stop(place.stop_request())
    ended: list[t.Any] = []

    def recover() -> None:
        try:
            ended.append(_start.start(place.start_request(run_id=None, recover=True, lock_timeout=60)))
        except ReplicaBackupError as error:
            ended.append(error)

    other = threading.Thread(target=recover)
    other.start()
    time.sleep(1.5)
    request = job.Request(paths=place.paths, state_dir=place.state)
    _outcome, started = _handover.capture_then_start(lambda: job.capture(request), place.state)
    assert started["server_restored"]
    time.sleep(1.5)
    job.publish(request)
    _start.start(place.start_request(close=True))
    other.join()
    # It found the run closed, and has touched nothing.
    assert ended[0]["changed"] is False
    assert Path(place.paths.manifest).exists()


@one_family
def test_only_the_own_run_is_recovered_if_asked_for(place: Place) -> None:
    _stop.stop(place.stop_request())
    result = _start.start(place.start_request(run_id="run-2", recover=True, only_own=True))
    assert (result["changed"], result["server_restored"]) == (False, False)
    assert not place.replica.is_running()
    assert _start.start(place.start_request(recover=True, only_own=True))["server_restored"]


@one_family
def test_a_run_whose_server_is_down_cannot_be_closed(place: Place) -> None:
    _stop.stop(place.stop_request())
    with pytest.raises(RefusedError, match="its server is not back"):
        _start.start(place.start_request(close=True))
    assert _deadman.armed(place.state) is not None
    _start.start(place.start_request())
    _start.start(place.start_request(close=True))


@pytest.fixture
def small_state(place: Place) -> Iterator[Path]:
    """A state directory on a file system of its own that can be filled."""
    if os.geteuid() != 0:
        pytest.skip("mounts a file system")
    directory = Path(place.state)
    directory.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "none", str(directory)], check=True)
    try:
        yield directory
    finally:
        _deadman.disarm(place.state)
        subprocess.run(["umount", "-l", str(directory)], check=True)


def fill(directory: Path) -> None:
    with contextlib.suppress(OSError), (directory / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)


@one_family
def test_a_full_state_directory_does_not_keep_the_server_down(place: Place, small_state: Path) -> None:
    _stop.stop(place.stop_request())
    fill(small_state)
    result = _start.start(place.start_request())
    assert result["server_restored"]
    assert any("could not be written" in warning for warning in result["warnings"])
    assert states(place.replica) == ("Yes", "Yes")
    (small_state / "filler").unlink()
    _start.start(place.start_request(recover=True))


@one_family
def test_a_full_state_directory_does_not_stop_the_dead_man(place: Place, small_state: Path) -> None:
    _stop.stop(place.stop_request())
    fill(small_state)
    assert _deadman.fire(place.state) == 0
    assert states(place.replica) == ("Yes", "Yes")
    record = _deadman.fired(place.state)
    assert record is not None
    assert record["outcome"] == "server started"
    (small_state / "filler").unlink()
    _start.start(place.start_request(recover=True))


@one_family
def test_a_full_state_directory_stops_the_stop(place: Place, small_state: Path) -> None:
    _ledger.prepare_state_dir(place.state)
    (small_state / "lock").write_text("", encoding="utf-8")
    pids = place.replica.pids()
    fill(small_state)
    with pytest.raises((ReplicaBackupError, OSError)):
        _stop.stop(place.stop_request())
    assert place.replica.pids() == pids
    assert states(place.replica) == ("Yes", "Yes")
    (small_state / "filler").unlink()
    _start.start(place.start_request(recover=True))


@one_family
@pytest.mark.parametrize("damage", ["truncated", "removed"])
def test_a_damaged_ledger_does_not_disarm_the_dead_man(place: Place, damage: str) -> None:
    _stop.stop(place.stop_request())
    path = Path(_ledger.ledger_path(place.state))
    text = path.read_text(encoding="utf-8")
    if damage == "truncated":
        path.write_text(text[:100], encoding="utf-8")
    else:
        path.unlink()
    assert _deadman.fire(place.state) == 0
    assert states(place.replica) == ("Yes", "Yes")
    path.write_text(text, encoding="utf-8")
    _start.start(place.start_request(recover=True))


@one_family
def test_a_state_directory_that_is_gone_does_not_disarm_the_waiting_dead_man(place: Place) -> None:
    _stop.stop(place.stop_request(downtime_budget=4))
    os.rename(place.state, f"{place.state}.gone")
    deadline = time.monotonic() + 60
    while not place.replica.is_running():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    place.replica.wait_ready()
    os.rename(f"{place.state}.gone", place.state)
    assert _start.start(place.start_request(recover=True))["server_restored"]
    assert states(place.replica) == ("Yes", "Yes")


def test_a_level_that_the_compressor_does_not_have_is_refused_before_the_stop(place: Place) -> None:
    with pytest.raises(RefusedError, match="level does not fit zstd"):
        _stop.stop(place.stop_request(compression_level=99), check=True)


@one_family
def test_a_person_takes_over_at_once_and_a_complete_set_is_kept(place: Place) -> None:
    _stop.stop(place.stop_request())
    job.present(job.Request(paths=place.paths, state_dir=place.state))
    result = _start.start(place.start_request(run_id=None, recover=True, take_over=True))
    assert "is complete and was kept" in " ".join(result["explanation"])
    assert Path(place.paths.manifest).exists()


def test_the_dead_man_brings_the_server_back(place: Place) -> None:
    _stop.stop(place.stop_request(downtime_budget=3))
    deadline = time.monotonic() + 60
    while (_deadman.fired(place.state) or {}).get("finished") is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    record = _deadman.fired(place.state)
    assert record is not None
    assert record["outcome"] == "server started"
    assert states(place.replica) == ("Yes", "Yes")
    with pytest.raises(RefusedError, match="dead-man"):
        job.capture(job.Request(paths=place.paths, state_dir=place.state))
    result = _start.start(place.start_request())
    assert result["deadman_fired"]
    assert result["downtime_seconds"] > 0
    assert any("dead-man fired" in warning for warning in result["warnings"])
    _start.start(place.start_request(recover=True))
    assert not Path(place.paths.directory).exists()


@one_family
def test_the_dead_man_puts_stopped_threads_back_as_they_were(place: Place) -> None:
    place.replica.query("STOP SLAVE SQL_THREAD")
    _stop.stop(place.stop_request(policy=Policy(allow_stopped_channels=True)))
    assert _deadman.fire(place.state) == 0
    assert states(place.replica) == ("Yes", "No")
    _start.start(place.start_request())
    _start.start(place.start_request(close=True))
    place.replica.query("START SLAVE")


@one_family
def test_the_dead_man_tries_again_and_records_its_failure(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    _stop.stop(place.stop_request())
    real = _bringback.bring_back

    def fail(*arguments: t.Any) -> t.NoReturn:
        raise ReplicaBackupError("no start")

    monkeypatch.setattr(_bringback, "bring_back", fail)
    assert _deadman.fire(place.state, attempts=2, pause=0.01) == 1
    record = _deadman.fired(place.state)
    assert record is not None
    assert (record["outcome"], record["attempts"], record["error"]) == ("failed", 2, "no start.")
    monkeypatch.setattr(_bringback, "bring_back", real)
    _start.start(place.start_request())
    _start.start(place.start_request(close=True))


@one_family
def test_a_dead_man_without_a_run_does_nothing(place: Place) -> None:
    _ledger.prepare_state_dir(place.state)
    assert _deadman.fire(place.state) == 0
    assert _deadman.main(["watch", place.state, "token of an earlier run"]) == 0
    assert _deadman.main(["fire", place.state, "token of an earlier run"]) == 0
    assert not _deadman.disarm(place.state)
    Path(place.state, "deadman.fired").write_text("{", encoding="utf-8")
    assert _deadman.fired(place.state) == {"outcome": "its record is not readable"}


@one_family
def test_a_dead_man_that_cannot_run_stops_the_stop(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        _deadman, "write_payload", lambda path, _entry: Path(path).write_text("import sys; sys.exit(7)")
    )
    with pytest.raises(ReplicaBackupError, match="could not be armed") as caught:
        _stop.stop(place.stop_request())
    assert caught.value.facts["server_restored"] is True
    assert states(place.replica) == ("Yes", "Yes")


@one_family
def test_a_server_that_does_not_start_is_reported_and_tried_again(place: Place) -> None:
    _stop.stop(place.stop_request())
    config = place.replica.config.read_text(encoding="utf-8")
    place.replica.config.write_text(config + "no_such_setting = 1\n", encoding="utf-8")
    try:
        with pytest.raises(ReplicaBackupError, match="does not come up") as caught:
            _start.start(place.start_request())
        assert caught.value.facts["server_restored"] is False
        assert "no_such_setting" in str(caught.value)
        assert caught.value.server_state == "down"
    finally:
        place.replica.config.write_text(config, encoding="utf-8")
    assert _deadman.armed(place.state) is not None
    _start.start(place.start_request())
    _start.start(place.start_request(close=True))


@one_family
def test_a_login_that_no_longer_works_does_not_keep_the_server_down(place: Place) -> None:
    _stop.stop(place.stop_request())
    login = dataclasses.replace(place.login, user="nobody")
    with pytest.raises(ReplicaBackupError, match="threads could not be put back") as caught:
        _start.start(place.start_request(login=login))
    assert caught.value.facts["server_started"] is True
    assert place.replica.is_running()
    _start.start(place.start_request())
    _start.start(place.start_request(close=True))


@one_family
def test_a_read_only_switch_that_cannot_be_put_back_does_not_keep_the_threads_stopped(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_read_only, "_LOCK_WAIT_SECONDS", 1)
    _stop.stop(place.stop_request())
    # Somebody else's start, whose clients write already: SET GLOBAL read_only waits for their locks.
    place.replica.start("--skip-read-only", "--skip-slave-start")
    with _connection.connect(place.login) as client:
        client.execute("LOCK TABLES d.t WRITE")
        with pytest.raises(ReplicaBackupError, match="threads as before, but read_only could not") as caught:
            _start.start(place.start_request())
        assert states(place.replica) == ("Yes", "Yes")
        assert place.replica.query("SELECT @@read_only AS v")[0]["v"] == 0
    assert caught.value.server_state == "running, threads as before, read_only is not"
    assert str(caught.value.found).startswith("read_only = 0 (1205 ")
    assert caught.value.expected == "read_only = 1"
    assert str(caught.value.next_command).startswith("SET GLOBAL read_only = 1; then ansible-playbook mysql_ops.")
    _start.start(place.start_request())
    assert place.replica.query("SELECT @@read_only AS v")[0]["v"] == 1
    _start.start(place.start_request(close=True))


def test_a_second_attempt_does_not_skip_events_once_more(place: Place) -> None:
    def counter() -> t.Any:
        return place.replica.query("SHOW SLAVE STATUS")[0]["Skip_Counter"]

    place.replica.query("STOP SLAVE")
    place.replica.query("SET GLOBAL sql_slave_skip_counter = 1")
    place.replica.query("START SLAVE")
    assert counter() == 1
    _stop.stop(place.stop_request())
    _start.start(place.start_request())
    assert counter() == 1
    # As an applier leaves it that has skipped what it was to skip.
    place.replica.query("STOP SLAVE")
    place.replica.query("SET GLOBAL sql_slave_skip_counter = 0")
    place.replica.query("START SLAVE")
    _start.start(place.start_request())
    assert counter() == 0
    _start.start(place.start_request(close=True))


def test_a_server_that_somebody_else_started_is_left_running(place: Place) -> None:
    place.replica.query("STOP SLAVE SQL_THREAD")
    _stop.stop(place.stop_request(policy=Policy(allow_stopped_channels=True)))
    place.replica.start()
    result = _start.start(place.start_request())
    assert not any("started the server" in action for action in result["actions"])
    assert any("somebody else started it" in warning for warning in result["warnings"])
    _start.start(place.start_request(close=True))


@one_family
def test_a_server_that_was_never_asked_to_stop_counts_as_running(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bringback, "_STILL_ANSWERS_SECONDS", 0.5)
    with contextlib.closing(_connection.connect(place.login)) as session:
        plan = _stop.make_plan(session, place.stop_request())
    _ledger.prepare_state_dir(place.state)
    ledger = _stop._open_ledger(place.stop_request(), plan)
    ledger.data["stop_requested"] = True
    ledger.save()
    result = _bringback.bring_back(ledger, place.login, BringBackLimits(stop=30, start=30))
    assert not result.server_started
    ledger.close("test")


@one_family
def test_a_catch_up_that_fails_leaves_the_server_up(place: Place) -> None:
    _stop.stop(place.stop_request())
    place.topology.source.stop()
    try:
        with pytest.raises(ReplicaBackupError, match="does not catch up") as caught:
            _start.start(place.start_request(catch_up_timeout=1))
        assert caught.value.facts["server_restored"] is True
        assert place.replica.is_running()
    finally:
        place.topology.source.start()
    assert _start.start(place.start_request())["caught_up"]
    _start.start(place.start_request(close=True))
