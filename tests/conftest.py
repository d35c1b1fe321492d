# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets the tests import the checkout under its collection name, and lets none look green by not running."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_PARENT = _ROOT / ".ansible" / "collections" / "ansible_collections" / "mysql_ops"
_PARENT.mkdir(parents=True, exist_ok=True)
if not (_PARENT / "replica_backup").exists():
    (_PARENT / "replica_backup").symlink_to(_ROOT)
sys.path.insert(0, str(_ROOT / ".ansible" / "collections"))

from ansible_collections.mysql_ops.replica_backup.tests.lab.faults import faults  # noqa: E402

__all__ = ["faults"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a skipped test as failed where nothing excuses it: root lacks no right, setup installs every program."""
    report = yield
    if report.skipped and os.geteuid() == 0:
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as failed for root: {report.longrepr}"
    return report
