# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real worker in a process of its own: its result, its failures, and what is left when it is killed."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import sys
import threading
import time
import typing as t
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.backup_set import BackupSet
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._payload import PACKAGE
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import answers, inbox, worker
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.feed import Feed
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.worker import Source, Status, Task
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import Site
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._restore.stream_support import (
    Sender,
    made,
)

# What the worker does here instead of a restore; packed and run as that would be.
CONSUMER = """
import os
import time

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.proof import prove
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError


def consume(request, feed):
    if request.get("refuse"):
        raise RefusedError("not this one", found=feed.where, rule="test")
    if request.get("break"):
        raise ValueError("broken")
    scratch = request.get("scratch")
    try:
        if scratch:
            open(scratch, "w").close()
        while request.get("wait") and not os.path.exists(request["wait"]):
            time.sleep(0.01)
        reader = feed.reader()
        try:
            members = prove(reader, feed.backup.records(), None, attributes=False)
        finally:
            reader.close()
    except BaseException:
        if scratch:
            os.unlink(scratch)
        raise
    return {"changed": True, "members": members, "pid": os.getpid(), "session": os.getsid(0)}
"""


@pytest.fixture
def entry(tmp_path: Path) -> Iterator[str]:
    name = f"{PACKAGE}._restore._consumer"
    path = tmp_path / "_consumer.py"
    path.write_text(CONSUMER)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield "_restore._consumer:consume"
    del sys.modules[name]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[str]:
    directory = str(tmp_path / "restore-state")
    yield directory
    with contextlib.suppress(ReplicaBackupError):
        worker.end(directory)


def local(backup: BackupSet) -> Source:
    return Source(worker.LOCAL, backup.directory)


def wait(state: str) -> Status:
    while True:
        found = worker.status(state)
        assert found is not None
        if not found.at_work:
            return found
        time.sleep(0.02)


def left(state: str) -> set[str]:
    return {path.name for path in Path(worker.directory(state)).iterdir()}


def test_a_result(site: Site, entry: str, state: str) -> None:
    backup = made(site, "tar", "zstd")
    assert worker.status(state) is None
    started = worker.start(state, Task(entry, {}, local(backup)))
    assert started.pid != os.getpid()
    done = wait(state)
    assert (done.state, done.error) == ("done", {})
    assert done.result["members"] == len(list(backup.records()))
    assert done.result["pid"] == started.pid
    assert done.result["session"] != os.getsid(0)
    assert left(state) <= {"status.json", "worker.err"}
    for path in (Path(state), Path(worker.directory(state)), *Path(worker.directory(state)).iterdir()):
        assert path.stat().st_mode & 0o077 == 0


def test_a_refusal_and_an_accident(site: Site, entry: str, state: str) -> None:
    backup = made(site, "tar", "none")
    worker.start(state, Task(entry, {"refuse": True}, local(backup)))
    refused = wait(state)
    assert refused.state == "failed"
    assert (refused.error["found"], refused.error["rule"], refused.error["refused"]) == (backup.directory, "test", True)
    worker.start(state, Task(entry, {"break": True}, local(backup)))
    broken = wait(state)
    assert broken.state == "failed"
    assert "broken" in broken.error["msg"]
    assert "ValueError" in broken.error["exception"]
    worker.start(state, Task(entry, {}, Source(worker.LOCAL, "/nonexistent/set")))
    assert "is no backup set" in wait(state).error["msg"]
    assert left(state) <= {"status.json", "worker.err"}


def test_the_same_again_joins_and_another_is_refused(site: Site, entry: str, state: str, tmp_path: Path) -> None:
    backup = made(site, "tar", "none")
    task = Task(entry, {"wait": str(tmp_path / "go")}, local(backup))
    first = worker.start(state, task)
    again = worker.start(state, task)
    assert (again.pid, again.token) == (first.pid, first.token)
    with pytest.raises(RefusedError, match="Another restore is at work") as caught:
        worker.start(state, Task(entry, {}, local(backup)))
    assert f"pid {first.pid}" in str(caught.value.found)
    (tmp_path / "go").touch()
    assert wait(state).state == "done"
    assert worker.start(state, task).token != first.token


def test_one_that_is_killed(site: Site, entry: str, state: str, tmp_path: Path) -> None:
    backup = made(site, "tar", "none")
    task = Task(entry, {"wait": str(tmp_path / "go")}, local(backup))
    first = worker.start(state, task)
    os.kill(first.pid, signal.SIGKILL)
    died = wait(state)
    assert died.state == "died"
    assert "ended without a word" in died.error["msg"]
    assert left(state) <= {"status.json", "worker.err"}
    (tmp_path / "go").touch()
    assert worker.start(state, task).token != first.token
    assert wait(state).state == "done"


def test_one_that_is_told_to_end_undoes_what_it_did(site: Site, entry: str, state: str, tmp_path: Path) -> None:
    backup = made(site, "tar", "none")
    scratch = tmp_path / "scratch"
    worker.start(state, Task(entry, {"wait": str(tmp_path / "go"), "scratch": str(scratch)}, local(backup)))
    while not scratch.exists():
        time.sleep(0.01)
    ended = worker.end(state)
    assert ended is not None
    assert ended.state == "failed"
    assert "told to end by signal 15" in ended.error["msg"]
    assert not scratch.exists()
    assert left(state) <= {"status.json", "worker.err"}


def test_a_worker_of_another_boot_is_dead(site: Site, entry: str, state: str, tmp_path: Path) -> None:
    backup = made(site, "tar", "none")
    first = worker.start(state, Task(entry, {"wait": str(tmp_path / "go")}, local(backup)))
    path = Path(worker.directory(state)) / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "another"}))
    assert wait(state).state == "died"
    os.kill(first.pid, signal.SIGKILL)


def test_a_damaged_status_is_said_and_not_passed_over(entry: str, state: str) -> None:
    os.makedirs(worker.directory(state), mode=0o700)
    (Path(worker.directory(state)) / "status.json").write_text("{}")
    with pytest.raises(ReplicaBackupError, match="cannot be read"):
        worker.status(state)


# -- what the module answers ------------------------------------------------------------------------------------------


def ask(state: str, entry: str, src: str, question: dict[str, t.Any], **options: t.Any) -> dict[str, t.Any]:
    def plan(feed: Feed) -> dict[str, t.Any]:
        return {"changed": True, "set": feed.backup.label, "set_from": feed.where}

    return answers.answer(
        question,
        state_dir=state,
        src=src,
        rclone_config=None,
        timeout=options.get("timeout", 60.0),
        entry=entry,
        request=options.get("request", {}),
        plan=plan,
    )


def introduced(backup: BackupSet) -> dict[str, t.Any]:
    files = {}
    for name in ("manifest.json", "SHA256SUMS"):
        path = Path(backup.directory) / name
        files[name] = [str(path), hashlib.sha256(path.read_bytes()).hexdigest()]
    return {"files": files, "from": "the controller", "login_uid": os.geteuid()}


def answered(state: str, entry: str, backup: BackupSet) -> dict[str, t.Any]:
    while True:
        found: dict[str, t.Any] = ask(state, entry, backup.directory, {"ask": "status"})["worker"]
        if found["state"] not in ("starting", "running"):
            return found
        time.sleep(0.02)


@pytest.mark.parametrize(("form", "compression"), [("tar", "zstd"), ("copy", "none"), ("zip", "zstd")])
def test_pieces_through_the_module(
    site: Site, entry: str, state: str, tmp_path: Path, form: str, compression: str
) -> None:
    backup = made(site, form, compression)
    question = introduced(backup)
    planned = ask(state, entry, backup.directory, {"ask": "plan", **question})
    assert planned == {"changed": True, "set": backup.label, "set_from": "the controller"}
    assert not os.path.exists(state)
    found = ask(state, entry, backup.directory, {"ask": "start", **question})["worker"]
    sender = Sender(backup, Path(found["inbox"]), tmp_path / "piece", 50_000)
    sender.start()
    done = answered(state, entry, backup)
    sender.join()
    assert (done["state"], done["error"]) == ("done", {})
    assert done["result"]["members"] == len(list(backup.records()))
    assert not os.path.exists(found["inbox"])
    assert left(state) <= {"status.json", "worker.err"}


def test_a_sender_that_dies_and_one_that_comes_again(site: Site, entry: str, state: str, tmp_path: Path) -> None:
    backup = made(site, "tar", "none")
    question = {"ask": "start", **introduced(backup)}
    found = ask(state, entry, backup.directory, question, timeout=0.5)["worker"]
    half = Sender(
        backup,
        Path(found["inbox"]),
        tmp_path / "piece",
        50_000,
        change=lambda number, data: None if number == 3 else data,
    )
    half.start()
    given_up = answered(state, entry, backup)
    half.join()
    assert given_up["state"] == "failed"
    assert "has stopped coming" in given_up["error"]["msg"]
    assert not os.path.exists(found["inbox"])
    assert left(state) <= {"status.json", "worker.err"}

    first = ask(state, entry, backup.directory, question)["worker"]
    half = Sender(
        backup,
        Path(first["inbox"]),
        tmp_path / "piece",
        50_000,
        change=lambda number, data: None if number == 3 else data,
    )
    half.start()
    half.join()
    again = ask(state, entry, backup.directory, question)["worker"]
    assert (again["pid"], again["inbox"]) == (first["pid"], first["inbox"])
    rest = Sender(backup, Path(again["inbox"]), tmp_path / "piece", 50_000)
    rest.start()
    done = answered(state, entry, backup)
    rest.join()
    assert done["state"] == "done"
    assert rest.sent[0] == 3


def test_a_worker_that_is_killed_while_pieces_come(site: Site, entry: str, state: str, tmp_path: Path) -> None:
    backup = made(site, "tar", "none")
    found = ask(state, entry, backup.directory, {"ask": "start", **introduced(backup)})["worker"]
    os.kill(found["pid"], signal.SIGKILL)
    died = answered(state, entry, backup)
    assert died["state"] == "died"
    assert not os.path.exists(found["inbox"])
    assert left(state) <= {"status.json", "worker.err"}


def test_a_manifest_that_was_changed_on_its_way(site: Site, entry: str, state: str) -> None:
    backup = made(site, "tar", "none")
    question = introduced(backup)
    question["files"]["manifest.json"][1] = "0" * 64
    with pytest.raises(ReplicaBackupError, match="did not arrive as it was sent"):
        ask(state, entry, backup.directory, {"ask": "start", **question})
    assert left(state) == set()


def test_another_login_user_without_root(tmp_path: Path) -> None:
    own = os.geteuid()
    if own == 0:
        os.seteuid(12345)
    try:
        with pytest.raises(RefusedError, match="cannot be handed over"):
            inbox.open_inbox(str(tmp_path), os.geteuid() + 1)
    finally:
        os.seteuid(own)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away")
def test_another_login_user_gets_an_inbox_that_he_can_reach(tmp_path: Path) -> None:
    # Nobody else gets below pytest's own directory, so the way out is taken.
    work = tmp_path / "state" / "restore.worker"
    work.mkdir(parents=True, mode=0o700)
    path = Path(inbox.open_inbox(str(work), 12345))
    status = path.stat()
    assert (status.st_uid, status.st_mode & 0o777) == (12345, 0o700)
    assert path.parent in (Path("/var/tmp"), Path("/tmp"))
    inbox.close_inbox(str(work))
    assert not path.exists()
    assert list(work.iterdir()) == []


def test_many_starts_at_once_make_one_worker(site: Site, entry: str, state: str, tmp_path: Path) -> None:
    backup = made(site, "tar", "none")
    task = Task(entry, {"wait": str(tmp_path / "go")}, local(backup))
    tokens: list[str] = []
    starts = [threading.Thread(target=lambda: tokens.append(worker.start(state, task).token)) for _one in range(4)]
    for one in starts:
        one.start()
    for one in starts:
        one.join()
    assert len(tokens) == 4
    assert len(set(tokens)) == 1
    (tmp_path / "go").touch()
    assert wait(state).state == "done"


def test_without_the_action(entry: str, state: str) -> None:
    with pytest.raises(RefusedError, match="without its action plugin"):
        ask(state, entry, "/x", {})
