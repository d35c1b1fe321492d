# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role prints, and the commands in it."""

from __future__ import annotations

import typing as t

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.mysql_ops.replica_backup.plugins.filter.report_lines import report_lines, with_inventory

OUTCOME: dict[str, t.Any] = {
    "host": "db2",
    "backup_id": "20260101T030000Z",
    "server_restored": True,
    "backup_usable": True,
    "set_dir": "/b/db2/20260101T030000Z",
    "downtime_seconds": 1.1,
    "downtime_parts": {"stop": 0.2, "capture": 0.1, "start": 0.6, "between": 0.2},
    "shutdown_waited_for": ["stop 0.2 s", "10 dirty pages"],
    "archive_seconds": 9.5,
    "warnings": [],
}
STAGED = {
    "files": 137,
    "seconds": 0.4,
    "reused": 120,
    "patched": 3,
    "bytes_patched": 1258291,
    "copied": 14,
    "bytes_copied": 100663296,
}


def outcome(**values: t.Any) -> list[str]:
    given = {"outcome": OUTCOME, "chosen": {"capture": "cold", "why": "asked for"}, "touched": True}
    return report_lines({**given, **values}, "outcome")


def test_a_cold_backup() -> None:
    assert outcome() == [
        "backup 20260101T030000Z of db2",
        "server restored: yes",
        "capture: cold (asked for)",
        "backup usable: yes",
        "set: /b/db2/20260101T030000Z",
        "downtime: 1.1 s (stop 0.2, capture 0.1, start 0.6, between 0.2)",
        "shutdown: stop 0.2 s; 10 dirty pages",
        "archive: 9.5 s, within the downtime",
        "warnings: none",
    ]


def test_a_staged_backup_tells_what_was_copied_when() -> None:
    lines = outcome(chosen={"capture": "staged", "why": "room"}, clone=STAGED, precopy_seconds=12.3)
    assert (
        "clone: 137 names in 0.4 s; 120 files as they were copied before the stop, 3 patched (1.2 MiB),"
        " 14 copied anew (96.0 MiB); 12.3 s of copying before the stop" in lines
    )
    assert "archive: 9.5 s, from the clone, while the server served" in lines


def test_a_snapshot_tells_its_means() -> None:
    by = [{"roots": ["/var/lib/mysql", "/srv/log"], "by": "reflink"}, {"roots": ["/etc/mysql"], "by": "copy"}]
    clone = {"files": 6218, "seconds": 0.1}
    lines = outcome(chosen={"capture": "snapshot", "why": "asked for", "by": by}, clone=clone, precopy_seconds="")
    assert "clone: 6218 names in 0.1 s; /var/lib/mysql, /srv/log by reflink; /etc/mysql by copy" in lines


@pytest.mark.parametrize("no_answer", [True, False])
def test_a_server_that_was_not_stopped(no_answer: bool) -> None:
    nothing = {"host": "db2", "backup_id": "b", "server_restored": not no_answer, "downtime_seconds": ""}
    lines = outcome(outcome=nothing, chosen={}, touched="False", no_answer=no_answer)
    found = "NO, this run did not stop it; it does not answer: it is down, or not at this address"
    assert f"server restored: {found if no_answer else 'yes, this run did not stop it'}" in lines
    assert {"downtime: none", "archive: none", "set: none", "capture: none (not chosen yet)"} <= set(lines)


@pytest.mark.parametrize(
    ("capture", "predicted", "down"),
    [
        ("cold", {"seconds": 5.2, "source": "backup x"}, "5.2 s of at most 3600, by backup x"),
        (
            "cold",
            None,
            "no backup of this host has been measured with this capture; the data are few for 3600 s",
        ),
        ("staged", None, "no backup of this host has been measured with this capture"),
    ],
)
def test_a_plan(capture: str, predicted: dict[str, t.Any] | None, down: str) -> None:
    values = {
        "outcome": OUTCOME,
        "chosen": {"capture": capture, "why": "w"},
        "plan": {"steps": ["arm the dead-man", "stop"], "predicted_downtime": predicted},
        "list": {"count": 3, "bytes": 10},
        "budget": 3600,
    }
    lines = report_lines(values, "plan")
    after = "archive; start; catch up" if capture == "cold" else "clone; start; archive from the clone; catch up"
    assert lines[2:] == [
        f"would run: arm the dead-man; stop; {after}",
        "would archive: 3 files, 10 bytes",
        f"would be down for: {down}",
    ]


def test_a_recovery() -> None:
    told = {"explanation": ["It fired."], "brought": ["/b/1"], "left_on_the_host": ["/s/2"], "cleared": ["/b/3"]}
    assert report_lines({"recovery": told}, "recovery") == [
        "It fired.",
        "Brought to the controller: /b/1",
        "A complete set on this host: /s/2",
        "An unfinished transfer was removed: /b/3",
    ]


def test_another_kind_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="outcome, plan, recovery"):
        report_lines({}, "novel")


@pytest.mark.parametrize(
    ("sources", "options"), [([], ""), (["/i/a b.yml", "db2,"], "-i '/i/a b.yml' -i db2, "), (None, "")]
)
def test_a_printed_command_has_the_inventory_of_the_run(sources: list[str] | None, options: str) -> None:
    command = "mysql_ops.replica_backup.recover --limit db2"
    text = f"Next: mend it, then ansible-playbook {command}, or start it."
    expected = f"Next: mend it, then ansible-playbook {options}{command}, or start it."
    assert with_inventory(text, sources) == expected
    # What was said by a task is said again in the report.
    assert with_inventory(expected, sources) == expected
