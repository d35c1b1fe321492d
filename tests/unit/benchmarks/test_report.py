# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page on performance says what was measured, and no more."""

from __future__ import annotations

import json

import pytest

from ansible_collections.mysql_ops.replica_backup.tests.benchmarks import report
from ansible_collections.mysql_ops.replica_backup.tests.lab.scratch import CHECKOUT

_DOCS = CHECKOUT / "docs"


def test_the_tables_of_the_page_are_those_of_the_stored_results() -> None:
    page = (_DOCS / "performance.md").read_text(encoding="utf-8")
    results = json.loads((_DOCS / "performance" / "results.json").read_text(encoding="utf-8"))
    assert report.put_between_markers(page, report.markdown(results)) == page


def test_every_plot_that_the_page_shows_is_there() -> None:
    page = (_DOCS / "performance.md").read_text(encoding="utf-8")
    plots = sorted(path.name for path in (_DOCS / "performance").glob("*.svg"))
    assert plots
    for plot in plots:
        assert f"performance/{plot})" in page


@pytest.mark.parametrize(
    ("value", "limit", "stretch", "expected"),
    [(1.0, 1.3, 1.0, "stretch"), (1.3, 1.3, 1.0, "bar"), (1.31, 1.3, 1.0, "missed"), (9.0, None, None, "")],
)
def test_a_verdict_is_by_upper_limits(value: float, limit: float | None, stretch: float | None, expected: str) -> None:
    assert report.verdict(report.figure("it", value, report.RATIO, limit, stretch)) == expected


def test_a_document_with_a_bare_ratio_is_read_as_well() -> None:
    found = {"benchmark": "archive_throughput", "peer": "tar | zstd", "ratio": 1.2, "bar": 1.3}
    (one,) = report.measures_of(found)
    assert (one["what"], one["value"], report.verdict(one)) == ("archive throughput against tar | zstd", 1.2, "bar")
