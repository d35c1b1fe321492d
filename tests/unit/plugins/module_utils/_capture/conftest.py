# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for the tests of the captures."""

from __future__ import annotations

from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.archive_support import tree
from ansible_collections.mysql_ops.replica_backup.tests.unit.plugins.module_utils._archive.set_support import site

__all__ = ["site", "tree"]
