# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recorded channels against files: agreement, difference, and what cannot be compared."""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._coordinates import (
    check_coordinates,
    refuse_differences,
)
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import ReplicaBackupError

INFO = b"5\n./rl-a@002db.000002\n1587\nbin.000001\n1291\n0\n|stale"


def channel(**others: t.Any) -> dict[str, t.Any]:
    return {
        "name": "A-b",
        "repository": {"connection": "FILE", "applier": "FILE"},
        "source_log_file": "bin.000001",
        "source_log_pos": 1291,
        "relay_log_file": "rl-a@002db.000002",
        "relay_log_pos": 1587,
        **others,
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "relay-log-a@002db.info").write_bytes(INFO)
    (tmp_path / "rl-a@002db.index").write_text("./rl-a@002db.000001\n./rl-a@002db.000002\n./rl-a@002db.000003\n")
    for number in (1, 2, 3):
        (tmp_path / f"rl-a@002db.00000{number}").touch()
    return tmp_path


def verdicts(data: Path, variables: dict[str, str] | None = None, **others: t.Any) -> list[tuple[bool | None, str]]:
    server = {"datadir": f"{data}/", "variables": {"relay_log_info_file": "relay-log.info", **(variables or {})}}
    found = check_coordinates([channel(**others)], server)
    name = others.get("name", "A-b")
    label = f"channel '{name}'" if name else "the default channel"
    assert [item.name for item in found] == [f"{what} of {label}" for what in ("coordinates", "relay logs")]
    if any(item.verdict is False for item in found):
        with pytest.raises(ReplicaBackupError) as caught:
            refuse_differences(found)
        assert caught.value.facts["rule"] == "coordinates"
    else:
        refuse_differences(found)
    return [(item.verdict, item.detail) for item in found]


def test_agreement(data: Path) -> None:
    (one, _read), (two, detail) = verdicts(data)
    assert one is True and two is True
    assert "rl-a@002db.index names rl-a@002db.000002" in detail


@pytest.mark.parametrize(
    ("others", "found"),
    [
        (
            {"source_log_pos": 1290},
            "executed bin.000001:1291, in rl-a@002db.000002:1587, recorded executed bin.000001:1290",
        ),
        ({"source_log_file": "bin.000002"}, "recorded executed bin.000002:1291"),
        ({"relay_log_pos": 4}, "recorded executed bin.000001:1291, in rl-a@002db.000002:4"),
        ({"name": "Other"}, "relay-log-other.info is not there"),
    ],
)
def test_difference(data: Path, others: dict[str, t.Any], found: str) -> None:
    verdict, detail = verdicts(data, **others)[0]
    assert verdict is False and found in detail


@pytest.mark.parametrize(
    ("others", "verdict"),
    [
        ({"relay_log_pos": 4}, None),
        ({"relay_log_pos": 4, "threads_before": {"io": True, "applier": True}}, False),
        ({"relay_log_pos": 4, "source_log_pos": 1290}, False),
    ],
)
def test_while_it_runs_an_applier_that_was_off_may_be_elsewhere(
    data: Path, others: dict[str, t.Any], verdict: bool | None
) -> None:
    server = {"datadir": f"{data}/", "variables": {"relay_log_info_file": "relay-log.info"}}
    recorded = channel(**{"threads_before": {"io": True, "applier": False}, **others})
    assert check_coordinates([recorded], server, stopped=False)[0].verdict is verdict
    assert check_coordinates([recorded], server)[0].verdict is False


def test_a_broken_file_is_a_difference(data: Path) -> None:
    (data / "relay-log-a@002db.info").write_bytes(b"5\n./rl")
    (data / "rl-a@002db.index").write_bytes(b"./rl")
    (one, first), (two, second) = verdicts(data)
    assert one is False and "line 2" in first
    assert two is False and "line 1" in second


def test_what_cannot_be_compared(data: Path) -> None:
    verdict, detail = verdicts(data, repository={"applier": "TABLE"})[0]
    assert verdict is None and "mysql.slave_relay_log_info" in detail
    (data / "relay-log-a@002db.info").write_bytes(b"5\n./rl-a@002db.000002\n4\n\n0\n0\n")
    verdict, detail = verdicts(data, source_log_file="", source_log_pos=0)[0]
    assert verdict is None and "never run" in detail
    assert verdicts(data, source_log_file="", source_log_pos=0, relay_log_file="")[1][0] is None


def test_a_missing_relay_log(data: Path) -> None:
    # Applied, and still a restart wants it.
    (data / "rl-a@002db.000001").unlink()
    verdict, detail = verdicts(data)[1]
    assert verdict is False and detail.endswith("rl-a@002db.000001 is not there")
    (data / "rl-a@002db.000001").touch()
    (data / "rl-a@002db.000003").unlink()
    verdict, detail = verdicts(data)[1]
    assert verdict is False and detail.endswith("rl-a@002db.000003 is not there")
    (data / "rl-a@002db.000002").unlink()
    verdict, detail = verdicts(data)[1]
    assert verdict is False and detail.endswith("rl-a@002db.000002 is not there")


def test_an_index_elsewhere(data: Path) -> None:
    index = (data / "rl-a@002db.index").read_text()
    (data / "rl-a@002db.index").unlink()
    assert verdicts(data)[1][0] is None
    # A leftover that names other logs is no index of this channel.
    (data / "rl-a@002db.index").write_text("./old.000001\n")
    assert verdicts(data)[1][0] is None
    (data / "idx").mkdir()
    (data / "idx" / "names-a@002db.index").write_text(index)
    variables = {"relay_log_basename": f"{data}/rl", "relay_log_index": f"{data}/idx/names.index"}
    verdict, detail = verdicts(data, variables)[1]
    assert verdict is True and "names-a@002db.index" in detail


def test_the_default_channel(data: Path) -> None:
    (data / "relay-log.info").write_bytes(INFO)
    assert verdicts(data, name="")[0][0] is True
