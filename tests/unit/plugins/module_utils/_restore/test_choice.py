# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How restored channels go on: every combination that decides."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.choice import REQUESTS, Place, choose

FILE: dict[str, str] = {"auto_position": "0"}
MYSQL_GTID = {"auto_position": "1", "executed": "u:1-5"}
MARIADB_GTID = {"using": "Slave_Pos", "io_pos": "0-1-9"}
ASK = Place(may_ask=True)


def channel(
    gtid: t.Mapping[str, str] | None = None, *, io: bool = True, applier: bool = True, log: str = "b.1"
) -> dict[str, t.Any]:
    before = {"io": io, "applier": applier}
    return {
        "name": "c",
        "gtid": dict(FILE if gtid is None else gtid),
        "threads_before": before,
        "source_log_file": log,
        "source_log_pos": 4,
    }


@pytest.mark.parametrize(
    ("gtid", "place", "how"),
    [
        (FILE, Place(), "relay_logs"),
        (MYSQL_GTID, Place(), "relay_logs"),
        (MARIADB_GTID, Place(drops=True), "relay_logs"),
        (FILE, Place(recovers=True), "relay_log_recovery"),
        (MYSQL_GTID, Place(recovers=True), "relay_log_recovery"),
        (FILE, Place(lost="gone", may_ask=True), "reposition"),
        (MYSQL_GTID, Place(lost="gone"), "auto_position"),
        (MARIADB_GTID, Place(lost="gone", drops=True), "auto_position"),
        (FILE, Place(lost="gone", recovers=True, may_ask=True), "reposition"),
    ],
)
def test_auto(gtid: t.Mapping[str, str], place: Place, how: str) -> None:
    chosen = choose(channel(gtid), "auto", place)
    assert (chosen.how, chosen.refused) == (how, "")
    assert (chosen.threads.io, chosen.threads.applier) == (True, True)
    assert not place.lost or chosen.why == "gone"


def test_mariadb_says_that_it_drops_them_by_itself() -> None:
    assert "drops them" in choose(channel(MARIADB_GTID), "relay_logs", Place(drops=True)).why
    assert "drops them" not in choose(channel(), "relay_logs", Place(drops=True)).why


@pytest.mark.parametrize(
    ("requested", "gtid", "place", "word", "alternative"),
    [
        ("auto", FILE, Place(lost="gone"), "asked first", "source_login_user"),
        ("reposition", FILE, Place(), "asked first", "source_login_user"),
        ("relay_logs", FILE, Place(lost="gone", may_ask=True), "gone", "resume=reposition"),
        ("relay_logs", MYSQL_GTID, Place(lost="gone"), "gone", "resume=auto_position"),
        ("relay_logs", FILE, Place(recovers=True), "relay_log_recovery=ON", "resume=auto"),
        ("auto_position", FILE, ASK, "not by GTID", "resume=reposition"),
    ],
)
def test_refused(requested: str, gtid: t.Mapping[str, str], place: Place, word: str, alternative: str) -> None:
    chosen = choose(channel(gtid), requested, place)
    assert word in chosen.refused
    assert any(alternative in one for one in chosen.alternatives)


def test_reposition_leaves_a_channel_by_gtid_by_gtid() -> None:
    assert choose(channel(MARIADB_GTID), "reposition", Place()).how == "auto_position"
    assert choose(channel(), "reposition", ASK).how == "reposition"


def test_none_starts_nothing() -> None:
    chosen = choose(channel(), "none", Place(lost="gone"))
    assert (chosen.how, chosen.threads.io, chosen.threads.applier, chosen.refused) == ("none", False, False, "")


@pytest.mark.parametrize("io", [True, False])
def test_one_thread_alone_runs_alone_again(io: bool) -> None:
    chosen = choose(channel(io=io, applier=not io), "auto", Place())
    assert (chosen.how, chosen.threads.io, chosen.threads.applier) == ("relay_logs", io, not io)


@pytest.mark.parametrize("requested", REQUESTS)
def test_stopped_stays_stopped_whatever_is_asked_for(requested: str) -> None:
    for place in (Place(), ASK, Place(recovers=True)):
        chosen = choose(channel(io=False, applier=False), requested, place)
        assert (chosen.how, chosen.threads.io, chosen.threads.applier) == ("stopped", False, False)


def test_a_stopped_channel_can_be_started_one_day() -> None:
    healed = choose(channel(io=False, applier=False), "auto", Place(lost="gone", may_ask=True))
    assert (healed.how, healed.threads.io, healed.threads.applier) == ("reposition", False, False)
    assert choose(channel(MYSQL_GTID, io=False, applier=False), "auto", Place(lost="gone")).how == "auto_position"
    left = choose(channel(io=False, applier=False), "auto", Place(lost="gone"))
    assert left.how == "stopped"
    assert "mysql_replica_reposition" in left.why
    # One that never ran has no place that could be lost.
    assert choose(channel(io=False, applier=False, log=""), "auto", Place(lost="gone", may_ask=True)).how == "stopped"
