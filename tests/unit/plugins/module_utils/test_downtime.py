# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of the downtime: what of each step lies in it, and that they add up."""

from __future__ import annotations

import types
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _downtime
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._ledger import Ledger


def span(start: float, seconds: float) -> dict[str, float]:
    return {"start_mono": start, "seconds": seconds}


def ledger(path: Path, **data: t.Any) -> Ledger:
    found = Ledger(str(path), {"window": {"stop_requested_mono": 100.0}, **data})
    _downtime.note(found, 110.0)
    return found


def test_what_lies_before_the_request_and_after_the_answer_is_no_downtime(tmp_path: Path) -> None:
    # The last one has not ended: the parts are asked for while the threads are put back.
    times = {"shutdown": span(99.0, 3.0), "capture": span(102.5, 4.0), "start": {"start_mono": 107.0}}
    found = ledger(tmp_path, times=times | {"flush": span(90.0, 9.0), "catch_up": span(111.0, 5.0)})
    assert found.data["downtime_seconds"] == 10.0
    assert _downtime.parts(found) == {"stop": 2.0, "capture": 4.0, "start": 3.0, "between": 1.0}
    found.data["times"]["start"]["seconds"] = 60.0
    assert _downtime.parts(found)["start"] == 3.0


def test_a_transfer_while_the_server_is_down_is_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Ledger(str(tmp_path), {"window": {"stop_requested_mono": 100.0}, "times": {"shutdown": span(100.0, 1.0)}})
    now = [102.0]
    monkeypatch.setattr(_downtime, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    for now[0] in (102.0, 104.0):
        _downtime.fetch_begins(found)
    now[0] = 107.0
    _downtime.fetch_ended(found)
    _downtime.note(found, 110.0)
    assert _downtime.parts(found) == {"stop": 1.0, "fetch": 5.0, "between": 4.0}


def test_of_a_downtime_that_is_not_known_there_are_no_parts(tmp_path: Path) -> None:
    assert _downtime.parts(Ledger(str(tmp_path), {})) == {}
    # The host was restarted: its clock began anew.
    found = Ledger(str(tmp_path), {"window": {"stop_requested_mono": 100.0}})
    _downtime.note(found, 5.0)
    assert "downtime_seconds" not in found.data
    assert _downtime.parts(found) == {}
    _downtime.fetch_ended(Ledger(str(tmp_path), {}))
