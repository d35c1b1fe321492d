# Copyright (c) 2026, mysql_ops contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets the tests import the checkout under its collection name."""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_PARENT = _ROOT / ".ansible" / "collections" / "ansible_collections" / "mysql_ops"
_PARENT.mkdir(parents=True, exist_ok=True)
if not (_PARENT / "replica_backup").exists():
    (_PARENT / "replica_backup").symlink_to(_ROOT)
sys.path.insert(0, str(_ROOT / ".ansible" / "collections"))
