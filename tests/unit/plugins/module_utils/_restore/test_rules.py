# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What refuses a restore before anything is touched."""

from __future__ import annotations

import typing as t

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._connection import Identity
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._dialect import Dialect
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore import rules
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.origin import origin_of
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._server_facts import ServerFacts

SETTINGS = {"datadir": "/d", "innodb_page_size": "16384", "innodb_data_file_path": "ibdata1:12M:autoextend"}


def subject(
    *,
    family: str = "mysql",
    here: tuple[int, int, int] = (9, 7, 0),
    there: str = "9.7.0",
    settings: dict[str, str] | None = None,
    origin: dict[str, str] | None = None,
    channels: t.Sequence[dict[str, t.Any]] = (),
    **more: t.Any,
) -> rules.Subject:
    head = {
        "server": {"family": "mysql", "version": there, "server_id": 2, "settings": {**SETTINGS, **(origin or {})}},
        "places": [{"name": "datadir", "path": "/d"}],
        "channels": list(channels),
    }
    facts = ServerFacts({**SETTINGS, "server_id": "2", **(settings or {})})
    values: dict[str, t.Any] = {"clone": False, "moves": {}, **more}
    return rules.Subject(origin_of(head), facts, Identity(family, here, ""), channels=channels, **values)


def failed(asked: rules.Subject) -> list[str]:
    return [verdict.rule for verdict in rules.judge(asked) if not verdict.ok]


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        (subject(), []),
        (subject(family="mariadb", here=(11, 8, 2)), ["family"]),
        (subject(there="9.7.1"), []),
        (subject(there="9.8.0"), ["version"]),
        (subject(here=(8, 0, 36), there="8.0.40"), ["version"]),
        (subject(there="8.4.3"), ["version"]),
        (subject(there="8.4.3", allow_upgrade=True), []),
        (subject(there="5.7.44", allow_upgrade=True), ["version"]),
        (subject(settings={"innodb_page_size": "8192"}), ["innodb_page_size"]),
        (subject(settings={"lower_case_table_names": "1"}), ["lower_case_table_names"]),
        (subject(settings={"innodb_data_file_path": "ibdata1:50M"}), []),
        (subject(settings={"innodb_data_file_path": "ibdata1:12M;ibdata2:12M"}), ["innodb_data_file_path"]),
        (
            subject(here=(5, 6, 51), there="5.6.24", settings={"innodb_undo_tablespaces": "2"}),
            ["innodb_undo_tablespaces"],
        ),
        (subject(settings={"innodb_undo_tablespaces": "2"}), []),
        (subject(moves={"/a": "/b"}), ["innodb_directories"]),
        (subject(moves={"/a": "/b"}, settings={"innodb_directories": "/x;/b/"}), []),
        (subject(channels=[{"name": "", "gtid": {"auto_position": "1"}}]), ["gtid_mode"]),
        (subject(channels=[{"name": "", "gtid": {"auto_position": "1"}}], settings={"gtid_mode": "ON"}), []),
        (subject(settings={"server_id": "3"}), ["server_id"]),
        (subject(clone=True), ["server_id"]),
        (subject(clone=True, settings={"server_id": "3"}), []),
        (
            subject(clone=True, settings={"server_id": "1"}, channels=[{"name": "", "source_server_id": 1}]),
            ["server_id"],
        ),
        (subject(clone=True, settings={"server_id": "0"}), ["server_id"]),
    ],
)
def test_rules(asked: rules.Subject, rule: list[str]) -> None:
    assert failed(asked) == rule


def test_all_that_is_wrong_is_said_at_once() -> None:
    asked = subject(settings={"innodb_page_size": "8192", "lower_case_table_names": "1"}, there="8.4.0")
    with pytest.raises(RefusedError) as refused:
        rules.refuse(rules.judge(asked))
    assert refused.value.facts["rules"] == ["version", "innodb_page_size", "lower_case_table_names"]
    assert "allow_upgrade" in str(refused.value)


@pytest.mark.parametrize(
    ("family", "here", "there", "expected"),
    [
        ("mysql", (5, 6, 51), (5, 6, 24), "same"),
        ("mysql", (5, 7, 20), (5, 7, 44), "older"),
        ("mysql", (5, 7, 44), (5, 6, 24), "upgrade"),
        ("mysql", (8, 0, 40), (5, 6, 24), "too_far"),
        ("mysql", (8, 4, 0), (8, 4, 3), "same"),
        ("mysql", (9, 7, 0), (8, 4, 3), "upgrade"),
        ("mysql", (9, 7, 0), (9, 1, 0), "upgrade"),
        ("mysql", (9, 7, 0), (8, 0, 40), "too_far"),
        ("mysql", (8, 0, 40), (8, 4, 0), "older"),
        ("mariadb", (10, 11, 4), (10, 11, 19), "same"),
        ("mariadb", (11, 8, 2), (10, 6, 1), "upgrade"),
        ("mariadb", (10, 6, 1), (10, 11, 1), "older"),
    ],
)
def test_which_server_opens_files_of_which(
    family: str, here: tuple[int, int, int], there: tuple[int, int, int], expected: str
) -> None:
    assert Dialect(family, here).opens_files_of(there) == expected
