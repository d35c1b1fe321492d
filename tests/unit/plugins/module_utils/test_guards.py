# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import dataclasses
import json
import typing as t
from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _guards
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._guards import Facts, Policy
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._replication import Channel, channel_from_row

ROWS = json.loads((Path(__file__).parent / "fixtures" / "channels.json").read_text(encoding="utf-8"))
HEALTHY = channel_from_row(ROWS["mariadb_10_11"]["running"][0])


def channel(**changes: t.Any) -> Channel:
    return dataclasses.replace(HEALTHY, **changes)


def facts(**changes: t.Any) -> Facts:
    healthy = Facts(
        channels=(HEALTHY,),
        connected_replicas=(),
        cluster=None,
        force_recovery="0",
        data_bytes=1000,
        free_bytes=10**9,
        spool_dir="/spool",
        missing_tools=(),
    )
    return dataclasses.replace(healthy, **changes)


def failed(observed: Facts, policy: Policy | None = None) -> list[str]:
    return [verdict.rule for verdict in _guards.judge(observed, policy or Policy()) if not verdict.ok]


def test_a_healthy_replica_passes() -> None:
    assert failed(facts()) == []
    _guards.refuse_unless_all_pass(_guards.judge(facts(), Policy()))


@pytest.mark.parametrize(
    ("changes", "policy", "expected"),
    [
        ({"channels": ()}, Policy(), ["replica"]),
        ({"connected_replicas": ("repl@db3:1",)}, Policy(), ["connected_replicas"]),
        ({"connected_replicas": ("repl@db3:1",)}, Policy(allow_connected_replicas=True), []),
        ({"connected_replicas": None}, Policy(), ["connected_replicas"]),
        ({"connected_replicas": None}, Policy(allow_connected_replicas=True), []),
        ({"channels": (channel(io="No", lag=None),)}, Policy(), ["channel_threads"]),
        ({"channels": (channel(io="No", lag=None),)}, Policy(allow_stopped_channels=True), []),
        ({"channels": (channel(io="Connecting", lag=None),)}, Policy(), ["channel_threads", "lag"]),
        ({"channels": (channel(io="Connecting", lag=None),)}, Policy(allow_stopped_channels=True), []),
        ({"channels": (channel(applier="No", lag=None),)}, Policy(), ["channel_threads"]),
        ({"channels": (channel(applier_error="1062 Duplicate"),)}, Policy(), ["channel_errors"]),
        ({"channels": (channel(io_error="1236 gone"),)}, Policy(allow_channel_errors=True), []),
        ({"channels": (channel(until="Gtid"),)}, Policy(), ["until"]),
        ({"channels": (channel(until="Gtid", applier="No"),)}, Policy(allow_stopped_channels=True), []),
        ({"channels": (channel(lag=301),)}, Policy(), ["lag"]),
        ({"channels": (channel(lag=300),)}, Policy(), []),
        ({"channels": (channel(lag=3601, delay=3600),)}, Policy(), []),
        ({"channels": (channel(lag=3601, delay=3600),)}, Policy(max_lag=0), ["lag"]),
        ({"channels": (channel(lag=None),)}, Policy(), ["lag"]),
        ({"fetched_again": ("a channel waits",)}, Policy(), ["refetch"]),
        ({"fetched_again": ("a channel waits",)}, Policy(allow_refetch=True), []),
        ({"cluster": "Galera"}, Policy(), ["cluster_member"]),
        ({"force_recovery": "1"}, Policy(), ["force_recovery"]),
        ({"missing_tools": ("zstd",)}, Policy(), ["tools"]),
        ({"free_bytes": 10**6}, Policy(), ["space"]),
        ({"data_bytes": 10**9}, Policy(), ["space"]),
        ({"data_bytes": 10**9}, Policy(space_factor=0.5), []),
    ],
)
def test_rules(changes: dict[str, t.Any], policy: Policy, expected: list[str]) -> None:
    assert failed(facts(**changes), policy) == expected


def test_a_refusal_names_rule_value_and_variable() -> None:
    observed = facts(channels=(channel(lag=999),), connected_replicas=("repl@db3:1",))
    with pytest.raises(RefusedError) as caught:
        _guards.refuse_unless_all_pass(_guards.judge(observed, Policy()))
    text = str(caught.value)
    for part in ("'lag'", "999 s", "replica_backup_max_lag", "'connected_replicas'", "repl@db3:1", "untouched"):
        assert part in text
    assert [item["rule"] for item in caught.value.facts["verdicts"]] == ["connected_replicas", "lag"]


def test_free_bytes_of_a_directory_still_to_be_made(tmp_path: Path) -> None:
    assert _guards.free_bytes(str(tmp_path / "a" / "b")) == pytest.approx(_guards.free_bytes(str(tmp_path)), rel=0.05)
    assert _guards.free_bytes("/") > 0
