# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError

RUN = {"run_id": "r1", "backup_id": "20260101T000000Z", "host": "db1"}


@pytest.fixture
def state(tmp_path: Path) -> str:
    directory = tmp_path / "state"
    _ledger.prepare_state_dir(str(directory))
    return str(directory)


def test_state_directory_is_private(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o755)
    _ledger.prepare_state_dir(str(directory))
    assert directory.stat().st_mode & 0o777 == 0o700


def test_state_directory_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(RefusedError, match="cannot be trusted"):
        _ledger.prepare_state_dir(str(tmp_path / "link"))


def test_state_directory_without_parent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="replica_backup_state_dir"):
        _ledger.prepare_state_dir(str(tmp_path / "a" / "b"))


def test_steps_are_on_disk_before_they_are_done(state: str) -> None:
    ledger = _ledger.open_new(state, RUN)
    ledger.begin("shutdown")
    read = _ledger.load(state)
    assert read is not None
    assert read.step == "shutdown"
    assert "end" not in read.data["times"]["shutdown"]
    ledger.end("shutdown")
    read = _ledger.load(state)
    assert read is not None
    span = _ledger.public_times(read)["shutdown"]
    assert set(span) == {"start", "end", "seconds"}
    assert span["start"] <= span["end"]
    assert os.stat(read.path).st_mode & 0o777 == 0o600


def test_a_second_run_is_refused_with_who_and_since_when(state: str) -> None:
    ledger = _ledger.open_new(state, RUN)
    with pytest.raises(RefusedError) as caught:
        _ledger.open_new(state, {**RUN, "run_id": "r2"})
    assert "r1" in str(caught.value)
    assert ledger.data["opened"] in str(caught.value)
    assert "recover" in str(caught.value)


def test_closing_keeps_the_story(state: str) -> None:
    ledger = _ledger.open_new(state, RUN)
    ledger.warn("one")
    ledger.warn("one")
    ledger.close("complete")
    assert _ledger.load(state) is None
    last = _ledger.load_last(state)
    assert last is not None
    assert (last.data["outcome"], last.data["status"], last.data["warnings"]) == ("complete", "closed", ["one"])
    _ledger.open_new(state, RUN)


def test_lease(state: str) -> None:
    ledger = _ledger.open_new(state, RUN)
    assert 80 < ledger.lease_left <= 90
    ledger.save(lease=0.0)
    assert ledger.lease_left == 0.0
    ledger.save(lease=1000.0)
    ledger.data["boot_id"] = "another boot"
    assert ledger.lease_left == 0.0
    del ledger.data["lease"]
    assert ledger.lease_left == 0.0


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"format": 2})])
def test_a_damaged_ledger_is_an_error_and_not_an_absent_one(state: str, text: str) -> None:
    Path(_ledger.ledger_path(state)).write_text(text, encoding="utf-8")
    with pytest.raises(ReplicaBackupError, match="not readable"):
        _ledger.load(state)


def test_a_ledger_behind_a_link_is_not_read(state: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_text(json.dumps({"format": 1}), encoding="utf-8")
    os.symlink(tmp_path / "other", _ledger.ledger_path(state))
    with pytest.raises(ReplicaBackupError, match="cannot be read"):
        _ledger.load(state)


def test_no_state_directory_is_no_ledger(tmp_path: Path) -> None:
    assert _ledger.load(str(tmp_path / "none")) is None


_HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _ledger
with _ledger.locked(sys.argv[2], "somebody"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_living_holder_keeps_the_lock_and_a_killed_one_does_not(state: str) -> None:
    path = next(entry for entry in sys.path if entry.endswith(".ansible/collections"))
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, path, state], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(RefusedError, match="somebody, pid") as caught, _ledger.locked(state, "me", timeout=0.3):
            pass
        assert str(holder.pid) in str(caught.value)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with _ledger.locked(state, "me", timeout=5):
        assert "me, pid" in Path(state, "lock").read_text(encoding="utf-8")


def test_a_holder_can_be_told_to_end_and_nobody_else_is(state: str) -> None:
    path = next(entry for entry in sys.path if entry.endswith(".ansible/collections"))
    assert _ledger.end_holder(state) is None
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, path, state], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    told = _ledger.end_holder(state)
    assert told is not None and f"pid {holder.pid}," in told
    assert holder.wait(10) == -signal.SIGTERM
    holder.stdout.close()
    # The number stays in the file, but whoever has it next does not have the file open.
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        Path(state, "lock").write_text(f"somebody, pid {bystander.pid}, since then\n", encoding="utf-8")
        assert _ledger.end_holder(state) is None
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_checking_a_state_directory_makes_nothing(tmp_path: Path) -> None:
    _ledger.check_state_dir(str(tmp_path / "state"))
    assert not (tmp_path / "state").exists()
    with pytest.raises(RefusedError, match="replica_backup_state_dir"):
        _ledger.check_state_dir(str(tmp_path / "a" / "b"))


def test_writing_durably_replaces_whole_files_and_clears_leftovers(state: str) -> None:
    path = os.path.join(state, "x")
    Path(f"{path}.partial").write_text("left by a crash", encoding="utf-8")
    _ledger.write_durably(path, "one")
    _ledger.write_durably(path, "two")
    assert Path(path).read_text(encoding="utf-8") == "two"
    assert not os.path.exists(f"{path}.partial")


def test_utc() -> None:
    assert _ledger.utc(0) == "1970-01-01T00:00:00.000000Z"


def test_a_living_run_is_to_be_waited_for_and_a_dead_one_recovered(state: str) -> None:
    ledger = _ledger.open_new(state, RUN)
    recover = "ansible-playbook mysql_ops.replica_backup.recover --limit db1"
    alive = _ledger.unfinished(ledger).next_command
    assert alive is not None
    assert alive.startswith("wait for it to end, then start this again")
    assert alive.endswith(f"{recover} -e replica_backup_take_over=true")
    ledger.save(lease=0.0)
    assert _ledger.unfinished(ledger).next_command == recover
