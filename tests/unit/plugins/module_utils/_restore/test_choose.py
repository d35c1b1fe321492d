# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._errors import RefusedError
from ansible_collections.mysql_ops.replica_backup.plugins.module_utils._restore.choose import choose_set


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    for name in ("db1/20260101T000000Z", "db1/20260102T000000Z", "db2/20250101T000000Z"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "manifest.json").touch()
    # Younger, but not finished; and a stranger.
    (tmp_path / "db1" / "20260103T000000Z").mkdir()
    (tmp_path / "db1" / "20260104T000000Z.old").mkdir()
    (tmp_path / "db1" / "20260104T000000Z.old" / "manifest.json").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("latest", "db1/20260102T000000Z"),
        ("db2/latest", "db2/20250101T000000Z"),
        ("db1/20260101T000000Z", "db1/20260101T000000Z"),
        ("db1/20260101T000000Z/", "db1/20260101T000000Z"),
    ],
)
def test_by_name(sets: Path, wanted: str, expected: str) -> None:
    assert choose_set(wanted, str(sets), "db1") == str(sets / expected)


def test_a_path_is_a_path(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sets)
    assert choose_set("/mnt/db1/20260101T000000Z", str(sets), "db1") == "/mnt/db1/20260101T000000Z"
    assert choose_set("./db1/20260101T000000Z", "/other", "db1") == str(sets / "db1/20260101T000000Z")


@pytest.mark.parametrize("wanted", ["", " ", "db3/latest"])
def test_nothing_to_choose(sets: Path, wanted: str) -> None:
    with pytest.raises(RefusedError) as refused:
        choose_set(wanted, str(sets), "db1")
    assert refused.value.facts["rule"] == "set"


def test_names_need_a_directory_of_sets() -> None:
    with pytest.raises(RefusedError, match="where the sets are"):
        choose_set("latest", "", "db1")
