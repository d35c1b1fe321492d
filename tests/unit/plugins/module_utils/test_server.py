# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes, locks and open files, mostly of real processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _server
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server import ServerProcess
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils.real_process import Spawn, alone

SLEEP = shutil.which("sleep") or "/bin/sleep"


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
    alone(monkeypatch)
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
    alone(monkeypatch)


def test_a_process_that_ends_while_it_is_looked_at_serves_nothing(tmp_path: Path) -> None:
    """A zombie's ``cwd`` is still listed and leads nowhere."""
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        link = f"/proc/{ended.pid}/cwd"
        assert os.path.lexists(link)
        with pytest.raises(OSError):
            os.readlink(link)
        assert not _server._same_directory(link, str(tmp_path / "nowhere"))


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
