# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The downtime budget: what is remembered, predicted, refused and enforced; the last three on a real server too."""

from __future__ import annotations

import json
import os
import time
import typing as t
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import (
    _budget,
    _deadman,
    _handover,
    _ledger,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import compress, job, sample
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive import request as archive_request
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._archive.output import HashedFile
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._budget import Clock, Run, Way
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError, ReplicaBackupError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger
from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import Faults, LocalReplica
from ansible_collections.mysql_ops.replica_backup.tests.lab.flavors import MariaDB
from ansible_collections.mysql_ops.replica_backup.tests.lab.local import Topology
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT
from ansible_collections.mysql_ops.replica_backup.tests.lab.window import Window

GIB = 1 << 30
WAY = Way()
RUN = Run("first", WAY, 10 * GIB, capture=100.0, stop=5.0, start=10.0, between=2.0)


def test_a_prediction_is_the_last_run_in_proportion() -> None:
    found = _budget.predict([RUN], WAY, 20 * GIB)
    assert found is not None
    assert found.seconds == found.least == 5 + 2 * 102 + 10
    assert found.text() == "219 s of downtime for 20.0 GiB, by backup first (10.0 GiB at 102.4 MiB/s)"


def test_one_slow_night_is_likely_to_come_again_but_refuses_nothing() -> None:
    slow = replace(RUN, backup_id="slow", capture=1000.0)
    found = _budget.predict([RUN, slow], WAY, 10 * GIB)
    assert found is not None
    assert (found.seconds, found.least) == (1017, 117)
    found = _budget.predict([RUN, *[slow] * 5], WAY, 10 * GIB)
    assert found is not None
    assert found.least == 1017, "what was quick once is long ago"


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (replace(RUN, way=Way(compression="xz")), "another compression"),
        (replace(RUN, way=Way(level=19)), "another level"),
        (replace(RUN, bytes=GIB), "far less data"),
        (replace(RUN, bytes=0), "nothing read"),
    ],
)
def test_runs_of_another_kind_say_nothing_of_the_rate(run: Run, why: str) -> None:
    assert _budget.predict([run], WAY, 20 * GIB) is None, why
    found = _budget.predict([run], WAY, 20 * GIB, (GIB, 10.0))
    assert found is not None
    assert found.seconds == 5 + 200 + 10, "stop and start are known still"
    assert "a sample of 1.0 GiB" in found.source


def test_a_run_that_ran_out_of_time_tells_however_little_it_read() -> None:
    found = _budget.predict([replace(RUN, bytes=GIB // 8, whole=False)], WAY, 20 * GIB)
    assert found is not None
    assert found.seconds > 10000
    assert "which ran out of time" in found.source


def test_a_slow_night_that_is_over_refuses_no_other() -> None:
    slow = [replace(RUN, bytes=GIB // 8, whole=False)]
    by_runs = _budget.predict(slow, WAY, 20 * GIB)
    assert by_runs is not None
    quick = _budget.second_look(by_runs, slow, 20 * GIB, (GIB, 10.0))
    assert (quick.seconds, quick.least) == (by_runs.seconds, 5 + 200 + 10)
    assert "which ran out of time" in quick.source
    assert "a sample of 1.0 GiB" in quick.source
    still_slow = _budget.second_look(by_runs, slow, 20 * GIB, (1024, 10.0))
    assert still_slow == by_runs
    assert _budget.second_look(by_runs, slow, 20 * GIB, (0, 0.0)) == by_runs


def test_only_what_could_be_too_slow_is_sampled() -> None:
    assert not _budget.worth_a_sample(GIB, 3600)
    assert _budget.worth_a_sample(100 * GIB, 3600)
    assert _budget.predict([], WAY, GIB) is None
    assert _budget.predict([], WAY, GIB, (0, 0.1)) is None


def test_seconds_for_the_start() -> None:
    assert _budget.start_reserve([], 3600) == 10
    assert _budget.start_reserve([RUN, replace(RUN, start=40.0)], 3600) == 60
    assert _budget.start_reserve([replace(RUN, start=4000.0)], 3600) == 900
    assert _budget.start_reserve([replace(RUN, start=None)], 20) == 5


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes_for_a_person(count: int, text: str) -> None:
    assert _budget.in_bytes(count) == text


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    state = str(tmp_path / "state")
    _ledger.prepare_state_dir(state)
    return _ledger.open_new(state, {"run_id": "r", "backup_id": "first"})


def test_what_a_run_took_is_remembered(ledger: Ledger) -> None:
    _budget.remember(ledger)
    assert _budget.runs(ledger.state_dir) == (), "nothing was captured"
    for number in range(25):
        ledger.data |= {"backup_id": f"b{number}", "downtime_seconds": 20.0}
        ledger.data["times"] |= {"shutdown": {"seconds": 3.0}, "start": {"seconds": 4.0}}
        _budget.note_capture(ledger, WAY, GIB, 10.0)
        _budget.remember(ledger)
        _budget.remember(ledger)
    known = _budget.runs(ledger.state_dir)
    assert [run.backup_id for run in known] == [f"b{number}" for number in range(5, 25)]
    assert known[-1] == Run("b24", WAY, GIB, capture=10.0, stop=3.0, start=4.0, between=3.0)
    assert os.stat(os.path.join(ledger.state_dir, "measured.json")).st_mode & 0o777 == 0o600
    ledger.data |= {"backup_id": "fired", "deadman_fired": {"fired": "then"}}
    _budget.remember(ledger)
    assert _budget.runs(ledger.state_dir) == known, "the times of a run whose server the dead-man started say nothing"


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2, "runs": [{}]}', '{"format": 1, "runs": [{"x": 1}]}', "{"])
def test_a_record_that_cannot_be_read_is_none(ledger: Ledger, text: str) -> None:
    Path(ledger.state_dir, "measured.json").write_text(text, encoding="utf-8")
    assert _budget.runs(ledger.state_dir) == ()
    _budget.note_capture(ledger, WAY, GIB, 10.0)
    _budget.remember(ledger)
    assert len(_budget.runs(ledger.state_dir)) == 1


def clock(spent: float, left: float, **changes: t.Any) -> Clock:
    now = time.monotonic()
    values: dict[str, t.Any] = {"begun": now - spent, "ends": now + left, "total": 100 * GIB, "reserve": 0.0}
    return Clock(**{**values, "budget": spent + left, **changes})


def test_progress_that_will_do_goes_on() -> None:
    clock(1000, 1000).check(51 * GIB)
    clock(1000, 1000).check(40 * GIB)  # somewhat late, but it may become quicker
    clock(100, 1900).check(0)  # too early to judge
    clock(1900, 100).check(100 * GIB)  # all is read, the compressor is at its end
    clock(1000, 1000, total=0).check(0)  # how much there is is not known


def test_progress_that_will_never_do_is_given_up_early() -> None:
    with pytest.raises(ReplicaBackupError, match="given up") as caught:
        clock(1000, 2000).check(10 * GIB)
    assert caught.value.facts["rule"] == "downtime_budget"
    text = str(caught.value)
    assert (
        "10.0 GiB of 100.0 GiB archived in 1000 s; at that rate it would take another 9000 s, 7000 s too long" in text
    )
    assert "replica_backup_downtime_budget" in text
    with pytest.raises(ReplicaBackupError, match="nothing was read yet"):
        clock(1000, 2000).check(0)


def test_the_end_is_early_enough_for_the_start() -> None:
    clock(1000, 11, reserve=10.0).check(99 * GIB)
    with pytest.raises(ReplicaBackupError, match="10 s are kept for the start"):
        clock(1000, 9, reserve=10.0).check(99 * GIB)


def test_after_a_reboot_no_clock_runs(ledger: Ledger) -> None:
    assert Clock.of(ledger) is None
    ledger.data["deadman"] = {"boot_id": "another", "deadline_mono": 0.0}
    assert Clock.of(ledger) is None


# --- the sample -------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    (directory / "db").mkdir(parents=True)
    (directory / "db" / "large.ibd").write_bytes(os.urandom(8 << 20))
    (directory / "ibdata1").write_bytes(os.urandom(4 << 20))
    (directory / "small").write_bytes(b"x")
    (directory / "link").symlink_to(directory / "ibdata1")
    os.mkfifo(directory / "fifo")
    return directory


def test_a_sample_reads_the_largest_files(data: Path) -> None:
    files = sample.largest_files(str(data))
    assert files == [str(data / "db" / "large.ibd"), str(data / "ibdata1")]
    assert sample.take(files, None)[0] == 12 << 20
    assert sample.take(files, None, size=4 << 20)[0] == 4 << 20
    assert sample.take([*files, str(data / "gone")], compress.find_compressor("zstd"))[0] == 12 << 20
    assert sample.take(files, None, deflate=1)[0] == 12 << 20
    assert sample.take([], None)[0] == 0
    assert sample.largest_files(str(data / "gone")) == []


@pytest.mark.parametrize("command", ["exec sleep 600", "head -c 1000000 >/dev/null; exec sleep 600", "exit 1"])
def test_a_sample_ends_whatever_the_compressor_does(data: Path, command: str) -> None:
    stuck = compress.Compressor("zstd", ".zst", ("sh", "-c", command), ())
    done, _seconds = sample.take(sample.largest_files(str(data)), stuck, seconds=0.3)
    assert done < 3 << 20


# --- on a real server -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with Topology(CHECKOUT / ".test" / "lab" / uuid.uuid4().hex[:8], replicas=1, flavor=MariaDB()) as topology:
        topology.source.query("CREATE DATABASE d")
        topology.source.query("CREATE TABLE d.t (a INT PRIMARY KEY)")
        yield topology


@pytest.fixture
def window(topology: Topology, tmp_path: Path) -> Iterator[Window]:
    server = topology.replicas[0]
    try:
        yield Window(server, tmp_path)
    finally:
        # Every window of a test has the same state directory.
        _deadman.disarm(str(tmp_path / "state"))
        if not server.is_running():
            server.start()


def back_up(window: Window) -> None:
    window.stop()
    window.archive()
    window.start()


def test_the_next_run_is_predicted_from_the_last_and_refused_when_hopeless(window: Window) -> None:
    back_up(window)
    known = _budget.runs(window.state)
    assert [(run.backup_id, run.way, run.whole) for run in known] == [(window.paths.backup_id, WAY, True)]
    assert known[0].bytes > 10**6
    assert known[0].stop > 0
    assert known[0].start is not None
    job.remove(job.Request(paths=window.paths, state_dir=window.state))
    # As if the disk had been dying ever since.
    path = Path(window.state, "measured.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    record["runs"][0]["capture"] = 20000.0
    path.write_text(json.dumps(record), encoding="utf-8")
    pids = window.server.pids()
    again = Window(window.server, window.root, "again")
    with pytest.raises(RefusedError) as caught:
        again.stop()
    assert caught.value.facts["rule"] == "downtime_budget"
    for part in (window.paths.backup_id, "at most 300 s", "replica_backup_downtime_budget", "predicted 20"):
        assert part in str(caught.value)
    assert window.server.pids() == pids


class Slow:
    """A real compressor process that lets a megabyte pass, then nothing for a long time (or goes on when told)."""

    def __init__(self, root: Path) -> None:
        self.pid = root / "pid"

    def __call__(self, name: str, *, level: int | None = None, threads: int = 0) -> compress.Compressor:
        real = t.cast(compress.Compressor, compress.find_compressor(name, level=level, threads=threads))
        shell = f"echo $$ > {self.pid}; head -c 1000000; exec sleep 600"
        return replace(real, pack=("sh", "-c", shell))


def test_an_archive_that_cannot_end_in_time_is_given_up(
    topology: Topology, window: Window, monkeypatch: pytest.MonkeyPatch, faults: Faults
) -> None:
    """The server is back by the normal path, before the dead-man; the next run knows what this one has found out."""
    replica = LocalReplica(topology, window.server, (window.root,))
    before = replica.state()
    window.stop(downtime_budget=24)
    monkeypatch.setattr(archive_request, "find_compressor", Slow(window.root))
    request = job.Request(paths=window.paths, state_dir=window.state)
    with pytest.raises(ReplicaBackupError, match="cannot be finished within the downtime budget") as caught:
        _handover.capture_then_start(lambda: job.capture(request), window.state)
    assert caught.value.facts["server_restored"] is True
    assert caught.value.server_state == "running, threads as before"
    assert "too long" in str(caught.value)
    assert _deadman.fired(window.state) is None
    assert replica.state() == before
    (known,) = _budget.runs(window.state)
    assert not known.whole
    window.start(close=False, recover=True)
    # A sample of today says the same, so that the server is not stopped for nothing once more.
    with pytest.raises(RefusedError, match="which ran out of time"):
        Window(window.server, window.root, "hopeless").stop(downtime_budget=known.capture / 2)
    monkeypatch.undo()
    faults.settle(
        "compressor that stands still", replica, before, lambda: back_up(Window(window.server, window.root, "next"))
    )


def test_a_compressor_that_stands_still_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was stopped by a signal: the archive does not wait for ever for a buffer to get free."""
    monkeypatch.setattr(compress, "CHUNK", 1 << 16)

    def enough() -> t.NoReturn:
        raise ReplicaBackupError("enough")

    file = HashedFile(str(tmp_path / "out"))
    stopped = compress.Compressor("zstd", ".zst", ("sh", "-c", "kill -STOP $$"), ())
    packed = compress.PackedOutput(file, stopped, watch=enough)
    buffer = packed.first()
    with pytest.raises(ReplicaBackupError, match="enough"):
        for _number in range(100):
            buffer = packed.exchange(buffer, len(buffer))
    packed.abort()
    file.discard()
