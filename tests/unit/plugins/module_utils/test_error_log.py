# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The error log, followed through rotations."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.mysql_ops.replica_backup.plugins.module_utils import _error_log


def test_the_log_is_read_from_the_mark_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert _error_log.mark_end(str(log)) is None
    assert _error_log.mark_end(str(tmp_path)) is None
    log.write_text("old\n")
    mark = _error_log.mark_end(str(log))
    assert mark is not None
    assert _error_log.since(mark) == ""
    with log.open("a") as stream:
        stream.write("new\n")
    assert _error_log.since(mark) == "new\n"
    assert _error_log.since(mark, limit=2) == "w\n"

    log.rename(tmp_path / "log.1")
    assert _error_log.since(mark) == "new\n", "moved away and none made yet"
    log.write_text("newer\n")
    assert _error_log.since(mark) == "new\nnewer\n", "rotated"
    (tmp_path / "log.1").unlink()
    assert _error_log.since(mark) == "newer\n", "rotated and removed"


def test_a_truncated_log_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("a long line before\n")
    mark = _error_log.mark_end(str(log))
    assert mark is not None
    with log.open("r+") as stream:
        stream.truncate(0)
        stream.write("short\n")
    assert _error_log.since(mark) == "short\n"


@pytest.mark.parametrize(
    ("log_error", "expected"),
    [(None, None), ("", None), ("stderr", None), ("e.err", "/d/e.err"), ("./e.err", "/d/e.err"), ("/l/e", "/l/e")],
)
def test_where_the_log_is(log_error: str | None, expected: str | None) -> None:
    variables = {"datadir": "/d/", **({} if log_error is None else {"log_error": log_error})}
    assert _error_log.path_of(variables) == expected
