# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the dead-man acts, and when it does not: its looks at the signs of life, and those looks on real servers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
import typing as t
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _deadman,
    _discovery,
    _handover,
    _ledger,
    _server,
    _stop,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import job
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Login
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._start import StartRequest
from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import Faults, LocalReplica
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import Flavor, MariaDB, MySQL56
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

TOKEN = "a" * 32
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


@pytest.fixture
def ledger(state: str) -> Ledger:
    _ledger.prepare_state_dir(state)
    return _ledger.open_new(state, {"run_id": "run-1", "server": {}, "before": {}, "service": {}})


def arm_on_paper(ledger: Ledger, *, seconds: float = 60.0) -> dict[str, t.Any]:
    """The record of an armed dead-man, without any process."""
    record: dict[str, t.Any] = {
        "token": TOKEN,
        "deadline_mono": time.monotonic() + seconds,
        "look_every": 0.02,
        "run": {"run_id": ledger.run_id},
    }
    Path(ledger.state_dir, "deadman.json").write_text(json.dumps(record), encoding="utf-8")
    return record


def look(ledger: Ledger, **changes: t.Any) -> str | None:
    return _deadman._Look(ledger.state_dir, arm_on_paper(ledger, **changes)).wait()


def test_armed_for_another_time_it_goes_by_that(ledger: Ledger) -> None:
    found = _deadman._Look(ledger.state_dir, arm_on_paper(ledger, seconds=0.1))
    arm_on_paper(ledger, seconds=0.4)
    ends = time.monotonic() + 0.3
    with at_work(ledger.state_dir):
        assert found.wait() == _deadman.DEADLINE
    assert time.monotonic() > ends


def test_arming_anew_leaves_no_gap(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is killed while it is armed for another time has the one that was armed before."""
    ledger.data.update(backup_id="20260101T000000Z", host="db1")
    ledger.save(lease=100.0)
    login = Login(user="nobody")
    first = _deadman.arm(ledger, login, 1000.0)
    watcher = _server.read_process(first["pid"])
    assert watcher is not None

    def killed(*_arguments: t.Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_deadman, "_write_armed", killed)
        with pytest.raises(KeyboardInterrupt):
            _deadman.arm(ledger, login, 500.0)
    assert _deadman.login_of_armed(ledger.state_dir) == login
    left = _deadman.armed(ledger.state_dir)
    assert left is not None
    assert (left["token"], left["deadline_mono"]) == (first["token"], first["deadline_mono"])
    assert _server.read_process(watcher.pid) == watcher

    second = _deadman.arm(ledger, login, 500.0)
    assert (second["token"], second["pid"]) == (first["token"], first["pid"])
    assert second["deadline_mono"] < first["deadline_mono"] - 400
    # A run of another name does not go on with it.
    ledger.data["run_id"] = "run-2"
    third = _deadman.arm(ledger, login, 500.0)
    assert third["token"] != first["token"]
    _deadman.disarm(ledger.state_dir)
    ends = time.monotonic() + 10
    while any(_server.read_process(pid) is not None for pid in (first["pid"], third["pid"])):
        assert time.monotonic() < ends
        time.sleep(0.05)


@contextlib.contextmanager
def at_work(state: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, as a module does."""
    path = os.path.join(state, "lock")
    code = f"import fcntl, sys; f = open({path!r}, 'a'); fcntl.flock(f, 2); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as holder:
        assert t.cast(t.IO[str], holder.stdout).readline() == "held\n"
        yield holder
        holder.kill()


def test_a_run_without_a_sign_of_life_is_dead(ledger: Ledger) -> None:
    ledger.save(lease=0.0)
    assert str(look(ledger)).startswith("nobody has been at work on the run since 20")


def test_the_lease_is_a_sign_of_life(ledger: Ledger) -> None:
    over = time.monotonic() + 0.5
    ledger.save(lease=0.5)
    assert "nobody" in str(look(ledger))
    assert time.monotonic() > over


def test_a_module_at_work_is_a_sign_of_life_until_it_is_killed(ledger: Ledger) -> None:
    ledger.save(lease=0.0)
    with at_work(ledger.state_dir) as module:
        assert look(ledger, seconds=0.3) == _deadman.DEADLINE
        module.send_signal(signal.SIGKILL)
        module.wait()
        assert "nobody" in str(look(ledger))


def test_one_look_between_two_modules_is_not_enough(ledger: Ledger) -> None:
    ledger.save(lease=0.0)
    found = _deadman._Look(ledger.state_dir, arm_on_paper(ledger, seconds=0.2))
    answers = iter([True, False] * 1000)
    found._nobody_at_work = lambda: next(answers)  # type: ignore[method-assign]
    assert found.wait() == _deadman.DEADLINE


def test_a_look_disturbs_no_module(ledger: Ledger) -> None:
    with _ledger.locked(ledger.state_dir, "a module"):
        held = Path(ledger.state_dir, "lock").read_text(encoding="utf-8")
        assert _ledger.at_work(ledger.state_dir)
        assert Path(ledger.state_dir, "lock").read_text(encoding="utf-8") == held
    assert not _ledger.at_work(ledger.state_dir)
    ends = time.monotonic() + 0.5
    looking = threading.Thread(target=lambda: [_ledger.at_work(ledger.state_dir) for _n in range(2000)])
    looking.start()
    while time.monotonic() < ends:
        with _ledger.locked(ledger.state_dir, "a module", timeout=0.0):
            pass
    looking.join()


@pytest.mark.parametrize("text", [None, '{"token": "another"}'])
def test_called_off_or_armed_anew_it_ends(ledger: Ledger, text: str | None) -> None:
    ledger.save(lease=0.0)
    found = _deadman._Look(ledger.state_dir, arm_on_paper(ledger))
    path = Path(ledger.state_dir, "deadman.json")
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="utf-8")
    assert found.wait() is None


@pytest.mark.parametrize("text", ["", "{", "[]", "\0" * 100])
def test_a_record_that_is_damaged_calls_nothing_off(ledger: Ledger, text: str) -> None:
    ledger.save(lease=0.0)
    found = _deadman._Look(ledger.state_dir, arm_on_paper(ledger))
    Path(ledger.state_dir, "deadman.json").write_text(text, encoding="utf-8")
    assert "nobody" in str(found.wait())


@pytest.mark.parametrize("damage", ["damaged", "removed", "of another run"])
def test_without_a_ledger_the_usual_lease_counts(ledger: Ledger, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(ledger.path)
    if damage == "removed":
        path.unlink()
    elif damage == "damaged":
        path.write_text("{", encoding="utf-8")
    else:
        path.write_text(path.read_text(encoding="utf-8").replace("run-1", "run-2"), encoding="utf-8")
    if damage != "of another run":
        assert look(ledger, seconds=0.3) == _deadman.DEADLINE
    monkeypatch.setattr(_ledger, "DEFAULT_LEASE", 0.1)
    found = _deadman._Look(ledger.state_dir, arm_on_paper(ledger) | {"run": {"run_id": "run-1"}})
    with at_work(ledger.state_dir):
        assert not found._nobody_at_work()
    assert "nobody" in str(found.wait())


@pytest.mark.parametrize("instead", [False, True])
def test_of_a_state_directory_that_is_gone_nothing_is_concluded(ledger: Ledger, state: str, instead: bool) -> None:
    """Moved away, or unmounted: a module may be at work. The deadline is known still."""
    ledger.save(lease=0.0)
    found = _deadman._Look(state, arm_on_paper(ledger, seconds=0.3))
    os.rename(state, f"{state}.gone")
    if instead:
        os.mkdir(state)
    assert found.wait() == _deadman.DEADLINE


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime")
@pytest.mark.parametrize(("step", "lease"), [("-90000", 0.8), ("+90000", 2.0)])
def test_a_clock_that_is_set_changes_nothing(ledger: Ledger, tmp_path: Path, step: str, lease: float) -> None:
    """The wall clock of ledger and watcher jumps by a day while both run; only the monotonic one may count."""
    clock = tmp_path / "clock"
    clock.write_text("+0\n", encoding="ascii")
    code = f"""
import pathlib, select, sys, time
# libfaketime spoils the sleep of Python 3.11, which waits for a moment of the monotonic clock.
time.sleep = lambda seconds: select.select([], [], [], seconds)
from {_deadman.__name__.rpartition(".")[0]} import _deadman, _ledger
ledger = _ledger.load({ledger.state_dir!r})
wall = time.time()
noted = time.monotonic()
ledger.save(lease={lease})
pathlib.Path({str(clock)!r}).write_text("{step}\\n")
found = _deadman._Look(ledger.state_dir, {arm_on_paper(ledger)!r}).wait()
print(abs(time.time() - wall) > 80000, time.monotonic() - noted >= {lease}, found.split(" since")[0])
"""
    environment = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "True True nobody has been at work on the run\n", done.stderr


def test_what_was_done_is_not_done_again(ledger: Ledger) -> None:
    """The timer behind the watcher comes at the deadline, long after the watcher has brought the server back."""
    state = ledger.state_dir
    path = Path(state, "deadman.fired")
    assert not _deadman._done(state, TOKEN)
    path.write_text(json.dumps({"token": TOKEN, "finished": "now", "error": "no start"}), encoding="utf-8")
    assert not _deadman._done(state, TOKEN), "a server that did not come up is tried again"
    path.write_text(json.dumps({"token": TOKEN, "finished": "now"}), encoding="utf-8")
    assert _deadman._done(state, TOKEN)
    assert not _deadman._done(state, "of a later run")
    arm_on_paper(ledger)
    assert _deadman.main(["fire", state, TOKEN]) == 0


# --- on real servers --------------------------------------------------------------------------------------------------

FLAVORS: dict[str, t.Callable[[], Flavor]] = {"mariadb": MariaDB, "mysql56": MySQL56}
QUICK: dict[str, t.Any] = {"lease": 1.0, "gap": 1.0, "look_every": 0.3}


@pytest.fixture(scope="module", params=FLAVORS)
def topology(request: pytest.FixtureRequest) -> Iterator[Topology]:
    flavor = FLAVORS[request.param]()
    with Topology(CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8], replicas=1, flavor=flavor) as topology:
        topology.source.query("CREATE DATABASE d")
        topology.source.query("CREATE TABLE d.t (a INT PRIMARY KEY)")
        yield topology


@dataclasses.dataclass(frozen=True)
class Case:
    """One replica, one fault, and how the end state is looked at."""

    topology: Topology
    window: Window
    replica: LocalReplica
    before: dict[str, str]
    faults: Faults

    def settle(self, fault: str) -> None:
        def write() -> None:
            self.topology.source.query("INSERT INTO d.t SELECT COALESCE(MAX(a), 0) + 1 FROM d.t")

        def back_up() -> None:
            again = Window(self.window.server, self.window.root / "again")
            again.root.mkdir()
            again.stop()
            again.archive()
            again.start()

        self.window.start(close=False, recover=True, run_id=None, take_over=True)
        self.faults.settle(fault, self.replica, self.before, back_up, writes=write)

    def fired(self) -> dict[str, t.Any]:
        deadline = time.monotonic() + 60
        while (record := _deadman.fired(self.window.state) or {}).get("finished") is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return record


@pytest.fixture
def case(topology: Topology, tmp_path: Path, faults: Faults) -> Iterator[Case]:
    server = topology.replicas[0]
    replica = LocalReplica(topology, server, (tmp_path,))
    window = Window(server, tmp_path / "window")
    window.root.mkdir()
    try:
        yield Case(topology, window, replica, replica.state(), faults)
    finally:
        for state in (window.state, str(window.root / "again" / "state")):
            _deadman.disarm(state)
        if not server.is_running():
            server.start()


@pytest.mark.parametrize("topology", ["mariadb"], indirect=True)
def test_a_controller_that_never_returns(case: Case) -> None:
    """Between the stop and the archive nobody is at work: the server is back after the lease, not after the budget."""
    case.window.stop(**QUICK, downtime_budget=3000)
    armed = _deadman.armed(case.window.state)
    assert armed is not None
    record = case.fired()
    assert record["outcome"] == "server started"
    assert "nobody has been at work" in record["reason"]
    deadline = time.monotonic() + 10
    while _server.read_process(armed["pid"]) is not None:
        assert time.monotonic() < deadline, "the watcher has done its work"
        time.sleep(0.1)
    with pytest.raises(ReplicaBackupError, match="dead-man has started the server") as caught:
        job.capture(job.Request(paths=case.window.paths, state_dir=case.window.state))
    assert "nobody has been at work" in str(caught.value)
    case.settle("controller gone between stop and archive")


@pytest.mark.parametrize("topology", ["mariadb"], indirect=True)
def test_a_slow_shutdown_and_a_long_archive_are_left_alone(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both take many times the lease; the module that is at work holds the lock."""
    pid = case.window.server.pids()[0]
    real = _server.wait_gone

    def slow(process: _server.ServerProcess, limit: float, **others: t.Any) -> float:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(3)
        assert _deadman.fired(case.window.state) is None
        os.kill(pid, signal.SIGCONT)
        return real(process, limit, **others)

    monkeypatch.setattr(_server, "wait_gone", slow)
    case.window.stop(**{**QUICK, "gap": 30.0})
    monkeypatch.undo()
    ledger = _ledger.load(case.window.state)
    assert ledger is not None
    ledger.save(lease=0.0)
    with _ledger.locked(case.window.state, "a long archive"):
        time.sleep(2)
        ledger.save(lease=30.0)
    assert _deadman.fired(case.window.state) is None
    case.window.archive()
    assert _deadman.fired(case.window.state) is None
    case.window.start()
    case.faults.settle("shutdown and archive longer than the lease", case.replica, case.before)


KILLED = """
import os, signal, sys
from {utils} import _replication, _stop
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window
import pickle
def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)
{where} = die
window, changes = pickle.loads(bytes.fromhex(sys.argv[1]))
window.stop(**changes)
"""


def test_a_module_that_is_killed_while_the_threads_stand_still(case: Case) -> None:
    """Not down, but a replica that stands still is as bad."""
    import pickle

    utils = _stop.__name__.rpartition(".")[0]
    code = KILLED.format(utils=utils, where="_stop.check_coordinates")
    argument = pickle.dumps((case.window, QUICK)).hex()
    done = subprocess.run(
        [sys.executable, "-c", code, argument],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert case.replica.state() != case.before
    record = case.fired()
    assert (record["outcome"], "error" in record) == ("server was running", False)
    case.settle("module killed with the threads stopped")


def late_discovery(monkeypatch: pytest.MonkeyPatch, act: t.Callable[[], object]) -> None:
    """Lets something happen in the step before the shutdown, when replication stands still."""
    real = _discovery.discover

    def discover(*arguments: t.Any, **names: t.Any) -> t.Any:
        if _deadman.armed(str(arguments[1].paths.root).replace("/spool", "/state")) is not None:
            act()
        return real(*arguments, **names)

    monkeypatch.setattr(_discovery, "discover", discover)


@pytest.mark.parametrize("topology", ["mariadb"], indirect=True)
def test_a_dead_man_that_is_spent_before_the_shutdown(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would stand behind the stop, so there is none."""
    pids = case.window.server.pids()
    with monkeypatch.context() as patch:
        late_discovery(patch, lambda: _deadman.fire(case.window.state))
        with pytest.raises(ReplicaBackupError, match="has acted before the server was down") as caught:
            case.window.stop()
    assert caught.value.facts["rule"] == "deadman"
    assert caught.value.facts["server_restored"] is True
    assert case.window.server.pids() == pids
    case.settle("dead-man spent before the shutdown")


@pytest.mark.parametrize("topology", ["mariadb"], indirect=True)
def test_a_budget_that_is_used_up_before_the_shutdown(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = case.window.server.pids()
    with monkeypatch.context() as patch:
        late_discovery(patch, lambda: time.sleep(8))
        with pytest.raises(ReplicaBackupError, match="left of the downtime budget does not suffice") as caught:
            case.window.stop(downtime_budget=10)
    assert caught.value.facts["rule"] == "downtime_budget"
    assert case.window.server.pids() == pids
    case.settle("downtime budget used up before the shutdown")


@pytest.mark.parametrize("topology", ["mariadb"], indirect=True)
def test_a_dead_man_tries_until_the_cause_is_mended(case: Case) -> None:
    server = case.window.server
    case.window.stop()
    server.extra_settings["no_such_setting"] = "1"
    server.write_config()

    def mend() -> None:
        del server.extra_settings["no_such_setting"]
        server.write_config()

    timer = threading.Timer(4, mend)
    timer.start()
    assert _deadman.fire(case.window.state, attempts=20, pause=0.5) == 0
    record = case.fired()
    assert record["outcome"] == "server started"
    assert record["attempts"] > 1
    case.settle("server that does not start for a while")


def test_the_joined_step_brings_the_server_back_whatever_the_capture_does(case: Case) -> None:
    window = case.window
    back = StartRequest(login=window.login, state_dir=window.state, run_id=window.run_id, start_timeout=60)

    def killed() -> job.Outcome:
        # What a terminated module raises: no error of ours, and not even an Exception.
        raise SystemExit(1)

    with pytest.raises(SystemExit):
        _handover.stop_then_capture(window.stop, killed, back, start_server=True)
    assert window.server.is_running()
    # Also when the dead-man has been and gone, so that nobody else has a login.
    _deadman.disarm(window.state)
    case.settle("capture ended from outside")
    again = Window(window.server, window.root / "joined")
    again.root.mkdir()
    result = _handover.stop_then_capture(
        again.stop,
        lambda: job.capture(job.Request(paths=again.paths, state_dir=again.state)),
        dataclasses.replace(back, state_dir=again.state, run_id=again.run_id),
        start_server=True,
    )
    assert (result["server_restored"], result["start_error"]) == (True, "")
    assert result["archive"]["files"] > 0
    assert again.start(recover=True, close=False)["set_dir"]
