# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes, locks, the error log and the proof of a clean stop, mostly on real ones."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _clean_stop,
    _error_log,
    _redo_log,
    _server,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._clean_stop import CleanStop, Proof
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils.real_server import (
    RealServer,
    needs_server,
    template_datadir,
)

MARIADB = Dialect("mariadb", (10, 11, 0))
SLEEP = shutil.which("sleep") or "/bin/sleep"
Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    children: list[subprocess.Popen[bytes]] = []

    def start(*argv: str | Path, **arguments: object) -> subprocess.Popen[bytes]:
        child = subprocess.Popen([str(word) for word in argv], **arguments)  # type: ignore[call-overload]
        children.append(child)
        return child  # type: ignore[no-any-return]

    yield start
    for child in children:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


@pytest.fixture
def stand_in(tmp_path: Path, spawn: Spawn) -> Callable[..., ServerProcess]:
    """Give a process that is called like a server and has its working directory where a server has it."""

    def start(datadir: Path, *options: str, name: str = "mariadbd") -> ServerProcess:
        binary = tmp_path / "bin" / name
        binary.parent.mkdir(exist_ok=True)
        if not binary.exists():
            shutil.copy(sys.executable, binary)
        datadir.mkdir(exist_ok=True)
        child = spawn(
            binary,
            "-c",
            "import time; print(flush=True); time.sleep(600)",
            *options,
            cwd=datadir,
            stdout=subprocess.PIPE,
            env={"PYTHONHOME": sys.base_prefix},
        )
        assert child.stdout is not None
        child.stdout.readline()
        process = _server.read_process(child.pid)
        assert process is not None
        return process

    return start


HOLDER = """
import fcntl, os, sys, time
handle = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(handle, fcntl.LOCK_EX)
print(flush=True)
time.sleep(600)
"""


@pytest.fixture
def lock(spawn: Spawn) -> Callable[[Path], int]:
    """Give a process that holds a POSIX lock on a file, as servers do on theirs."""

    def take(path: Path) -> int:
        child = spawn(sys.executable, "-c", HOLDER, path, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        return child.pid

    return take


def _started(child: subprocess.Popen[bytes]) -> ServerProcess:
    """Return the child once it is itself: for a moment after the exec it has no arguments yet."""
    while True:
        process = _server.read_process(child.pid)
        assert process is not None
        if process.argv:
            return process


# --- processes -------------------------------------------------------------------------------------


def test_a_process_is_read_and_survives_json(spawn: Spawn, tmp_path: Path) -> None:
    child = spawn(SLEEP, "600", cwd=tmp_path)
    process = _started(child)
    assert (process.pid, process.cwd, process.parent_pid) == (child.pid, str(tmp_path), os.getpid())
    assert process.argv == (SLEEP, "600")
    assert os.path.samefile(process.exe, SLEEP)
    assert (process.uid, process.gid) == (os.geteuid(), os.getegid())
    assert ServerProcess.from_dict(json.loads(json.dumps(process.to_dict()))) == process


def test_a_dead_process_is_not_alive_even_as_a_zombie(spawn: Spawn) -> None:
    child = spawn(SLEEP, "600")
    process = _server.read_process(child.pid)
    assert process is not None
    assert _server.is_alive(process)
    assert not _server.is_alive(replace(process, start_ticks=process.start_ticks + 1)), "another one of that number"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}").exists(), "a zombie by now"
    assert not _server.is_alive(process)
    assert _server.read_process(child.pid) is None
    child.wait()
    assert not _server.is_alive(process)
    assert _server.read_process(child.pid) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mariadbd", True),
        ("mysqld", True),
        ("mysqld-debug", True),
        ("mysqld-8.0", True),
        ("mysqld_safe", False),
        ("mariadbd-safe", False),
        ("mariadbd-safe-helper", False),
        ("mysqld_multi", False),
        ("mysqladmin", False),
        ("mysqldump", False),
    ],
)
def test_what_is_a_server(stand_in: Callable[..., ServerProcess], tmp_path: Path, name: str, expected: bool) -> None:
    process = stand_in(tmp_path / "d", name=name)
    assert _server.is_server(process) is expected
    # Where exe cannot be read, as for root in a container, the name of the command tells.
    assert _server.is_server(replace(process, exe="")) is expected


def test_two_servers_are_told_apart_by_their_directory(
    stand_in: Callable[..., ServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _alone(monkeypatch)
    one, two = stand_in(tmp_path / "one"), stand_in(tmp_path / "two")
    pid_file = tmp_path / "pid"
    pid_file.write_text(f"{two.pid}\n")
    (tmp_path / "three").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "one")
    assert _server.find_process(datadir=str(tmp_path / "one"), pid_file=str(pid_file)) == one
    assert _server.find_process(datadir=str(tmp_path / "two"), pid_file=str(pid_file)) == two
    assert _server.find_process(datadir=str(tmp_path / "link"), pid_file=str(tmp_path / "absent")) == one
    assert _server.find_process(datadir=str(tmp_path / "three"), pid_file=str(pid_file)) is None
    assert _server.find_process(datadir=str(tmp_path / "never-made")) is None


def _blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide exe and cwd, as the kernel does from root in a container without CAP_SYS_PTRACE."""
    monkeypatch.setattr(_server, "_readlink", lambda path: "")
    _alone(monkeypatch)


def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out processes that are not ours: other servers of this machine may be unknowable to us."""
    real = _server._all_pids

    def ours() -> list[int]:
        return [pid for pid in real() if (_server._stat_fields(pid) or ("", 0, 0))[1] == os.getpid()]

    monkeypatch.setattr(_server, "_all_pids", ours)


def test_without_cwd_the_lock_tells_the_servers_apart(
    stand_in: Callable[..., ServerProcess],
    lock: Callable[[Path], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = stand_in(tmp_path / "one")
    (tmp_path / "one" / "ibdata1").write_bytes(b"")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "ibdata1").write_bytes(b"")
    holder = lock(tmp_path / "one" / "ibdata1")
    _blind(monkeypatch)
    blind = replace(server, cwd="", exe="")
    assert _server._serves(replace(blind, pid=holder), str(tmp_path / "one"), None) is True
    assert _server._serves(blind, str(tmp_path / "one"), None) is False
    assert _server._serves(blind, str(tmp_path / "two"), None) is False
    assert _server.find_process(datadir=str(tmp_path / "two")) is None


def test_without_cwd_and_lock_the_arguments_or_the_pid_file_tell(
    stand_in: Callable[..., ServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = stand_in(tmp_path / "one", f"--datadir={tmp_path / 'one'}")
    _blind(monkeypatch)
    found = _server.find_process(datadir=str(tmp_path / "one"))
    assert found is not None and found.pid == one.pid
    assert _server.find_process(datadir=str(tmp_path / "elsewhere")) is None

    two = stand_in(tmp_path / "two")
    with pytest.raises(ReplicaBackupError, match="cannot be told") as caught:
        _server.find_process(datadir=str(tmp_path / "two"))
    assert caught.value.server_state == "unknown"
    assert str(two.pid) in str(caught.value.found)
    pid_file = tmp_path / "pid"
    for content in ("", "nonsense\n"):
        pid_file.write_text(content)
        with pytest.raises(ReplicaBackupError, match="cannot be told"):
            _server.find_process(datadir=str(tmp_path / "two"), pid_file=str(pid_file))
    pid_file.write_text(f"{two.pid}\n")
    for name in (str(pid_file), "../pid"):
        found = _server.find_process(datadir=str(tmp_path / "two"), pid_file=name)
        assert found is not None and found.pid == two.pid


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ((), None),
        (("--datadir=/a",), "/a"),
        (("--datadir", "/a"), "/a"),
        (("--datadir",), None),
        (("--datadir=/a", "--datadir=/b"), "/b"),
        (("--data_dir=/a", "--datadirx=/c"), None),
    ],
)
def test_option_values(argv: tuple[str, ...], expected: str | None) -> None:
    assert _server._option(argv, "datadir") == expected


def test_hidden_processes_are_not_taken_for_absent_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.path.isdir
    monkeypatch.setattr(os.path, "isdir", lambda path: path != "/proc/1" and real(path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ReplicaBackupError, match="hidden"):
        _server.find_process(datadir=str(tmp_path))


def test_waiting_reports_and_returns_at_the_end(spawn: Spawn) -> None:
    child = spawn(SLEEP, "600")
    process = _server.read_process(child.pid)
    assert process is not None
    seen: list[float] = []

    def look(waited: float) -> None:
        seen.append(waited)
        if len(seen) == 3:
            child.kill()
            child.wait()

    assert _server.wait_gone(process, 60, poll=0.001, on_poll=look) >= seen[2]
    assert len(seen) == 3
    assert _server.wait_gone(process, 0) >= 0


def test_waiting_too_long_says_that_the_server_still_stops(spawn: Spawn) -> None:
    process = _server.read_process(spawn(SLEEP, "600").pid)
    assert process is not None
    with pytest.raises(ReplicaBackupError) as caught:
        _server.wait_gone(process, 0.01, poll=0.001)
    assert caught.value.server_state == f"still stopping, pid {process.pid}"
    assert _server.is_alive(process), "nobody killed it"


# --- files -----------------------------------------------------------------------------------------

OPENER = """
import os, sys, time
kept = open(sys.argv[1] + "/kept", "w"), open(sys.argv[1] + "/read"), open(sys.argv[1] + "/gone", "w")
os.unlink(sys.argv[1] + "/gone")
pipe = os.pipe()
print(flush=True)
time.sleep(600)
"""


@pytest.fixture
def opener(spawn: Spawn, tmp_path: Path) -> ServerProcess:
    (tmp_path / "read").write_text("")
    child = spawn(sys.executable, "-c", OPENER, tmp_path, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    process = _server.read_process(child.pid)
    assert process is not None
    return process


def test_open_files_are_regular_and_present(opener: ServerProcess, tmp_path: Path) -> None:
    files = _server.open_files(opener)
    assert files is not None
    assert [name for name in files if name.startswith(str(tmp_path))] == [
        str(tmp_path / "kept"),
        str(tmp_path / "read"),
    ]
    assert _server.open_files(replace(opener, pid=2**22 + 1)) is None


def test_holders_tell_writers_from_readers_and_leave_us_out(opener: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with (tmp_path / "own").open("w"):
        seen = _server.holders([str(tmp_path)])
    assert {(holder.pid, os.path.basename(holder.path), holder.writes) for holder in seen.found} == {
        (opener.pid, "kept", True),
        (opener.pid, "read", False),
        (opener.pid, "gone (deleted)", True),
    }
    assert seen.found[0].command
    assert _server.holders([str(tmp_path / "other")]).found == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes mount namespaces")
def test_files_of_a_container_under_the_same_name_are_not_ours(spawn: Spawn, tmp_path: Path) -> None:
    for name in ("data", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ibdata1").write_text("")
    (tmp_path / "other" / "only_there").write_text("")
    script = 'mount --bind "$2" "$1" && exec 3>>"$1/ibdata1" 4>>"$1/only_there" && echo ready && exec sleep 600'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path / "data"), str(tmp_path / "other")]
    child = spawn(*command, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    assert os.readlink(f"/proc/{child.pid}/fd/3") == str(tmp_path / "data" / "ibdata1")
    assert _server.holders([str(tmp_path / "data")]).found == ()
    # With mounts of its own and yet the same file: a writer like any other.
    with (tmp_path / "data" / "ibdata1").open("a") as shared:
        spawn("unshare", "--mount", "sleep", "600", stdout=shared)
        deadline = time.monotonic() + 30
        while not (seen := _server.holders([str(tmp_path / "data")]).found) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [holder.path for holder in seen] == [str(tmp_path / "data" / "ibdata1")]


def _as_nobody(work: Callable[[], bool]) -> bool:
    """Run ``work`` in a process of an ordinary user; its answer."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os._exit(0 if work() else 1)
        os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_ordinary_user_sees_that_it_cannot_see(opener: ServerProcess, tmp_path: Path) -> None:
    assert _as_nobody(lambda: _server.open_files(opener) is None)
    assert _as_nobody(lambda: _server.holders([str(tmp_path)]).unreadable > 0)
    assert not _as_nobody(lambda: _server.holders([str(tmp_path)]).found != ())


def test_an_unreadable_descriptor_counts_as_unknown(
    opener: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.readlink

    def refuse(path: str) -> str:
        if path.startswith(f"/proc/{opener.pid}/fd/"):
            raise PermissionError(13, "not you")
        return real(path)

    before = _server.holders([str(tmp_path)]).unreadable
    monkeypatch.setattr(os, "readlink", refuse)
    seen = _server.holders([str(tmp_path)])
    assert (seen.found, seen.unreadable) == ((), before + 1)
    assert _server._opened_for_writing(opener.pid, "9999") is None


def test_lock_state_sees_a_lock_and_takes_none(lock: Callable[[Path], int], tmp_path: Path) -> None:
    path = tmp_path / "ibdata1"
    assert _server.lock_state(str(path)) is None
    path.write_bytes(b"")
    assert _server.lock_state(str(path)) is True
    holder = lock(path)
    assert _server.lock_state(str(path)) is False
    assert _server._lock(str(path)) == _server._Lock(held=True, pid=holder)
    os.kill(holder, signal.SIGKILL)
    os.waitid(os.P_PID, holder, os.WEXITED | os.WNOWAIT)
    assert _server.lock_state(str(path)) is True
    assert lock(path), "our look left no lock behind"


def test_lock_state_is_unknown_where_the_system_knows_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> bytes:
        raise OSError(37, "no locks available")

    (tmp_path / "f").write_bytes(b"")
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert _server.lock_state(str(tmp_path / "f")) is None


# --- the error log ---------------------------------------------------------------------------------


def test_the_log_is_read_from_the_mark_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert _error_log.mark_end(str(log)) is None
    assert _error_log.mark_end(str(tmp_path)) is None
    log.write_text("old\n")
    mark = _error_log.mark_end(str(log))
    assert mark is not None
    assert _error_log.since(mark) == ""
    with log.open("a") as stream:
        stream.write("new\n")
    assert _error_log.since(mark) == "new\n"
    assert _error_log.since(mark, limit=2) == "w\n"

    log.rename(tmp_path / "log.1")
    assert _error_log.since(mark) == "new\n", "moved away and none made yet"
    log.write_text("newer\n")
    assert _error_log.since(mark) == "new\nnewer\n", "rotated"
    (tmp_path / "log.1").unlink()
    assert _error_log.since(mark) == "newer\n", "rotated and removed"


def test_a_truncated_log_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("a long line before\n")
    mark = _error_log.mark_end(str(log))
    assert mark is not None
    with log.open("r+") as stream:
        stream.truncate(0)
        stream.write("short\n")
    assert _error_log.since(mark) == "short\n"


@pytest.mark.parametrize(
    ("log_error", "expected"),
    [(None, None), ("", None), ("stderr", None), ("e.err", "/d/e.err"), ("./e.err", "/d/e.err"), ("/l/e", "/l/e")],
)
def test_where_the_log_is(log_error: str | None, expected: str | None) -> None:
    variables = {"datadir": "/d/", **({} if log_error is None else {"log_error": log_error})}
    assert _error_log.path_of(variables) == expected


# --- the proof, on real servers --------------------------------------------------------------------


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    with template_datadir() as datadir:
        yield datadir


@pytest.fixture
def real(template: Path) -> Iterator[RealServer]:
    server = RealServer(template)
    yield server
    server.close()


def _stop(server: RealServer, how: Callable[[int], None]) -> tuple[CleanStop, dict[str, bool | None]]:
    """Start, write, stop as told, and prove; the signs by name as well."""
    child = server.start()
    server.fill()
    variables = server.variables()
    process = _server.find_process(datadir=str(server.datadir), pid_file=str(server.pid_file))
    assert process is not None and process.pid == child.pid
    mark = _error_log.mark_end(str(server.error_log))
    how(child.pid)
    _server.wait_gone(process, 60)
    child.wait()
    stop = _clean_stop.prove_clean_stop(dialect=MARIADB, process=process, variables=variables, error_log=mark)
    return stop, {proof.name: proof.verdict for proof in stop.proofs}


@needs_server
def test_a_real_clean_stop_is_proven(real: RealServer) -> None:
    stop, verdicts = _stop(real, lambda pid: real.shutdown())
    assert stop.clean, stop.summary
    assert stop.summary == "clean"
    assert verdicts.pop("holders") is not False
    assert set(verdicts.values()) == {True}
    assert json.loads(json.dumps(stop.to_dict()))["clean"] is True
    log = next(proof.detail for proof in stop.proofs if proof.name == "error_log")
    end = next(proof.detail for proof in stop.proofs if proof.name == "redo_log").split()[-1]
    assert log.endswith(f"log sequence number {end}"), "both tell where the log ends"


@needs_server
def test_a_real_stop_by_signal_is_clean_as_well(real: RealServer) -> None:
    assert _stop(real, lambda pid: os.kill(pid, signal.SIGTERM))[0].clean


@needs_server
def test_a_killed_server_is_never_clean(real: RealServer) -> None:
    stop, verdicts = _stop(real, lambda pid: os.kill(pid, signal.SIGKILL))
    assert not stop.clean
    assert verdicts["process"] is True and verdicts["lock"] is True, "it is gone, and yet"
    bad = ("pid_file", "temporary_tablespace", "ddl_recovery_log", "binary_log", "gtid_state", "redo_log")
    assert {name: verdicts[name] for name in bad} == dict.fromkeys(bad, False)
    assert verdicts["error_log"] is None, "the dead write nothing"
    assert "must be replayed" in stop.summary
    assert "no mark of a clean stop" in stop.summary


@needs_server
def test_a_server_that_did_not_flush_is_not_clean_though_it_says_so(real: RealServer) -> None:
    def stop_without_flush(pid: int) -> None:
        real.execute("SET GLOBAL innodb_fast_shutdown=2", "SHUTDOWN")

    stop, verdicts = _stop(real, stop_without_flush)
    assert verdicts["error_log"] is True and verdicts["temporary_tablespace"] is True
    assert verdicts["redo_log"] is False
    assert not stop.clean


@needs_server
def test_a_running_server_is_not_clean(real: RealServer) -> None:
    child = real.start()
    process = _server.read_process(child.pid)
    assert process is not None
    files = _server.open_files(process)
    if files is not None:
        assert str(real.datadir / "ibdata1") in files
    assert _server.lock_state(str(real.datadir / "ibdata1")) is False
    assert _server.lock_state(str(real.datadir / "aria_log_control")) is False
    owner = _server._lock(str(real.datadir / "ibdata1"))
    assert owner is not None and owner.pid == child.pid
    stop = _clean_stop.prove_clean_stop(dialect=MARIADB, process=process, variables=real.variables(), error_log=None)
    verdicts = {proof.name: proof.verdict for proof in stop.proofs}
    assert not stop.clean
    assert verdicts["process"] is False and verdicts["lock"] is False
    assert verdicts["error_log"] is None
    # Also when the process that we stopped is gone, but another one serves the directory again.
    again = _clean_stop.prove_clean_stop(
        dialect=MARIADB,
        process=replace(process, start_ticks=1),
        variables=real.variables(),
        error_log=None,
    )
    assert "a server runs again" in again.summary


# --- the proof, sign by sign -----------------------------------------------------------------------


class Disk:
    """A data directory with just the files that one sign looks at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.variables = {"datadir": str(path) + "/", "innodb_fast_shutdown": "1"}

    def verdicts(self, family: str = "mysql", version: tuple[int, int, int] = (8, 0, 36)) -> dict[str, Proof]:
        gone = ServerProcess(2**22 + 1, 1, "", (), "", 0, 0, 1)
        log = self.path / "error.log"
        mark = _error_log.ErrorLogMark(str(log), log.stat().st_ino, 0) if log.exists() else None
        stop = _clean_stop.prove_clean_stop(
            dialect=Dialect(family, version), process=gone, variables=self.variables, error_log=mark
        )
        return {proof.name: proof for proof in stop.proofs}

    def legacy_log(self, checkpoint: int, flushed: int, name: str = "ib_logfile0") -> None:
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        head = bytearray(4096)
        struct.pack_into(">Q", head, 520, checkpoint - 10)
        struct.pack_into(">Q", head, 1544, checkpoint)
        path.write_bytes(head)
        page = bytearray(16384)
        struct.pack_into(">Q", page, 26, flushed)
        (self.path / "ibdata1").write_bytes(page)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_nothing_on_disk_proves_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    _alone(monkeypatch)
    seen = disk.verdicts()
    assert {name: proof.verdict for name, proof in seen.items()} == {
        "process": True,
        "lock": None,
        "holders": seen["holders"].verdict,
        "error_log": None,
        "pid_file": None,
        "temporary_tablespace": None,
        "ddl_recovery_log": None,
        "binary_log": None,
        "gtid_state": None,
        "fast_shutdown": True,
        "redo_log": None,
    }
    assert not CleanStop(tuple(seen.values())).clean


@pytest.mark.parametrize(
    ("value", "verdict"), [("0", True), ("1", True), ("2", False), ("3", False), ("", None), ("ON", None)]
)
def test_fast_shutdown(disk: Disk, value: str, verdict: bool | None) -> None:
    disk.variables["innodb_fast_shutdown"] = value
    assert disk.verdicts()["fast_shutdown"].verdict is verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("\n", None),
        ("2015-04-01 10:00:00 1 [Note] /opt/mysqld: Shutdown complete\n", True),
        ("2026-01-01 10:00:00 0 [Note] /usr/sbin/mariadbd: Shutdown complete\n", True),
        (
            "2026-01-01T10:00:00Z 0 [System] [MY-010910] [Server] /usr/sbin/mysqld: Shutdown complete (mysqld 9.7.4).\n"
            "2026-01-01T10:00:00Z 0 [System] [MY-015016] [Server] MySQL Server - end.\n",
            True,
        ),
        ("InnoDB: Shutdown completed; log sequence number 42\n", False),
        ("[Note] Shutdown completed; log sequence number 42\n[Note] /usr/sbin/mariadbd: Shutdown complete\n", True),
        ("2026-01-01 10:00:00 0 [Note] /usr/sbin/mariadbd (initiated by: root): Normal shutdown\n", False),
        ("2026-01-01 10:00:00 0 [ERROR] Aborting\n[Note] /usr/sbin/mariadbd: Shutdown complete\n", False),
        ("mysqld got signal 11 ;\n[Note] /usr/sbin/mariadbd: Shutdown complete\n", False),
    ],
)
def test_error_log_lines(disk: Disk, text: str, verdict: bool | None) -> None:
    (disk.path / "error.log").write_text(text)
    proof = disk.verdicts()["error_log"]
    assert proof.verdict is verdict, proof.detail
    assert ("log sequence number 42" in proof.detail) is (verdict is True and "42" in text)


def test_a_left_pid_file(disk: Disk) -> None:
    disk.variables["pid_file"] = "host.pid"
    assert disk.verdicts()["pid_file"].verdict is True
    (disk.path / "host.pid").write_text("1\n")
    assert disk.verdicts()["pid_file"].verdict is False
    (disk.path / "file").write_text("")
    disk.variables["pid_file"] = "file/host.pid"
    assert disk.verdicts()["pid_file"].verdict is True


def test_what_cannot_be_read_is_unknown(disk: Disk) -> None:
    disk.variables["pid_file"] = "loop/host.pid"
    (disk.path / "loop").symlink_to("loop")
    proof = disk.verdicts()["pid_file"]
    assert proof.verdict is None
    assert "cannot be read" in proof.detail


def test_temporary_tablespaces(disk: Disk) -> None:
    disk.variables.update(
        innodb_temp_data_file_path="ibtmp1:12M:autoextend", innodb_temp_tablespaces_dir="./#innodb_temp/"
    )
    assert disk.verdicts()["temporary_tablespace"].verdict is True
    (disk.path / "#innodb_temp").mkdir()
    (disk.path / "#innodb_temp" / "other").write_text("")
    assert disk.verdicts()["temporary_tablespace"].verdict is True
    (disk.path / "#innodb_temp" / "temp_3.ibt").write_text("")
    proof = disk.verdicts()["temporary_tablespace"]
    assert proof.verdict is False and "temp_3.ibt" in proof.detail


@pytest.mark.parametrize(
    ("family", "version", "left", "verdict"),
    [
        ("mariadb", (10, 11, 4), True, False),
        ("mariadb", (10, 11, 4), False, True),
        ("mariadb", (10, 5, 0), True, None),
        ("mysql", (8, 4, 0), True, None),
    ],
)
def test_ddl_recovery_log(
    disk: Disk, family: str, version: tuple[int, int, int], left: bool, verdict: bool | None
) -> None:
    if left:
        (disk.path / "ddl_recovery.log").write_text("")
    assert disk.verdicts(family, version)["ddl_recovery_log"].verdict is verdict


def _binlog(flags: int, magic: bytes = b"\xfebin") -> bytes:
    return magic + bytes(17) + struct.pack("<H", flags) + bytes(80)


@pytest.mark.parametrize(
    ("content", "verdict"),
    [(_binlog(0), True), (_binlog(1), False), (_binlog(0, b"\xfdbin"), None), (b"\xfebin", None)],
)
def test_the_last_binary_log(disk: Disk, content: bytes, verdict: bool | None) -> None:
    disk.variables.update(log_bin="ON", log_bin_basename=str(disk.path / "logs" / "bin"))
    (disk.path / "logs").mkdir()
    (disk.path / "logs" / "bin.index").write_text("logs/bin.000001\n./logs/bin.000002\n")
    (disk.path / "logs" / "bin.000001").write_bytes(_binlog(1))
    (disk.path / "logs" / "bin.000002").write_bytes(content)
    assert disk.verdicts()["binary_log"].verdict is verdict


def test_binary_logs_that_are_not_there(disk: Disk) -> None:
    disk.variables.update(log_bin="ON", log_bin_basename="bin", log_bin_index="./other.index")
    proof = disk.verdicts()["binary_log"]
    assert proof.verdict is None and "other.index" in proof.detail
    (disk.path / "other.index").write_text("\n")
    proof = disk.verdicts()["binary_log"]
    assert proof.verdict is None and "empty" in proof.detail
    assert disk.verdicts("mariadb")["gtid_state"].verdict is False
    (disk.path / "bin.state").write_text("0-1-1\n")
    assert disk.verdicts("mariadb")["gtid_state"].verdict is True
    assert disk.verdicts("mysql")["gtid_state"].verdict is None
    disk.variables["log_bin_basename"] = ""
    assert disk.verdicts()["binary_log"].verdict is None


def test_locks_and_holders_speak_against_a_stop(disk: Disk, lock: Callable[[Path], int]) -> None:
    (disk.path / "ibdata2").write_bytes(b"")
    disk.variables["innodb_data_file_path"] = "ibdata2:12M;ibdata3:1M:autoextend"
    assert disk.verdicts()["lock"].verdict is True
    lock(disk.path / "ibdata2")
    seen = disk.verdicts()
    assert seen["lock"].verdict is False and "ibdata2" in seen["lock"].detail
    assert seen["holders"].verdict is False and "ibdata2" in seen["holders"].detail


def test_logs_and_readers_are_no_holders(disk: Disk, opener: ServerProcess) -> None:
    assert disk.verdicts()["holders"].verdict is False
    disk.variables.update(log_error="kept", general_log_file="gone (deleted)")
    proof = disk.verdicts()["holders"]
    assert proof.verdict is not False
    assert "3 open for reading or logging" in proof.detail


@pytest.mark.parametrize(("unreadable", "verdict"), [(0, True), (2, None)])
def test_processes_that_hide_leave_the_holders_open(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, unreadable: int, verdict: bool | None
) -> None:
    monkeypatch.setattr(_server, "holders", lambda directories: _server.Holders((), unreadable))
    assert disk.verdicts()["holders"].verdict is verdict


def test_an_unknown_process_is_no_proof(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(**arguments: object) -> None:
        raise ReplicaBackupError("hidden")

    monkeypatch.setattr(_server, "find_process", unknown)
    disk.variables["pid_file"] = "pid"
    seen = disk.verdicts()
    assert seen["process"].verdict is None
    assert "process unknown: hidden" in CleanStop(tuple(seen.values())).summary


# --- redo logs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "checkpoint", "flushed", "verdict"),
    [
        ("mysql", 5000, 5000, True),
        ("mysql", 5000, 4000, False),
        ("mysql", 0, 0, False),
        ("mariadb", 5000, 5000, True),
        ("mariadb", 5000, 0, None),
    ],
)
def test_redo_logs_with_a_flushed_number(
    disk: Disk, family: str, checkpoint: int, flushed: int, verdict: bool | None
) -> None:
    disk.legacy_log(max(checkpoint, 10), flushed)
    if not checkpoint:
        (disk.path / "ib_logfile0").write_bytes(bytes(4096))
    assert disk.verdicts(family, (10, 4, 0))["redo_log"].verdict is verdict


NUMBERED = json.loads((Path(__file__).parent / "fixtures" / "redo_mysql_9_7.json").read_text(encoding="utf-8"))


class Numbered:
    """A redo log recorded from MySQL 9.7: its headers, and the block that the checkpoint points into."""

    def __init__(self, disk: Disk, case: str) -> None:
        recorded = NUMBERED[case]
        self._disk = disk
        self.path = disk.path / "#innodb_redo" / recorded["name"]
        self.path.parent.mkdir()
        content = bytearray(recorded["size"])
        for offset, part in recorded["parts"].items():
            data = zlib.decompress(base64.b64decode(part))
            content[int(offset) : int(offset) + len(data)] = data
        self.path.write_bytes(content)
        self.block = max(map(int, recorded["parts"]))
        self.checkpoint = recorded["flushed"]
        self.flushed(self.checkpoint)

    def flushed(self, number: int) -> None:
        page = bytearray(16384)
        struct.pack_into(">Q", page, 26, number)
        (self._disk.path / "ibdata1").write_bytes(page)

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as stream:
            stream.seek(offset)
            stream.write(data)

    def proof(self) -> Proof:
        return self._disk.verdicts("mysql", (9, 7, 4))["redo_log"]


@pytest.mark.parametrize(
    ("case", "verdict", "word"),
    [
        ("clean", True, "nothing follows"),
        # In both the numbers are equal: the server never came to make a checkpoint.
        ("killed", False, "goes on"),
        ("fast_shutdown_2", False, "goes on"),
    ],
)
def test_recorded_redo_logs_of_mysql_9_7(disk: Disk, case: str, verdict: bool, word: str) -> None:
    proof = Numbered(disk, case).proof()
    assert (proof.verdict, word in proof.detail) == (verdict, True), proof


def test_numbered_redo_log_that_is_ahead_of_the_data_files(disk: Disk) -> None:
    log = Numbered(disk, "clean")
    log.flushed(log.checkpoint - 512)
    assert log.proof().verdict is False
    assert "must be replayed" in log.proof().detail


@pytest.mark.parametrize(
    ("at", "data", "verdict", "word"),
    [
        (0, b"\0\0\0\1", False, "no valid record"),
        (4, b"\0\x0c", False, "no valid record"),
        (200, b"torn", False, "no valid record"),
        (4, b"\x81\0", None, "encrypted"),
        # As innodb_log_checksums=OFF writes it.
        (508, b"\xde\xad\xbe\xef", True, "nothing follows"),
    ],
)
def test_damaged_blocks_at_the_checkpoint(disk: Disk, at: int, data: bytes, verdict: bool | None, word: str) -> None:
    log = Numbered(disk, "clean")
    log.write(log.block + at, data)
    assert (log.proof().verdict, word in log.proof().detail) == (verdict, True), log.proof()


def test_a_block_that_says_to_end_before_the_checkpoint(disk: Disk) -> None:
    log = Numbered(disk, "clean")
    log.write(log.block + 4, b"\0\x0c")
    log.write(log.block + 508, b"\xde\xad\xbe\xef")
    assert log.proof().verdict is False


def test_a_checkpoint_in_front_of_a_block_that_was_never_written(disk: Disk) -> None:
    log = Numbered(disk, "clean")
    end = log.checkpoint // 512 * 512 + 512 + 12
    log.write(512 + 8, struct.pack(">Q", end))
    log.flushed(end)
    assert log.proof().verdict is True
    # The same beyond the end of the last file.
    with log.path.open("r+b") as stream:
        stream.truncate(log.block + 512)
    assert log.proof().verdict is False
    assert "no redo log file reaches" in log.proof().detail


def test_a_redo_log_that_ends_within_a_block(disk: Disk) -> None:
    log = Numbered(disk, "clean")
    with log.path.open("r+b") as stream:
        stream.truncate(log.block + 508)
    assert log.proof().verdict is False


def test_redo_logs_that_cannot_be_read(disk: Disk) -> None:
    (disk.path / "ib_logfile0").write_bytes(b"short")
    assert "too short" in disk.verdicts()["redo_log"].detail
    (disk.path / "ib_logfile0").write_bytes(b"Phys" + bytes(4096))
    assert "too short" in disk.verdicts()["redo_log"].detail
    (disk.path / "#innodb_redo").mkdir()
    (disk.path / "#innodb_redo" / "#ib_redo8_tmp").write_bytes(b"")
    proof = disk.verdicts()["redo_log"]
    assert proof.verdict is None and "no redo log" in proof.detail


FIRST = 12288


def _group(records: bytes, lsn: int, capacity: int, crc_of: bytes | None = None) -> bytes:
    turn = (lsn + len(records) - FIRST) // capacity & 1
    return records + bytes([1 - turn]) + struct.pack(">I", _redo_log._crc32c(records if crc_of is None else crc_of))


def _mariadb_log(
    checkpoint: int, after: bytes = b"", *, capacity: int = 40960, end: int | None = None, own: bytes | None = None
) -> bytes:
    """A redo log as MariaDB 10.8 and later lay it out, with ``after`` behind the record of the checkpoint."""
    head = bytearray(FIRST)
    head[:4] = b"Phys"
    struct.pack_into(">Q", head, 8, FIRST)
    struct.pack_into(">QQ", head, 4096, checkpoint - 100, checkpoint - 100)
    struct.pack_into(">QQ", head, 8192, checkpoint, checkpoint if end is None else end)
    body = bytearray(capacity)
    record = b"\xfa\0\0" + struct.pack(">Q", checkpoint)
    content = (_group(record, checkpoint, capacity) if own is None else own) + after
    for index, byte in enumerate(content):
        body[(checkpoint - FIRST + index) % capacity] = byte
    return bytes(head + body)


def _next(checkpoint: int, records: bytes, capacity: int = 40960, crc_of: bytes | None = None) -> bytes:
    return _group(records, checkpoint + 16, capacity, crc_of)


C = 20000
WRAPPED = FIRST + 40960 * 2 - 10


@pytest.mark.parametrize(
    ("content", "verdict", "word"),
    [
        (_mariadb_log(C), True, f"ends at {C + 16}"),
        (_mariadb_log(C, end=C + 5), False, "log up to"),
        (_mariadb_log(C, own=bytes(16)), False, "no valid record"),
        (_mariadb_log(C, _next(C, b"\x33abc")), False, "goes on"),
        (_mariadb_log(C, _next(C, b"\x33abc\x32xy")), False, "goes on"),
        (_mariadb_log(C, _next(C, b"\x33abc", crc_of=b"other")), True, "ends at"),
        (_mariadb_log(C, b"\x33abc\0" + struct.pack(">I", _redo_log._crc32c(b"\x33abc"))), True, "ends at"),
        # Longer records have their length in further bytes: 15 and so many more.
        (_mariadb_log(C, _next(C, b"\x30\x02" + bytes(16))), False, "goes on"),
        (_mariadb_log(C, _next(C, b"\x30\x80\x00" + bytes(15 + 0x80 - 2))), False, "goes on"),
        (_mariadb_log(C, _next(C, b"\x30\xc0\x00\x00" + bytes(15 + 0x4080 - 3))), False, "goes on"),
        # Rubbish that claims to be longer than the file is no record.
        (_mariadb_log(C, b"\x30\xe0\x00\x00\x00" + bytes(40)), True, "ends at"),
        # Round the end of the file.
        (_mariadb_log(WRAPPED), True, f"ends at {WRAPPED + 16}"),
        (_mariadb_log(WRAPPED, _next(WRAPPED, b"\x33abc")), False, "goes on"),
        (_mariadb_log(WRAPPED - 30, _next(WRAPPED - 30, b"\x3fabcdefghijklmno")), False, "goes on"),
        (b"\xd0" + _mariadb_log(C)[1:], None, "encrypted"),
    ],
)
def test_mariadb_redo_log_behind_its_checkpoint(disk: Disk, content: bytes, verdict: bool | None, word: str) -> None:
    (disk.path / "ib_logfile0").write_bytes(content)
    proof = disk.verdicts("mariadb", (10, 11, 0))["redo_log"]
    assert proof.verdict is verdict, proof.detail
    assert word in proof.detail


def test_crc32c_is_the_known_one() -> None:
    assert _redo_log._crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    ("verdicts", "clean"),
    [
        ({"process": True, "lock": True, "redo_log": True}, True),
        ({"process": True, "lock": True, "error_log": True, "redo_log": None}, True),
        ({"process": True, "lock": True, "temporary_tablespace": True}, True),
        ({"process": True, "lock": True, "binary_log": True}, False),
        ({"process": True, "lock": None, "redo_log": True}, False),
        ({"process": None, "lock": True, "redo_log": True}, False),
        ({"process": True, "redo_log": True}, False),
        ({"process": True, "lock": True, "redo_log": True, "pid_file": False}, False),
    ],
)
def test_what_makes_a_stop_clean(verdicts: dict[str, bool | None], clean: bool) -> None:
    stop = CleanStop(tuple(Proof(name, verdict, "") for name, verdict in verdicts.items()))
    assert stop.clean is clean
    assert (stop.summary == "clean") is clean
